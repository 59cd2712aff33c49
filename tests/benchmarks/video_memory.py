"""Memory and time of questions, of extending a video, and of saving its memory.

    python -m tests.benchmarks.video_memory RUN SET [CLIP]

RUN is a trained run, SET the folder of its validation videos, the first of which is the longest.
Seconds are CPU time on one thread. The time of the answers is measured in speed/answering.py.

1. The memory of the longest video, and the growth of the process over a hundred questions; the same
   for a real clip repeated for an hour, if CLIP is given.
2. A live video of ten hours, extended by a minute of noise features at a time.
3. Saved memories in each precision: bytes per hour, accuracy, and share of unchanged answers.
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
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
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


def main(run: Path, folder: Path, clip: Path | None = None) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    max_frames = f"video.max_frames={3600 * LIVE_HOURS + 10_000}"
    predictor = VideoPredictor.from_run(run, device="cpu", overrides=[max_frames])
    videos = [
        (folder / "videos" / subject.files[0], subject.questions)
        for subject in read_questions(folder / "questions.json")
    ]
    measure_questions(predictor, *videos[0])
    with TemporaryDirectory() as temporary:
        if clip:
            hour = Path(temporary) / clip.name
            loop_video(clip, hour, 3600.0)
            measure_questions(predictor, hour, videos[0][1])
        measure_extension(predictor)
        measure_saving(predictor, videos, Path(temporary) / "memory")


def measure_questions(
    predictor: VideoPredictor, video: Path, questions: tuple[Question, ...]
) -> None:
    """Measure the size of a memory, and the growth of the process over many questions."""
    mcq_format = predictor.config.text.mcq_format
    prompts = [format_question(question, mcq_format) for question in questions]
    memory = predictor.encode_video(video)
    for index in range(NUM_QUESTIONS):
        answer_text(predictor, memory, prompts[index % len(prompts)])
    print(
        f"{video.name}: {memory.duration_seconds:.0f} s, {memory.num_frames} frames,"
        f" {memory.num_bytes / 1e6:.1f} MB"
    )
    resident = resident_bytes()
    for index in range(MANY_QUESTIONS):
        answer_text(predictor, memory, prompts[index % len(prompts)])
    growth = resident_bytes() - resident
    print(
        f"{MANY_QUESTIONS} more questions: {growth / 1e6:+.1f} MB"
        f" of {resident / 1e6:.0f} MB resident"
    )


def measure_extension(predictor: VideoPredictor) -> None:
    """Measure the time to add a minute, at the beginning of a live video and after hours."""
    first = noise_features(predictor, PIECE_FRAMES, 0)
    memory, milliseconds = predictor.encode_visual(first, PIECE_FRAMES, "live"), []
    for start in range(PIECE_FRAMES, 3600 * LIVE_HOURS + PIECE_FRAMES * NUM_PIECES, PIECE_FRAMES):
        piece = noise_features(predictor, PIECE_FRAMES, start)
        started = time.process_time()
        memory = predictor.extend(memory, piece, start + PIECE_FRAMES)
        milliseconds.append(1000 * (time.process_time() - started))
    early, late = milliseconds[:NUM_PIECES], milliseconds[-NUM_PIECES:]
    print(
        f"one more minute: {mean(early):.1f} ms from minute 1 on, {mean(late):.1f} ms from hour"
        f" {LIVE_HOURS} on (means of {NUM_PIECES})"
    )
    print(
        f"  mean of all {mean(milliseconds):.1f} ms; maximum {max(milliseconds):.0f} ms, on"
        f" reallocation; {memory.num_bytes / 1e6:.0f} MB in the end"
    )


def measure_saving(
    predictor: VideoPredictor, videos: list[tuple[Path, tuple[Question, ...]]], file: Path
) -> None:
    """Measure the size of saved memories, and the answers from loaded ones."""
    predictors = {precision: with_precision(predictor, precision) for precision in PRECISIONS}
    texts: dict[str, list[str]] = {name: [] for name in ("never saved", *PRECISIONS)}
    num_bytes, seconds = dict.fromkeys(PRECISIONS, 0.0), 0.0
    all_questions = [question for _, questions in videos for question in questions]
    for video, questions in videos:
        memory = predictor.encode_video(video)
        texts["never saved"] += answer_texts(predictor, memory, questions)
        seconds += memory.num_frames / predictor.config.video.fps
        thumbnail_bytes = sum(len(jpeg) for _, jpeg in memory.thumbnails)
        for precision, other in predictors.items():
            save_memory(other, memory, file)
            num_bytes[precision] += file.stat().st_size - thumbnail_bytes
            texts[precision] += answer_texts(other, load_memory(other, file), questions)
    print(f"{len(all_questions)} questions about {len(videos)} videos, {seconds / 3600:.2f} h")
    for name, found in texts.items():
        same = mean(one == other for one, other in zip(found, texts["never saved"], strict=True))
        correct = mean(
            is_correct(question, text) for question, text in zip(all_questions, found, strict=True)
        )
        size = f"{num_bytes[name] * 3600 / seconds / 1e6:.2f} MB/h" if name in num_bytes else ""
        print(f"  {name:12} {correct:.1%} correct, {same:.1%} of the answers unchanged  {size}")


def with_precision(predictor: VideoPredictor, precision: str) -> VideoPredictor:
    """Return a predictor with the same model that saves memories in another precision."""
    serving = replace(predictor.config.serving, memory_precision=precision)  # type: ignore[arg-type]
    config = replace(predictor.config, serving=serving)
    return VideoPredictor(config, predictor.model, predictor.processor)


def answer_texts(
    predictor: VideoPredictor, memory: VideoMemory, questions: tuple[Question, ...]
) -> list[str]:
    """Return the answer to each question."""
    mcq_format = predictor.config.text.mcq_format
    return [
        answer_text(predictor, memory, format_question(question, mcq_format))
        for question in questions
    ]


def answer_text(predictor: VideoPredictor, memory: VideoMemory, prompt: str) -> str:
    """Return the answer to one question."""
    *_, answer = predictor.generate(memory, prompt)
    assert isinstance(answer, Answer)
    return answer.text


def noise_features(predictor: VideoPredictor, num_frames: int, start: int) -> Features:
    """Return features of noise that start at second `start`, one frame per second."""
    vision = predictor.model.vision
    shape = num_frames, vision.tokens_per_frame, vision.dim
    return Features(torch.randn(shape), torch.arange(start, start + num_frames).float())


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * BYTES_PER_PAGE


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
