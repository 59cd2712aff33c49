from itertools import pairwise, product
from pathlib import Path

import av
import numpy as np
import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.draw import COLOR_RGB
from lit_hour.synthetic.render import KEY_FRAME_SECONDS, draw_frame, pose_at, render_story
from lit_hour.synthetic.story import (
    LARGE_SIZE,
    MOVE_DIRECTIONS,
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

SIZE, RATE = 128, 5


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)  # (frames, height, width, 3)


def color_mask(picture: np.ndarray, color: str) -> np.ndarray:
    """Return which pixels `(height, width)` have a color, within the error of video encoding."""
    return np.abs(picture.astype(int) - np.array(COLOR_RGB[color])).max(axis=-1) < 32


def mean_height(picture: np.ndarray, color: str) -> float:
    """Return the mean `y` of the pixels of a color, as a fraction of the frame."""
    return float(np.nonzero(color_mask(picture, color))[0].mean()) / SIZE


def pixel_below_eye(picture: np.ndarray, appearance: Appearance, seconds: float) -> np.ndarray:
    """Return the pixel `(1, 1, 3)` of a figure just below its eye."""
    x, y = appearance.position_at(seconds)
    row, column = int((y + 0.12 * appearance.actor.size) * SIZE), int(x * SIZE)
    return picture[row : row + 1, column : column + 1]


def one_action_story(shape: str, verb: str, seconds: float = 6.0, color: str = "blue") -> Story:
    """Return a story of one figure in the middle and one action, or none if `verb` is empty."""
    actor = Actor(shape, color, LARGE_SIZE)
    appearance = Appearance(actor, 0.0, seconds, ((0.0, 0.5, 0.5),))
    actions = (Action(actor, verb, 0.0, seconds),) if verb else ()
    scene = Scene(0.0, seconds, Background("pink"), (), (appearance,), actions)
    return Story(0, seconds, (scene,))


def test_decoded_frames_show_visible_figures_and_no_hidden_ones(tmp_path: Path):
    """Checked in every interval without an action of several stories."""
    num_hidden = num_visible = 0
    for seed in range(4):
        story = generate_story(seed, 90.0)
        render_story(story, tmp_path / "story.mp4", SIZE, RATE)
        pictures = decode(tmp_path / "story.mp4")
        assert len(pictures) == 90 * RATE
        for scene in story.scenes:
            edges = [*(action.end_seconds for action in scene.actions), scene.end_seconds]
            for start, end in pairwise(edges):
                picture = pictures[round((start + min(0.4, (end - start) / 2)) * RATE)]
                present = [item for item in scene.appearances if item.is_present_at(start)]
                visible = [item for item in present if not item.is_hidden_at(start)]
                visible_colors = {item.actor.color for item in visible}
                for item in present:
                    color = item.actor.color
                    if item in visible:
                        pixel = pixel_below_eye(picture, item, start)
                        assert color_mask(pixel, color).all(), (seed, start, item)
                        num_visible += 1
                    elif color not in visible_colors | {"black"}:  # edges and eyes are dark too
                        assert color_mask(picture, color).sum() == 0, (seed, start, item)
                        num_hidden += 1
    assert num_visible > 60 and num_hidden >= 3


def test_hiding_figure_disappears_gradually_behind_the_prop():
    stories = (generate_story(seed, 120.0) for seed in range(50))
    story, hides = next(
        (story, action) for story in stories for action in story.actions if action.verb == "hides"
    )
    color = hides.actor.color
    others = set(story.scene_at(hides.start_seconds).actors) - {hides.actor}
    assert color not in {actor.color for actor in others}
    areas = [
        color_mask(draw_frame(story, float(seconds), SIZE), color).sum()
        for seconds in np.linspace(*hides.interval, 9)
    ]
    assert areas[0] > 100 and areas[-1] == 0
    assert all(1.15 * before >= after for before, after in pairwise(areas))


def test_timestamps_and_key_frames(tmp_path: Path):
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
def test_size_and_frame_rate(tmp_path: Path, size: int, rate: int, seconds: float):
    render_story(generate_story(0, seconds), tmp_path / "story.mp4", size, rate)
    assert decode(tmp_path / "story.mp4").shape == (seconds * rate, size, size, 3)


