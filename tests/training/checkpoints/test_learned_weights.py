"""Checkpoints of only what learns (training.save_weights=learned) resume, answer and convert."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_hour.config.load import load_config
from lit_hour.errors import RunError, WeightsError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.quantized_linear import QuantizedLinear
from lit_hour.run_dir import RunDir
from lit_hour.training.checkpoints.checkpoint_io import AtomicCheckpointIO
from lit_hour.training.checkpoints.consolidate import consolidate
from lit_hour.training.module import HourLLaVAModule
from lit_hour.weights.peft_export import export_adapter
from lit_hour.weights.pretrained import open_run_weights
from lit_hour.weights.reader import open_weights
from tests.helpers.toy_run import ToyProject, TrainedRun, load_weights, max_abs_difference
from tests.training.fork_run import fork_run

pytestmark = pytest.mark.slow

LORA = (
    "model.llm.lora.rank=2",
    "training.learning_rate.vision=0",
    "training.learning_rate.llm=0.05",
    "training.schedule_steps=6",
)
LEARNED = (*LORA, "training.save_weights=learned")


def weights_with_base(run: RunDir, name: str = "last") -> dict[str, Tensor]:
    """Return all weights of a checkpoint; the frozen ones come from its base."""
    path = run.checkpoint(name)
    return dict(open_run_weights(path, load_config(path.with_suffix(".yaml"))).tensors())


def optimizer_tensors(run: RunDir) -> dict[str, Tensor]:
    """Return the optimizer's state in last.ckpt by parameter number and key, sharded or not."""
    path = run.checkpoint("last")
    content = AtomicCheckpointIO(load_config(path.with_suffix(".yaml"))).load_checkpoint(path)
    state = content["optimizer_states"][0]["state"]
    return {f"{number}.{key}": one for number, keys in state.items() for key, one in keys.items()}


@pytest.fixture
def runs(trained: TrainedRun, tmp_path: Path) -> ToyProject:
    """The toy project with an empty folder for runs, and a copy of a finished run in `base`."""
    shutil.copytree(trained.run.path, tmp_path / "base")
    return ToyProject(trained.project.yaml, tmp_path / "runs")


def from_base(runs: ToyProject, *more: str) -> tuple[str, ...]:
    return (f"training.init_from={runs.runs.parent / 'base'}", *more)


def test_interrupted_run_equals_one_that_saves_all_weights(runs: ToyProject) -> None:
    runs.train("all", *from_base(runs, *LORA))
    runs.train("learned", *from_base(runs, *LEARNED, "training.max_steps=3"))
    runs.train("learned", *from_base(runs, *LEARNED))
    whole, learned = runs.run_dir("all"), runs.run_dir("learned")
    stored = load_weights(learned).keys()
    assert stored and all("lora_" in name for name in stored if name.startswith("model.llm."))
    assert not any(name.startswith("model.vision.") for name in stored)
    assert {name.split(".")[1] for name in stored} == {
        "frame_newline",
        "llm",
        "memaug",
        "projector",
    }
    expected = weights_with_base(whole)
    assert max_abs_difference(weights_with_base(learned), expected) == 0
    assert max_abs_difference(optimizer_tensors(learned), optimizer_tensors(whole)) == 0
    module = HourLLaVAModule.load_from_checkpoint(learned.checkpoint("last"), weights_only=True)
    assert max_abs_difference(dict(module.model.state_dict()), expected) == 0
    predictor = VideoPredictor.from_run(learned.path, "last", "cpu", ["serving.precision=fp32"])
    assert max_abs_difference(dict(predictor.model.state_dict()), expected) == 0


def test_run_starts_from_an_adapter_of_peft_and_resumes(runs: ToyProject) -> None:
    dora = ("model.llm.lora.use_dora=true", "model.llm.lora.targets=q_proj,down_proj")
    runs.train("first", *from_base(runs, *LEARNED, *dora, "training.max_steps=2"))
    first, folder = runs.run_dir("first"), runs.runs.parent / "adapter"
    export_adapter(first.path, folder, checkpoint="last")
    frozen = [f"training.learning_rate.{part}=0" for part in ("vision", "projector", "llm")]
    given = (*frozen, "training.save_weights=learned", f"model.llm.lora.path={folder}")
    for num_steps in (1, 2):
        runs.train("second", *from_base(runs, *given, f"training.max_steps={num_steps}"))
    expected, found = weights_with_base(first), weights_with_base(runs.run_dir("second"))
    adapters = [name for name in expected if ".lora_" in name]
    assert len(adapters) == 3 * 2 and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in adapters)


