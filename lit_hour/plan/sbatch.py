"""The SLURM batch script of a run: conf/slurm/train.sbatch with size, names and settings filled in.

Entry point: `fill_template`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_hour.config.schema import Config
from lit_hour.config.training import replica_mesh_shape
from lit_hour.errors import ConfigError
from lit_hour.plan.step_size import micro_batches

TEMPLATE = Path("conf/slurm/train.sbatch")
ARGUMENTS = '"$@"'  # of train.py, in the template
USAGE = re.compile(r"^# Train as a SLURM job.*\n(?:#.*\n)*", re.M)
HEAD = "# Train as a SLURM job that requeues itself at its time limit and resumes: sbatch FILE\n"
TIME = re.compile(r"\d+(?::\d\d){0,2}|\d+-\d+(?::\d\d){0,2}")  # minutes, hours:minutes:seconds, ...


def fill_template(
    config: Config,
    arguments: Sequence[str],
    *,
    num_nodes: int,
    gpus_per_node: int,
    options: Mapping[str, str | None],
    template: Path = TEMPLATE,
) -> str:
    """Return the batch script.

    Args:
        config: settings of the run, for its name and batch size.
        arguments: of train.py.
        num_nodes: machines.
        gpus_per_node: GPUs of each machine.
        options: values of further sbatch options by name; with None its line is left out, or stays
            as it is if the template has a value.
        template: file to fill in, of a checkout.

    Raises:
        ConfigError: the template is missing, or a number or option is not possible.
    """
    for name, number in (("--nodes", num_nodes), ("--gpus", gpus_per_node)):
        if number < 1:
            raise ConfigError(f"{name} {number} must be at least 1")
    num_ranks = num_nodes * gpus_per_node
    micro_batches(config, num_ranks)  # raises if the ranks cannot share a step
    replica_mesh_shape(num_ranks, config.training.replicas)  # raises if replicas cannot share them
    if not template.is_file():
        raise ConfigError(
            f"{template} is missing. Run this in a checkout of lit_hour, as train.py."
        )
    values: dict[str, str | None] = {
        "job-name": config.run.name,
        "nodes": str(num_nodes),
        "ntasks-per-node": str(gpus_per_node),
        "gpus-per-node": str(gpus_per_node),
        **options,
    }
    for name, value in values.items():
        if value is not None and not re.fullmatch(r"[\w.,:@+-]+", value):
            raise ConfigError(f"--{name} {value!r} must be one word of letters, digits and .,:@+-")
    if (time := values.get("time")) is not None and not TIME.fullmatch(time):
        raise ConfigError(f"--time {time} must be like 24:00:00 or 2-00:00:00")
    text, found = USAGE.subn(HEAD, template.read_text(encoding="utf-8"), count=1)
    if not found or text.count(ARGUMENTS) != 1:
        raise ConfigError(f"{template} has no {ARGUMENTS} or another head. Restore it from git.")
    text = text.replace(ARGUMENTS, shlex.join(arguments))
    text = text.replace(HEAD, f"{HEAD}\n#SBATCH --job-name=NAME", 1)
    for name, value in values.items():
        text = _set_option(text, name, value)
    return text


def _set_option(text: str, name: str, value: str | None) -> str:
    """Set an option of sbatch; without a value, remove a line with a placeholder."""
    line = re.compile(rf"^#SBATCH --{re.escape(name)}=(.*)\n", re.M)
    match = line.search(text)
    if match is None:
        raise ConfigError(f"{TEMPLATE} has no line for --{name}. Restore it from git.")
    if value is None:
        return text if not match.group(1).isupper() else line.sub("", text, count=1)
    return line.sub(f"#SBATCH --{name}={value}\n", text, count=1)
