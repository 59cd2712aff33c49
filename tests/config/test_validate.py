"""A name, a value or a combination that is wrong is refused, and the error says which and what would be right."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_hour.config.load import config_from_dict, load_config
from lit_hour.errors import ConfigError

WriteYaml = Callable[..., Path]  # the fixture `write`: (text, name) -> the path of the file

# Names


@pytest.mark.parametrize(
    "word, suggestion",
    [
        ("trainig.max_steps=1", "'training.max_steps'"),
        ("training.max_step=1", "'training.max_steps'"),
        ("--training.max_steps=1", "'training.max_steps'"),
        ("max_steps=1", "'training.max_steps'"),
        ("modle.llm.hiden_size=1", "'model.llm.hidden_size'"),
        ("training.max_steps.more=1", "'training.max_steps'"),
        ("seed=1", "'run.seed' or 'synthetic.seed' or 'videomarathon.seed'"),
        ("data.sources.marathon.wieght=1", "'data.sources.marathon.weight'"),
        ("data.sorces.marathon.weight=1", "'data.sources.marathon.weight'"),
    ],
)
def test_an_unknown_word_gets_a_suggestion(word: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=[word])
    assert (
        str(refusal.value)
        == f"no setting '{word.split('=')[0]}' (in the word '{word}'); did you mean {suggestion}?"
    )


def test_an_unknown_name_in_a_file_gets_the_whole_name(write: WriteYaml) -> None:
    path = write("trainig: {max_steps: 1}")
    with pytest.raises(ConfigError) as refusal:
        load_config(path)
    assert (
        str(refusal.value)
        == f"no setting 'trainig.max_steps' (in {path}); did you mean 'training.max_steps'?"
    )


def test_a_name_like_none_points_to_help() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'zzz' .*--help"):
        load_config(overrides=["zzz=1"])


@pytest.mark.parametrize("word", ["training.max_steps", "=3", ""])
def test_a_word_that_is_no_setting_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"^'{word}' is not a setting: write NAME=VALUE"):
        load_config(overrides=[word])


def test_dots_in_a_file_are_refused(write: WriteYaml) -> None:
    with pytest.raises(ConfigError, match=r"'training\.max_steps' in .*run\.yaml: .*command line"):
        load_config(write("training.max_steps: 1"))


@pytest.mark.parametrize("source", ["a b", "", "a/b", "/a", "ä"])
def test_the_name_of_a_source_is_checked(write: WriteYaml, source: str) -> None:
    with pytest.raises(ConfigError, match="the name of a source has letters"):
        load_config(write(yaml.safe_dump({"data": {"sources": {source: {"shards": "x"}}}})))


# Values


@pytest.mark.parametrize(
    "name, value, kind",
    [
        ("training.max_steps", "1.5", "a whole number"),
        ("training.max_steps", "1e3", "a whole number"),
        ("training.max_steps", "yes", "a whole number"),
        ("training.max_steps", "", "a whole number"),
        ("training.weight_decay", "a little", "a number"),
        ("text.time_instruction", "maybe", "true or false"),
        ("training.precision", "fp8", "bf16-mixed, bf16-true or 32-true"),
        ("video.on_decode_error", "", "raise or truncate"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(
    write: WriteYaml, name: str, value: str, kind: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=[f"{name}={value}"])
    assert str(refusal.value) == f"{name}={value} in the word '{name}={value}' has to be {kind}"
    group, leaf = name.split(".")
    with pytest.raises(ConfigError, match=rf"^{name}={value} in .*run\.yaml has to be {kind}$"):
        load_config(write(f"{group}: {{{leaf}: '{value}'}}"))


@pytest.mark.parametrize(
    "name",
    [
        "training.max_steps",
        "training.weight_decay",
        "run.name",
        "text.time_instruction",
        "video.on_decode_error",
    ],
)
@pytest.mark.parametrize("null", ["null", "~", "", "NULL"])
def test_null_is_no_value(write: WriteYaml, name: str, null: str) -> None:
    group, leaf = name.split(".")
    with pytest.raises(ConfigError, match=rf"^{name} in .*run\.yaml has to be .*, not null"):
        load_config(write(f"{group}:\n  {leaf}: {null}\n"))


@pytest.mark.parametrize("name", ["training", "model.llm", "data.sources", "data.sources.a"])
@pytest.mark.parametrize("value", [None, "5", ["x"]])
def test_a_group_has_no_value(name: str, value: object) -> None:
    settings = value
    for part in reversed(name.split(".")):
        settings = {part: settings}
    with pytest.raises(
        ConfigError,
        match=f"^'{name}' in the test is a group of settings: give one of them, such as {name}\\.",
    ):
        config_from_dict(settings, "the test")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["[1, 2]", "{}"])
def test_a_setting_takes_no_list_or_mapping(write: WriteYaml, value: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^training\.max_steps in .* has to be a whole number, not "
    ):
        load_config(write(f"training: {{max_steps: {value}}}"))


@pytest.mark.parametrize("value", ["${run.folder}", "${oc.env:HOME}", "???"])
def test_omegaconfs_own_signs_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^run\.name=.* omegaconf's own signs"):
        load_config(overrides=[f"run.name={value}"])


@pytest.mark.parametrize("group", ["sources", "val_sources"])
def test_a_missing_folder_of_shards_is_named(group: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=[f"data.{group}.a.weight=2"])
    name = f"data.{group}.a.shards"
    assert (
        str(refusal.value)
        == f"{name} has no value and no default: give it in a file, or as the word {name}=..."
    )


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "a b", "a\n", "a:b", "ä", "../../a"]
)
def test_a_run_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^run\.name=.* has to name a folder"):
        load_config(overrides=[f"run.name={name}"])


@pytest.mark.parametrize("name", ["a", "hour_llava-7B.v2", "2", "_a", "a.."])
def test_a_run_name_that_is_a_folder_name_is_taken(name: str) -> None:
    assert load_config(overrides=[f"run.name={name}"]).run.name == name


@pytest.mark.parametrize(
    "words, named",
    [
        (
            ["video.min_frames=9", "video.max_frames=8"],
            ["video.min_frames=9", "video.max_frames=8"],
        ),
        (
            ["model.llm.num_key_value_heads=3"],
            ["model.llm.num_heads=16", "model.llm.num_key_value_heads=3"],
        ),
        (
            ["model.llm.hidden_size=2050"],
            ["model.llm.hidden_size=2050", "4 * model.llm.num_heads=64"],
        ),
        (["model.memaug.spatial_keep_ratio=0.3"], ["model.memaug.spatial_keep_ratio=0.3", "1/4"]),
        (["data.micro_batch_size=3"], ["data.global_batch_size=128", "data.micro_batch_size=3"]),
    ],
)
def test_settings_that_are_wrong_together_name_each_other(
    words: list[str], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(overrides=words)
    assert all(name in str(refusal.value) for name in named), refusal.value


@pytest.mark.parametrize("keep", ["1", "0.25", "0.1111111111", "0.0625"])
def test_each_nth_row_may_survive(keep: str) -> None:
    assert load_config(
        overrides=[f"model.memaug.spatial_keep_ratio={keep}"]
    ).model.memaug.spatial_keep_ratio == float(keep)


def test_any_share_may_survive_where_every_choice_is_drawn() -> None:
    drawn = [
        f"model.memaug.{name}=random" for name in ("spatial_forgetting", "eval_spatial_forgetting")
    ]
    assert (
        load_config(
            overrides=["model.memaug.spatial_keep_ratio=0.3", *drawn]
        ).model.memaug.spatial_keep_ratio
        == 0.3
    )
    with pytest.raises(ConfigError, match="where forgetting is uniform"):
        load_config(overrides=["model.memaug.spatial_keep_ratio=0.3", drawn[0]])
