"""The exported folder is all that transformers needs: no lit_hour, open_clip or timm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lit_hour.export.to_transformers import export_to_transformers
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.types import Message
from tests.export import isolated
from tests.export.factories import answer_of, pictures, write_run
from tests.media.helpers import numbered_images, write_video

CONV = ("model.vision.name=lit-hour-conv", "video.image_size=64")  # as the default run has it


@pytest.mark.parametrize(
    "settings",
    (
        pytest.param(CONV, marks=pytest.mark.slow, id="lit-hour-conv"),
        pytest.param((), marks=pytest.mark.exhaustive, id="lit-hour-tiny"),
    ),
)
def test_isolated_process_answers_as_ask_does(tmp_path: Path, settings: tuple[str, ...]) -> None:
    run = write_run(tmp_path / "run", "model.llm.initializer_range=0.1", *settings)
    export_to_transformers(run.path, tmp_path / "out")
    video = write_video(tmp_path / "video.mp4", numbered_images(100))
    files = []
    for number, picture in enumerate(pictures()):
        files.append(tmp_path / f"{number}.png")
        picture.save(files[-1])
    seen = {"video": [video], "picture": files[:1], "pictures": files, "text": []}
    history = [Message("user", "Which color?"), Message("assistant", "Red.")]
    predictor = VideoPredictor.from_run(run.path, device="cpu")
    expected, messages = {}, {}
    for name, paths in seen.items():
        memory = (
            predictor.encode_video(paths) if paths else predictor.encode_visual(None, 0.0, name)
        )
        conversation = predictor.processor.build_prompt("And then?", history)
        expected[name] = answer_of(predictor, memory, conversation)
        kind = "video" if name == "video" else "image"
        content = [{"type": kind, "path": str(path)} for path in paths]
        messages[name] = [
            {"role": "user", "content": [*content, {"type": "text", "text": history[0].text}]},
            {"role": "assistant", "content": history[1].text},
            {"role": "user", "content": "And then?"},
        ]
    (tmp_path / "prompts.json").write_text(json.dumps(messages))
    arguments = (tmp_path / "out", tmp_path / "prompts.json", tmp_path / "answers")
    environment = {
        **os.environ,
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    subprocess.run(
        [sys.executable, "-I", isolated.__file__, *map(str, arguments)],
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    answers = load_file(tmp_path / "answers")
    for name, (logits, ids) in expected.items():
        for suffix in ("", " again"):
            others = answers[f"{name}{suffix} logits"][:, : logits.shape[1]]
            assert float((others - logits).abs().max()) <= 1e-5, name
            assert answers[f"{name}{suffix} ids"].tolist() == ids.tolist(), name
