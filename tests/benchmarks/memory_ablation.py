"""Memory ablation: `python -m tests.benchmarks.memory_ablation [FOLDER] [ARM ...]`.

Creates the videos, pretrains (pretrain.yaml in conf/experiment/memory_ablation), trains each arm
(ARM.yaml) with three seeds, and evaluates each on unseen videos of 3, 10 and 60 minutes. Then
measures the attention of the first run of the arm `full`, and evaluates it on needles in videos of
5 minutes to 2 hours: FOLDER/haystack.png. An interrupted run resumes.
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
from typing import NamedTuple

import lit_hour.cli.main
import train
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.questions.file import read_questions
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.attention_maps import capture_attention, sum_per_frame
from lit_hour.run_dir import RunDir
from lit_hour.training.fit import fit
from tests import CONF


class VideoSet(NamedTuple):
    """A set of synthetic videos; `hours` in all, `seed` of the stories."""

    name: str
    hours: float
    length: str
    seed: int


ARM_CONFIGS = CONF / "experiment" / "memory_ablation"
ARMS = ("full", "compression", "sampling", "blind")
SEEDS = (0, 1, 2)
NEEDLES = ("synthetic.difficulty=needles", "synthetic.image_size=64", "synthetic.fps=1")
TRAIN = (VideoSet("short", 10, "45s-90s", 5), VideoSet("long", 40, "3m-10m", 0))
UNSEEN = (
    VideoSet("3_minutes", 2, "3m", 1),
    VideoSet("10_minutes", 3, "10m", 2),
    VideoSet("60_minutes", 20, "1h", 3),
)
HAYSTACK = tuple(
    VideoSet(f"haystack_{minutes}", minutes / 6, f"{minutes}m", 10 + minutes)
    for minutes in (5, 10, 20, 40, 60, 120)
)
TASKS = {
    "scene/scene_recognition": "what is seen for 3 seconds",
    "temporality/temporal_order": "which of these comes first, or last",
    "object/object_attribute": "what is seen all the time",
}

Scores = dict[str, dict[str, float]]  # by set, then by metric


def main(folder: Path, *arms: str) -> None:
    """Create the videos, train and evaluate the arms, and print a table."""
    pretrained = folder / "runs" / "memory_pretrain"
    if not (pretrained / "checkpoints" / "last.ckpt").exists():
        config_file = str(ARM_CONFIGS / "pretrain.yaml")
        train.main(["-c", config_file, *pretrain_overrides(folder)])
    for video_set in (*TRAIN, *UNSEEN):
        make_features(folder, video_set)
    jobs = [(folder, arm, seed) for seed in SEEDS for arm in arms or ARMS]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as executor:
        scores = list(executor.map(run_arm, *zip(*jobs, strict=True)))
    scores_of_arm: dict[str, list[Scores]] = {arm: [] for arm in arms or ARMS}
    for (_, arm, _), found in zip(jobs, scores, strict=True):
        scores_of_arm[arm].append(found)
    print_table(scores_of_arm)
    if "full" in scores_of_arm:
        measure_attention(folder)
        plot_haystack(folder)


def make_features(folder: Path, video_set: VideoSet, *options: str) -> None:
    """Create the videos, shards and features of a set as far as they are missing."""
    out, run = folder / video_set.name, folder / "runs" / "memory_pretrain"
    videos, questions, shards = out / "videos", out / "questions.json", out / "shards"
    size = ["--hours", video_set.hours, "--length", video_set.length, "--seed", video_set.seed]
    run_command("synthesize", *size, *options, out, *NEEDLES)
    run_command("pack", "-c", CONF / "tiny_model.yaml", videos, questions, shards)
    run_command("extract-features", "--run", run, shards, out / "features")


def run_command(*arguments: object) -> None:
    """Run a command of `lit-hour` in this process."""
    lit_hour.cli.main.main([str(argument) for argument in arguments])


def load_arm(folder: Path, arm: str, seed: int, *overrides: str) -> Config:
    """Return the settings of a run of an arm."""
    own = [
        f"run.folder={folder / 'runs'}",
        f"run.name={arm}-{seed}",
        f"run.seed={seed}",
        *(
            f"data.sources.{video_set.name}.shards={folder / video_set.name / 'features'}"
            for video_set in TRAIN
        ),
        f"training.init_from={folder / 'runs' / 'memory_pretrain'}",
    ]
    return load_config(ARM_CONFIGS / f"{arm}.yaml", [*own, *overrides])


def run_arm(folder: Path, arm: str, seed: int) -> Scores:
    """Train an arm, or resume it, and return its scores on every unseen set."""
    logging.getLogger("lit_hour").setLevel(logging.WARNING)
    results = folder / "runs" / f"{arm}-{seed}.json"
    if not results.exists():
        scores = {}
        for video_set in UNSEEN:  # the first call of fit trains; the others only evaluate
            features = folder / video_set.name / "features"
            unseen = f"data.val_sources.unseen.shards={features}"
            scores[video_set.name] = fit(load_arm(folder, arm, seed, unseen)).scores
        results.write_text(json.dumps(scores, indent=1))
    found: Scores = json.loads(results.read_text())
    return found


def print_table(scores_of_arm: dict[str, list[Scores]]) -> None:
    """Print a table per task, with mean and range over the seeds for each arm and duration."""
    names = [video_set.name for video_set in UNSEEN]
    for task, title in TASKS.items():
        print(f"| {title} | " + " | ".join(name.replace("_", " ") for name in names) + " |")
        print("|---" * (1 + len(names)) + "|")
        for arm, runs in scores_of_arm.items():
            cells = []
            for name in names:
                values = [scores[name][f"val/acc/{task}"] for scores in runs]
                cells.append(f"{mean(values):.0%} ({min(values):.0%}-{max(values):.0%})")
            print(f"| {arm} | {' | '.join(cells)} |")


def measure_attention(folder: Path) -> None:
    """Print the share of MemAug's attention on the evidence, over the videos of ten minutes."""
    predictor = VideoPredictor.from_run(folder / "runs" / f"full-{SEEDS[0]}", device="cpu")
    on_evidence, of_video = [], []
    for subject in read_questions(folder / "10_minutes" / "questions.json"):
        memory = predictor.encode_video(folder / "10_minutes" / "videos" / subject.files[0])
        seconds = memory.repository.timestamps  # (frames,)
        for question in subject.questions:
            if question.task != "scene/scene_recognition" or question.options:
                continue
            with capture_attention(predictor.model.memaug) as weights:
                list(predictor.generate(memory, question.question))
            ((start, end),) = question.evidence
            is_evidence = (seconds >= start) & (seconds < end)  # (frames,)
            per_frame = sum_per_frame(weights[0], memory.repository)  # (frames,)
            on_evidence.append(float(per_frame[is_evidence].sum()))
            of_video.append(float(is_evidence.float().mean()))
    print(
        f"{mean(on_evidence):.1%} of the attention is on the evidence, which is"
        f" {mean(of_video):.1%} of the video"
    )


def plot_haystack(folder: Path) -> None:
    """Evaluate needles at any depth of videos of any length, and plot the accuracy."""
    overrides = [f"data.val_sources.unseen.shards={folder / UNSEEN[0].name / 'features'}"]
    for video_set in HAYSTACK:
        make_features(folder, video_set, "--tasks", "scene_recognition")
        features = folder / video_set.name / "features"
        overrides.append(f"data.val_sources.{video_set.name}.shards={features}")
    config = load_arm(folder, "full", SEEDS[0], *overrides, "training.num_val_images=1")
    fit(config)
    shutil.copy(RunDir.from_config(config.run).haystack_plot, folder / "haystack.png")


def pretrain_overrides(folder: Path) -> list[str]:
    """Return the folders of the pretraining run."""
    data = folder / "pretrain"
    return [
        f"run.folder={folder / 'runs'}",
        f"synthetic.folder={data}",
        f"data.sources.world.shards={data}/train/shards",
        f"data.val_sources.world.shards={data}/validation/shards",
    ]


if __name__ == "__main__":
    chosen_folder = sys.argv[1] if len(sys.argv) > 1 else "shards/memory_ablation"
    main(Path(chosen_folder).resolve(), *sys.argv[2:])
