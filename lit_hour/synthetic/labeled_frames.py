"""Single frames of made-up stories as a model gets them, with what is in them.

Entry point: `draw_labeled_frames`. No video is encoded: the noise of JPEG stands for H.264's.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from random import Random

import torch
from PIL import Image
from torch import Tensor

from lit_hour.media.transforms import decode_jpeg, encode_jpeg, resize_image
from lit_hour.synthetic.draw import Picture, Pose, draw_picture
from lit_hour.synthetic.render import poses_at
from lit_hour.synthetic.story import (
    BACKGROUND_COLORS,
    COLORS,
    LARGE_SIZE,
    PATTERNS,
    PROPS,
    SHAPES,
    SMALL_SIZE,
    Actor,
    Difficulty,
    Prop,
    Scene,
    Story,
    cell_center,
)
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.types import IGNORE_INDEX

# an easy story has the fewest figures to learn from, and is what the default run shows
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "easy", "needles", "full")
STORY_SECONDS = 90.0
FRAMES_PER_STORY = 6
NEEDLE_SHARE = 0.5  # of the frames of a needle story
VIDEO_QUALITY = (50, 95)  # JPEG quality that looks like H.264 at the settings of render.py
FRAME_CLASSES = {  # what is true of a whole frame, and its number of values
    "background": len(COLORS) + len(BACKGROUND_COLORS),
    "pattern": len(PATTERNS),
    "shape": len(SHAPES),
    "color": len(COLORS),
}
TOKEN_CLASSES = {  # what lies at a token; value 0 for nothing
    "figure shape": 1 + len(SHAPES),
    "figure color": 1 + len(COLORS),
    "figure size": 3,  # small, large
    "prop": 1 + len(PROPS),
}
POSE_DIM = 3  # x, y and radius, in fractions of the frame


@dataclass(frozen=True)
class LabeledFrames:
    """Frames and their labels.

    Attributes:
        images: `(frames, 3, size, size)` uint8 RGB.
        classes: for each name in `FRAME_CLASSES` `(frames,)`, and in `TOKEN_CLASSES`
            `(frames, grid * grid)`; int64, IGNORE_INDEX where a frame has no single figure.
        poses: `(frames, 3)`, x, y and radius of the single figure; NaN where there is none.
    """

    images: Tensor
    classes: dict[str, Tensor]
    poses: Tensor

    def select(self, indices: Tensor) -> LabeledFrames:
        """Return some of the frames, by their indices `(frames,)`."""
        classes = {name: labels[indices] for name, labels in self.classes.items()}
        return LabeledFrames(self.images[indices], classes, self.poses[indices])


def draw_labeled_frames(
    num_frames: int,
    seed: int,
    video_size: int,
    image_size: int,
    jpeg_quality: int,
    grid: int,
    difficulties: tuple[Difficulty, ...] = DIFFICULTIES,
) -> LabeledFrames:
    """Draw frames at random times of stories of all kinds.

    Args:
        num_frames: of the result.
        seed: of the first story; the next ones have the seeds after it.
        video_size: width and height of the made-up videos, in pixels.
        image_size: width and height that the model gets, in pixels.
        jpeg_quality: of stored frames.
        grid: tokens in each row and column.
        difficulties: kinds of stories, drawn with equal chance.
    """
    images = torch.empty(num_frames, 3, image_size, image_size, dtype=torch.uint8)
    poses = torch.full((num_frames, POSE_DIM), float("nan"))  # (frames, 3)
    classes = {
        name: torch.full((num_frames,), IGNORE_INDEX)  # (frames,)
        for name in FRAME_CLASSES
    } | {
        name: torch.zeros(num_frames, grid * grid, dtype=torch.int64)  # (frames, tokens)
        for name in TOKEN_CLASSES
    }
    for index in range(num_frames):
        story_index, number = divmod(index, FRAMES_PER_STORY)
        if not number:
            random = Random(f"frames of story {seed + story_index}")
            difficulty = random.choice(difficulties)
            story = generate_story(seed + story_index, STORY_SECONDS, difficulty)
        seconds = _draw_time(story, random)
        scene = story.scene_at(seconds)
        actors = poses_at(scene, seconds)
        picture = draw_picture(scene.background, scene.props, actors, video_size)
        images[index] = _as_stored(picture, random, image_size, jpeg_quality)
        labels = {name: values[index] for name, values in classes.items()}
        _label_tokens(labels, scene.props, actors, grid)
        labels["background"].fill_((COLORS + BACKGROUND_COLORS).index(scene.background.color))
        labels["pattern"].fill_(PATTERNS.index(scene.background.pattern))
        if len(actors) == 1 and story.difficulty != "full":
            ((actor, pose),) = actors
            labels["shape"].fill_(SHAPES.index(actor.shape))
            labels["color"].fill_(COLORS.index(actor.color))
            poses[index] = torch.tensor([pose.x, pose.y, pose.radius])
    return LabeledFrames(images, classes, poses)


def _draw_time(story: Story, random: Random) -> float:
    """Draw a time in seconds, in needle stories often in a needle."""
    needles = [scene for scene in story.scenes if _is_needle(scene)]
    if story.difficulty == "needles" and random.random() < NEEDLE_SHARE:
        scene = random.choice(needles)
        return random.uniform(scene.start_seconds, scene.end_seconds - 1e-3)
    return random.uniform(0, story.duration_seconds - 1e-3)


def _is_needle(scene: Scene) -> bool:
    return scene.background.pattern != PATTERNS[0]


def _as_stored(picture: Picture, random: Random, image_size: int, jpeg_quality: int) -> Tensor:
    """Pass a picture `(size, size, 3)` through noise, resizing and storage: `(3, size, size)`."""
    buffer = BytesIO()
    quality = random.randint(*VIDEO_QUALITY)
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    image = resize_image(Image.open(buffer), image_size)  # (3, size, size)
    return decode_jpeg(encode_jpeg(image, jpeg_quality), image_size, "a drawn frame")


def _label_tokens(
    labels: dict[str, Tensor],
    props: tuple[Prop, ...],
    actors: tuple[tuple[Actor, Pose], ...],
    grid: int,
) -> None:
    """Write what lies at each token into `labels`, `(grid * grid,)` each."""
    for prop in props:
        x, y = cell_center(prop.cell)
        labels["prop"][_token_at(x, y, grid)] = 1 + PROPS.index(prop.kind)
    for actor, pose in actors:
        token = _token_at(pose.x, pose.y, grid)
        labels["figure shape"][token] = 1 + SHAPES.index(actor.shape)
        labels["figure color"][token] = 1 + COLORS.index(actor.color)
        is_large = 2 * pose.radius >= (SMALL_SIZE + LARGE_SIZE) / 2
        labels["figure size"][token] = 2 if is_large else 1


def _token_at(x: float, y: float, grid: int) -> int:
    """Return the token at a point, or the nearest one to a point outside of the frame."""
    column, row = (min(grid - 1, max(0, int(coordinate * grid))) for coordinate in (x, y))
    return row * grid + column
