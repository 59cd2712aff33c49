"""The thin LightningModule around the model: what a step does, and what is logged of it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import lightning as L
import torch
from torch import Generator, Tensor

from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.splice import prompts_of
from lit_hour.processor import Processor
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.text.verdict import is_right
from lit_hour.training.optim import build_optimizer, freeze_parts, parts_of
from lit_hour.training.scores import AnswerAccuracy
from lit_hour.types import Batch, Question


@dataclass(frozen=True)
class Said:
    """What the model answered in validation, and whether it was right; `visual` is its place in the batch."""

    visual: int
    question: Question
    text: str
    is_right: bool


class HourLLaVAModule(L.LightningModule):
    """Trains and validates the model on batches of videos and texts."""

    def __init__(self, config: Config, processor: Processor, num_steps: int) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = processor.tokenizer
        self.num_steps = num_steps
        self.model = HourLLaVA(config, len(self.tokenizer))
        self.scores = AnswerAccuracy()
        freeze_parts(self.model, config.training)

    def sizes(self) -> dict[str, int]:
        """Parameters of each part."""
        return {part: sum(map(torch.numel, parameters)) for part, parameters in parts_of(self.model).items()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch: `()`."""
        loss = self.model(batch, self._forgetting_generators(batch))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch.input_ids))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Said]:  # type: ignore[override]
        """Loss and answers; each visual is remembered once for both and for all its questions.

        Raises:
            QuestionError: a question and its answer do not fit beside the visual tokens.
        """
        if not batch.keys[0]:  # nothing could be read
            return []
        repositories = self.model.remember(batch.visuals)
        inputs = self.model.read(batch, repositories)
        if inputs.num_cut:
            raise QuestionError(
                f"{inputs.num_cut} questions about {batch.keys[0]} do not fit beside its tokens in"
                f" text.max_tokens={self.config.text.max_tokens}: raise it, or forget more (model.memory)"
            )
        loss = self.model.language.loss(inputs)
        self.log("validation/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch.input_ids))
        answers = self.model.language.generate(
            prompts_of(inputs), self.config.answer.max_new_tokens, end_of_turn_id(self.tokenizer)
        )
        texts = self.tokenizer.batch_decode(torch.stack(list(answers), dim=1), skip_special_tokens=True)  # (texts,)
        said = [
            Said(visual, questions[0], text, is_right(questions[0], text))
            for visual, questions, text in zip(batch.visual_of_text, batch.questions, texts, strict=True)
            if questions
        ]
        for answer in said:
            self.scores.update(answer.question, answer.is_right)
        return said

    def on_validation_epoch_end(self) -> None:
        """Accuracy per question format and per task."""
        for name, value in self.scores.compute().items():
            self.log(f"validation/{name}", value, prog_bar=name == "accuracy/multiple_choice")
        self.scores.reset()

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
        done = {"ready": num_batches, "started": num_batches, "processed": num_batches, "completed": num_batches - 1}
        state["epoch_loop.batch_progress"] = {"total": dict(done), "current": dict(done), "is_last_batch": False}
        state["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1

    def _forgetting_generators(self, batch: Batch) -> list[Generator]:
        """What each visual forgets depends on the seed and its place in the order alone, on any number of ranks."""
        positions = batch.positions or (-1,) * len(batch.visuals)  # a batch of which nothing could be read
        seeds = [f"{self.config.run.seed} {position}".encode() for position in positions]
        return [torch.Generator().manual_seed(int.from_bytes(sha256(seed).digest()[:7], "big")) for seed in seeds]
