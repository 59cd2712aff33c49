import re

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.training.callbacks.val_plots import plot_haystack
from lit_hour.training.metrics import LENGTHS_MINUTES, NUM_DEPTHS, HaystackAccuracy
from lit_hour.types import Question
from tests.helpers.toy_run import ToyProject, TrainedRun


def seen_at(*intervals: tuple[float, float]) -> Question:
    return Question("1", "", "open_ended", "Which colour?", "red", evidence=intervals)


def test_haystack_accuracy_counts_by_length_and_depth() -> None:
    for seconds, start, minutes, depth in (
        (299, 0, 5, 0),
        (300, 299, 5, 9),
        (301, 31, 7.5, 1),
        (59, 59, 1, 9),
        (7200, 3600, 120, 5),
        (99999, 99999, 240, 9),
    ):
        accuracy = HaystackAccuracy()
        for is_correct in (True, False, True):
            accuracy.update(seen_at((start, start)), seconds, is_correct)
        total, correct = accuracy.compute()
        cell = (LENGTHS_MINUTES.index(minutes), depth)
        assert (total[cell], correct[cell]) == (3, 2), seconds
        assert total.sum() == 3 and correct.sum() == 2, seconds


def test_haystack_accuracy_skips_questions_without_one_short_interval() -> None:
    cases: tuple[tuple[tuple[tuple[float, float], ...], float], ...] = (
        ((), 100.0),
        (((0.0, 1.0), (5.0, 6.0)), 100.0),
        (((0.0, 11.0),), 100.0),
        (((0.0, 1.0),), 0.0),
    )
    for intervals, seconds in cases:
        accuracy = HaystackAccuracy()
        accuracy.update(seen_at(*intervals), seconds, True)
        assert not accuracy.compute().any(), intervals


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


def test_validation_writes_the_haystack_plot(toy: ToyProject, trained: TrainedRun) -> None:
    assert not trained.run.haystack_plot.exists()  # no question has one short interval of evidence
    assert "depth: nothing to draw, since no answer" in trained.output
    needles = (
        "synthetic.difficulty=needles",
        "synthetic.num_videos=2",
        "synthetic.num_val_videos=1",
        "synthetic.duration_seconds=60",
    )
    folder = toy.yaml.parent / "needles"
    shards = (f"synthetic.folder={folder}", f"data.sources.world.shards={folder}/train/shards")
    shards += (f"data.val_sources.world.shards={folder}/validation/shards",)
    settings = (*needles, *shards, "training.max_steps=1")
    output = toy.train("evidence", *settings, "training.num_val_images=1")
    plot = toy.run_dir("evidence").haystack_plot
    assert re.search(rf"length and depth: {plot} \(\d+ answers\)", output)
    curves = EventAccumulator(str(toy.run_dir("evidence").tensorboard))
    curves.Reload()
    assert [picture.step for picture in curves.Images("val/haystack")] == [0]
    assert plot.read_bytes().startswith(b"\x89PNG")
