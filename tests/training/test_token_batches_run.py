"""Runs with batches that keep a budget of tokens."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.data.sources import open_sources
from lit_hour.data.training_samples import samples_per_shard
from lit_hour.errors import ConfigError
from lit_hour.model.hour_llava import HourLLaVA, HourLLaVAOutput
from tests.helpers.fork import fork_ranks
from tests.helpers.toy_run import StepRecorder, ToyProject, toy_settings

BUDGET = 600
WORDS = (
    f"data.tokens_per_batch={BUDGET}",
    "data.batches_per_step=2",
    "data.length_balance_window=100",
    "data.min_bytes_per_token=1",  # certain
    "training.max_steps=0",
)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record texts and padded tokens of the language model in each micro-batch."""
    micro_batches: list[tuple[int, int]] = []
    forward = HourLLaVA.forward

    def record(model: HourLLaVA, *inputs: Any) -> HourLLaVAOutput:
        output = forward(model, *inputs)
        if torch.is_grad_enabled():
            mask = output.inputs.attention_mask  # (texts, tokens)
            packs = model.llm.packs_texts
            micro_batches.append((len(mask), int(mask.sum()) if packs else mask.numel()))
        return output

    monkeypatch.setattr(HourLLaVA, "forward", record)
    return micro_batches


@pytest.mark.parametrize("packing", ["true", "false"])
def test_batches_of_a_run_keep_the_budget_and_read_each_sample_once(
    toy: ToyProject,
    step_recorder: StepRecorder,
    computed: list[tuple[int, int]],
    caplog: pytest.LogCaptureFixture,
    packing: str,
) -> None:
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        outcome = toy.fit(f"budget-{packing}", *WORDS, f"training.packing={packing}")
    assert len(computed) == 2 * outcome.step > 2
    assert max(num_tokens for _, num_tokens in computed) <= BUDGET
    assert max(num_texts for num_texts, _ in computed) > 1
    positions = step_recorder.positions
    assert sorted(positions) == list(range(len(positions))) and len(positions) > outcome.step
    assert not caplog.records
    state = torch.load(outcome.run.checkpoint("last"), weights_only=True)
    assert state["VideoQADataModule"]["position"] == len(positions)


def test_long_samples_and_exceeded_budgets_are_named(
    toy: ToyProject, computed: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    words = ("data.min_bytes_per_token=40", "data.tokens_per_batch=260")
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        toy.fit("exceeded", *WORDS, *words)
    assert max(num_tokens for _, num_tokens in computed) > 260
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "more than data.tokens_per_batch=260" in warning
    assert "fewer bytes per token than data.min_bytes_per_token=40, or" in warning
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        toy.fit("long", *WORDS, "data.tokens_per_batch=20", "training.max_steps=3")
    (warning,) = (record.getMessage() for record in caplog.records)
    assert (
        "data.tokens_per_batch=20 tokens and are batches of their own. The longest, of" in warning
    )
    assert all(num_texts == 1 for num_texts, _ in computed[-6:])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_stay_in_step_where_batches_are_empty(
    toy: ToyProject, tmp_path: Path, strategy: str
) -> None:
    """Each batch has one sample, and the ranks do not divide the number of samples of a pass."""
    values = toy_settings(toy.yaml.parent / "world")
    values["data"]["val_sources"] = {}  # they have fewer entries than there are ranks
    project = ToyProject.write(tmp_path, values)
    words = (
        *WORDS,
        "data.tokens_per_batch=20",
        "data.batches_per_step=4",
        "data.questions_per_sample=3",
    )
    losses = []
    for num_ranks in (1, 4):
        name = f"ranks-{num_ranks}"
        argv = (name, *words, f"training.devices={num_ranks}", f"training.strategy={strategy}")

        def work(rank: int, argv: tuple[str, ...] = argv) -> None:
            project.fit(*argv)

        outputs = [tmp_path / f"{name}-{rank}.txt" for rank in range(num_ranks)]
        ranks = fork_ranks(work, outputs)
        assert ranks.wait() == [0] * num_ranks, ranks.output()
        events = EventAccumulator(str(project.run_dir(name).tensorboard))
        events.Reload()
        losses.append([event.value for event in events.Scalars("train/loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]
    config = project.config("none", *words)
    assert sum(samples_per_shard(open_sources(config)["world"], config)) % 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("data.batches_per_step=0",),
            r"data\.tokens_per_batch=600 and data\.batches_per_step=0 belong together",
        ),
        (
            ("data.tokens_per_batch=0",),
            r"data\.tokens_per_batch=0 and data\.batches_per_step=2 belong together",
        ),
        (("data.batches_per_step=99",), r"samples, but a step has data\.batches_per_step=99"),
    ],
)
def test_contradicting_settings_are_rejected(
    toy: ToyProject, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        toy.fit("refused", *WORDS, *words)
