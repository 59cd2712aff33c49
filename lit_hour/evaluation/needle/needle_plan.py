"""Plan of a `lit-hour needle` test: a video, needles, lengths and depths (`NeedleTest`)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_hour.errors import InputError, QuestionError
from lit_hour.evaluation.needle.cells import parse_depths, parse_lengths
from lit_hour.inference.video_memory import check_input_files
from lit_hour.types import Question, QuestionFormat


@dataclass(frozen=True)
class Needle:
    """A picture or clip, with the question that it answers.

    Attributes:
        path: of the image or video.
        question: about it.
        answer: the true one; None to take the answer about the needle alone.
    """

    path: Path
    question: str
    answer: str | None


@dataclass(frozen=True)
class NeedleTest:
    """A video, needles, lengths and depths to test.

    Attributes:
        video: the user's video.
        needles: put into the video one at a time.
        options: of a multiple-choice question; empty for open-ended ones.
        lengths_seconds: of the videos with their needle; empty for that of the video.
        depths: shares of the video before the needle.
        needle_seconds: for which an image is shown; at most so much of a clip is used.
        num_repeats: haystacks of each length, from different parts of the video.
    """

    video: Path
    needles: tuple[Needle, ...]
    options: tuple[str, ...]
    lengths_seconds: tuple[float, ...]
    depths: tuple[float, ...]
    needle_seconds: float
    num_repeats: int

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> NeedleTest:
        """Check the arguments of `lit-hour needle`; this needs no model and takes milliseconds.

        Raises:
            InputError: an argument is invalid, or a file cannot be opened.
        """
        if arguments.seconds <= 0 or arguments.repeats < 1:
            raise InputError("--seconds must be above 0, and --repeats at least 1.")
        test = cls(
            arguments.video,
            build_needles(arguments.insert, arguments.question, arguments.answer, arguments.option),
            tuple(arguments.option),
            parse_lengths(arguments.lengths) if arguments.lengths is not None else (),
            parse_depths(arguments.depths),
            arguments.seconds,
            arguments.repeats,
        )
        if check_input_files([test.video]).video is None:
            raise InputError(f"{test.video} is not a video. Give the video to put a needle into.")
        return test

    def question(self, number: int, answer: str) -> Question:
        """Return the question about a needle, with a true answer."""
        form: QuestionFormat = "multiple_choice" if self.options else "open_ended"
        text = self.needles[number].question
        return Question(str(number), "", form, text, answer, self.options)


def build_needles(
    paths: Sequence[Path], questions: Sequence[str], answers: Sequence[str], options: Sequence[str]
) -> tuple[Needle, ...]:
    """Pair needles with questions and answers; all needles may share one question.

    Raises:
        QuestionError: the numbers do not match, a question is empty, or an answer is no option.
        InputError: a needle does not exist.
    """
    if len(questions) not in (1, len(paths)) or len(answers) not in (0, len(paths)):
        raise QuestionError(
            f"{len(paths)} needles have {len(questions)} questions and {len(answers)} answers. Give"
            " one question or one for each --insert, and no --answer or one for each --insert."
        )
    if not all(question.strip() for question in questions):
        raise QuestionError("The question is empty. Ask something that the needle answers.")
    if len(options) == 1 or len(set(options)) < len(options):
        raise QuestionError("--option needs at least two different texts, one for each --option.")
    if options and (len(answers) < len(paths) or not set(answers) <= set(options)):
        raise QuestionError(
            f"With --option each --insert needs an --answer among {', '.join(options)}."
        )
    for path in paths:
        if check_input_files([path]).is_memory:
            raise InputError(f"{path} is a saved memory. Give an image or a video as the needle.")
    repeated = questions if len(questions) == len(paths) else list(questions) * len(paths)
    given: Sequence[str | None] = answers or [None] * len(paths)
    return tuple(
        Needle(path, question, answer)
        for path, question, answer in zip(paths, repeated, given, strict=True)
    )
