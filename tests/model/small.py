"""A model small enough to be trained in a test, its processor, and samples for it."""

from dataclasses import replace

import torch
from torch import Generator

from lit_hour.config.model import LLMConfig, MemAugConfig, ModelConfig, VisionConfig
from lit_hour.config.schema import Config, TextConfig, VideoConfig
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Frames, Question, Sample, Visual

LANGUAGE = LLMConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    rope_theta=10_000.0,
    tie_word_embeddings=False,
)
CONFIG = Config(
    video=VideoConfig(image_size=64),
    text=TextConfig(system_prompt="Look.", max_tokens=4096),
    model=ModelConfig(
        vision=VisionConfig(name="lit-hour-small", layer=-1, grid=4, encode_batch_size=4),
        memaug=MemAugConfig(num_layers=2, min_frames=8),
        llm=LANGUAGE,
    ),
)
PROCESSOR = HourLLaVAProcessor(
    train_byte_level_tokenizer([], 300), CONFIG.text
)  # every byte is a token
VOCABULARY_SIZE = len(PROCESSOR.tokenizer)
RED = Question("1", "", "open_ended", "Which colour?", "red")
LEFT = Question("2", "", "open_ended", "Where does it go after that?", "to the left")


def small_model(config: Config = CONFIG) -> HourLLaVA:
    """The same random weights each time, large enough for every input to matter."""
    torch.manual_seed(0)
    model = HourLLaVA(config, VOCABULARY_SIZE)
    with torch.no_grad():
        for parameter in (*model.llm.parameters(), *model.memaug.parameters()):
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model.eval()


def frames(num_frames: int, seed: int = 0) -> Frames:
    """Noise, one frame a second."""
    images = torch.randint(
        0, 256, (num_frames, 3, 64, 64), dtype=torch.uint8, generator=Generator().manual_seed(seed)
    )  # (frames, 3, 64, 64)
    return Frames(images, torch.arange(num_frames).float())


def sample(visual: Visual | None, *conversations: tuple[Question, ...]) -> Sample:
    """Conversations in which these questions are asked and answered, about something to see or about nothing."""
    duration_seconds = float(len(visual)) if isinstance(visual, Frames) else 0.0
    return Sample(
        "key",
        "made",
        duration_seconds,
        visual,
        tuple(map(PROCESSOR.build_conversation, conversations)),
    )


def with_memory(settings: MemAugConfig, config: Config = CONFIG) -> Config:
    return replace(config, model=replace(config.model, memaug=settings))
