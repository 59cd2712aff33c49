import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.training.callbacks.val_plots import plot_haystack
from lit_hour.training.metrics import LENGTHS_MINUTES, NUM_DEPTHS, HaystackAccuracy
from lit_hour.types import Question
from tests.helpers.toy_run import ToyProject, TrainedRun


def seen_at(*intervals: tuple[float, float]) -> Question:
    return Question("1", "", "open_ended", "Which colour?", "red", evidence=intervals)


@pytest.mark.parametrize(
    ("seconds", "start", "minutes", "depth"),
    [
        (299, 0, 5, 0),
        (300, 299, 5, 9),
        (301, 31, 7.5, 1),
        (59, 59, 1, 9),
        (7200, 3600, 120, 5),
        (99999, 99999, 240, 9),
    ],
)
def test_an_answer_counts_for_its_length_and_depth(
    seconds: float, start: float, minutes: float, depth: int
) -> None:
    accuracy = HaystackAccuracy()
    for is_right in (True, False, True):
        accuracy.update(seen_at((start, start)), seconds, is_right)
    asked, right = accuracy.compute()
    cell = (LENGTHS_MINUTES.index(minutes), depth)
    assert (asked[cell], right[cell]) == (3, 2) and asked.sum() == 3 and right.sum() == 2


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [((), 100.0), (((0.0, 1.0), (5.0, 6.0)), 100.0), (((0.0, 11.0),), 100.0), (((0.0, 1.0),), 0.0)],
)
def test_what_has_no_one_place_is_not_counted(
    intervals: tuple[tuple[float, float], ...], seconds: float
) -> None:
    accuracy = HaystackAccuracy()
    accuracy.update(seen_at(*intervals), seconds, True)
    assert not accuracy.compute().any()


def test_plot_haystack_has_a_column_for_each_length_with_questions() -> None:
    counts = torch.zeros(2, len(LENGTHS_MINUTES), NUM_DEPTHS)
    counts[:, 3, 0] = torch.tensor([4.0, 3.0])  # up to 5 minutes
    counts[:, 10, 9] = torch.tensor([2.0, 0.0])  # up to an hour
    axes = plot_haystack(counts).axes[0]
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "75%"),
        ((1, 9), "0%"),
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5\n75%", "60\n0%"]


def test_a_validation_draws_it_for_tensorboard_and_into_the_run(
    toy: ToyProject, trained: TrainedRun
) -> None:
    assert (
        not trained.run.haystack_plot.exists()
    )  # nor any other picture: training.num_val_images is 0
    needles = (
        "synthetic.difficulty=needles",
        "synthetic.num_videos=2",
        "synthetic.num_val_videos=1",
        "synthetic.duration_seconds=60",
    )
    folder = toy.yaml.parent / "needles"
    shards = (f"synthetic.folder={folder}", f"data.sources.world.shards={folder}/train/shards")
    shards += (f"data.val_sources.world.shards={folder}/validation/shards",)
    toy.train("evidence", *needles, *shards, "training.max_steps=1", "training.num_val_images=1")
    curves = EventAccumulator(str(toy.run_dir("evidence").tensorboard))
    curves.Reload()
    assert [picture.step for picture in curves.Images("val/haystack")] == [0]
    assert toy.run_dir("evidence").haystack_plot.read_bytes().startswith(b"\x89PNG")
