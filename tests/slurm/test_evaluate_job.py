"""Evaluation as tasks of a real SLURM, on two nodes."""

import sys
from pathlib import Path

import pytest

from lit_hour.evaluation.evaluate import evaluate
from lit_hour.evaluation.report.report import read_report
from tests.evaluation.helpers import custom_questions
from tests.helpers.toy_run import TrainedRun
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slow


def test_tasks_on_two_nodes_give_the_report_of_one_process(
    cluster: Cluster, trained: TrainedRun, tmp_path: Path
) -> None:
    split = trained.project.yaml.parent / "world/validation"
    overrides = custom_questions(split)
    size = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    argv = (
        *overrides,
        "training.devices=1",
        "training.num_nodes=2",
        "--run",
        str(trained.run.path),
        "--out",
        str(tmp_path / "job"),
    )
    printed = cluster.call("srun", *size, sys.executable, "-m", "lit_hour", "evaluate", *argv)
    assert "questions about 2 videos to evaluate" in printed and printed.count("report: ") == 1
    assert len(list((tmp_path / "job/answers").glob("*.jsonl"))) == 2
    evaluate([], overrides, trained.run.path, out=tmp_path / "alone")
    assert read_report(tmp_path / "job/report.json") == read_report(tmp_path / "alone/report.json")
