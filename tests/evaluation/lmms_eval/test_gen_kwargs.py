"""`generation_kwargs` of lmms-eval's tasks, parsed without lmms-eval."""

from typing import Any

import pytest

from lit_hour.errors import ConfigError
from lit_hour.evaluation.lmms_eval.prompt import GenerationKwargs


@pytest.mark.parametrize(
    "values, expected",
    [
        ({}, GenerationKwargs(None, (), ())),
        (
            {
                "max_new_tokens": 16,
                "temperature": 0,
                "top_p": 1.0,
                "num_beams": 1,
                "do_sample": False,
            },
            GenerationKwargs(16, (), ()),
        ),
        ({"temperature": 0.7, "do_sample": False}, GenerationKwargs(None, (), ())),
        ({"temperature": 0.0, "do_sample": True}, GenerationKwargs(None, (), ())),
        ({"until": "\n\n"}, GenerationKwargs(None, ("\n\n",), ())),
        (
            {"until": ["", "\n", "Q:"], "num_frames": 8},
            GenerationKwargs(None, ("\n", "Q:"), ("num_frames",)),
        ),
        ({"until": None, "num_beams": None}, GenerationKwargs(None, (), ())),
    ],
)
def test_parse_accepts_greedy_decoding(values: dict[str, Any], expected: GenerationKwargs) -> None:
    assert GenerationKwargs.parse(values, "task") == expected


@pytest.mark.parametrize(
    "values, named",
    [
        ({"temperature": 0.2}, "temperature=0.2"),
        ({"do_sample": True, "top_p": 0.9}, "do_sample=True, top_p=0.9"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": "16"}, "max_new_tokens='16'"),
    ],
)
def test_parse_refuses_sampling_and_invalid_limits(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"Task mlvu .*{named}"):
        GenerationKwargs.parse(values, "mlvu")


def test_find_stop_returns_the_first_stop() -> None:
    kwargs = GenerationKwargs(None, ("\n\n", "Q:"), ())
    assert kwargs.find_stop("red Q: blue\n\n") == 4
    assert kwargs.find_stop("red\n") is None
