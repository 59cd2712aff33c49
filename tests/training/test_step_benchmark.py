"""The benchmark of training steps: its reference model, its count of operations, its timing."""

from pathlib import Path

import pytest
import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.training.flops import Shapes, step_flops
from lit_hour.training.module import forgetting_generators
from tests import published_stage
from tests.benchmarks.speed import step
from tests.benchmarks.speed.step.reference import plain_loss

pytestmark = pytest.mark.slow

NUM_FRAMES, NUM_STEPS = 40, 3
DIM, LAYERS = 2048, 36


@pytest.fixture(scope="module")
def encoded(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Config, step.HourLLaVAModule, step.Steps]:
    folder = tmp_path_factory.mktemp("encoded")
    overrides = [
        *step.TINY_ENCODED,
        f"training.max_steps={NUM_STEPS}",
        *step.path_overrides(folder, "noise"),
        "data.num_workers=0",
    ]
    config = load_config(step.CONFIGS / "tiny_model.yaml", overrides)
    module, steps = step.encoded_steps(config, folder, NUM_FRAMES, 2)
    assert list((folder / "runs").glob("*/tensorboard/events*")) and not list(
        (folder / "runs").glob("**/*.ckpt")
    )
    return config, module, steps


def test_step_time_is_split_into_parts(
    encoded: tuple[Config, step.HourLLaVAModule, step.Steps],
) -> None:
    _, _, steps = encoded
    assert len(steps.seconds) == len(steps.losses) == NUM_STEPS
    parts = steps.mean_seconds(num_warmup=1)
    assert set(parts) == {"data", "forward", "backward", "optimizer", "logging and callbacks"}
    assert parts["forward"] > 0 and parts["backward"] > 0
    # Only the newest batch is kept.
    assert [len(video) for batch in steps.batches for video in batch.visuals] == [NUM_FRAMES]


def test_plain_loss_and_gradients_match_the_model(
    encoded: tuple[Config, step.HourLLaVAModule, step.Steps],
) -> None:
    """Loss and gradients agree in float32, relative to the largest gradient of each weight."""
    _, module, steps = encoded
    found = []
    model = module.model.train()
    for loss_of in (lambda *args: model(*args).loss, lambda *args: plain_loss(model, *args)):
        model.zero_grad()
        batch = steps.batches[0]
        loss = loss_of(batch, forgetting_generators(batch, module.config.run.seed))
        loss.backward()
        found.append(
            (
                loss.detach(),
                {
                    name: weight.grad
                    for name, weight in module.model.named_parameters()
                    if weight.requires_grad
                },
            )
        )
    (ours, our_gradients), (plain, plain_gradients) = found
    torch.testing.assert_close(ours, plain)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(
            gradient, plain_gradients[name], rtol=1e-3, atol=1e-4 * float(gradient.abs().max())
        )


def test_step_flops_match_the_count_of_torch(tmp_path: Path) -> None:
    counted = step.count_operations(tmp_path)
    assert counted.ours == pytest.approx(counted.peer, rel=step.FLOP_TOLERANCE)


def test_step_flops_of_frozen_parts_omit_weight_gradients() -> None:
    config = load_config(published_stage("3b", "s3"), step.STAGE_3)
    shapes = Shapes(
        vision_dim=1152,
        num_projected=230_400,
        num_memory=234_000,
        num_query=8800,
        num_kept=8704,
        num_language=8900,
        num_labels=100,
    )
    all_learn = step_flops(config, 151_936, shapes)
    frozen = load_config(
        published_stage("3b", "s3"), [*step.STAGE_3, "training.learning_rate.llm=0"]
    )
    some_learn = step_flops(frozen, 151_936, shapes)
    keys_values = 2 * DIM * 256
    layer = 2 * DIM**2 + keys_values + 3 * DIM * 11_008
    products = 8900 * ((LAYERS - 1) * layer + keys_values) + 100 * (layer - keys_values)
    assert all_learn["language model's layers"] == 6 * products
    assert some_learn["language model's layers"] == 4 * products
    assert all_learn["projector"] == 230_400 * (4 * 1152 * DIM + 6 * DIM**2)
    assert {part for part in all_learn if all_learn[part] != some_learn[part]} == {
        "language model's layers",
        "output layer",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would be measured here")
def test_benchmark_without_gpu_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny_step", "count_operations"):
        monkeypatch.setattr(step, name, lambda folder: step.Outcome(step.TARGET, "left out", "s"))
    *_, hour = step.measure()
    assert hour.verdict == "skipped" and "needs a GPU" in hour.why
