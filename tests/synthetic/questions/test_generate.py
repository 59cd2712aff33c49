import re
from collections import Counter

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import (
    QUESTION_GENERATORS,
    generate_questions,
    parse_tasks,
)
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.taxonomy import TASK_OF_KEY
from tests.synthetic.frame_oracle import FrameOracle, parse_timestamp

STORIES = [
    generate_story(seed, seconds)
    for seconds, num_seeds in ((35.0, 12), (180.0, 12), (700.0, 5))
    for seed in range(num_seeds)
]
STORIES += [
    generate_story(1, 4000.0),
    generate_story(2, 180.0, num_actors=30, actions_per_minute=15),
]
QUESTIONS_BY_STORY = [(story, generate_questions(story, "video", per_task=4)) for story in STORIES]
QUESTIONS = [(story, question) for story, found in QUESTIONS_BY_STORY for question in found]


def test_frame_oracle_finds_the_same_answer_and_no_other():
    for story, questions in QUESTIONS_BY_STORY:
        oracle = FrameOracle(story)
        for question in questions:
            assert oracle.true_answers(question.question) == {question.answer}, (
                story.seed,
                question,
            )


def test_answer_is_among_the_options_once():
    for _, question in QUESTIONS:
        if question.format == "open_ended":
            assert question.options == ()
        else:
            assert question.options.count(question.answer) == 1
            assert 2 <= len(set(question.options)) == len(question.options) <= 4


def test_long_stories_have_all_tasks_and_mostly_four_options():
    formats = ("open_ended", "multiple_choice")
    for story, questions in QUESTIONS_BY_STORY:
        found = {(question.task, question.format) for question in questions}
        assert {task for task, _ in found} <= TASK_OF_KEY.keys()
        if story.duration_seconds >= 700:
            missing = {(task, form) for task in TASK_OF_KEY for form in formats} - found
            assert {task for task, _ in missing} <= {
                "event/overall_summarization",
                "action/action_reasoning",
            }
            counts = Counter(len(question.options) for question in questions if question.options)
            assert counts[4] / counts.total() > 0.7


def test_evidence_lies_in_the_video_and_contains_the_time_in_the_question():
    for story, question in QUESTIONS:
        assert question.evidence
        assert all(0 <= start < end <= story.duration_seconds for start, end in question.evidence)
        timestamp = re.search(r" at ([\d:]+)", question.question)
        if timestamp and question.task != "object/object_permanence":
            seconds = parse_timestamp(timestamp[1])
            assert any(start <= seconds <= end for start, end in question.evidence), question


def test_evidence_of_a_hidden_figure_shows_it_hide():
    for story, question in QUESTIONS:
        if question.task == "object/object_permanence":
            named = re.search(r"Where is the (\w+ \w+)", question.question)
            name = named[1] if named else question.answer
            seconds = parse_timestamp(re.search(r" at ([\d:]+)", question.question)[1])
            (start, end), *later = question.evidence
            assert end <= seconds < (later[0][0] if later else story.duration_seconds)
            action = story.scene_at(start).action_at(start)
            assert action is not None and action.clause.startswith(f"the {name} hides")


def test_wrong_options_occur_in_the_same_video():
    for story, question in QUESTIONS:
        names = {actor.name for actor in story.actors}
        if question.options and question.task in (
            "object/object_recognition",
            "temporality/temporal_order",
        ):
            assert set(question.options) <= names
        if question.options and question.task == "scene/scene_recognition":
            assert set(question.options) <= {scene.background.name for scene in story.scenes}


def test_questions_are_unique_per_format_and_ids_are_numbered():
    for _, questions in QUESTIONS_BY_STORY:
        texts = {(question.format, question.question) for question in questions}
        assert len(texts) == len(questions)
        ids = [question.id for question in questions]
        assert ids == [f"video/{number}" for number in range(len(questions))]


def test_index_of_the_correct_option_is_uniform():
    questions = [question for _, question in QUESTIONS if len(question.options) == 4]
    counts = Counter(question.options.index(question.answer) for question in questions)
    expected = len(questions) / 4
    chi_squared = sum((counts[index] - expected) ** 2 / expected for index in range(4))
    assert len(questions) > 1000
    assert chi_squared < 16.3  # exceeded by chance once in a thousand


def test_questions_are_deterministic_and_independent_of_the_other_tasks():
    story = generate_story(3, 180.0)
    questions = generate_questions(story, "video")
    assert questions == generate_questions(generate_story(3, 180.0), "video")
    assert questions != generate_questions(generate_story(4, 180.0), "video")
    task = "event/event_sequence"
    of_task = generate_questions(story, "video", (task,))
    assert {question.question for question in of_task} == {
        question.question for question in questions if question.task == task
    }


def test_per_task_is_the_number_of_questions():
    counts = Counter(
        (question.task, question.format)
        for question in generate_questions(generate_story(1, 3600.0), "video", per_task=5)
    )
    assert max(counts.values()) == 5 and sum(count == 5 for count in counts.values()) > 30


def test_task_without_material_is_left_out_or_refused_if_named():
    story = generate_story(0, 10.0, num_actors=1)
    found = {question.task for question in generate_questions(story, "video")}
    missing = QUESTION_GENERATORS.keys() - found
    assert len(missing) >= 18
    for task in missing:
        with pytest.raises(
            SyntheticDataError,
            match=rf"story 0 of 10 s has no material for {task}\. It needs .*\. A longer story",
        ):
            generate_questions(story, "video", (task,))


def test_parse_tasks():
    assert parse_tasks("") == ()
    assert parse_tasks("object_permanence, event/event_sequence,scene transition") == (
        "object/object_permanence",
        "event/event_sequence",
        "scene/scene_transition",
    )
    with pytest.raises(
        SyntheticDataError,
        match=r"Unknown task 'object_permanance'\. Did you mean 'object_permanence'\?",
    ):
        parse_tasks("object_permanance")
    with pytest.raises(
        SyntheticDataError, match=r"Unknown task 'xyz'\. Tasks: temporal_perception, "
    ):
        parse_tasks("xyz")
