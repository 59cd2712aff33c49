"""Lightning's data module: batches in a reproducible order that a checkpoint can resume.

`VideoQADataModule` is the entry point. Its loaders are `TimedDataLoader`s: they measure how long
training waits, and name what a hanging worker reads.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.schema import Config
from lit_hour.data.datasets import (
    DUMMY_INDEX,
    FetchResult,
    TrainingDataset,
    ValidationDataset,
    collate_results,
)
from lit_hour.data.questions.record import format_counts
from lit_hour.data.sample_lengths import (
    TemplateLengths,
    bound_sample_lengths,
    describe_long_samples,
)
from lit_hour.data.sample_order import (
    LengthBalancedOrder,
    MixedOrder,
    SourceOrder,
    StepBatchSampler,
    StepOrder,
    micro_batches_per_step,
)
from lit_hour.data.shared_arena import (
    SharedArena,
    activate,
    create_arenas,
    set_worker_arena,
)
from lit_hour.data.sources import data_fingerprint, diff_fingerprints, open_sources
from lit_hour.data.token_batches import TokenBatchOrder, batches_per_rank
from lit_hour.data.training_samples import sample_costs, samples_per_shard
from lit_hour.errors import ConfigError, ShardError, list_first
from lit_hour.processor import HourLLaVAProcessor

TORCH_TIMEOUT_MESSAGE = "DataLoader timed out"  # in torch's RuntimeError
KILL_TIMEOUT_SECONDS = 5.0
WORKER_CHECK_SECONDS = 5.0  # as in torch without a timeout
JOB_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

log = logging.getLogger(__name__)


class VideoQADataModule(L.LightningDataModule):
    """Training samples in an order of (seed, position) alone, and validation entries.

    The state in a checkpoint is the step, the position in the length-balanced order, and the
    fingerprint of what determines the order. It is independent of the number of ranks and workers.

    Attributes:
        mixed_order: mixed order of the training samples, before length balancing.
        num_steps: optimizer steps of the whole run.
    """

    def __init__(self, config: Config, processor: HourLLaVAProcessor) -> None:
        super().__init__()
        self.config, self.processor = config, processor
        self.sources = open_sources(config)
        self.val_sources = open_sources(config, "val")
        seed = config.run.seed
        orders = {
            name: SourceOrder(
                samples_per_shard(shards, config), config.data.shuffle_shards, seed, name
            )
            for name, shards in self.sources.items()
        }
        weights = {name: config.data.sources[name].weight for name in orders}
        starts = {name: config.data.sources[name].skip_fraction for name in orders}
        self.mixed_order = MixedOrder(orders, weights, seed, starts)
        if config.data.tokens_per_batch:
            _ = self._token_order  # raises its errors before the weights are loaded
        self.num_steps = config.training.max_steps or self._steps_per_pass()
        self._fingerprint = data_fingerprint(config, self.sources)
        self._start_step = self._start_position = 0  # in the checkpoint of this start

    @cached_property
    def _token_order(self) -> TokenBatchOrder:
        """The order of the batches of `data.tokens_per_batch`."""
        data, template = self.config.data, TemplateLengths.measure(self.processor)
        lengths = {
            name: bound_sample_lengths(shards, self.config, template)
            for name, shards in self.sources.items()
        }
        for name, shards in self.sources.items():
            if message := describe_long_samples(shards, lengths[name], self.config):
                log.warning(message)
        return TokenBatchOrder(
            self.mixed_order,
            lengths,
            tokens_per_batch=data.tokens_per_batch,
            batches_per_step=data.batches_per_step,
            max_window_steps=data.length_balance_window,
            counts_padding=not self.config.training.packing,
        )

    def _steps_per_pass(self) -> int:
        num_groups = -(-self.mixed_order.num_samples // self.config.data.global_batch_size)
        if self.config.data.tokens_per_batch:
            num_groups = self._token_order.steps_per_pass
        return num_groups * self.config.training.steps_per_group

    def describe(self) -> str:
        """Return one line on the training and validation data."""
        training = [entry for shards in self.sources.values() for entry in shards.entries]
        validation = [entry for shards in self.val_sources.values() for entry in shards.entries]
        return (
            f"{format_counts(Counter(entry.modality for entry in training))},"
            f" {sum(entry.duration_seconds for entry in training) / 3600:.1f} hours of video,"
            f" {sum(entry.num_questions for entry in training)} questions in"
            f" {self.mixed_order.num_samples} samples;"
            f" {format_counts(Counter(entry.modality for entry in validation))} for validation"
        )

    def micro_batches_per_step(self, num_ranks: int) -> int:
        """Return how many micro-batches each rank computes in one optimizer step.

        Raises:
            ConfigError: the ranks cannot share the samples of a step evenly, or one pass over the
                data has fewer samples than the ranks compute at the same time.
        """
        data = self.config.data
        if data.tokens_per_batch:
            return batches_per_rank(data.batches_per_step, num_ranks)
        if self.mixed_order.num_samples < num_ranks * data.micro_batch_size:
            raise ConfigError(
                f"One pass over data.sources has {self.mixed_order.num_samples} samples, but"
                f" {num_ranks} ranks with data.micro_batch_size={data.micro_batch_size} compute"
                f" {num_ranks * data.micro_batch_size} at the same time. Use a smaller"
                " micro-batch, fewer ranks, or more data."
            )
        return micro_batches_per_step(data.global_batch_size, data.micro_batch_size, num_ranks)

    def train_dataloader(self) -> TimedDataLoader:
        """Load the rest of the run from the next sample on; the length includes the finished steps.

        Raises:
            ConfigError: as `micro_batches_per_step`.
        """
        assert self.trainer is not None
        self.micro_batches_per_step(self.trainer.world_size)  # raises if the ranks cannot share
        dataset = TrainingDataset(self.sources, self.mixed_order, self.processor, self.config)
        return self._loader(dataset, batch_sampler=self._batch_sampler())

    def _batch_sampler(self) -> StepBatchSampler:
        """Return the sampler of this rank, from the next step on."""
        assert self.trainer is not None
        data, (step, position) = self.config.data, self.progress
        order: StepOrder
        if data.tokens_per_batch:
            order, micro_batch_size = self._token_order, 1
        else:
            order, micro_batch_size = self._balanced_order(), data.micro_batch_size
        return StepBatchSampler(
            order,
            position,
            self.num_steps,
            micro_batch_size,
            first_step=step,
            steps_per_group=self.config.training.steps_per_group,
            rank=self.trainer.global_rank,
            num_ranks=self.trainer.world_size,
        )

    def _balanced_order(self) -> LengthBalancedOrder:
        return LengthBalancedOrder(
            self.mixed_order,
            {name: sample_costs(shards, self.config) for name, shards in self.sources.items()},
            samples_per_step=self.config.data.global_batch_size,
            max_window_steps=self.config.data.length_balance_window,
        )

    def val_dataloader(self) -> TimedDataLoader | list[Any]:
        """Load this rank's share of the validation entries, each with all of its questions.

        Raises:
            ConfigError: there are fewer entries than ranks.
        """
        assert self.trainer is not None
        rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        entries = [
            (shards, entry) for shards in self.val_sources.values() for entry in shards.entries
        ]
        if not entries:
            return []
        if len(entries) < num_ranks:
            raise ConfigError(
                f"data.val_sources have {len(entries)} entries for {num_ranks} ranks."
                " Provide at least one per rank, or none at all."
            )
        indices = list(range(rank, len(entries), num_ranks))
        if self.config.training.strategy == "fsdp":  # all ranks take part in every generation
            indices += [DUMMY_INDEX] * (-(-len(entries) // num_ranks) - len(indices))
        # Prompts as in inference, where no part of the template has labels.
        text = replace(self.config.text, loss_on_template=False)
        processor = replace(self.processor, config=text)
        dataset = ValidationDataset(entries, processor, self.config)
        return self._loader(dataset, sampler=indices, batch_size=1)

    @property
    def progress(self) -> tuple[int, int]:
        """Finished optimizer steps, and the position of the next sample in the order."""
        step = self.trainer.global_step if self.trainer else self._start_step
        repeats, position = self.config.training.steps_per_group, self._start_position
        num_groups = step // repeats - self._start_step // repeats
        if self.config.data.tokens_per_batch:
            return step, self._token_order.position_after(position, num_groups)
        return step, position + num_groups * self.config.data.global_batch_size

    def state_dict(self) -> dict[str, Any]:
        """Return the progress and what determines the order, for a checkpoint."""
        step, position = self.progress
        return {"step": step, "position": position, "fingerprint": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a checkpoint stopped.

        Raises:
            ShardError: the data has changed, and `data.on_data_change` is "error".
        """
        changes = ["the checkpoint does not record its data"]
        if "fingerprint" in state_dict:
            changes = diff_fingerprints(state_dict["fingerprint"], self._fingerprint)
        if changes and self.config.data.on_data_change == "error":
            raise ShardError(
                f"The data has changed since the checkpoint: {'; '.join(changes)}. Set it back, or"
                " continue in the new order with data.on_data_change=warn; samples may then come"
                " twice or not at all."
            )
        for change in changes:
            message = "The data has changed since the checkpoint (data.on_data_change=warn): %s."
            log.warning(message, change)
        self._start_step, self._start_position = state_dict["step"], state_dict["position"]

    def _loader(self, dataset: Dataset[FetchResult], **sampling: Any) -> TimedDataLoader:
        num_workers = resolve_num_workers(self.config.data.num_workers)
        limit = self.config.data.timeout_seconds or math.inf
        loader = TimedDataLoader(
            dataset,
            **sampling,
            collate_fn=partial(collate_results, self.processor),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            timeout=min(limit, WORKER_CHECK_SECONDS) if num_workers else 0,
            pin_memory=torch.cuda.is_available(),
        )
        loader.timeout_seconds = limit
        loader.arena_bytes = int(self.config.data.frame_arena_gb * 1e9)
        return loader


