"""A position in the order, or the number of a subject -> one sample read and decoded -> batches. This runs in the workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.utils.data import Dataset

from lit_hour.config.schema import Config
from lit_hour.data.order.sample_order import MixedOrder
from lit_hour.data.questions.record import complete_marks
from lit_hour.data.shards.decode import load_visual
from lit_hour.data.shards.reader import Shards, StoredSubject
from lit_hour.data.shards.shard_index import SubjectRecord
from lit_hour.errors import ShardError
from lit_hour.processor import Processor
from lit_hour.types import Batch, Example, Question, Sample, Skipped

NOTHING = -1  # the index of no subject


@dataclass(frozen=True)
class Read:
    """What came of reading one sample, if there was any, and its position in the global order, where it has one."""

    result: Example | Skipped | None
    position: int | None = None


class Collate:
    """Samples that were read, and those that could not be, -> one batch."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def __call__(self, reads: list[Read]) -> Batch:
        """Pad what was read together, and hand on what was not."""
        good = [read for read in reads if isinstance(read.result, Example)]
        return self._processor.batch(
            [read.result for read in good],  # type: ignore[misc]
            positions=[read.position for read in good if read.position is not None],
            skipped=[read.result for read in reads if isinstance(read.result, Skipped)],
        )


class TrainingSamples(Dataset[Read]):
    """Position in the global order -> one subject with a few consecutive questions as one conversation."""

    def __init__(
        self, sources: Mapping[str, Shards], order: MixedOrder, processor: Processor, config: Config
    ) -> None:
        self._sources, self._order, self._processor, self._config = (
            sources,
            order,
            processor,
            config,
        )

    def __getitem__(self, position: int) -> Read:
        shards, subject, asked = self._locate(position)
        return Read(_read_example(shards, subject, asked, self._processor, self._config), position)

    def place_of(self, position: int) -> str:
        """The shard and the subject that come at a position."""
        shards, subject, _ = self._locate(position)
        return shards.place_of(subject)

    def _locate(self, position: int) -> tuple[Shards, SubjectRecord, slice]:
        source, shard, sample = self._order.at(position)
        shards = self._sources[source]
        return shards, *shards.locate(shard, sample, self._config.data.questions_per_sample)


class ValidationSubjects(Dataset[Read]):
    """Index -> one subject with each of its questions as a conversation of its own; or NOTHING."""

    def __init__(
        self, subjects: list[tuple[Shards, SubjectRecord]], processor: Processor, config: Config
    ) -> None:
        self._subjects, self._processor, self._config = subjects, processor, config

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, index: int) -> Read:
        if index == NOTHING:
            return Read(None)
        shards, subject = self._subjects[index]
        return Read(_read_example(shards, subject, None, self._processor, self._config))

    def place_of(self, index: int) -> str:
        """The shard and the subject of an index."""
        shards, subject = self._subjects[index]
        return shards.place_of(subject)


def _read_example(
    shards: Shards,
    subject: SubjectRecord,
    asked: slice | None,
    processor: Processor,
    config: Config,
) -> Example | Skipped:
    """One conversation about the questions `asked`, or one for each question; a damaged sample is handed on as such."""
    try:
        stored = shards.read_subject(subject)
        visual = load_visual(stored, config.video, config.image)
    except ShardError as error:
        return Skipped(subject.key, str(error))
    groups = _questions_together(stored, asked, config.data.val_questions_per_video)
    conversations = tuple(processor.converse(group) for group in groups)
    return processor.example(
        Sample(stored.key, stored.source, stored.duration_seconds, visual, conversations)
    )


def _questions_together(
    stored: StoredSubject, asked: slice | None, max_questions: int
) -> list[tuple[Question, ...]]:
    """The questions of each conversation: those `asked`, or else up to `max_questions`, each alone."""
    if asked is not None:
        groups = [stored.questions[asked]]
    else:
        step = -(-len(stored.questions) // max_questions)
        groups = [(question,) for question in stored.questions[::step]]
    if stored.kind == "images":
        return [complete_marks(group, len(stored.pictures)) for group in groups]
    return groups
