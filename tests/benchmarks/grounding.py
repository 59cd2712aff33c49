"""Stated intervals, the attribution's peak and the best constant interval, by the same metric.

    python -m tests.benchmarks.grounding SET RUN [RUN ...]

SET is a folder of `lit-hour synthesize`, without grounding questions. Of each of its questions with
short evidence the run is asked when the video shows the answer (`grounding_question`), and the
question itself, whose answer is attributed to moments of the video.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean

from lit_hour.data.questions.file import read_questions
from lit_hour.evaluation.scoring import bootstrap_interval
from lit_hour.inference.answer import Answer
from lit_hour.inference.attribution import attribute_answer
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.text.grounding import grounding_question
from lit_hour.text.time_intervals import (
    SCORE_NAMES,
    Interval,
    best_iou,
    grounding_scores,
    parse_intervals,
)
from lit_hour.types import Question

GRID = 40  # ends of constant intervals, in parts of the video
STATED = "stated interval"
OF_ANSWER = "attribution's peak, of the answer to the question"
OF_INTERVAL = "attribution's peak, of the stated interval"
CONSTANT = "best constant interval, chosen on these questions"

Scores = dict[str, list[dict[str, float]]]  # method -> of each question


def main(folder: Path, *runs: str) -> None:
    """Print the scores of every method, with bootstrap intervals over videos."""
    scores: Scores = defaultdict(list)
    videos: list[str] = []
    truths: list[tuple[float, Sequence[Interval]]] = []
    for run in runs:
        predictor = VideoPredictor.from_run(Path(run))
        for memory, question in grounded_questions(folder, predictor):
            for method, score in score_side_by_side(predictor, memory, question).items():
                scores[method].append(score)
            videos.append(f"{run} {memory.source}")
            truths.append((memory.duration_seconds, question.evidence))
    share = best_constant(truths)
    for duration_seconds, evidence in truths:
        constant = (share[0] * duration_seconds, share[1] * duration_seconds)
        scores[CONSTANT].append(grounding_scores([constant], evidence))
    print(f"{len(truths)} questions about {len(set(videos))} videos")
    print(format_table(scores, videos))


def grounded_questions(
    folder: Path, predictor: VideoPredictor
) -> Iterator[tuple[VideoMemory, Question]]:
    """Yield open-ended questions whose evidence can be asked for, and the video's memory."""
    for subject in read_questions(folder / "questions.json"):
        memory = predictor.encode_video(folder / "videos" / subject.files[0])
        for question in subject.questions:
            if not question.options and grounding_question(question, memory.duration_seconds):
                yield memory, question


def score_side_by_side(
    predictor: VideoPredictor, memory: VideoMemory, question: Question
) -> dict[str, dict[str, float]]:
    """Score the interval that a run states, and the peaks of the attribution of its two answers.

    Args:
        predictor: of the run.
        memory: of the video.
        question: with evidence that can be asked for.

    Returns:
        By method: the scores `SCORE_NAMES`, in [0, 1].
    """
    grounding = grounding_question(question, memory.duration_seconds)
    assert grounding is not None
    answers = {}
    for method, text in ((OF_ANSWER, question.question), (OF_INTERVAL, grounding.question)):
        *_, answer = predictor.generate(memory, text)
        assert isinstance(answer, Answer)
        answers[method] = text, answer.text
    stated = parse_intervals(answers[OF_INTERVAL][1], memory.duration_seconds)
    scores = {STATED: grounding_scores(stated, question.evidence)}
    for method, (text, answer_text) in answers.items():
        peaks = attribute_answer(predictor, memory, text, answer_text).intervals
        scores[method] = grounding_scores(peaks, question.evidence)
    return scores


def best_constant(truths: Sequence[tuple[float, Sequence[Interval]]]) -> Interval:
    """Return the interval, in shares of the video, with the highest mean IoU on all questions.

    Args:
        truths: duration of the video in seconds, and the true intervals of each question.
    """

    def score(share: Interval) -> float:
        return mean(
            best_iou([(share[0] * seconds, share[1] * seconds)], true) for seconds, true in truths
        )

    ends = [number / GRID for number in range(GRID + 1)]
    return max(combinations(ends, 2), key=score)


def format_table(scores: Scores, videos: Sequence[str]) -> str:
    """Return the means in percent, with the 95% interval of mIoU over videos."""
    lines = [f"| method | {' | '.join(SCORE_NAMES)} |", "|---" * (1 + len(SCORE_NAMES)) + "|"]
    for method, found in scores.items():
        cells = [f"{mean(one[name] for one in found):.1%}" for name in SCORE_NAMES]
        ends = bootstrap_interval([one["mIoU"] for one in found], videos)
        if ends is not None:
            cells[0] += f" ({ends[0]:.1%} to {ends[1]:.1%})"
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
