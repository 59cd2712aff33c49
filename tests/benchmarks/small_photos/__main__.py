"""Photographs in real footage: `python -m tests.benchmarks.small_photos FOLDER VIDEOS PHOTOS`.

Stores the tokens of frames, splices sets of videos from them, aligns a projector with words,
trains from it the memory of each arm and then its language model, and answers the questions of
unseen sets: spliced ones, and those of `lit-hour synthesize`. An interrupted run resumes. The
settings of the stages are in conf/experiment/small; README.md there has the results.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import lit_hour.cli.main
from lit_hour.config.load import load_config
from lit_hour.data.features.format import FeatureMetadata, feature_config
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.synthetic.footage.footage_library import prepare_footage
from lit_hour.synthetic.footage.photo_library import load_photos
from lit_hour.synthetic.video_plan import Split
from lit_hour.training.fit import fit
from lit_hour.weights.pretrained import config_for_new_run, load_vision_encoder
from tests import CONF
from tests.benchmarks.small_photos.alignment import write_aligned_run
from tests.benchmarks.small_photos.scoring import (
    accuracies,
    answer_by_similarity,
    answer_in_words,
    answer_set,
)
from tests.benchmarks.small_photos.spliced_videos import (
    Material,
    SplicedSet,
    write_spliced_set,
)
from tests.benchmarks.small_photos.stored_frames import encode_frames, load_frames

CONFIGS = CONF / "experiment" / "small"
ARMS = ("full", "compression", "sampling")
NAMED = ("object/object_recognition", "temporality/temporal_order")
TASKS = (*NAMED, "object/object_existence")
OPEN = ("open_ended",)
MINUTE = 60.0
TRAIN = (
    SplicedSet("clips_words", 2400, (14, 40), 2, OPEN, NAMED, 3),
    SplicedSet("clips", 1500, (14, 40), 2, tasks=TASKS),
    SplicedSet("short_words", 500, (MINUTE, 3 * MINUTE), 4, OPEN, NAMED, 4),
    SplicedSet("long_words", 150, (3 * MINUTE, 10 * MINUTE), 4, OPEN, NAMED, 4),
    SplicedSet("hour_words", 10, (60 * MINUTE, 60 * MINUTE), 4, OPEN, NAMED, 4),
    SplicedSet("short", 300, (MINUTE, 3 * MINUTE), tasks=TASKS),
    SplicedSet("long", 100, (3 * MINUTE, 10 * MINUTE), tasks=TASKS),
)
UNSEEN = (
    SplicedSet("unseen_clips", 24, (14, 40), 2, tasks=TASKS),
    SplicedSet("unseen_3_minutes", 60, (3 * MINUTE, 3 * MINUTE), tasks=TASKS),
    SplicedSet("unseen_10_minutes", 40, (10 * MINUTE, 10 * MINUTE), tasks=TASKS),
    SplicedSet("unseen_60_minutes", 16, (60 * MINUTE, 60 * MINUTE), tasks=TASKS),
    SplicedSet("one_3_minutes", 100, (3 * MINUTE, 3 * MINUTE), 1, tasks=NAMED[:1]),
    SplicedSet("one_10_minutes", 60, (10 * MINUTE, 10 * MINUTE), 1, tasks=NAMED[:1]),
    SplicedSet("one_60_minutes", 24, (60 * MINUTE, 60 * MINUTE), 1, tasks=NAMED[:1]),
)
REAL = {"3": 0.25, "10": 0.34}  # hours of `lit-hour synthesize` by minutes of a video
NUM_SHOWINGS = {"train": 2, "validation": 2}  # of each photograph
SPLITS: tuple[Split, ...] = ("train", "validation")


def main() -> None:
    """Run all stages, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.small_photos")
    for name in ("folder", "videos", "photos"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--stages", default="splice,real,align,memory,language,answer")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--sets", default="one,unseen,real", help="starts of the names to answer")
    arguments = parser.parse_args()
    folder, photos = arguments.folder.resolve(), arguments.photos
    arms = arguments.arms.split(",")
    logging.getLogger("lit_hour").setLevel(logging.INFO)
    stages: dict[str, Callable[[], None]] = {
        "splice": lambda: splice_sets(folder, arguments.videos, photos),
        "real": lambda: make_real_sets(folder, arguments.videos, photos),
        "align": lambda: align_projector(folder, photos),
        "memory": lambda: train(folder, [f"{arm}_words" for arm in arms]),
        "language": lambda: train(folder, arms),
        "answer": lambda: answer(folder, arms, photos, arguments.sets.split(",")),
    }
    for stage in arguments.stages.split(","):
        started = time.process_time()
        stages[stage]()
        print(f"{stage}: {time.process_time() - started:.0f} s of CPU", flush=True)


