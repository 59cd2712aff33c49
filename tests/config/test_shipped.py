"""Each file in conf/ loads and follows the recipe; no typing error in it goes unnoticed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError
from tests import CONF, published_stage

SHIPPED = sorted(CONF.rglob("*.yaml"))
STAGES = ("s1", "s2", "s3")


def test_every_shipped_file_loads() -> None:
    for path in SHIPPED:
        config = load_config(path)
        sources = [*config.data.sources.values(), *config.data.val_sources.values()]
        assert all(not Path(source.shards).is_absolute() for source in sources), path


def test_expected_files_are_shipped() -> None:
    expected = {
        *(
            "tiny.yaml",
            "tiny_model.yaml",
            "small.yaml",
            "eval/synthetic.yaml",
            "eval/needle_1h.yaml",
        ),
        *(f"model/hour_llava_{size}.yaml" for size in ("3b", "7b")),
        *(f"stage/{stage}.yaml" for stage in STAGES),
        *(
            f"experiment/memory_ablation/{arm}.yaml"
            for arm in ("full", "compression", "sampling", "blind", "pretrain")
        ),
        "experiment/pretrain_language/language.yaml",
        "experiment/pretrain_tower/tower.yaml",
        "experiment/small/photos.yaml",
        "experiment/preference/grpo.yaml",
    }
    assert expected <= {str(path.relative_to(CONF)) for path in SHIPPED}


@pytest.mark.parametrize(
    "size, llm_sizes, global_batch_size, start",
    [
        (
            "3b",
            (2048, 36, 16, 2, 11008, 1e6, 1e-6, True),
            128,
            "weights/llava_onevision_si_qwen2_5_3b",
        ),
        (
            "7b",
            (3584, 28, 28, 4, 18944, 1e6, 1e-6, False),
            256,
            "weights/llava_onevision_si_qwen2_7b",
        ),
    ],
)
def test_sizes_batch_and_initialization_of_each_stage(
    size: str, llm_sizes: tuple, global_batch_size: int, start: str
) -> None:
    init_from = start
    for files in (published_stage(size, "s1")[:1], *(published_stage(size, s) for s in STAGES)):
        config = load_config(files)
        llm = config.model.llm
        assert llm_sizes == (
            *(llm.hidden_size, llm.num_layers, llm.num_heads, llm.num_key_value_heads),
            *(llm.intermediate_size, llm.rope_theta, llm.rms_norm_eps, llm.tie_word_embeddings),
        )
        assert config.data.global_batch_size == global_batch_size
        assert config.training.init_from == init_from
        if len(files) == 2:  # the next stage starts from this one
            assert config.run.name == f"hour_llava_{size}_{files[1].stem}"
            init_from = f"runs/{config.run.name}"


@pytest.mark.parametrize("size", ["3b", "7b"])
@pytest.mark.parametrize(
    "stage, rates, frames, weights, skipped",
    [
        ("s1", (0.0, 0.0, 1e-4, 0.0), (1, 32), [1.0], [0.0]),
        ("s2", (5e-6, 1e-4, 1e-4, 2e-5), (128, 1_000_000), [0.1, 0.1, 0.1, 0.2], [0.0] * 4),
        (
            "s3",
            (0.0, 1e-4, 1e-4, 2e-5),
            (128, 1_000_000),
            [0.9, 0.9, 0.9, 0.8, 1.0],
            [0.1, 0.1, 0.1, 0.2, 0.0],
        ),
    ],
)
def test_stages_follow_the_published_recipe(
    size: str,
    stage: str,
    rates: tuple,
    frames: tuple[int, int],
    weights: list[float],
    skipped: list[float],
) -> None:
    config = load_config(published_stage(size, stage))
    rate, sources = config.training.learning_rate, config.data.sources.values()
    assert (rate.vision, rate.projector, rate.memaug, rate.llm) == rates
    assert (config.video.min_frames, config.video.max_frames) == frames
    assert [source.weight for source in sources] == weights
    assert [source.skip_fraction for source in sources] == skipped
    assert (config.training.warmup_ratio, config.training.weight_decay) == (0.03, 0.0)
    assert config.text.max_tokens == 32768 and config.text.loss_on_template
    assert (config.video.sampling, config.text.time_sentence) == ("published", "published")


def test_source_of_a_stage_can_be_moved_by_an_override() -> None:
    config = load_config(
        published_stage("3b", "s3"), ["data.sources.video_marathon.shards=/disk/marathon"]
    )
    assert config.data.sources["video_marathon"].shards == "/disk/marathon"
    assert len(config.data.sources) == 5


def keys_of(settings: dict, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Iterate over the path of each key, except the names of sources, which the user chooses."""
    for key, value in settings.items():
        path = (*prefix, key)
        if len(path) != 3 or path[:2] not in (("data", "sources"), ("data", "val_sources")):
            yield path
        if isinstance(value, dict):
            yield from keys_of(value, path)


def mistyped(word: str) -> list[str]:
    """Return the word with one letter too many, one too few, and the last two swapped."""
    swapped = word[:-2] + word[-1] + word[-2]
    return sorted({word + "x", word[:-1], swapped} - {word})


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.slow)
        if path.is_relative_to(CONF / "experiment")
        else path
        for path in SHIPPED
    ],
    ids=lambda path: str(path.relative_to(CONF)),
)
def test_typing_error_in_any_key_is_refused(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(CONF, tmp_path / "conf") / path.relative_to(CONF)
    keys = list(keys_of(yaml.safe_load(path.read_text())))
    assert len(keys) > 1
    for *parents, key in keys:
        for typo in mistyped(key):
            changed = yaml.safe_load(path.read_text())
            section = changed
            for parent in parents:
                section = section[parent]
            section[typo] = section.pop(key)
            copy.write_text(yaml.safe_dump(changed))
            full_name = ".".join([*parents, typo])
            with pytest.raises(ConfigError, match=f"Unknown setting '{full_name}") as error:
                load_config(copy)
            assert path.name in str(error.value)
