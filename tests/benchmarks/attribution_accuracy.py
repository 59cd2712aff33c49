"""Accuracy of attribution methods: how often the peak lies in the true evidence.

    python -m tests.benchmarks.attribution_accuracy SET RUN [RUN ...]

SET is a folder of `lit-hour synthesize`, such as 10_minutes of tests/benchmarks/memory_ablation.py.
Questions with one short evidence interval count. A hit is a peak frame within the interval.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from lit_hour.data.questions.file import read_questions
from lit_hour.inference.answer import Answer
from lit_hour.inference.attribution import attribute_answer
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from lit_hour.model.attention_maps import capture_attention, sum_per_frame
from lit_hour.text.answer_matching import is_correct
from lit_hour.types import Conversation, Message, Question

MAX_EVIDENCE_SHARE = 0.1  # of the video


def main(folder: Path, *runs: str) -> None:
    """Answer the questions with every run, and print the hit rate of every method."""
    hits: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    chance = []
    for run in runs:
        predictor = VideoPredictor.from_run(Path(run))
        for memory, question in needles(folder, predictor):
            *_, answer = predictor.generate(memory, question.question)
            assert isinstance(answer, Answer)
            right = is_correct(question, answer.text)
            ((start, end),) = question.evidence
            chance.append((end - start) / memory.duration_seconds)
            for name, second in peak_seconds(predictor, memory, question, answer.text).items():
                hits[name].append((start <= second < end, right))
    print(f"{len(chance)} questions; by chance {mean(chance):.1%}")
    print("| method | hits | hits where the answer is correct |\n|---|---|---|")
    for name, found in hits.items():
        if_correct = mean(hit for hit, right in found if right)
        print(f"| {name} | {mean(hit for hit, _ in found):.0%} | {if_correct:.0%} |")


def needles(folder: Path, predictor: VideoPredictor) -> Iterator[tuple[VideoMemory, Question]]:
    """Yield open-ended questions with one short evidence interval, and the video's memory."""
    for subject in read_questions(folder / "questions.json"):
        memory = predictor.encode_video(folder / "videos" / subject.files[0])
        for question in subject.questions:
            spans = [end - start for start, end in question.evidence]
            if (
                not question.options
                and len(spans) == 1
                and spans[0] < MAX_EVIDENCE_SHARE * memory.duration_seconds
            ):
                yield memory, question


def peak_seconds(
    predictor: VideoPredictor, memory: VideoMemory, question: Question, answer: str
) -> dict[str, float]:
    """Return the second at which each method peaks."""
    prompt = predictor.processor.build_prompt(question.question)
    empty_prompt = Conversation((prompt.messages[0], Message("user", "")))
    weights = attention_per_frame(predictor, memory, prompt)  # (frames,)
    baseline = attention_per_frame(predictor, memory, empty_prompt)  # (frames,)
    seconds = memory.repository.timestamps  # (frames,)
    curve = attribute_answer(predictor, memory, question.question, answer).curve
    return {
        "attention": float(seconds[weights.argmax()]),
        "attention minus that of an empty question": float(seconds[(weights - baseline).argmax()]),
        "attention over that of an empty question": float(seconds[(weights / baseline).argmax()]),
        "gradient of the answer": max(curve, key=lambda point: point[1])[0],
    }


@torch.inference_mode()
def attention_per_frame(
    predictor: VideoPredictor, memory: VideoMemory, conversation: Conversation
) -> Tensor:
    """Return the share of MemAug's attention on each frame `(frames,)`, averaged over blocks."""
    with capture_attention(predictor.model.memaug) as weights:
        predictor.build_prompts(memory, [conversation])
    return sum_per_frame(torch.stack(weights).mean(dim=0), memory.repository)  # (frames,)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