def splice_sets(folder: Path, videos: Path, photos: Path) -> None:
    """Encode the frames of both splits, and write all spliced sets."""
    config = config_for_new_run(load_config(CONFIGS / "photos.yaml"))
    encoder = load_vision_encoder(config).eval()
    metadata = FeatureMetadata(
        "bf16", encoder.tokens_per_frame, encoder.dim, feature_config(config), encoder.digest()
    )
    folder.mkdir(parents=True, exist_ok=True)
    clips = prepare_footage(videos, folder, None, 1).clips
    for split, sets in zip(SPLITS, (TRAIN, UNSEEN), strict=True):
        library = load_photos(photos, split)
        file, num_showings = folder / f"frames_{split}.safetensors", NUM_SHOWINGS[split]
        frames = encode_frames(file, clips, library, encoder, config, num_showings)
        material = Material(clips, library, frames)
        for wanted in sets:
            write_spliced_set(folder / wanted.name, wanted, material, config, metadata)
            print(wanted.name, flush=True)


def make_real_sets(folder: Path, videos: Path, photos: Path) -> None:
    """Make video files with unseen photographs, and extract their features."""
    settings = ["-c", CONFIGS / "photos.yaml"]
    for minutes, hours in REAL.items():
        out = folder / f"real_{minutes}_minutes"
        if (out / "features" / "index.json").exists():
            continue
        given = ["--footage", videos, "--photos", photos, "--split", "validation"]
        few = ["synthetic.footage.max_photos=4"]
        length = ["--hours", hours, "--length", f"{minutes}m", "--seed", int(minutes)]
        run_command("synthesize", out, *length, *given, *few)
        shards = out / "shards"
        run_command("pack", out / "videos", out / "questions.json", shards, *settings)
        run_command("extract-features", shards, out / "features", *settings)


def run_command(*arguments: object) -> None:
    """Run a command of `lit-hour` in this process."""
    lit_hour.cli.main.main([str(argument) for argument in arguments])


def align_projector(folder: Path, photos: Path) -> None:
    """Write the run that all arms start from."""
    run = folder / "runs" / "small_aligned"
    if not run.exists():
        train_frames, unseen = (
            load_frames(folder / f"frames_{split}.safetensors") for split in SPLITS
        )
        run.parent.mkdir(exist_ok=True)
        config = load_config(CONFIGS / "photos.yaml")
        write_aligned_run(run, config, train_frames, unseen, list_categories(photos))


def list_categories(photos: Path) -> list[str]:
    """Return the names of the categories, sorted."""
    return sorted(path.name.replace("_", " ") for path in photos.iterdir() if path.is_dir())


def train(folder: Path, stages: list[str]) -> None:
    """Train stages, or resume them; the settings are in conf/experiment/small/STAGE.yaml."""
    for stage in stages:
        config = load_config(CONFIGS / f"{stage}.yaml", [f"run.folder={folder / 'runs'}"])
        sources, val_sources = (
            {
                name: replace(source, shards=str(folder / Path(source.shards).name))
                for name, source in named.items()
            }
            for named in (config.data.sources, config.data.val_sources)
        )
        start = folder / "runs" / Path(config.training.init_from).name
        training = replace(config.training, init_from=str(start))
        data = replace(config.data, sources=sources, val_sources=val_sources)
        print(fit(replace(config, data=data, training=training)).report(), flush=True)


def answer(folder: Path, arms: list[str], photos: Path, names: list[str]) -> None:
    """Answer the questions of the unseen sets by each arm, and print a table for each set.

    By similarity before and after the stage `memory`, and by the language model after `language`.
    """
    sets = {wanted.name: folder / wanted.name for wanted in UNSEEN}
    for minutes in REAL:
        sets[f"real_{minutes}_minutes"] = folder / f"real_{minutes}_minutes" / "features"
    (folder / "answers").mkdir(exist_ok=True)
    categories = list_categories(photos)
    results: dict[str, dict[str, dict[str, tuple[float, int]]]] = {name: {} for name in sets}
    for stage, reader in (
        ("start", answer_by_similarity),
        ("words", answer_by_similarity),
        ("", answer_in_words),
    ):
        for arm in arms:
            column = f"{arm}_{stage}".rstrip("_")
            run = folder / "runs" / ("small_aligned" if stage == "start" else f"small_{column}")
            if not run.exists():
                continue
            memaug = load_config(CONFIGS / f"{arm}_words.yaml").model.memaug
            settings = [f"model.memaug.{name}={value}" for name, value in asdict(memaug).items()]
            predictor = VideoPredictor.from_run(run, device="cpu", overrides=settings)
            for name, shards in sets.items():
                if (shards / "index.json").exists() and name.startswith(tuple(names)):
                    out = folder / "answers" / f"{name}-{column}.json"
                    answers = answer_set(predictor, shards, out, reader, categories)
                    results[name][column] = accuracies(answers)
                    print_table(name, results[name])


def print_table(name: str, results: dict[str, dict[str, tuple[float, int]]]) -> None:
    """Print a table of accuracies with the number of answers."""
    kinds = sorted({kind for result in results.values() for kind in result})
    print(f"\n| {name} | " + " | ".join(results) + " |")
    print("|---" * (len(results) + 1) + "|")
    for kind in kinds:
        cells = [
            f"{result[kind][0]:.0%} ({result[kind][1]})" if kind in result else ""
            for result in results.values()
        ]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
