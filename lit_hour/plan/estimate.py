"""Estimate a run on a cluster: the trace of its step, and the time that it takes.

Entry point: `estimate_run`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from lit_hour.config.data import resolve_num_workers
from lit_hour.config.schema import Config
from lit_hour.plan.gpus import Cluster
from lit_hour.plan.longest_sample import (
    FRAME_TIME_TOKENS,
    LongestSample,
    conversations_per_sample,
)
from lit_hour.plan.memory_tracker import sent_bytes
from lit_hour.plan.model_sizes import num_tokens
from lit_hour.plan.step_size import micro_batches
from lit_hour.plan.trace import StepTrace, trace_step

GIB = 2**30
SECONDS_PER_DAY = 86_400
# The rest is for the CUDA context, NCCL's buffers, workspaces of kernels, and fragmentation.
USABLE_MEMORY = 0.9


@dataclass(frozen=True)
class Estimate:
    """A run on a cluster, by the trace of its step.

    Attributes:
        config: settings.
        cluster: machines.
        num_samples: of a micro-batch.
        num_micro_batches: of a rank in a step.
        trace: of one rank.
    """

    config: Config
    cluster: Cluster
    num_samples: int
    num_micro_batches: int
    trace: StepTrace

    @property
    def peak_gib(self) -> float:
        """The largest memory of a rank."""
        return self.trace.peak.total_bytes / GIB

    @property
    def fits(self) -> bool:
        """True if the peak is within the usable memory of a GPU."""
        return self.peak_gib <= USABLE_MEMORY * self.cluster.memory_gib

    @property
    def flops(self) -> float:
        """Operations of a rank in a step."""
        return float(sum(self.trace.flops.values()) * self.num_micro_batches)

    @property
    def compute_seconds(self) -> float:
        """Time of the operations of a step."""
        rate = self.cluster.flops_per_second(self.config.training.precision)
        return self.flops / (rate * self.cluster.mfu)

    @property
    def sent_bytes(self) -> dict[str, float]:
        """Bytes that a rank sends in a step, by the kind of link; see `Cluster.gb_per_second`."""
        total: dict[str, float] = {}
        for collective, num_bytes in self.trace.collectives.items():
            link = self.cluster.link_to(collective.last_rank)
            total[link] = total.get(link, 0.0) + sent_bytes(collective, num_bytes)
        return total

    @property
    def communication_seconds(self) -> float:
        """Time of the communication of a step."""
        return sum(
            num_bytes / 1e9 / self.cluster.gb_per_second(link)
            for link, num_bytes in self.sent_bytes.items()
        )

    @property
    def step_seconds(self) -> float:
        """Time of a step: communication overlaps with computation."""
        return max(self.compute_seconds, self.communication_seconds)

    @property
    def questions_per_day(self) -> float:
        """Questions that are learned in a day if every sample is the longest."""
        data = self.config.data
        samples = self.num_samples * self.num_micro_batches * self.cluster.num_ranks
        questions = samples * conversations_per_sample(self.config) * data.questions_per_sample
        return questions * SECONDS_PER_DAY / self.step_seconds

    @property
    def arena_gib(self) -> float:
        """CPU memory that the data workers of a rank may use for frames."""
        data = self.config.data
        return max(1, resolve_num_workers(data.num_workers)) * data.frame_arena_gb * 1e9 / GIB

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, for JSON; bytes, operations and seconds of one rank."""
        trace = self.trace
        return {
            "ranks": self.cluster.num_ranks,
            "cluster": asdict(self.cluster),
            "samples_per_micro_batch": self.num_samples,
            "micro_batches": self.num_micro_batches,
            "parameters": {
                part: {"all": number, "trained": trained}
                for part, (number, trained) in trace.num_parameters.items()
            },
            "memory_bytes": {
                "weights": trace.weights,
                "gradients": trace.gradients,
                "optimizer_state": trace.optimizer_state,
                "data": trace.data,
                "activations": trace.activations,
                "repository": trace.repository,
                "logits": trace.logits,
            },
            "peaks": {
                phase: {"bytes": peak.total_bytes, "moment": peak.moment, **peak.by_kind}
                for phase, peak in trace.peaks.items()
            },
            "peak_phase": trace.peak_phase,
            "peak_bytes": trace.peak.total_bytes,
            "fits": self.fits,
            "flops_per_step": {
                part: number * self.num_micro_batches for part, number in trace.flops.items()
            },
            "sent_bytes_per_step": sum(self.sent_bytes.values()),
            "compute_seconds": self.compute_seconds,
            "communication_seconds": self.communication_seconds,
            "step_seconds": self.step_seconds,
            "questions_per_day": self.questions_per_day,
        }


def estimate_run(config: Config, cluster: Cluster, sample: LongestSample) -> Estimate:
    """Trace a step of a run and estimate its time.

    Raises:
        ConfigError: the ranks cannot share a step, or the settings contradict each other.
    """
    num_ranks, data = cluster.num_ranks, config.data
    num_samples, num_micro_batches = data.micro_batch_size, micro_batches(config, num_ranks)
    if data.tokens_per_batch:
        num_samples = max(1, data.tokens_per_batch // language_tokens(config, sample))
    trace = trace_step(
        config,
        sample,
        num_tokens(config),
        num_ranks=num_ranks,
        num_samples=num_samples,
        num_micro_batches=num_micro_batches,
        on_gpu=config.training.accelerator != "cpu",
    )
    return Estimate(config, cluster, num_samples, num_micro_batches, trace)


def language_tokens(config: Config, sample: LongestSample) -> int:
    """Return the tokens of a sample for the language model; of an image without visual tokens."""
    num_texts = conversations_per_sample(config)
    if sample.kind == "image":
        return num_texts * sample.num_text_tokens
    num_frames = sample.num_kept_frames(config)
    num_kept = math.ceil(config.model.memaug.spatial_keep_ratio * config.model.vision.grid**2)
    num_text_tokens = sample.num_text_tokens + FRAME_TIME_TOKENS * sample.num_frame_times(config)
    return num_texts * (num_frames * (num_kept + 1) + num_text_tokens)
