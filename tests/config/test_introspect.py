"""`--help` lists every setting exactly once, with what a user has to know to give it."""

import re

import pytest

from lit_hour.config.introspect import FieldInfo, describe_settings, walk_schema
from lit_hour.config.load import config_to_dict, load_config

TEXT = describe_settings()
SETTINGS = [entry for entry in walk_schema() if not entry.is_section]


def line_of(name: str) -> str:
    lines = [line for line in TEXT.splitlines() if re.match(rf"  {re.escape(name)}=", line)]
    assert len(lines) == 1, f"{name} is listed {len(lines)} times"
    return lines[0]


def leaf_names(settings: dict, prefix: str = "") -> set[str]:
    """The full names of a loaded config, which is built by dataclasses and not by the walk that is tested here."""
    names = set()
    for key, value in settings.items():
        names |= (
            leaf_names(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
        )
    return names


def test_every_setting_of_a_config_is_listed_and_nothing_else() -> None:
    config = load_config(overrides=["data.sources.NAME.shards=a", "data.val_sources.NAME.shards=b"])
    listed = re.findall(r"^  (\S+?)=", TEXT, flags=re.MULTILINE)
    assert sorted(listed) == sorted(leaf_names(config_to_dict(config)))


@pytest.mark.parametrize("entry", SETTINGS, ids=lambda entry: entry.name)
def test_unit_bounds_and_meaning_are_shown(entry: FieldInfo) -> None:
    line = line_of(entry.name)
    for bound, words in (("ge", "at least"), ("gt", "above"), ("le", "at most")):
        if entry.metadata[bound] is not None:
            assert f"{words} {entry.metadata[bound]:g}" in line
    if entry.metadata["unit"]:
        assert f"[{entry.metadata['unit']}" in line
    meaning = TEXT.split(line + "\n")[1].splitlines()[0]
    assert meaning == f"      {entry.metadata['help']}"


def test_the_defaults_that_are_shown_load_and_are_the_defaults() -> None:
    listed = [
        re.sub(r"  \[[^]]*\]$", "", line).strip()
        for line in TEXT.splitlines()
        if re.match(r"  \S+=", line)
    ]
    words = [word for word in listed if ".NAME." not in word]
    assert len(words) > 60
    assert load_config(overrides=words) == load_config()


def test_choices_are_shown_without_quotes() -> None:
    assert (
        line_of("training.precision")
        == "  training.precision=bf16-mixed  [bf16-mixed, bf16-true or 32-true]"
    )
    assert line_of("video.on_decode_error") == "  video.on_decode_error=raise  [raise or truncate]"


def test_a_setting_without_a_default_says_so() -> None:
    assert (
        line_of("data.sources.NAME.shards") == "  data.sources.NAME.shards=...  [has to be given]"
    )


def test_each_group_is_a_heading_over_its_settings() -> None:
    heading = ""
    for line in TEXT.splitlines():
        if line and not line.startswith(" "):
            heading = line.split(":")[0]
        elif setting := re.match(r"  (\S+?)=", line):
            assert setting[1].rpartition(".")[0] == heading
