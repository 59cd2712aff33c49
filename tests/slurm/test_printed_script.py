"""The batch script that `lit-hour slurm` prints trains a run under a real SLURM."""

from pathlib import Path

import pytest
import torch

from lit_hour.cli.main import main
from tests import REPOSITORY
from tests.helpers.toy_run import ToyProject
from tests.slurm.cluster import Cluster, Job

pytestmark = pytest.mark.slow

NUM_STEPS = 4
SIZE = ["--gpus=2", "--nodes=1", "--partition=main", "--cpus-per-task=1", "--time=00:10:00"]


def test_printed_script_trains_on_two_ranks(
    cluster: Cluster,
    toy: ToyProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = toy.argv("job-printed", f"training.max_steps={NUM_STEPS}")
    main(["slurm", *words, *SIZE])
    script, output = tmp_path / "printed.sbatch", tmp_path / "printed.out"
    script.write_text(capsys.readouterr().out)
    options = ["--gpus-per-node=0", f"--output={output}"]  # the nodes have no GPU
    number = cluster.call("sbatch", "--parsable", *options, str(script))
    job = Job(cluster, number, output).wait_for_end()
    assert job.fields["JobState"] == "COMPLETED", output.read_text()
    assert job.fields["JobName"] == "job-printed" and job.fields["NumTasks"] == "2"
    last = toy.run_dir("job-printed").checkpoint("last")
    assert torch.load(last, weights_only=True)["global_step"] == NUM_STEPS
