"""What it costs to ask on, to grow and to keep; how long the answers take is measured in tests/benchmarks/speed/answering.py.

    python -m tests.benchmarks.video_memory RUN WORLD [CLIP]

RUN is a trained run, WORLD the folder of made-up videos that it validates on, whose first video is the longest. Seconds are
those of the processor's work on one thread, so that another program at work beside this one does not count.

1. The memory of the longest video, and what a hundred questions about it leave behind; the same about a real clip, if one is
   given, that is repeated for an hour.
2. A live video of ten hours, a minute at a time, by stored features that are noise.
3. Memories on disk in each precision: bytes for an hour, and the share of answers about all videos that stay as they were.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch

from lit_hour.data.questions.file import read_questions
from lit_hour.inference.predictor import Answer, VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.text.answer_matching import is_correct
from lit_hour.text.chat_template import format_question
from lit_hour.types import Features, Question
from tests.media.helpers import loop_video

PRECISIONS = ("exact", "bf16", "int8")
NUM_QUESTIONS, MANY_QUESTIONS = 10, 100
LIVE_HOURS, PIECE_FRAMES, NUM_PIECES = 10, 60, 20
BYTES_PER_PAGE = 4096


def main(run: Path, world: Path, clip: Path | None = None) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    session = VideoPredictor.from_run(
        run, device="cpu", overrides=[f"video.max_frames={3600 * LIVE_HOURS + 10_000}"]
    )
    subjects = [
        (world / "videos" / subject.files[0], subject.questions)
        for subject in read_questions(world / "questions.json")
    ]
    ask_on(session, *subjects[0])
    with TemporaryDirectory() as folder:
        if clip:
            loop_video(clip, Path(folder) / clip.name, 3600.0)
            ask_on(session, Path(folder) / clip.name, subjects[0][1])
        go_on(session)
        keep(session, subjects, Path(folder) / "memory")


def ask_on(session: VideoPredictor, video: Path, questions: tuple[Question, ...]) -> None:
    """What many questions leave behind."""
    asked = [format_question(question, session.config.text.mcq_format) for question in questions]
    memory = session.encode_video(video)
    for place in range(NUM_QUESTIONS):
        say(session, memory, asked[place % len(asked)])
    print(
        f"{video.name}: {memory.duration_seconds:.0f} s, {memory.num_frames} frames, {memory.num_bytes / 1e6:.1f} MB ready"
    )
    resident = resident_bytes()
    for place in range(MANY_QUESTIONS):
        say(session, memory, asked[place % len(asked)])
    print(
        f"{MANY_QUESTIONS} questions more: {(resident_bytes() - resident) / 1e6:+.1f} MB of {resident / 1e6:.0f} MB resident"
    )


def go_on(session: VideoPredictor) -> None:
    """Pieces of a minute at the beginning of a live video and after hours."""
    memory, cost = (
        session.encode_visual(noise(session, PIECE_FRAMES, 0), PIECE_FRAMES, "live"),
        [],
    )
    for start in range(PIECE_FRAMES, 3600 * LIVE_HOURS + PIECE_FRAMES * NUM_PIECES, PIECE_FRAMES):
        piece = noise(session, PIECE_FRAMES, start)
        started = time.process_time()
        memory = session.extend(memory, piece, start + PIECE_FRAMES)
        cost.append(1000 * (time.process_time() - started))
    early, late = cost[:NUM_PIECES], cost[-NUM_PIECES:]
    print(
        f"a minute more: {mean(early):.1f} ms from minute 1 on, {mean(late):.1f} ms from hour {LIVE_HOURS} on (means of 20)"
    )
    print(
        f"  mean of all {mean(cost):.1f} ms; most {max(cost):.0f} ms, when room was made for {memory.num_bytes / 1e6:.0f} MB"
    )


def keep(
    session: VideoPredictor, subjects: list[tuple[Path, tuple[Question, ...]]], file: Path
) -> None:
    """Size and answers of what comes back from disk."""
    sessions = {precision: with_precision(session, precision) for precision in PRECISIONS}
    said: dict[str, list[str]] = {precision: [] for precision in ("never saved", *PRECISIONS)}
    num_bytes, questions, seconds = (
        dict.fromkeys(PRECISIONS, 0.0),
        [q for _, asked in subjects for q in asked],
        0.0,
    )
    for video, asked in subjects:
        memory = session.encode_video(video)
        said["never saved"] += answers(session, memory, asked)
        seconds += memory.num_frames / session.config.video.fps
        for precision, other in sessions.items():
            save_memory(other, memory, file)
            num_bytes[precision] += file.stat().st_size - sum(
                len(jpeg) for _, jpeg in memory.thumbnails
            )
            said[precision] += answers(other, load_memory(other, file), asked)
    print(
        f"{len(questions)} questions about {len(subjects)} videos of {seconds / 3600:.2f} h in all:"
    )
    for precision, texts in said.items():
        same = mean(one == other for one, other in zip(texts, said["never saved"], strict=True))
        right = mean(
            is_correct(question, text) for question, text in zip(questions, texts, strict=True)
        )
        size = (
            f"{num_bytes[precision] * 3600 / seconds / 1e6:.2f} MB for an hour"
            if precision in num_bytes
            else ""
        )
        print(f"  {precision:12} {right:.1%} right, {same:.1%} of the answers as before  {size}")


def with_precision(session: VideoPredictor, precision: str) -> VideoPredictor:
    """The same session, which saves in another precision."""
    serving = replace(session.config.serving, memory_precision=precision)  # type: ignore[arg-type]
    return VideoPredictor(
        replace(session.config, serving=serving), session.model, session.processor
    )


def answers(
    session: VideoPredictor, memory: VideoMemory, questions: tuple[Question, ...]
) -> list[str]:
    """What is said to each question."""
    return [
        say(session, memory, format_question(each, session.config.text.mcq_format))
        for each in questions
    ]


def say(session: VideoPredictor, memory: VideoMemory, question: str) -> str:
    """The answer to one question."""
    *_, answer = session.generate(memory, question)
    assert isinstance(answer, Answer)
    return answer.text


def noise(session: VideoPredictor, num_frames: int, start: int) -> Features:
    """Stored features that come at second `start`, one frame a second."""
    vision = session.model.vision
    tokens = torch.randn(
        num_frames, vision.tokens_per_frame, vision.dim
    )  # (frames, tokens, vision_dim)
    return Features(tokens, torch.arange(start, start + num_frames).float())


def resident_bytes() -> int:
    """Of this process, at this moment."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * BYTES_PER_PAGE


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
