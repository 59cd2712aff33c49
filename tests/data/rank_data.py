"""The data module in the process of one rank, without a Trainer."""

from types import SimpleNamespace
from typing import Any

from lit_hour.config.schema import Config
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.data.sources import open_sources
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import Question
from tests.helpers.toy_run import ToyProject


def data_of_rank(
    toy: ToyProject, processor: HourLLaVAProcessor, *argv: str, rank: int = 0, num_ranks: int = 1
) -> VideoQADataModule:
    """Return the data module of a toy run, with a stand-in for Lightning's Trainer."""
    data = VideoQADataModule(toy.config("none", *argv), processor)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=num_ranks, global_step=0)  # type: ignore[assignment]
    return data


def finish_step(data: VideoQADataModule) -> None:
    """Count a step, as the Trainer does."""
    data.trainer.global_step += 1  # type: ignore[union-attr, misc]


def resume(data: VideoQADataModule, state: dict[str, Any]) -> None:
    """Load the state of a checkpoint, as the Trainer does."""
    data.load_state_dict(state)
    data.trainer.global_step = state["step"]  # type: ignore[union-attr, misc]


def training_questions(config: Config) -> list[Question]:
    """Return all questions of the training sources."""
    return [
        question
        for shards in open_sources(config).values()
        for entry in shards.entries
        for question in shards.read(entry).questions
    ]
