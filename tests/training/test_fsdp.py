"""FSDP on two ranks reaches the weights of one process, also when resumed by the other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import train
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.errors import WeightsError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.meta_init import missing_weights
from lit_hour.run_dir import RunDir
from lit_hour.synthetic.packing import build_and_pack
from lit_hour.text.tokenizer import load_tokenizer
from lit_hour.training.checkpoints.checkpoint_io import step_of_checkpoint
from lit_hour.training.fit import fit
from lit_hour.weights.convert import convert
from lit_hour.weights.reader import load_into, open_weights, read_checkpoint
from tests import REPOSITORY, published_stage
from tests.helpers.build_once import build_once
from tests.helpers.toy_run import ToyProject, max_abs_difference, toy_settings
from tests.training.toy_onevision import (
    SIZE_PIXELS,
    TOWER,
    know_tower,
    write_onevision,
    write_sources,
)

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("run_ranks.py")
STAGE = published_stage("3b", "s2")
SHARDED = ("training.strategy=fsdp", "training.devices=2")
ROWS = "model.llm.vocab_size=400"
FIVE_DIGITS = 1e-5
# A frozen part, several learning rates, accumulation, clipping, validation with answers.
LEARNING = (
    ROWS,
    "training.learning_rate.vision=0",
    "training.gradient_clip_norm=0.5",
    "data.global_batch_size=4",
    "training.val_every_n_steps=2",
)
LORA = (
    ROWS,
    "model.llm.lora.rank=4",
    "training.max_steps=2",
    "training.learning_rate.llm=0.05",
)
PARTS = ("vision", "projector", "memaug", "llm")
# Texts, images, sets of images, and videos, some too long to train the vision encoder on.
MIXED = (
    f"video.image_size={SIZE_PIXELS}",
    "video.min_frames=2",
    f"model.vision.name={TOWER}",
    "model.vision.encode_batch_size=2",
    "model.vision.max_trainable_frames=3",
    "model.memaug.min_frames=4",
    "image.max_grid=2",
    "data.global_batch_size=4",
    "data.num_workers=0",
    # three validation samples for two ranks
    "data.val_sources.sets.shards=shards/llava_onevision_multi_image",
    "data.val_sources.videos.shards=shards/video_marathon",
    "generation.max_new_tokens=5",
    "training.precision=32-true",
    "training.strategy=auto",
    "training.activation_checkpointing=false",
    "training.accelerator=cpu",
    "training.num_threads=1",
)
PUBLISHED = (  # a LLaVA-OneVision, which has no MemAug; nothing moves
    *("training.init_from=onevision", "training.max_steps=1", "training.devices=1"),
    *(f"training.learning_rate.{part}=1e-12" for part in PARTS),
)
FROM_RUN = ("training.max_steps=3", *(f"training.learning_rate.{part}=0.001" for part in PARTS))
OUTPUT_LAYER = "llm.network.lm_head.weight"


@dataclass(frozen=True)
class FinishedRuns:
    """Finished runs: with FSDP on one or two ranks, and without FSDP on one."""

    toy: ToyProject
    toys: Path

    @classmethod
    def in_folder(cls, folder: Path) -> FinishedRuns:
        return cls(ToyProject(folder / "small.yaml", folder / "runs"), folder / "toys")

    def weights(self, name: str, checkpoint: str = "last") -> dict[str, Tensor]:
        """Return the weights of a run without the tied output layer, sharded or not."""
        return without_tied(
            dict(open_weights(self.toy.run_dir(name).checkpoint(checkpoint)).tensors())
        )

    def scores(self, name: str) -> dict[str, list[tuple[int, float]]]:
        accumulator = EventAccumulator(str(self.toy.run_dir(name).tensorboard))
        accumulator.Reload()
        tags = [tag for tag in accumulator.Tags()["scalars"] if tag.startswith("val/")]
        return {
            tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags
        }

    def toy_words(self, name: str, *more: str) -> list[str]:
        options = [f"--config={file}" for file in STAGE]
        return [*options, *MIXED, f"run.folder={self.toy.runs}", f"run.name={name}", *more]

    def fit_toy(self, name: str, *more: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.toys)
            return fit(train.load_settings(self.toy_words(name, *more))).run.path

    def branch(self, source: str, name: str) -> None:
        """Make a run that has only the checkpoint of step 2 of another."""
        of, to = self.toy.run_dir(source), self.toy.run_dir(name)
        shutil.copytree(of.tokenizer, to.tokenizer)
        to.checkpoints.mkdir()
        for file in of.checkpoints.glob("step=000002.*"):
            (shutil.copytree if file.is_dir() else shutil.copyfile)(
                file, to.checkpoints / file.name
            )


def without_tied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name != OUTPUT_LAYER}


def start(folder: Path, runs: Sequence[Sequence[str]]) -> subprocess.Popen[bytes]:
    (folder / "runs.json").write_text(json.dumps(runs))
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, str(SCRIPT), str(folder)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    printed = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> FinishedRuns:
    folder = build_once(tmp_path_factory, "fsdp_runs", do_runs)
    know_tower(folder / "toys")
    return FinishedRuns.in_folder(folder)


def do_runs(folder: Path) -> None:
    """Do all runs of this file. Those with two ranks are subprocesses."""
    toy = ToyProject.write(folder, toy_settings(folder / "world"))
    build_and_pack(toy.config("none"))
    runs = FinishedRuns.in_folder(folder)
    toys = runs.toys
    toys.mkdir()
    know_tower(toys)
    write_sources(toys / "shards", toys / "files", load_config(STAGE, MIXED).video)
    write_onevision(toys / "onevision")
    begin = f"training.init_from={toy.fit('sharded-base', ROWS, 'training.max_steps=1').run.path}"
    steps = [("training.max_steps=2",), ("training.max_steps=4",)]
    toy.fit("sharded-plain", begin, *LEARNING, *steps[0])
    runs.branch("sharded-plain", "sharded-back")
    from_toy = f"training.init_from={runs.fit_toy('mixed-base', *PUBLISHED)}"
    both = start(
        toys,
        [
            *(toy.argv("sharded-two", begin, *LEARNING, *more, *SHARDED) for more in steps),
            toy.argv("sharded-back", begin, *LEARNING, *steps[1], *SHARDED),
            toy.argv("sharded-lora-2", *LORA, *SHARDED, "training.activation_checkpointing=true"),
            toy.argv(
                "sharded-halves",
                begin,
                *LEARNING,
                *steps[0],
                *SHARDED,
                "training.precision=bf16-mixed",
            ),
            runs.toy_words("sharded-published", *PUBLISHED, *SHARDED),
            runs.toy_words("sharded-mixed", from_toy, *FROM_RUN, *SHARDED),
        ],
    )
    toy.fit("sharded-plain", begin, *LEARNING, *steps[1])
    runs.fit_toy("plain-mixed", from_toy, *FROM_RUN, "training.devices=1")
    finish(both)
    runs.branch("sharded-two", "sharded-alone")
    runs.branch("sharded-two", "sharded-there")
    alone = start(
        toys,
        [
            toy.argv("sharded-alone", begin, *LEARNING, *steps[1], SHARDED[0]),
            toy.argv("sharded-lora-1", *LORA, SHARDED[0]),
        ],
    )
    toy.fit("sharded-there", begin, *LEARNING, *steps[1])
    finish(alone)


# Learning


@pytest.mark.parametrize("name", ["two", "back", "there", "alone"])
def test_fsdp_run_and_any_change_of_ranks_reach_the_weights_of_one_process(
    runs: FinishedRuns, name: str
) -> None:
    expected = runs.weights("sharded-plain")
    assert max_abs_difference(runs.weights(f"sharded-{name}"), expected) < FIVE_DIGITS
    assert (
        max_abs_difference(runs.weights("sharded-plain", "step=000002"), expected)
        > 10 * FIVE_DIGITS
    )


def check_scores(runs: FinishedRuns, one: str, other: str, steps: list[int]) -> None:
    expected, found = runs.scores(one), runs.scores(other)
    assert found.keys() == expected.keys() and "val/acc/open_ended" in found
    for tag, values in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in values] == steps
        assert [value for _, value in found[tag]] == pytest.approx(
            [value for _, value in values], rel=FIVE_DIGITS
        )


def test_fsdp_validation_equals_that_of_one_process(runs: FinishedRuns) -> None:
    check_scores(runs, "sharded-plain", "sharded-two", [1, 3])


def test_fsdp_keeps_the_frozen_vision_encoder(runs: FinishedRuns) -> None:
    before, after = runs.weights("sharded-base"), runs.weights("sharded-two")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"projector", "frame_newline", "memaug", "llm"}


def test_fsdp_trains_lora_and_keeps_the_adapted_weights(runs: FinishedRuns) -> None:
    one, two = runs.weights("sharded-lora-1"), runs.weights("sharded-lora-2")
    assert max_abs_difference(two, one) < FIVE_DIGITS
    raised = [name for name in two if ".lora_B." in name and two[name].any()]
    assert len(raised) == 7
    drawn = random_model(runs, runs.toy.config("sharded-lora-2", *LORA)).state_dict()
    adapted = [name for name in two if name.startswith("llm.") and ".lora_" not in name]
    assert all(torch.equal(two[name], drawn[name]) for name in adapted)


def test_fsdp_on_mixed_data_reaches_the_weights_of_one_process(runs: FinishedRuns) -> None:
    expected = runs.weights("plain-mixed")
    assert max_abs_difference(runs.weights("sharded-mixed"), expected) < FIVE_DIGITS
    check_scores(runs, "plain-mixed", "sharded-mixed", [2])


def test_fsdp_in_bf16_is_near_single_precision(runs: FinishedRuns) -> None:
    exact, halves = runs.weights("sharded-two", "step=000002"), runs.weights("sharded-halves")
    assert (
        1e-4 < max_abs_difference(halves, exact) < 0.02
    )  # twice the largest learning rate for each of two steps
    (_, one), *_ = runs.scores("sharded-two")["val/loss"]
    (_, other), *_ = runs.scores("sharded-halves")["val/loss"]
    assert other == pytest.approx(one, rel=2e-3)
    assert {weight.dtype for weight in halves.values()} == {torch.float32}


def random_model(runs: FinishedRuns, config: Config) -> HourLLaVA:
    """Return the model that one process initializes at random."""
    model = HourLLaVA.from_config(
        config, len(load_tokenizer(runs.toy.run_dir(config.run.name).tokenizer))
    )
    load_into(model, missing_weights(model, loaded=(), seed=config.run.seed))
    return model


def test_missing_weights_are_drawn_equally_on_any_number_of_ranks(runs: FinishedRuns) -> None:
    config = load_config(runs.toy.run_dir("sharded-published").config)
    expected = without_tied(random_model(runs, config).state_dict())
    found, published = runs.weights("sharded-published"), runs.weights("mixed-base")
    for name, weight in found.items():
        drawn = name.startswith("memaug.")
        torch.testing.assert_close(
            weight, (expected if drawn else published)[name], atol=1e-9, rtol=0
        )
        assert drawn or weight.dim() < 2 or not torch.allclose(weight, expected[name])


# Checkpoints


def test_sharded_checkpoint_has_one_file_per_rank_and_its_settings(runs: FinishedRuns) -> None:
    run = runs.toy.run_dir("sharded-two")
    names = {"best", "last", "step=000002", "step=000004"}
    assert {each.name for each in run.checkpoints.iterdir()} == {
        f"{name}{end}" for name in names for end in (".ckpt", ".yaml")
    }
    for name in names:
        folder = run.checkpoint(name)
        assert sorted(file.name for file in folder.iterdir()) == [
            "meta.pt",
            *(f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)),
        ]
        assert load_config(folder.with_suffix(".yaml")).training.strategy == "fsdp"
        step = read_checkpoint(folder)["global_step"]
        assert step == (int(name[-1]) if name.startswith("step=") else step)
    sizes = [file.stat().st_size for file in run.checkpoint("last").glob("shard-*")]
    assert max(sizes) < 1.2 * min(sizes)  # no rank writes for the others


def test_predictor_loads_a_sharded_run(runs: FinishedRuns) -> None:
    run = runs.toy.run_dir("sharded-two")
    session = VideoPredictor.from_run(run.path, "last", "cpu")
    assert (
        max_abs_difference(without_tied(session.model.state_dict()), runs.weights("sharded-two"))
        == 0
    )
    rotary, fresh = (
        model.llm.network.model.rotary_emb
        for model in (session.model, HourLLaVA.from_config(session.config, 400))
    )
    assert torch.equal(rotary.inv_freq, fresh.inv_freq)


def test_sharded_run_is_converted_and_initializes_another(
    runs: FinishedRuns, tmp_path: Path
) -> None:
    converted = [
        convert(runs.toy.run_dir(name).path, tmp_path / name).target
        for name in ("plain-mixed", "sharded-mixed")
    ]
    plain, sharded = (dict(open_weights(folder).tensors()) for folder in converted)
    assert max_abs_difference(plain, sharded) < FIVE_DIGITS
    runs.fit_toy("next", *PUBLISHED, f"training.init_from={runs.toy.run_dir('sharded-mixed').path}")
    assert max_abs_difference(runs.weights("next"), runs.weights("sharded-mixed")) < 1e-9


@pytest.mark.parametrize(
    ("number", "damage", "message"),
    [
        (2, "cut", r"shard-00002.*safetensors is truncated, corrupt or not part of a checkpoint"),
        (1, "gone", r"last\.ckpt lacks a shard of .*: a file is missing"),
        (0, "cut", r"last\.ckpt is corrupt or not a checkpoint"),
    ],
)
def test_damaged_sharded_checkpoint_is_named(
    runs: FinishedRuns, tmp_path: Path, number: int, damage: str, message: str
) -> None:
    run = RunDir(Path(shutil.copytree(runs.toy.run_dir("sharded-two").path, tmp_path / "damaged")))
    file = sorted(run.checkpoint("last").iterdir())[number]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=message):
        step_of_checkpoint(run.checkpoints / "last.ckpt")
    if number:  # answering needs the weights alone
        with pytest.raises(WeightsError, match=message):
            VideoPredictor.from_run(run.path, "last", "cpu")
