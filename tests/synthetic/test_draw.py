from itertools import combinations, product

import numpy as np

from lit_hour.synthetic.draw import COLOR_RGB, SIGNED_DISTANCES, Pose, draw_picture
from lit_hour.synthetic.story import (
    BACKGROUND_COLORS,
    CELL_NAMES,
    COLORS,
    LARGE_SIZE,
    PATTERNS,
    PROPS,
    SHAPES,
    Actor,
    Background,
    Prop,
    cell_center,
)

SIZE = 128
RADIUS = LARGE_SIZE / 2


def test_prop_covers_every_large_figure():
    background = Background("grey")
    for kind, cell, shape in product(PROPS, CELL_NAMES, SHAPES):
        props = (Prop(kind, cell),)
        pose = Pose(*cell_center(cell), RADIUS)
        empty = draw_picture(background, props, [], SIZE)
        hidden = draw_picture(background, props, [(Actor(shape, "red", LARGE_SIZE), pose)], SIZE)
        assert (hidden == empty).all(), (kind, cell, shape)


def test_colors_differ_clearly():
    for one, other in combinations(COLOR_RGB.values(), 2):
        assert np.abs(np.subtract(one, other)).max() >= 64


def test_backgrounds_and_props_differ_clearly():
    pictures = [
        draw_picture(Background(color, pattern), (), [], SIZE)
        for color in BACKGROUND_COLORS
        for pattern in PATTERNS
    ]
    pictures += [
        draw_picture(Background("grey"), (Prop(kind, (1, 1)),), [], SIZE) for kind in PROPS
    ]
    for one, other in combinations(pictures, 2):
        assert (np.abs(one.astype(int) - other).max(axis=-1) > 15).mean() > 0.03


def test_figure_is_visible_on_every_background():
    inside = slice(round(0.42 * SIZE), round(0.58 * SIZE))
    for color, background_color, pattern in product(COLORS, BACKGROUND_COLORS, PATTERNS):
        background = Background(background_color, pattern)
        figure = (Actor("square", color, LARGE_SIZE), Pose(0.5, 0.5, RADIUS))
        empty = draw_picture(background, (), [], SIZE).astype(int)
        picture = draw_picture(background, (), [figure], SIZE).astype(int)
        difference = np.abs(picture - empty)[inside, inside].max(axis=-1)
        assert (difference > 40).mean() > 0.8, (color, background)


def test_figure_outside_the_frame_draws_nothing():
    background, actor = Background("grey"), Actor("star", "red", LARGE_SIZE)
    empty = draw_picture(background, (), [], SIZE)
    for x, y in ((-0.2, 0.5), (1.2, 0.5), (0.5, -0.2), (0.5, 1.2)):
        picture = draw_picture(background, (), [(actor, Pose(x, y, 0.145))], SIZE)
        assert (picture == empty).all(), (x, y)


def test_every_pixel_is_mixed_by_the_share_that_the_figure_covers():
    background = Background("orange", "checked")
    empty = draw_picture(background, (), [], SIZE)
    centers = (np.arange(SIZE, dtype=np.float32) + np.float32(0.5)) / np.float32(SIZE)
    for shape, angle_degrees in product(SHAPES, (0.0, 33.0)):
        pose = Pose(0.41, 0.57, 0.22, angle_degrees)
        x, y = centers[None, :] - pose.x, centers[:, None] - pose.y  # (1, size) and (size, 1)
        cosine, sine = np.cos(np.radians(angle_degrees)), np.sin(np.radians(angle_degrees))
        turned = (x * float(cosine) + y * float(sine), y * float(cosine) - x * float(sine))
        distance = SIGNED_DISTANCES[shape](*(axis / pose.radius for axis in turned))
        coverage = np.clip(0.5 - distance * (pose.radius * SIZE), 0, 1)[..., None]
        color = np.array(COLOR_RGB["blue"], dtype=np.float32)
        expected = np.rint(empty + coverage * (color - empty))
        actor = Actor(shape, "blue", LARGE_SIZE, has_eye=False)
        picture = draw_picture(background, (), [(actor, pose)], SIZE)
        assert (picture == expected).all(), (shape, angle_degrees)
        assert (np.unique(coverage) % 1 > 0).sum() > 0
