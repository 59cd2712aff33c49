from itertools import combinations, product

import numpy as np
import pytest

from lit_hour.synthetic.draw import COLOR_RGB, Pose, draw_picture
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


@pytest.mark.parametrize("kind", PROPS)
def test_a_prop_covers_a_large_figure_whatever_it_is(kind: str):
    for cell, shape in product(CELL_NAMES, SHAPES):
        empty = draw_picture(Background("grey"), (Prop(kind, cell),), [], SIZE)
        pose = Pose(*cell_center(cell), LARGE_SIZE / 2)
        hidden = draw_picture(
            Background("grey"), (Prop(kind, cell),), [(Actor(shape, "red", LARGE_SIZE), pose)], SIZE
        )
        assert (hidden == empty).all()


def test_no_two_colours_are_alike():
    for one, other in combinations(COLOR_RGB.values(), 2):
        assert np.abs(np.subtract(one, other)).max() >= 64


def test_no_two_backgrounds_or_props_are_alike():
    pictures = [
        draw_picture(Background(colour, pattern), (), [], SIZE)
        for colour in BACKGROUND_COLORS
        for pattern in PATTERNS
    ]
    pictures += [
        draw_picture(Background("grey"), (Prop(kind, (1, 1)),), [], SIZE) for kind in PROPS
    ]
    for one, other in combinations(pictures, 2):
        assert (np.abs(one.astype(int) - other).max(axis=-1) > 15).mean() > 0.03


def test_a_figure_can_be_seen_on_every_background():
    for colour, background, pattern in product(COLORS, BACKGROUND_COLORS, PATTERNS):
        empty = draw_picture(Background(background, pattern), (), [], SIZE)
        pose = Pose(0.5, 0.5, LARGE_SIZE / 2)
        picture = draw_picture(
            Background(background, pattern), (), [(Actor("square", colour, LARGE_SIZE), pose)], SIZE
        )
        inside = slice(round(0.42 * SIZE), round(0.58 * SIZE))
        difference = np.abs(picture[inside, inside].astype(int) - empty[inside, inside]).max(
            axis=-1
        )
        assert (difference > 40).mean() > 0.8, (colour, background, pattern)


def test_a_figure_outside_the_frame_draws_nothing():
    empty = draw_picture(Background("grey"), (), [], SIZE)
    for x, y in ((-0.2, 0.5), (1.2, 0.5), (0.5, -0.2), (0.5, 1.2)):
        assert (
            draw_picture(
                Background("grey"),
                (),
                [(Actor("star", "red", LARGE_SIZE), Pose(x, y, 0.145))],
                SIZE,
            )
            == empty
        ).all()
