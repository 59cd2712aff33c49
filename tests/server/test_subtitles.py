"""The server takes the subtitles beside an allowed video, by the setting of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_hour.inference.predictor import VideoPredictor
from lit_hour.run_dir import RunDir
from tests.helpers.subtitles import LINE_SRT, lines_of, record_prompts
from tests.server.conftest import OVERRIDES
from tests.server.helpers import run_server


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        (("text.subtitles=off",), []),
        (("text.subtitles=all",), list(range(20))),
        (("text.subtitles=all", "text.max_subtitle_tokens=60"), [0, 9, 19]),
        (("text.subtitles=kept", "model.memaug.temporal_keep_ratio=0.5"), [0, 3]),
    ],
    ids=["off", "all", "budget", "kept"],
)
def test_answers_see_the_subtitles_beside_the_video(
    random_run: RunDir,
    clip: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
    numbers: list[int],
) -> None:
    (tmp_path / "walk.mp4").write_bytes(clip)  # four seconds
    (tmp_path / "walk.srt").write_text(LINE_SRT)
    frames = ("video.min_frames=1", "model.memaug.min_frames=1")
    overrides = [*OVERRIDES, *frames, *settings]
    predictor = VideoPredictor.from_run(random_run.path, device="cpu", overrides=overrides)
    prompts = record_prompts(monkeypatch)
    with run_server(predictor, None, [tmp_path]) as server:
        answer = server.chat((tmp_path / "walk.mp4").as_uri(), "What is shown?")
        assert answer.status == 200
        (prompt,) = prompts
        assert lines_of(prompt) == [f"Line {number}." for number in numbers]
        assert prompt.index("[frame]") < prompt.index("What is shown?")
        uploaded = server.upload(clip).json()["id"]
        server.wait_until_finished(uploaded)
        assert server.chat(uploaded, "What is shown?").status == 200
        assert lines_of(prompts[-1]) == []  # a file of a client has none beside it
