import numpy as np
import pytest
import torch

from lit_hour.text.timestamp import format_timestamp
from lit_hour.training.callbacks.val_plots import MAX_FRAMES, plot_answer
from lit_hour.training.module import Prediction
from lit_hour.types import Frames, ImageSet, Question, TiledImage

OPTIONS = ("a red circle", "a blue square")
CHOICE = Question(
    "1", "object/object_recognition", "multiple_choice", "What is shown?", "a blue square", OPTIONS
)
OPEN = Question("2", "", "open_ended", "What is shown?", "a blue square")


def frames(num_frames: int) -> Frames:
    shades = (torch.arange(num_frames) * 10).to(torch.uint8)
    images = shades.view(-1, 1, 1, 1).expand(-1, 3, 8, 8)  # (frames, 3, height, width)
    return Frames(images, torch.arange(num_frames) * 400.0)


@pytest.mark.parametrize(
    ("num_frames", "shown"), [(1, [0]), (3, [0, 1, 2]), (15, [0, 2, 4, 6, 8, 10, 12, 14])]
)
def test_plot_answer_shows_evenly_spaced_frames_with_times(
    num_frames: int, shown: list[int]
) -> None:
    figure = plot_answer(frames(num_frames), "key", Prediction(0, OPEN, "a cat", False))
    assert len(figure.axes) == len(shown) <= MAX_FRAMES
    for axis, frame in zip(figure.axes, shown, strict=True):
        assert np.asarray(axis.images[0].get_array())[0, 0, 0] == frame * 10
        assert axis.get_title() == format_timestamp(frame * 400.0)


def test_plot_answer_shows_the_small_view_of_an_image_with_its_size() -> None:
    tiles = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    figure = plot_answer(
        TiledImage(tiles, grid=(2, 2), size_pixels=(30, 40)),
        "key",
        Prediction(0, OPEN, "a cat", False),
    )
    (axis,) = figure.axes
    assert (
        axis.get_title() == "40 x 30 pixels" and np.asarray(axis.images[0].get_array()).max() == 0
    )


def test_plot_answer_numbers_several_images() -> None:
    figure = plot_answer(ImageSet(frames(3).images), "key", Prediction(0, OPEN, "a cat", False))
    assert [axis.get_title() for axis in figure.axes] == ["1", "2", "3"]
    assert [np.asarray(axis.images[0].get_array()).max() for axis in figure.axes] == [0, 10, 20]


def test_plot_answer_titles_question_truth_and_answer() -> None:
    figure = plot_answer(frames(3), "synthetic_00007", Prediction(0, CHOICE, "a red circle", False))
    written = figure.get_suptitle()
    assert written.startswith(
        "synthetic_00007   object/object_recognition\nWhat is shown? / a red circle / a blue "
        "square\n"
    )
    assert "true answer: B. a blue square     model: a red circle  (wrong)" in written
    written = plot_answer(frames(3), "x", Prediction(0, OPEN, " ", True)).get_suptitle()
    assert "true answer: a blue square     model: (nothing)  (right)" in written
