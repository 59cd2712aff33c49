"""A run from its settings to its scores: tokenizer, data, model, trainer, fit. Starting it again continues it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lit_hour.config.load import save_config
from lit_hour.config.schema import Config
from lit_hour.data.datamodule import VideoQuestionData, sources_fingerprint, training_questions
from lit_hour.io.file_lock import locked
from lit_hour.processor import Processor
from lit_hour.run_dir import RunDir
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import (
    TOKENIZER_FILE,
    copy_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_byte_level_tokenizer,
)
from lit_hour.training.callbacks.build import build_callbacks
from lit_hour.training.callbacks.preemption import slurm_environment
from lit_hour.training.checkpoints.checkpoint_io import ShardedCheckpointIO, repair_checkpoint_dir
from lit_hour.training.checkpoints.resume import check_weights, config_for_resume, find_resume_point
from lit_hour.training.distributed import SHUTDOWN_SIGNAL, explain_crashes
from lit_hour.training.module import HourLLaVAModule
from lit_hour.training.parallelize import sharing
from lit_hour.training.trainer_setup import hardware, precision_plugins
from lit_hour.weights.pretrained import config_for_new_run, pretrained_tokenizer

BESIDE_THE_POINT = (  # what Lightning warns of here
    ".*your dataloader is not resumable",  # the data module is: it starts its loader at the right sample
    ".*does not have many workers",  # they are a setting, and the share of time spent waiting for data is in TensorBoard
    ".*exists and is not empty",  # a run that continues
    ".*sync_dist=True",  # the scores are those of all ranks
    ".*LeafSpec",  # of its own use of torch
)
ORIGIN = "made_from.txt"  # beside the tokenizer's files
log = logging.getLogger("lit_hour")


@dataclass(frozen=True)
class Outcome:
    """Where a run ended: its folder, its step, and the scores of its last validation by name."""

    run: RunDir
    step: int
    scores: dict[str, float]

    def report(self, video: str = "VIDEO.mp4", question: str = "QUESTION", answer: str = "") -> str:
        """The scores against chance, and what to do next: with this video and question, and its true answer if known."""
        lines = [f"\n{self.run.path}: step {self.step}"]
        for format in ("multiple_choice", "open_ended"):
            accuracy = self.scores.get(f"validation/accuracy/{format}")
            chance = self.scores.get(f"validation/chance/{format}")
            if accuracy is not None:
                against = f", guessing gives {chance:.1%}" if chance is not None else ""
                lines.append(
                    f"  {format.replace('_', ' ')} on what it has not seen: {accuracy:.1%} right{against}"
                )
        python = os.path.relpath(sys.executable) if sys.prefix != sys.base_prefix else "python"
        curves = [python, "-m", "tensorboard.main", "--logdir", str(self.run.tensorboard)]
        asking = [python, "-m", "lit_hour", "ask", video, question, "--run", str(self.run.path)]
        serving = [python, "-m", "lit_hour", "serve", "--run", str(self.run.path)]
        truth = f"   # the true answer: {answer}" if answer else ""
        next_steps = [
            shlex.join(curves),
            shlex.join(asking) + truth,
            f"{shlex.join(serving)}   # the same in a browser",
        ]
        return "\n".join([*lines, "\nwhat to try next:", *(f"  {step}" for step in next_steps)])


def fit(config: Config) -> Outcome:
    """Train a run from its newest checkpoint, or from the beginning, up to its last step, and validate."""
    run = RunDir.from_config(config.run)
    if unfinished := repair_checkpoint_dir(run):
        log.info("removed what was not saved to its end: %s", ", ".join(map(str, unfinished)))
    beginning = find_resume_point(run)
    checkpoint = beginning.checkpoint
    log.info("run %s: %s", run.path, beginning)
    config = config_for_resume(config, checkpoint) if checkpoint else config_for_new_run(config)

    L.seed_everything(config.run.seed, workers=True)
    if config.training.num_threads:
        torch.set_num_threads(config.training.num_threads)
    run.path.mkdir(parents=True, exist_ok=True)
    save_config(config, run.config)
    if checkpoint is None:
        make_tokenizer(config, run)
    processor = Processor(load_tokenizer(run.tokenizer), config.text)
    data = VideoQuestionData(config, processor)
    log.info("data: %s", data.describe())
    module = HourLLaVAModule(
        config, processor, data.num_steps, init_from_scratch=checkpoint is None
    )
    if checkpoint is not None:
        check_weights(module.model, checkpoint, config)
    log.info(
        "model: %s",
        ", ".join(f"{part} {size / 1e6:.2f} M" for part, size in module.sizes().items()),
    )

    trainer = build_trainer(config, run, data, beginning.step)
    with SHUTDOWN_SIGNAL.installed(), explain_crashes(), warnings.catch_warnings():
        for message in BESIDE_THE_POINT:
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if not trainer.callback_metrics:
            log.info(
                "run %s had finished its %d steps: more with training.max_steps",
                run.path,
                data.num_steps,
            )
        if not trainer.callback_metrics or data.num_steps % validation_interval_steps(config, data):
            trainer.validate(module, datamodule=data, verbose=False)
    scores = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("validation/")
    }
    return Outcome(run, data.step, scores)


def build_trainer(
    config: Config, run: RunDir, data: VideoQuestionData, first_step: int
) -> L.Trainer:
    """Lightning's Trainer by the settings; it counts steps, and one epoch of its own spans the whole run.

    What TensorBoard has of `first_step` and later ones is of a start that broke off; it is hidden there.
    """
    training = config.training
    trainer = L.Trainer(
        **hardware(training),
        **sharing(config),
        max_steps=data.num_steps,
        gradient_clip_val=training.gradient_clip_norm or None,
        check_val_every_n_epoch=None,
        log_every_n_steps=training.log_every_n_steps,
        logger=TensorBoardLogger(run.tensorboard, name="", version="", purge_step=first_step),
        callbacks=build_callbacks(config, run),
        plugins=[ShardedCheckpointIO(config), *precision_plugins(training), *slurm_environment()],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    trainer.accumulate_grad_batches = data.micro_batches_per_step(trainer.world_size)
    # Lightning counts this interval in micro-batches, which are known once the number of ranks is
    trainer.val_check_interval = (
        validation_interval_steps(config, data) * trainer.accumulate_grad_batches
    )
    return trainer


def validation_interval_steps(config: Config, data: VideoQuestionData) -> int:
    """Steps between validations; a run that is shorter is validated at its end."""
    return min(config.training.val_every_n_steps, data.num_steps)


def make_tokenizer(config: Config, run: RunDir) -> None:
    """Give a new run its tokenizer: that of what it starts from, the one that is set, or one learnt from the questions.

    What is there already stays if it was made from the same: all ranks come here, one after the other.
    """
    source = pretrained_tokenizer(config)
    origin = tokenizer_origin(config, source)
    with locked(run.path):
        note = run.tokenizer / ORIGIN
        if note.is_file() and note.read_text(encoding="utf-8") == origin:
            return
        unfinished = run.tokenizer.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        if source is not None:
            copy_tokenizer(source, unfinished)
        else:
            conversations = (
                build_conversation([question], config.text)
                for question in training_questions(config)
            )
            texts = (
                message.text for conversation in conversations for message in conversation.messages
            )
            save_tokenizer(train_byte_level_tokenizer(texts, config.text.vocab_size), unfinished)
        (unfinished / ORIGIN).write_text(origin, encoding="utf-8")
        shutil.rmtree(run.tokenizer, ignore_errors=True)
        unfinished.rename(run.tokenizer)


def tokenizer_origin(config: Config, source: Path | None) -> str:
    """What a tokenizer is made from, as a text that changes with it: a file, or settings and questions."""
    if source is not None:
        return hashlib.sha256((source / TOKENIZER_FILE).read_bytes()).hexdigest()
    return json.dumps([config.text.vocab_size, config.text.mcq_format, sources_fingerprint(config)])
