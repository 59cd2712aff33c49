import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics import MeanMetric

from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
from lit_hour.model.hour_llava import HourLLaVA, HourLLaVAOutput
from lit_hour.training.module import HourLLaVAModule
from lit_hour.types import Batch
from tests.helpers.fork import fork_ranks
from tests.helpers.toy_run import (
    NUM_STEPS,
    SAMPLES_PER_STEP,
    StepRecorder,
    ToyProject,
    load_weights,
    toy_settings,
)
from train import configure_logging

JPEG_START = b"\xff\xd8\xff"


@pytest.fixture
def damaged(toy: ToyProject, tmp_path: Path) -> Path:
    """Training shards; in the first one no frame decodes, while sizes and names are the same."""
    folder = shutil.copytree(toy.yaml.parent / "world/train/shards", tmp_path / "shards")
    tar = folder / "000000.tar"
    content = tar.read_bytes()
    assert content.count(JPEG_START) >= 4
    tar.write_bytes(content.replace(JPEG_START, b"???"))
    return folder


def scalars(toy: ToyProject, name: str, tag: str) -> list[float]:
    accumulator = EventAccumulator(str(toy.run_dir(name).tensorboard))
    accumulator.Reload()
    return [event.value for event in accumulator.Scalars(tag)]


def test_corrupt_sample_stops_a_run_without_budget(toy: ToyProject, damaged: Path) -> None:
    with pytest.raises(ShardError) as stop:
        toy.fit("strict", f"data.sources.world.shards={damaged}")
    message = str(stop.value)
    assert "1 videos or images could not be read, and data.max_bad_samples=0 allows 0." in message
    video = open_shards(damaged).entries[0].key[:-1]  # any of the first shard's
    assert (
        f"{damaged}/000000.tar: video '{video}" in message
        and f"': {video}" in message
        and ".jpg cannot be decoded" in message
    )
    assert str(toy.run_dir("strict").bad_samples) in message


@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrupt_samples_within_budget_are_skipped_and_listed(
    toy: ToyProject, damaged: Path, step_recorder: StepRecorder, num_workers: int
) -> None:
    name = f"lenient-{num_workers}"
    outcome = toy.fit(
        name,
        f"data.sources.world.shards={damaged}",
        "data.max_bad_samples=99",
        f"data.num_workers={num_workers}",
    )
    assert outcome.step == NUM_STEPS
    listed = [json.loads(line) for line in toy.run_dir(name).bad_samples.read_text().splitlines()]
    keys = {video.key for video in open_shards(damaged).entries if video.shard == "000000.tar"}
    # Each is listed once, although all were read several times.
    assert sorted(record["key"] for record in listed) == sorted(keys)
    assert all("000000.tar" in record["reason"] for record in listed)
    assert 0 < len(step_recorder.positions) < NUM_STEPS * SAMPLES_PER_STEP - len(keys)
    counted = scalars(toy, name, "data/bad_samples")
    assert counted == sorted(counted) and counted[-1] == len(listed)


def test_corrupt_samples_over_budget_stop_the_run(toy: ToyProject, damaged: Path) -> None:
    with pytest.raises(
        ShardError,
        match=r"^2 videos or images could not be read, and data\.max_bad_samples=1 allows 1\.",
    ):
        toy.fit("over", f"data.sources.world.shards={damaged}", "data.max_bad_samples=1")
    assert len(toy.run_dir("over").bad_samples.read_text().splitlines()) == 2


def test_steps_without_readable_samples_change_no_weight(toy: ToyProject, damaged: Path) -> None:
    for tar in damaged.glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(JPEG_START, b"???"))
    overrides = ("data.max_bad_samples=99", "training.save_every_n_steps=1", "training.max_steps=3")
    outcome = toy.fit("blank", f"data.sources.world.shards={damaged}", *overrides)
    assert outcome.step == 3
    assert scalars(toy, "blank", "train/loss") == [0, 0, 0]
    assert (
        scalars(toy, "blank", "data/bad_samples")[-1]
        == len(toy.run_dir("blank").bad_samples.read_text().splitlines())
        > 0
    )
    first, last = (
        load_weights(toy.run_dir("blank"), "step=000001"),
        load_weights(toy.run_dir("blank"), "last"),
    )
    assert all(
        weight.isfinite().all() and weight.equal(first[name]) for name, weight in last.items()
    )


def test_corrupt_validation_samples_count(toy: ToyProject, damaged: Path) -> None:
    with pytest.raises(ShardError, match=r"000000\.tar.*cannot be decoded"):
        toy.fit("unseen", f"data.val_sources.world.shards={damaged}")


