"""A predictor with random weights, random frames, and comparisons of memories.

Random weights of a large scale give a different answer to each question.
"""

from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from lit_hour.config.model import LLMConfig, MemAugConfig, ModelConfig, VisionConfig
from lit_hour.config.schema import Config, GenerationConfig, TextConfig, VideoConfig
from lit_hour.inference.answer import Answer
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Frames

SIZE_PIXELS = 64
CONFIG = Config(
    video=VideoConfig(image_size=SIZE_PIXELS, min_frames=2, max_frames=100),
    text=TextConfig(max_tokens=4096),
    generation=GenerationConfig(max_new_tokens=8),
    model=ModelConfig(
        vision=VisionConfig(name="lit-hour-tiny", layer=-1, grid=2),
        memaug=MemAugConfig(num_layers=2, min_frames=6, initializer_range=0.3),
        llm=LLMConfig(
            hidden_size=32,
            num_layers=1,
            num_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            initializer_range=0.5,
            tie_word_embeddings=False,
        ),
    ),
)


def make_predictor(config: Config = CONFIG, seed: int = 0) -> VideoPredictor:
    processor = HourLLaVAProcessor(train_byte_level_tokenizer([], 300), config.text)
    torch.manual_seed(seed)
    return VideoPredictor(
        config, HourLLaVA.from_config(config, len(processor.tokenizer)), processor
    )


def random_frames(num_frames: int, seed: int = 0) -> Frames:
    """One frame per second; the first frames do not depend on `num_frames`."""
    shape = (num_frames, 3, SIZE_PIXELS, SIZE_PIXELS)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Frames(torch.from_numpy(pixels), torch.arange(num_frames).float())


def slice_frames(frames: Frames, start: int, end: int) -> Frames:
    return Frames(frames.images[start:end], frames.timestamps[start:end])


def write_video(file: Path, num_seconds: int, seed: int = 0) -> Path:
    """Encode `random_frames` as an MPEG-4 file with one frame per second."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=1, width=SIZE_PIXELS, height=SIZE_PIXELS)
        for image in random_frames(num_seconds, seed).images:
            pixels = image.permute(1, 2, 0).numpy()  # (height, width, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file


def generate_text(predictor: VideoPredictor, memory: VideoMemory, question: str) -> str:
    *_, answer = predictor.generate(memory, question)
    assert isinstance(answer, Answer)
    return answer.text


def assert_equal_memories(first: VideoMemory, second: VideoMemory) -> None:
    """Compare everything bit for bit, except the time spent."""
    for name in ("source", "duration_seconds", "num_frames", "num_placeholders", "note"):
        assert getattr(first, name) == getattr(second, name), name
    one, other = first.repository, second.repository
    assert (one.grids, one.num_placeholders) == (other.grids, other.num_placeholders)
    for name in ("tokens", "positions", "timestamps"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert len(one.kv_caches) == len(other.kv_caches) == CONFIG.model.memaug.num_layers
    for index, (cache, expected) in enumerate(zip(one.kv_caches, other.kv_caches, strict=True)):
        assert torch.equal(cache.keys, expected.keys), f"keys of block {index}"
        assert torch.equal(cache.values, expected.values), f"values of block {index}"


def peak_allocated_bytes(function: Callable[[], object]) -> int:
    """Call a function, and return how much memory PyTorch allocates for it on the CPU at most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = profiler.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    allocated = accumulate(num_bytes for _, num_bytes in sorted(changes, key=itemgetter(0)))
    return max(allocated)
