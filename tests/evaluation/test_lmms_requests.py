"""What lmms-eval asks, read without lmms-eval."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_hour.errors import ConfigError, InputError, QuestionError
from lit_hour.evaluation.lmms.decoding import Decoding
from lit_hour.evaluation.lmms.prompt import Prompt, file_of, prompt_of_messages, prompt_of_visuals

PICTURE = Image.new("RGB", (2, 2))


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


VIDEO, IMAGE = {"type": "video", "url": "a.mp4"}, {"type": "image", "url": PICTURE}


@pytest.mark.parametrize(
    "values, expected",
    [
        ({}, Decoding(None, (), ())),
        ({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, Decoding(16, (), ())),
        ({"temperature": 0.7, "do_sample": False}, Decoding(None, (), ())),
        ({"temperature": 0.0, "do_sample": True}, Decoding(None, (), ())),
        ({"until": "\n\n"}, Decoding(None, ("\n\n",), ())),
        ({"until": ["", "\n", "Q:"], "num_frames": 8}, Decoding(None, ("\n", "Q:"), ("num_frames",))),
        ({"until": None, "num_beams": None}, Decoding(None, (), ())),
    ],
)
def test_greedy_decoding_is_read(values: dict[str, Any], expected: Decoding) -> None:
    assert Decoding.parse(values, "task") == expected


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
        Decoding.parse(values, "mlvu")


def test_an_answer_ends_at_the_first_of_its_ends() -> None:
    decoding = Decoding(None, ("\n\n", "Q:"), ())
    assert decoding.find_end("red Q: blue\n\n") == 4
    assert decoding.find_end("red\n") is None


@pytest.mark.parametrize(
    "messages, expected",
    [
        ([user(VIDEO, text("Who?"))], Prompt(("a.mp4",), "Who?")),
        ([user(text("Who?\n"), VIDEO, text("A or B"))], Prompt(("a.mp4",), "Who?\nA or B")),
        ([user(IMAGE, IMAGE, text("Which?"))], Prompt((PICTURE, PICTURE), "Which?")),
        ([user(text("1: "), IMAGE, text(" 2: "), IMAGE)], Prompt((PICTURE, PICTURE), "1: <image> 2: <image>")),
        ([{"role": "system", "content": "Be brief."}, user(VIDEO, text("Who?"))], Prompt(("a.mp4",), "Who?", "Be brief.")),
    ],
)
def test_messages_become_a_prompt(messages: list[dict[str, Any]], expected: Prompt) -> None:
    assert prompt_of_messages(messages, "task") == expected


@pytest.mark.parametrize(
    "messages, named",
    [
        ([user(text("1?")), {"role": "assistant", "content": "1"}, user(text("2?"))], "user, assistant, user"),
        ([user({"type": "audio", "url": "a.wav"}, text("What?"))], "a.wav"),
        ([user({**VIDEO, "start_time": 2.0}, text("What?"))], "start_time"),
        ([user({"type": "video", "url": {"path": "a.mp4", "video_start": 2.0}}, text("What?"))], "video_start"),
    ],
)
def test_messages_that_cannot_be_shown_are_refused(messages: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(QuestionError, match=f"task longvt .*{named}"):
        prompt_of_messages(messages, "longvt")


def test_visuals_that_cannot_be_shown_are_refused() -> None:
    with pytest.raises(InputError, match=r"task mmau shows .*sampling_rate"):
        prompt_of_visuals([{"array": [0.5], "sampling_rate": 16_000}], "What?", "mmau")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_a_picture_keeps_its_pixels_and_its_name_is_its_content(mode: str, tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB").convert(mode)
    file = file_of(picture, tmp_path)
    with Image.open(file) as read:
        assert read.convert("RGB").tobytes() == picture.convert("RGB").tobytes()
    assert file_of(picture, tmp_path) == file
    assert file_of(picture.rotate(90), tmp_path) != file
