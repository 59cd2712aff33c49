"""Defaults, files and words become one Config; everything that is wrong is refused by name."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_hour.config.load import COMPOSE, config_from_dict, config_to_dict, load_config, save_config
from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from tests import REPOSITORY

WriteYaml = Callable[..., Path]  # the fixture `write`: (text, name) -> the path of the file


# What wins


def test_schema_then_composed_then_file_then_words(write: WriteYaml) -> None:
    write("training: {max_steps: 1, log_every_n_steps: 1, save_total_limit: 1}", "base.yaml")
    write("training: {max_steps: 2, log_every_n_steps: 2}\nvideo: {min_frames: 7}", "sizes.yaml")
    path = write("compose: [base.yaml, sizes.yaml]\ntraining: {max_steps: 3}")
    training = load_config(path, ["training.max_steps=4"]).training
    assert load_config(path).training.max_steps == 3
    assert (training.max_steps, training.log_every_n_steps, training.save_total_limit) == (4, 2, 1)
    assert training.val_every_n_steps == Config().training.val_every_n_steps
    assert load_config(path).video.min_frames == 7


def test_the_last_word_wins() -> None:
    assert load_config(overrides=["run.seed=1", "run.seed=2"]).run.seed == 2


def test_a_file_that_two_composed_files_share_does_not_undo_the_first(write: WriteYaml) -> None:
    write("run: {seed: 1}", "shared.yaml")
    write("compose: [shared.yaml]\nrun: {seed: 2}", "left.yaml")
    write("compose: [shared.yaml]\nvideo: {min_frames: 3}", "right.yaml")
    config = load_config(write("compose: [left.yaml, right.yaml]"))
    assert (config.run.seed, config.video.min_frames) == (2, 3)


def test_composed_files_are_found_beside_the_file_that_names_them(
    write: WriteYaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    write("run: {seed: 5}", "inner/deep.yaml")
    write("compose: [deep.yaml]", "inner/middle.yaml")
    path = write("compose: [inner/middle.yaml]")
    monkeypatch.chdir("/")
    assert load_config(path).run.seed == 5


def test_sources_are_added_and_changed_by_name(write: WriteYaml) -> None:
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


# The schema, not YAML, says what a value is


@pytest.mark.parametrize("text", ["010", "1_000", "1.10", "yes", "2024-01-01", "0x1F", "1e5"])
def test_text_stays_as_it_is_written(write: WriteYaml, text: str) -> None:
    assert load_config(write(f"run: {{name: {text}}}")).run.name == text
    assert load_config(overrides=[f"run.name={text}"]).run.name == text


def test_a_word_is_taken_as_it_stands() -> None:
    prompt = "Answer briefly: {yes, no} = 'x' # not more"
    assert (
        load_config(
            overrides=[f"text.system_prompt={prompt}", "model.vision.weights="]
        ).text.system_prompt
        == prompt
    )


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "0.0001", ".0001"])
def test_floats_are_read_in_any_notation(write: WriteYaml, written: str) -> None:
    assert (
        load_config(write(f"training: {{weight_decay: {written}}}")).training.weight_decay == 1e-4
    )


# Files that are no settings


@pytest.mark.parametrize(
    "text, reason",
    [
        ("- a\n- b", "has to be a mapping"),
        ("just words", "has to be a mapping"),
        ("run: [unclosed", "cannot be read as YAML"),
        ("run: &loop {name: *loop}", "nested without end"),
        ("? [a, b]\n: 1", "line 1: the name of a setting has to be a word"),
        ("run: {seed: 1}\n---\nrun: {seed: 2}", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(write: WriteYaml, text: str, reason: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError, match=reason) as refusal:
        load_config(path)
    assert str(path) in str(refusal.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\xfa\x00\x80")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "run.yaml")


def test_an_empty_file_is_the_defaults(write: WriteYaml) -> None:
    assert load_config(write("# nothing yet\n")) == load_config() == Config()


def test_python_tags_run_nothing(write: WriteYaml, tmp_path: Path) -> None:
    path = write(f"run: {{name: !!python/object/apply:os.mkdir [{tmp_path}/made]}}")
    with pytest.raises(ConfigError, match=r"run\.name"):
        load_config(path)
    assert not (tmp_path / "made").exists()


def test_a_missing_file_is_refused_with_the_nearest(write: WriteYaml, tmp_path: Path) -> None:
    write("", "tiny.yaml")
    with pytest.raises(
        ConfigError, match=r"no such config file: .*tyni\.yaml; did you mean .*/tiny\.yaml\?"
    ):
        load_config(tmp_path / "tyni.yaml")


@pytest.mark.parametrize(
    "text, name, lines",
    [
        (
            "training:\n  max_steps: 1\n  num_val_images: 2\n  max_steps: 3",
            "training.max_steps",
            "2 and 4",
        ),
        ("run: {seed: 1}\n'run': {seed: 2}", "run", "1 and 2"),
        ("data:\n  sources:\n    a: {shards: x}\n    a: {shards: y}", "data.sources.a", "3 and 4"),
        ("compose: []\ncompose: []", "compose", "1 and 2"),
    ],
)
def test_a_setting_given_twice_is_refused(
    write: WriteYaml, text: str, name: str, lines: str
) -> None:
    with pytest.raises(
        ConfigError, match=rf"run\.yaml: '{name}' is given twice, in lines {lines}$"
    ):
        load_config(write(text))


# Files that compose others


def test_a_missing_composed_file_names_both(write: WriteYaml) -> None:
    write("", "hour_llava_3b.yaml")
    with pytest.raises(ConfigError) as refusal:
        load_config(write("compose: [hour_lava_3b.yaml]"))
    message = str(refusal.value)
    assert "hour_lava_3b.yaml, which " in message and "run.yaml composes" in message
    assert message.endswith("hour_llava_3b.yaml?")


@pytest.mark.parametrize(
    "files", [["a.yaml"], ["a.yaml", "b.yaml"], ["a.yaml", "b.yaml", "c.yaml"]]
)
def test_a_circle_of_files_is_refused_with_its_files(write: WriteYaml, files: list[str]) -> None:
    paths = [
        write(f"compose: [./{following}]", name)
        for name, following in zip(files, [*files[1:], files[0]], strict=True)
    ]
    with pytest.raises(
        ConfigError, match=f"goes in a circle: .*{' -> .*'.join(files)} -> .*a.yaml$"
    ):
        load_config(paths[0])


@pytest.mark.parametrize(
    "text", ["compose: base.yaml", "compose:", "compose: {a: b}", "compose: [[a]]", "compose: [~]"]
)
def test_compose_has_to_be_a_list_of_names(write: WriteYaml, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: 'compose' has to be a list of file names"):
        load_config(write(text))


# There and back


def test_a_saved_config_loads_as_it_was(tmp_path: Path) -> None:
    words = [
        "run.name=010",
        "run.seed=3",
        "text.system_prompt=null: 'ü' # \"x\"\n  - 1",
        "training.devices=2",
        "text.tokenizer=yes",
    ]
    words += [
        "training.weight_decay=1e-7",
        "training.learning_rate.vision=0.1234567890123456",
        "text.time_instruction=false",
    ]
    words += [
        "data.sources.a.shards=x",
        "data.sources.2.shards=~",
        "data.sources.2.weight=0.3",
        "model.llm.rope_theta=1e6",
    ]
    config = load_config(overrides=words)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert config_from_dict(config_to_dict(config), "a checkpoint") == config


def test_a_dict_from_a_checkpoint_is_checked_like_a_file() -> None:
    settings = config_to_dict(load_config())
    settings["training"]["max_stepz"] = 1
    with pytest.raises(
        ConfigError, match=r"no setting 'training\.max_stepz' \(in run/last\.ckpt\)"
    ):
        config_from_dict(settings, "run/last.ckpt")


def test_the_dict_holds_plain_values_only() -> None:
    def walk(value: object) -> Iterator[object]:
        yield from (
            (leaf for inner in value.values() for leaf in walk(inner))
            if isinstance(value, dict)
            else [value]
        )

    settings = config_to_dict(load_config(overrides=["data.sources.a.shards=x"]))
    assert {type(leaf) for leaf in walk(settings)} <= {int, float, bool, str}


def test_composing_is_no_setting() -> None:
    assert COMPOSE not in config_to_dict(load_config())


def test_the_loader_brings_no_heavy_library_with_it() -> None:
    code = "import lit_hour.config.load, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
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