class TimedDataLoader(DataLoader[Any]):
    """A DataLoader that counts waiting time, and names the sample that a hanging worker reads.

    Its batch sampler must return the same indices each time.

    Attributes:
        arena_bytes: memory of each worker that is used again for frames; 0 for none.
        timeout_seconds: longest wait for a batch; after `timeout` torch looks for killed workers.
        data_wait_seconds: time that the caller has waited for batches.

    Raises:
        ShardError: a worker hangs and no batch came within `timeout_seconds`; the workers are
            killed.
    """

    arena_bytes = 0
    timeout_seconds = math.inf
    data_wait_seconds = 0.0
    _arenas: Sequence[SharedArena] = ()

    def _get_iterator(self) -> Any:
        """Start an iteration, and workers for it, each with an arena of its own."""
        self._arenas = create_arenas(max(self.num_workers, 1), self.arena_bytes)
        self.worker_init_fn = partial(_init_worker, self._arenas)
        return super()._get_iterator()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches, sampled = super().__iter__(), iter(self.batch_sampler)  # type: ignore[arg-type]
        arenas = self._arenas  # another iteration without persistent workers has its own
        while True:
            awaited = next(sampled, ())
            started = time.perf_counter()
            try:
                with activate(arenas[0] if arenas and not self.num_workers else None):
                    batch = self._next_batch(batches, awaited)
            except StopIteration:
                for arena in arenas:
                    arena.trim()  # until the next validation may be hours, and no worker allocates
                return
            finally:
                self.data_wait_seconds += time.perf_counter() - started
            yield batch
            del batch  # its memory is reused

    def _next_batch(self, batches: Iterator[Any], awaited: Sequence[int]) -> Any:
        """Return the next batch, or raise if a worker was killed or hangs.

        The error of torch's signal handler for a killed worker is lost if it interrupts a
        finalizer, such as those that free the frames of a batch. So torch looks for killed workers
        after every timeout, too. A worker that is killed while its batch is received resets the
        connection before the kernel lets the parent see its end.
        """
        deadline = time.perf_counter() + self.timeout_seconds
        while True:
            try:
                return next(batches)
            except RuntimeError as error:
                if TORCH_TIMEOUT_MESSAGE not in str(error):
                    raise
                if time.perf_counter() < deadline:
                    continue
                _kill_workers(batches._workers)  # type: ignore[attr-defined]
                raise ShardError(self._describe_hang(awaited)) from error
            except (OSError, EOFError) as error:
                _raise_if_worker_ended(getattr(batches, "_workers", ()), error)
                raise

    def _describe_hang(self, awaited: Sequence[int]) -> str:
        dataset: TrainingDataset | ValidationDataset = self.dataset  # type: ignore[assignment]
        locations = [dataset.describe_location(index) for index in awaited if index != DUMMY_INDEX]
        reading = f"reading {list_first(locations, '; ')}. Check whether that can be read"
        if not locations:
            reading = "without a sample to read, so no file is at fault. Check the machine's memory"
        return (
            f"A DataLoader worker hangs: no batch within"
            f" data.timeout_seconds={self.timeout_seconds:g}. It is {reading}, or set"
            " a larger timeout. The same command resumes from the newest checkpoint."
        )


