"""Map-style datasets that read and decode one sample, and the collate function.

They run in the workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.utils.data import Dataset

from lit_hour.config.schema import Config
from lit_hour.data.questions.record import drop_partial_placeholders
from lit_hour.data.sample_order import MixedOrder
from lit_hour.data.shards.decode import load_visual
from lit_hour.data.shards.reader import Shards, StoredSample
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.errors import ShardError
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import Batch, Example, Question, Sample, Skipped

DUMMY_INDEX = (
    -1
)  # reads nothing: an FSDP rank without a sample takes part in the step of the others


@dataclass(frozen=True)
class FetchResult:
    """The result of reading one sample: an example, why there is none, or None for a dummy.

    Attributes:
        position: in the mixed order; None in validation.
    """

    result: Example | Skipped | None
    position: int | None = None


@dataclass(frozen=True)
class TrainingDataset(Dataset[FetchResult]):
    """Training samples by their position in the mixed order.

    A sample is an entry with a few consecutive questions as one conversation.
    """

    sources: Mapping[str, Shards]
    order: MixedOrder
    processor: HourLLaVAProcessor
    config: Config

    def __getitem__(self, position: int) -> FetchResult:
        source, shard, sample = self.order[position]
        shards = self.sources[source]
        entry, questions = shards.locate(shard, sample, self.config.data.questions_per_sample)
        example = _read_example(shards, entry, questions, self.processor, self.config)
        return FetchResult(example, position)

    def describe_location(self, position: int) -> str:
        """Return the shard and the key of a sample."""
        source, shard, sample = self.order[position]
        shards = self.sources[source]
        entry, _ = shards.locate(shard, sample, self.config.data.questions_per_sample)
        return shards.describe_location(entry)


@dataclass(frozen=True)
class ValidationDataset(Dataset[FetchResult]):
    """Entries with each of their questions as a conversation; nothing for `DUMMY_INDEX`."""

    entries: list[tuple[Shards, IndexEntry]]
    processor: HourLLaVAProcessor
    config: Config

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> FetchResult:
        if index == DUMMY_INDEX:
            return FetchResult(None)
        shards, entry = self.entries[index]
        return FetchResult(_read_example(shards, entry, None, self.processor, self.config))

    def describe_location(self, index: int) -> str:
        """Return the shard and the key of an entry."""
        shards, entry = self.entries[index]
        return shards.describe_location(entry)


def collate_results(processor: HourLLaVAProcessor, results: list[FetchResult]) -> Batch:
    """Pad the examples into a batch, which also lists the samples that could not be read."""
    examples = [fetched for fetched in results if isinstance(fetched.result, Example)]
    return processor.collate(
        [fetched.result for fetched in examples],  # type: ignore[misc]
        positions=[fetched.position for fetched in examples if fetched.position is not None],
        skipped=[fetched.result for fetched in results if isinstance(fetched.result, Skipped)],
    )


def _read_example(
    shards: Shards,
    entry: IndexEntry,
    questions: slice | None,
    processor: HourLLaVAProcessor,
    config: Config,
) -> Example | Skipped:
    """Read an entry and tokenize one conversation about some questions.

    If they are None, there is one conversation per question.
    """
    try:
        stored = shards.read(entry)
        visual = load_visual(stored, config.video, config.image)
    except ShardError as error:
        return Skipped(entry.key, str(error))
    groups = _group_questions(stored, questions, config.data.val_questions_per_video)
    conversations = tuple(processor.build_conversation(group) for group in groups)
    files = ", ".join(stored.files)
    return processor.build_example(
        Sample(stored.key, files, stored.duration_seconds, visual, conversations)
    )


def _group_questions(
    stored: StoredSample, questions: slice | None, max_questions: int
) -> list[tuple[Question, ...]]:
    """Return the questions of each conversation.

    If None, these are up to `max_questions` conversations of one question.
    """
    if questions is not None:
        groups = [stored.questions[questions]]
    else:
        step = -(-len(stored.questions) // max_questions)
        groups = [(question,) for question in stored.questions[::step]]
    if stored.modality == "images":
        return [drop_partial_placeholders(group, len(stored.images)) for group in groups]
    return groups
