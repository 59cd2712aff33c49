"""Subtitles are read as they are found; invalid cues are left out within a budget."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lit_hour.errors import QuestionError
from lit_hour.media.subtitles import (
    cut_subtitles,
    find_subtitle_file,
    interleave_with_frames,
    parse_subtitles,
    read_subtitles,
    subtitles_at,
)
from lit_hour.types import Subtitle

SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
<font color="white" size=".72c">Hi guys,</font>

2
00:00:02,500 --> 00:00:04,000
<font color="white" size=".72c">I show you</font>
two lines

3
00:59:59,900 --> 01:00:01,000
<font color="white" size=".72c"></font>

01:00:01,000 --> 01:00:02,000
Bye
"""
SUBTITLES = (
    Subtitle(1.0, 2.5, "Hi guys,"),
    Subtitle(2.5, 4.0, "I show you two lines"),
    Subtitle(3601.0, 3602.0, "Bye"),
)
FIRST = "1\n00:00:01,000 --> 00:00:02,000\nOne"
TWO = (Subtitle(1, 2, "One"), Subtitle(3, 4, "Two"))


def test_srt_is_read_without_markup(tmp_path: Path) -> None:
    for line_end in ("\n", "\r\n"):
        (tmp_path / "a.srt").write_bytes(SRT.replace("\n", line_end).encode())
        assert read_subtitles(tmp_path / "a.srt") == SUBTITLES


def test_srt_as_other_programs_write_it(tmp_path: Path) -> None:
    for content in (
        f"{FIRST}\n\n2\n00:00:03,000 --> 00:00:04,000\nTwo\n",
        f"{FIRST}\n2\n00:00:03,000 --> 00:00:04,000\nTwo",  # no blank line between
        "1\n00:00:01,00 --> 00:00:02,00\nOne\n\n2\n00:00:03,00 --> 00:00:04,00\nTwo\n",
        "00:00:01.000 --> 00:00:02.000\n{\\an8}<i>One</i>\n\n00:00:03.000 --> 00:00:04.000\nTwo",
    ):
        (tmp_path / "a.srt").write_text(content)
        assert read_subtitles(tmp_path / "a.srt") == TWO, content
    (tmp_path / "a.srt").write_text(
        f"{FIRST}\n\nmore of one\n\n2\n00:00:03,000 --> 00:00:04,000\n42\n"
    )
    assert [subtitle.text for subtitle in read_subtitles(tmp_path / "a.srt")] == [
        "One more of one",  # a blank line inside
        "42",  # a number at the end is a text
    ]
    (tmp_path / "a.srt").write_text("\n")
    assert read_subtitles(tmp_path / "a.srt") == ()


