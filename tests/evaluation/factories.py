"""Question sets of a small benchmark, and reports on responses to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lit_hour.evaluation.item import InvalidRecord, Item, QuestionSet
from lit_hour.evaluation.report.report import Report, build_report

COLORS = {"A": "red", "B": "blue"}
PROTOCOL = {"frames": 64, "decoding": {"temperature": 0}, "versions": {"lit_hour": "0.1.0"}}


def make_question_set(num_videos: int = 4, num_judged: int = 0) -> QuestionSet:
    """Two questions about each video, with the answers A and B; then some that need a judge."""
    items = [
        Item(
            id=f"{video}-{number}",
            videos=(f"video_{video}.mp4",),
            question=f"What color is <b>thing</b> {video}-{number}?",
            prompt=f"What color is thing {video}-{number}?\nA. red\nB. blue",
            options=COLORS,
            answer="AB"[number],
            rule="choice",
            groups={
                "length": (str(60 * 10 ** (video % 2)),),
                "ability": ("seeing", "counting")[: number + 1],
            },
            location=f"questions.json: record {video}-{number}",
        )
        for video in range(num_videos)
        for number in range(2)
    ]
    judged = [
        replace(items[0], id=f"story-{n}", rule="needs_judge", options={}, answer="A story")
        for n in range(num_judged)
    ]
    refused = (InvalidRecord("questions.json: record 9", "column 'answer' is missing"),)
    return QuestionSet(
        "colors",
        "Colors & shapes",
        (*items, *judged),
        refused,
        num_videos * 2 + num_judged + 1,
        {"q.json": "ab"},
    )


def make_report(
    responses: Mapping[str, str], skipped: Mapping[str, str] | None = None, num_videos: int = 4
) -> Report:
    """A report on responses to the first questions."""
    return build_report(make_question_set(num_videos), responses, skipped or {}, PROTOCOL)


def respond(letters: Sequence[str]) -> dict[str, str]:
    """Responses to all questions, in order."""
    ids = [item.id for item in make_question_set(len(letters) // 2).items]
    return dict(zip(ids, letters, strict=True))
