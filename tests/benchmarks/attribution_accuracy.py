"""How often the true moment is found, by several witnesses: python -m tests.benchmarks.attribution_accuracy SET RUN [RUN ...]

SET is a folder of `python -m lit_hour synthesize`, such as the 10_minutes that tests/benchmarks/memory_ablation.py makes; questions with
one moment count. A hit is a peak frame within the true interval.
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
from lit_hour.inference.attribution import attribute_answer
from lit_hour.inference.predictor import Answer, VideoMemory, VideoPredictor
from lit_hour.model.attention_maps import capture_attention, sum_per_frame
from lit_hour.text.answer_matching import is_correct
from lit_hour.types import Conversation, Message, Question

MOST_MOMENT = 0.1  # of the video; what is seen for longer is no needle


def main(folder: Path, *runs: str) -> None:
    """Ask each run about each video, and print how often each witness hits."""
    hits: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    chance = []
    for run in runs:
        session = VideoPredictor.from_run(Path(run))
        for memory, question in needles(folder, session):
            *_, answer = session.generate(memory, question.question)
            assert isinstance(answer, Answer)
            right = is_correct(question, answer.text)
            ((start, end),) = question.evidence
            chance.append((end - start) / memory.duration_seconds)
            for name, second in witnesses(session, memory, question, answer.text).items():
                hits[name].append((start <= second < end, right))
    print(f"{len(chance)} questions; by chance {mean(chance):.1%}")
    print("| witness | hits | where the answer was right |\n|---|---|---|")
    for name, found in hits.items():
        print(
            f"| {name} | {mean(hit for hit, _ in found):.0%} | {mean(hit for hit, right in found if right):.0%} |"
        )


def needles(folder: Path, session: VideoPredictor) -> Iterator[tuple[VideoMemory, Question]]:
    """Open-ended questions about one short moment, with the memory of the video."""
    for subject in read_questions(folder / "questions.json"):
        memory = session.encode_video(folder / "videos" / subject.files[0])
        for question in subject.questions:
            spans = [end - start for start, end in question.evidence]
            if (
                not question.options
                and len(spans) == 1
                and spans[0] < MOST_MOMENT * memory.duration_seconds
            ):
                yield memory, question


def witnesses(
    session: VideoPredictor, memory: VideoMemory, question: Question, answer: str
) -> dict[str, float]:
    """The second at which each witness peaks."""
    asked = session.processor.build_prompt(question.question)
    nothing_asked = Conversation((asked.messages[0], Message("user", "")))
    look, idle_look = (
        attention(session, memory, asked),
        attention(session, memory, nothing_asked),
    )  # (frames,)
    seconds = memory.repository.timestamps  # (frames,)
    curve = attribute_answer(session, memory, question.question, answer).curve
    return {
        "attention": float(seconds[look.argmax()]),
        "attention, less that of an empty question": float(seconds[(look - idle_look).argmax()]),
        "attention, divided by that of an empty question": float(
            seconds[(look / idle_look).argmax()]
        ),
        "gradient of the answer": max(curve, key=lambda point: point[1])[0],
    }


@torch.inference_mode()
def attention(session: VideoPredictor, memory: VideoMemory, conversation: Conversation) -> Tensor:
    """The share of MemAug's attention that each frame gets, the mean over its blocks: `(frames,)`."""
    with capture_attention(session.model.memaug) as looks:
        session.build_llm_inputs(memory, [conversation])
    return sum_per_frame(torch.stack(looks).mean(dim=0), memory.repository)  # (frames,)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