def test_damaged_subtitles_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.srt"
    for content, message in (
        (None, "cannot be read"),
        (b"\xff\xd8\xff\xe0", "is a JPEG image"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"1\nHello\n", "no line of times such as 00:00:01,000 --> 00:00:02,500"),
        (b"1\n00:00 --> 00:01\nHello", "no line of times such as 00:00:01,000 --> 00:00:02,500"),
        (
            f"{FIRST}\n\n2\n00:00:3 --> 00:00:4\nTwo\n".encode(),
            "subtitle 1 is followed by a line of times other than .*'00:00:4 Two'",
        ),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(QuestionError, match=rf"a\.srt.*{message}"):
            read_subtitles(file)


def test_subtitles_without_pysubs2_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysubs2", None)
    (tmp_path / "a.srt").write_text(SRT)
    with pytest.raises(QuestionError, match=r"a\.srt: .*needs pysubs2.*pip install pysubs2"):
        read_subtitles(tmp_path / "a.srt")


def test_texts_stand_between_the_frames_at_their_middle() -> None:
    frames = [0.0, 4.0, 8.0, 12.0]
    for start, end, before in (
        (-3.0, 1.0, 0),  # begins before the video
        (0.0, 3.9, None),  # a frame at its very start is not inside
        (3.0, 4.5, 1),
        (3.5, 4.5, 2),  # its middle is the time of the second frame
        (4.0, 8.0, None),
        (3.9, 8.1, 2),
        (8.4, 8.5, 3),  # shorter than a second: from 7.95 to 8.95
        (8.6, 8.7, None),
        (11.0, 90.0, 4),
    ):
        expected: list[list[str]] = [[], [], [], [], []]
        if before is not None:
            expected[before].append("text")
        assert interleave_with_frames([Subtitle(start, end, "text")], frames) == expected
    disordered = [Subtitle(7, 9, "late"), Subtitle(3, 5, "early"), Subtitle(11, 13, "last")]
    assert interleave_with_frames(disordered, frames) == [[], [], [], ["late", "early"], ["last"]]
    assert interleave_with_frames(disordered, []) == [[]]


def test_subtitles_at_returns_the_texts_shown_at_a_moment() -> None:
    for moments, texts in (
        ([], []),
        ([0.9], []),
        ([1.0], ["Hi guys,"]),
        ([2.5], ["I show you two lines"]),
        ([3.9, 1.2, 1.3], ["Hi guys,", "I show you two lines"]),
        ([4.0, 3602.0], []),
        (range(4000), ["Hi guys,", "I show you two lines", "Bye"]),
    ):
        assert subtitles_at(SUBTITLES, moments) == texts, moments


VTT = """WEBVTT - made by hand
Kind: captions

NOTE
00:00.500 --> 00:00.900
not a cue

STYLE
::cue { color: white }

first
00:01.000 --> 00:02.000 align:start position:0%
<v Bob><c.yellow>One &lt;<00:00:01.500>half&gt;</c>

00:03.000 --> 00:04.000
Two
"""
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\i1}One\\Nhalf, or so
Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,not shown
Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\p1}m 0 0 l 1 1{\\p0}
Dialogue: 0,soon,0:00:02.00,Default,,0,0,0,,Bad
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,Two
"""


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.vtt", VTT, "One <half>"),
        ("a.srt", VTT, "One <half>"),  # the content counts
        ("a.ass", ASS, "One half, or so"),
    ],
)
def test_webvtt_and_ass(tmp_path: Path, name: str, content: str, first: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_subtitles(tmp_path / name, 1) == (Subtitle(1, 2, first), Subtitle(3, 4, "Two"))


def test_line_of_ass_with_an_invalid_time_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.ass").write_text(ASS)
    (reason,) = parse_subtitles(tmp_path / "a.ass").invalid
    assert "a.ass: line 13 has the times 'soon'" in reason
    with pytest.raises(QuestionError, match="line 13"):
        read_subtitles(tmp_path / "a.ass")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = f"{FIRST}\n\n2\n00:00:03,000 --> 00:00:04,000\nTwo\n".replace("One", "Été")
    (tmp_path / "a.srt").write_bytes(text.encode(encoding))
    assert read_subtitles(tmp_path / "a.srt") == (Subtitle(1, 2, "Été"), Subtitle(3, 4, "Two"))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Он открывает дверь, а потом окно."),
        ("gb18030", "他打开了门，然后打开了窗户。"),
        ("big5", "他打開了門，然後打開了窗戶。"),
        ("shift_jis", "彼はドアを開け、それから窓を開けた。"),
    ],
)
def test_text_of_another_encoding_is_refused(tmp_path: Path, encoding: str, text: str) -> None:
    file = tmp_path / "a.srt"
    file.write_bytes(f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n".encode(encoding))
    with pytest.raises(QuestionError, match=r"a\.srt: its text is neither UTF-8 nor"):
        read_subtitles(file)


def test_entities_and_style_tags_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(FIRST.replace("One", r"{\an8}<i>Salt</i> &amp; pepper"))
    assert read_subtitles(tmp_path / "a.srt") == (Subtitle(1, 2, "Salt & pepper"),)


def test_bad_cues_are_left_out_within_the_budget(tmp_path: Path) -> None:
    cues = [
        FIRST,
        "2\n00:00:3 --> 00:00:4\nBad",
        "3\n00:00:03,000 --> 00:00:04,000\nTwo",
        "4\n00:00:09,000 --> 00:00:08,000\nBackwards",
    ]
    (tmp_path / "a.srt").write_text("\n\n".join(cues))
    content = parse_subtitles(tmp_path / "a.srt")
    assert content.subtitles == TWO and len(content.invalid) == 2
    assert "subtitle 3 lasts from 9 s to 8 s" in content.invalid[1]
    assert read_subtitles(tmp_path / "a.srt", 2) == TWO
    with pytest.raises(QuestionError, match="line of times"):
        read_subtitles(tmp_path / "a.srt", 1)


def test_subtitles_are_found_beside_their_video(tmp_path: Path) -> None:
    video = tmp_path / "a [1].mp4"
    assert find_subtitle_file(video) is None
    for name in ("a [1].en.vtt", "a [1].b.mp4.srt", "a [1]2.srt"):
        (tmp_path / name).touch()
    assert find_subtitle_file(video) == tmp_path / "a [1].en.vtt"
    (tmp_path / "a [1].de.vtt").touch()
    assert find_subtitle_file(video) is None  # which language is not known
    (tmp_path / "a [1].ass").touch()
    assert find_subtitle_file(video) == tmp_path / "a [1].ass"


def test_part_of_the_subtitles_has_times_from_its_start() -> None:
    assert cut_subtitles(SUBTITLES, None) == SUBTITLES
    assert cut_subtitles(SUBTITLES, (2.0, 3.0)) == (
        Subtitle(0.0, 0.5, "Hi guys,"),
        Subtitle(0.5, 1.0, "I show you two lines"),
    )
