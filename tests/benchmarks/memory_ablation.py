"""Memory ablation: python -m tests.benchmarks.memory_ablation [FOLDER] [ARM ...]

Create the videos, pretrain (pretrain.yaml in conf/experiment/memory_ablation), train each arm (ARM.yaml) with three
seeds, and evaluate each on unseen videos of 3, 10 and 60 minutes. Then measure the attention of the first run of the
arm `full`, and evaluate it on needles in videos of 5 minutes to 2 hours: FOLDER/haystack.png. Resumes after a stop.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import lit_hour.cli
import train
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.questions.file import read_questions
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.attention_maps import capture_attention, sum_per_frame
from lit_hour.run_dir import RunDir
from lit_hour.training.fit import fit
from tests import CONF

ARM_CONFIGS = CONF / "experiment" / "memory_ablation"
ARMS = ("full", "compression", "sampling", "blind")
SEEDS = (0, 1, 2)
NEEDLES = ("synthetic.difficulty=needles", "synthetic.image_size=64", "synthetic.fps=1")
TRAIN = (
    ("short", "10", "45s-90s", 5),
    ("long", "40", "3m-10m", 0),
)  # name, hours, length, seed of the stories
UNSEEN = (("3_minutes", "2", "3m", 1), ("10_minutes", "3", "10m", 2), ("60_minutes", "20", "1h", 3))
HAYSTACK = tuple(
    (f"haystack_{minutes}", str(minutes / 6), f"{minutes}m", 10 + minutes)
    for minutes in (5, 10, 20, 40, 60, 120)
)
TASKS = {
    "scene/scene_recognition": "what is seen for 3 seconds",
    "temporality/temporal_order": "which of these comes first, or last",
    "object/object_attribute": "what is seen all the time",
}


def main(folder: Path, *arms: str) -> None:
    """Make, train, ask, and print a table."""
    pretrained = folder / "runs" / "memory_pretrain"
    if not (pretrained / "checkpoints" / "last.ckpt").exists():
        train.main([str(ARM_CONFIGS / "pretrain.yaml"), *_pretrain_folders(folder)])
    for videos in (*TRAIN, *UNSEEN):
        make_features(folder, *videos)
    todo = [(folder, arm, seed) for seed in SEEDS for arm in arms or ARMS]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as executor:
        scores = list(executor.map(run_arm, *zip(*todo, strict=True)))
    print_table(
        {
            arm: [found for (_, each, _), found in zip(todo, scores, strict=True) if each == arm]
            for arm in arms or ARMS
        }
    )
    if "full" in (arms or ARMS):
        measure_attention(folder)
        plot_haystack(folder)


def make_features(folder: Path, name: str, hours: str, length: str, seed: int, *more: str) -> None:
    """Videos, shards and features of a set, as far as they are not there yet."""
    made = folder / name
    lit_hour.cli.main(
        [
            "synthesize",
            str(made),
            "--hours",
            hours,
            "--length",
            length,
            "--seed",
            str(seed),
            *NEEDLES,
            *more,
        ]
    )
    settings = str(CONF / "tiny_model.yaml")
    lit_hour.cli.main(
        ["pack", str(made / "videos"), str(made / "questions.json"), str(made / "shards"), settings]
    )
    lit_hour.cli.main(
        [
            "extract-features",
            str(made / "shards"),
            str(made / "features"),
            "--run",
            str(folder / "runs/memory_pretrain"),
        ]
    )


def config_of(folder: Path, arm: str, seed: int, *more: str) -> Config:
    """The settings of a run of an arm."""
    words = [
        f"run.folder={folder / 'runs'}",
        f"run.name={arm}-{seed}",
        f"run.seed={seed}",
        *(f"data.sources.{name}.shards={folder / name / 'features'}" for name, *_ in TRAIN),
        f"training.init_from={folder / 'runs' / 'memory_pretrain'}",
    ]
    return load_config(ARM_CONFIGS / f"{arm}.yaml", [*words, *more])


def run_arm(folder: Path, arm: str, seed: int) -> dict[str, dict[str, float]]:
    """Train an arm, or go on, and ask about each set; the scores of each by name."""
    logging.getLogger("lit_hour").setLevel(logging.WARNING)
    results = folder / "runs" / f"{arm}-{seed}.json"
    if not results.exists():
        scores = {}
        for name, *_ in UNSEEN:  # it is trained before the first one
            unseen = f"data.val_sources.unseen.shards={folder / name / 'features'}"
            scores[name] = fit(config_of(folder, arm, seed, unseen)).scores
        results.write_text(json.dumps(scores, indent=1))
    found: dict[str, dict[str, float]] = json.loads(results.read_text())
    return found


def print_table(scores: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """For each kind of question a line for each arm: mean and range over the seeds at each length."""
    names = [name for name, *_ in UNSEEN]
    for task, words in TASKS.items():
        print(f"| {words} | " + " | ".join(name.replace("_", " ") for name in names) + " |")
        print("|---" * (1 + len(names)) + "|")
        for arm, seeds in scores.items():
            values = ([seed[name][f"val/acc/{task}"] for seed in seeds] for name in names)
            print(
                f"| {arm} | "
                + " | ".join(
                    f"{mean(each):.0%} ({min(each):.0%}-{max(each):.0%})" for each in values
                )
                + " |"
            )


def measure_attention(folder: Path) -> None:
    """The share of MemAug's attention that is at the evidence of a question, over the videos of ten minutes."""
    session = VideoPredictor.from_run(folder / "runs" / f"full-{SEEDS[0]}", device="cpu")
    at_evidence, of_video = [], []
    for subject in read_questions(folder / "10_minutes" / "questions.json"):
        memory = session.encode_video(folder / "10_minutes" / "videos" / subject.files[0])
        seconds = memory.repository.timestamps  # (frames,)
        for question in subject.questions:
            if question.task != "scene/scene_recognition" or question.options:
                continue
            with capture_attention(session.model.memaug) as looks:
                list(session.generate(memory, question.question))
            ((start, end),) = question.evidence
            is_inside = (seconds >= start) & (seconds < end)  # (frames,)
            at_evidence.append(float(sum_per_frame(looks[0], memory.repository)[is_inside].sum()))
            of_video.append(float(is_inside.float().mean()))
    print(
        f"{mean(at_evidence):.1%} of the attention is at the evidence, which is {mean(of_video):.1%} of the video"
    )


def plot_haystack(folder: Path) -> None:
    """Ask about needles at any depth of videos of any length, and draw how many are found."""
    sources = []
    for videos in HAYSTACK:
        make_features(folder, *videos, "--tasks", "scene_recognition")
        sources.append(f"data.val_sources.{videos[0]}.shards={folder / videos[0] / 'features'}")
    unseen = f"data.val_sources.unseen.shards={folder / UNSEEN[0][0] / 'features'}"
    config = config_of(folder, "full", SEEDS[0], unseen, *sources, "training.num_val_images=1")
    fit(config)
    shutil.copy(RunDir.from_config(config.run).haystack_plot, folder / "haystack.png")


def _pretrain_folders(folder: Path) -> list[str]:
    world = folder / "pretrain"
    return [
        f"run.folder={folder / 'runs'}",
        f"synthetic.folder={world}",
        f"data.sources.world.shards={world}/train/shards",
        f"data.val_sources.world.shards={world}/validation/shards",
    ]


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "shards/memory_ablation").resolve(),
        *sys.argv[2:],
    )