@pytest.mark.parametrize("verb", [*MOVE_DIRECTIONS, "pushes"])
def test_moving_and_pushed_figures_end_where_the_verb_says(verb: str):
    stories = [generate_story(seed, 300.0) for seed in range(8)]
    found = [(story, item) for story in stories for item in story.actions if item.verb == verb]
    assert len(found) > 8
    for story, action in found:
        start, end = action.interval
        scene = story.scene_at(start)
        shifts = {}
        for item in scene.appearances:
            if item.is_present_at(start) and not item.is_hidden_at(start):
                before, after = pose_at(scene, item, start), pose_at(scene, item, end)
                shifts[item.actor.name] = after.x - before.x, after.y - before.y
        moving = {name for name, (x, y) in shifts.items() if abs(x) + abs(y) > 0.01}
        if verb == "pushes":
            assert moving == {action.actor.name, action.target}
            assert np.dot(shifts[action.actor.name], shifts[action.target]) > 0.08
        else:
            x, y = shifts[action.actor.name]
            assert moving == {action.actor.name}
            direction = np.sign(round(x, 3)), np.sign(round(y, 3))
            assert direction == MOVE_DIRECTIONS[verb]
            assert abs(x) + abs(y) > 0.25


def test_touching_figure_reaches_the_other_and_returns():
    stories = [generate_story(seed, 300.0) for seed in range(8)]
    found = [(story, item) for story in stories for item in story.actions if item.verb == "touches"]
    assert len(found) > 8
    for story, action in found:
        start, end = action.interval
        appearances = {
            item.actor.name: item
            for item in story.scene_at(start).appearances
            if item.is_present_at(start)
        }
        one, other = appearances[action.actor.name], appearances[action.target]
        assert one.position_at(start) == one.position_at(end)
        middle = (start + end) / 2
        distance = np.hypot(*np.subtract(one.position_at(middle), other.position_at(middle)))
        assert distance < (one.actor.size + other.actor.size) / 2


@pytest.mark.parametrize(("verb", "ratio"), [("grows", 4), ("shrinks", 0.25), ("", 1)])
def test_area_of_growing_and_shrinking_figures(verb: str, ratio: float):
    story = one_action_story("square", verb)
    first, last = (
        color_mask(draw_frame(story, seconds, SIZE), "blue").sum() for seconds in (0.0, 5.99)
    )
    assert last / first == pytest.approx(ratio, rel=0.2)


def test_action_is_visible_when_sampled_every_one_or_two_seconds():
    verbs = ("spins", "grows", "shrinks", "blinks", "bounces")
    for verb, shape, period in product(verbs, SHAPES, (1, 2)):
        story = one_action_story(shape, verb)
        pictures = [draw_frame(story, seconds, SIZE) for seconds in range(0, 6, period)]
        changes = [np.any(one != other, axis=-1).sum() for one, other in pairwise(pictures)]
        assert max(changes) > 20, (verb, shape, period)


def test_bounce_only_goes_up():
    story = one_action_story("circle", "bounces")
    heights = [
        mean_height(draw_frame(story, seconds, SIZE), "blue") for seconds in np.arange(0, 6, 0.1)
    ]
    rest = mean_height(draw_frame(one_action_story("circle", ""), 0.0, SIZE), "blue")
    assert max(heights) == pytest.approx(rest, abs=0.01)
    assert min(heights) == pytest.approx(rest - 0.06, abs=0.01)


def test_shapes_and_actions_differ_clearly():
    masks = [
        color_mask(draw_frame(one_action_story(shape, ""), 0.0, SIZE), "blue") for shape in SHAPES
    ]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert (mask & other).sum() / (mask | other).sum() < 0.8
    clips = [
        np.stack([draw_frame(one_action_story("star", verb), second, SIZE) for second in range(6)])
        for verb in ("", *(verb for verb in SOLO_VERBS if verb not in MOVE_DIRECTIONS))
    ]
    assert all(np.any(one != other) for index, one in enumerate(clips) for other in clips[:index])


def test_same_story_gives_the_same_file(tmp_path: Path):
    for name in ("one.mp4", "two.mp4"):
        render_story(generate_story(5, 30.0), tmp_path / name, SIZE, RATE)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_file_is_that_of_frames_drawn_and_converted_one_by_one(tmp_path: Path):
    story, seconds = generate_story(5, 30.0), 30
    render_story(story, tmp_path / "story.mp4", SIZE, RATE)
    with av.open(str(tmp_path / "plain.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width = stream.height = SIZE
        stream.gop_size = KEY_FRAME_SECONDS * RATE
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast"}
        for index in range(seconds * RATE):
            picture = draw_frame(story, index / RATE, SIZE)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert (tmp_path / "story.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()


def test_video_that_cannot_be_written_is_named(tmp_path: Path):
    story = generate_story(0, 10.0)
    with pytest.raises(SyntheticDataError, match=r"synthetic\.image_size is 97"):
        render_story(story, tmp_path / "story.mp4", 97, RATE)
    with pytest.raises(SyntheticDataError, match=r"Cannot write .*missing/story\.mp4"):
        render_story(story, tmp_path / "missing" / "story.mp4", SIZE, RATE)
    with pytest.raises(SyntheticDataError, match="Cannot draw the verb 'dances'"):
        render_story(one_action_story("star", "dances"), tmp_path / "story.mp4", SIZE, RATE)
    assert not list(tmp_path.iterdir())
