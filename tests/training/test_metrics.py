import pytest
import torch

from lit_hour.text.time_intervals import grounding_scores
from lit_hour.training.metrics import AnswerAccuracy, TemporalIoU
from lit_hour.types import Question

OPEN = Question("1", "object/object_attribute", "open_ended", "Which colour?", "red")
FOUR = Question(
    "2",
    "object/object_attribute",
    "multiple_choice",
    "Which colour?",
    "red",
    ("red", "blue", "green", "white"),
)
TWO = Question("3", "", "multiple_choice", "Is it red?", "yes", ("yes", "no"))


def test_answer_accuracy_by_format_and_task_and_chance() -> None:
    scores = AnswerAccuracy()
    for question, is_right in [
        (OPEN, True),
        (FOUR, False),
        (FOUR, True),
        (FOUR, False),
        (TWO, True),
    ]:
        scores.update(question, is_right)
    found = {name: float(value) for name, value in scores.compute().items()}
    assert found == {
        "acc/open_ended": 1.0,
        "acc/multiple_choice": 0.5,
        "acc/object/object_attribute": 0.5,  # one of three choices, and the open one
        "chance/multiple_choice": pytest.approx((3 / 4 + 1 / 2) / 4),
    }


def test_answer_accuracy_omits_groups_without_questions() -> None:
    scores = AnswerAccuracy()
    assert scores.compute() == {}
    scores.update(OPEN, False)
    assert set(scores.compute()) == {"acc/open_ended", "acc/object/object_attribute"}
    scores.reset()
    assert scores.compute() == {}


def test_answer_accuracy_sums_over_ranks() -> None:
    """Reduce the states of two ranks as torchmetrics does, and compare with one process."""
    ranks, whole = (AnswerAccuracy(), AnswerAccuracy()), AnswerAccuracy()
    for number, (question, is_right) in enumerate(
        [(OPEN, True), (FOUR, True), (FOUR, False), (TWO, False), (OPEN, False)]
    ):
        ranks[number % 2].update(question, is_right)
        whole.update(question, is_right)
    merged = AnswerAccuracy()
    for name, reduce in merged._reductions.items():
        assert callable(reduce)
        setattr(merged, name, reduce(torch.stack([getattr(rank, name) for rank in ranks])))
    merged._update_count = 1
    assert merged.compute() == whole.compute()


def test_temporal_iou_averages_over_questions_and_ranks() -> None:
    pairs = [
        ([(0.0, 10.0)], [(5.0, 15.0)]),
        ([(0.0, 9.0), (20.0, 30.0)], [(20.0, 30.0), (0.0, 10.0)]),
        ([], [(1.0, 2.0)]),
    ]
    ranks, merged = (TemporalIoU(), TemporalIoU()), TemporalIoU()
    ranks[0].update([(0.0, 5.0)], [])  # the true answer has no interval
    assert ranks[0].compute() == TemporalIoU().compute() == {}
    for number, (stated, true) in enumerate(pairs):
        ranks[number % 2].update(stated, true)
    for name, reduce in merged._reductions.items():
        assert callable(reduce)
        setattr(merged, name, reduce(torch.stack([getattr(rank, name) for rank in ranks])))
    merged._update_count = 1
    found = {name: float(value) for name, value in merged.compute().items()}
    scores = [grounding_scores(*pair) for pair in pairs]
    assert found["grounding/mIoU"] == pytest.approx((1 / 3 + 0.9) / 3)
    assert found["grounding/R@1_IoU_0.3"] == pytest.approx(2 / 3)
    for name in scores[0]:
        mean = sum(score[name] for score in scores) / 3
        assert found[f"grounding/{name.replace(' ', '_')}"] == pytest.approx(mean)
