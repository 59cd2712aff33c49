"""Easy stories and their questions, which the default run is trained on."""

import hashlib
import json
import re
from itertools import pairwise

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.render import draw_frame
from lit_hour.synthetic.stories.easy import EASY_VERBS
from lit_hour.synthetic.story import COLORS, SHAPES, Story
from lit_hour.synthetic.story_generator import generate_story

STORIES = [
    generate_story(seed, seconds, "easy")
    for seconds in (4.0, 35.0, 180.0, 3600.0)
    for seed in range(40)
]


def true_answers(story: Story, question: str) -> set[str]:
    """Return every true answer, from the story and the text of the question."""
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


def test_easy_questions_and_frames_equal_the_recorded_hashes():
    questions = [
        [
            vars(question)
            for question in generate_questions(generate_story(seed, 180.0, "easy"), "v")
        ]
        for seed in range(60)
    ]
    assert hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:16] == "c538f80f03b7eeff"
    pictures = b"".join(draw_frame(story, 3.3, 64).tobytes() for story in STORIES)
    assert hashlib.sha256(pictures).hexdigest()[:16] == "baf4c932253e7ff4"


def test_each_of_few_scenes_has_one_figure_and_one_action():
    for story in STORIES:
        assert 1 <= len(story.scenes) <= 3
        for scene in story.scenes:
            (action,), (actor,) = scene.actions, scene.actors
            assert action.interval == scene.interval and action.verb in EASY_VERBS
            assert scene.background.color in set(COLORS) - {actor.color}
            assert (actor.shape, action.verb) != ("circle", "spins")
        assert all(one.background != other.background for one, other in pairwise(story.scenes))
        actors = set(story.actors)
        assert len({actor.shape for actor in actors}) == len(actors)
        assert len({actor.color for actor in actors}) == len(actors)


def test_exactly_one_answer_is_true():
    for story in STORIES:
        questions = generate_questions(story, "video")
        assert len(questions) <= 30
        assert len({question.id for question in questions}) == len(questions)
        for question in questions:
            assert true_answers(story, question.question) == {question.answer}, question
            num_options = 4 if question.format == "multiple_choice" else 0
            assert len(set(question.options)) == num_options
            assert question.evidence
            assert all(end <= story.duration_seconds for _, end in question.evidence)


def test_unsupported_task_is_refused():
    with pytest.raises(
        SyntheticDataError,
        match=r"synthetic\.difficulty=easy has no material for event/event_sequence\. .*"
        r"difficulty=full",
    ):
        generate_questions(STORIES[0], "video", ("event/event_sequence",))
    questions = generate_questions(STORIES[0], "video", ("scene/scene_recognition",))
    assert {question.task for question in questions} == {"scene/scene_recognition"}
