"""Videos with a needle: its frames are at the given position, all others are the video's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_hour.errors import InputError, VideoError
from lit_hour.evaluation.needle.haystack import (
    Haystack,
    find_parts,
    open_haystack_video,
    open_needle,
)
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, Footage, FrameSize
from lit_hour.media.video_probe import probe
from tests.media.helpers import numbered_images, write_moving, write_video
from tests.media.splicing.helpers import decode_all, difference

FRAME = TICKS_PER_SECOND // 25
MAX_ENCODING_DIFFERENCE = 3.0  # gray levels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("needles")


@pytest.fixture(scope="module")
def footage(folder: Path) -> Footage:
    """A video of 20 s with a closed GOP in each second."""
    path = write_moving(folder / "film.mp4", 500, g="25", **{"x264-params": "scenecut=0"})
    return open_haystack_video(path, folder)


@pytest.fixture(scope="module")
def needle(folder: Path, footage: Footage) -> Footage:
    Image.new("RGB", (90, 90), (255, 0, 0)).save(folder / "red.png")
    return open_needle(folder / "red.png", folder, 0, footage.size, 2.0)


def is_needle(image: np.ndarray) -> bool:
    """Return whether a frame `(72, 64)` of planes shows the red square between its bars."""
    return bool(image[10:40, 20:44].std() < 3 and image[:40, :4].mean() < 20)


def check_video(
    path: Path, position, needle: Footage, expected: list[tuple[int, np.ndarray]]
) -> int:
    """Compare with the frames without the needle, and return how many are equal to the byte."""
    frames = decode_all(path)
    start, end = (round(seconds * TICKS_PER_SECOND) for seconds in position.interval)
    shown = [ticks for ticks, image in frames if is_needle(image)]
    assert len(shown) == needle.num_frames and abs(shown[0] - start) <= 1
    assert all(start - 1 <= ticks < end for ticks in shown)
    others = [(ticks, image) for ticks, image in frames if not is_needle(image)]
    assert len(others) == len(expected)
    num_equal = 0
    for (ticks, image), (original_ticks, original) in zip(others, expected, strict=True):
        moved = original_ticks + (needle.end if original_ticks >= start else 0)
        assert abs(ticks - moved) <= 1
        num_equal += np.array_equal(image, original)
        assert difference(image, original) < MAX_ENCODING_DIFFERENCE
    assert probe(path).duration_seconds == pytest.approx(position.duration_seconds, abs=1e-3)
    return num_equal


@pytest.mark.parametrize("depth", [0.0, 0.31, 0.5, 0.787, 1.0])
def test_needle_is_at_its_depth_and_at_most_one_gop_is_encoded_again(
    depth: float, footage: Footage, needle: Footage, tmp_path: Path
) -> None:
    path = tmp_path / "cell.mp4"
    position = Haystack(footage, 20.0).write(path, needle, depth)
    assert position.depth == pytest.approx(depth, abs=0.0051)
    num_equal = check_video(path, position, needle, decode_all(footage.path))
    assert num_equal == 500 if depth in (0.0, 0.5, 1.0) else num_equal >= 475


def test_shorter_haystacks_are_parts_and_longer_ones_repeat_the_video(
    footage: Footage, needle: Footage, tmp_path: Path
) -> None:
    original = decode_all(footage.path)
    haystack = Haystack(footage, 8.0, find_parts(footage, 8.0, 3)[-1])
    assert haystack.num_repetitions == 1
    position = haystack.write(tmp_path / "part.mp4", needle, 0.5)
    first = original[300][0]
    part = [(ticks - first, image) for ticks, image in original[300:]]
    assert check_video(tmp_path / "part.mp4", position, needle, part) == 200
    haystack = Haystack(footage, 50.0)
    assert haystack.num_repetitions == 3
    position = haystack.write(tmp_path / "long.mp4", needle, 0.9)
    repeated = [
        (ticks + turn * footage.end, image)
        for turn, frames in enumerate((original, original, original[:250]))
        for ticks, image in frames
    ]
    assert check_video(tmp_path / "long.mp4", position, needle, repeated) == 1250
    assert position.duration_seconds == pytest.approx(52)


def test_parts_of_a_video_differ(footage: Footage, folder: Path, tmp_path: Path) -> None:
    assert find_parts(footage, 8.0, 1) == [0]
    assert find_parts(footage, 8.0, 3) == [0, 150, 300]
    assert find_parts(footage, 100.0, 4) == [0, 125, 250, 375]  # these go on at the start
    Haystack(footage, 20.0, 125).write(tmp_path / "turned.mp4", None, 0.0)
    original = [image for _, image in decode_all(footage.path)]
    turned = [image for _, image in decode_all(tmp_path / "turned.mp4")]
    assert np.array_equal(turned, original[125:] + original[:125])
    with pytest.raises(InputError, match=r"only 20 different parts of 100 s .* --repeats to 20"):
        find_parts(footage, 100.0, 50)


def test_a_video_of_one_gop_is_cut_inside_it(folder: Path, needle: Footage, tmp_path: Path) -> None:
    path = write_moving(folder / "single.mp4", 100, g="300")
    single = open_haystack_video(path, folder)
    position = Haystack(single, 4.0).write(tmp_path / "cell.mp4", needle, 0.25)
    assert position.interval == (pytest.approx(1.0), pytest.approx(3.0))
    check_video(tmp_path / "cell.mp4", position, needle, decode_all(path))


def test_videos_that_cannot_be_copied_are_encoded_once(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "film.mp4", numbered_images(40), codec="mpeg4", rotation_degrees=90
    )
    with pytest.warns(UserWarning, match="is encoded again, since its codec is mpeg4"):
        footage = open_haystack_video(path, tmp_path)
    assert footage.path == tmp_path / "haystack.mp4" and footage.size == FrameSize(48, 64)
    before = footage.path.stat().st_mtime_ns
    assert open_haystack_video(path, tmp_path).path.stat().st_mtime_ns == before


def test_clips_that_fit_are_copied_and_others_are_fitted(
    footage: Footage, folder: Path, tmp_path: Path
) -> None:
    clip = write_moving(tmp_path / "clip.mp4", 50)
    assert open_needle(clip, tmp_path, 0, footage.size, 3.0).path == clip
    cut = open_needle(clip, tmp_path, 0, footage.size, 1.0)
    assert cut.path.parent == tmp_path and cut.end == TICKS_PER_SECOND
    wide = open_needle(clip, tmp_path, 1, FrameSize(128, 48), 3.0)
    assert wide.size == FrameSize(128, 48) and wide.end == 2 * TICKS_PER_SECOND
    with pytest.raises(VideoError, match=r"would last -1\.0 s\. Give longer --lengths"):
        Haystack(footage, -1.0)
