"""Real clips are packed, trained on and asked about; one of them also as a file of an hour."""

import json
import re
from pathlib import Path

import pytest
import torch

from lit_hour.cli.main import main
from lit_hour.data.shards.reader import open_shards
from tests.helpers.toy_run import ToyProject, toy_settings
from tests.media.helpers import loop_video

# Landscape and portrait, 8 and 10 bits, variable frame rate, H.264, H.265 and AV1, rotated.
CLIPS = (
    "animated_room.mp4",
    "asl_book.mkv",
    "color_bars_av1.mkv",
    "frame_counter_h265.mp4",
    "keyboard_rotated_180.mov",
    "nasa.mp4",
    "test_pattern_10bit.mp4",
)
QUESTION = "What does the video show?"
HOUR_SECONDS = 3600.0


@pytest.fixture(scope="module")
def question_file(real_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open-ended and a multiple-choice question about the content of each clip."""
    catalog = json.loads((real_videos / "CATALOG.json").read_text())
    description_of = {clip["file"]: clip["what"] for clip in catalog}
    descriptions = [description_of[name] for name in CLIPS]
    records: list[dict[str, object]] = []
    for index, name in enumerate(CLIPS):
        record = {"video": name, "answer": description_of[name]}
        options = (descriptions[index:] + descriptions[:index])[:4]
        records.append({**record, "question": QUESTION})
        records.append({**record, "question": "Which is it?", "options": sorted(options)})
    file = tmp_path_factory.mktemp("real") / "questions.json"
    file.write_text(json.dumps(records))
    return file


@pytest.fixture(scope="module")
def trained_on_clips(real_videos: Path, question_file: Path) -> ToyProject:
    """A project with the run `real`, trained on the clips."""
    folder = question_file.parent
    shards = str(folder / "shards")
    overrides = [
        "video.image_size=64",
        "video.min_frames=4",
        "video.max_frames=6",
        "pack.num_workers=1",
    ]
    main(["pack", str(real_videos), str(question_file), shards, *overrides])
    settings = toy_settings(folder)
    settings["data"]["sources"] = {"real": {"shards": shards}}
    settings["data"]["val_sources"] = {"real": {"shards": shards}}
    del settings["synthetic"]
    settings["training"] |= {"max_steps": 60, "val_every_n_steps": 60, "save_every_n_steps": 60}
    toy = ToyProject.write(folder, settings)
    toy.train("real")
    return toy


def ask(
    toy: ToyProject, capsys: pytest.CaptureFixture[str], video: Path, *overrides: str
) -> tuple[str, str]:
    """Return the answer and the line of statistics that `lit-hour ask` prints."""
    main(["ask", str(video), QUESTION, "--run", str(toy.run_dir("real").path), *overrides])
    answer, statistics = capsys.readouterr().out.strip("\n").rsplit("\n", 1)
    return answer, statistics


@pytest.mark.slow
def test_every_clip_is_packed_with_its_questions(trained_on_clips: ToyProject) -> None:
    shards = open_shards(trained_on_clips.yaml.parent / "shards")
    stored = [shards.read(entry) for entry in shards.entries]
    assert {file for sample in stored for file in sample.files} == set(CLIPS)
    assert all(len(sample.images) >= 3 and len(sample.questions) == 2 for sample in stored)


def test_ask_about_a_clip(
    trained_on_clips: ToyProject, real_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, statistics = ask(trained_on_clips, capsys, real_videos / "nasa.mp4")
    assert answer.strip()
    assert re.match(r"\[6 frames, 30 tokens in memory; decode ", statistics)
    checkpoint = trained_on_clips.run_dir("real").checkpoint("last")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 60


@pytest.mark.slow
def test_ask_about_an_hour_at_one_frame_per_second(
    trained_on_clips: ToyProject,
    real_videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hour = tmp_path / "hour.mp4"
    loop_video(real_videos / "frame_counter_h265.mp4", hour, HOUR_SECONDS)
    overrides = ["video.max_frames=3600", "model.memaug.max_kept_frames=64"]
    answer, statistics = ask(trained_on_clips, capsys, hour, *overrides)
    assert answer.strip()
    assert re.match(r"\[3600 frames, 18000 tokens in memory; decode ", statistics)
