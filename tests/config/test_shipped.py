"""Each file in conf/ loads, follows the published recipe where it says so, and does not outlive a typo."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError
from tests import REPOSITORY

CONF = REPOSITORY / "conf"
SHIPPED = sorted(CONF.rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_file_loads(path: Path) -> None:
    config = load_config(path)
    assert all(not Path(source.shards).is_absolute() for source in config.data.sources.values())


def test_the_published_models_are_shipped() -> None:
    models = [
        f"hour_llava_{size}{stage}" for size in ("3b", "7b") for stage in ("", "_s1", "_s2", "_s3")
    ]
    assert set(models) <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("stage", ["", "_s1", "_s2", "_s3"])
@pytest.mark.parametrize(
    "size, language, per_step",
    [
        ("3b", (2048, 36, 16, 2, 11008, 1e6, 1e-6, True), 128),
        ("7b", (3584, 28, 28, 4, 18944, 1e6, 1e-6, False), 256),
    ],
)
def test_sizes_and_samples_per_step(size: str, language: tuple, per_step: int, stage: str) -> None:
    config = load_config(CONF / f"hour_llava_{size}{stage}.yaml")
    sizes = config.model.llm
    assert language == (
        *(
            sizes.hidden_size,
            sizes.num_layers,
            sizes.num_heads,
            sizes.num_key_value_heads,
            sizes.intermediate_size,
        ),
        *(sizes.rope_theta, sizes.rms_norm_eps, sizes.tie_word_embeddings),
    )
    assert config.data.global_batch_size == per_step


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_each_stage_starts_from_the_one_before(size: str) -> None:
    before = "weights"
    for stage in ("s1", "s2", "s3"):
        config = load_config(CONF / f"hour_llava_{size}_{stage}.yaml")
        assert config.training.init_from.startswith(before)
        before = f"{config.run.folder}/{config.run.name}"


@pytest.mark.parametrize("size", ["3b", "7b"])
@pytest.mark.parametrize(
    "stage, rates, max_frames, weights",
    [
        ("s1", (0.0, 0.0, 1e-4, 0.0), 32, [1.0]),
        ("s2", (5e-6, 1e-4, 1e-4, 2e-5), 3600, [0.1, 0.1, 0.1, 0.2]),
        ("s3", (0.0, 1e-4, 1e-4, 2e-5), 3600, [0.9, 0.9, 0.9, 0.8, 1.0]),
    ],
)
def test_the_stages_follow_the_recipe(
    size: str, stage: str, rates: tuple, max_frames: int, weights: list[float]
) -> None:
    config = load_config(
        CONF / f"hour_llava_{size}_{stage}.yaml",
        ["data.sources.video_marathon.shards=/disk/marathon"],
    )
    rate = config.training.learning_rate
    assert (rate.vision, rate.projector, rate.memaug, rate.llm) == rates
    assert config.video.max_frames == max_frames
    assert [source.weight for source in config.data.sources.values()][: len(weights)] == weights
    starts = [source.skip_fraction for source in config.data.sources.values()]
    assert starts[: len(weights)] == (
        [0.1, 0.1, 0.1, 0.2, 0.0] if stage == "s3" else [0.0] * len(weights)
    )
    assert config.data.sources["video_marathon"].shards == "/disk/marathon"
    assert (config.training.warmup_ratio, config.training.weight_decay, config.text.max_tokens) == (
        0.03,
        0.0,
        32768,
    )
    assert config.run.name == f"hour_llava_{size}_{stage}"


def keys_of(settings: dict, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each key, except the names of sources, which are the user's to choose."""
    for key, value in settings.items():
        path = (*prefix, key)
        if len(path) != 3 or path[:2] not in (("data", "sources"), ("data", "val_sources")):
            yield path
        if isinstance(value, dict):
            yield from keys_of(value, path)


def mistyped(word: str) -> list[str]:
    """A letter too many, one too few, and two that have changed places."""
    swapped = word[:-2] + word[-1] + word[-2]
    return sorted({word + "x", word[:-1], swapped} - {word})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_typo_anywhere_in_a_shipped_file_is_refused(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(CONF, tmp_path / "conf") / path.relative_to(CONF)
    settings = yaml.safe_load(path.read_text())
    keys = list(keys_of(settings))
    assert len(keys) > 1
    for *parents, key in keys:
        for typo in mistyped(key):
            changed = yaml.safe_load(path.read_text())
            group = changed
            for parent in parents:
                group = group[parent]
            group[typo] = group.pop(key)
            copy.write_text(yaml.safe_dump(changed))
            with pytest.raises(
                ConfigError, match=f"no setting '{'.'.join([*parents, typo])}"
            ) as refusal:
                load_config(copy)
            assert path.name in str(refusal.value)