@pytest.mark.exhaustive
def test_dora_with_a_bf16_base_learns_on_two_sharded_ranks(runs: ToyProject) -> None:
    words = (
        "model.llm.lora.use_dora=true",
        "model.llm.lora.base_precision=bf16",
        "training.precision=bf16-mixed",
        "training.max_steps=2",
    )
    fork = fork_run(
        runs, "dora", *from_base(runs, *LEARNED, *words), "training.strategy=fsdp", num_ranks=2
    )
    assert fork.wait() == [0, 0], fork.output()
    weights, base = (
        weights_with_base(runs.run_dir("dora")),
        weights_with_base(RunDir(runs.runs.parent / "base"), "best"),
    )
    layer = "llm.network.model.layers.0.self_attn.q_proj"
    lengths = torch.linalg.vector_norm(base[f"{layer}.weight"].bfloat16().float(), dim=1)
    magnitudes = weights[f"{layer}.lora_magnitude_vector.default.weight"]
    assert 0 < float((magnitudes / lengths - 1).abs().max()) < 0.5  # two steps from the lengths
    assert weights[f"{layer}.lora_B.default.weight"].any()


def test_another_base_is_one_clear_error(runs: ToyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.runs.parent)
    wanted = ("training.init_from=base", *LEARNED, "training.max_steps=1")
    runs.train("learned", *wanted)
    run, base = runs.run_dir("learned"), runs.runs.parent / "base"
    monkeypatch.chdir("/")  # the recorded path is absolute
    weights_with_base(run)
    monkeypatch.chdir(runs.runs.parent)
    best = RunDir(base).checkpoint()
    content = torch.load(best, weights_only=True)
    one_bit = content["state_dict"]["model.llm.network.model.norm.weight"].view(torch.int32)
    one_bit[0] ^= 1
    torch.save(content, best)
    message = (
        r"was trained on another base than \S+best.ckpt: llm.network.model.norm.weight differs\."
        r" Restore its base, training.init_from=/\S+/base, as it was"
    )
    with pytest.raises(WeightsError, match=message):
        VideoPredictor.from_run(run.path, device="cpu")
    with pytest.raises(WeightsError, match=message):
        runs.fit("learned", *wanted[:-1])
    shutil.rmtree(base)
    with pytest.raises(RunError, match=r"training.init_from=/.*/base does not exist"):
        VideoPredictor.from_run(run.path, device="cpu")


def test_setting_cannot_change_when_a_run_resumes(runs: ToyProject) -> None:
    runs.train("run", *from_base(runs, *LORA, "training.max_steps=1"))
    with pytest.raises(RunError, match="save_weights"):
        runs.fit("run", *from_base(runs, *LEARNED))


def test_frozen_weights_without_a_source_are_saved(runs: ToyProject) -> None:
    runs.train("random", *LEARNED, "training.max_steps=1")
    names = open_weights(runs.run_dir("random").checkpoint("last")).meta_tensors.keys()
    assert names == weights_with_base(runs.run_dir("random")).keys()
    assert any(name.startswith("vision.") for name in names)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_run_on_a_quantized_base_resumes_and_answers(runs: ToyProject, kind: str) -> None:
    words = from_base(runs, *LEARNED, f"model.llm.quantize={kind}")
    runs.train("straight", *words, "training.max_steps=2")
    for num_steps in (1, 2):
        runs.train("resumed", *words, f"training.max_steps={num_steps}")
    straight, resumed = (weights_with_base(runs.run_dir(name)) for name in ("straight", "resumed"))
    assert max_abs_difference(straight, resumed) == 0
    assert any(one.any() for name, one in resumed.items() if ".lora_B." in name)
    run = runs.run_dir("resumed")
    predictor = VideoPredictor.from_run(run.path, "last", "cpu")
    layers = list(predictor.model.llm.network.model.layers.modules())
    assert sum(isinstance(layer, QuantizedLinear) for layer in layers) == 7
    video = next(runs.yaml.parent.glob("world/**/*.mp4"))
    *_, answer = predictor.generate(predictor.encode_video(video), "Which color?")
    assert answer.text is not None
    full = ["model.llm.quantize=none"]
    plain = VideoPredictor.from_run(run.path, "last", "cpu", full).model.state_dict()
    assert max_abs_difference(dict(plain), resumed) == 0


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.exhaustive)])
def test_two_ranks_resume_bit_for_bit(runs: ToyProject, strategy: str) -> None:
    words = from_base(runs, *LEARNED, f"training.strategy={strategy}")
    for name, *steps in (("straight", 3), ("resumed", 1, 3)):
        for num_steps in steps:
            fork = fork_run(
                runs,
                name,
                *words,
                f"training.max_steps={num_steps}",
                num_ranks=2,
            )
            assert fork.wait() == [0, 0], fork.output()
    straight, resumed = runs.run_dir("straight"), runs.run_dir("resumed")
    stored = open_weights(resumed.checkpoint("last")).meta_tensors
    assert all("lora_" in name for name in stored if name.startswith("llm."))
    assert max_abs_difference(weights_with_base(straight), weights_with_base(resumed)) == 0
    assert max_abs_difference(optimizer_tensors(straight), optimizer_tensors(resumed)) == 0
    if strategy == "fsdp":
        source = resumed.checkpoints / "last.ckpt"
        target = consolidate(source, runs.runs.parent / "one.ckpt").target
        module = HourLLaVAModule.load_from_checkpoint(target, weights_only=True)
        state = module.model.state_dict()
        assert all(
            torch.equal(state[name], one) for name, one in weights_with_base(resumed).items()
        )
