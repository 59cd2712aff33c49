"""Questions cannot be answered from their words: a text-only baseline is at chance on all tasks."""

from collections import defaultdict
from dataclasses import replace
from itertools import chain
from random import Random

import pytest

from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.story import Difficulty
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import Question
from tests.synthetic.text_only_baseline import TextOnlyBaseline, deviations_above_chance

NUM_TRAIN_STORIES = {"full": 250, "easy": 300, "needles": 200}
TEST_STORIES_PER_TRAIN_STORY = 3
MAX_DEVIATIONS = 3.3  # exceeded by chance once in two thousand tests


def multiple_choice_by_task(
    first_seed: int, difficulty: Difficulty, num_stories: int
) -> dict[str, list[Question]]:
    found = defaultdict(list)
    for seed in range(first_seed, first_seed + num_stories):
        for question in generate_questions(generate_story(seed, 200.0, difficulty), "video"):
            if question.options:
                found[question.task].append(question)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("difficulty", ["full", "easy", "needles"])
def test_text_only_baseline_is_at_chance_on_unseen_stories(difficulty: Difficulty):
    num_train = NUM_TRAIN_STORIES[difficulty]
    num_test = TEST_STORIES_PER_TRAIN_STORY * num_train
    train = multiple_choice_by_task(0, difficulty, num_train)
    test = multiple_choice_by_task(10**6, difficulty, num_test)
    assert test.keys() == train.keys()
    if difficulty == "full":
        assert train.keys() == TASK_OF_KEY.keys()
    baselines = {task: TextOnlyBaseline(train[task]) for task in test}
    for guess in (TextOnlyBaseline.guess_by_features, TextOnlyBaseline.guess_by_frequency):
        guesses = {task: guess(baselines[task], questions) for task, questions in test.items()}
        for task, questions in test.items():
            assert len(train[task]) > 150, task
            assert deviations_above_chance(questions, guesses[task]) < MAX_DEVIATIONS, task
        everything = [list(chain(*by_task.values())) for by_task in (test, guesses)]
        assert deviations_above_chance(*everything) < MAX_DEVIATIONS


@pytest.mark.parametrize("shortcut", ["index", "word", "amount", "similarity"])
def test_text_only_baseline_finds_a_shortcut(shortcut: str):
    """Two in five questions are made answerable from their words."""
    random = Random(shortcut)
    questions = [question_with_shortcut(number, shortcut, random) for number in range(1200)]
    guesses = TextOnlyBaseline(questions[:600]).guess_by_features(questions[600:])
    assert deviations_above_chance(questions[600:], guesses) > 2 * MAX_DEVIATIONS


def question_with_shortcut(number: int, shortcut: str, random: Random) -> Question:
    options = [str(number) for number in random.sample(range(1000), 4)]
    if shortcut == "word":
        options[random.randrange(4)] = "red star"
    if shortcut == "similarity":
        options = ["red star", "red circle", "blue star", "green cross"]
        options = random.sample([f"{option} {random.randint(0, 99)}" for option in options], 4)
    is_leaked = {
        "index": lambda option: option == options[2],
        "word": lambda option: option == "red star",
        "amount": lambda option: option == max(options, key=int),
        "similarity": lambda option: option.startswith("red star"),
    }[shortcut]
    answer = random.choice(options)
    fair = Question(str(number), "", "multiple_choice", "Which?", answer, tuple(options))
    if random.random() < 0.4:
        return replace(fair, answer=next(filter(is_leaked, options)))
    return fair
