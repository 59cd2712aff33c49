"""LightningModule around the model: training and validation steps, metrics and the optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from torchmetrics import MeanMetric

from lit_hour.config.load import config_from_dict
from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError
from lit_hour.io.sampling import seed_of
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.language_model import LLMInputs
from lit_hour.model.lora import reset_magnitudes
from lit_hour.model.meta_init import missing_weights
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.text.answer_matching import is_correct
from lit_hour.text.time_intervals import parse_intervals, true_intervals
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.training.checkpoints.optimizer_state import check_groups
from lit_hour.training.lightning_state import has_trainer, move_to_end_of_step
from lit_hour.training.metrics import (
    AnswerAccuracy,
    HaystackAccuracy,
    NamedMeans,
    TemporalIoU,
    named_means,
)
from lit_hour.training.objectives.step import Answer, StepInputs
from lit_hour.training.objectives.table import build_objective
from lit_hour.training.optim import (
    build_optimizer,
    freeze_parts,
    has_fused_adamw,
    local_gradients,
    parameter_groups,
    parameters_by_part,
    total_gradient_norm,
    update_learning_rates,
)
from lit_hour.training.parallelize import TRUE_BF16, ShardedStrategy, parallelize
from lit_hour.types import Batch, Question, Video, Visual
from lit_hour.weights.base_weights import BASE_WEIGHTS, BaseRecord, frozen_names
from lit_hour.weights.name_map import EMBEDDING
from lit_hour.weights.pretrained import load_pretrained_weights, open_base, record_frozen_base
from lit_hour.weights.reader import MODEL_PREFIX, load_into

OBJECTIVE_KEY = "objective"  # in a checkpoint: the state of an objective that has any


@dataclass(frozen=True)
class Prediction:
    """The model's answer to a validation question; `visual_index` points into `Batch.visuals`."""

    visual_index: int
    question: Question
    text: str
    is_correct: bool


