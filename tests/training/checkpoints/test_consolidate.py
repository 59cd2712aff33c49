"""One file made of a sharded checkpoint has the same content and resumes in stock Lightning."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_hour.cli import main as cli
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.config.training import TrainingConfig
from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.errors import WeightsError
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.checkpoints import consolidate as module
from lit_hour.training.checkpoints.checkpoint_io import (
    AtomicCheckpointIO,
    ShardedContent,
    write_sharded,
)
from lit_hour.training.checkpoints.consolidate import consolidate
from lit_hour.training.module import HourLLaVAModule
from lit_hour.weights.name_map import EMBEDDING
from tests.helpers.build_once import build_once
from tests.helpers.fork import FORK
from tests.helpers.toy_run import NUM_STEPS, ToyProject, max_abs_difference
from tests.training.fork_run import fork_run

WORDS = ("training.strategy=fsdp", "training.async_checkpoints=true")


@pytest.fixture(scope="session")
def sharded(toy: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished sharded run of one rank with checkpoints written in the background."""

    def train(folder: Path) -> None:
        run = fork_run(toy, "one-rank", *WORDS, f"run.folder={folder}")
        assert run.wait() == [0], run.output()

    return RunDir(build_once(tmp_path_factory, "sharded_run", train) / "one-rank")


