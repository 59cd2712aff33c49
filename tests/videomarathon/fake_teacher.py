"""A fake teacher model that answers every request from the stories of synthetic videos.

It finds the story by the video's name in the request, so what becomes of its answers can be checked
for truth. Some of its questions are bad, and it records which filter must drop each of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from lit_hour.synthetic.captions import describe_clip, list_events, summarize_story
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.story import Story
from lit_hour.taxonomy import TASKS
from lit_hour.types import Question
from lit_hour.videomarathon.captions import CAPTION_FIELDS

PER_TASK = 4  # questions of each format; the last multiple-choice one gets a wrong answer
BLIND_QUESTION = "How many seconds are there in one minute"
FIRST_TASK = TASKS[0].key


class FakeTeacher:
    """Answers requests about videos with known stories.

    Attributes:
        bad_questions: by the text of each bad question, the filter that must drop it.
        true_answers: by the video and the text of the question.
    """

    def __init__(self, stories: dict[str, Story]) -> None:
        self.stories = stories
        self.bad_questions: dict[str, str] = {}
        self.true_answers: dict[tuple[str, str], str] = {}
        self._known = {
            name: generate_questions(story, name, per_task=PER_TASK)
            for name, story in stories.items()
        }
        for name, known in self._known.items():
            self.true_answers |= {(name, question.question): question.answer for question in known}

    def answer(self, body: dict[str, Any]) -> str:
        """Return the JSON of the answer to a request."""
        kind = body["response_format"]["json_schema"]["name"]
        text = "\n".join(
            part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text"
        )
        handlers: dict[str, Callable[[str, str], Any]] = {
            "clip_caption": self._caption,
            "events": lambda name, text: {
                "events": [vars(event) for event in list_events(self.stories[name])]
            },
            "summary": lambda name, text: {"summary": summarize_story(self.stories[name])},
            "questions": self._write_questions,
            "verdicts": self._verdicts,
        }
        if kind == "guess":
            return json.dumps({"letter": guess(text)})
        name = re.match(r"Video: (.*)\n", text)
        assert name is not None
        return json.dumps(handlers[kind](name[1], text))

    def _caption(self, name: str, text: str) -> dict[str, str]:
        start, end = (
            float(number) for number in re.search(r"\nPart: (\S+) s to (\S+) s\n", text).groups()
        )  # type: ignore[union-attr]
        caption = describe_clip(
            self.stories[name], start, min(end, self.stories[name].duration_seconds)
        )
        return {name: getattr(caption, name) for name in CAPTION_FIELDS}

    def _write_questions(self, name: str, text: str) -> dict[str, list[dict[str, Any]]]:
        task = re.search(r"\nTask: (\S+)\n", text)[1]  # type: ignore[index]
        of_task = [question for question in self._known[name] if question.task == task]
        choices = [question for question in of_task if question.options]
        has_lie = len(choices) == PER_TASK and len(choices[-1].options) == 4
        lie = choices[-1] if has_lie else None
        written: dict[str, list[dict[str, Any]]] = {"open_ended": [], "multiple_choice": []}
        for question in of_task:
            if question is lie:
                wrong = [option for option in question.options if option != question.answer]
                written["multiple_choice"].append(
                    draft(question, wrong[0], [question.answer, *wrong[1:]])
                )
            elif not question.options or len(question.options) == 4:
                wrong = [option for option in question.options if option != question.answer]
                written[question.format].append(draft(question, question.answer, wrong))
        if task == FIRST_TASK:
            written["multiple_choice"] += self._bad_questions(name)
        return written

    def _bad_questions(self, name: str) -> list[dict[str, Any]]:
        """Return a bad question for each filter that needs only the text, and for guessing."""
        end = self.stories[name].duration_seconds
        bad = {
            "wrong_format": (
                "Who comes in after the end?",
                "the grey dot",
                ["the grey bar", "the grey arc", "the grey arch"],
            ),
            "repeated_options": (
                "Who is grey from the first?",
                "the dot",
                ["the bar", "a dot.", "the arc"],
            ),
            "given_away_by_length": (
                "What is done at last?",
                "it turns round and goes away slowly",
                ["spins", "grows", "blinks"],
            ),
            "given_away_by_wording": (
                "Who pushes the grey cube?",
                "friend of the cube",
                ["friend of the bar", "friend of the arc", "friend of the dot"],
            ),
            "answered_blindly": (BLIND_QUESTION, "sixty", ["forty", "fifty", "thirty"]),
            "near_duplicate": (BLIND_QUESTION.upper(), "Sixty", ["forty", "fifty", "seventy"]),
        }
        drafts = []
        for filter_name, (question, answer, wrong) in bad.items():
            self.bad_questions[question] = filter_name
            self.true_answers[name, question] = answer
            seconds = [end + 50, end + 60] if filter_name == "wrong_format" else [0.0, 5.0]
            evidence = [{"start_seconds": seconds[0], "end_seconds": seconds[1]}]
            drafts.append(
                {
                    "question": question,
                    "answer": answer,
                    "wrong_options": wrong,
                    "evidence": evidence,
                }
            )
        return drafts

    def _verdicts(self, name: str, text: str) -> dict[str, Any]:
        listed = re.findall(r"^(\d+)\. Question: (.*)\n   Answer: (.*)$", text, flags=re.MULTILINE)
        return {
            "verdicts": [
                {
                    "number": int(number),
                    "verdict": "supported"
                    if self.is_true(name, question, answer)
                    else "contradicted",
                }
                for number, question, answer in listed
            ]
        }

    def is_true(self, name: str, question: str, answer: str) -> bool:
        """Return whether an answer is right according to the story."""
        return self.true_answers[name, question] == answer


def draft(question: Question, answer: str, wrong: list[str]) -> dict[str, Any]:
    """Return a question as the teacher writes it."""
    evidence = [{"start_seconds": start, "end_seconds": end} for start, end in question.evidence]
    written = {"question": question.question, "answer": answer, "evidence": evidence}
    return {**written, "wrong_options": wrong} if question.options else written


def guess(text: str) -> str:
    """Return a pseudo-random letter, but the right one for `BLIND_QUESTION`."""
    letters = re.findall(r"^([A-Z])\. (.*)$", text, flags=re.MULTILINE)
    if BLIND_QUESTION.casefold() in text.casefold():
        return next(letter for letter, option in letters if option.casefold() == "sixty")
    return letters[sha256(text.encode()).digest()[0] % len(letters)][0]
