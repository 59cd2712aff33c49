"""What the tasks of lmms-eval show and ask, read without lmms-eval."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_hour.errors import QuestionError
from lit_hour.evaluation.lmms_eval.prompt import (
    Prompt,
    prompt_from_messages,
    prompt_from_visuals,
    save_visual,
)

PICTURE = Image.new("RGB", (2, 2))


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


VIDEO, IMAGE = {"type": "video", "url": "a.mp4"}, {"type": "image", "url": PICTURE}


@pytest.mark.parametrize(
    "messages, expected",
    [
        ([user(VIDEO, text("Who?"))], Prompt(("a.mp4",), "Who?")),
        ([user(text("Who?\n"), VIDEO, text("A or B"))], Prompt(("a.mp4",), "Who?\nA or B")),
        ([user(IMAGE, IMAGE, text("Which?"))], Prompt((PICTURE, PICTURE), "Which?")),
        (
            [user(text("1: "), IMAGE, text(" 2: "), IMAGE)],
            Prompt((PICTURE, PICTURE), "1: <image> 2: <image>"),
        ),
        (
            [{"role": "system", "content": "Be brief."}, user(VIDEO, text("Who?"))],
            Prompt(("a.mp4",), "Who?", "Be brief."),
        ),
    ],
)
def test_messages_become_a_prompt(messages: list[dict[str, Any]], expected: Prompt) -> None:
    assert prompt_from_messages(messages, "task") == expected


@pytest.mark.parametrize(
    "messages, named",
    [
        (
            [user(text("1?")), {"role": "assistant", "content": "1"}, user(text("2?"))],
            "user, assistant, user",
        ),
        ([user({"type": "audio", "url": "a.wav"}, text("What?"))], "a.wav"),
        ([user({**VIDEO, "start_time": 2.0}, text("What?"))], "start_time"),
        (
            [user({"type": "video", "url": {"path": "a.mp4", "video_start": 2.0}}, text("What?"))],
            "video_start",
        ),
    ],
)
def test_messages_that_cannot_be_shown_are_refused(
    messages: list[dict[str, Any]], named: str
) -> None:
    with pytest.raises(QuestionError, match=f"task longvt .*{named}"):
        prompt_from_messages(messages, "longvt")


def test_visuals_that_cannot_be_shown_are_refused() -> None:
    with pytest.raises(QuestionError, match=r"task mmau shows .*sampling_rate"):
        prompt_from_visuals([{"array": [0.5], "sampling_rate": 16_000}], "What?", "mmau")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_a_picture_keeps_its_pixels_and_its_name_is_its_content(mode: str, tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB").convert(mode)
    file = save_visual(picture, tmp_path)
    with Image.open(file) as read:
        assert read.convert("RGB").tobytes() == picture.convert("RGB").tobytes()
    assert save_visual(picture, tmp_path) == file
    assert save_visual(picture.rotate(90), tmp_path) != file