class HourLLaVAModule(L.LightningModule):
    """Trains and validates the model.

    A model that is going to be sharded, or is trained in bf16-true, is on the meta device until
    Lightning has started the ranks. The data module of the Trainer provides the tokenizer.
    """

    def __init__(
        self,
        config: Config | dict[str, Any],
        num_tokens: int,
        num_steps: int,
        weights_from_checkpoint: bool = False,
    ) -> None:
        """Build the model.

        Args:
            config: the settings; a nested dict in a checkpoint's hyper-parameters.
            num_tokens: size of the tokenizer.
            num_steps: optimizer steps of the whole run, for the learning rate schedule.
            weights_from_checkpoint: whether a checkpoint brings all weights. Otherwise
                `configure_model` loads the pretrained weights that the settings name.
        """
        super().__init__()
        if not isinstance(config, Config):
            config = config_from_dict(config, origin="the hyper-parameters of the checkpoint")
        self.save_hyperparameters(
            {
                "config": asdict(config),
                "num_tokens": num_tokens,
                "num_steps": num_steps,
                "weights_from_checkpoint": True,
            },
            logger=False,
        )
        self.config, self.num_steps = config, num_steps
        self.is_sharded = config.training.strategy == "fsdp"
        self._weights_from_checkpoint, self._is_configured = weights_from_checkpoint, False
        self._base: BaseRecord | None = None  # frozen weights that checkpoints leave out
        is_bf16 = config.training.precision == TRUE_BF16
        self._is_materialized_later = self.is_sharded or is_bf16
        with torch.device("meta") if self._is_materialized_later else nullcontext():
            self.model = HourLLaVA.from_config(config, num_tokens)
        if is_bf16:
            self.model.to(torch.bfloat16)  # without data: no float32 copy is ever in memory
        # Of this rank in the current step: summed loss and number of units, then sums and counts of
        # the objective's metrics, (2 + 2 * metrics,).
        self.objective = build_objective(config)
        self._step_totals = self._zero_totals()
        self.step_loss = torch.zeros(())  # of the latest step, over all micro-batches and ranks
        self.step_metrics: dict[str, float] = {}  # of the latest recorded step, by name
        self.step_gradient_norm = torch.zeros(())  # of the latest recorded step, before clipping
        self.val_loss = MeanMetric()
        self.accuracy = AnswerAccuracy()
        self.temporal_iou = TemporalIoU()
        self.val_metrics = NamedMeans(self.objective.metric_names)
        self.haystack = HaystackAccuracy()
        self.haystack_counts = torch.zeros(0)  # of the latest validation: (2, lengths, depths)
        freeze_parts(self.model, config.training)

    def configure_model(self) -> None:
        """Compile and shard the model, and load the pretrained weights that it starts from.

        Lightning calls this when the ranks have started, before it loads a checkpoint.
        """
        if self._is_configured:  # Lightning calls this again for a validation
            return
        self._is_configured = True
        strategy = self.trainer.strategy if has_trainer(self) else None
        device, mesh = self.device if strategy is None else strategy.root_device, None
        if isinstance(strategy, ShardedStrategy):
            mesh, device = strategy.sharding_mesh, strategy.weights_device
        elif self.is_sharded:  # with a strategy of the caller's own Trainer
            mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        parallelize(self.model, self.config.training, mesh)
        if self._is_materialized_later:
            self.model.materialize(device)
        if not self._weights_from_checkpoint:
            if self.config.training.save_weights == "learned":
                self._base = record_frozen_base(self.config, frozen_names(self.model))
            loaded = load_pretrained_weights(self.model, self.config)
            if self._is_materialized_later:
                load_into(self.model, missing_weights(self.model, loaded, self.config.run.seed))
            if not self.config.model.llm.lora.path:
                reset_magnitudes(self.model.llm)

    def describe(self) -> str:
        """Return the number of parameters of each part, in one line."""
        return ", ".join(
            f"{part} {sum(map(torch.numel, parameters)) / 1e6:.2f} M"
            for part, parameters in parameters_by_part(self.model).items()
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss of a micro-batch, `()`, and counts of its texts and tokens.

        The loss of a step is the mean over its units, which are its learned tokens with the default
        objective, on all ranks and in all micro-batches. So a micro-batch returns the sum over its
        units, and `on_before_optimizer_step` divides. The only micro-batch of a step returns the
        mean at once.
        """
        output = self.objective.training_output(
            self.model,
            StepInputs(
                batch,
                lambda: forgetting_generators(batch, self.config.run.seed),
                lambda: self.trainer.datamodule.processor,  # type: ignore[attr-defined]
                self.trainer.global_step,
            ),
        )
        num_units = output.num_units  # ()
        loss = output.loss if self._parts_per_step == 1 else output.loss * num_units  # ()
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._step_totals = self._zero_totals().to(loss.device)
        sums = torch.stack([output.loss.detach() * num_units, num_units])  # (2,)
        self._step_totals += torch.cat([sums, output.metrics.flatten()])  # (2 + 2 * metrics,)
        mask = output.inputs.attention_mask  # (texts, padded tokens)
        num_padding = (~mask).sum() * (not self.config.training.packing)  # ()
        return {
            "loss": loss,
            "num_truncated": output.inputs.num_truncated,
            "num_tokens": mask.sum() + num_padding,  # of the language model, padding included
            "num_padding_tokens": num_padding,
            "tokens_per_text": mask.sum(dim=1),  # (texts,), of the language model
            "targets_per_text": output.inputs.is_target.sum(dim=1),  # (texts,)
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide summed gradients by the units of the whole step, before clipping.

        The number is reduced here, not before the first backward pass: it depends on which samples
        could be read and which texts were truncated, and to know that, a rank would have to hold
        the videos of all its micro-batches at once.
        """
        totals = self.trainer.strategy.reduce(self._step_totals, reduce_op="sum")
        loss, num_units = totals[0], totals[1].clamp(min=1)  # (), ()
        self.step_loss = loss / num_units  # ()
        if self._parts_per_step > 1:
            # Lightning has averaged over the micro-batches; ddp and FSDP2 over the ranks.
            scale = self._parts_per_step / num_units  # ()
            for gradient in local_gradients(self):
                gradient.mul_(scale.to(gradient.device))
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.step_gradient_norm = total_gradient_norm(self)  # ()
            table = totals[2:].unflatten(0, (-1, 2))  # (metrics, 2)
            self.step_metrics = named_means(self.objective.metric_names, table)

    @property
    def _parts_per_step(self) -> int:
        """Micro-batches of an optimizer step, on all ranks together."""
        return self.trainer.accumulate_grad_batches * self.trainer.world_size

    def validation_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:  # type: ignore[override]
        """Update the metrics with the loss and the answers of a batch.

        Each visual is encoded once for both.

        Returns:
            The answers, for the plots; none for a dummy batch, which could not be read or only
            keeps the ranks of a sharded model in step.

        Raises:
            QuestionError: a question and its answer do not fit beside the visual tokens.
        """
        is_dummy_batch = not batch.keys[0]
        if is_dummy_batch and not self.is_sharded:
            return []
        tokenizer = self.trainer.datamodule.processor.tokenizer  # type: ignore[attr-defined]
        output = self.model(batch)
        if output.inputs.num_truncated:
            raise QuestionError(
                f"{output.inputs.num_truncated} questions about {batch.keys[0]} do not fit beside"
                f" its visual tokens in text.max_tokens={self.config.text.max_tokens}. Raise it, or"
                " keep fewer tokens (model.memaug)."
            )
        end_id = end_of_turn_id(tokenizer)
        generated = self.model.llm.generate(
            left_pad_prompts(output.inputs),
            self.config.generation.max_new_tokens,
            end_id,
            self._any_rank,
        )
        answers = torch.stack(list(generated), dim=1)  # (texts, tokens)
        if is_dummy_batch:
            return []
        self.val_loss.update(output.loss, weight=output.inputs.is_target.sum())
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)  # (texts,)
        self._update_val_metrics(batch, output.inputs, texts, (answers == end_id).any(dim=1))
        predictions = [
            Prediction(visual, questions[0], text, is_correct(questions[0], text))
            for visual, questions, text in zip(
                batch.visual_of_text, batch.questions, texts, strict=True
            )
            if questions
        ]
        for prediction in predictions:
            question, right = prediction.question, prediction.is_correct
            self.accuracy.update(question, right)
            intervals = true_intervals("" if question.options else question.answer)
            self.temporal_iou.update(parse_intervals(prediction.text), intervals)
            seconds = _duration_seconds(batch.visuals[prediction.visual_index])
            self.haystack.update(question, seconds, right)
        return predictions

    def on_validation_epoch_end(self) -> None:
        """Log loss, accuracies and the objective's metrics over all ranks.

        The metrics are logged here and not in `validation_step`, since ranks may have unequal
        numbers of batches, or none with a text. The accuracies are computed here because Lightning
        cannot log a metric that returns a dict, and groups without a question are left out.
        """
        self.log("val/loss", self.val_loss, prog_bar=True)  # Lightning computes and resets it
        for name, value in self.accuracy.compute().items():
            self.log(f"val/{name}", value, prog_bar=name == "acc/multiple_choice")
        metrics = self.val_metrics.compute() if self.objective.metric_names else {}
        self.objective.check_validation(metrics)
        for name, value in (self.temporal_iou.compute() | metrics).items():
            self.log(f"val/{name}", value)
        self.val_metrics.reset()
        self.accuracy.reset()
        self.temporal_iou.reset()
        self.haystack_counts = self.haystack.compute()
        self.haystack.reset()

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with one group for each trained part, and its schedule."""
        return build_optimizer(self.model, self.config.training, self.num_steps)

    def on_fit_start(self) -> None:
        """Quantize the frozen weights, which are loaded now, from their source or a checkpoint."""
        self.model.llm.quantize_frozen_layers()

    def on_train_start(self) -> None:
        """Follow this start's schedule, which may be another than the checkpoint's."""
        update_learning_rates(self.lr_schedulers())  # type: ignore[arg-type]
        self.objective.start(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the objective's state; leave out the frozen base, and record its digests."""
        if state := self.objective.state_dict():
            checkpoint[OBJECTIVE_KEY] = state
        if self._base is None:
            return
        for name in self._base.omitted(self.config.model.llm.tie_word_embeddings):
            checkpoint["state_dict"].pop(name, None)
        checkpoint[BASE_WEIGHTS] = self._base.to_entry()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the base's weights, and adapt Lightning's progress and the optimizer's groups.

        Raises:
            WeightsError: the checkpoint's optimizer has other groups of parameters, or its base is
                missing or another.
        """
        self._base = BaseRecord.of_checkpoint(checkpoint)
        if self._base is not None and "state_dict" in checkpoint:  # a sharded model is filled
            checkpoint["state_dict"] |= self._read_base(self._base)
        if not has_trainer(self):
            return
        self.objective.load_state_dict(checkpoint.get(OBJECTIVE_KEY, {}))
        move_to_end_of_step(checkpoint, self.trainer.accumulate_grad_batches)
        strategy = self.trainer.strategy
        device = strategy.root_device
        if isinstance(strategy, ShardedStrategy):
            device = strategy.weights_device
        fused = has_fused_adamw(device) or None
        for state in checkpoint.get("optimizer_states", ()):
            groups = state["param_groups"]
            check_groups(groups, parameter_groups(self.model, self.config.training))
            for group in groups:
                group.update(fused=fused, foreach=None)

    def _read_base(self, record: BaseRecord) -> dict[str, torch.Tensor]:
        """Return the weights that a checkpoint leaves out, by their names in `state_dict`."""
        base = open_base(record, self.config, "The checkpoint")
        weights = {f"{MODEL_PREFIX}{name}": weight for name, weight in base.tensors()}
        for name in record.omitted(self.config.model.llm.tie_word_embeddings) - weights.keys():
            weights[name] = weights[f"{MODEL_PREFIX}{EMBEDDING}"]  # the tied output layer
        return weights

    def _zero_totals(self) -> torch.Tensor:
        """Return the totals of a step before its first micro-batch, `(2 + 2 * metrics,)`."""
        return torch.zeros(2 + 2 * len(self.objective.metric_names))  # (2 + 2 * metrics,)

    def _update_val_metrics(
        self, batch: Batch, inputs: LLMInputs, texts: Sequence[str], has_ended: torch.Tensor
    ) -> None:
        """Update the objective's metrics with the answers to a batch; `has_ended` is `(texts,)`."""
        if not self.objective.metric_names:
            return
        processor = self.trainer.datamodule.processor  # type: ignore[attr-defined]
        answers = [Answer(*one) for one in zip(texts, has_ended.tolist(), strict=True)]
        step = StepInputs(batch, lambda: None, lambda: processor)
        table = self.objective.validation_metrics(self.model, step, inputs, answers)
        self.val_metrics.update(table)

    def _any_rank(self, is_true: bool) -> bool:
        """Return whether the flag is set on any of the ranks that share the model."""
        if not self.is_sharded:
            return is_true
        return self.trainer.strategy.reduce_boolean_decision(is_true, all=False)


def forgetting_generators(batch: Batch, seed: int) -> list[torch.Generator]:
    """Return a generator for each text of a batch, for the draws of forgetting.

    They depend on the run's seed, the position of the text's sample in the order, and the number of
    the text in the sample. So micro-batches and ranks do not change what is drawn.
    """
    positions = batch.positions or (-1,) * len(batch.visuals)  # a dummy batch has no positions
    num_before: Counter[int] = Counter()  # texts of each visual
    generators = []
    for visual in batch.visual_of_text:
        number = f" {num_before[visual]}" if num_before[visual] else ""
        num_before[visual] += 1
        text_seed = seed_of(f"{seed} {positions[visual]}{number}")
        generators.append(torch.Generator().manual_seed(text_seed))
    return generators


def _duration_seconds(visual: Visual | None) -> float:
    """Return the time of a video's last frame; 0 for images."""
    return float(visual.timestamps[-1]) if isinstance(visual, Video) and len(visual) else 0.0
