"""Every setting is described, has a default that fits its own range, and its bounds are kept exactly."""

import math
from collections.abc import Iterator

import pytest

from lit_hour.config.introspect import BOUND_NAMES, FieldInfo, walk_schema
from lit_hour.config.load import config_to_dict, load_config
from lit_hour.errors import ConfigError

SETTINGS = [entry for entry in walk_schema() if not entry.is_section]
NUMBERS = [entry for entry in SETTINGS if entry.type in (int, float)]
WORDS_THAT_FIT = {  # what else has to change for the smallest value to fit the other settings
    "video.max_frames": ["video.min_frames=1"],
    "model.llm.hidden_size": [
        "model.llm.num_heads=1",
        "model.llm.num_key_value_heads=1",
    ],
    "model.llm.num_heads": ["model.llm.num_key_value_heads=1"],
}


def bounds() -> Iterator[tuple[str, float, float]]:
    """(setting, the last value that is allowed, the first one that is not) for each bound of the schema."""
    for entry in NUMBERS:
        for bound in BOUND_NAMES:
            limit = entry.metadata[bound]
            if limit is None:
                continue
            outwards = math.inf if bound == "le" else -math.inf
            beyond = (
                limit + math.copysign(1, outwards)
                if entry.type is int
                else math.nextafter(limit, outwards)
            )
            if bound == "gt":
                inside = limit + 1 if entry.type is int else math.nextafter(limit, math.inf)
                yield entry.name, inside, limit
            else:
                yield entry.name, limit, beyond


def as_word(name: str, value: float) -> str:
    """A whole number without its `.0`, since an int setting takes no other; NAME replaced by a source."""
    written = int(value) if value == int(value) else repr(value)
    return f"{name.replace('NAME', 'marathon')}={written}"


def words_around(name: str) -> list[str]:
    group, _, rest = name.partition(".NAME")
    return WORDS_THAT_FIT.get(name, []) + ([f"{group}.marathon.shards=folder"] if rest else [])


def value_of(name: str, config: dict) -> float:
    for part in name.replace("NAME", "marathon").split("."):
        config = config[part]
    return config  # type: ignore[return-value]


@pytest.mark.parametrize("name, inside, outside", list(bounds()))
def test_bounds_are_exact(name: str, inside: float, outside: float) -> None:
    config = load_config(overrides=[*words_around(name), as_word(name, inside)])
    assert value_of(name, config_to_dict(config)) == inside
    full_name = name.replace("NAME", "marathon")
    with pytest.raises(
        ConfigError,
        match=rf"^{full_name}=\S+ is out of range: it has to be (at least|above|at most) ",
    ):
        load_config(overrides=[*words_around(name), as_word(name, outside)])


def test_the_bounds_above_cover_the_schema() -> None:
    unbounded = {entry.name for entry in NUMBERS} - {name for name, _, _ in bounds()}
    assert unbounded == {"model.vision.layer"}, (
        "a layer counts from either end; every other number has a bound"
    )


@pytest.mark.parametrize(
    "entry", [entry for entry in NUMBERS if entry.type is float], ids=lambda entry: entry.name
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_a_number_that_is_not_finite_is_refused(entry: FieldInfo, value: str) -> None:
    name = entry.name.replace("NAME", "marathon")
    with pytest.raises(ConfigError, match=rf"^{name}=\S+ has to be a finite number$"):
        load_config(overrides=[*words_around(entry.name), f"{name}={value}"])


@pytest.mark.parametrize("entry", list(walk_schema()), ids=lambda entry: entry.name)
def test_each_entry_says_what_it_means(entry: FieldInfo) -> None:
    assert entry.metadata["help"].strip()
    if not entry.is_section:
        assert entry.type in (int, float, bool, str) or entry.choices
        assert not entry.choices or entry.default in entry.choices


def test_units_are_a_closed_list() -> None:
    units = {entry.metadata["unit"] for entry in SETTINGS}
    counted = {
        "frames",
        "events",
        "figures",
        "pixels",
        "tiles",
        "videos",
        "processes",
        "tokens",
        "questions",
        "records",
        "requests",
        "samples",
        "shards",
        "steps",
    }
    known = {"", "1/s", "1/min", "s", "MB", "GB", "MP"} | counted
    assert units <= known


def test_the_name_of_a_setting_agrees_with_its_unit() -> None:
    ending = {
        "_seconds": "s",
        "_pixels": "pixels",
        "_frames": "frames",
        "_tokens": "tokens",
        "_steps": "steps",
        "fps": "1/s",
        "_mb": "MB",
        "_gb": "GB",
        "_megapixels": "MP",
    }
    for entry in SETTINGS:
        for end, unit in ending.items():
            assert not entry.name.endswith(end) or entry.metadata["unit"] == unit, entry.name


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_config().training.max_steps = 3  # type: ignore[misc]
