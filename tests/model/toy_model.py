"""A model that trains within a test, its processor, and samples and batches for it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from lit_hour.config.model import LLMConfig, MemAugConfig, ModelConfig, VisionConfig
from lit_hour.config.schema import Config, TextConfig, VideoConfig
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.memaug import MemAugQuery, MemoryAugmentation
from lit_hour.model.memory_repository import DenseTokens, MemoryRepository
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Batch, Frames, Question, Sample, Visual

LLM = LLMConfig(
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
        llm=LLM,
    ),
)
PROCESSOR = HourLLaVAProcessor(train_byte_level_tokenizer([], 300), CONFIG.text)
NUM_TOKENS = len(PROCESSOR.tokenizer)  # each byte, and a few special tokens
RED = Question("1", "", "open_ended", "Which color?", "red")
LEFT = Question("2", "", "open_ended", "Where does it go after that?", "to the left")


def toy_model(config: Config = CONFIG) -> HourLLaVA:
    """Build the model with the same random weights each time, so large that every input matters."""
    torch.manual_seed(0)
    model = HourLLaVA.from_config(config, NUM_TOKENS)
    with torch.no_grad():
        for parameter in (*model.llm.parameters(), *model.memaug.parameters()):
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model.eval()


def config_with(memaug: MemAugConfig, config: Config = CONFIG) -> Config:
    """Return the settings with others for MemAug."""
    return replace(config, model=replace(config.model, memaug=memaug))


def frames(num_frames: int, seed: int = 0) -> Frames:
    """Return frames of noise, one per second."""
    images = torch.randint(
        0, 256, (num_frames, 3, 64, 64), dtype=torch.uint8, generator=Generator().manual_seed(seed)
    )  # (frames, 3, 64, 64)
    return Frames(images, torch.arange(num_frames).float())


def sample(visual: Visual | None, *conversations: tuple[Question, ...]) -> Sample:
    """Return conversations that ask these questions about a visual, with their answers."""
    duration_seconds = float(len(visual)) if isinstance(visual, Frames) else 0.0
    built = tuple(build_conversation(questions, PROCESSOR.config) for questions in conversations)
    return Sample("key", "toy", duration_seconds, visual, built)


def batch_of(*samples: Sample) -> Batch:
    """Process and collate samples."""
    return PROCESSOR.collate([PROCESSOR.build_example(sample) for sample in samples])


def augment(
    memaug: MemoryAugmentation,
    query: Tensor,
    memory: Tensor,
    query_positions: Sequence[int] | Tensor,
    memory_positions: Sequence[int] | Tensor,
) -> Tensor:
    """Run MemAug on one query `(query, dim)` and one memory `(memory, dim)`: `(query, dim)`."""
    positions = torch.as_tensor(query_positions)
    is_visual = torch.ones(len(query), dtype=torch.bool)
    repository = MemoryRepository(
        DenseTokens(memory), torch.as_tensor(memory_positions), (), torch.empty(0)
    )
    (augmented,) = memaug(
        [MemAugQuery(query, positions, is_visual, [len(query)])], [repository], [0]
    )
    return augmented
