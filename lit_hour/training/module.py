"""The thin LightningModule around the model: what a step does, and what is logged of it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import lightning as L
import torch
from torch import Generator, Tensor
from torchmetrics import MeanMetric

from lit_hour.config.schema import Config
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.meta_init import init_missing_weights, materialize
from lit_hour.processor import Processor
from lit_hour.text.answer_matching import is_correct
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.training.metrics import AnswerAccuracy, HaystackAccuracy
from lit_hour.training.optim import build_optimizer, freeze_parts, parameters_by_part
from lit_hour.training.parallelize import blocks_of, checkpoint_blocks, compile_blocks, shard
from lit_hour.types import Batch, Question, Video, Visual
from lit_hour.weights.pretrained import load_pretrained_weights


@dataclass(frozen=True)
class Prediction:
    """What the model answered in validation, and whether it was right; `visual` is its place in the batch."""

    visual: int
    question: Question
    text: str
    is_right: bool


class HourLLaVAModule(L.LightningModule):
    """Trains and validates the model on batches of videos and texts.

    A model that is to be sharded takes no memory until Lightning has started the ranks.
    """

    def __init__(
        self, config: Config, processor: Processor, num_steps: int, init_from_scratch: bool = True
    ) -> None:
        """Build the model; one that is new begins with the weights that the settings name, another has a checkpoint's."""
        super().__init__()
        self.config = config
        self.tokenizer = processor.tokenizer
        self.num_steps = num_steps
        self.is_sharded = config.training.strategy == "fsdp"
        self._is_new, self._is_configured = init_from_scratch, False
        with torch.device("meta") if self.is_sharded else nullcontext():
            self.model = HourLLaVA(config, len(self.tokenizer))
        self.val_loss = (
            MeanMetric()
        )  # Lightning's own mean over ranks is wrong where they have unequal numbers
        self.scores = AnswerAccuracy()
        self.haystack = HaystackAccuracy()
        self.haystack_counts = torch.zeros(0)  # of the latest validation: (2, lengths, depths)
        freeze_parts(self.model, config.training)

    def configure_model(self) -> None:
        """Make the model ready for the first step: its blocks, its share of the weights, and where it starts from."""
        if self._is_configured:  # Lightning asks again for a validation
            return
        self._is_configured = True
        if self.config.training.compile:
            compile_blocks(blocks_of(self.model))
        if self.config.training.activation_checkpointing:
            checkpoint_blocks(blocks_of(self.model))
        if self.is_sharded:
            assert self.device_mesh is not None
            shard(self.model, self.device_mesh["data_parallel"], self.config.training.precision)
            materialize(self.model, self.trainer.strategy.root_device)
        known = load_pretrained_weights(self.model, self.config) if self._is_new else set()
        if self.is_sharded and self._is_new:
            init_missing_weights(self.model, self.config, known)

    def sizes(self) -> dict[str, int]:
        """Parameters of each part."""
        return {
            part: sum(map(torch.numel, parameters))
            for part, parameters in parameters_by_part(self.model).items()
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch: `()`."""
        return self.model(batch, self._forgetting_generators(batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:  # type: ignore[override]
        """Loss and answers; each visual is remembered once for both and for all its questions.

        Raises:
            QuestionError: a question and its answer do not fit beside the visual tokens.
        """
        is_nothing = not batch.keys[
            0
        ]  # nothing could be read, or there was nothing left for this rank
        if is_nothing and not self.is_sharded:
            return []
        loss, answers = self.model.examine(
            batch,
            self.config.generation.max_new_tokens,
            end_of_turn_id(self.tokenizer),
            self._any_rank,
        )
        if is_nothing:
            return []
        self.val_loss.update(loss, weight=len(batch.input_ids))
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)  # (texts,)
        said = [
            Prediction(visual, questions[0], text, is_correct(questions[0], text))
            for visual, questions, text in zip(
                batch.visual_of_text, batch.questions, texts, strict=True
            )
            if questions
        ]
        for answer in said:
            self.scores.update(answer.question, answer.is_right)
            self.haystack.update(
                answer.question, _duration_seconds(batch.visuals[answer.visual]), answer.is_right
            )
        return said

    def on_validation_epoch_end(self) -> None:
        """Loss, and accuracy per question format and per task, over all ranks, which may have seen more or fewer texts."""
        self.log("validation/loss", self.val_loss.compute(), prog_bar=True)
        self.val_loss.reset()
        for name, value in self.scores.compute().items():
            self.log(f"validation/{name}", value, prog_bar=name == "accuracy/multiple_choice")
        self.scores.reset()
        self.haystack_counts = self.haystack.compute()
        self.haystack.reset()

    def configure_optimizers(self) -> Any:
        """One group for each part that learns."""
        return build_optimizer(self.model, self.config.training, self.num_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning counts micro-batches; how many a step has may have changed with the ranks or the batch size.

        Whenever the checkpoint was saved, it then reads as if that was at the end of the step's last micro-batch. From there
        Lightning goes on with the next step, without another validation, and the steps in TensorBoard go on without a gap.
        """
        step = checkpoint["global_step"]
        num_batches = step * self.trainer.accumulate_grad_batches
        state = checkpoint["loops"]["fit_loop"]
        done = {
            "ready": num_batches,
            "started": num_batches,
            "processed": num_batches,
            "completed": num_batches - 1,
        }
        state["epoch_loop.batch_progress"] = {
            "total": dict(done),
            "current": dict(done),
            "is_last_batch": False,
        }
        state["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1

    def _any_rank(self, is_true: bool) -> bool:
        """Whether something is true on any of the ranks that share the model."""
        return (
            self.trainer.strategy.reduce_boolean_decision(is_true, all=False)
            if self.is_sharded
            else is_true
        )

    def _forgetting_generators(self, batch: Batch) -> list[Generator]:
        """What each visual forgets depends on the seed and its place in the order alone, on any number of ranks."""
        positions = batch.positions or (-1,) * len(
            batch.visuals
        )  # a batch of which nothing could be read
        seeds = [f"{self.config.run.seed} {position}".encode() for position in positions]
        return [
            torch.Generator().manual_seed(int.from_bytes(sha256(seed).digest()[:7], "big"))
            for seed in seeds
        ]


def _duration_seconds(visual: Visual | None) -> float:
    """Of a video, to its last frame; 0 of what has no duration."""
    return float(visual.timestamps[-1]) if isinstance(visual, Video) and len(visual) else 0.0
