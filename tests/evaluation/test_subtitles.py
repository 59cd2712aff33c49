"""Subtitles are read from .srt files, and those at the sampled frames enter Video-MME's prompt."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.video_mme import add_subtitles
from lit_hour.evaluation.load_benchmark import load_benchmark
from lit_hour.evaluation.subtitles import Subtitle, read_subtitles, subtitles_at
from tests.evaluation.conftest import WriteFiles

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
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (b"1\nHello\n", "no line of times such as 00:00:01,000 --> 00:00:02,500"),
        (b"1\n00:00 --> 00:01\nHello", "no line of times such as 00:00:01,000 --> 00:00:02,500"),
        (
            f"{FIRST}\n\n2\n00:00:3 --> 00:00:4\nTwo\n".encode(),
            "subtitle 1 is followed by a line of times other than .*00:00:3 --> 00:00:4",
        ),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(QuestionError, match=rf"a\.srt: .*{message}"):
            read_subtitles(file)


def test_subtitles_without_pysubs2_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysubs2", None)
    with pytest.raises(QuestionError, match=r"a\.srt: .*needs pysubs2.*pip install pysubs2"):
        read_subtitles(tmp_path / "a.srt")


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


def test_video_mme_prompt_with_subtitles_is_the_published_one(write_files: WriteFiles) -> None:
    item = load_benchmark("video_mme", write_files("video_mme"), 0).items[0]
    subtitled = add_subtitles(item, SUBTITLES, [1.0, 3.0])
    assert subtitled.prompt == (
        "This video's subtitles are listed below:\nHi guys,\nI show you two lines\n" + item.prompt
    )
    assert subtitled.groups["subtitles"] == ("with",) and "subtitles" not in item.groups
    without = add_subtitles(item, (), [1.0, 3.0])
    assert without.prompt == item.prompt and without.groups["subtitles"] == ("none published",)
