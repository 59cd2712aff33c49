"""Questions with answers from a small fixed set, for easy and needle stories.

Each kind of question has one fixed wording. It is only generated where its words identify one
thing: "the star" is the only star of the story.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.story import Interval, Story
from lit_hour.types import Question

MAX_FACTS = 15  # per story; each becomes an open-ended and a multiple-choice question
NUM_OPTIONS = 4


@dataclass(frozen=True)
class ClosedSetFact:
    """A question about a story with its answer, one of a fixed set.

    Attributes:
        task: a key of the taxonomy.
        question: in the wording of its kind.
        answer: one of `answers`.
        answers: every answer that such a question can have in any story.
        shown: the answers that this story shows. They are preferred as wrong options, because
            they are harder to exclude.
        evidence: intervals that show the answer, in seconds.
    """

    task: str
    question: str
    answer: str
    answers: tuple[str, ...]
    shown: tuple[str, ...]
    evidence: tuple[Interval, ...]


FactGenerators = Mapping[str, Callable[[Story], list[ClosedSetFact]]]  # by task


def generate_closed_set_questions(
    story: Story, key: str, generators: FactGenerators, tasks: Sequence[str] = ()
) -> list[Question]:
    """Generate at most `MAX_FACTS` open-ended questions, and then the same as multiple choice.

    The facts are balanced over the generators. The two versions of a fact lie far apart, so that
    questions of one conversation do not give each other away.

    Args:
        story: an easy or a needle story.
        key: name of the video; the ids of the questions start with it.
        generators: those of the story's difficulty.
        tasks: keys of the taxonomy; all of `generators` if empty.

    Raises:
        SyntheticDataError: such stories have no material for one of `tasks`.
    """
    if unknown := [task for task in tasks if task not in generators]:
        raise SyntheticDataError(
            f"A story of synthetic.difficulty={story.difficulty} has no material for {unknown[0]}."
            f" It supports {', '.join(generators)}."
            " Set synthetic.difficulty=full, which supports every task."
        )
    random = Random(f"questions of story {story.seed}")
    chosen = [generate for task, generate in generators.items() if not tasks or task in tasks]
    facts = _draw_facts([generate(story) for generate in chosen], random)
    open_ended = [_open_ended(fact, f"{key}/{number}") for number, fact in enumerate(facts)]
    multiple_choice = [
        _multiple_choice(fact, f"{key}/{number}", random)
        for number, fact in enumerate(facts, start=len(facts))
    ]
    return open_ended + multiple_choice


def _draw_facts(facts_by_kind: list[list[ClosedSetFact]], random: Random) -> list[ClosedSetFact]:
    """Draw up to `MAX_FACTS` in random order, as evenly over the kinds as there are facts."""
    shuffled = [random.sample(facts, len(facts)) for facts in facts_by_kind]
    rounds = zip_longest(*shuffled)
    chosen = [fact for facts in rounds for fact in facts if fact is not None][:MAX_FACTS]
    return random.sample(chosen, len(chosen))


def _open_ended(fact: ClosedSetFact, id: str) -> Question:
    return Question(id, fact.task, "open_ended", fact.question, fact.answer, evidence=fact.evidence)


def _multiple_choice(fact: ClosedSetFact, id: str, random: Random) -> Question:
    shown = sorted(set(fact.shown) - {fact.answer})
    others = sorted(set(fact.answers) - {fact.answer, *shown})
    wrong = random.sample(shown, len(shown)) + random.sample(others, len(others))
    options = [fact.answer, *wrong[: NUM_OPTIONS - 1]]
    random.shuffle(options)
    return Question(
        id, fact.task, "multiple_choice", fact.question, fact.answer, tuple(options), fact.evidence
    )
