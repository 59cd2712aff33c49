"""Sources and targets that cannot be converted are refused before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_hour.errors import ConfigError, InputError, RunError, WeightsError
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.weights.convert import convert
from tests.helpers.toy_run import TrainedRun
from tests.weights.factories import (
    TOWER_OVERRIDES,
    read_folder,
    write_config,
)


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
