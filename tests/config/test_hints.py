"""Former names of settings are answered with their present names."""

import pytest

from lit_hour.config.hints import RENAMED, present_name
from lit_hour.config.introspect import walk_schema
from lit_hour.config.load import config_from_dict, load_config
from lit_hour.errors import ConfigError

ENTRIES = {entry.name: entry for entry in walk_schema()}


def test_each_present_name_is_in_the_schema_and_no_former_one() -> None:
    assert set(RENAMED.values()) <= set(ENTRIES)
    assert not set(RENAMED) & set(ENTRIES)


def test_each_former_name_is_answered_with_its_present_name() -> None:
    for former, present in RENAMED.items():
        source = (former.replace("NAME", "mine"), present.replace("NAME", "mine"))
        leaf = "" if not ENTRIES[present].is_section else ".x"
        with pytest.raises(ConfigError) as refusal:
            load_config(overrides=[f"{source[0]}{leaf}=1"])
        assert f"'{source[0]}{leaf}'" in str(refusal.value), former
        assert f"renamed to '{source[1]}{leaf}'" in str(refusal.value), former


def test_a_former_section_of_a_file_is_answered_with_its_present_name() -> None:
    with pytest.raises(
        ConfigError,
        match=r"'world\.size_pixels' \(in run\.yaml\) was renamed to 'synthetic\.image_size'",
    ):
        config_from_dict({"world": {"size_pixels": 64}}, "run.yaml")


def test_sections_and_settings_that_were_both_renamed() -> None:
    assert present_name("data.validation_sources.a.start") == "data.val_sources.a.skip_fraction"
    assert present_name("model.memory.num_layers") == "model.memaug.num_layers"
    assert present_name("marathon.serving.max_retries") == "videomarathon.client.max_retries"
    assert present_name("training.max_steps") is None
