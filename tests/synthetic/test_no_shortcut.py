"""Nobody who has only the words can answer: neither on one task nor on all together, on stories that were not trained on."""

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
from tests.synthetic.guess import Guesser, deviations_above_chance

NUM_STORIES = {"full": 250, "easy": 300, "needles": 200}
LIMIT = 3.3  # one fair coin in two thousand does better


def choices(first_seed: int, difficulty: Difficulty) -> dict[str, list[Question]]:
    """Multiple-choice questions by task."""
    found = defaultdict(list)
    for seed in range(first_seed, first_seed + NUM_STORIES[difficulty]):
        for question in generate_questions(generate_story(seed, 200.0, difficulty), "video"):
            if question.options:
                found[question.task].append(question)
    return found


@pytest.mark.parametrize("difficulty", ["full", "easy", "needles"])
def test_words_alone_answer_no_better_than_a_coin(difficulty: Difficulty):
    learnt, unseen = choices(0, difficulty), choices(10**6, difficulty)
    assert (
        unseen.keys()
        == learnt.keys()
        == (TASK_OF_KEY.keys() if difficulty == "full" else learnt.keys())
    )
    guessers = {task: Guesser(learnt[task]) for task in unseen}
    for way in (Guesser.read, Guesser.remember):
        guesses = {task: way(guessers[task], asked) for task, asked in unseen.items()}
        for task, asked in unseen.items():
            assert len(asked) > 150 and deviations_above_chance(asked, guesses[task]) < LIMIT, task
        everything = [list(chain(*by_task.values())) for by_task in (unseen, guesses)]
        assert deviations_above_chance(*everything) < LIMIT


@pytest.mark.parametrize("shortcut", ["place", "word", "amount", "likeness"])
def test_a_shortcut_would_be_found(shortcut: str):
    """The same baseline, on questions of which two in five can be answered from their words."""
    random = Random(shortcut)
    asked = [leak(number, shortcut, random) for number in range(1200)]
    guesses = Guesser(asked[:600]).read(asked[600:])
    assert deviations_above_chance(asked[600:], guesses) > 2 * LIMIT


def leak(number: int, shortcut: str, random: Random) -> Question:
    options = [str(number) for number in random.sample(range(1000), 4)]
    if shortcut == "word":
        options[random.randrange(4)] = "red star"
    if shortcut == "likeness":
        options = ["red star", "red circle", "blue star", "green cross"]
        options = random.sample([f"{option} {random.randint(0, 99)}" for option in options], 4)
    is_leak = {
        "place": lambda option: option == options[2],
        "word": lambda option: option == "red star",
        "amount": lambda option: option == max(options, key=int),
        "likeness": lambda option: option.startswith("red star"),
    }[shortcut]
    fair = Question(
        str(number), "", "multiple_choice", "Which?", random.choice(options), tuple(options)
    )
    return replace(fair, answer=next(filter(is_leak, options))) if random.random() < 0.4 else fair
