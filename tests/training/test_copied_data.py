"""A run continues exactly after its synthetic videos and shards were copied."""

import json
import shutil
from pathlib import Path

import pytest

from lit_hour.errors import ShardError
from tests.helpers.toy_run import (
    NUM_STEPS,
    SAMPLES_PER_STEP,
    StepRecorder,
    StoppedError,
    TrainedRun,
    load_weights,
    max_abs_difference,
)


@pytest.mark.slow
def test_a_run_resumes_exactly_with_a_copy_of_its_videos_and_shards(
    trained: TrainedRun, step_recorder: StepRecorder, tmp_path: Path
) -> None:
    toy, name = trained.project, "moved-data"
    step_recorder.stop_after_batches = 9
    with pytest.raises(StoppedError):
        toy.train(name)
    world = Path(toy.config("none").synthetic.folder)
    copy = Path(shutil.copytree(world, tmp_path / "world", copy_function=shutil.copyfile))
    words = (
        f"synthetic.folder={copy}",
        f"data.sources.world.shards={copy}/train/shards",
        f"data.val_sources.world.shards={copy}/validation/shards",
    )
    step_recorder.positions, step_recorder.stop_after_batches = [], None
    toy.train(name, *words)
    assert step_recorder.positions == list(range(8, NUM_STEPS * SAMPLES_PER_STEP))
    run = toy.run_dir(name)
    assert max_abs_difference(load_weights(run), load_weights(trained.run)) == 0

    questions = copy / "train/questions.json"
    records = json.loads(questions.read_text())
    records[0]["question"] += "?"
    questions.write_text(json.dumps(records))
    with pytest.raises(ShardError, match="made from other files, questions or settings"):
        toy.train(name, *words)
