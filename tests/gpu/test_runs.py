"""Toy runs on the device: sharded, resumed, asked and evaluated."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_hour.inference.predictor import VideoPredictor
from lit_hour.run_dir import RunDir
from lit_hour.weights.reader import OUTPUT_LAYER, open_weights
from tests.evaluation.helpers import SHORT_ANSWERS, custom_questions, run_evaluate
from tests.helpers.toy_run import (
    NUM_STEPS,
    StepRecorder,
    StoppedError,
    TrainedRun,
    load_weights,
    start_command,
)

pytestmark = pytest.mark.gpu

SHARDED = 1e-4  # largest difference of a weight after the run, in float32
TIMEOUT_SECONDS = 120


def stored_weights(run: RunDir) -> dict[str, Tensor]:
    """Return the weights of the last checkpoint, without the tied output layer."""
    weights = open_weights(run.checkpoint("last")).tensors()
    return {name: weight for name, weight in weights if name != OUTPUT_LAYER}


@pytest.mark.parametrize("num_devices", (1, 2))
def test_sharded_run_equals_an_unsharded_one(
    trained: TrainedRun, device: torch.device, on_device: tuple[str, ...], num_devices: int
) -> None:
    if num_devices > 1 and (device.type == "cpu" or torch.cuda.device_count() < num_devices):
        pytest.skip("needs two GPUs; tests/training/test_fsdp.py has two ranks on a CPU")
    toy = trained.project
    common = (*on_device, f"training.init_from={trained.run.path}", "training.max_steps=3")
    toy.fit("unsharded", *common)
    sharded = (*common, "training.strategy=fsdp", f"training.devices={num_devices}")
    name = f"sharded-{num_devices}"
    if num_devices == 1:
        toy.fit(name, *sharded)
    else:
        assert start_command(toy, name, *sharded).wait(TIMEOUT_SECONDS) == 0
    expected, found = stored_weights(toy.run_dir("unsharded")), stored_weights(toy.run_dir(name))
    assert found.keys() == expected.keys()
    start = dict(open_weights(trained.run.checkpoint("last")).tensors())
    moved = max(float((expected[key] - start[key]).abs().max()) for key in expected)
    assert moved > 10 * SHARDED
    for key, weight in expected.items():
        assert float((found[key] - weight).abs().max()) < SHARDED, key


def test_resumed_run_is_equal_bit_for_bit(
    trained: TrainedRun, on_device: tuple[str, ...], step_recorder: StepRecorder
) -> None:
    toy = trained.project
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        toy.fit("gpu-whole", *on_device)
        step_recorder.positions, step_recorder.stop_after_batches = [], 7
        with pytest.raises(StoppedError):
            toy.fit("gpu-stopped", *on_device)
        step_recorder.stop_after_batches = None
        assert toy.fit("gpu-stopped", *on_device).step == NUM_STEPS
    finally:
        torch.use_deterministic_algorithms(False)
    expected, found = (load_weights(toy.run_dir(f"gpu-{name}")) for name in ("whole", "stopped"))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_ask_gives_the_responses_of_evaluate(
    random_run: RunDir, trained: TrainedRun, device: torch.device, tmp_path: Path
) -> None:
    split = trained.project.yaml.parent / "world/validation"
    report = run_evaluate(random_run, tmp_path / "out", *custom_questions(split))
    predictor = VideoPredictor.from_run(
        random_run.path, device=device.type, overrides=[SHORT_ANSWERS]
    )
    for video in sorted({result.video for result in report.results}):
        memory = predictor.encode_video(split / "videos" / video)
        for result in [result for result in report.results if result.video == video]:
            lines = [result.question, *result.options.values()]
            lines += ["Answer with one of these options."] if result.options else []
            *_, answer = predictor.generate(memory, "\n".join(lines))
            assert result.response == answer.text.strip()
    assert len({result.response for result in report.results}) > 2
