"""The pages say what the reports hold, need nothing but themselves, and escape what strangers wrote."""

from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lit_hour.evaluation.report.compare import compare
from lit_hour.evaluation.report.html import render_comparison, render_report
from lit_hour.evaluation.report.report import build_report
from tests.evaluation.asked import make_questions, report_on, say

UNCLOSED = {"meta", "br", "img"}


class Reader(HTMLParser):
    """Reads a page, checks that its elements are closed in order, and keeps its words and links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in UNCLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_says_what_the_report_holds() -> None:
    report = report_on(
        {"0-0": "A", "0-1": "<script>alert(1)</script>", "1-0": "B"},
        {"1-1": "video_1.mp4 does not decode"},
    )
    page = Reader(render_report(report, {"0-1": [(61.2, b"jpeg")]}))
    for words in (
        *(
            "Colours & shapes",
            "33.3%",
            "on 3 of 9 questions",
            "6 of the 9 questions were not asked",
        ),
        *(
            "By length",
            "By ability",
            "decoding.temperature",
            "video_1.mp4 does not decode",
            "column 'answer' is missing",
        ),
        *(
            "2 in all",
            "<script>alert(1)</script>",
            "understood: nothing",
            "What colour is <b>thing</b> 0-1?",
            "61 s",
        ),
    ):
        assert words in page.text, words
    assert page.sources == ["data:image/jpeg;base64," + base64.b64encode(b"jpeg").decode()]


def test_a_whole_benchmark_has_no_warning_and_a_part_of_it_has() -> None:
    questions = make_questions()
    whole = build_report(questions, say("ABABABAB"), {}, {})
    assert "The files hold" not in render_report(whole)
    part = render_report(replace(whole, num_published=2593))
    assert "The files hold 9 questions; the whole benchmark has 2593." in part


def test_a_report_without_any_answer_has_a_page() -> None:
    assert "no score on 0 of 9 questions" in Reader(render_report(report_on({}))).text


def test_long_lists_are_cut_and_say_so() -> None:
    report = report_on(say("B" * 1000), num_videos=500)
    page = Reader(render_report(report)).text
    assert (
        "500 in all; the first 200 are shown." in page and "299-0" not in page and "199-0" in page
    )


@pytest.mark.parametrize("letters", ["ABABABAB", "BABABABA"])
def test_the_comparison_says_who_is_right_where(letters: str) -> None:
    comparison = compare(report_on(say("ABABABAB")), report_on(say(letters)))
    text = Reader(render_comparison(comparison, "tiny <1>", "tiny 2")).text
    assert (
        "Colours & shapes: tiny <1> and tiny 2" in text
        and "On the 8 questions that both were asked" in text
    )
    expected = (
        "+0.0 points (+0.0 to +0.0), p = 1"
        if letters == "ABABABAB"
        else "+100.0 points (+100.0 to +100.0), p = 0.00781"
    )
    assert expected in text
    assert "Only tiny <1> is right" in text
