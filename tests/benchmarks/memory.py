"""What the memory is for, measured: python tests/benchmarks/memory.py [FOLDER] [ARM ...]

Makes the videos, trains what all arms start from (conf/world/see.yaml), then each arm with three seeds, and asks each about
unseen videos of 3, 10 and 60 minutes. Stopped half way, it goes on where it was. The arms are conf/world/ARM.yaml.
"""

# ruff: noqa: E402  (the checkout comes first on the path)
from __future__ import annotations

import json
import logging
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY)]

import lit_hour.__main__
import train
from lit_hour.config.load import load_config
from lit_hour.training.fit import fit

CONF = REPOSITORY / "conf" / "world"
ARMS = ("memory", "compression", "sampling", "nothing")
SEEDS = (0, 1, 2)
SETS = {  # name: (hours, length, seed of the stories)
    "train": ("40", "3m-10m", 0),
    "3 minutes": ("2", "3m", 1),
    "10 minutes": ("3", "10m", 2),
    "60 minutes": ("20", "1h", 3),
}
LOOK = ("world.difficulty=needles", "world.size_pixels=64", "world.frames_per_second=1")
TASKS = {
    "scene/scene_recognition": "3 seconds",
    "temporality/temporal_order": "their order",
    "object/object_attribute": "all the time",
}


def main(folder: Path, *arms: str) -> None:
    """Make, train, ask, and print a table."""
    see = folder / "runs" / "world_see"
    if not (see / "checkpoints" / "last.ckpt").exists():
        train.main([str(CONF / "see.yaml"), *_places(folder)])
    for name, (hours, length, seed) in SETS.items():
        make_features(folder / name.replace(" ", "_"), hours, length, seed, see)
    todo = [(folder, arm, seed) for seed in SEEDS for arm in arms or ARMS]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as executor:
        scores = list(executor.map(run_arm, *zip(*todo, strict=True)))
    print_table({arm: [found for (_, each, _), found in zip(todo, scores, strict=True) if each == arm] for arm in arms or ARMS})


def make_features(folder: Path, hours: str, length: str, seed: int, see: Path) -> None:
    """Videos, shards and features of a set, as far as they are not there yet."""
    videos, shards, features = (str(folder / name) for name in ("videos", "shards", "features"))
    questions = str(folder / "questions.json")
    made = (f"world.seed={seed}", *LOOK)
    lit_hour.__main__.main(["synthesize", str(folder), "--hours", hours, "--length", length, *made])
    settings = str(REPOSITORY / "conf" / "tiny_model.yaml")
    lit_hour.__main__.main(["pack", videos, questions, shards, settings])
    lit_hour.__main__.main(["encode", shards, features, "--run", str(see)])


def run_arm(folder: Path, arm: str, seed: int) -> dict[str, dict[str, float]]:
    """Train an arm, or go on, and ask about each set; the scores of each by name."""
    os.chdir(folder)
    logging.getLogger("lit_hour").setLevel(logging.WARNING)
    results = folder / "runs" / f"{arm}-{seed}.json"
    if not results.exists():
        scores = {}
        for name in list(SETS)[1:]:
            unseen = f"data.validation_sources.unseen.shards={folder / name.replace(' ', '_') / 'features'}"
            config = load_config(
                CONF / f"{arm}.yaml",
                [
                    f"run.folder={folder / 'runs'}",
                    f"run.name={arm}-{seed}",
                    f"run.seed={seed}",
                    f"data.sources.needles.shards={folder / 'train' / 'features'}",
                    f"training.start_from={folder / 'runs' / 'world_see'}",
                    unseen,
                ],
            )
            scores[name] = fit(config).scores
        results.write_text(json.dumps(scores, indent=1))
    found: dict[str, dict[str, float]] = json.loads(results.read_text())
    return found


def print_table(scores: dict[str, list[dict[str, dict[str, float]]]]) -> None:
    """One line for each arm: mean and range over the seeds, for each task and length."""
    names = list(SETS)[1:]
    print("| multiple choice, right | " + " | ".join(f"{words}: {name}" for words in TASKS.values() for name in names) + " |")
    print("|---" * (1 + len(TASKS) * len(names)) + "|")
    for arm, found in scores.items():
        cells = []
        for task in TASKS:
            for name in names:
                values = [seed[name][f"validation/accuracy/{task}"] for seed in found]
                cells.append(f"{mean(values):.0%} ({min(values):.0%}-{max(values):.0%})")
        print(f"| {arm} | " + " | ".join(cells) + " |")


def _places(folder: Path) -> list[str]:
    world = folder / "see"
    return [
        f"run.folder={folder / 'runs'}",
        f"world.folder={world}",
        f"data.sources.world.shards={world}/train/shards",
        f"data.validation_sources.world.shards={world}/validation/shards",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "shards/world_memory").resolve(), *sys.argv[2:])
