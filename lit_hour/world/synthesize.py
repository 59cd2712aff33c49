"""The words of `python -m lit_hour synthesize` in, a set of made-up videos out, and what to do with it next."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from lit_hour.config.world import WorldConfig
from lit_hour.taxonomy import TASKS
from lit_hour.world.make_set import make_set
from lit_hour.world.plan import parse_length, plan_hours


def synthesize(out: Path, hours: float, length: str, settings: WorldConfig) -> str:
    """Make a set of so many hours, or go on with one that was stopped.

    Args:
        hours: of video in all; the last video may reach beyond.
        length: shortest and longest duration, `3m-60m`, or one for all, `1h`.
        settings: seed, size, rate, stories and tasks; the folder and the numbers of videos in it do not count.

    Returns:
        What was made, and the commands that come next.

    Raises:
        WorldError: there is nothing to make, a story cannot be told, or `out` holds another set or cannot be filled.
    """
    length_seconds = parse_length(length)
    plans = plan_hours(hours, length_seconds, settings.seed)
    totals = make_set(out, plans, settings, {"seed": settings.seed, "length_seconds": list(length_seconds)})
    folder = quote(str(out))
    return (
        f"{out}: {totals.num_videos} videos ({totals.duration_seconds / 3600:.2f} hours),"
        f" {sum(totals.num_questions.values())} questions on {len(totals.num_questions)} of {len(TASKS)} tasks\n"
        f"to look at: {out}/index.html\n"
        f"to pack them: python -m lit_hour pack {folder}/videos {folder}/questions.json {folder}/shards conf/tiny_model.yaml\n"
        f"to train on them: python train.py conf/tiny_model.yaml run.name=world data.sources.world.shards={folder}/shards"
    )
