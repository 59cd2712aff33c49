"""`--help` lists every setting exactly once, with its default, unit, range and help."""

import re
from dataclasses import asdict

from lit_hour.config.introspect import describe_settings, walk_schema
from lit_hour.config.load import load_config

TEXT = describe_settings()
SETTINGS = [info for info in walk_schema() if not info.is_section]


def line_of(name: str) -> str:
    lines = [line for line in TEXT.splitlines() if re.match(rf"  {re.escape(name)}=", line)]
    assert len(lines) == 1, f"{name} is listed {len(lines)} times"
    return lines[0]


def leaf_names(settings: dict, prefix: str = "") -> set[str]:
    """Full names of a loaded config, which is built without the walk that is tested here."""
    names = set()
    for key, value in settings.items():
        names |= (
            leaf_names(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
        )
    return names


def test_every_setting_is_listed_and_nothing_else() -> None:
    config = load_config(overrides=["data.sources.NAME.shards=a", "data.val_sources.NAME.shards=b"])
    listed = re.findall(r"^  (\S+?)=", TEXT, flags=re.MULTILINE)
    assert sorted(listed) == sorted(leaf_names(asdict(config)))


def test_unit_bounds_and_help_are_shown() -> None:
    for info in SETTINGS:
        line = line_of(info.name)
        for bound, name in (("ge", "at least"), ("gt", "above"), ("le", "at most")):
            if info.metadata[bound] is not None:
                assert f"{name} {info.metadata[bound]}" in line
        if info.metadata["unit"]:
            assert f"[{info.metadata['unit']}" in line
        help_lines = re.match(r"(?:      .*\n?)+", TEXT.split(line + "\n")[1])
        assert help_lines is not None
        assert " ".join(help_lines[0].split()) == " ".join(info.metadata["help"].split())


def test_shown_defaults_load_and_are_the_defaults() -> None:
    listed = [
        re.sub(r"  \[[^]]*\]$", "", line).strip()
        for line in TEXT.splitlines()
        if re.match(r"  \S+=", line)
    ]
    overrides = [override for override in listed if ".NAME." not in override]
    assert len(overrides) > 60
    assert load_config(overrides=overrides) == load_config()


def test_choices_are_shown_without_quotes() -> None:
    assert (
        line_of("training.precision")
        == "  training.precision=bf16-mixed  [bf16-mixed, bf16-true or 32-true]"
    )
    assert line_of("video.on_decode_error") == "  video.on_decode_error=raise  [raise or truncate]"


def test_setting_without_default_is_shown_as_required() -> None:
    assert line_of("data.sources.NAME.shards") == "  data.sources.NAME.shards=...  [required]"


def test_settings_stand_under_the_heading_of_their_section() -> None:
    heading = ""
    for line in TEXT.splitlines():
        if line and not line.startswith(" "):
            heading = line.split(":")[0]
        elif setting := re.match(r"  (\S+?)=", line):
            assert setting[1].rpartition(".")[0] == heading


def test_help_fits_the_terminal() -> None:
    assert max(len(line) for line in TEXT.splitlines() if line.startswith("      ")) <= 100
