import json
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.cli.main import main
from lit_hour.config.load import config_from_dict, load_config, save_config
from lit_hour.errors import RunError, WeightsError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.weights import convert as converting
from lit_hour.weights.convert import convert
from lit_hour.weights.hf_config import read_published_config, settings_from_hf
from tests.helpers.fork import fork_ranks
from tests.weights.factories import (
    HOUR_LLAVA,
    SIGLIP_PREFIX,
    TOWER_OVERRIDES,
    VISION_DIM,
    equal_weights,
    read_folder,
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
    config = predictor.config
    assert (config.video.sampling, config.text.time_sentence) == ("published", "published")
    assert predictor.processor.video_note(4.0, 128).startswith("The video lasts for 4.00 seconds,")


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
