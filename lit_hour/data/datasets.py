"""A position in the order, or the number of a subject -> one sample read and decoded -> batches. This runs in the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.utils.data import Dataset

from lit_hour.config.schema import Config
from lit_hour.data.order.sample_order import MixedOrder
from lit_hour.data.questions.record import drop_partial_placeholders
from lit_hour.data.shards.decode import load_visual
from lit_hour.data.shards.reader import Shards, StoredSample
from lit_hour.data.shards.shard_index import IndexEntry
from lit_hour.errors import ShardError
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import Batch, Example, Question, Sample, Skipped

DUMMY_INDEX = -1  # the index of no subject


@dataclass(frozen=True)
class FetchResult:
    """What came of reading one sample, if there was any, and its position in the global order, where it has one."""

    result: Example | Skipped | None
    position: int | None = None


class Collate:
    """Samples that were read, and those that could not be, -> one batch."""

    def __init__(self, processor: HourLLaVAProcessor) -> None:
        self._processor = processor

    def __call__(self, reads: list[FetchResult]) -> Batch:
        """Pad what was read together, and hand on what was not."""
        good = [read for read in reads if isinstance(read.result, Example)]
        return self._processor.collate(
            [read.result for read in good],  # type: ignore[misc]
            positions=[read.position for read in good if read.position is not None],
            skipped=[read.result for read in reads if isinstance(read.result, Skipped)],
        )


class TrainingDataset(Dataset[FetchResult]):
    """Position in the global order -> one subject with a few consecutive questions as one conversation."""

    def __init__(
        self,
        sources: Mapping[str, Shards],
        order: MixedOrder,
        processor: HourLLaVAProcessor,
        config: Config,
    ) -> None:
        self._sources, self._order, self._processor, self._config = (
            sources,
            order,
            processor,
            config,
        )

    def __getitem__(self, position: int) -> FetchResult:
        shards, subject, asked = self._locate(position)
        return FetchResult(
            _read_example(shards, subject, asked, self._processor, self._config), position
        )

    def describe_location(self, position: int) -> str:
        """The shard and the subject that come at a position."""
        shards, subject, _ = self._locate(position)
        return shards.describe_location(subject)

    def _locate(self, position: int) -> tuple[Shards, IndexEntry, slice]:
        source, shard, sample = self._order[position]
        shards = self._sources[source]
        return shards, *shards.locate(shard, sample, self._config.data.questions_per_sample)


class ValidationDataset(Dataset[FetchResult]):
    """Index -> one subject with each of its questions as a conversation of its own; or NOTHING."""

    def __init__(
        self,
        subjects: list[tuple[Shards, IndexEntry]],
        processor: HourLLaVAProcessor,
        config: Config,
    ) -> None:
        self._subjects, self._processor, self._config = subjects, processor, config

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, index: int) -> FetchResult:
        if index == DUMMY_INDEX:
            return FetchResult(None)
        shards, subject = self._subjects[index]
        return FetchResult(_read_example(shards, subject, None, self._processor, self._config))

    def describe_location(self, index: int) -> str:
        """The shard and the subject of an index."""
        shards, subject = self._subjects[index]
        return shards.describe_location(subject)


def _read_example(
    shards: Shards,
    subject: IndexEntry,
    asked: slice | None,
    processor: HourLLaVAProcessor,
    config: Config,
) -> Example | Skipped:
    """One conversation about the questions `asked`, or one for each question; a damaged sample is handed on as such."""
    try:
        stored = shards.read(subject)
        visual = load_visual(stored, config.video, config.image)
    except ShardError as error:
        return Skipped(subject.key, str(error))
    groups = _group_questions(stored, asked, config.data.val_questions_per_video)
    conversations = tuple(processor.build_conversation(group) for group in groups)
    return processor.build_example(
        Sample(stored.key, stored.source, stored.duration_seconds, visual, conversations)
    )


def _group_questions(
    stored: StoredSample, asked: slice | None, max_questions: int
) -> list[tuple[Question, ...]]:
    """The questions of each conversation: those `asked`, or else up to `max_questions`, each alone."""
    if asked is not None:
        groups = [stored.questions[asked]]
    else:
        step = -(-len(stored.questions) // max_questions)
        groups = [(question,) for question in stored.questions[::step]]
    if stored.modality == "images":
        return [drop_partial_placeholders(group, len(stored.images)) for group in groups]
    return groups
