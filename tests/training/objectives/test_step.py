"""A step of DPO and GRPO equals the plain way: one question, one answer and one video at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Generator, Tensor, nn

from lit_hour.config.model import LoraConfig
from lit_hour.config.preference import GRPOConfig
from lit_hour.config.schema import Config
from lit_hour.errors import QuestionError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.training.objectives.dpo import DPO, dpo_losses
from lit_hour.training.objectives.grpo import GRPO
from lit_hour.training.objectives.step import ObjectiveOutput, StepInputs
from lit_hour.types import Batch, Question
from tests.model.toy_model import CONFIG, PROCESSOR, batch_of, frames, sample, toy_model

pytestmark = pytest.mark.slow

COLOR = Question("1", "", "open_ended", "Which color?", "red", rejected="dark blue")
PLACE = Question("2", "", "open_ended", "Where is it?", "to the left", rejected="up")
VIDEO = frames(10)
LLM_ONLY = ("llm.",)
TOLERANCE = 1e-4  # relative to the norm of a parameter's gradient


def config_of(objective: str, lora: bool = False, **grpo: Any) -> Config:
    """Return the settings of the toy model for an objective."""
    settings = GRPOConfig(**{"num_answers": 3, "max_new_tokens": 4, **grpo})
    training = replace(CONFIG.training, objective=objective, grpo=settings)
    llm = replace(CONFIG.model.llm, lora=LoraConfig(rank=2 if lora else 0))
    return replace(CONFIG, training=training, model=replace(CONFIG.model, llm=llm))


def model_of(config: Config, learned: Sequence[str] = ("",)) -> HourLLaVA:
    """Return a model of which the parameters with these prefixes learn; of LoRA the adapters."""
    model = toy_model(config)
    for name, parameter in model.named_parameters():
        is_frozen = config.model.llm.lora.rank > 0 and ".lora_" not in name
        parameter.requires_grad_(name.startswith(tuple(learned)) and not is_frozen)
        if ".lora_B" in name:
            nn.init.zeros_(parameter)  # as in a new run
    for parameter in model.vision.parameters():
        parameter.requires_grad_(False)
    return model


def move(model: HourLLaVA) -> None:
    """Change the learned weights, as optimizer steps do."""
    generator = Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def step_of(batch: Batch, step: int = 0) -> StepInputs:
    """Return a step with the same draws of forgetting for each text."""
    num = len(batch.visual_of_text)
    return StepInputs(
        batch, lambda: [Generator().manual_seed(3) for _ in range(num)], lambda: PROCESSOR, step
    )


def pair_batch() -> Batch:
    batch = batch_of(sample(VIDEO, (COLOR,), (PLACE,)), sample(frames(6, 1), (COLOR,)))
    return replace(batch, positions=(4, 9))


def plain_log_prob(model: HourLLaVA, video: Any, question: Question, answer: str) -> Tensor:
    """Return the log-probability of an answer, by the cross-entropy of its own batch."""
    batch = batch_of(sample(video, (replace(question, answer=answer),)))
    output = model(batch, [Generator().manual_seed(3)])
    return -output.loss * output.inputs.is_target.sum()


def gradients(model: HourLLaVA, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and len(found) > 3
    atol = 1e-6 * float(torch.nn.utils.get_total_norm(expected.values()))
    for name, gradient in expected.items():
        difference = float((found[name] - gradient).norm())
        assert difference <= TOLERANCE * float(gradient.norm()) + atol, name


@pytest.mark.parametrize("lora", [False, True])
def test_dpo_equals_separate_passes_of_each_answer(lora: bool) -> None:
    """The reference is another model with the weights of the start."""
    config = config_of("dpo", lora)
    model, start = model_of(config), model_of(config)
    objective = DPO(config)
    objective.start(model)
    move(model)
    output = objective.training_output(model, step_of(pair_batch()))
    found = gradients(model, output.loss)

    asked = [(VIDEO, COLOR), (VIDEO, PLACE), (frames(6, 1), COLOR)]
    rows = {
        name: torch.stack(
            [
                plain_log_prob(one, video, question, answer)
                for video, question in asked
                for answer in (question.answer, question.rejected)
            ]
        ).unflatten(0, (-1, 2))
        for name, one in (("model", model), ("start", start))
    }
    losses, rewards = dpo_losses(rows["model"], rows["start"].detach(), 0.1)
    torch.testing.assert_close(output.loss, losses.mean(), rtol=1e-5, atol=1e-5)
    assert_equal_gradients(found, gradients(model, losses.mean()))
    sums, counts = output.metrics.unbind(dim=1)
    margins = rewards[:, 0] - rewards[:, 1]
    assert output.num_units == 3 and counts.tolist() == [3] * 5
    expected = [losses.detach().sum(), margins.sum(), (margins > 0).sum(), *rewards.sum(dim=0)]
    torch.testing.assert_close(
        sums, torch.tensor([float(one) for one in expected]), rtol=1e-4, atol=1e-4
    )


def test_reference_of_fresh_adapters_is_the_model_with_its_adapters_off() -> None:
    config = config_of("dpo", lora=True)
    model = model_of(config, LLM_ONLY)
    objective = DPO(config)
    objective.start(model)
    assert all("lora_" in name for name in objective.state_dict()["reference"])
    move(model)
    metrics = objective.training_output(model, step_of(pair_batch())).metrics
    chosen = plain_log_prob(model, VIDEO, COLOR, "red")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    off = objective.training_output(model, step_of(pair_batch())).metrics
    assert off[1, 0] == 0 and metrics[1, 0] != 0  # reward margins
    assert not torch.isclose(chosen, plain_log_prob(model, VIDEO, COLOR, "red"), rtol=1e-4)


def test_dpo_needs_rejected_answers() -> None:
    batch = batch_of(sample(VIDEO, (replace(COLOR, rejected=""),)))
    objective = DPO(config_of("dpo"))
    with pytest.raises(QuestionError, match="'1' of key has no rejected answer"):
        objective.training_output(model_of(config_of("dpo")), step_of(batch))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts of the frames that were encoded, and of the repositories that were built."""
    counts: Counter[str] = Counter()
    encode, build = VisionEncoder._encode_chunk, HourLLaVA.build_repositories

    def encode_counted(self: VisionEncoder, images: Tensor) -> Tensor:
        counts["frames"] += len(images)
        return encode(self, images)

    def build_counted(self: HourLLaVA, visuals: Any, lazy: bool = False) -> Any:
        counts["repositories"] += len(visuals)
        return build(self, visuals, lazy)

    monkeypatch.setattr(VisionEncoder, "_encode_chunk", encode_counted)
    monkeypatch.setattr(HourLLaVA, "build_repositories", build_counted)
    return counts


