"""Train a run: tokenizer, data, module, Trainer, fit, scores. Starting it again resumes it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning as L
import torch

from lit_hour.config.load import save_config
from lit_hour.config.schema import Config
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.data.sources import open_sources
from lit_hour.io.atomic import atomic_dir
from lit_hour.io.file_lock import dir_lock
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import (
    copy_tokenizer,
    hash_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_byte_level_tokenizer,
)
from lit_hour.training.callbacks.checkpointing import LeaseCheck
from lit_hour.training.callbacks.memory_report import OutOfMemoryReport
from lit_hour.training.checkpoints.checkpoint_io import repair_checkpoint_dir
from lit_hour.training.checkpoints.resume import (
    check_weights,
    config_for_resume,
    find_resume_point,
)
from lit_hour.training.loggers import TABLE_NAME
from lit_hour.training.module import HourLLaVAModule
from lit_hour.training.optim import describe_schedule_change
from lit_hour.training.optional_packages import check_optional_packages
from lit_hour.training.run_lease import RunLease, hold_run, is_rank_zero
from lit_hour.training.signals import ShutdownSignal
from lit_hour.training.trainer_setup import (
    build_callbacks,
    build_trainer,
    check_accelerator,
    check_quantization,
    readable_messages,
)
from lit_hour.weights.pretrained import config_for_new_run, open_pretrained, pretrained_tokenizer
from lit_hour.weights.reader import read_checkpoint

TOKENIZER_ORIGIN = "made_from.txt"  # beside the tokenizer's files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """A finished run.

    Attributes:
        run: its directory.
        step: the last one.
        scores: metrics of the last validation by name.
        num_haystack_answers: answers of the last validation that `haystack.png` counts.
        logger: `training.logger`.
    """

    run: RunDir
    step: int
    scores: dict[str, float]
    num_haystack_answers: int = 0
    logger: Literal["tensorboard", "csv", "wandb"] = "tensorboard"

    def report(self, video: str = "VIDEO.mp4", question: str = "QUESTION", answer: str = "") -> str:
        """Format the scores, with the accuracy of guessing, and the commands to try next.

        Args:
            video: a video file for the `ask` command.
            question: a question about it.
            answer: the true answer, if it is known.
        """
        lines = [f"\n{self.run.path}: step {self.step}"]
        for format in ("multiple_choice", "open_ended"):
            accuracy = self.scores.get(f"val/acc/{format}")
            chance = self.scores.get(f"val/chance/{format}")
            if accuracy is not None:
                guessing = f" (guessing: {chance:.1%})" if chance is not None else ""
                lines.append(f"  {format.replace('_', ' ')} accuracy: {accuracy:.1%}{guessing}")
        for key, task in TASK_OF_KEY.items():
            accuracy = self.scores.get(f"val/acc/{key}")
            if accuracy is not None:
                lines.append(f"  {task.name} accuracy: {accuracy:.1%}")
        lines.append(f"  accuracy by video length and depth: {self._describe_haystack()}")
        python = os.path.relpath(sys.executable) if sys.prefix != sys.base_prefix else "python"
        view = {
            "tensorboard": [python, "-m", "tensorboard.main", "--logdir"],
            "csv": ["less", "-S"],
            "wandb": ["wandb", "sync", "--sync-all"],  # needed after WANDB_MODE=offline
        }[self.logger]
        ask = [python, "-m", "lit_hour", "ask", video, question, "--run", str(self.run.path)]
        serve = [python, "-m", "lit_hour", "serve", "--run", str(self.run.path)]
        lines += [
            "\nwhat to try next:",
            f"  {shlex.join([*view, str(self._metrics)])}",
            f"  {shlex.join(ask)}" + (f"   # true answer: {answer}" if answer else ""),
            f"  {shlex.join(serve)}   # the same in a browser",
        ]
        return "\n".join(lines)

    @property
    def _metrics(self) -> Path:
        """The file or folder that the logger has written."""
        if self.logger == "csv":
            return self.run.metrics / TABLE_NAME
        return self.run.wandb / "wandb" if self.logger == "wandb" else self.run.tensorboard

    def _describe_haystack(self) -> str:
        """Return the path of the heat map, or why none was drawn."""
        if not self.num_haystack_answers:
            return (
                "nothing to draw, since no answer has its evidence within one tenth of its video"
                " (synthetic.difficulty=needles makes such questions)"
            )
        if not self.run.haystack_plot.exists():
            return "not drawn, since training.num_val_images=0"
        return f"{self.run.haystack_plot} ({self.num_haystack_answers} answers)"


def fit(config: Config, shutdown: ShutdownSignal | None = None) -> FitResult:
    """Train a run from its newest checkpoint, or from the start, to its last step, and validate it.

    Args:
        config: the settings of the run.
        shutdown: handler of SIGINT, SIGUSR1 and SIGTERM; a new one by default.

    Raises:
        RunError: another process trains this run.
    """
    check_accelerator(config.training)
    check_optional_packages(config.training)
    check_quantization(config)
    run = RunDir.from_config(config.run)
    shutdown = shutdown or ShutdownSignal()
    with hold_run(run) as lease:
        shutdown.before_abort = lease.release
        return _fit(config, run, lease, shutdown)


def _fit(config: Config, run: RunDir, lease: RunLease, shutdown: ShutdownSignal) -> FitResult:
    if removed := repair_checkpoint_dir(run, is_rank_zero()):
        log.info("Removed incomplete checkpoints: %s", ", ".join(map(str, removed)))
    resume_point = find_resume_point(run)
    checkpoint = resume_point.checkpoint
    log.info("run %s: %s", run.path, resume_point.description)
    if checkpoint is not None:
        config = config_for_resume(config, checkpoint)
    else:
        config = config_for_new_run(config)
        open_pretrained(config)  # weights that do not fit are refused before anything is written

    L.seed_everything(config.run.seed, workers=True)
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    run.path.mkdir(parents=True, exist_ok=True)
    save_config(config, run.config)
    if checkpoint is None:
        make_tokenizer(config, run)
    processor = HourLLaVAProcessor(load_tokenizer(run.tokenizer), config.text, config.model.memaug)
    data = VideoQADataModule(config, processor)
    log.info("data: %s", data.describe())
    module = HourLLaVAModule(
        config,
        len(processor.tokenizer),
        data.num_steps,
        weights_from_checkpoint=checkpoint is not None,
    )
    if checkpoint is not None:
        check_weights(module.model, checkpoint, config)
        former = read_checkpoint(checkpoint)["hyper_parameters"]
        step = resume_point.step
        if change := describe_schedule_change(former, config.training, data.num_steps, step):
            log.warning(change)
    log.info("model: %s", module.describe())

    memory_report = OutOfMemoryReport(config)
    callbacks = [LeaseCheck(lease), memory_report, *build_callbacks(config, run, data, shutdown)]
    trainer = build_trainer(config, run, data, callbacks, resume_point.step)
    with shutdown.installed(), readable_messages(), memory_report.explained():
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if not trainer.callback_metrics:
            log.info(
                "Run %s has finished its %d steps. Raise training.max_steps to continue.",
                run.path,
                data.num_steps,
            )
        num_micro_batches = data.num_steps * trainer.accumulate_grad_batches
        if not trainer.callback_metrics or num_micro_batches % trainer.val_check_interval:
            trainer.validate(module, datamodule=data, verbose=False)
    scores = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    num_haystack_answers = int(module.haystack_counts[:1].sum())
    return FitResult(run, trainer.global_step, scores, num_haystack_answers, config.training.logger)


def make_tokenizer(config: Config, run: RunDir) -> None:
    """Create a new run's tokenizer: copy the configured one, or train one on the questions.

    An existing tokenizer of the same origin is kept. All ranks call this, one after the other.
    """
    source = pretrained_tokenizer(config)
    shards = () if source else open_sources(config).values()
    if source is not None:
        origin = hash_tokenizer(source)
    else:
        fingerprints = [index.fingerprint for folder in shards for index in folder.indexes]
        origin = json.dumps([config.text.vocab_size, config.text.mcq_format, fingerprints])
    with dir_lock(run.path):
        note = run.tokenizer / TOKENIZER_ORIGIN
        if note.is_file() and note.read_text(encoding="utf-8") == origin:
            return
        with atomic_dir(run.tokenizer) as folder:
            if source is not None:
                copy_tokenizer(source, folder)
            else:
                texts = (
                    message.text.strip()
                    for folder_of_shards in shards
                    for entry in folder_of_shards.entries
                    for question in folder_of_shards.read(entry).questions
                    for message in build_conversation([question], config.text).messages
                )
                tokenizer = train_byte_level_tokenizer(texts, config.text.vocab_size)
                save_tokenizer(tokenizer, folder)
            (folder / TOKENIZER_ORIGIN).write_text(origin, encoding="utf-8")
