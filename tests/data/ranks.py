"""The data as the process of one rank has it."""

from types import SimpleNamespace

from lit_hour.data.datamodule import VideoQuestionData
from lit_hour.processor import Processor
from tests.helpers.toy_run import ToyProject


def data_of_rank(
    toy: ToyProject, processor: Processor, *words: str, rank: int = 0, num_ranks: int = 1
) -> VideoQuestionData:
    """The data of a small run; Lightning's trainer is asked for these two numbers alone."""
    data = VideoQuestionData(toy.config("none", *words), processor)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=num_ranks)  # type: ignore[assignment]
    return data
