"""`lit-hour synthesize --footage`: what the frames show, resuming, and wrong input."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from lit_hour.cli.main import main
from lit_hour.data.questions.file import read_questions
from lit_hour.errors import InputError
from tests.media.helpers import write_moving
from tests.media.splicing.helpers import decode_all, difference
from tests.synthetic.footage.helpers import COLORS, write_footage, write_photos


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `footage` and `photos`."""
    folder = tmp_path_factory.mktemp("given")
    write_footage(folder / "footage")
    write_photos(folder / "photos")
    return folder


def arguments(given: Path, out: Path, **changed: object) -> list[str]:
    """Return the command with options or settings changed."""
    values = {
        "hours": 0.03,
        "length": "40s-50s",
        "footage": given / "footage",
        "photos": given / "photos",
        "min_photos": 2,
        "max_photos": 3,
        "max_photo_seconds": 4,
        **changed,
    }
    options = ("hours", "length", "footage", "photos", "seed", "split", "tasks")
    words = ["synthesize", str(out)]
    for name, value in values.items():
        words += [f"--{name}", str(value)] if name in options else []
    settings = [name for name in values if name not in options]
    return words + [f"synthetic.footage.{name}={values[name]}" for name in settings]


@pytest.fixture(scope="module")
def finished(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set that tests must not change."""
    out = tmp_path_factory.mktemp("sets") / "set"
    main(arguments(given, out))
    return out


def stories(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "photos.jsonl").read_text().splitlines()]


def color_share(image: np.ndarray, color: tuple[int, int, int]) -> float:
    """Return the share of the pixels `(height, width, 3)` that have a color, within a shade."""
    return float((np.abs(image.astype(int) - color).max(axis=-1) < 45).mean())


def test_photographs_are_in_the_frames_that_the_evidence_says_and_in_no_others(
    finished: Path,
) -> None:
    assert len(stories(finished)) >= 2
    areas = set()
    for story in stories(finished):
        with av.open(str(finished / "videos" / story["video"])) as container:
            frames = [
                (frame.time, frame.to_ndarray(format="rgb24"))
                for frame in container.decode(video=0)
            ]
        assert frames[-1][0] < story["duration_seconds"] < frames[-1][0] + 0.2
        for seconds, image in frames:
            for category, color in COLORS.items():
                share = color_share(image, color)
                photos = [
                    photo
                    for photo in story["photos"]
                    if photo["category"] == category.replace("_", " ")
                    and photo["interval"][0] - 1e-4 <= seconds < photo["interval"][1] - 1e-4
                ]
                if not photos:
                    assert share == 0, (seconds, category)
                    continue
                (start, end), area = photos[0]["interval"], photos[0]["area"]
                is_opaque = not photos[0]["faded"] or start + 0.5 <= seconds <= end - 0.5
                if is_opaque:
                    areas.add(area)
                    assert 0.7 * area < share <= 1.05 * area, (seconds, category)
    assert areas == {1.0, 1 / 3}


def test_frames_of_untouched_gops_equal_those_of_the_footage(finished: Path, given: Path) -> None:
    """GOPs have at most 2 s, so frames further than that from a photograph are copied."""
    decoded: dict[str, dict[int, np.ndarray]] = {}
    num_compared = 0
    for story in stories(finished):
        frames = dict(decode_all(finished / "videos" / story["video"]))
        touched = [photo["interval"] for photo in story["photos"]]
        for clip in story["clips"][:-1]:
            source = decoded.setdefault(clip["file"], dict(decode_all(Path(clip["file"]))))
            shift = round((clip["source_start"] - clip["start"]) * 90_000)
            for ticks, image in frames.items():
                seconds = ticks / 90_000
                if clip["start"] - 1e-4 <= seconds < clip["end"] - 1e-4 and not any(
                    start - 5.1 < seconds < end + 5.1 for start, end in touched
                ):
                    nearest = min(source, key=lambda time: abs(time - ticks - shift))
                    assert abs(nearest - ticks - shift) <= 2
                    assert np.array_equal(image, source[nearest]), (story["video"], seconds)
                    num_compared += 1
    assert num_compared > 300
    assert {Path(name).parent for name in decoded} >= {given / "footage", finished / "footage"}


def test_splits_share_no_photograph_and_no_story(
    finished: Path, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    main(arguments(given, other, split="validation"))
    assert "(validation)" in capsys.readouterr().out
    photos, starts = (
        [
            [read(photo) for story in stories(out) for photo in story["photos"]]
            for out in (finished, other)
        ]
        for read in (lambda photo: photo["file"], lambda photo: photo["interval"][0])
    )
    assert photos[0] and photos[1] and not set(photos[0]) & set(photos[1])
    assert starts[0] != starts[1]
    names = {item.files[0] for item in read_questions(other / "questions.json")}
    assert names == {story["video"] for story in stories(other)}


@pytest.mark.slow
def test_printed_pack_command_works(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["video.image_size=32", "video.min_frames=2", "video.max_frames=3"]
    pack = [str(finished / "videos"), str(finished / "questions.json"), str(tmp_path / "shards")]
    main(["pack", *pack, *small, "pack.num_workers=1"])
    assert "1 shards" in capsys.readouterr().out


def test_missing_files_are_made_again(finished: Path, given: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(finished, out)
    names = [path.relative_to(out) for path in sorted(out.rglob("*.*")) if path.name != ".lock"]
    before = {name: (out / name).read_bytes() for name in names}
    videos = sorted((out / "videos").glob("*.mp4"))
    kept = videos[0].stat().st_mtime_ns
    videos[1].unlink()
    (out / "questions.json").unlink()
    (out / "videos" / "synthetic_00001.mp4.1.unfinished").write_bytes(b"half")
    shutil.rmtree(out / "footage")
    main(arguments(given, out))
    for name, content in before.items():
        # The record of the truth names the folder of encoded footage.
        if name.suffix != ".mp4" and name.name != "photos.jsonl":
            assert (out / name).read_bytes() == content, name
    frames = decode_all(videos[1])
    original = decode_all(finished / "videos" / videos[1].name)
    assert [ticks for ticks, _ in frames] == [ticks for ticks, _ in original]
    for (ticks, image), (_, expected) in zip(frames, original, strict=True):
        # What is encoded again under a photograph may differ by rounding.
        assert difference(image, expected) < 3, ticks
    assert videos[0].stat().st_mtime_ns == kept
    assert not list(out.rglob("*.unfinished"))


def test_another_split_seed_or_folder_of_photographs_is_refused(
    finished: Path, given: Path, tmp_path: Path
) -> None:
    photos = shutil.copytree(given / "photos", tmp_path / "photos")
    shutil.rmtree(photos / "red_thing")
    for changed in ({"split": "validation"}, {"seed": 1}, {"photos": photos}):
        with pytest.raises(InputError, match="were made with other settings"):
            main(arguments(given, finished, **changed))


def test_wrong_input_is_refused_in_one_line_and_no_video_is_made(
    given: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.mp4").write_bytes(b"not a video")
    short = tmp_path / "short"
    short.mkdir()
    write_moving(short / "a.mp4", 50)
    out = tmp_path / "set"
    for changed, message in (
        ({"footage": tmp_path / "missing"}, "missing is not a folder"),
        ({"footage": given / "photos"}, "has no video"),
        ({"footage": broken}, "has 1 videos, but none that can be used"),
        ({"footage": short}, r"lasts 2\.0 s altogether, less than a photograph of 4 s"),
        ({"photos": given / "footage"}, "holds 1 folders"),
        ({"width": 64}, "are not a frame size"),
        ({"min_photos": 9}, "min_photos=9 is above max_photos=3"),
        ({"length": "12s", "min_photos": 3}, "too short for 3 photographs"),
        ({"tasks": "scene_transition"}, "have no material for scene/scene_transition"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            main(arguments(given, out, **changed))
        assert "\n" not in str(caught.value)
        assert not list(out.rglob("videos/*.mp4"))
        shutil.rmtree(out, ignore_errors=True)
    with pytest.raises(InputError, match="--footage needs --photos"):
        main(["synthesize", str(out), "--hours", "1", "--footage", str(given / "footage")])


def test_set_inside_its_footage_is_refused(given: Path) -> None:
    for out in (given / "footage", given / "footage" / "more" / "set"):
        with pytest.raises(InputError, match="is inside the footage"):
            main(arguments(given, out))
    assert not (given / "footage" / "more" / "set").exists()
