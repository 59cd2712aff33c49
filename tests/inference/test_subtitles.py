"""`lit-hour ask` takes the subtitles beside the video, by the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.run_dir import RunDir
from tests.data.factories import write_video
from tests.helpers.subtitles import LINE_SRT, lines_of, record_prompts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ((), []),
        (("text.subtitles=all",), list(range(20))),
        (("text.subtitles=all", "text.max_subtitle_tokens=60"), [0, 9, 19]),
        (("text.subtitles=kept", "model.memaug.temporal_keep_ratio=0.5"), [0, 2, 5]),
    ],
    ids=["off", "all", "budget", "kept"],
)
def test_ask_takes_the_subtitles_beside_the_video(
    random_run: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
    numbers: list[int],
) -> None:
    write_video(tmp_path / "a.mp4", num_seconds=6)
    (tmp_path / "a.srt").write_text(LINE_SRT)
    prompts = record_prompts(monkeypatch)
    overrides = ["video.min_frames=1", "model.memaug.min_frames=1", *settings]
    question = [str(tmp_path / "a.mp4"), "What is shown?", "--run", str(random_run.path)]
    main(["ask", *question, *overrides])
    capsys.readouterr()
    (prompt,) = prompts
    assert lines_of(prompt) == [f"Line {number}." for number in numbers]
