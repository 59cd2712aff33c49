from itertools import pairwise

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.questions.needles import needle_scenes
from lit_hour.synthetic.stories.needle import NEEDLE_PATTERNS
from lit_hour.synthetic.story_generator import NEEDLE_SECONDS, generate_story


@pytest.mark.parametrize("duration_seconds", [39.0, 180.0, 3600.0, 36000.0])
def test_each_third_of_a_story_has_one_needle(duration_seconds: float) -> None:
    for seed in range(20):
        story = generate_story(seed, duration_seconds, "needles")
        assert story.scenes[0].start_seconds == 0.0
        assert story.scenes[-1].end_seconds == duration_seconds
        for before, after in pairwise(story.scenes):
            assert before.end_seconds == after.start_seconds
            assert before.background != after.background
        needles = needle_scenes(story)
        assert {needle.background.pattern for needle in needles} == set(NEEDLE_PATTERNS)
        others = {scene.background.pattern for scene in story.scenes if scene not in needles}
        assert others == {"plain"}
        for third, needle in enumerate(needles):
            assert needle.end_seconds - needle.start_seconds == NEEDLE_SECONDS
            assert int(3 * needle.start_seconds // duration_seconds) == third


def test_needles_are_spread_evenly_over_the_story() -> None:
    depths = [
        needle.start_seconds / 600
        for seed in range(300)
        for needle in needle_scenes(generate_story(seed, 600.0, "needles"))
    ]
    for tenth in range(10):
        assert 0.06 < sum(tenth <= 10 * depth < tenth + 1 for depth in depths) / len(depths) < 0.14


def test_answers_are_shown_in_their_evidence() -> None:
    for seed in range(50):
        story = generate_story(seed, 300.0, "needles")
        questions = generate_questions(story, "video")
        assert len(questions) == 12
        for question in questions:
            scenes = [story.scene_at(start) for start, _ in question.evidence]
            if question.task == "scene/scene_recognition":
                (needle,) = scenes
                assert needle.background.pattern in question.question
                assert question.answer == needle.background.color
            elif question.task == "temporality/temporal_order":
                needle = scenes[-1 if "last" in question.question else 0]
                assert question.answer == needle.background.pattern
            else:
                colors = {actor.color for scene in story.scenes for actor in scene.actors}
                assert colors == {question.answer}


def test_story_too_short_for_its_needles_is_refused() -> None:
    with pytest.raises(SyntheticDataError, match="at least 39 s"):
        generate_story(0, 38.0, "needles")


def test_number_and_duration_of_needles_are_settings() -> None:
    for seed in range(20):
        story = generate_story(seed, 22.0, "needles", num_needles=1, needle_seconds=12.0)
        (needle,) = needle_scenes(story)
        assert needle.end_seconds - needle.start_seconds == 12.0
        first, last = (
            question
            for question in generate_questions(story, "video")
            if question.task == "temporality/temporal_order" and not question.options
        )
        assert first.answer == last.answer == needle.background.pattern
    with pytest.raises(
        SyntheticDataError,
        match=r"at least 22 s, for synthetic\.num_needles of synthetic\.needle_seconds",
    ):
        generate_story(0, 21.0, "needles", num_needles=1, needle_seconds=12.0)
