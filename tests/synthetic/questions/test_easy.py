"""Easy stories and their questions stay what they are: the default run learns from them in minutes."""

import hashlib
import json
import re
from itertools import pairwise

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.render import draw_moment
from lit_hour.synthetic.stories.easy import EASY_ACTIONS
from lit_hour.synthetic.story import COLORS, SHAPES, Story
from lit_hour.synthetic.story_generator import generate_story

STORIES = [
    generate_story(seed, seconds, "easy")
    for seconds in (4.0, 35.0, 180.0, 3600.0)
    for seed in range(40)
]


def true_answers(story: Story, question: str) -> set[str]:
    """Every answer that the script makes true, read from the words alone."""
    if "first scene" in question:
        scenes = [story.scenes[0]]
    elif "last scene" in question:
        scenes = [story.scenes[-1]]
    elif background := re.search(r"on the (\w+) background", question):
        scenes = [scene for scene in story.scenes if scene.background.color == background[1]]
    else:
        shape = re.search("|".join(SHAPES), question)
        scenes = [scene for scene in story.scenes if scene.actors[0].shape == shape[0]]
    if question.startswith("What colour is the background"):
        return {scene.background.color for scene in scenes}
    if question.startswith("What colour is the"):
        return {scene.actors[0].color for scene in scenes}
    assert question.startswith("Which shape")
    return {scene.actors[0].shape for scene in scenes}


def test_easy_stories_and_questions_have_not_changed():
    asked = [
        [
            vars(question)
            for question in generate_questions(generate_story(seed, 180.0, "easy"), "v")
        ]
        for seed in range(60)
    ]
    assert hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16] == "71e29aa13d4547be"
    pictures = b"".join(draw_moment(story, 3.3, 64).tobytes() for story in STORIES)
    assert hashlib.sha256(pictures).hexdigest()[:16] == "baf4c932253e7ff4"


def test_one_figure_does_one_thing_in_each_of_few_scenes():
    for story in STORIES:
        assert 1 <= len(story.scenes) <= 3
        for scene in story.scenes:
            (deed,), (actor,) = scene.actions, scene.actors
            assert deed.interval == scene.interval and deed.verb in EASY_ACTIONS
            assert scene.background.color in set(COLORS) - {actor.color}
            assert (actor.shape, deed.verb) != ("circle", "spins")
        assert all(one.background != other.background for one, other in pairwise(story.scenes))
        actors = set(story.actors)
        assert (
            len({actor.shape for actor in actors})
            == len({actor.color for actor in actors})
            == len(actors)
        )


def test_the_script_makes_exactly_one_answer_true():
    for story in STORIES:
        asked = generate_questions(story, "video")
        assert len(asked) <= 30 and len({question.id for question in asked}) == len(asked)
        for question in asked:
            assert true_answers(story, question.question) == {question.answer}, question
            assert len(set(question.options)) == (4 if question.format == "multiple_choice" else 0)
            assert question.evidence and all(
                end <= story.duration_seconds for _, end in question.evidence
            )


def test_a_task_that_easy_stories_do_not_have_is_refused():
    with pytest.raises(
        SyntheticDataError,
        match=r"synthetic.difficulty=easy has no material for event/event_sequence: .*difficulty=full",
    ):
        generate_questions(STORIES[0], "video", ("event/event_sequence",))
    alone = generate_questions(STORIES[0], "video", ("scene/scene_recognition",))
    assert {question.task for question in alone} == {"scene/scene_recognition"}
