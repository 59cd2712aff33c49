"""What the tasks of lmms-eval say about generating, read without lmms-eval."""

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
def test_greedy_decoding_is_read(values: dict[str, Any], expected: GenerationKwargs) -> None:
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
def test_what_cannot_be_honoured_is_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"task mlvu .*{named}"):
        GenerationKwargs.parse(values, "mlvu")


def test_an_answer_ends_at_the_first_of_its_ends() -> None:
    decoding = GenerationKwargs(None, ("\n\n", "Q:"), ())
    assert decoding.find_stop("red Q: blue\n\n") == 4
    assert decoding.find_stop("red\n") is None
