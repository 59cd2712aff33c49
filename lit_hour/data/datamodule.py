"""Shards -> batches for Lightning: which sample comes when, read in worker processes, resumed where training stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from lit_hour.config.data import SourceConfig, resolve_num_workers
from lit_hour.config.schema import Config
from lit_hour.data.dataloader import TimedDataLoader, ignore_job_signals
from lit_hour.data.datasets import DUMMY_INDEX, Collate, TrainingDataset, ValidationDataset
from lit_hour.data.features.format import FeatureMetadata
from lit_hour.data.order.batch_sampler import StepBatchSampler, micro_batches_per_step
from lit_hour.data.order.data_state import data_fingerprint, diff_fingerprints
from lit_hour.data.order.sample_order import (
    LengthBalancedOrder,
    MixedOrder,
    SampleCost,
    SourceOrder,
)
from lit_hour.data.questions.record import count_modalities, format_counts
from lit_hour.data.sources import feature_metadata_of, open_sources
from lit_hour.errors import ConfigError, ShardError
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.types import Question

log = logging.getLogger("lit_hour")


class VideoQADataModule(L.LightningDataModule):
    """Training samples in an order that is a pure function of (seed, position), and validation subjects with all questions.

    Its state in a checkpoint is the number of finished steps and of samples that they took, and what the order is made of.
    It holds on any number of ranks and workers.

    Attributes:
        num_steps: optimizer steps of the whole run.
        seconds_waited: time that training has spent waiting for this rank's batches.
    """

    def __init__(self, config: Config, processor: HourLLaVAProcessor) -> None:
        super().__init__()
        self.config, self.processor = config, processor
        self.sources = open_sources(_training_sources(config), config)
        self.val_sources = open_sources(config.data.val_sources, config)
        per_sample = config.data.questions_per_sample
        orders = {
            name: SourceOrder(
                shards.samples_per_shard(per_sample),
                config.data.shuffle_shards,
                config.run.seed,
                name,
            )
            for name, shards in self.sources.items()
        }
        weights = {name: source.weight for name, source in _training_sources(config).items()}
        starts = {name: source.skip_fraction for name, source in _training_sources(config).items()}
        self.order = MixedOrder(orders, weights, config.run.seed, starts)
        self._fingerprint = data_fingerprint(config, self.sources)
        self.num_steps = config.training.max_steps or -(
            -len(self.order) // config.data.global_batch_size
        )
        self._start_step = self._start_position = 0  # of this start: those of its checkpoint
        self._train_loader: TimedDataLoader | None = None

    def describe(self) -> str:
        """One line on what there is to learn from."""
        subjects = [subject for shards in self.sources.values() for subject in shards.entries]
        validation = [subject for shards in self.val_sources.values() for subject in shards.entries]
        hours = sum(subject.duration_seconds for subject in subjects) / 3600
        return (
            f"{format_counts(count_modalities(each.modality for each in subjects))}, {hours:.1f} hours of video,"
            f" {sum(subject.num_questions for subject in subjects)} questions in {len(self.order)} samples;"
            f" {format_counts(count_modalities(each.modality for each in validation))} to validate on"
        )

    def micro_batches_per_step(self, num_ranks: int) -> int:
        """Batches that each rank computes in an optimizer step.

        Raises:
            ConfigError: the ranks cannot share the samples of a step evenly, or one pass has too few samples for them.
        """
        num_at_once = num_ranks * self.config.data.micro_batch_size
        if len(self.order) < num_at_once:
            raise ConfigError(
                f"one pass over data.sources has {len(self.order)} samples, and {num_ranks} ranks take {num_at_once} at once"
                f" (data.micro_batch_size={self.config.data.micro_batch_size}): let each take fewer, use fewer ranks, or give"
                " them more data"
            )
        return micro_batches_per_step(
            self.config.data.global_batch_size, self.config.data.micro_batch_size, num_ranks
        )

    def train_dataloader(self) -> TimedDataLoader:
        """The rest of the run, from the next sample on; its length counts the finished steps too, as Lightning does."""
        assert self.trainer is not None
        data = self.config.data
        balanced = LengthBalancedOrder(
            self._cost_function(),
            len(self.order),
            samples_per_step=data.global_batch_size,
            balance_steps=data.length_balance_window,
            seed=self.config.run.seed,
        )
        sampler = StepBatchSampler(
            balanced,
            self.position,
            self.num_steps,
            first_step=self.step,
            samples_per_batch=data.micro_batch_size,
            rank=self.trainer.global_rank,
            num_ranks=self.trainer.world_size,
        )
        samples = TrainingDataset(self.sources, self.order, self.processor, self.config)
        self._train_loader = TimedDataLoader(
            samples, batch_sampler=sampler, **self._loader_kwargs()
        )
        return self._train_loader

    def val_dataloader(self) -> TimedDataLoader | list[Any]:
        """This rank's share of the validation subjects, one at a time with all its questions.

        Raises:
            ConfigError: there are fewer subjects than ranks.
        """
        assert self.trainer is not None
        subjects = [
            (shards, subject) for shards in self.val_sources.values() for subject in shards.entries
        ]
        if not subjects:
            return []
        if len(subjects) < self.trainer.world_size:
            raise ConfigError(
                f"data.val_sources hold {len(subjects)} subjects for {self.trainer.world_size} ranks:"
                " give each rank at least one, or all of them none"
            )
        share = list(range(self.trainer.global_rank, len(subjects), self.trainer.world_size))
        if (
            self.config.training.strategy == "fsdp"
        ):  # the ranks need each other for each answer: all get as many
            share += [DUMMY_INDEX] * (-(-len(subjects) // self.trainer.world_size) - len(share))
        # read as it will be asked, where no template has labels
        processor = HourLLaVAProcessor(
            self.processor.tokenizer, replace(self.config.text, loss_on_template=False)
        )
        dataset = ValidationDataset(subjects, processor, self.config)
        return TimedDataLoader(dataset, sampler=share, batch_size=1, **self._loader_kwargs())

    @property
    def step(self) -> int:
        """Optimizer steps that are finished, as the Trainer counts them."""
        return self.trainer.global_step if self.trainer else self._start_step

    @property
    def position(self) -> int:
        """Samples of the order that the finished steps have used."""
        num_steps = self.step - self._start_step
        return self._start_position + num_steps * self.config.data.global_batch_size

    @property
    def feature_metadata(self) -> dict[str, FeatureMetadata]:
        """What the features of videos that this run reads were encoded by, by the path of their shard."""
        return feature_metadata_of([*self.sources.values(), *self.val_sources.values()])

    @property
    def data_wait_seconds(self) -> float:
        """Time that training has spent waiting for this rank's batches, since this start."""
        return self._train_loader.data_wait_seconds if self._train_loader else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to know of the data."""
        return {"step": self.step, "position": self.position, "origin": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped.

        Raises:
            ShardError: the data have changed since, and `data.on_data_change` does not allow it; it says how.
        """
        changes = [
            "the checkpoint does not say what they were, for it is older than data.length_balance_window: 1 keeps its order"
        ]
        if "origin" in state_dict:
            changes = diff_fingerprints(state_dict["origin"], self._fingerprint)
        if changes and self.config.data.on_data_change == "error":
            raise ShardError(
                f"the data are not those of the checkpoint: {'; '.join(changes)}. Set them back; or go on with"
                " data.on_data_change=warn, which counts on in the new order, so that samples may come twice or not at all"
            )
        for change in changes:
            log.warning(
                "the data are not those of the checkpoint, and training goes on (data.on_data_change=warn): %s",
                change,
            )
        self._start_step, self._start_position = state_dict["step"], state_dict["position"]

    def _cost_function(self) -> Callable[[range], NDArray[np.int64]]:
        """What the samples at positions of the order cost, by the indexes of their shards: `(positions,)`."""
        cost, per_sample = (
            SampleCost.from_config(self.config),
            self.config.data.questions_per_sample,
        )
        costs = {
            name: shards.costs_per_shard(per_sample, cost) for name, shards in self.sources.items()
        }
        order = self.order  # a loader that holds self holds itself, and the garbage collector waits long for its workers

        def costs_at(positions: range) -> NDArray[np.int64]:
            places = map(order.__getitem__, positions)
            return np.array(
                [costs[source][shard][sample] for source, shard, sample in places], np.int64
            )  # (positions,)

        return costs_at

    def _loader_kwargs(self) -> dict[str, Any]:
        num_workers = resolve_num_workers(self.config.data.num_workers)
        return {
            "collate_fn": Collate(self.processor),
            "num_workers": num_workers,
            "worker_init_fn": ignore_job_signals,
            "persistent_workers": num_workers > 0,
            "timeout": self.config.data.timeout_seconds if num_workers else 0,
            "pin_memory": torch.cuda.is_available(),
        }


def training_questions(config: Config) -> Iterator[Question]:
    """Every question of the training sources, for a tokenizer to be learnt from."""
    for shards in open_sources(_training_sources(config), config).values():
        for subject in shards.entries:
            yield from shards.read(subject).questions


def sources_fingerprint(config: Config) -> list[str]:
    """The fingerprints of all training shards, which change with their questions."""
    opened = open_sources(_training_sources(config), config)
    return [index.fingerprint for shards in opened.values() for index in shards.indexes]


def _training_sources(config: Config) -> dict[str, SourceConfig]:
    """Those that count: of one without weight not even the folder has to be there."""
    return {name: source for name, source in config.data.sources.items() if source.weight > 0}
