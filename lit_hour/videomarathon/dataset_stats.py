"""Draw the charts of a data set: sources, questions, durations and events (`write_charts`).

Source: Hour-LLaVA (arXiv:2506.05332), the statistics that it shows of VideoMarathon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lit_hour.taxonomy import TASKS
from lit_hour.types import QuestionFormat
from lit_hour.videomarathon.annotation import Annotation

MAX_SOURCES = 12  # shown by name; the others are summed
NUM_BINS = 20
COLORS: dict[QuestionFormat, str] = {"open_ended": "#3b6fb6", "multiple_choice": "#e08a2e"}
NO_FOLDER = "(no folder)"


@dataclass
class DatasetStats:
    """Data of the charts, over all videos with questions.

    Attributes:
        hours_of_source: by the first folder of the video's name.
        minutes: duration of each video.
        num_events: of each video.
        num_questions: by format, then by task.
    """

    hours_of_source: dict[str, float] = field(default_factory=dict)
    minutes: list[float] = field(default_factory=list)
    num_events: list[int] = field(default_factory=list)
    num_questions: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in COLORS}
    )

    def add(self, annotation: Annotation) -> None:
        """Count a video, if it has questions."""
        if annotation.skip_reason:
            return
        folder, *inside = PurePosixPath(annotation.video).parts
        source, hours = folder if inside else NO_FOLDER, annotation.duration_seconds / 3600
        self.hours_of_source[source] = self.hours_of_source.get(source, 0.0) + hours
        self.minutes.append(annotation.duration_seconds / 60)
        self.num_events.append(len(annotation.events))
        for question in annotation.questions:
            self.num_questions[question["format"]][question["task"]] += 1


def draw_charts(stats: DatasetStats) -> dict[str, Figure]:
    """Return the four charts by name."""
    drawers: dict[str, Callable[[Axes, DatasetStats], None]] = {
        "sources": _draw_sources,
        "questions": _draw_questions,
        "durations": _draw_durations,
        "events": _draw_events,
    }
    charts = {}
    for name, draw in drawers.items():
        figure = Figure(figsize=(8.0, 6.0), layout="constrained")
        draw(figure.subplots(), stats)
        charts[name] = figure
    return charts


def write_charts(folder: Path, stats: DatasetStats) -> None:
    """Write each chart as `FOLDER/NAME.png`, and all to `FOLDER/tensorboard`.

    The step in TensorBoard is the number of videos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for name, figure in draw_charts(stats).items():
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # (height, width, 3)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            writer.add_image(f"dataset/{name}", pixels, len(stats.minutes), dataformats="HWC")


def _draw_sources(axes: Axes, stats: DatasetStats) -> None:
    by_hours = sorted(stats.hours_of_source.items(), key=lambda item: -item[1])
    shown, rest = dict(by_hours[:MAX_SOURCES]), by_hours[MAX_SOURCES:]
    if rest:
        shown[f"{len(rest)} others"] = sum(hours for _, hours in rest)
    bars = axes.barh([*shown], [*shown.values()], color=COLORS["open_ended"])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    total_hours = sum(stats.hours_of_source.values())
    axes.set(title=f"Sources: {total_hours:.1f} hours", xlabel="hours of video")


def _draw_questions(axes: Axes, stats: DatasetStats) -> None:
    tasks = [task.key for task in TASKS]
    left = [0] * len(tasks)
    for question_format, color in COLORS.items():
        counts = stats.num_questions[question_format]
        widths = [counts[task] for task in tasks]
        label = f"{question_format.replace('_', ' ')}: {counts.total()}"
        axes.barh(tasks, widths, left=left, color=color, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(title=f"Questions: {sum(left)}", xlabel="questions")
    axes.legend(loc="lower center", bbox_to_anchor=(0.3, -0.2), ncols=len(COLORS))


def _draw_durations(axes: Axes, stats: DatasetStats) -> None:
    axes.hist(stats.minutes, bins=NUM_BINS, color=COLORS["open_ended"])
    axes.set(title=f"Durations of {len(stats.minutes)} videos", xlabel="minutes", ylabel="videos")


def _draw_events(axes: Axes, stats: DatasetStats) -> None:
    axes.hist(stats.num_events, bins=NUM_BINS, color=COLORS["open_ended"])
    mean = sum(stats.num_events) / max(1, len(stats.num_events))
    axes.set(title=f"Events of a video: {mean:.1f} on average", xlabel="events", ylabel="videos")
