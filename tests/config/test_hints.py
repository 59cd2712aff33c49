"""Names that are not settings are answered with the setting that is meant."""

import pytest

from lit_hour.config.hints import (
    OTHER_NAMES,
    RENAMED,
    RENAMED_VALUES,
    present_name,
    suggest_settings,
)
from lit_hour.config.load import config_from_dict, load_config
from lit_hour.config.validate import SCHEMA
from lit_hour.errors import ConfigError


def error_of(override: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(overrides=[override])
    return str(error.value)


# Former names


def test_renamed_table_leads_to_present_settings_only() -> None:
    assert set(RENAMED.values()) <= set(SCHEMA)
    assert not set(RENAMED) & set(SCHEMA)


def test_every_former_name_is_answered_with_its_present_name() -> None:
    for former, present in RENAMED.items():
        suffix = ".x" if SCHEMA[present].is_section else ""
        former, present = (name.replace("NAME", "mine") + suffix for name in (former, present))
        values = RENAMED_VALUES.get(former, "")
        expected = f"'{former}' (command line) was renamed to '{present}'.{values}"
        assert error_of(f"{former}=1") == expected


def test_former_section_in_a_file_is_answered_with_its_present_name() -> None:
    with pytest.raises(ConfigError) as error:
        config_from_dict({"world": {"size_pixels": 64}}, "run.yaml")
    assert str(error.value) == (
        "'world.size_pixels' (run.yaml) was renamed to 'synthetic.image_size'."
    )


def test_setting_in_a_renamed_section_keeps_its_name() -> None:
    assert present_name("data.validation_sources.a.start") == "data.val_sources.a.skip_fraction"
    assert present_name("model.memory.num_layers") == "model.memaug.num_layers"
    assert present_name("marathon.serving.max_retries") == "videomarathon.client.max_retries"
    assert present_name("training.max_steps") is None


# Names in other projects, and typing errors


def test_names_of_other_projects_lead_to_settings() -> None:
    assert set(OTHER_NAMES) <= set(SCHEMA)
    for name, meant in (
        ("training.lr", "training.learning_rate.llm"),
        ("training.learning_rates.lr", "training.learning_rate.llm"),
        ("training.batch_size", "data.global_batch_size"),
        ("per_device_train_batch_size", "data.micro_batch_size"),
        ("fps", "video.fps"),
        ("model.video.frame_rate", "video.fps"),
        ("trainer.max_epochs", "training.max_steps"),
        ("trainer.gradient_clip_val", "training.gradient_clip_norm"),
        ("lora.r", "model.llm.lora.rank"),
        ("output_dir", "run.folder"),
        ("pack.workers", "pack.num_workers"),
        ("data.workers", "data.num_workers"),
        ("frames_upbound", "video.max_frames"),
        ("data.sources.a.data_path", "data.sources.a.shards"),
    ):
        assert suggest_settings(name, SCHEMA)[0] == meant, name


def test_learning_rate_is_suggested_for_all_parts() -> None:
    message = error_of("training.lr=1e-4")
    for part in ("llm", "memaug", "projector", "vision"):
        assert f"'training.learning_rate.{part}'" in message


def test_typing_errors_are_answered_with_the_similar_setting() -> None:
    for override, meant in (
        ("trainig.max_steps=1", "'training.max_steps'"),
        ("training.max_step=1", "'training.max_steps'"),
        ("--training.max_steps=1", "'training.max_steps'"),
        ("max_steps=1", "'training.max_steps'"),
        ("modle.llm.hiden_size=1", "'model.llm.hidden_size'"),
        ("training.max_steps.more=1", "'training.max_steps'"),
        (
            "seed=1",
            "'run.seed' or 'synthetic.seed' or 'pretrain_tower.seed'"
            " or 'pretrain_language.seed' or 'videomarathon.seed'",
        ),
        ("data.sources.marathon.wieght=1", "'data.sources.marathon.weight'"),
        ("data.sorces.marathon.weight=1", "'data.sources.marathon.weight'"),
        ("video.fsp=2", "'video.fps'"),
    ):
        name = override.split("=")[0]
        assert error_of(override) == (
            f"Unknown setting '{name}' (command line). Did you mean {meant}?"
        )


def test_name_like_no_other_leads_to_help() -> None:
    assert "`python train.py --help` lists every setting" in error_of("zzz=1")
