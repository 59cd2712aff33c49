"""Visuals and messages of lmms-eval's tasks, parsed without lmms-eval."""

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

SQUARE = Image.new("RGB", (2, 2))


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


VIDEO, IMAGE = {"type": "video", "url": "a.mp4"}, {"type": "image", "url": SQUARE}


@pytest.mark.parametrize(
    "messages, expected",
    [
        ([user(VIDEO, text("Who?"))], Prompt(("a.mp4",), "Who?")),
        ([user(text("Who?\n"), VIDEO, text("A or B"))], Prompt(("a.mp4",), "Who?\nA or B")),
        ([user(IMAGE, IMAGE, text("Which?"))], Prompt((SQUARE, SQUARE), "Which?")),
        (
            [user(text("1: "), IMAGE, text(" 2: "), IMAGE)],
            Prompt((SQUARE, SQUARE), "1: <image> 2: <image>"),
        ),
        (
            [{"role": "system", "content": "Be brief."}, user(VIDEO, text("Who?"))],
            Prompt(("a.mp4",), "Who?", "Be brief."),
        ),
    ],
)
def test_prompt_from_messages(messages: list[dict[str, Any]], expected: Prompt) -> None:
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
def test_unsupported_messages_are_refused(messages: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(QuestionError, match=f"Task longvt .*{named}"):
        prompt_from_messages(messages, "longvt")


def test_unsupported_visuals_are_refused() -> None:
    with pytest.raises(QuestionError, match=r"Task mmau shows .*sampling_rate"):
        prompt_from_visuals([{"array": [0.5], "sampling_rate": 16_000}], "What?", "mmau")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_save_visual_is_lossless_and_names_files_by_content(mode: str, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").convert("RGB").convert(mode)
    file = save_visual(image, tmp_path)
    with Image.open(file) as read:
        assert read.convert("RGB").tobytes() == image.convert("RGB").tobytes()
    assert save_visual(image, tmp_path) == file
    assert save_visual(image.rotate(90), tmp_path) != file
