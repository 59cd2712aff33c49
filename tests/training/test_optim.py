import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lit_hour.config.training import LearningRateConfig, TrainingConfig
from lit_hour.errors import ConfigError, RunError, WeightsError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.training import optim
from lit_hour.training.optim import (
    build_optimizer,
    cosine_with_warmup,
    freeze_parts,
    parameters_by_part,
    schedule_lengths,
)
from lit_hour.weights.reader import open_weights
from tests.helpers.toy_run import (
    NUM_STEPS,
    ToyProject,
    TrainedRun,
    load_weights,
    max_abs_difference,
)


@pytest.fixture
def model(toy: ToyProject) -> HourLLaVA:
    return HourLLaVA.from_config(toy.config("none"), 300)


def test_every_parameter_is_in_one_part(model: HourLLaVA) -> None:
    parts = parameters_by_part(model)
    assert list(parts) == ["vision", "projector", "memaug", "llm"]
    in_parts = [id(parameter) for parameters in parts.values() for parameter in parameters]
    assert sorted(in_parts) == sorted(map(id, model.parameters()))


def test_build_optimizer_has_a_named_group_for_each_trained_part(model: HourLLaVA) -> None:
    rates = LearningRateConfig(vision=0.0, projector=1e-3, memaug=2e-3, llm=3e-3)
    settings = TrainingConfig(learning_rate=rates, warmup_ratio=0.5)
    built = build_optimizer(model, settings, num_steps=10)
    groups = built["optimizer"].param_groups
    assert [(group["name"], group["initial_lr"]) for group in groups] == [
        ("projector", 1e-3),
        ("memaug", 2e-3),
        ("llm", 3e-3),
    ]
    for group in groups:  # the first of five steps of warm-up
        assert group["lr"] == pytest.approx(group["initial_lr"] / 6)
        assert group["weight_decay"] == 0
    for _ in range(5):
        built["optimizer"].step()
        built["lr_scheduler"]["scheduler"].step()
    assert [group["lr"] for group in groups] == [1e-3, 2e-3, 3e-3]
    assert built["lr_scheduler"]["interval"] == "step"


def test_weight_decay_spares_norms_biases_and_embeddings(model: HourLLaVA) -> None:
    rates = LearningRateConfig(vision=1e-2, projector=0.0, memaug=1e-2, llm=1e-2)
    settings = TrainingConfig(learning_rate=rates, weight_decay=0.1, warmup_ratio=0)
    optimizer = build_optimizer(model, settings, num_steps=10)["optimizer"]
    parts = ("vision", "memaug", "llm")
    assert [group["name"] for group in optimizer.param_groups] == [
        name for part in parts for name in (part, f"{part}_no_decay")
    ]
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    same = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    expected = {
        name
        for name, weight in before.items()
        if name.startswith("projector") or weight.dim() == 1 or "embed" in name
    }
    moved = {name for name in before if before[name].any()} - same
    assert moved == {name for name in before if before[name].any()} - expected
    assert "llm.network.model.embed_tokens.weight" in same
    assert "vision.tower.positional_embedding" in same
    everything = replace(settings, weight_decay_scope="all")
    groups = build_optimizer(model, everything, num_steps=10)["optimizer"].param_groups
    assert [(group["name"], group["weight_decay"]) for group in groups] == [
        (part, 0.1) for part in parts
    ]


def test_adamw_has_the_betas_and_eps_of_the_settings_which_a_run_keeps(
    model: HourLLaVA, trained: TrainedRun
) -> None:
    settings = TrainingConfig(adam_beta1=0.8, adam_beta2=0.95, adam_eps=1e-6)
    for group in build_optimizer(model, settings, num_steps=10)["optimizer"].param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)
    with pytest.raises(RunError, match=r"training\.adam_beta2 was 0\.999, is 0\.95"):
        trained.project.fit("whole", "training.adam_beta2=0.95")


