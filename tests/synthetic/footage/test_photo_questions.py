"""Stories of footage, and questions about their photographs, without rendering a video."""

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from lit_hour.config.synthetic import FootageConfig
from lit_hour.errors import SyntheticDataError
from lit_hour.media.splicing.footage import TICKS_PER_SECOND, Footage, FrameSize
from lit_hour.synthetic.footage.footage_story import (
    GAP_SECONDS,
    FootageStory,
    generate_footage_story,
)
from lit_hour.synthetic.footage.photo_library import PhotoLibrary
from lit_hour.synthetic.footage.photo_questions import (
    FACT_GENERATORS,
    ORDINALS,
    generate_photo_questions,
)
from lit_hour.synthetic.video_plan import VideoPlan
from lit_hour.text.timestamp import format_timestamp
from lit_hour.types import Question
from tests.synthetic.text_only_baseline import TextOnlyBaseline, deviations_above_chance

CATEGORIES = [f"thing{number:02d}" for number in range(20)]
LIBRARY = PhotoLibrary({name: (Path(f"{name}.jpg"),) for name in CATEGORIES}, "")


def footage_of(name: str, seconds: int, frames_per_second: int, gop_frames: int) -> Footage:
    step = TICKS_PER_SECOND // frames_per_second
    num_frames = seconds * frames_per_second
    gops = tuple(range(0, num_frames, gop_frames))
    starts = tuple(step * number for number in range(num_frames))
    size, time_base = FrameSize(640, 360), Fraction(1, TICKS_PER_SECOND)
    gop_pts = tuple(step * frame for frame in gops)
    return Footage(Path(name), size, starts, step * num_frames, gops, gop_pts, time_base, 0)


FOOTAGE = [footage_of("a", 90, 10, 40), footage_of("b", 4, 25, 100), footage_of("c", 25, 12, 30)]


def story_of(seed: int, seconds: float = 180.0, **settings: float) -> FootageStory:
    plan = VideoPlan("video", seed, seconds)
    return generate_footage_story(plan, FOOTAGE, LIBRARY, FootageConfig(**settings))


def test_stories_have_the_planned_duration_and_photographs_apart_from_each_other() -> None:
    shown = defaultdict(int)
    for seed in range(200):
        story = story_of(seed)
        assert abs(story.duration_seconds - 180) <= 0.1
        assert len({photo.category for photo in story.photos}) == len(story.photos)
        shown[len(story.photos)] += 1
        bounds = [(0.0, 0.0), *(photo.interval for photo in story.photos)]
        bounds.append((story.duration_seconds, story.duration_seconds))
        for (_, earlier), (later, _) in pairwise(bounds):
            assert later - earlier >= GAP_SECONDS - 0.2
        for start, end in bounds[1:-1]:
            assert 1.9 <= end - start <= 6.1
        starts, origin = set(), 0
        for clip in story.clips:
            starts |= {origin + start for start in clip.frame_starts}
            origin += clip.ticks
        assert {photo.start for photo in story.photos} <= starts
        copied = [clip for clip in story.clips[:-1] if clip.first_frame in clip.footage.gop_frames]
        assert len(copied) == len(story.clips) - 1
    assert set(shown) == set(range(1, 9)) and min(shown.values()) > 10
    assert story_of(3) == story_of(3) != story_of(4)


def test_an_hour_has_any_number_of_photographs() -> None:
    story = story_of(1, 3600.0, min_photos=20, max_photos=20)
    assert len(story.photos) == 20 and len(story.clips) > 100


def test_too_short_a_video_is_refused() -> None:
    with pytest.raises(SyntheticDataError, match=r"too short for 8 photographs .* Raise --length"):
        story_of(1, 30.0, min_photos=8)


def check(story: FootageStory, question: Question) -> None:
    """Derive the answer from the photographs by the words of the question."""
    names = [photo.category for photo in story.photos]
    intervals = {photo.category: photo.interval for photo in story.photos}
    words = question.question.rstrip("?").split()
    evidence = {intervals[name] for name in names if name in (*words, question.answer)}
    text = question.question
    if text.startswith("What does the photograph right"):
        step = {"after": 1, "before": -1}[words[5]]
        assert question.answer == names[names.index(words[6]) + step]
    elif text.startswith("What does the"):
        index = {"only": 0, "last": len(names) - 1}
        index |= {word: number for number, word in enumerate(ORDINALS)}
        assert question.answer == names[index[words[3]]]
        assert (words[3] == "only") == (len(names) == 1)
    elif text.startswith("Which photograph is shown"):
        pair = sorted((words[5], words[7]), key=names.index)
        assert question.answer == pair[{"first:": 0, "last:": 1}[words[4]]]
        evidence = {intervals[name] for name in pair}
    elif text.startswith("Is there a photograph of"):
        assert question.answer == ("yes" if words[-1] in names else "no")
        evidence = {intervals.get(words[-1], (0.0, story.duration_seconds))}
    elif text.startswith("How many photographs"):
        assert question.answer == str(len(names))
        evidence = set(intervals.values())
    else:
        assert text.startswith("At what time is the photograph of")
        assert question.answer == format_timestamp(intervals[words[7]][0])
    assert set(question.evidence) == evidence, text


def test_answers_and_evidence_follow_from_the_photographs() -> None:
    kinds = set()
    for seed in range(100):
        story = story_of(seed)
        for question in generate_photo_questions(story, "video"):
            check(story, question)
            kinds.add((question.task, question.format))
            if question.options:
                assert question.answer in question.options
                assert len(set(question.options)) == len(question.options) >= 2
                shown = {photo.category for photo in story.photos}
                if question.task == "object/object_recognition" and len(shown) >= 4:
                    assert set(question.options) <= shown
    formats = ("open_ended", "multiple_choice")
    assert kinds == {(task, form) for task in FACT_GENERATORS for form in formats}


def test_tasks_can_be_chosen() -> None:
    story = story_of(2, min_photos=4)
    found = generate_photo_questions(story, "video", ("temporality/temporal_order",), 3)
    assert len(found) == 6 and {item.task for item in found} == {"temporality/temporal_order"}
    with pytest.raises(SyntheticDataError, match="have no material for action/action_sequence"):
        generate_photo_questions(story, "video", ("action/action_sequence",))


@pytest.mark.slow
def test_text_only_baseline_is_at_chance_on_unseen_stories() -> None:
    by_split: list[dict[str, list[Question]]] = []
    for first, number in ((0, 200), (10**6, 600)):
        found = defaultdict(list)
        for seed in range(first, first + number):
            for question in generate_photo_questions(story_of(seed), "video"):
                if question.options:
                    found[question.task].append(question)
        by_split.append(found)
    train, test = by_split
    for task, questions in test.items():
        baseline = TextOnlyBaseline(train[task])
        for guesses in (
            baseline.guess_by_features(questions),
            baseline.guess_by_frequency(questions),
        ):
            assert deviations_above_chance(questions, guesses) < 3.3, task
