"""A shorter form of tests/benchmarks/resume_exactness.py."""

import pytest

from tests.helpers.toy_run import ToyProject
from tests.training.interruption import Layout, Result, draw, run_to_the_end

pytestmark = pytest.mark.slow

NUM_STEPS, LAYOUT = 16, Layout(num_ranks=2, num_workers=1)


@pytest.mark.parametrize("num_conversations", [1, 2])
def test_interrupted_run_equals_uninterrupted_run_bit_for_bit(
    toy: ToyProject, num_conversations: int
) -> None:
    words = [
        f"training.max_steps={NUM_STEPS}",
        f"data.conversations_per_video={num_conversations}",
        "data.length_balance_window=3",
        "training.save_every_n_steps=3",
    ]
    names = [f"{name}-{num_conversations}" for name in ("left-alone", "interrupted")]
    run_to_the_end(toy, names[0], LAYOUT, [], words)
    begun = run_to_the_end(toy, names[1], LAYOUT, draw(1, NUM_STEPS, LAYOUT), words)
    assert [each.startswith("resumes from") for each in begun].count(
        True
    ) >= 3  # killed early, it may start anew
    alone, interrupted = (Result.of(toy, name) for name in names)
    assert [step for step, _ in alone.losses] == list(range(NUM_STEPS)) and len(
        alone.optimizer
    ) > 20
    assert alone.differences(interrupted) == []