def test_truncated_texts_are_counted_and_the_first_gets_a_warning(
    toy: ToyProject, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = toy_settings(toy.yaml.parent / "world")
    values["data"]["val_sources"] = {}  # it would refuse to cut
    alone = ToyProject.write(tmp_path, values)
    with caplog.at_level(logging.WARNING, logger="lit_hour"):
        alone.fit("long", "text.max_tokens=64")
    (warning,) = (record.getMessage() for record in caplog.records)
    assert (
        "A text of synthetic_0000" in warning
        and "has more than text.max_tokens=64 tokens" in warning
    )
    assert scalars(alone, "long", "data/truncated_texts") == [2, 4, 6, 8, 10, 12]
    alone.fit("short", "training.max_steps=2")
    assert scalars(alone, "short", "data/truncated_texts") == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("others", [0, 1])
def test_truncation_and_exceeded_budget_on_any_rank_are_warned_about_once(
    toy: ToyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    step = HourLLaVAModule.training_step

    def exceed(module: HourLLaVAModule, batch: Batch, batch_idx: int) -> dict[str, Any]:
        outputs = step(module, batch, batch_idx)
        if module.global_rank >= 1 - others and module.global_step > 0:
            outputs |= {"num_truncated": 1, "num_tokens": torch.tensor(99_999)}
        return outputs

    monkeypatch.setattr(HourLLaVAModule, "training_step", exceed)
    name = f"truncated-{others}"
    words = (
        "data.tokens_per_batch=4000",
        "data.batches_per_step=2",
        "training.max_steps=3",
        "training.devices=2",
        "training.strategy=ddp",
    )
    outputs = [tmp_path / f"{rank}.txt" for rank in range(2)]

    def work(rank: int) -> None:
        configure_logging()
        toy.fit(name, *words)

    ranks = fork_ranks(work, outputs)
    assert ranks.wait() == [0, 0], ranks.output(0) + ranks.output(1)
    printed = ranks.output(0)
    assert printed.count("and was truncated.") == 1 and printed.count("more than data.tok") == 1
    assert (printed.count("2 ranks have such a batch.") > 0) is (others == 1)
    assert "was truncated" not in ranks.output(1)
    assert scalars(toy, name, "data/truncated_texts") == [0, 1 + others, 2 * (1 + others)]


def test_logged_loss_and_bar_show_the_mean_over_the_tokens_of_a_step(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    micro_batches, forward = [], HourLLaVA.forward

    def record(model: HourLLaVA, *inputs: Any) -> HourLLaVAOutput:
        output = forward(model, *inputs)
        if torch.is_grad_enabled():  # not in validation
            micro_batches.append((output.loss.detach(), output.inputs.is_target.sum()))
        return output

    monkeypatch.setattr(HourLLaVA, "forward", record)
    printed = toy.train("means", "training.max_steps=3", "data.questions_per_sample=4")
    assert len({int(num_tokens) for _, num_tokens in micro_batches}) > 1
    means = []
    for first in range(0, 6, 2):
        mean = MeanMetric()
        for loss, num_tokens in micro_batches[first : first + 2]:
            mean.update(loss, num_tokens)
        means.append(float(mean.compute()))
    assert scalars(toy, "means", "train/loss") == pytest.approx(means, rel=1e-6)
    assert len(micro_batches) == 6 and f"loss={means[-1]:.3f}" in printed


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_padding_share_counts_the_tokens_of_all_ranks_since_the_last_record(
    toy: ToyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    forward, counted = HourLLaVA.forward, tmp_path / "counted.txt"

    def record(model: HourLLaVA, *inputs: Any) -> HourLLaVAOutput:
        output = forward(model, *inputs)
        if torch.is_grad_enabled():
            mask = output.inputs.attention_mask  # (texts, tokens)
            with counted.open("a") as lines:
                lines.write(f"{int((~mask).sum())} {mask.numel()}\n")
        return output

    monkeypatch.setattr(HourLLaVA, "forward", record)
    name = f"padded-{num_ranks}"
    words = (
        "data.global_batch_size=8",
        "data.micro_batch_size=2",
        "training.max_steps=4",
        "training.log_every_n_steps=2",
        f"training.devices={num_ranks}",
        "training.strategy=ddp",
    )
    outputs = [tmp_path / f"{rank}.txt" for rank in range(num_ranks)]
    ranks = fork_ranks(lambda rank: toy.fit(name, *words), outputs)
    assert ranks.wait() == [0] * num_ranks, ranks.output()
    counts = torch.tensor(
        [[int(word) for word in line.split()] for line in counted.read_text().splitlines()]
    )  # (micro-batches of all ranks, 2)
    assert len(counts) == 16
    padding, computed = counts.view(2, 8, 2).sum(dim=1).T  # (2,), (2,)
    expected = (padding / computed).tolist()
    assert min(expected) > 0
    assert scalars(toy, name, "data/padding_share") == pytest.approx(expected)


def test_packed_run_has_no_padding(toy: ToyProject) -> None:
    toy.fit("packed", "data.micro_batch_size=2", "training.packing=true", "training.max_steps=2")
    assert scalars(toy, "packed", "data/padding_share") == [0, 0]
