"""Commands that prepare a run on other machines: its plan, and its SLURM job."""

from __future__ import annotations

import argparse
import sys

from lit_hour.cli.command import Command
from lit_hour.config.arguments import CommandParser
from lit_hour.config.schema import Config

DEFAULT_GPUS = 8  # of a machine, where the settings leave it open
SBATCH_OPTIONS = {  # further options of sbatch that `slurm` sets: metavar and help
    "account": ("NAME", "account that is charged; default: that of the cluster"),
    "partition": ("NAME", "partition; default: that of the cluster"),
    "time": ("LIMIT", "time limit of each start, such as 24:00:00; default: 24:00:00"),
    "cpus-per-task": ("N", "cores of each GPU; default: 8"),
}
SAMPLE_KINDS = ("video", "features", "image")


def plan_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of plan."""
    parser = CommandParser(
        prog,
        description,
        settings_help="any setting of training, such as training.activation_checkpointing=true",
        takes_config=True,
    )
    add = parser.add_option
    _add_size_options(parser)
    add("--gpu", default="H100", help="kind of GPU, such as A100-80; default: H100")
    add("--gpu-memory", type=float, metavar="GIB", help="memory of a GPU; default: that of --gpu")
    add(
        "--mfu",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="share of the GPU's peak rate that is reached; default: 0.4",
    )
    add("--link", type=float, metavar="GB/S", help="of a GPU to others in its machine")
    add("--network", type=float, metavar="GB/S", help="of a GPU to other machines; default: 50")
    add(
        "--sample",
        choices=SAMPLE_KINDS,
        default="video",
        help="what the longest sample is: a video, stored features of one, or an image in the"
        " largest grid of tiles; default: video",
    )
    add("--frames", type=int, help="of the longest video; default: video.max_frames, at most 3600")
    add(
        "--text-tokens",
        type=int,
        default=1024,
        help="of a conversation, half of them learned; default: 1024",
    )
    add("--json", action="store_true", help="print all figures as JSON")
    return parser


def _add_size_options(parser: CommandParser) -> None:
    """Declare the options for the number of machines and GPUs."""
    parser.add_option(
        "--gpus",
        type=int,
        help="GPUs of each machine; default: training.devices, or 8 if that is auto",
    )
    parser.add_option("--nodes", type=int, help="machines; default: training.num_nodes")


def _cluster_size(arguments: argparse.Namespace, config: Config) -> tuple[int, int]:
    """Return the GPUs of each machine and the machines, by the options or else the settings."""
    training = config.training
    devices = int(training.devices) if training.devices.isdigit() else DEFAULT_GPUS
    return (
        devices if arguments.gpus is None else arguments.gpus,
        training.num_nodes if arguments.nodes is None else arguments.nodes,
    )


def run_plan(arguments: argparse.Namespace) -> None:
    """Print the memory, operations and time of a training step."""
    import json

    from lit_hour.config.load import load_config
    from lit_hour.plan.gpus import build_cluster

    config = load_config(arguments.config, arguments.overrides)
    gpus_per_node, num_nodes = _cluster_size(arguments, config)
    cluster = build_cluster(
        arguments.gpu,
        gpus_per_node,
        num_nodes,
        memory_gib=arguments.gpu_memory,
        mfu=arguments.mfu,
        link_gb_per_second=arguments.link,
        network_gb_per_second=arguments.network,
    )

    from lit_hour.plan.longest_sample import LongestSample
    from lit_hour.plan.planning import plan_run
    from lit_hour.plan.report import format_plan

    sample = LongestSample.from_config(
        config, arguments.sample, arguments.frames, arguments.text_tokens
    )
    plan = plan_run(config, cluster, sample, lambda line: print(line, file=sys.stderr))
    print(json.dumps(plan.to_dict(), indent=2) if arguments.json else format_plan(plan))


def slurm_parser(prog: str, description: str) -> CommandParser:
    """Declare the arguments of slurm."""
    parser = CommandParser(
        prog,
        description,
        settings_help="settings of the run, which the script passes to train.py",
        takes_config=True,
    )
    _add_size_options(parser)
    for name, (metavar, help_text) in SBATCH_OPTIONS.items():
        parser.add_option(f"--{name}", metavar=metavar, help=help_text)
    return parser


def run_slurm(arguments: argparse.Namespace) -> None:
    """Print the batch script of a run."""
    from lit_hour.config.load import load_config
    from lit_hour.plan.sbatch import fill_template

    config = load_config(arguments.config, arguments.overrides)
    gpus_per_node, num_nodes = _cluster_size(arguments, config)
    words = [word for file in arguments.config for word in ("-c", str(file))]
    script = fill_template(
        config,
        [*words, *arguments.overrides],
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        options={name: getattr(arguments, name.replace("-", "_")) for name in SBATCH_OPTIONS},
    )
    print(script, end="")


COMMANDS = {
    "plan": Command(
        "say how much memory and time a training step takes, without its GPUs and weights",
        plan_parser,
        run_plan,
    ),
    "slurm": Command(
        "print the SLURM batch script of a run",
        slurm_parser,
        run_slurm,
    ),
}
