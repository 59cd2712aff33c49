import re
from collections import Counter

import pytest

from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import Question
from lit_hour.world.narrate import narrate
from lit_hour.world.script import SHAPES, Scene, Story, write_story

STORIES = [write_story(seed, seconds) for seconds in (4.0, 30.0, 120.0, 180.0, 240.0, 3600.0) for seed in range(40)]
BINARY_TASKS = {"temporality/temporal_order", "object/object_existence"}


def scenes_asked_about(story: Story, question: str) -> list[Scene]:
    """The scenes that the words single out, read from the words alone."""
    if "first scene" in question:
        return [story.scenes[0]]
    if "last scene" in question:
        return [story.scenes[-1]]
    if background := re.search(r"on the (\w+) background", question):
        return [scene for scene in story.scenes if scene.background == background[1]]
    shape = re.search(r"(?:the|a) (circle|square|triangle|star|cross|diamond)", question)
    assert shape, question
    return [scene for scene in story.scenes if scene.actor.shape == shape[1]]


def true_answers(story: Story, question: str) -> set[str]:
    """Every answer that the script makes true: one, if the question is a good one."""
    if pair := re.fullmatch(r"Which is seen first, the (\w+) or the (\w+)\?", question):
        order = [scene.actor.shape for scene in story.scenes]
        return {min(pair.groups(), key=order.index)}
    scenes = scenes_asked_about(story, question)
    if question.startswith("Is there a"):
        return {"yes" if scenes else "no"}
    if question.startswith("What colour is the background"):
        return {scene.background for scene in scenes}
    if question.startswith("What colour is the"):
        return {scene.actor.colour for scene in scenes}
    if question.startswith("Which shape"):
        return {scene.actor.shape for scene in scenes}
    assert question.startswith("What does the")
    return {scene.action for scene in scenes}


def chi_square(counts: Counter, num_cells: int) -> float:
    expected = counts.total() / num_cells
    return sum((counts[cell] - expected) ** 2 / expected for cell in range(num_cells))


def all_questions() -> list[tuple[Story, Question]]:
    return [(story, question) for story in STORIES for question in narrate(story, "video")]


def test_the_script_makes_exactly_one_answer_true():
    for story, question in all_questions():
        assert true_answers(story, question.question) == {question.answer}, question


def test_the_answer_is_among_the_options_once():
    for _, question in all_questions():
        if question.format == "open_ended":
            assert question.options == ()
            continue
        assert question.options.count(question.answer) == 1
        assert len(set(question.options)) == len(question.options) == (2 if question.task in BINARY_TASKS else 4)
        assert question.options[ord(question.answer_letter) - ord("A")] == question.answer


def test_wrong_options_come_from_the_same_video_first():
    for story, question in all_questions():
        if question.format == "multiple_choice" and question.question.startswith("Which shape"):
            seen = {scene.actor.shape for scene in story.scenes}
            assert len(seen & set(question.options)) == min(4, len(seen))


def test_the_evidence_shows_the_answer():
    for story, question in all_questions():
        assert question.evidence
        assert all(0 <= start < end <= story.duration_seconds for start, end in question.evidence)
        if question.question.startswith("Which is seen first"):
            assert len(question.evidence) == 2
        elif question.answer == "no":
            assert question.evidence == ((0.0, story.duration_seconds),)
        else:
            scenes = scenes_asked_about(story, question.question)
            assert question.evidence == tuple(scene.interval for scene in scenes)


def test_the_right_option_has_no_favourite_place():
    questions = [question for seed in range(200) for question in narrate(write_story(seed, 180.0), "video")]
    for num_options, limit in ((2, 10.8), (4, 16.3)):  # one in a thousand fair draws is farther out
        letters = Counter(
            question.options.index(question.answer) for question in questions if len(question.options) == num_options
        )
        assert letters.total() > 500
        assert chi_square(letters, num_options) < limit


@pytest.mark.parametrize("beginning", ["Is there a", "Which is seen first"])
def test_binary_questions_cannot_be_guessed_from_their_words(beginning: str):
    """As many yes as no, and the first-named shape comes first in half of the stories."""
    favoured = Counter()
    for seed in range(200):
        for question in narrate(write_story(seed, 180.0), "video"):
            if question.question.startswith(beginning) and question.format == "open_ended":
                named = re.findall("|".join(SHAPES), question.question)
                favoured[int(question.answer in ("yes", named[0]))] += 1
    assert favoured.total() > 200
    assert chi_square(favoured, 2) < 10.8


def test_questions_of_a_story():
    for story in STORIES:
        questions = narrate(story, "world_00007")
        assert [question.id for question in questions] == [f"world_00007/{number}" for number in range(len(questions))]
        assert {question.task for question in questions} <= TASK_OF_KEY.keys()
        assert len(questions) <= 30
        if story.duration_seconds >= 120:
            assert len(questions) >= 16
            assert len({question.task for question in questions}) >= 5
            assert max(Counter(question.task for question in questions).values()) <= 8
        half = len(questions) // 2
        assert [question.question for question in questions[:half]] == [question.question for question in questions[half:]]


def test_all_six_kinds_are_asked():
    assert len({question.task for _, question in all_questions()}) == 6


def test_the_same_story_gives_the_same_questions():
    assert narrate(write_story(3, 180.0), "video") == narrate(write_story(3, 180.0), "video")
    assert narrate(write_story(3, 180.0), "video") != narrate(write_story(4, 180.0), "video")
