"""Runs of DPO and GRPO: in two ranks as in one, resumed exactly, validated and logged."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from lit_hour.data.packing.pack import pack
from lit_hour.errors import ConfigError, QuestionError
from tests.helpers.toy_run import (
    StepRecorder,
    StoppedError,
    ToyProject,
    load_weights,
    max_abs_difference,
    start_command,
    toy_settings,
)

pytestmark = pytest.mark.slow

RUN = ("data.questions_per_sample=1", "training.logger=csv", "training.max_steps=4")
DPO = (*RUN, "training.objective=dpo")
GRPO = (
    *RUN,
    "training.objective=grpo",
    "training.grpo.num_answers=3",
    "training.grpo.max_new_tokens=4",
    "training.grpo.rewards.format=1",
    "training.grpo.updates_per_group=2",
)
OBJECTIVES = {"dpo": DPO, "grpo": GRPO}


@pytest.fixture(scope="module")
def pairs(toy: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """A project with a rejected answer to each question, in training and in validation."""
    folder, world = tmp_path_factory.mktemp("pairs"), toy.yaml.parent / "world"
    config, values = toy.config("none"), toy_settings(world)
    for split, sources in (("train", "sources"), ("validation", "val_sources")):
        records = json.loads((world / split / "questions.json").read_text())
        for record in records:
            others = [option for option in record.get("options", []) if option != record["answer"]]
            record["rejected"] = others[0] if others else "something else"
        file, shards = folder / f"{split}.json", folder / split
        file.write_text(json.dumps(records))
        pack(world / split / "videos", file, shards, config.video, config.pack)
        values["data"][sources]["world"]["shards"] = str(shards)
    return ToyProject.write(folder, values)


def logged(project: ToyProject, run: str, name: str) -> list[float]:
    """Return the values of a metric, in the order of the steps."""
    with (project.run_dir(run).metrics / "metrics.csv").open() as stream:
        return [float(row[name]) for row in csv.DictReader(stream) if row.get(name)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_ranks_learn_as_one_process(pairs: ToyProject, objective: str) -> None:
    words = OBJECTIVES[objective]
    pairs.fit(f"{objective}-one", *words)
    # In new processes: a fork cannot use threads that autograd has started in this one.
    ranks = ("training.devices=2", "training.strategy=ddp")
    process = start_command(pairs, f"{objective}-two", *words, *ranks)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed.decode()
    names = {"dpo": "reward_margin", "grpo": "reward_deviation"}
    for name in ("train/loss", f"train/{names[objective]}", "val/loss", "train/gradient_norm"):
        values = [logged(pairs, f"{objective}-{run}", name) for run in ("one", "two")]
        assert len(values[0]) >= 2 and values[1] == pytest.approx(values[0], rel=1e-3, abs=1e-5)
    start, end = (load_weights(pairs.run_dir(f"{objective}-{run}")) for run in ("one", "two"))
    assert max_abs_difference(start, end) < 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_stopped_run_resumes_exactly(
    pairs: ToyProject, step_recorder: StepRecorder, objective: str
) -> None:
    """It stops in step 2, which with GRPO learns from the answers that step 1 has sampled."""
    words = (*OBJECTIVES[objective], "training.save_every_n_steps=1", "training.max_steps=3")
    expected = pairs.fit(f"{objective}-through", *words)
    every = list(step_recorder.positions)
    assert every == ([0, 1, 0, 1, 2, 3] if objective == "grpo" else [0, 1, 2, 3, 4, 5])
    name = f"{objective}-stopped"
    step_recorder.positions, step_recorder.stop_after_batches = [], 3
    with pytest.raises(StoppedError):
        pairs.fit(name, *words)
    step_recorder.positions, step_recorder.stop_after_batches = [], None
    outcome = pairs.fit(name, *words)
    assert step_recorder.positions == every[2:]
    assert outcome.step == expected.step == 3
    assert outcome.scores == expected.scores
    resumed, through = load_weights(outcome.run), load_weights(expected.run)
    assert max_abs_difference(resumed, through) == 0
    for key in ("train/loss", "train/gradient_norm"):
        names = (name, f"{objective}-through")
        one, other = (logged(pairs, run, key)[-1] for run in names)
        assert one == other


def test_dpo_prefers_the_chosen_answers(pairs: ToyProject) -> None:
    """Loss and margin are logged, and the best checkpoint has the lowest DPO loss."""
    result = pairs.fit("prefers", *DPO, "training.max_steps=12", "training.val_every_n_steps=4")
    margins, losses = (
        logged(pairs, "prefers", name) for name in ("train/reward_margin", "train/dpo_loss")
    )
    assert margins[0] == 0 and losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert margins[-1] > 0.1 and result.scores["val/reward_accuracy"] > 0.5
    best = torch.load(pairs.run_dir("prefers").checkpoints / "best.ckpt", weights_only=True)
    validated = logged(pairs, "prefers", "val/dpo_loss")
    assert best["global_step"] == 4 * (validated.index(min(validated)) + 1)


def test_run_logs_each_reward(pairs: ToyProject) -> None:
    result = pairs.fit("rewards", *GRPO)
    assert {"val/reward", "val/reward/format", "val/reward/right_option"} <= result.scores.keys()
    assert len(logged(pairs, "rewards", "train/reward")) == 4
    assert logged(pairs, "rewards", "train/kl")[0] == pytest.approx(0, abs=1e-6)


def test_questions_without_a_rejected_answer_are_named(toy: ToyProject) -> None:
    with pytest.raises(QuestionError, match=r"has no rejected answer.*training\.objective=dpo"):
        toy.fit("no-pairs", *DPO)


def test_validation_needs_pairs_too(pairs: ToyProject, toy: ToyProject) -> None:
    shards = toy.config("none").data.val_sources["world"].shards
    with pytest.raises(QuestionError, match=r"No validation question has a rejected answer"):
        pairs.fit("no-val-pairs", *DPO, f"data.val_sources.world.shards={shards}")


def test_settings_that_do_not_fit_are_refused(toy: ToyProject) -> None:
    for word in ("training.strategy=fsdp", "model.llm.lora.dropout=0.1"):
        name = word.partition("=")[0]
        with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
            toy.config("none", *GRPO, word)
