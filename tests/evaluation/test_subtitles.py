"""Subtitles are read from .srt files, and those at the frames that are seen become part of Video-MME's prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.benchmarks.video_mme import add_subtitles
from lit_hour.evaluation.load_benchmark import load_benchmark
from lit_hour.evaluation.subtitles import Subtitle, read_subtitles, subtitles_at
from tests.evaluation import layouts

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
READ = (
    Subtitle(1.0, 2.5, "Hi guys,"),
    Subtitle(2.5, 4.0, "I show you two lines"),
    Subtitle(3601.0, 3602.0, "Bye"),
)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_srt_is_read_without_its_markup(line_end: str, tmp_path: Path) -> None:
    file = tmp_path / "a.srt"
    file.write_bytes(SRT.replace("\n", line_end).encode())
    assert read_subtitles(file) == READ


@pytest.mark.parametrize(
    "content", [b"1\nHello\n", b"\xff\xfe", b"1\n00:00 --> 00:01\nHello", None]
)
def test_damaged_subtitles_are_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "a.srt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(QuestionError, match=r"a\.srt"):
        read_subtitles(file)


@pytest.mark.parametrize(
    "moments, words",
    [
        ([], []),
        ([0.9], []),
        ([1.0], ["Hi guys,"]),
        ([2.5], ["I show you two lines"]),
        ([3.9, 1.2, 1.3], ["Hi guys,", "I show you two lines"]),
        ([4.0, 3602.0], []),
        (range(4000), ["Hi guys,", "I show you two lines", "Bye"]),
    ],
)
def test_only_what_is_shown_at_a_frame_counts(moments: list[float], words: list[str]) -> None:
    assert subtitles_at(READ, moments) == words


def test_video_mme_is_asked_with_subtitles_as_published(tmp_path: Path) -> None:
    item = load_benchmark(
        "video_mme", layouts.write_all(layouts.FILES["video_mme"], tmp_path), 0
    ).items[0]
    asked = add_subtitles(item, READ, [1.0, 3.0])
    assert (
        asked.prompt
        == f"This video's subtitles are listed below:\nHi guys,\nI show you two lines\n{item.prompt}"
    )
    assert asked.groups["subtitles"] == ("with",) and "subtitles" not in item.groups
    without = add_subtitles(item, (), [1.0, 3.0])
    assert without.prompt == item.prompt and without.groups["subtitles"] == ("none published",)
