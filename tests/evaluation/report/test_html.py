"""The pages are self-contained, show what the reports hold, and escape text from outside."""

from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lit_hour.evaluation.report.compare import compare
from lit_hour.evaluation.report.html import render_comparison, render_report
from lit_hour.evaluation.report.report import build_report
from tests.evaluation.factories import make_question_set, make_report, respond

UNCLOSED = {"meta", "br", "img"}


class PageParser(HTMLParser):
    """Parser that keeps texts and links, and checks that elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
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
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_the_page_shows_what_the_report_holds() -> None:
    report = make_report(
        {"0-0": "A", "0-1": "<script>alert(1)</script>", "1-0": "B"},
        {"1-1": "video_1.mp4 does not decode"},
    )
    page = PageParser(render_report(report, {"0-1": [(61.2, b"jpeg")]}))
    for text in (
        *(
            "Colors & shapes",
            "33.3%",
            "on 3 of 9 questions",
            "6 of the 9 questions were not evaluated",
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
            "chosen: nothing",
            "What color is <b>thing</b> 0-1?",
            "61 s",
        ),
    ):
        assert text in page.text, text
    assert page.sources == ["data:image/jpeg;base64," + base64.b64encode(b"jpeg").decode()]


def test_a_part_of_a_benchmark_has_a_warning() -> None:
    questions = make_question_set()
    full = build_report(questions, respond("ABABABAB"), {}, {})
    assert "The files hold" not in render_report(full)
    part = render_report(replace(full, num_published=2593))
    assert "The files hold 9 questions; the whole benchmark has 2593." in part


def test_a_report_without_responses_has_a_page() -> None:
    assert "no score on 0 of 9 questions" in PageParser(render_report(make_report({}))).text


def test_long_lists_are_truncated_with_a_note() -> None:
    report = make_report(respond("B" * 1000), num_videos=500)
    page = PageParser(render_report(report)).text
    assert (
        "500 in all; the first 200 are shown." in page and "299-0" not in page and "199-0" in page
    )


@pytest.mark.parametrize("letters", ["ABABABAB", "BABABABA"])
def test_the_comparison_shows_where_each_model_is_correct(letters: str) -> None:
    comparison = compare(make_report(respond("ABABABAB")), make_report(respond(letters)))
    text = PageParser(render_comparison(comparison, "tiny <1>", "tiny 2")).text
    assert (
        "Colors & shapes: tiny <1> and tiny 2" in text
        and "On the 8 questions that both answered" in text
    )
    expected = (
        "+0.0 points (+0.0 to +0.0), p = 1"
        if letters == "ABABABAB"
        else "+100.0 points (+100.0 to +100.0), p = 0.00781"
    )
    assert expected in text
    assert "Only tiny <1> is correct" in text
