"""Defaults, files and overrides become one Config; wrong files are refused by name."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from lit_hour.config.load import COMPOSE, config_from_dict, load_config, save_config
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from tests import REPOSITORY

WriteYaml = Callable[..., Path]  # fixture `write`


# Precedence


def test_precedence_is_defaults_composed_file_overrides(write: WriteYaml) -> None:
    write("training: {max_steps: 1, log_every_n_steps: 1, save_total_limit: 1}", "base.yaml")
    write("training: {max_steps: 2, log_every_n_steps: 2}\nvideo: {min_frames: 7}", "sizes.yaml")
    path = write("compose: [base.yaml, sizes.yaml]\ntraining: {max_steps: 3}")
    training = load_config(path, ["training.max_steps=4"]).training
    assert load_config(path).training.max_steps == 3
    assert (training.max_steps, training.log_every_n_steps, training.save_total_limit) == (4, 2, 1)
    assert training.val_every_n_steps == Config().training.val_every_n_steps
    assert load_config(path).video.min_frames == 7


def test_last_override_wins() -> None:
    assert load_config(overrides=["run.seed=1", "run.seed=2"]).run.seed == 2


def test_file_composed_twice_is_merged_once(write: WriteYaml) -> None:
    write("run: {seed: 1}", "shared.yaml")
    write("compose: [shared.yaml]\nrun: {seed: 2}", "left.yaml")
    write("compose: [shared.yaml]\nvideo: {min_frames: 3}", "right.yaml")
    config = load_config(write("compose: [left.yaml, right.yaml]"))
    assert (config.run.seed, config.video.min_frames) == (2, 3)


def test_composed_files_are_relative_to_their_file(
    write: WriteYaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    write("run: {seed: 5}", "inner/deep.yaml")
    write("compose: [deep.yaml]", "inner/middle.yaml")
    path = write("compose: [inner/middle.yaml]")
    monkeypatch.chdir("/")
    assert load_config(path).run.seed == 5


def test_sources_are_merged_by_name(write: WriteYaml) -> None:
    write("data: {sources: {a: {shards: x, weight: 2}, b: {shards: y}}}", "base.yaml")
    path = write("compose: [base.yaml]\ndata: {sources: {b: {weight: 0.5}}}")
    sources = load_config(
        path, ["data.sources.c.shards=z", "data.sources.a.shards=elsewhere"]
    ).data.sources
    assert {name: (source.shards, source.weight) for name, source in sources.items()} == {
        "a": ("elsewhere", 2.0),
        "b": ("y", 0.5),
        "c": ("z", 1.0),
    }


# Values


def test_schema_and_not_yaml_decides_the_type(write: WriteYaml) -> None:
    for text in ("010", "1_000", "1.10", "yes", "2024-01-01", "0x1F", "1e5"):
        assert load_config(write(f"run: {{name: {text}}}")).run.name == text
        assert load_config(overrides=[f"run.name={text}"]).run.name == text


def test_override_is_taken_literally() -> None:
    prompt = "Answer briefly: {yes, no} = 'x' # not more"
    assert (
        load_config(
            overrides=[f"text.system_prompt={prompt}", "model.vision.weights="]
        ).text.system_prompt
        == prompt
    )


def test_floats_are_read_in_any_notation(write: WriteYaml) -> None:
    for written in ("1e-4", "1.0e-4", "0.0001", ".0001"):
        path = write(f"training: {{weight_decay: {written}}}")
        assert load_config(path).training.weight_decay == 1e-4, written


# References: ${a.b} is the value of a.b in the files before


def test_reference_is_replaced_by_the_value_in_earlier_files(write: WriteYaml) -> None:
    model = write("run: {name: small, folder: out}", "model.yaml")
    stage = write(
        "run: {name: '${run.name}_s2'}\ntraining: {init_from: '${run.folder}/${run.name}_s1'}",
        "stage.yaml",
    )
    config = load_config([model, stage], ["run.folder=elsewhere"])
    assert (config.run.name, config.training.init_from) == ("small_s2", "out/small_s1")
    assert config.run.folder == "elsewhere"
    assert load_config(stage).run.name == "hour_llava_s2"


def test_reference_to_no_setting_is_refused(write: WriteYaml) -> None:
    for reference, reason in (
        ("${run.nam}", r"Unknown setting 'run\.nam' \(.*run\.yaml\).*'run\.name'"),
        ("${run}", r"\$\{run\} in .*run\.yaml must name a setting that has a value"),
        ("${data.sources.a.shards}", "must name a setting that has a value"),
        ("${oc.env:HOME}", "Unknown setting 'oc.env:HOME'"),
        ("${run.name", "have a meaning of their own in omegaconf"),
    ):
        path = write(f"run: {{name: '{reference}'}}")
        with pytest.raises(ConfigError, match=reason):
            load_config(path)


# Several files


def test_later_files_win_and_shared_parents_are_merged_once(write: WriteYaml) -> None:
    write("run: {seed: 1}\nvideo: {min_frames: 3}", "shared.yaml")
    first = write("compose: [shared.yaml]\nrun: {seed: 2}", "first.yaml")
    second = write("compose: [shared.yaml]\nvideo: {min_frames: 4}", "second.yaml")
    config = load_config([first, second])
    assert (config.run.seed, config.video.min_frames) == (2, 4)
    assert load_config(second, base=first) == config


# Files that are not settings


def test_file_that_is_not_a_mapping_is_refused(write: WriteYaml) -> None:
    for text, reason in (
        ("- a\n- b", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("run: [unclosed", "cannot be read as YAML"),
        ("run: &loop {name: *loop}", "nested without end"),
        ("? [a, b]\n: 1", "line 1: the name of a setting must be a word"),
        ("run: {seed: 1}\n---\nrun: {seed: 2}", "cannot be read as YAML"),
    ):
        path = write(text)
        with pytest.raises(ConfigError, match=reason) as error:
            load_config(path)
        assert str(path) in str(error.value)


def test_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\xfa\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "run.yaml")


def test_empty_file_is_the_defaults(write: WriteYaml) -> None:
    assert load_config(write("# nothing yet\n")) == load_config() == Config()


def test_python_tags_are_not_executed(write: WriteYaml, tmp_path: Path) -> None:
    path = write(f"run: {{name: !!python/object/apply:os.mkdir [{tmp_path}/made]}}")
    with pytest.raises(ConfigError, match=r"run\.name"):
        load_config(path)
    assert not (tmp_path / "made").exists()


def test_missing_file_is_refused_with_a_similar_name(write: WriteYaml, tmp_path: Path) -> None:
    write("", "tiny.yaml")
    with pytest.raises(
        ConfigError, match=r"Config file not found: .*tyni\.yaml\. Did you mean .*/tiny\.yaml\?"
    ):
        load_config(tmp_path / "tyni.yaml")


def test_duplicate_setting_is_refused(write: WriteYaml) -> None:
    for text, name, lines in (
        (
            "training:\n  max_steps: 1\n  num_val_images: 2\n  max_steps: 3",
            "training.max_steps",
            "2 and 4",
        ),
        ("run: {seed: 1}\n'run': {seed: 2}", "run", "1 and 2"),
        ("data:\n  sources:\n    a: {shards: x}\n    a: {shards: y}", "data.sources.a", "3 and 4"),
        ("compose: []\ncompose: []", "compose", "1 and 2"),
    ):
        path = write(text)
        with pytest.raises(
            ConfigError, match=rf"run\.yaml sets '{name}' twice, in lines {lines}\.$"
        ):
            load_config(path)


# Composed files


def test_missing_composed_file_names_both_files(write: WriteYaml) -> None:
    write("", "hour_llava_3b.yaml")
    with pytest.raises(ConfigError) as error:
        load_config(write("compose: [hour_lava_3b.yaml]"))
    message = str(error.value)
    assert "hour_lava_3b.yaml, which " in message and "run.yaml composes" in message
    assert message.endswith("hour_llava_3b.yaml?")


def test_circular_composition_is_refused_with_its_files(write: WriteYaml) -> None:
    for files in [["a.yaml"], ["a.yaml", "b.yaml"], ["a.yaml", "b.yaml", "c.yaml"]]:
        paths = [
            write(f"compose: [./{following}]", name)
            for name, following in zip(files, [*files[1:], files[0]], strict=True)
        ]
        with pytest.raises(
            ConfigError, match=f"goes in a circle: .*{' -> .*'.join(files)} -> .*a.yaml$"
        ):
            load_config(paths[0])


def test_compose_must_be_a_list_of_names(write: WriteYaml) -> None:
    for text in [
        "compose: base.yaml",
        "compose:",
        "compose: {a: b}",
        "compose: [[a]]",
        "compose: [~]",
    ]:
        path = write(text)
        with pytest.raises(
            ConfigError, match=r"'compose' in .*run\.yaml must be a list of file names"
        ):
            load_config(path)


# Saving


def test_saved_config_loads_unchanged(tmp_path: Path) -> None:
    overrides = [
        "run.name=010",
        "run.seed=3",
        "text.system_prompt=null: 'ü' # \"x\"\n  - 1",
        "training.devices=2",
        "text.tokenizer=yes",
    ]
    overrides += [
        "training.weight_decay=1e-7",
        "training.learning_rate.vision=0.1234567890123456",
        "text.time_sentence=none",
    ]
    overrides += [
        "data.sources.a.shards=x",
        "data.sources.2.shards=~",
        "data.sources.2.weight=0.3",
        "model.llm.rope_theta=1e6",
    ]
    config = load_config(overrides=overrides)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert config_from_dict(asdict(config), "a checkpoint") == config


def test_dict_is_checked_like_a_file() -> None:
    settings = asdict(load_config())
    settings["training"]["max_stepz"] = 1
    with pytest.raises(
        ConfigError, match=r"Unknown setting 'training\.max_stepz' \(run/last\.ckpt\)"
    ):
        config_from_dict(settings, "run/last.ckpt")


def test_dict_holds_plain_values_only() -> None:
    def walk(value: object) -> Iterator[object]:
        yield from (
            (leaf for inner in value.values() for leaf in walk(inner))
            if isinstance(value, dict)
            else [value]
        )

    settings = asdict(load_config(overrides=["data.sources.a.shards=x"]))
    assert {type(leaf) for leaf in walk(settings)} <= {int, float, bool, str}


def test_compose_is_not_a_setting() -> None:
    assert COMPOSE not in asdict(load_config())


def test_loader_imports_no_heavy_library() -> None:
    code = (
        "import lit_hour.config.load, sys;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "omegaconf" in loaded
    assert not {
        "torch",
        "lightning",
        "transformers",
        "numpy",
        "open_clip",
        "av",
        "webdataset",
    } & set(loaded)