def tensors_of(tree: Any, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a nested checkpoint by their paths in it."""
    if isinstance(tree, Tensor):
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if is_list(tree) else ()
    return {
        path: tensor
        for key, value in items
        for path, tensor in tensors_of(value, f"{name}/{key}").items()
    }


def is_list(tree: Any) -> bool:
    return isinstance(tree, list | tuple)


def assembled(folder: Path) -> dict[str, Any]:
    """Load a sharded checkpoint into memory as a whole."""
    config = load_config(folder.with_suffix(".yaml"))
    return AtomicCheckpointIO(config).load_checkpoint(folder)


@pytest.mark.slow
def test_file_has_every_tensor_of_the_folder(
    sharded: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new/OUT.ckpt"
    cli.main(["consolidate", str(sharded.checkpoints / "step=000004"), str(target)])
    assert f"{target}: step 4, " in capsys.readouterr().out
    content, expected = (
        torch.load(target, weights_only=True),
        assembled(sharded.checkpoint("step=000004")),
    )
    found, wanted = tensors_of(content), tensors_of(expected)
    assert content.keys() == expected.keys() and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert sum("/exp_avg_sq" in name for name in found) > 50
    tied = [
        content["state_dict"][f"model.llm.network.{name}.weight"]
        for name in ("lm_head", "model.embed_tokens")
    ]
    assert tied[0].data_ptr() == tied[1].data_ptr()
    config = load_config(target.with_suffix(".yaml"))
    assert config.training.strategy == "auto" and not config.training.async_checkpoints
    assert {file.name for file in target.parent.iterdir()} == {"OUT.ckpt", "OUT.yaml"}


@pytest.mark.filterwarnings("ignore")
def test_stock_lightning_resumes_weights_and_optimizer(sharded: RunDir, tmp_path: Path) -> None:
    target = consolidate(sharded.checkpoints / "step=000004.ckpt", tmp_path / "OUT.ckpt").target
    state = StateAtStart()
    resumed = resume_in_stock_lightning(target, sharded, state)
    expected = assembled(sharded.checkpoint("step=000004"))
    assert state.step == 4
    assert max_abs_difference(state.weights, expected["state_dict"]) == 0
    found, wanted = tensors_of(state.optimizer), tensors_of(expected["optimizer_states"][0])
    assert found.keys() == wanted.keys() and len(found) > 100
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    last = assembled(sharded.checkpoint("last"))
    assert last["global_step"] == NUM_STEPS
    assert max_abs_difference(resumed, last["state_dict"]) < 1e-6


class StateAtStart(Callback):
    """Copies the weights and the optimizer's state from which training goes on."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step
        self.weights = {name: weight.clone() for name, weight in pl_module.state_dict().items()}
        state = trainer.optimizers[0].state_dict()
        self.optimizer = {**state, "state": clone_all(state["state"])}


def clone_all(tree: dict[Any, Any]) -> dict[Any, Any]:
    return {
        key: value.clone() if isinstance(value, Tensor) else clone_all(value)
        for key, value in tree.items()
    }


def resume_in_stock_lightning(
    checkpoint: Path, run: RunDir, callback: Callback
) -> dict[str, Tensor]:
    """Resume with a Trainer of its own, from the settings beside the file; the final weights."""
    config = load_config(checkpoint.with_suffix(".yaml"))
    tokenizer = load_tokenizer(run.tokenizer)
    data = VideoQADataModule(config, HourLLaVAProcessor(tokenizer, config.text))
    module = HourLLaVAModule.load_from_checkpoint(checkpoint, weights_only=True)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=data.num_steps,
        accumulate_grad_batches=data.micro_batches_per_step(num_ranks=1),
        gradient_clip_val=config.training.gradient_clip_norm,
        callbacks=[callback],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module.state_dict()


def test_unusable_source_or_target_is_refused(sharded: RunDir, tmp_path: Path) -> None:
    folder, target = sharded.checkpoint("last"), tmp_path / "OUT.ckpt"
    with pytest.raises(WeightsError, match=r"nothing\.ckpt is not the folder of a sharded"):
        consolidate(tmp_path / "nothing", target)
    with pytest.raises(WeightsError, match=r"OUT\.pt must end in \.ckpt"):
        consolidate(folder, tmp_path / "OUT.pt")
    target.write_text("mine")
    with pytest.raises(WeightsError, match=r"OUT\.ckpt exists already"):
        consolidate(folder, target)
    with pytest.raises(WeightsError, match=r"OUT\.ckpt is one file already"):
        consolidate(target, tmp_path / "OTHER.ckpt")
    assert target.read_text() == "mine" and list(tmp_path.iterdir()) == [target]


def test_kill_leaves_no_file_of_that_name(sharded: RunDir, tmp_path: Path) -> None:
    target = tmp_path / "OUT.ckpt"

    def work() -> None:
        pairs = module._pairs

        def die_in_the_middle(*trees: Any) -> Any:
            for number, pair in enumerate(pairs(*trees)):
                if number == 100:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield pair

        module._pairs = die_in_the_middle
        consolidate(sharded.checkpoint("last"), target)

    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not target.exists()
    assert consolidate(sharded.checkpoint("last"), target).step == NUM_STEPS


def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """Of 128 MB in 32 tensors at most 40 MB are ever in memory, besides the mapped file."""
    config = Config(training=TrainingConfig(strategy="fsdp"))
    folder, peaks = tmp_path / "last.ckpt", FORK.SimpleQueue()

    def save() -> None:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        names = [EMBEDDING, *(f"layer.{number}" for number in range(31))]
        checkpoint = {
            "state_dict": {f"model.{name}": torch.rand(1_000_000) for name in names},
            "optimizer_states": [{"state": {}, "param_groups": []}],
            "global_step": 1,
            "hyper_parameters": {"config": asdict(config)},
        }
        write_sharded(folder, ShardedContent.split(checkpoint), config)

    def work() -> None:
        before, pairs, peak = private_mb(), module._pairs, 0.0

        def watched(*trees: Any) -> Any:
            nonlocal peak
            for pair in pairs(*trees):
                peak = max(peak, private_mb())
                yield pair

        module._pairs = watched
        consolidate(folder, tmp_path / "OUT.ckpt")
        peaks.put(max(peak, private_mb()) - before)

    for step in (save, work):
        process = FORK.Process(target=step)
        process.start()
        process.join(60)
        assert process.exitcode == 0
    assert peaks.get() < 40
    assert (tmp_path / "OUT.ckpt").stat().st_size > 128e6


def private_mb() -> float:
    """Return this process's memory that is not mapped from files, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1000
