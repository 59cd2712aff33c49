"""Time and memory of evidence for an answer about an hour of video, over HTTP.

    python -m tests.benchmarks.evidence_cost RUN CLIP [MINUTES]

CLIP is repeated to MINUTES, 60 by default. Questions alternate between without and with evidence,
each time until the stream ends. Memory is what PyTorch allocates on the CPU for one attribution.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from lit_hour.inference.answer import Answer
from lit_hour.inference.attribution import attribute_answer, attribution_bytes
from lit_hour.inference.predictor import VideoMemory, VideoPredictor
from tests.inference.helpers import peak_allocated_bytes
from tests.media.helpers import loop_video
from tests.server.helpers import RunningServer, run_server

NUM_ROUNDS = 5
QUESTION = "What happens after the {number}. time that something moves?"


def main(run: Path, clip: Path, minutes: float) -> None:
    """Print the seconds of an answer without and with evidence, and the memory of evidence."""
    predictor = VideoPredictor.from_run(run, device="cpu", overrides=["video.max_frames=36000"])
    torch.set_num_threads(predictor.config.training.num_threads)
    with TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        loop_video(clip, video, 60.0 * minutes)
        memory = predictor.encode_video(video)
        with run_server(predictor, allowed_dirs=[video.parent]) as server:
            opened = server.post("/v1/videos/open", video.as_uri()).json()["id"]
            while server.get(f"/v1/videos/{opened}").json()["status"] != "ready":
                time.sleep(1.0)
            print_seconds(server, opened)
    print_memory(predictor, memory)


def print_seconds(server: RunningServer, video: str) -> None:
    """Print the seconds until the last text and until the end of the stream."""
    print("| request | last text | end of the stream |\n|---|---|---|")
    found: dict[str, list[tuple[float, float]]] = {"without evidence": [], "with evidence": []}
    for number in range(1, NUM_ROUNDS + 1):
        for kind, seconds in found.items():
            seconds.append(time_answer(server, video, number, kind == "with evidence"))
    for kind, seconds in found.items():
        text, end = (median(column) for column in zip(*seconds, strict=True))
        print(f"| {kind} | {text:.2f} s | {end:.2f} s |")


def time_answer(
    server: RunningServer, video: str, number: int, evidence: bool
) -> tuple[float, float]:
    """Return the seconds until the last text of an answer, and until the end of its stream."""
    started = time.perf_counter()
    options = {"lit_hour": {"evidence": evidence}}
    for event in server.stream(video, QUESTION.format(number=number), **options):
        if event["choices"]:
            text_seconds = time.perf_counter() - started
    return text_seconds, time.perf_counter() - started


def print_memory(predictor: VideoPredictor, memory: VideoMemory) -> None:
    """Print the largest amount of memory that an attribution allocates, and the stated bound."""
    question = QUESTION.format(number=1)
    *_, answer = predictor.generate(memory, question)
    assert isinstance(answer, Answer)
    peak = peak_allocated_bytes(lambda: attribute_answer(predictor, memory, question, answer.text))
    num_answer_tokens = len(predictor.processor.answer_ids(answer.text))
    bound = attribution_bytes(predictor, memory, answer.num_prompt_tokens, num_answer_tokens)
    print(
        f"memory of one attribution: {peak / 1e6:.0f} MB, bound {bound / 1e6:.0f} MB; memory tokens"
        f" {answer.num_memory_tokens:,}, prompt tokens {answer.num_prompt_tokens:,}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 60.0)
