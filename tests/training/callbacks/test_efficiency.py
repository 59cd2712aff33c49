"""Operations, gradient norms and memory that the logger gets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lit_hour.data.datamodule import VideoQADataModule
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.training import flops
from lit_hour.training.callbacks import efficiency
from lit_hour.training.flops import FlopCounter
from lit_hour.training.module import HourLLaVAModule, forgetting_generators
from tests.helpers.fork import fork_ranks
from tests.helpers.toy_run import ToyProject
from tests.training.callbacks.test_logging import scalars

FLOP_TOLERANCE = 0.02


@pytest.mark.parametrize(
    "words",
    [
        (),  # the vision encoder is trained
        pytest.param(
            ("training.learning_rate.vision=0", "training.learning_rate.llm=0"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("data.conversations_per_video=3", "data.questions_per_sample=1"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_counted_operations_of_a_batch_match_torchs_counter(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    config = toy.config("none", *words, "data.micro_batch_size=2", "model.memaug.num_layers=2")
    processor = HourLLaVAProcessor(
        train_byte_level_tokenizer([], 300), config.text, config.model.memaug
    )
    data = VideoQADataModule(config, processor)
    data.trainer = type("Alone", (), {"world_size": 1, "global_rank": 0, "global_step": 0})()
    batch = next(iter(data.train_dataloader()))
    model = HourLLaVAModule(config, 300, 1).model
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(batch, forgetting_generators(batch, 0))
        output.loss.backward()
    # torch computes the masked half of causal attention, too
    monkeypatch.setattr(flops, "step_flops", partial(flops.step_flops, causal_share=1.0))
    counted = FlopCounter(config, model).count(
        batch, output.inputs.attention_mask.sum(dim=1), output.inputs.is_target.sum(dim=1)
    )
    # torch computes attention to padding, and in a trained tower no gradient of the pixels
    assert counted == pytest.approx(counter.get_total_flops(), rel=FLOP_TOLERANCE)


@pytest.mark.slow
def test_utilization_is_logged_for_a_stated_peak_only(toy: ToyProject) -> None:
    toy.fit("peak", "training.peak_tflops=0.01", "training.max_steps=2")
    assert all(0 < share < 1 for share in scalars(toy, "peak", "throughput/mfu"))
    toy.fit("no-peak", "training.max_steps=1")
    with pytest.raises(KeyError):
        scalars(toy, "no-peak", "throughput/mfu")


def test_rates_count_all_micro_batches_between_two_records(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(efficiency, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    trainer: Any = SimpleNamespace(
        global_step=0,
        log_every_n_steps=2,
        accumulate_grad_batches=3,
        train_dataloader=SimpleNamespace(data_wait_seconds=0.0),
    )
    logged: list[tuple[int, dict[str, float]]] = []
    module: Any = SimpleNamespace(
        log_dict=lambda values, **_: logged.append((trainer.global_step, values))
    )
    batch: Any = SimpleNamespace(visuals=[range(5)], attention_mask=torch.ones(1, 10))
    throughput = efficiency.ThroughputLogger(toy.config("none"))
    throughput.on_train_start(trainer, module)
    for micro_batch in range(12):
        clock[0] += 1 if micro_batch % 3 else 4  # a step begins slowly
        trainer.global_step = (micro_batch + 1) // 3
        throughput.on_train_batch_end(trainer, module, {}, batch, micro_batch)
    frames = "throughput/frames_per_second"
    rates = [(step, values[frames]) for step, values in logged if frames in values]
    assert rates == [(2, 30 / 12), (4, 30 / 12)]  # 6 micro-batches of 5 frames, in 12 s


def test_gradient_norm_is_the_one_before_clipping(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def record(*args: Any, **kwargs: Any) -> torch.Tensor:
        norm = clip(*args, **kwargs)
        norms.append(float(norm))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
    toy.fit("clipped", "training.gradient_clip_norm=0.01", "training.log_every_n_steps=2")
    assert len(norms) == 6 and min(norms) > 0.01
    logged = scalars(toy, "clipped", "train/gradient_norm")
    assert logged == pytest.approx(norms[1::2], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_log_the_gradient_norm_and_peak_memory_of_one(
    toy: ToyProject, tmp_path: Path, strategy: str
) -> None:
    words = ("training.max_steps=2", "data.global_batch_size=4")
    for num_ranks in (1, 2):
        argv = (
            f"norms-{strategy}-{num_ranks}",
            *words,
            f"training.devices={num_ranks}",
            f"training.strategy={strategy}",
        )
        outputs = [tmp_path / f"{num_ranks}-{rank}.txt" for rank in range(num_ranks)]
        ranks = fork_ranks(lambda rank: toy.fit(*argv), outputs)  # noqa: B023
        assert ranks.wait() == [0] * num_ranks, ranks.output()
    one, two = (f"norms-{strategy}-{num_ranks}" for num_ranks in (1, 2))
    expected = scalars(toy, one, "train/gradient_norm")
    assert scalars(toy, two, "train/gradient_norm") == pytest.approx(expected, rel=1e-4)
    memory = scalars(toy, two, "memory/peak_gb")
    assert 0.1 < memory[0] <= memory[-1] < 24
