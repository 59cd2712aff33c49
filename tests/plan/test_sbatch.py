"""The batch script of a run: what is filled in, that bash parses it, and invalid input."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lit_hour.cli.main import main
from lit_hour.errors import ConfigError
from tests import REPOSITORY

FILES = ["conf/model/hour_llava_3b.yaml", "conf/stage/s3.yaml"]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def print_script(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    main(["slurm", *FILES, *words])
    return capsys.readouterr().out


def options_of(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.M))


def test_size_names_and_settings_are_filled_in(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "8", "--gpus", "4", "--partition", "gpu", "--time", "2-00:00:00"]
    script = print_script([*words, "model.llm.path=a folder; $(rm x)"], capsys)
    options = options_of(script)
    assert options["nodes"] == "8" and options["job-name"] == "hour_llava_3b_s3"
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "4"
    assert options["partition"] == "gpu" and options["time"] == "2-00:00:00"
    assert options["signal"] == "SIGUSR1@120" and "#SBATCH --requeue" in script
    assert "account" not in options  # the cluster has a default
    assert "'model.llm.path=a folder; $(rm x)'" in script and '"$@"' not in script


def test_bash_passes_the_words_to_train_py(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = print_script(["--nodes", "2", "model.llm.path=it's a $HOME"], capsys)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_NTASKS_PER_NODE": "8",
        "SLURM_JOB_NUM_NODES": "2",
    }
    result = subprocess.run(
        ["bash", "-u"], input=script, text=True, check=True, env=environment, capture_output=True
    )
    assert result.stdout.splitlines()[2:] == [
        ".venv/bin/python",
        "train.py",
        *("-c", FILES[0], "-c", FILES[1], "model.llm.path=it's a $HOME"),
        "training.devices=8",
        "training.num_nodes=2",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "--nodes 0 must be at least 1"),
        (["--nodes", "3"], "must be a multiple of 24"),
        (["--account", "me\n#SBATCH --nodes=99"], "--account 'me"),
        (["--partition", "a b"], "--partition 'a b' must be one word"),
        (["--time", "3h"], "--time 3h must be like 24:00:00"),
        (["training.strategy=fsdp", "training.replicas=3"], "replicas=3 cannot share 8 ranks"),
        (["training.device=8"], "training.devices"),
    ],
)
def test_invalid_input_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        main(["slurm", *FILES, *words])


def test_outside_of_a_checkout_the_template_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(REPOSITORY / file) for file in FILES]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.sbatch is missing\. Run this in a checkout"):
        main(["slurm", *files])
