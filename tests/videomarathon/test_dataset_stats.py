"""Charts of a data set."""

from typing import Any

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.videomarathon.annotation import Annotation
from lit_hour.videomarathon.dataset_stats import DatasetStats, draw_charts
from tests.videomarathon.factories import FinishedRun

CHARTS = ("sources", "questions", "durations", "events")


def annotation(video: str, **changes: Any) -> Annotation:
    values: dict[str, Any] = {
        "duration_seconds": 1800.0,
        "skip_reason": "",
        "summary": "",
        "captions": [],
        "events": [{}] * 4,
        "questions": [],
        "dropped": [],
        "num_responses": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }
    return Annotation(video, **(values | changes))


def bar_widths(figure: Any) -> list[float]:
    return [bar.get_width() for bar in figure.axes[0].patches]


def test_hours_are_counted_by_first_folder() -> None:
    stats = DatasetStats()
    for video in ("cooking/a.mp4", "cooking/b/c.mp4", "travel/a.mp4", "alone.mp4"):
        stats.add(annotation(video))
    assert stats.hours_of_source == {"cooking": 1.0, "travel": 0.5, "(no folder)": 0.5}
    assert bar_widths(draw_charts(stats)["sources"]) == [1.0, 0.5, 0.5]


def test_small_sources_share_a_bar() -> None:
    stats = DatasetStats()
    for number in range(20):
        stats.add(annotation(f"{number}/a.mp4", duration_seconds=3600.0))
    assert bar_widths(draw_charts(stats)["sources"]) == [1.0] * 12 + [8.0]


def test_questions_are_counted_by_task_and_format() -> None:
    stats = DatasetStats()
    questions = [
        {"task": "event/event_sequence", "format": question_format}
        for question_format in ("open_ended", "open_ended", "multiple_choice")
    ]
    stats.add(annotation("a.mp4", questions=questions))
    assert sorted(filter(None, bar_widths(draw_charts(stats)["questions"]))) == [1, 2]


def test_skipped_video_is_not_counted() -> None:
    stats = DatasetStats()
    stats.add(annotation("a.mp4", skip_reason="2 events"))
    assert stats == DatasetStats()
    assert set(draw_charts(stats)) == set(CHARTS)


def test_charts_are_written_as_png_and_for_tensorboard(finished_run: FinishedRun) -> None:
    folder = finished_run.out / "charts"
    for name in CHARTS:
        assert Image.open(folder / f"{name}.png").size == (800, 600)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert set(events.Tags()["images"]) == {f"dataset/{name}" for name in CHARTS}
    assert events.Images("dataset/events")[0].step == 2
