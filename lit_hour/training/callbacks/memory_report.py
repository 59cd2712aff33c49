"""Explain an out-of-memory error of a run in one line, with the largest sample of the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_hour.config.schema import Config
from lit_hour.io.out_of_memory import explain_out_of_memory
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import Batch, Video

MAX_REASON_LENGTH = 200  # characters of the original error


@dataclass(frozen=True)
class BatchSize:
    """Sizes of the samples of a batch, without its tensors.

    Attributes:
        keys: of the samples.
        num_frames: frames, tiles or images of each sample.
        num_visual_tokens: in the memory repository of each sample.
        visual_of_text: for each text, the index of its sample.
        num_text_tokens: `(texts,)`, on the device of the batch; read only when memory ran out, so
            that no step waits for it.
    """

    keys: tuple[str, ...]
    num_frames: tuple[int, ...]
    num_visual_tokens: tuple[int, ...]
    visual_of_text: tuple[int, ...]
    num_text_tokens: Tensor

    @classmethod
    def of(cls, batch: Batch, vision: VisionEncoder) -> BatchSize:
        """Measure a batch."""
        num_frames = tuple(0 if visual is None else len(visual) for visual in batch.visuals)
        per_frame = [
            1 + (vision.tokens_per_frame if isinstance(visual, Video) else vision.tokens_per_image)
            for visual in batch.visuals
        ]
        num_visual_tokens = tuple(map(int.__mul__, num_frames, per_frame))
        num_text_tokens = batch.attention_mask.sum(dim=1)  # (texts,)
        return cls(batch.keys, num_frames, num_visual_tokens, batch.visual_of_text, num_text_tokens)

    def describe_largest(self) -> tuple[int, str]:
        """Return the number of tokens of the largest sample, and a description of it."""
        text_tokens = [0] * len(self.keys)
        for visual, number in zip(self.visual_of_text, self.num_text_tokens.tolist(), strict=True):
            text_tokens[visual] += number
        totals = list(map(int.__add__, self.num_visual_tokens, text_tokens))
        index = totals.index(max(totals))
        return totals[index], (
            f"{self.keys[index]}, with {self.num_visual_tokens[index]} visual tokens"
            f" ({self.num_frames[index]} frames) and {text_tokens[index]} text tokens"
        )


class OutOfMemoryReport(Callback):
    """Keeps the sizes of the samples of the step in progress, for `explained`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._batches: list[BatchSize] = []
        self._where = "before the first step"

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Add the sizes of a micro-batch; at the start of a step, clear them."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches = []
        self._where = f"in step {trainer.global_step + 1} on rank {trainer.global_rank}"
        self._batches.append(BatchSize.of(batch, pl_module.model.vision))  # type: ignore[union-attr, arg-type]

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the sizes of a batch of the validation."""
        self._where = f"in the validation on rank {trainer.global_rank}"
        self._batches = [BatchSize.of(batch, pl_module.model.vision)]  # type: ignore[union-attr, arg-type]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Replace an out-of-memory error by a line with the sample and the settings.

        Raises:
            OutOfMemoryError: memory ran out on a CPU or GPU, or in a data worker.
        """
        with explain_out_of_memory(self._describe):
            yield

    def _describe(self, error: BaseException) -> str:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH].rstrip(".")
        if "DataLoader worker" in reason:
            return (
                "Out of memory in a data worker. Lower"
                f" data.num_workers={self._config.data.num_workers} or"
                f" video.max_frames={self._config.video.max_frames}."
            )
        sizes = [size.describe_largest() for size in self._batches if size.keys]
        largest = f" The largest sample of the step here: {max(sizes)[1]}." if sizes else ""
        return (
            f"Out of memory {self._where}.{largest} To need less: {self._advice()}."
            f" The error: {reason or type(error).__name__}."
        )

    def _advice(self) -> str:
        """Return the settings that shrink a step, the cheapest first."""
        training, data = self._config.training, self._config.data
        advice = []
        if not training.activation_checkpointing:
            advice.append("training.activation_checkpointing=true")
        if data.tokens_per_batch:
            advice.append(f"data.tokens_per_batch below {data.tokens_per_batch}")
        elif data.micro_batch_size > 1:
            advice.append(f"data.micro_batch_size below {data.micro_batch_size}")
        advice += [
            f"video.max_frames below {self._config.video.max_frames}",
            f"text.max_tokens below {self._config.text.max_tokens}",
        ]
        if training.strategy != "fsdp":
            advice.append("training.strategy=fsdp with several GPUs")
        return ", ".join(advice)
