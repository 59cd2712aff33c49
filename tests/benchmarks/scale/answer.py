"""Measured process: a question about a stored video, and the next one.

    python -m tests.benchmarks.scale.answer JOB

The run is opened in bf16, the features are encoded to a memory, and a question is answered. The
memory is saved and loaded again, and answers the next question. JOB is a `Job` as JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path
from zlib import crc32

import torch

from lit_hour.data.datasets import load_visual
from lit_hour.data.sources import open_sources
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.types import Features
from tests.benchmarks.scale.measured import Parts
from tests.benchmarks.scale.setup import SOURCE, Job

QUESTIONS = (
    "What does the cook do with the onions before the guests arrive?",
    "Who opens the door after the guests have left?",
)
# the published forgetting draws at random; the frames of the video are those that are stored
SETTINGS = ("serving.precision=bf16", "serving.memory_precision=exact")


def main(job: Job) -> None:
    """Measure all parts."""
    parts = Parts()
    with parts.measure("open the run") as found:
        predictor = VideoPredictor.from_run(job.run, device="cpu", overrides=SETTINGS)
        weights = predictor.model.state_dict().values()
        storages = {one.untyped_storage().data_ptr(): one.nbytes for one in weights}
        found["value"] = sum(storages.values())
    parts.follow("block", list(predictor.model.memaug.blocks))
    parts.follow("layer", predictor.model.llm.layers)
    with parts.measure("features to memory") as found:
        shards = open_sources(job.config())[SOURCE]
        config = job.config()
        video = load_visual(shards.read(shards.entries[0]), config.video, config.image)
        assert isinstance(video, Features) and len(video) == job.num_frames
        memory = predictor.encode_visual(video, float(job.num_frames), "noise")
        del video
        found["value"] = memory.num_bytes
    answer(predictor, memory, "first question", QUESTIONS[0], job.num_new_tokens, parts)
    with parts.measure("save the memory") as found:
        file = Path(job.folder) / "memory.safetensors"
        save_memory(predictor, memory, file)
        found["value"] = file.stat().st_size
    expected = checksum(memory)
    del memory
    with parts.measure("load the memory"):
        memory = load_memory(predictor, file)
    if checksum(memory) != expected:
        raise ValueError("the loaded memory differs from the saved one")
    file.unlink()
    answer(predictor, memory, "next question", QUESTIONS[1], job.num_new_tokens, parts)


@torch.inference_mode()
def answer(
    predictor: VideoPredictor,
    memory: VideoMemory,
    name: str,
    question: str,
    num_new_tokens: int,
    parts: Parts,
) -> None:
    """Answer a question as `VideoPredictor.generate` does, measuring each part of it."""
    with parts.measure(f"{name}: MemAug") as found:
        prompt = predictor.build_prompts(memory, [predictor.processor.build_prompt(question)])
        found["value"] = prompt.embeddings.shape[1]
    end_id = end_of_turn_id(predictor.processor.tokenizer)
    tokens = predictor.model.llm.generate(prompt, num_new_tokens, end_id)
    with parts.measure(f"{name}: prefill and first token"):
        next(tokens)
    with parts.measure(f"{name}: other tokens") as found:
        found["value"] = sum(1 for _ in tokens)


def checksum(memory: VideoMemory) -> int:
    """Return the CRC-32 of the tokens and of all keys and values."""
    repository, found = memory.repository, 0
    caches = [part for kv in repository.kv_caches for part in (kv.keys, kv.values)]
    for tensor in (repository.tokens, *caches):
        found = crc32(tensor.contiguous().view(torch.int16).numpy().data, found)
    return found


if __name__ == "__main__":
    main(Job.from_json(sys.argv[1]))
