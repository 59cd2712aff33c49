"""The whole line on real clips: packed, trained on, asked about; and one of them as a file of an hour."""

import json
import re
from pathlib import Path

import pytest
import torch

from lit_hour.cli import main
from lit_hour.data.shards.reader import open_shards
from tests.helpers.toy_run import ToyProject, toy_settings
from tests.media.helpers import loop_video

CLIPS = (  # landscape and portrait, 8 and 10 bits, variable frame rate, H.264, H.265, VP8 and AV1, upright and rotated
    "animated_room.mp4",
    "asl_book.mkv",
    "color_bars_av1.mkv",
    "frame_counter_h265.mp4",
    "keyboard_rotated_180.mov",
    "nasa.mp4",
    "test_pattern_10bit.mp4",
)
HOUR_SECONDS = 3600.0


@pytest.fixture(scope="module")
def questions(real_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in each clip, asked openly and with the other clips' descriptions as wrong options."""
    catalog = {
        clip["file"]: clip["what"]
        for clip in json.loads((real_videos / "CATALOG.json").read_text())
    }
    options = [catalog[name] for name in CLIPS]
    records: list[dict[str, object]] = []
    for place, name in enumerate(CLIPS):
        others = (options[place:] + options[:place])[:4]
        records.append(
            {"video": name, "question": "What does the video show?", "answer": catalog[name]}
        )
        records.append(
            {
                "video": name,
                "question": "Which is it?",
                "options": sorted(others),
                "answer": catalog[name],
            }
        )
    file = tmp_path_factory.mktemp("real") / "questions.json"
    file.write_text(json.dumps(records))
    return file


@pytest.fixture(scope="module")
def learnt(real_videos: Path, questions: Path) -> ToyProject:
    """A run that has read the clips."""
    folder = questions.parent
    pack_settings = [
        "video.image_size=64",
        "video.min_frames=4",
        "video.max_frames=6",
        "pack.num_workers=1",
    ]
    main(["pack", str(real_videos), str(questions), str(folder / "shards"), *pack_settings])
    values = toy_settings(folder)
    values["data"]["sources"] = {"real": {"shards": str(folder / "shards")}}
    values["data"]["val_sources"] = {"real": {"shards": str(folder / "shards")}}
    del values["synthetic"]
    values["training"] |= {
        "max_steps": 40,
        "val_every_n_steps": 40,
        "save_every_n_steps": 40,
    }
    toy = ToyProject.write(folder, values)
    toy.train("real")
    return toy


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """The answer, and the line that says what was read and how long it took."""
    main(["ask", *words])
    answer, seen = capsys.readouterr().out.strip("\n").rsplit("\n", 1)
    return answer, seen


def test_every_clip_is_packed_with_its_questions(learnt: ToyProject) -> None:
    shards = open_shards(learnt.yaml.parent / "shards")
    assert {shards.read_subject(video).source for video in shards.subjects} == set(CLIPS)
    assert all(video.num_frames >= 3 and video.num_questions == 2 for video in shards.subjects)


def test_a_clip_that_was_learnt_is_answered(
    learnt: ToyProject, real_videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(learnt.run_dir("real").path)
    answer, seen = ask(
        capsys, str(real_videos / "nasa.mp4"), "What does the video show?", "--run", run
    )
    assert answer.strip()
    assert re.match(r"\[6 frames, 30 tokens in memory; decode ", seen)
    assert (
        torch.load(learnt.run_dir("real").checkpoint("last"), weights_only=True)["global_step"]
        == 40
    )


def test_a_clip_of_an_hour_is_answered_from_a_frame_a_second(
    learnt: ToyProject, real_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hour = tmp_path / "hour.mp4"
    loop_video(real_videos / "frame_counter_h265.mp4", hour, HOUR_SECONDS)
    run = str(learnt.run_dir("real").path)
    more = ["video.max_frames=3600", "model.memaug.max_kept_frames=64"]
    answer, seen = ask(capsys, str(hour), "What does the video show?", "--run", run, *more)
    assert answer.strip()
    assert re.match(r"\[3600 frames, 18000 tokens in memory; decode ", seen)
