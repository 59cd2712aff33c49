"""The benchmark of one step of the 3B shapes does its steps, and says why it does not."""

import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import step_3b


@pytest.mark.parametrize("words", [(), ("training.precision=bf16-true", "training.activation_checkpointing=true")])
def test_the_smallest_model_goes_the_same_way(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    step_3b.main(["--tiny", *words])
    printed = capsys.readouterr().out
    assert "8 frames, 544 tokens in memory" in printed  # repeated to 32 frames of 16 + 1 tokens
    losses = [float(loss) for loss in re.findall(r"step \d: loss (\S+), \S+ s, peak memory \S+ GB", printed)]
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would be measured here")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    step_3b.main([])
    assert capsys.readouterr().out.startswith("skipped: a step of the 3B shapes needs a GPU")
