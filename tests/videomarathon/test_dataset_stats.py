from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_hour.videomarathon.annotation import Annotation
from lit_hour.videomarathon.dataset_stats import DatasetStats, draw_charts
from tests.videomarathon.factories import FinishedRun

CHARTS = ("sources", "questions", "durations", "events")


def annotation(video: str, **other: Any) -> Annotation:
    values: dict[str, Any] = {
        "duration_seconds": 1800.0,
        "set_aside": "",
        "summary": "",
        "captions": [],
        "events": [{}] * 4,
    }
    values |= {
        "questions": [],
        "dropped": [],
        "num_answers": 0,
        "prompt_tokens": 0,
        "answer_tokens": 0,
    }
    return Annotation(video, **(values | other))


def widths(figure: Any) -> list[float]:
    return [bar.get_width() for bar in figure.axes[0].patches]


def test_hours_are_counted_by_the_first_folder() -> None:
    statistics = DatasetStats()
    for video in ("cooking/a.mp4", "cooking/b/c.mp4", "travel/a.mp4", "alone.mp4"):
        statistics.count(annotation(video))
    assert statistics.hours_of_source == {"cooking": 1.0, "travel": 0.5, "(no folder)": 0.5}
    assert widths(draw_charts(statistics)["sources"]) == [1.0, 0.5, 0.5]


def test_many_sources_share_a_bar() -> None:
    statistics = DatasetStats()
    for number in range(20):
        statistics.count(annotation(f"{number}/a.mp4", duration_seconds=3600.0))
    assert widths(draw_charts(statistics)["sources"]) == [1.0] * 12 + [8.0]


def test_questions_are_counted_by_task_and_format() -> None:
    statistics = DatasetStats()
    asked = [
        {"task": "event/event_sequence", "format": form}
        for form in ("open_ended", "open_ended", "multiple_choice")
    ]
    statistics.count(annotation("a.mp4", questions=asked))
    assert sorted(filter(None, widths(draw_charts(statistics)["questions"]))) == [1, 2]


def test_a_video_that_is_set_aside_is_not_in_the_charts() -> None:
    statistics = DatasetStats()
    statistics.count(annotation("a.mp4", set_aside="2 events"))
    assert statistics == DatasetStats()
    assert set(draw_charts(statistics)) == set(CHARTS)


def test_charts_are_written_as_pictures_and_for_tensorboard(finished: FinishedRun) -> None:
    folder: Path = finished.out / "charts"
    for name in CHARTS:
        assert Image.open(folder / f"{name}.png").size == (800, 600)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert set(events.Tags()["images"]) == {f"dataset/{name}" for name in CHARTS}
    assert events.Images("dataset/events")[0].step == 2
