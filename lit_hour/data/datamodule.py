"""Shards -> batches for Lightning: which sample comes when, read in worker processes, resumed by position."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from lit_hour.config.schema import Config, SourceConfig, VideoConfig
from lit_hour.data.index import SubjectRecord
from lit_hour.data.marks import complete_marks
from lit_hour.data.order import MixedOrder, SourceOrder
from lit_hour.data.sampler import StepSampler, micro_batches_per_step
from lit_hour.data.shards import Shards, StoredSubject, load_visual, open_shards
from lit_hour.data.subject import count_kinds, spell_counts
from lit_hour.errors import ConfigError, ShardError
from lit_hour.processor import Processor
from lit_hour.types import Batch, Example, Question, Sample, Skipped

NOTHING = -1  # the index of no subject


class VideoQuestionData(L.LightningDataModule):
    """Training samples in an order that is a pure function of (seed, position), and validation subjects with all questions.

    Its state in a checkpoint is the number of finished steps and the position of the next sample; both hold on any number
    of ranks and workers.

    Attributes:
        num_steps: optimizer steps of the whole run.
        seconds_waited: time that training has spent waiting for this rank's batches.
    """

    def __init__(self, config: Config, processor: Processor) -> None:
        super().__init__()
        self.config, self.processor = config, processor
        self.sources = _open_sources(_training_sources(config), config.video)
        self.validation_sources = _open_sources(config.data.validation_sources, config.video)
        per_sample = config.data.questions_per_sample
        orders = {
            name: SourceOrder(shards.samples_per_shard(per_sample), config.data.shuffle_shards, config.run.seed, name)
            for name, shards in self.sources.items()
        }
        weights = {name: source.weight for name, source in _training_sources(config).items()}
        self.order = MixedOrder(orders, weights, config.run.seed)
        self.num_steps = config.training.max_steps or -(-len(self.order) // config.data.samples_per_step)
        self.step = 0
        self.position = 0
        self._train_loader: TimedLoader | None = None

    def describe(self) -> str:
        """One line on what there is to learn from."""
        subjects = [subject for shards in self.sources.values() for subject in shards.subjects]
        validation = [subject for shards in self.validation_sources.values() for subject in shards.subjects]
        hours = sum(subject.duration_seconds for subject in subjects) / 3600
        return (
            f"{spell_counts(count_kinds(each.kind for each in subjects))}, {hours:.1f} hours of video,"
            f" {sum(subject.num_questions for subject in subjects)} questions in {len(self.order)} samples;"
            f" {spell_counts(count_kinds(each.kind for each in validation))} to validate on"
        )

    def micro_batches_per_step(self, num_ranks: int) -> int:
        """Batches that each rank computes in an optimizer step."""
        return micro_batches_per_step(self.config.data.samples_per_step, self.config.data.samples_per_batch, num_ranks)

    def train_dataloader(self) -> TimedLoader:
        """The rest of the run, from the next sample on; its length counts the finished steps too, as Lightning does."""
        assert self.trainer is not None
        sampler = StepSampler(
            self.position,
            self.num_steps,
            first_step=self.step,
            samples_per_step=self.config.data.samples_per_step,
            samples_per_batch=self.config.data.samples_per_batch,
            rank=self.trainer.global_rank,
            num_ranks=self.trainer.world_size,
        )
        samples = TrainingSamples(self.sources, self.order, self.processor, self.config)
        self._train_loader = TimedLoader(samples, batch_sampler=sampler, **self._loading())
        return self._train_loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """This rank's share of the validation subjects, one at a time with all its questions.

        Raises:
            ConfigError: there are fewer subjects than ranks.
        """
        assert self.trainer is not None
        subjects = [(shards, subject) for shards in self.validation_sources.values() for subject in shards.subjects]
        if not subjects:
            return []
        if len(subjects) < self.trainer.world_size:
            raise ConfigError(
                f"data.validation_sources hold {len(subjects)} subjects for {self.trainer.world_size} ranks:"
                " give each rank at least one, or all of them none"
            )
        share = list(range(self.trainer.global_rank, len(subjects), self.trainer.world_size))
        if self.config.training.strategy == "fsdp":  # the ranks need each other for each answer: all get as many
            share += [NOTHING] * (-(-len(subjects) // self.trainer.world_size) - len(share))
        # read as it will be asked, where no template has labels
        processor = Processor(self.processor.tokenizer, replace(self.config.text, learn_template=False))
        dataset = ValidationSubjects(subjects, processor, self.config)
        return DataLoader(dataset, sampler=share, batch_size=1, **self._loading())

    def finish_step(self) -> None:
        """The samples of one more step have been trained on."""
        self.step += 1
        self.position += self.config.data.samples_per_step

    @property
    def seconds_waited(self) -> float:
        """Time that training has spent waiting for this rank's batches, since this start."""
        return self._train_loader.seconds_waited if self._train_loader else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to know of the data."""
        return {"step": self.step, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped."""
        self.step, self.position = state_dict["step"], state_dict["position"]

    def _loading(self) -> dict[str, Any]:
        num_workers = self.config.data.num_workers
        return {
            "collate_fn": Collate(self.processor),
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }


class TimedLoader(DataLoader[Any]):
    """A loader that knows how long it kept its caller waiting."""

    seconds_waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.seconds_waited += time.perf_counter() - started
            yield batch


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

    def __init__(self, sources: Mapping[str, Shards], order: MixedOrder, processor: Processor, config: Config) -> None:
        self._sources, self._order, self._processor, self._config = sources, order, processor, config

    def __getitem__(self, position: int) -> Read:
        source, shard, sample = self._order.at(position)
        shards = self._sources[source]
        subject, asked = shards.locate(shard, sample, self._config.data.questions_per_sample)
        return Read(_read_example(shards, subject, asked, self._processor, self._config), position)


class ValidationSubjects(Dataset[Read]):
    """Index -> one subject with each of its questions as a conversation of its own; or NOTHING."""

    def __init__(self, subjects: list[tuple[Shards, SubjectRecord]], processor: Processor, config: Config) -> None:
        self._subjects, self._processor, self._config = subjects, processor, config

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, index: int) -> Read:
        if index == NOTHING:
            return Read(None)
        shards, subject = self._subjects[index]
        return Read(_read_example(shards, subject, None, self._processor, self._config))


def training_questions(config: Config) -> Iterator[Question]:
    """Every question of the training sources, for a tokenizer to be learnt from."""
    for shards in _open_sources(_training_sources(config), config.video).values():
        for subject in shards.subjects:
            yield from shards.read_subject(subject).questions


def _read_example(
    shards: Shards, subject: SubjectRecord, asked: slice | None, processor: Processor, config: Config
) -> Example | Skipped:
    """One conversation about the questions `asked`, or one for each question; a damaged sample is handed on as such."""
    try:
        stored = shards.read_subject(subject)
        visual = load_visual(stored, config.video, config.image)
    except ShardError as error:
        return Skipped(subject.key, str(error))
    groups = _questions_together(stored, asked, config.data.validation_questions)
    conversations = tuple(processor.converse(group) for group in groups)
    return processor.example(Sample(stored.key, stored.source, stored.duration_seconds, visual, conversations))


def _questions_together(stored: StoredSubject, asked: slice | None, max_questions: int) -> list[tuple[Question, ...]]:
    """The questions of each conversation: those `asked`, or else up to `max_questions`, each alone."""
    if asked is not None:
        groups = [stored.questions[asked]]
    else:
        step = -(-len(stored.questions) // max_questions)
        groups = [(question,) for question in stored.questions[::step]]
    if stored.kind == "images":
        return [complete_marks(group, len(stored.pictures)) for group in groups]
    return groups


def _training_sources(config: Config) -> dict[str, SourceConfig]:
    """Those that count: of one without weight not even the folder has to be there."""
    return {name: source for name, source in config.data.sources.items() if source.weight > 0}


def _open_sources(sources: Mapping[str, SourceConfig], video: VideoConfig) -> dict[str, Shards]:
    """Open the shards of each source.

    Raises:
        ShardError: a folder of shards is missing or damaged.
        ConfigError: videos were sampled by other settings than this run's, by which questions will be answered.
    """
    opened = {name: open_shards(Path(source.shards)) for name, source in sorted(sources.items())}
    for shards in opened.values():
        if not any(subject.kind == "video" for subject in shards.subjects):
            continue
        for key in ("frames_per_second", "min_frames", "max_frames"):
            packed, wanted = shards.indexes[0].settings[key], getattr(video, key)
            if packed != wanted:
                raise ConfigError(
                    f"{shards.folder} was packed with video.{key}={packed}, this run has {wanted}: set video.{key}={packed},"
                    " or pack again with this run's settings"
                )
    return opened
