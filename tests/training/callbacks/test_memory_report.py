"""Out of memory ends a run on all ranks, with one line that names sample, tokens and settings."""

import os
import re
import resource
from collections.abc import Callable

import pytest
import torch

from lit_hour.errors import OutOfMemoryError
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.types import Batch
from tests.helpers.toy_run import ToyProject
from tests.training.fork_run import AtBatch, fork_run
from tests.weights.memory_probe import process_memory

MEGABYTE = 1_000_000
FEW_STEPS = "training.max_steps=3"


def fail_in_forward(monkeypatch: pytest.MonkeyPatch, fail: Callable[[Batch], None]) -> None:
    forward = HourLLaVA.forward

    def failing(model, batch, *args):
        fail(batch)
        return forward(model, batch, *args)

    monkeypatch.setattr(HourLLaVA, "forward", failing)


def test_out_of_memory_names_the_largest_sample_its_tokens_and_the_settings(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, int] = {}

    def refuse_the_second_batch(batch: Batch) -> None:
        for key, visual, text in zip(batch.keys, batch.visuals, batch.attention_mask, strict=True):
            assert visual is not None
            sizes[key] = 5 * len(visual) + int(text.sum())  # 4 tokens of a frame and a newline
        if len(sizes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    fail_in_forward(monkeypatch, refuse_the_second_batch)
    words = ("data.micro_batch_size=2", "data.global_batch_size=4", FEW_STEPS)
    with pytest.raises(OutOfMemoryError) as caught:
        toy.fit("memory", *words)
    message = str(caught.value)
    assert message.startswith("Out of memory in step 1 on rank 0. The largest sample of the step")
    found = re.search(r"here: (\S+), with (\d+) visual tokens \(6 frames\) and (\d+) text", message)
    assert found, message
    assert int(found[2]) == 30
    assert sizes[found[1]] == int(found[2]) + int(found[3]) == max(sizes.values())
    for setting in (
        "training.activation_checkpointing=true",
        "data.micro_batch_size below 2",
        "video.max_frames below 6",
        "text.max_tokens below",
        "training.strategy=fsdp",
        "Tried to allocate 20.00 GiB.",
    ):
        assert setting in message, setting
    assert "\n" not in message


def test_out_of_memory_with_a_budget_names_the_budget(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(batch: Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fail_in_forward(monkeypatch, refuse)
    words = ("data.tokens_per_batch=700", "data.batches_per_step=2", FEW_STEPS)
    with pytest.raises(OutOfMemoryError) as caught:
        toy.fit("memory-of-a-budget", *words)
    assert "data.tokens_per_batch below 700" in str(caught.value)
    assert "data.micro_batch_size" not in str(caught.value)


def test_out_of_memory_of_one_rank_ends_all_ranks(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, error in enumerate(
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError())
    ):

        def refuse_on_rank_one(batch: Batch, error: Exception = error) -> None:
            if os.environ["LOCAL_RANK"] == "1":
                raise error

        fail_in_forward(monkeypatch, refuse_on_rank_one)
        run = fork_run(toy, f"memory-{number}", FEW_STEPS, num_ranks=2)
        assert run.wait() == [1, 1], error
        lines = [line for line in run.output(1).splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Out of memory in step 1 on rank 1. The largest" in lines[0]
        assert "Another rank of this run has exited" in run.output(0)
        assert "Traceback" not in run.output(0) + run.output(1)
        monkeypatch.undo()


def limit_memory() -> None:
    """Permit this process 300 MB more address space than it has."""
    limit = process_memory(os.getpid())["VmSize"] + 300 * MEGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def test_run_below_a_limit_of_memory_ends_with_one_line(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate_large_activations(batch: Batch) -> None:
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            torch.ones(250 * MEGABYTE)  # 1 GB

    fail_in_forward(monkeypatch, allocate_large_activations)
    run = fork_run(toy, "memory-limit", callback=AtBatch(limit_memory, batch=2))
    assert run.wait() == [1]
    lines = [line for line in run.output().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Out of memory in step" in lines[0], run.output()
    assert "can't allocate memory" in lines[0] and "Traceback" not in run.output()


def test_data_worker_out_of_memory_is_explained(
    toy: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lit_hour.data.datasets.load_timed_visual", refuse)
    run = fork_run(toy, "memory-worker", "data.num_workers=1", FEW_STEPS)
    assert run.wait() == [1]
    assert "error: Out of memory in a data worker. Lower data.num_workers=1" in run.output()
