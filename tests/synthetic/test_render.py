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

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.draw import COLOR_RGB
from lit_hour.synthetic.render import draw_moment, pose_at, render_story
from lit_hour.synthetic.story import (
    LARGE_SIZE,
    SHAPES,
    SOLO_VERBS,
    Action,
    Actor,
    Appearance,
    Background,
    Scene,
    Story,
)
from lit_hour.synthetic.story_generator import generate_story
from tests import REPOSITORY

SIZE, RATE = 128, 5


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack(
            [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        )  # (frames, height, width, 3)


def has_colour(picture: np.ndarray, colour: str) -> np.ndarray:
    """Which pixels `(height, width)` have a colour, give or take what encoding changes."""
    return np.abs(picture.astype(int) - np.array(COLOR_RGB[colour])).max(axis=-1) < 32


def middle(picture: np.ndarray, colour: str) -> tuple[float, float]:
    rows, columns = np.nonzero(has_colour(picture, colour))
    return float(columns.mean()) / SIZE, float(rows.mean()) / SIZE


def pixel_below_eye(picture: np.ndarray, stay: Appearance, seconds: float) -> np.ndarray:
    """The pixel `(1, 1, 3)` in the middle of a figure, under its eye."""
    x, y = stay.position_at(seconds)
    row, column = int((y + 0.12 * stay.actor.size) * SIZE), int(x * SIZE)
    return picture[row : row + 1, column : column + 1]


def alone(shape: str, action: str, seconds: float = 6.0, colour: str = "blue") -> Story:
    """A figure in the middle that does one thing all the time."""
    actor = Actor(shape, colour, LARGE_SIZE)
    stay = Appearance(actor, 0.0, seconds, ((0.0, 0.5, 0.5),))
    deeds = (Action(actor, action, 0.0, seconds),) if action else ()
    return Story(0, seconds, (Scene(0.0, seconds, Background("pink"), (), (stay,), deeds),))


def test_a_figure_is_drawn_in_its_colour_at_its_place_and_absent_when_hidden(tmp_path: Path):
    """On decoded frames, in the middle of every quiet stretch of several stories."""
    num_hidden = num_visible = 0
    for seed in range(4):
        story = generate_story(seed, 90.0)
        render_story(story, tmp_path / "story.mp4", SIZE, RATE)
        pictures = decode(tmp_path / "story.mp4")
        assert len(pictures) == 90 * RATE
        for scene in story.scenes:
            for end, start in pairwise(
                [*(deed.end_seconds for deed in scene.actions), scene.end_seconds]
            ):
                picture = pictures[round((end + min(0.4, (start - end) / 2)) * RATE)]
                stays = [stay for stay in scene.appearances if stay.is_present_at(end)]
                colours = {stay.actor.color for stay in stays if not stay.is_hidden_at(end)}
                for stay in stays:
                    if not stay.is_hidden_at(end):
                        assert has_colour(
                            pixel_below_eye(picture, stay, end), stay.actor.color
                        ).all(), (seed, end, stay)
                        num_visible += 1
                    elif stay.actor.color not in colours | {
                        "black"
                    }:  # the edges and eyes of others are dark
                        assert has_colour(picture, stay.actor.color).sum() == 0, (seed, end, stay)
                        num_hidden += 1
    assert num_visible > 60 and num_hidden >= 3


def test_a_figure_goes_behind_what_it_hides_behind():
    story = next(
        s
        for s in (generate_story(seed, 120.0) for seed in range(50))
        if any(d.verb == "hides" for d in s.actions)
    )
    deed = next(deed for deed in story.actions if deed.verb == "hides")
    seconds = np.linspace(deed.start_seconds, deed.end_seconds, 9)
    others = {
        actor.color for actor in story.scene_at(deed.start_seconds).actors if actor != deed.actor
    }
    assert deed.actor.color not in others
    areas = [
        has_colour(draw_moment(story, float(second), SIZE), deed.actor.color).sum()
        for second in seconds
    ]
    assert (
        areas[0] > 100
        and areas[-1] == 0
        and all(1.15 * one >= other for one, other in pairwise(areas))
    )


def test_presentation_times_and_key_frames(tmp_path: Path):
    render_story(generate_story(3, 60.0), tmp_path / "story.mp4", SIZE, RATE)
    with av.open(str(tmp_path / "story.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == 60.0
        frames = list(container.decode(stream))
    assert np.allclose([frame.time for frame in frames], np.arange(300) / RATE, atol=1e-3)
    key_times = [frame.time for frame in frames if frame.key_frame]
    assert max(np.diff(key_times)) <= 5


@pytest.mark.parametrize(("size", "rate", "seconds"), [(64, 2, 11.0), (200, 12, 10.0)])
def test_size_and_rate_are_as_asked(tmp_path: Path, size: int, rate: int, seconds: float):
    render_story(generate_story(0, seconds), tmp_path / "story.mp4", size, rate)
    assert decode(tmp_path / "story.mp4").shape == (seconds * rate, size, size, 3)


@pytest.mark.parametrize(
    "action", ["moves left", "moves right", "moves up", "moves down", "pushes"]
)
def test_what_moves_ends_where_its_word_says(action: str):
    across, down = {
        "moves left": (-1, 0),
        "moves right": (1, 0),
        "moves up": (0, -1),
        "moves down": (0, 1),
    }.get(action, (0, 0))
    stories = [generate_story(seed, 300.0) for seed in range(8)]
    found = [(story, deed) for story in stories for deed in story.actions if deed.verb == action]
    assert len(found) > 8
    for story, deed in found:
        scene = story.scene_at(deed.start_seconds)
        moved = {}
        for stay in scene.appearances:
            if stay.is_present_at(deed.start_seconds) and not stay.is_hidden_at(deed.start_seconds):
                poses = [
                    pose_at(scene, stay, second)
                    for second in (deed.start_seconds, deed.end_seconds)
                ]
                moved[stay.actor.name] = poses[1].x - poses[0].x, poses[1].y - poses[0].y
        going = {name for name, (x, y) in moved.items() if abs(x) + abs(y) > 0.01}
        if action == "pushes":
            assert going == {deed.actor.name, deed.target}
            assert np.dot(moved[deed.actor.name], moved[deed.target]) > 0.08
        else:
            x, y = moved[deed.actor.name]
            assert going == {deed.actor.name}
            assert (np.sign(round(x, 3)), np.sign(round(y, 3))) == (across, down) and abs(x) + abs(
                y
            ) > 0.25


def test_who_touches_another_meets_it_and_goes_back():
    found = [
        (s, d)
        for s in (generate_story(seed, 300.0) for seed in range(8))
        for d in s.actions
        if d.verb == "touches"
    ]
    assert len(found) > 8
    for story, deed in found:
        scene, middle_seconds = story.scene_at(deed.start_seconds), sum(deed.interval) / 2
        stays = {
            stay.actor.name: stay
            for stay in scene.appearances
            if stay.is_present_at(deed.start_seconds)
        }
        one, other = stays[deed.actor.name], stays[deed.target]
        assert one.position_at(deed.start_seconds) == one.position_at(deed.end_seconds)
        distance = np.hypot(
            *np.subtract(one.position_at(middle_seconds), other.position_at(middle_seconds))
        )
        assert distance < (one.actor.size + other.actor.size) / 2


@pytest.mark.parametrize(("action", "ratio"), [("grows", 4), ("shrinks", 0.25), ("", 1)])
def test_sizes_change_as_they_say(action: str, ratio: float):
    areas = [
        has_colour(draw_moment(alone("square", action), seconds, SIZE), "blue").sum()
        for seconds in (0.0, 5.99)
    ]
    assert areas[1] / areas[0] == pytest.approx(ratio, rel=0.2)


@pytest.mark.parametrize("seconds_between_looks", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("action", ["spins", "grows", "shrinks", "blinks", "bounces"])
def test_sparse_looks_still_see_the_action(shape: str, action: str, seconds_between_looks: int):
    pictures = [
        draw_moment(alone(shape, action), seconds, SIZE)
        for seconds in range(0, 6, seconds_between_looks)
    ]
    changes = [np.any(one != other, axis=-1).sum() for one, other in pairwise(pictures)]
    assert max(changes) > 20


def test_a_bounce_goes_up_only():
    heights = [
        middle(draw_moment(alone("circle", "bounces"), seconds, SIZE), "blue")[1]
        for seconds in np.arange(0, 6, 0.1)
    ]
    still = middle(draw_moment(alone("circle", ""), 0.0, SIZE), "blue")[1]
    assert max(heights) == pytest.approx(still, abs=0.01) and min(heights) == pytest.approx(
        still - 0.06, abs=0.01
    )


def test_actions_and_shapes_look_different():
    masks = [has_colour(draw_moment(alone(shape, ""), 0.0, SIZE), "blue") for shape in SHAPES]
    for index, mask in enumerate(masks):
        assert all((mask & other).sum() / (mask | other).sum() < 0.8 for other in masks[:index])
    clips = [
        np.stack([draw_moment(alone("star", action), second, SIZE) for second in range(6)])
        for action in ("", *(action for action in SOLO_VERBS if not action.startswith("moves")))
    ]
    assert all(np.any(one != other) for index, one in enumerate(clips) for other in clips[:index])


def test_the_same_story_gives_the_same_file(tmp_path: Path):
    for name in ("one.mp4", "two.mp4"):
        render_story(generate_story(5, 30.0), tmp_path / name, SIZE, RATE)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_a_killed_rendering_leaves_no_video(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from lit_hour.synthetic.render import render_story; "
        "from lit_hour.synthetic.story_generator import generate_story; render_story(generate_story(0, 36000.0), Path(sys.argv[1]), 128, 5)"
    )
    rendering = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "story.mp4")], cwd=REPOSITORY
    )
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
    render_story(generate_story(0, 10.0), tmp_path / "story.mp4", 32, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["story.mp4"]
    assert len(decode(tmp_path / "story.mp4")) == 50


def test_what_cannot_be_written_is_refused_by_name(tmp_path: Path):
    with pytest.raises(SyntheticDataError, match=r"synthetic\.image_size is 97"):
        render_story(generate_story(0, 10.0), tmp_path / "story.mp4", 97, RATE)
    with pytest.raises(SyntheticDataError, match=r"missing/story\.mp4 cannot be written"):
        render_story(generate_story(0, 10.0), tmp_path / "missing" / "story.mp4", SIZE, RATE)
    with pytest.raises(SyntheticDataError, match="nothing here draws the action 'dances'"):
        render_story(alone("star", "dances"), tmp_path / "story.mp4", SIZE, RATE)
    assert not list(tmp_path.iterdir())
