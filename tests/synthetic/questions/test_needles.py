import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.stories.needle import NEEDLES
from lit_hour.synthetic.story_generator import NEEDLE_SECONDS, generate_story


@pytest.mark.parametrize("duration_seconds", [39.0, 180.0, 3600.0, 36000.0])
def test_each_pattern_is_seen_once_for_three_seconds_in_a_third_of_its_own(
    duration_seconds: float,
) -> None:
    for seed in range(20):
        story = generate_story(seed, duration_seconds, "needles")
        assert [scene.start_seconds for scene in story.scenes[1:]] == [
            scene.end_seconds for scene in story.scenes[:-1]
        ]
        assert (story.scenes[0].start_seconds, story.scenes[-1].end_seconds) == (
            0.0,
            duration_seconds,
        )
        needles = [scene for scene in story.scenes if scene.background.pattern != "plain"]
        assert {needle.background.pattern for needle in needles} == set(NEEDLES)
        assert all(
            needle.end_seconds - needle.start_seconds == NEEDLE_SECONDS for needle in needles
        )
        assert [int(3 * needle.start_seconds // duration_seconds) for needle in needles] == [
            0,
            1,
            2,
        ]
        assert all(
            before.background != after.background
            for before, after in zip(story.scenes, story.scenes[1:], strict=False)
        )


def test_needles_lie_at_any_depth() -> None:
    depths = [
        scene.start_seconds / 600
        for seed in range(300)
        for scene in generate_story(seed, 600.0, "needles").scenes
        if scene.background.pattern != "plain"
    ]
    for tenth in range(10):
        assert 0.06 < sum(tenth <= 10 * depth < tenth + 1 for depth in depths) / len(depths) < 0.14


def test_answers_are_what_is_seen_at_their_evidence() -> None:
    for seed in range(50):
        story = generate_story(seed, 300.0, "needles")
        asked = generate_questions(story, "video")
        assert len(asked) == 12
        for question in asked:
            seen = [story.scene_at(start) for start, _ in question.evidence]
            if question.task == "scene/scene_recognition":
                (needle,) = seen
                assert (
                    needle.background.pattern in question.question
                    and question.answer == needle.background.color
                )
            elif question.task == "temporality/temporal_order":
                assert (
                    question.answer
                    == seen[-1 if "last" in question.question else 0].background.pattern
                )
            else:
                assert {actor.color for scene in story.scenes for actor in scene.actors} == {
                    question.answer
                }


def test_a_story_too_short_for_its_needles_is_refused() -> None:
    with pytest.raises(SyntheticDataError, match="at least 39 s"):
        generate_story(0, 38.0, "needles")


def test_their_number_and_length_are_settings() -> None:
    for seed in range(20):
        story = generate_story(seed, 22.0, "needles", num_needles=1, needle_seconds=12.0)
        (needle,) = [scene for scene in story.scenes if scene.background.pattern != "plain"]
        assert needle.end_seconds - needle.start_seconds == 12.0
        first, last = (
            q
            for q in generate_questions(story, "video")
            if q.task == "temporality/temporal_order" and not q.options
        )
        assert first.answer == last.answer == needle.background.pattern
    with pytest.raises(
        SyntheticDataError,
        match=r"at least 22 s, for synthetic\.num_needles of synthetic\.needle_seconds",
    ):
        generate_story(0, 21.0, "needles", num_needles=1, needle_seconds=12.0)
