"""Every setting has a help text and a default within its range; bounds are exact."""

import math
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from lit_hour.config.introspect import BOUND_NAMES, walk_schema
from lit_hour.config.load import load_config
from lit_hour.errors import ConfigError

SETTINGS = [info for info in walk_schema() if not info.is_section]
NUMBERS = [info for info in SETTINGS if info.type in (int, float)]
# what else must change for the smallest value to fit the other settings
FITTING_OVERRIDES = {
    "video.max_frames": ["video.min_frames=1"],
    "model.llm.hidden_size": ["model.llm.num_heads=1", "model.llm.num_key_value_heads=1"],
    "model.llm.num_heads": ["model.llm.num_key_value_heads=1"],
}


def bounds() -> Iterator[tuple[str, float, float]]:
    """Each bound of the schema: setting, last allowed value, first forbidden value."""
    for info in NUMBERS:
        for bound in BOUND_NAMES:
            limit = info.metadata[bound]
            if limit is None:
                continue
            outwards = math.inf if bound == "le" else -math.inf
            beyond = (
                limit + math.copysign(1, outwards)
                if info.type is int
                else math.nextafter(limit, outwards)
            )
            if bound == "gt":
                inside = limit + 1 if info.type is int else math.nextafter(limit, math.inf)
                yield info.name, inside, limit
            else:
                yield info.name, limit, beyond


def overrides(name: str, value: object) -> list[str]:
    """Return the override of a setting, of a source named `a` for NAME, after those it needs."""
    if isinstance(value, float):
        value = int(value) if value == int(value) else repr(value)
    section, _, in_source = name.partition(".NAME")
    needed = [f"{section}.a.shards=folder"] if in_source else FITTING_OVERRIDES.get(name, [])
    return [*needed, f"{name.replace('NAME', 'a')}={value}"]


def value_of(name: str, config: dict) -> float:
    for part in name.replace("NAME", "a").split("."):
        config = config[part]
    return config  # type: ignore[return-value]


def test_bounds_are_exact() -> None:
    for name, inside, outside in bounds():
        config = load_config(overrides=overrides(name, inside))
        assert value_of(name, asdict(config)) == inside
        with pytest.raises(
            ConfigError,
            match=rf"^{name.replace('NAME', 'a')}=\S+ is out of range\. "
            "It must be (at least|above|at most) ",
        ):
            load_config(overrides=overrides(name, outside))


def test_every_number_but_the_vision_layer_is_bounded() -> None:
    unbounded = {info.name for info in NUMBERS} - {name for name, _, _ in bounds()}
    assert unbounded == {"model.vision.layer"}  # which counts from either end


@pytest.mark.slow
def test_number_that_is_not_finite_is_refused() -> None:
    for info in NUMBERS:
        for value in ("nan", "inf", "-inf", "1e999") if info.type is float else ():
            name = info.name.replace("NAME", "a")
            with pytest.raises(ConfigError, match=rf"^{name}=\S+ must be a finite number\.$"):
                load_config(overrides=overrides(info.name, value))


def test_every_setting_has_help_and_a_default_among_its_choices() -> None:
    for info in walk_schema():
        assert info.metadata["help"].strip(), info.name
        if not info.is_section:
            assert info.type in (int, float, bool, str) or info.choices, info.name
            assert not info.choices or info.default in info.choices, info.name


def test_units_are_a_closed_list() -> None:
    counted = {
        "answers",
        "frames",
        "events",
        "figures",
        "pixels",
        "tiles",
        "videos",
        "processes",
        "tokens",
        "questions",
        "conversations",
        "copies",
        "batches",
        "records",
        "requests",
        "samples",
        "shards",
        "steps",
        "stories",
    }
    known = {"", "1/s", "1/min", "s", "MB", "GB", "MP", "TFLOP/s"} | counted
    assert {info.metadata["unit"] for info in SETTINGS} <= known


def test_name_of_setting_agrees_with_its_unit() -> None:
    unit_of_suffix = {
        "_seconds": "s",
        "image_size": "pixels",
        "_frames": "frames",
        "_tokens": "tokens",
        "_n_steps": "steps",
        "max_steps": "steps",
        "fps": "1/s",
        "_mb": "MB",
        "_gb": "GB",
        "_megapixels": "MP",
    }
    for info in SETTINGS:
        for suffix, unit in unit_of_suffix.items():
            assert not info.name.endswith(suffix) or info.metadata["unit"] == unit, info.name


def test_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load_config().training.max_steps = 3  # type: ignore[misc]
