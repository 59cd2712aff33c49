import re
from collections import Counter

import pytest

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.generate import (
    QUESTION_GENERATORS,
    generate_questions,
    parse_tasks,
)
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import Question
from tests.synthetic.witness import Witness, seconds_of, true_answers

STORIES = [
    generate_story(seed, seconds)
    for seconds, seeds in ((35.0, 12), (180.0, 12), (700.0, 5))
    for seed in range(seeds)
]
STORIES += [
    generate_story(1, 4000.0),
    generate_story(2, 180.0, num_actors=30, actions_per_minute=15),
]
ASKED = [(story, generate_questions(story, "video", per_task=4)) for story in STORIES]


def each_question() -> list[tuple[Story, Question]]:
    return [(story, question) for story, asked in ASKED for question in asked]


def test_a_witness_of_the_video_gives_the_same_answer_and_no_other():
    for story, asked in ASKED:
        seen = Witness(story)
        for question in asked:
            assert true_answers(seen, question.question) == {question.answer}, (
                story.seed,
                question,
            )


def test_the_answer_is_among_the_options_once():
    for _, question in each_question():
        if question.format == "open_ended":
            assert question.options == ()
        else:
            assert question.options.count(question.answer) == 1
            assert 2 <= len(set(question.options)) == len(question.options) <= 4


def test_long_videos_have_all_tasks_and_mostly_four_options():
    for story, asked in ASKED:
        tasks = {(question.task, question.format) for question in asked}
        assert {task for task, _ in tasks} <= TASK_OF_KEY.keys()
        if story.duration_seconds >= 700:
            missing = {
                (task, form) for task in TASK_OF_KEY for form in ("open_ended", "multiple_choice")
            } - tasks
            assert {task for task, _ in missing} <= {
                "event/overall_summarization",
                "action/action_reasoning",
            }
            options = Counter(len(question.options) for question in asked if question.options)
            assert options[4] / options.total() > 0.7


def test_the_evidence_lies_in_the_video_and_shows_the_moment_that_is_asked_about():
    for story, question in each_question():
        assert question.evidence
        assert all(0 <= start < end <= story.duration_seconds for start, end in question.evidence)
        moment = re.search(r" at ([\d:]+)", question.question)
        if moment and question.task != "object/object_permanence":
            assert any(start <= seconds_of(moment[1]) <= end for start, end in question.evidence), (
                question
            )


def test_what_is_hidden_was_seen_to_go_there():
    for story, question in each_question():
        if question.task == "object/object_permanence":
            name = (
                re.search(r"Where is the (\w+ \w+)", question.question)
                or re.search("(.*)", question.answer)
            )[1]
            moment = seconds_of(re.search(r" at ([\d:]+)", question.question)[1])
            (start, end), *later = question.evidence
            assert end <= moment < (later[0][0] if later else story.duration_seconds)
            deed = story.scene_at(start).action_at(start)
            assert deed is not None and deed.clause.startswith(f"the {name} hides")


def test_wrong_options_are_of_the_same_video():
    for story, question in each_question():
        names = {actor.name for actor in story.actors}
        if question.options and question.task in (
            "object/object_recognition",
            "temporality/temporal_order",
        ):
            assert set(question.options) <= names
        if question.options and question.task == "scene/scene_recognition":
            assert set(question.options) <= {scene.background.name for scene in story.scenes}


def test_nothing_is_asked_twice_in_one_format():
    for _, asked in ASKED:
        assert len({(question.format, question.question) for question in asked}) == len(asked)
        assert [question.id for question in asked] == [
            f"video/{number}" for number in range(len(asked))
        ]


def test_the_right_option_has_no_favourite_place():
    asked = [question for _, question in each_question() if len(question.options) == 4]
    counts = Counter(question.options.index(question.answer) for question in asked)
    expected = len(asked) / 4
    assert len(asked) > 1000
    assert (
        sum((counts[place] - expected) ** 2 / expected for place in range(4)) < 16.3
    )  # one fair draw in a thousand is above


def test_the_same_story_gives_the_same_questions_whatever_else_is_asked():
    story = generate_story(3, 180.0)
    everything = generate_questions(story, "video")
    assert everything == generate_questions(generate_story(3, 180.0), "video")
    assert everything != generate_questions(generate_story(4, 180.0), "video")
    alone = generate_questions(story, "video", ("event/event_sequence",))
    assert {question.question for question in alone} == {
        question.question for question in everything if question.task == "event/event_sequence"
    }


def test_the_number_of_questions_is_the_one_that_is_wanted():
    counts = Counter(
        (question.task, question.format)
        for question in generate_questions(generate_story(1, 3600.0), "video", per_task=5)
    )
    assert max(counts.values()) == 5 and sum(count == 5 for count in counts.values()) > 30


@pytest.mark.parametrize("task", QUESTION_GENERATORS)
def test_a_task_without_material_is_left_out_or_refused_with_the_reason(task: str):
    story = generate_story(0, 10.0, num_actors=1)
    empty = {
        task
        for task in QUESTION_GENERATORS
        if task not in {question.task for question in generate_questions(story, "video")}
    }
    if task in empty:
        with pytest.raises(
            SyntheticDataError,
            match=f"the story 0 of 10 s has no material for {task}: it needs .*; a longer story",
        ):
            generate_questions(story, "video", (task,))
    assert len(empty) >= 18


def test_tasks_by_name():
    assert parse_tasks("") == ()
    assert parse_tasks("object_permanence, event/event_sequence,scene transition") == (
        "object/object_permanence",
        "event/event_sequence",
        "scene/scene_transition",
    )
    with pytest.raises(
        SyntheticDataError,
        match=r"there is no task 'object_permanance'; did you mean 'object_permanence'\?",
    ):
        parse_tasks("object_permanance")
    with pytest.raises(
        SyntheticDataError, match=r"there is no task 'xyz'; there are temporal_perception, "
    ):
        parse_tasks("xyz")
