"""Feature extraction as tasks of a real SLURM, on two nodes."""

import sys
from pathlib import Path

import pytest

from lit_hour.training.extract_features import extract_features
from tests.helpers.toy_run import TrainedRun
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slow


def test_tasks_on_two_nodes_write_the_features_of_one_process(
    cluster: Cluster, trained: TrainedRun, tmp_path: Path
) -> None:
    frames = trained.project.yaml.parent / "world/train/shards"
    size = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    argv = (
        str(frames),
        str(tmp_path / "job"),
        "--run",
        str(trained.run.path),
        "training.devices=1",
        "training.num_nodes=2",
    )
    printed = cluster.call(
        "srun", *size, sys.executable, "-m", "lit_hour", "extract-features", *argv
    )
    assert (
        "4 videos to extract, 2 processes" in printed
        and printed.count("2 shards with 4 videos") == 1
    )
    extract_features(str(frames), tmp_path / "alone", run=trained.run.path)
    job, alone = (
        {
            file.name: file.read_bytes()
            for file in (tmp_path / name).iterdir()
            if file.name != ".lock"
        }
        for name in ("job", "alone")
    )
    assert job == alone