@pytest.mark.parametrize("objective", [DPO, GRPO])
@pytest.mark.parametrize("num_answers", [2, 5])
def test_video_is_encoded_once_for_all_answers(
    objective: Any, num_answers: int, calls: Counter[str]
) -> None:
    """With adapters alone the reference model shares even the repository."""
    for lora, learned, num_repositories in ((True, LLM_ONLY, 1), (False, ("",), 2)):
        config = config_of("grpo", lora, num_answers=num_answers)
        model, learner = model_of(config, learned), objective(config)
        learner.start(model)
        calls.clear()
        learner.training_output(model, step_of(batch_of(sample(VIDEO, (COLOR,)))))
        assert calls == {"frames": len(VIDEO), "repositories": num_repositories}


def learned_grpo(**settings: Any) -> tuple[HourLLaVA, GRPO]:
    config = config_of("grpo", **settings)
    model, objective = model_of(config), GRPO(config)
    objective.start(model)
    return model, objective


def metrics_of(objective: GRPO, output: ObjectiveOutput) -> dict[str, float]:
    return {
        name: float(total / count)
        for name, (total, count) in zip(objective.metric_names, output.metrics, strict=True)
        if count
    }


def test_first_step_has_no_divergence_and_clips_nothing() -> None:
    model, objective = learned_grpo(num_answers=6)
    output = objective.training_output(model, step_of(pair_batch()))
    metrics = metrics_of(objective, output)
    assert output.num_units == 18
    assert metrics["kl"] == pytest.approx(0, abs=1e-6) and metrics["clipped_tokens"] == 0
    assert float(output.loss.detach()) == pytest.approx(
        0, abs=1e-5
    )  # advantages of a group sum to 0
    assert 1 <= metrics["answer_tokens"] <= 4


def rewarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward answers by a hash of their text."""
    monkeypatch.setattr(
        "lit_hour.training.objectives.grpo.score_answer",
        lambda question, answer, weights: [
            crc32(answer.text.encode()) % 7 / 7,
            *[float("nan")] * 4,
        ],
    )


def test_gradient_is_the_policy_gradient_of_the_sampled_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a ratio of 1: minus the mean over answers of the advantage times the log-probability."""
    rewarded(monkeypatch)
    model, objective = learned_grpo(updates_per_group=2, num_answers=4)
    batch = batch_of(sample(VIDEO, (COLOR,)))
    output = objective.training_output(model, step_of(batch))
    found = gradients(model, output.loss)
    (group,) = objective.state_dict()["answers"]["groups"].values()
    rewards = group["scores"][:, 0]
    assert rewards.std() > 0
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    expected = torch.zeros(())
    for ids, length, advantage in zip(
        group["ids"], group["num_tokens"].tolist(), advantages, strict=True
    ):
        answer_batch = batch_of(sample(VIDEO, (COLOR,)))
        own = with_answer(answer_batch, ids[:length])
        result = model(own, [Generator().manual_seed(3)])
        expected = expected + advantage * result.loss / 4
    assert_equal_gradients(found, gradients(model, expected))


def with_answer(batch: Batch, ids: Tensor) -> Batch:
    """Return the batch of one text with other ids `(tokens,)` as its answer, and nothing behind."""
    first = int((batch.labels[0] != -100).nonzero()[0])
    input_ids = torch.cat([batch.input_ids[0, :first], ids])[None]  # (1, tokens)
    labels = torch.full_like(input_ids, -100)
    labels[0, first:] = ids
    question_mask = torch.zeros_like(input_ids, dtype=torch.bool)
    question_mask[0, :first] = batch.question_mask[0, :first]
    return replace(
        batch,
        input_ids=input_ids,
        labels=labels,
        question_mask=question_mask,
        attention_mask=torch.ones_like(question_mask),
    )


def test_further_updates_learn_from_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    rewarded(monkeypatch)
    model, objective = learned_grpo(updates_per_group=2, num_answers=4, clip_epsilon=0.01)
    batch = pair_batch()
    objective.training_output(model, step_of(batch, 0))
    first = objective.state_dict()["answers"]
    move(model)
    metrics = metrics_of(objective, objective.training_output(model, step_of(batch, 1)))
    same = objective.state_dict()["answers"]
    assert first["groups"].keys() == same["groups"].keys() and len(first["groups"]) == 3
    for name, group in first["groups"].items():
        for key, tensor in group.items():
            assert torch.equal(tensor.nan_to_num(), same["groups"][name][key].nan_to_num())
    assert metrics["kl"] > 1e-4 and metrics["clipped_tokens"] > 0
    objective.training_output(model, step_of(batch, 2))
    other = objective.state_dict()["answers"]
    assert any(
        not torch.equal(group["scores"], other["groups"][name]["scores"])
        or not torch.equal(group["num_tokens"], other["groups"][name]["num_tokens"])
        for name, group in first["groups"].items()
    )


def test_restored_answers_are_learned_from_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rewarded(monkeypatch)
    model, objective = learned_grpo(updates_per_group=2)
    batch = pair_batch()
    objective.training_output(model, step_of(batch, 0))
    move(model)
    restored = GRPO(config_of("grpo", updates_per_group=2))
    restored.load_state_dict(objective.state_dict())
    restored.start(model)
    outputs = [one.training_output(model, step_of(batch, 1)) for one in (objective, restored)]
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    assert torch.equal(outputs[0].metrics, outputs[1].metrics)
    fresh = GRPO(config_of("grpo", updates_per_group=2))
    fresh.start(model)
    assert not torch.equal(fresh.training_output(model, step_of(batch, 1)).loss, outputs[0].loss)


@pytest.mark.parametrize("objective", [DPO, GRPO])
def test_unreadable_batch_has_no_loss_and_gradients_of_zero(objective: Any) -> None:
    config = config_of("grpo")
    model, learner = model_of(config), objective(config)
    learner.start(model)
    move(model)
    output = learner.training_output(model, step_of(PROCESSOR.collate([])))
    found = gradients(model, output.loss)
    assert output.loss == 0 and output.num_units == 0 and not output.metrics.any()
    assert len(found) > 10 and not any(gradient.any() for gradient in found.values())
