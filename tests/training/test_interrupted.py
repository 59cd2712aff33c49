"""A shorter form of tests/benchmarks/resume_exactness.py."""

import pytest

from tests.helpers.toy_run import ToyProject
from tests.training.interruption import Layout, Result, draw, run_to_the_end

pytestmark = pytest.mark.slow

NUM_STEPS, LAYOUT = 16, Layout(num_ranks=2, num_workers=1)


VARIANTS = {
    "one conversation": (),
    "two conversations": ("data.conversations_per_video=2",),
    "budget": (
        "data.conversations_per_video=2",
        "data.tokens_per_batch=700",
        "data.batches_per_step=4",
        "training.packing=true",
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_run_equals_uninterrupted_run_bit_for_bit(
    toy: ToyProject, variant: str
) -> None:
    words = [
        f"training.max_steps={NUM_STEPS}",
        *VARIANTS[variant],
        "data.length_balance_window=3",
        "training.save_every_n_steps=3",
    ]
    names = [f"{name}-{variant.replace(' ', '-')}" for name in ("left-alone", "interrupted")]
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
