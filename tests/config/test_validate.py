"""Wrong names, values and combinations are refused with the setting and what is right."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_hour.config.load import config_from_dict, load_config
from lit_hour.errors import ConfigError

WriteYaml = Callable[..., Path]  # fixture `write`


def error_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(overrides=overrides)
    return str(error.value)


# Names


def test_unknown_name_in_file_is_named_in_full(write: WriteYaml) -> None:
    path = write("trainig: {max_steps: 1}")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert (
        str(error.value)
        == f"Unknown setting 'trainig.max_steps' ({path}). Did you mean 'training.max_steps'?"
    )


def test_override_without_name_or_equals_sign_is_refused() -> None:
    for override in ("training.max_steps", "=3", ""):
        assert error_of(override).startswith(f"'{override}' is not a setting. Write key=value,")


def test_dotted_name_in_file_is_refused(write: WriteYaml) -> None:
    with pytest.raises(ConfigError, match=r"'training\.max_steps' \(.*run\.yaml\): .*command line"):
        load_config(write("training.max_steps: 1"))


def test_source_name_must_be_addressable(write: WriteYaml) -> None:
    for source in ("a b", "", "a/b", "/a", "ä"):
        path = write(yaml.safe_dump({"data": {"sources": {source: {"shards": "x"}}}}))
        with pytest.raises(ConfigError, match="the name of a source may have letters"):
            load_config(path)


# Values


def test_value_of_wrong_type_is_refused(write: WriteYaml) -> None:
    for name, value, expected in (
        ("training.max_steps", "1.5", "a whole number"),
        ("training.max_steps", "1e3", "a whole number"),
        ("training.max_steps", "yes", "a whole number"),
        ("training.max_steps", "", "a whole number"),
        ("training.weight_decay", "a little", "a number"),
        ("text.loss_on_template", "maybe", "true or false"),
        ("training.precision", "fp8", "bf16-mixed, bf16-true or 32-true"),
        ("video.on_decode_error", "", "raise or truncate"),
    ):
        message = error_of(f"{name}={value}")
        assert message == f"{name}={value} (command line) must be {expected}."
        section, leaf = name.split(".")
        path = write(f"{section}: {{{leaf}: '{value}'}}")
        with pytest.raises(ConfigError) as error:
            load_config(path)
        assert str(error.value) == f"{name}={value} ({path}) must be {expected}."


def test_null_is_refused(write: WriteYaml) -> None:
    for name in (
        "training.max_steps",
        "training.weight_decay",
        "run.name",
        "text.time_sentence",
        "video.on_decode_error",
    ):
        section, leaf = name.split(".")
        for null in ("null", "~", "", "NULL"):
            path = write(f"{section}:\n  {leaf}: {null}\n")
            with pytest.raises(ConfigError, match=rf"^{name} \(.*run\.yaml\) must be .*, not null"):
                load_config(path)


def test_section_takes_no_value() -> None:
    for name in ("training", "model.llm", "data.sources", "data.sources.a"):
        for value in (None, "5", ["x"]):
            settings: object = value
            for part in reversed(name.split(".")):
                settings = {part: settings}
            with pytest.raises(
                ConfigError,
                match=rf"^'{name}' \(the test\) is a section of settings\. .* such as {name}\.",
            ):
                config_from_dict(settings, "the test")  # type: ignore[arg-type]


def test_setting_takes_no_list_or_mapping(write: WriteYaml) -> None:
    for value in ("[1, 2]", "{}"):
        path = write(f"training: {{max_steps: {value}}}")
        with pytest.raises(
            ConfigError, match=r"^training\.max_steps \(.*\) must be a whole number, not "
        ):
            load_config(path)


def test_omegaconf_signs_are_refused_in_overrides() -> None:
    for value in ("${run.folder}", "${oc.env:HOME}", "???"):
        message = error_of(f"run.name={value}")
        assert message.startswith("run.name=") and "omegaconf" in message


def test_source_without_shards_is_refused() -> None:
    for section in ("sources", "val_sources"):
        name = f"data.{section}.a.shards"
        assert error_of(f"data.{section}.a.weight=2") == (
            f"{name} has no value and no default. Set it in a file, or as {name}=..."
        )


def test_run_name_must_name_a_folder() -> None:
    bad = ("", ".", "..", ".hidden", "a/b", "/a", "a\\b", "a b", "a\n", "a:b", "ä", "../../a")
    for name in bad:
        message = error_of(f"run.name={name}")
        assert message.startswith(f"run.name={name!r} must name a folder"), name
    for name in ("a", "hour_llava-7B.v2", "2", "_a", "a.."):
        assert load_config(overrides=[f"run.name={name}"]).run.name == name


# Combinations


def test_contradicting_settings_name_each_other() -> None:
    for overrides, named in (
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
        (["pack.num_workers=0"], ["pack.num_workers=0", "-1"]),
        (["training.objective=answer_words"], ["training.learning_rate.llm=2e-05"]),
        (
            [
                "training.objective=answer_words",
                "training.learning_rate.llm=0",
                "training.strategy=fsdp",
            ],
            ["training.strategy=fsdp"],
        ),
        (["training.objective=dpo"], ["training.objective=dpo", "data.questions_per_sample=5"]),
        *(
            (["training.objective=grpo", "data.questions_per_sample=1", word], [word])
            for word in (
                "training.strategy=fsdp",
                "text.loss_on_template=true",
                "model.llm.lora.dropout=0.1",
                "training.peak_tflops=989.0",
            )
        ),
        (
            [
                "training.objective=grpo",
                "data.questions_per_sample=1",
                *(
                    f"training.grpo.rewards.{name}=0"
                    for name in ("right_option", "exact_word", "temporal_iou", "format")
                ),
            ],
            ["training.grpo.rewards.right_option=1"],
        ),
    ):
        message = error_of(*overrides)
        assert all(name in message for name in named), message


def test_uniform_forgetting_takes_every_nth_row() -> None:
    for ratio in ("1", "0.25", "0.1111111111", "0.0625"):
        config = load_config(overrides=[f"model.memaug.spatial_keep_ratio={ratio}"])
        assert config.model.memaug.spatial_keep_ratio == float(ratio)


def test_random_forgetting_takes_any_ratio() -> None:
    ratio = "model.memaug.spatial_keep_ratio=0.3"
    random = [
        f"model.memaug.{name}=random" for name in ("spatial_forgetting", "eval_spatial_forgetting")
    ]
    assert load_config(overrides=[ratio, *random]).model.memaug.spatial_keep_ratio == 0.3
    assert "uniform forgetting" in error_of(ratio, random[0])
