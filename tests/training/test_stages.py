"""The shipped stages in sequence, at toy sizes: which parts each trains, and where it starts."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lit_hour.config.load import load_config
from lit_hour.errors import InputError
from lit_hour.run_dir import RunDir
from lit_hour.training.fit import FitResult, fit
from lit_hour.weights.reader import open_weights
from tests import published_stage
from tests.helpers.toy_run import max_abs_difference
from tests.training.toy_onevision import (
    SIZE_PIXELS,
    TOWER,
    know_tower,
    write_onevision,
    write_sources,
)

pytestmark = pytest.mark.slow

ONEVISION = {"3b": "llava_onevision_si_qwen2_5_3b", "7b": "llava_onevision_si_qwen2_7b"}
TOY = (
    f"video.image_size={SIZE_PIXELS}",
    f"model.vision.name={TOWER}",
    "image.max_grid=2",
    "data.global_batch_size=4",
    "data.length_balance_window=1",  # otherwise a step may consist of texts only
    "data.num_workers=0",
    "training.max_steps=1",
    "training.accelerator=cpu",
    "training.devices=1",
    "training.num_threads=1",
)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards and weights that the stages name."""
    folder = tmp_path_factory.mktemp("stages")
    know_tower(folder)
    video = load_config(published_stage("3b", "s2"), TOY).video
    write_sources(folder / "shards", folder / "files", video)
    for name in ONEVISION.values():
        write_onevision(folder / "weights" / name)
    return folder


def run_stage(size: str, stage: str, *overrides: str) -> FitResult:
    return fit(load_config(published_stage(size, stage), [*TOY, *overrides]))


def weights_of(run: RunDir) -> Weights:
    return {name: weight.clone() for name, weight in open_weights(run.checkpoint("last")).tensors()}


def changed_parts(before: Weights, after: Weights) -> set[str]:
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_each_stage_trains_its_parts_from_the_previous_stage(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.chdir(workplace)
    # The learning rate is so small that hardly anything moves in float32.
    first = run_stage(size, "s1", "training.learning_rate.memaug=1e-12")
    start = weights_of(first.run)
    shutil.rmtree(first.run.path)
    stages = [weights_of(run_stage(size, stage).run) for stage in ("s1", "s2", "s3")]
    assert changed_parts(start, stages[0]) == {"memaug"}
    assert changed_parts(stages[0], stages[1]) == {
        "vision",
        "projector",
        "frame_newline",
        "memaug",
        "llm",
    }
    assert changed_parts(stages[1], stages[2]) == {
        "projector",
        "frame_newline",
        "memaug",
        "llm",
    }
    for before, after in zip([start, *stages], stages, strict=False):
        # AdamW's first step is at most the learning rate.
        assert max_abs_difference(before, after) <= 1.01e-4


def test_first_stage_loads_llava_onevision(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    theirs = load_file(workplace / "weights" / ONEVISION["3b"] / "model.safetensors")
    ours = weights_of(run_stage("3b", "s1", "run.name=first").run)
    for name, weight in ours.items():
        if name.startswith("llm.network.model."):
            assert torch.equal(weight, theirs[name.removeprefix("llm.network.")]), name
    assert torch.equal(ours["frame_newline"], theirs["model.image_newline"])
    assert torch.equal(ours["projector.layers.2.weight"], theirs["model.mm_projector.2.weight"])
    queries, keys, values = ours["vision.tower.trunk.blocks.1.attn.qkv.weight"].chunk(3)
    prefix = "model.vision_tower.vision_tower.vision_model.encoder.layers.1.self_attn"
    for part, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", values)):
        assert torch.equal(rows, theirs[f"{prefix}.{part}.weight"])
    config = load_config(RunDir(Path("runs/first")).config)
    assert (config.model.llm.vocab_size, config.model.llm.hidden_size) == (320, 32)


def test_lora_trains_adapters_only_and_the_next_run_merges_them(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    before = f"training.init_from=weights/{ONEVISION['7b']}"
    lora = (
        "run.name=adapted",
        "model.llm.lora.rank=4",
        "training.learning_rate.llm=0.05",
        "training.max_steps=3",
    )
    adapted = weights_of(run_stage("7b", "s3", before, *lora).run)
    plain = weights_of(
        run_stage("7b", "s3", before, "run.name=plain", "training.learning_rate.llm=0").run
    )
    language = "llm.network."
    base = {
        name.replace(".base_layer", ""): weight
        for name, weight in adapted.items()
        if "lora_" not in name
    }
    assert all(torch.equal(base[name], plain[name]) for name in plain if name.startswith(language))
    merged = weights_of(
        run_stage(
            "7b",
            "s1",
            "training.init_from=runs/adapted",
            "run.name=merged",
            "training.learning_rate.memaug=1e-12",
        ).run
    )
    name = f"{language}model.layers.1.self_attn.v_proj"
    up, down = (adapted[f"{name}.lora_{part}.default.weight"] for part in "BA")
    assert float(up.abs().max()) > 0
    torch.testing.assert_close(
        merged[f"{name}.weight"], base[f"{name}.weight"] + up @ down * 32 / 4
    )
    kept = "memaug.blocks.0.feed_forward.0.weight"
    torch.testing.assert_close(merged[kept], adapted[kept])


def test_stage_resumes_without_its_initial_weights(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    source = shutil.copytree(workplace / "weights" / ONEVISION["7b"], workplace / "weights/passing")
    overrides = ("training.init_from=weights/passing", "run.name=interrupted")
    run_stage("7b", "s1", *overrides)
    shutil.rmtree(source)
    assert run_stage("7b", "s1", *overrides, "training.max_steps=2").step == 2
    with pytest.raises(
        InputError, match=r"training\.init_from was 'weights/passing', is 'weights/other'"
    ):
        run_stage("7b", "s1", "training.init_from=weights/other", "run.name=interrupted")


@pytest.mark.parametrize("source", ["weights/nowhere", "files", "weights/cut"])
def test_unusable_init_from_is_refused_before_writing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(workplace)
    if source == "weights/cut":
        file = (
            shutil.copytree(workplace / "weights" / ONEVISION["7b"], workplace / source)
            / "model.safetensors"
        )
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=source):
        run_stage("7b", "s1", f"training.init_from={source}", "run.name=none")
    assert not Path("runs/none").exists()