def _init_worker(arenas: Sequence[SharedArena], worker: int) -> None:
    ignore_job_signals()
    if arenas:
        set_worker_arena(arenas[worker])


def ignore_job_signals() -> None:
    """Make a worker ignore SIGUSR1 and SIGTERM unless its rank sent SIGTERM.

    SLURM sends these signals to all processes of a job. The workers must continue reading until
    their rank has saved a checkpoint, and the rank itself ends its workers with SIGTERM. The sender
    tells the two apart: signal handlers do not receive it, but `sigwaitinfo` does. So both signals
    are blocked in all threads of the worker, and one thread waits for them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)  # inherited by threads started later
    threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(rank: int) -> None:
    while True:
        received = signal.sigwaitinfo(JOB_SIGNALS)
        if received.si_signo == signal.SIGTERM and received.si_pid == rank:
            os._exit(0)  # torch would report any other status as a failure


def _kill_workers(workers: Sequence[BaseProcess]) -> None:
    """Kill all workers.

    A hanging one may ignore SIGTERM, and the exit of this process would wait for it.
    """
    for worker in workers:
        with suppress(RuntimeError):  # torch's SIGCHLD handler reports the killed worker
            worker.kill()
            worker.join(KILL_TIMEOUT_SECONDS)


def _raise_if_worker_ended(workers: Sequence[BaseProcess], error: Exception) -> None:
    """Raise an error as torch's for a killed worker if one of `workers` ends within seconds."""
    sentinels = [worker.sentinel for worker in workers]
    ended = connection.wait(sentinels, KILL_TIMEOUT_SECONDS) if sentinels else []
    for worker in workers:
        if worker.sentinel in ended:
            raise RuntimeError(f"DataLoader worker (pid {worker.pid}) was killed") from error