@pytest.mark.slow
def test_fused_adamw_clips_and_resumes_from_an_optimizer_that_is_not_fused(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPUs have a fused AdamW too; it is used on GPUs only."""
    overrides = ("training.precision=bf16-mixed", "training.gradient_clip_norm=0.1")
    schedule = f"training.schedule_steps={NUM_STEPS}"
    name, whole = "fused", load_weights(toy.fit("not-fused", *overrides).run)
    toy.fit(name, *overrides, schedule, "training.max_steps=2")
    used: list[bool | None] = []
    step = torch.optim.AdamW.step

    def count_step(self: torch.optim.AdamW, closure: Any = None) -> Any:
        used.extend(group["fused"] for group in self.param_groups)
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", count_step)
    for device, num_steps in (("cpu", 4), ("cuda", 6)):
        monkeypatch.setattr(optim, "FUSED_DEVICES", (device,))
        toy.fit(name, *overrides, schedule, f"training.max_steps={num_steps}")
        assert set(used) == {True if device == "cpu" else None}, device
        used.clear()
    assert max_abs_difference(whole, load_weights(toy.run_dir(name))) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_run_whose_norms_decay_is_refused_with_the_setting_that_continues_it(
    toy: ToyProject, strategy: str
) -> None:
    name = f"decayed-{strategy}"
    overrides = (
        "training.weight_decay=0.1",
        f"training.strategy={strategy}",
        f"training.schedule_steps={NUM_STEPS}",
    )
    everything = "training.weight_decay_scope=all"  # as all runs of earlier versions
    whole = load_all(toy.fit(f"{name}-whole", *overrides, everything).run)
    toy.fit(name, *overrides, everything, "training.max_steps=2")
    with pytest.raises(
        WeightsError, match=r"has \d+ parameters of vision, .* set training\.weight_decay_scope=all"
    ):
        toy.fit(name, *overrides)
    toy.fit(name, *overrides, everything)
    assert max_abs_difference(whole, load_all(toy.run_dir(name))) == 0
    spared = load_all(toy.fit(f"{name}-spared", *overrides).run)
    assert max_abs_difference(whole, spared) > 0


def load_all(run: RunDir) -> dict[str, Tensor]:
    return dict(open_weights(run.checkpoint("last")).tensors())


def test_freeze_parts_sets_requires_grad_by_learning_rate(model: HourLLaVA) -> None:
    freeze_parts(
        model,
        TrainingConfig(learning_rate=LearningRateConfig(vision=0, projector=1, memaug=0, llm=1)),
    )
    requires_grad = {
        part: {parameter.requires_grad for parameter in parameters}
        for part, parameters in parameters_by_part(model).items()
    }
    assert requires_grad == {
        "vision": {False},
        "projector": {True},
        "memaug": {False},
        "llm": {True},
    }
    freeze_parts(
        model,
        TrainingConfig(learning_rate=LearningRateConfig(vision=1, projector=1, memaug=1, llm=1)),
    )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_model_with_every_part_frozen_is_refused(toy: ToyProject) -> None:
    frozen = [
        f"training.learning_rate.{part}=0" for part in ("vision", "projector", "memaug", "llm")
    ]
    with pytest.raises(
        ConfigError, match=r"Every part is frozen\. .*training\.learning_rate above 0"
    ):
        toy.fit("frozen", *frozen)


def test_frozen_parts_keep_their_weights_in_training(toy: ToyProject) -> None:
    overrides = ("training.max_steps=2", "training.save_every_n_steps=1")
    toy.fit(
        "half-frozen",
        *overrides,
        "training.learning_rate.vision=0",
        "training.learning_rate.llm=0",
    )
    before, after = (
        load_weights(toy.run_dir("half-frozen"), name) for name in ("step=000001", "step=000002")
    )
    for part, is_frozen in (
        ("vision", True),
        ("projector", False),
        ("frame_newline", False),
        ("memaug", False),
        ("llm", True),
    ):
        one, other = (
            {name: weight for name, weight in state.items() if name.startswith(f"model.{part}")}
            for state in (before, after)
        )
        assert (max_abs_difference(one, other) == 0) == is_frozen, part


def test_schedule_is_linear_warmup_then_half_cosine() -> None:
    for step, factor in (
        (0, 1 / 11),
        (1, 2 / 11),
        (9, 10 / 11),
        (10, 1.0),
        (35, 0.5 + math.sqrt(0.125)),
        (60, 0.5),
        (110, 0.0),
        (500, 0.0),
    ):
        found = cosine_with_warmup(step, num_steps=110, num_warmup_steps=10)
        assert found == pytest.approx(factor), step


def test_schedule_with_only_warmup_or_none() -> None:
    assert cosine_with_warmup(0, num_steps=4, num_warmup_steps=0) == 1
    assert [cosine_with_warmup(step, num_steps=4, num_warmup_steps=4) for step in range(5)] == [
        0.2,
        0.4,
        0.6,
        0.8,
        1,
    ]


def test_no_step_of_a_run_has_a_learning_rate_of_0() -> None:
    for num_steps in (1, 2, 7, 450):
        for ratio in (0, 0.03, 0.5, 1):
            settings = TrainingConfig(warmup_ratio=ratio)
            lengths = schedule_lengths(settings, num_steps)
            factors = [cosine_with_warmup(step, *lengths) for step in range(num_steps)]
            assert min(factors) > 0, (num_steps, ratio)
            assert max(factors) <= 1, (num_steps, ratio)


def test_schedule_of_more_steps_than_the_run_has_its_own_warmup(model: HourLLaVA) -> None:
    settings = TrainingConfig(schedule_steps=20, warmup_ratio=0.5)
    built = build_optimizer(model, settings, num_steps=10)
    (group, *_), schedule = built["optimizer"].param_groups, built["lr_scheduler"]["scheduler"]
    for step in range(10):
        assert group["lr"] == pytest.approx(group["initial_lr"] * (step + 1) / 11)
        built["optimizer"].step()
        schedule.step()


def test_schedule_that_ends_before_the_run_is_refused(toy: ToyProject) -> None:
    with pytest.raises(ConfigError, match=r"training\.max_steps=6 must not exceed .*_steps=5: the"):
        toy.config("none", "training.schedule_steps=5")
    with pytest.raises(ConfigError, match=r"run has 20 steps, but training\.schedule_steps=5: the"):
        toy.fit("short-schedule", "training.max_steps=0", "training.schedule_steps=5")


def learning_rates(toy: ToyProject, name: str) -> list[float]:
    """Return the share of the peak rate that a run has logged for each step."""
    events = EventAccumulator(str(toy.run_dir(name).tensorboard))
    events.Reload()
    peak = toy.config(name).training.learning_rate.llm
    rates = {event.step: event.value for event in events.Scalars("learning_rate/llm")}
    assert list(rates) == list(range(len(rates)))
    return [rate / peak for rate in rates.values()]


def test_more_steps_change_the_schedule_with_a_warning_and_no_step_learns_nothing(
    toy: ToyProject, caplog: pytest.LogCaptureFixture
) -> None:
    name, overrides = "rescheduled", ("training.warmup_ratio=0", "training.val_every_n_steps=20")
    toy.fit(name, *overrides, "training.max_steps=4")
    before = load_weights(toy.run_dir(name))
    time.sleep(1 - time.time() % 1)  # TensorBoard sorts the files of a run by seconds
    toy.fit(name, *overrides, "training.max_steps=5")
    assert (
        "The schedule of the learning rates has 5 steps, 0 of them warm-up; until step 4 it had 4"
        " and 0. At this step the rates change from 0.0% of their peak to 9.5%. To keep the former"
        " schedule, set training.max_steps=4."
    ) in caplog.text
    expected = [cosine_with_warmup(step, 4, 0) for step in range(4)] + [cosine_with_warmup(4, 5, 0)]
    assert learning_rates(toy, name) == pytest.approx(expected, rel=1e-5)
    assert max_abs_difference(before, load_weights(toy.run_dir(name))) > 0


def test_run_in_parts_with_the_steps_of_its_schedule_is_the_same_as_in_one(
    trained: TrainedRun, caplog: pytest.LogCaptureFixture
) -> None:
    toy, name = trained.project, "in-parts"
    schedule = f"training.schedule_steps={NUM_STEPS}"
    toy.fit(name, schedule, "training.max_steps=2")
    toy.fit(name, schedule, "training.max_steps=4")
    toy.fit(name)  # all of its steps
    assert "schedule of the learning rates" not in caplog.text
    assert max_abs_difference(load_weights(toy.run_dir(name)), load_weights(trained.run)) == 0


def test_only_trained_parts_get_gradients(toy: ToyProject, model: HourLLaVA) -> None:
    freeze_parts(
        model,
        TrainingConfig(learning_rate=LearningRateConfig(vision=0, projector=1, memaug=1, llm=0)),
    )
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)  # (frames, 3, height, width)
    model.projector(model.vision.encode_images(images)).sum().backward()
    assert all(parameter.grad is None for parameter in model.vision.parameters())
    assert all(parameter.grad is not None for parameter in model.projector.parameters())
