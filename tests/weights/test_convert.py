import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.cli import main
from lit_hour.config.load import config_from_dict, load_config, save_config
from lit_hour.errors import ConfigError, InputError, RunError, WeightsError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.weights import convert as converting
from lit_hour.weights.convert import convert
from lit_hour.weights.hf_config import read_published_config, settings_from_hf
from tests.helpers.fork import fork_ranks
from tests.helpers.toy_run import TrainedRun
from tests.weights.factories import (
    HOUR_LLAVA,
    SIGLIP_PREFIX,
    TOWER_OVERRIDES,
    VISION_DIM,
    equal_weights,
    read_folder,
    write_config,
    write_hour_llava,
)


def convert_until_killed(hf_folder: Path, run: Path) -> None:
    """Convert in this process, which is killed while the twentieth weight is written."""
    write = converting.write_weights

    def write_until_killed(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
        def tensors_until_killed() -> Iterator[tuple[str, Tensor]]:
            for number, tensor in enumerate(tensors):
                if number == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield tensor

        write(folder, tensors_until_killed(), shard_bytes=20_000)

    converting.write_weights = write_until_killed
    convert(hf_folder, run, TOWER_OVERRIDES)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A published Hour-LLaVA in shards (read-only), and its weights."""
    folder = tmp_path_factory.mktemp("published") / "published"
    return folder, write_hour_llava(folder)


@pytest.fixture(scope="module")
def run(
    published: tuple[Path, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The run converted from it (read-only)."""
    folder = tmp_path_factory.mktemp("converted") / "run"
    convert(published[0], folder, TOWER_OVERRIDES)
    return RunDir(folder)


@pytest.fixture
def corrupted(published: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> Path:
    """A copy that a test may corrupt."""
    return Path(shutil.copytree(published[0], tmp_path / "corrupted"))


# Round trips


def test_round_trip_is_bit_exact(
    published: tuple[Path, dict[str, Tensor]], run: RunDir, tmp_path: Path
) -> None:
    source, weights = published
    assert len(list(source.glob("*.safetensors"))) > 3
    convert(run.path, tmp_path / "back")
    assert equal_weights(read_folder(tmp_path / "back"), weights)
    assert equal_weights(read_folder(source), weights)
    written = json.loads((tmp_path / "back/config.json").read_text())
    tower = {"mm_vision_tower": "lit-hour-siglip"}  # set in the overrides
    assert {key: written[key] for key in HOUR_LLAVA} == HOUR_LLAVA | tower
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (
        source / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize("is_tied", (True, False))
def test_tied_output_layer_is_omitted(tmp_path: Path, is_tied: bool) -> None:
    weights = write_hour_llava(tmp_path / "published", tie_word_embeddings=is_tied)
    assert ("lm_head.weight" in weights) == (not is_tied)
    convert(tmp_path / "published", tmp_path / "run", TOWER_OVERRIDES)
    convert(tmp_path / "run", tmp_path / "back")
    assert equal_weights(read_folder(tmp_path / "back"), weights)
    network = VideoPredictor.from_run(tmp_path / "run", device="cpu").model.llm.network
    assert (network.lm_head.weight is network.model.embed_tokens.weight) == is_tied


def test_converted_run_has_the_source_weights(
    published: tuple[Path, dict[str, Tensor]], run: RunDir
) -> None:
    predictor = VideoPredictor.from_run(run.path, device="cpu")
    state, weights = predictor.model.state_dict(), published[1]
    assert torch.equal(state["frame_newline"], weights["model.image_newline"].float())
    expected_qkv = [
        state[f"memaug.blocks.1.self_attention.{part}.bias"] for part in ("query", "key", "value")
    ]
    assert torch.equal(
        torch.cat(expected_qkv),
        weights["model.vision_resampler.layers.1.self_attn.Wqkv.bias"].float(),
    )
    layer = f"{SIGLIP_PREFIX}encoder.layers.2.self_attn"
    expected_qkv = [weights[f"{layer}.{part}_proj.weight"].float() for part in ("q", "k", "v")]
    assert torch.equal(
        torch.cat(expected_qkv), state["vision.tower.trunk.blocks.2.attn.qkv.weight"]
    )
    assert predictor.config.model.memaug.eval_spatial_forgetting == "random"
    assert predictor.config == load_config(run.config)


def test_training_checkpoint_converts_with_merged_lora(run: RunDir, tmp_path: Path) -> None:
    trained = RunDir(tmp_path / "trained")
    shutil.copytree(run.tokenizer, trained.tokenizer)
    trained.checkpoints.mkdir()
    overrides = ["model.llm.lora.rank=2", "model.llm.tie_word_embeddings=true"]
    config = load_config(run.checkpoints / "converted.yaml", overrides)
    torch.manual_seed(1)
    model = HourLLaVA.from_config(config, 0)
    with torch.no_grad():
        model.get_parameter(
            "llm.network.model.layers.0.mlp.up_proj.lora_B.default.weight"
        ).normal_()
    for name in ("last", "step=000001"):
        save_config(config, trained.checkpoints / f"{name}.yaml")
        torch.save(
            {"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}},
            trained.checkpoints / f"{name}.ckpt",
        )
    converted = convert(trained.path, tmp_path / "published", checkpoint="step=000001")
    assert "the LoRA adapters are merged into the language model" in converted.notes
    again = convert(tmp_path / "published", tmp_path / "again", TOWER_OVERRIDES)
    merged = VideoPredictor.from_run(again.target, device="cpu").model
    layer = "llm.network.model.layers.0.mlp.up_proj"
    up, down = (model.get_parameter(f"{layer}.lora_{part}.default.weight") for part in "BA")
    expected = model.get_parameter(f"{layer}.base_layer.weight") + 32 / 2 * up @ down
    torch.testing.assert_close(merged.get_parameter(f"{layer}.weight"), expected)
    assert torch.equal(
        merged.get_parameter("projector.layers.2.weight"),
        model.get_parameter("projector.layers.2.weight"),
    )


def test_missing_tower_is_read_from_model_vision_weights(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    source, weights = published
    without = Path(
        shutil.copytree(source, tmp_path / "without", ignore=shutil.ignore_patterns("model*"))
    )
    save_file(
        {name: weight for name, weight in weights.items() if not name.startswith(SIGLIP_PREFIX)},
        without / "model.safetensors",
    )
    with pytest.raises(
        WeightsError, match=r"without has no vision tower .*\. Set model\.vision\.weights"
    ):
        convert(without, tmp_path / "run", TOWER_OVERRIDES)
    tower = {
        "vision_model." + name.removeprefix(SIGLIP_PREFIX): w
        for name, w in weights.items()
        if name.startswith(SIGLIP_PREFIX)
    }
    unused = {
        "vision_model.encoder.layers.3.layer_norm1.bias": torch.zeros(VISION_DIM),
        "logit_scale": torch.zeros(1),
    }
    save_file(tower | unused, tmp_path / "siglip.safetensors")
    converted = convert(
        without,
        tmp_path / "run",
        [*TOWER_OVERRIDES, f"model.vision.weights={tmp_path}/siglip.safetensors"],
    )
    (note,) = converted.notes
    assert (
        "encoder.layers.3.layer_norm1.bias" in note
        and "logit_scale" in note
        and "post_layernorm.weight" in note
    )
    convert(tmp_path / "run", tmp_path / "back")
    assert equal_weights(read_folder(tmp_path / "back"), weights)
    with pytest.raises(
        WeightsError, match=r"has its own vision tower\. Remove model\.vision\.weights="
    ):
        convert(
            source,
            tmp_path / "again",
            [*TOWER_OVERRIDES, f"model.vision.weights={tmp_path}/siglip.safetensors"],
        )


# Refusals


def replace_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def corrupt(folder: Path) -> None:
        weights = read_folder(folder)
        change(weights)
        for file in folder.glob("model*"):
            file.unlink()
        save_file(weights, folder / "model.safetensors")

    return corrupt


def delete_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def truncate_shard(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-1])


WQKV = "model.vision_resampler.layers.0.self_attn.Wqkv.weight"
MISFITS = {
    "shard missing": (
        delete_shard,
        r"index\.json lists model-00002-of-\d+\.safetensors, missing in",
    ),
    "shard cut off": (
        truncate_shard,
        r"\.safetensors is truncated, corrupt or not a safetensors file",
    ),
    "weights missing": (
        replace_weights(
            lambda weights: [weights.pop(name) for name in (WQKV, "model.image_newline")]
        ),
        rf"missing: model\.image_newline\n  missing: {WQKV}$",
    ),
    "weights left over": (
        replace_weights(
            lambda weights: weights.update(
                {"model.extra.weight": torch.zeros(1), "other": torch.zeros(1)}
            )
        ),
        r"unexpected: model\.extra\.weight\n  unexpected: other$",
    ),
    "another shape": (
        replace_weights(lambda weights: weights.update({WQKV: torch.zeros(64, 31)})),
        rf"{WQKV} is \(64, 31\) and has to be \(64, 32\)",
    ),
    "more layers": (
        lambda folder: write_config(folder, num_hidden_layers=3),
        r"missing: model\.layers\.2\.self_attn\.q_proj\.weight",
    ),
    "other architecture": (
        lambda folder: write_config(folder, model_type="llama"),
        r"model_type='llama'",
    ),
    "large tokenizer": (
        lambda folder: train_byte_level_tokenizer(
            ["abc abd abe abf " * 9] * 9 + [str(n) for n in range(999)], 400
        ).save_pretrained(folder),
        r"vocab_size=320 is less than the 400 tokens of the tokenizer beside it\. The tokenizer "
        r"belongs to another model",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"no tokenizer\.json in"),
    "LLaVA-OneVision": (
        lambda folder: write_config(
            folder,
            model_type="llava",
            architectures=["LlavaQwenForCausalLM"],
            mm_resampler_type=None,
        ),
        r"is LLaVA-OneVision\. It has no MemAug\. .* training\.init_from=",
    ),
    "plain language model": (
        lambda folder: write_config(folder, model_type="qwen2", architectures=["Qwen2ForCausalLM"]),
        r"is a plain language model\. Train from it with: .* model\.llm\.path=",
    ),
}


@pytest.mark.parametrize("fault", MISFITS)
def test_unfit_source_is_refused_before_writing(
    corrupted: Path, tmp_path: Path, fault: str
) -> None:
    corrupt, message = MISFITS[fault]
    corrupt(corrupted)
    with pytest.raises(InputError, match=message) as refusal:
        convert(corrupted, tmp_path / "run", TOWER_OVERRIDES)
    assert all(
        line.startswith(("  missing: ", "  unexpected: ", "  wrong shape"))
        for line in str(refusal.value).splitlines()[1:]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["corrupted"]


def test_nonempty_target_is_refused(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(WeightsError, match="exists and is not empty"):
        convert(published[0], tmp_path, TOWER_OVERRIDES)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_unknown_source_checkpoint_or_setting_is_refused(
    tmp_path: Path, published: tuple[Path, dict[str, Tensor]], run: RunDir
) -> None:
    with pytest.raises(
        WeightsError,
        match=r"is neither a Hugging Face folder \(with config\.json\) nor a run directory",
    ):
        convert(tmp_path, tmp_path / "run")
    with pytest.raises(WeightsError, match=r"is not a run directory\. Remove --checkpoint last"):
        convert(published[0], tmp_path / "run", TOWER_OVERRIDES, "last")
    with pytest.raises(RunError, match=r"has no checkpoint 'last'\. It has: converted"):
        convert(run.path, tmp_path / "back", checkpoint="last")
    with pytest.raises(ConfigError, match=r"Unknown setting 'model\.vision\.nam'"):
        convert(published[0], tmp_path / "run", [*TOWER_OVERRIDES, "model.vision.nam=x"])


def test_run_with_missing_weight_is_refused(run: RunDir, tmp_path: Path) -> None:
    copy = RunDir(Path(shutil.copytree(run.path, tmp_path / "copy")))
    file = copy.checkpoints / "converted/model.safetensors"
    weights = read_folder(file.parent)
    save_file({name: weight for name, weight in weights.items() if name != "frame_newline"}, file)
    with pytest.raises(
        WeightsError,
        match=r"converted, with the settings beside it, does not fit the model\n"
        r"  missing: frame_newline",
    ):
        convert(copy.path, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_tower_other_than_siglip_is_refused(trained: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"tower has .*, which SigLIP lacks\. .*: train one with model\.vision",
    ):
        convert(trained.run.path, tmp_path / "published")
    assert list(tmp_path.iterdir()) == []


def test_killed_conversion_leaves_no_run(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    killed = fork_ranks(
        lambda _: convert_until_killed(published[0], tmp_path / "run"), [outputs / "killed.txt"]
    )
    assert killed.wait() == [-signal.SIGKILL], killed.output()
    shutil.rmtree(outputs)
    assert [path.name for path in tmp_path.iterdir()] == ["run.unfinished"]
    assert len(list(tmp_path.rglob("*.safetensors"))) > 1
    with pytest.raises(RunError, match="no run at"):
        RunDir(tmp_path / "run").checkpoint()
    convert(published[0], tmp_path / "run", TOWER_OVERRIDES)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# Command line


def test_command_prints_report_and_next_commands(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["convert", str(published[0]), str(tmp_path / "run"), *TOWER_OVERRIDES])
    printed = capsys.readouterr().out
    config = config_from_dict(
        settings_from_hf(read_published_config(published[0]), names_tower=True),
        "published",
        TOWER_OVERRIDES,
    )
    num_weights = len(HourLLaVA.from_config(config, 0).state_dict())
    assert f"{tmp_path}/run: {num_weights} weights, 0.00 GB" in printed
    assert (
        f"unused weights: {SIGLIP_PREFIX}post_layernorm.bias, {SIGLIP_PREFIX}post_layernorm.weight"
        in printed
    )
    assert (
        f"lit-hour ask --run {tmp_path}/run VIDEO.mp4 QUESTION" in printed
        and f"training.init_from={tmp_path}/run" in printed
    )
    main(["convert", str(tmp_path / "run"), str(tmp_path / "back"), "--checkpoint", "converted"])
    printed = capsys.readouterr().out
    assert f"from {tmp_path}/run/checkpoints/converted" in printed
    assert f"{SIGLIP_PREFIX}post_layernorm.* are ones and zeros" in printed
