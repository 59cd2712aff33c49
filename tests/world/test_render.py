import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from lit_hour.errors import WorldError
from lit_hour.world.render import RGB_OF_COLOUR, draw_scene, pose_at, render_story
from lit_hour.world.script import ACTIONS, SHAPES, Actor, Scene, Story, write_story

SIZE, RATE = 96, 5
REPOSITORY = Path(__file__).resolve().parents[2]


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])  # (frames, height, width, 3)


def has_colour(picture: np.ndarray, colour: str) -> np.ndarray:
    """Which pixels `(height, width)` have a colour, give or take what encoding changes."""
    return np.abs(picture.astype(int) - np.array(RGB_OF_COLOUR[colour])).max(axis=-1) < 45


def actor_center(picture: np.ndarray, colour: str) -> tuple[float, float]:
    rows, columns = np.nonzero(has_colour(picture, colour))
    return float(columns.mean()), float(rows.mean())


def one_scene(shape: str, action: str, seconds: float = 12.0) -> Story:
    scene = Scene(0.0, seconds, "yellow", Actor(shape, "blue", 0.45), action, (0.5, 0.5))
    return Story(0, seconds, (scene,))


def test_pixels_show_what_the_script_says(tmp_path: Path):
    for seed in range(6):
        story = write_story(seed, 60.0)
        render_story(story, tmp_path / "story.mp4", SIZE, RATE)
        pictures = decode(tmp_path / "story.mp4")
        assert len(pictures) == 60 * RATE
        for scene in story.scenes:
            first, last = round(scene.start_seconds * RATE), round(scene.end_seconds * RATE) - 1
            for index in (first, (first + last) // 2, last):
                assert has_colour(pictures[index, 2, 2], scene.background)
                shown = has_colour(pictures[index], scene.actor.colour).sum()
                visible = pose_at(scene, index / RATE) is not None
                assert shown > 0.01 * SIZE**2 if visible else shown == 0


def test_presentation_times_and_key_frames(tmp_path: Path):
    render_story(write_story(3, 60.0), tmp_path / "story.mp4", SIZE, RATE)
    with av.open(str(tmp_path / "story.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == 60.0
        frames = list(container.decode(stream))
    assert np.allclose([frame.time for frame in frames], np.arange(300) / RATE, atol=1e-3)
    key_times = [frame.time for frame in frames if frame.key_frame]
    assert max(np.diff(key_times)) <= 5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_shape_does_every_action_in_the_frame(shape: str, action: str):
    scene = one_scene(shape, action).scenes[0]
    for tenth in range(10):
        picture = draw_scene(scene, pose_at(scene, 1.2 * tenth), SIZE)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert has_colour(border, "yellow").all()


@pytest.mark.parametrize(
    ("action", "across", "down"),
    [("moves left", -1, 0), ("moves right", 1, 0), ("moves up", 0, -1), ("moves down", 0, 1), ("stands still", 0, 0)],
)
def test_moves_go_where_they_say(tmp_path: Path, action: str, across: int, down: int):
    render_story(one_scene("cross", action), tmp_path / "move.mp4", SIZE, RATE)
    pictures = decode(tmp_path / "move.mp4")
    (start_x, start_y), (end_x, end_y) = actor_center(pictures[0], "blue"), actor_center(pictures[-1], "blue")
    assert end_x - start_x == pytest.approx(across * SIZE / 2, abs=2)
    assert end_y - start_y == pytest.approx(down * SIZE / 2, abs=2)


@pytest.mark.parametrize(("action", "ratio"), [("grows", 4), ("shrinks", 0.25), ("stands still", 1)])
def test_sizes_change_as_they_say(tmp_path: Path, action: str, ratio: float):
    render_story(one_scene("square", action), tmp_path / "size.mp4", SIZE, RATE)
    pictures = decode(tmp_path / "size.mp4")
    areas = [has_colour(pictures[index], "blue").sum() for index in (0, -1)]
    assert areas[1] / areas[0] == pytest.approx(ratio, rel=0.2)


@pytest.mark.parametrize("seconds_between_looks", [1, 2, 4])
@pytest.mark.parametrize(
    ("shape", "action"), [("star", "spins"), ("square", "spins"), ("diamond", "spins"), ("star", "blinks")]
)
def test_sparse_looks_still_see_the_action(shape: str, action: str, seconds_between_looks: int):
    scene = one_scene(shape, action, seconds=20.0).scenes[0]
    pictures = [draw_scene(scene, pose_at(scene, seconds), SIZE) for seconds in range(0, 20, seconds_between_looks)]
    changes = [np.any(one != other, axis=-1).sum() for one, other in pairwise(pictures)]
    assert max(changes) > 100


def test_no_two_shapes_look_alike():
    masks = []
    for shape in SHAPES:
        scene = one_scene(shape, "stands still").scenes[0]
        masks.append(has_colour(draw_scene(scene, pose_at(scene, 0.0), SIZE), "blue"))
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert (mask & other).sum() / (mask | other).sum() < 0.8


def test_the_same_story_gives_the_same_file(tmp_path: Path):
    for name in ("one.mp4", "two.mp4"):
        render_story(write_story(5, 30.0), tmp_path / name, SIZE, RATE)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_a_killed_rendering_leaves_no_video(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from lit_hour.world.render import render_story; "
        "from lit_hour.world.script import write_story; render_story(write_story(0, 36000.0), Path(sys.argv[1]), 128, 5)"
    )
    rendering = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "story.mp4")], cwd=REPOSITORY)
    unfinished = tmp_path / "story.mp4.part"
    try:
        give_up = time.monotonic() + 30
        while not (unfinished.exists() and unfinished.stat().st_size > 0):
            assert rendering.poll() is None and time.monotonic() < give_up, "rendering never began"
            time.sleep(0.02)
    finally:
        os.kill(rendering.pid, signal.SIGKILL)
        rendering.wait()
    assert not (tmp_path / "story.mp4").exists()
    render_story(write_story(0, 10.0), tmp_path / "story.mp4", 32, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["story.mp4"]
    assert len(decode(tmp_path / "story.mp4")) == 50


def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path):
    with pytest.raises(WorldError, match=r"world\.size_pixels is 97"):
        render_story(write_story(0, 10.0), tmp_path / "story.mp4", 97, RATE)
    with pytest.raises(WorldError, match=r"missing/story\.mp4 cannot be written"):
        render_story(write_story(0, 10.0), tmp_path / "missing" / "story.mp4", SIZE, RATE)
    with pytest.raises(WorldError, match="nothing here draws the action 'dances'"):
        render_story(one_scene("star", "dances"), tmp_path / "story.mp4", SIZE, RATE)
    assert not list(tmp_path.iterdir())
