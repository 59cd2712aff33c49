"""An easy `Story` in, questions out: which colour, and which shape. Each has the one answer that the story makes true.

Every kind has one fixed wording, and asks only about what its words single out: "the star" is the one star of the story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.story import COLORS, SHAPES, Actor, Interval, Scene, Story
from lit_hour.types import Question

MAX_FACTS = 15  # of one story, each asked twice: open-ended and multiple choice
NUM_OPTIONS = 4

Intervals = tuple[Interval, ...]
FactGenerators = Mapping[
    str, Callable[[Story], list["ClosedSetFact"]]
]  # task -> what can be asked of it about a story


@dataclass(frozen=True)
class ClosedSetFact:
    """Something true about a story, as a question and its answer.

    Attributes:
        task: a key of the taxonomy.
        question: in the wording of its kind.
        answer: one of `answers`.
        answers: every answer that such a question can have, in any story.
        seen: what this story shows of `answers`; wrong options come from here first, since they are the harder ones.
        evidence: where the answer is seen, in seconds.
    """

    task: str
    question: str
    answer: str
    answers: tuple[str, ...]
    seen: tuple[str, ...]
    evidence: Intervals


def generate_closed_set_questions(
    story: Story, key: str, kinds: FactGenerators, tasks: Sequence[str] = ()
) -> list[Question]:
    """Ask about a story: at most `MAX_FACTS` facts, balanced over the kinds, open-ended first and then as multiple choice.

    The two versions of a fact lie far apart, so that questions that share a conversation do not give each other away.

    Args:
        key: the name of the video, with which the ids of the questions begin.
        kinds: what there is to ask about such stories.
        tasks: keys of the taxonomy; none for all of `kinds`.

    Raises:
        SyntheticDataError: an easy story has no material for one of `tasks`.
    """
    if strange := [task for task in tasks if task not in kinds]:
        raise SyntheticDataError(
            f"a story of synthetic.difficulty={story.difficulty} has no material for {strange[0]}: it is asked about for"
            f" {', '.join(kinds)}; synthetic.difficulty=full has material for every task"
        )
    random = Random(f"questions of story {story.seed}")
    facts = _choose(
        [kind(story) for task, kind in kinds.items() if not tasks or task in tasks], random
    )
    numbers = range(len(facts))
    open_ended = [
        _open_ended(fact, f"{key}/{number}") for number, fact in zip(numbers, facts, strict=True)
    ]
    multiple_choice = [
        _multiple_choice(fact, f"{key}/{len(facts) + number}", random)
        for number, fact in zip(numbers, facts, strict=True)
    ]
    return open_ended + multiple_choice


def _choose(facts_of_kind: list[list[ClosedSetFact]], random: Random) -> list[ClosedSetFact]:
    """Up to `MAX_FACTS`: as many of each kind as there are, if there is room, in an order that says nothing of their kinds."""
    shuffled = [random.sample(facts, len(facts)) for facts in facts_of_kind]
    rounds = zip_longest(*shuffled)
    chosen = [fact for facts in rounds for fact in facts if fact is not None][:MAX_FACTS]
    return random.sample(chosen, len(chosen))


def _open_ended(fact: ClosedSetFact, id: str) -> Question:
    return Question(id, fact.task, "open_ended", fact.question, fact.answer, evidence=fact.evidence)


def _multiple_choice(fact: ClosedSetFact, id: str, random: Random) -> Question:
    seen = sorted(set(fact.seen) - {fact.answer})
    unseen = sorted(set(fact.answers) - {fact.answer, *seen})
    wrong = random.sample(seen, len(seen)) + random.sample(unseen, len(unseen))
    options = [fact.answer, *wrong[: NUM_OPTIONS - 1]]
    random.shuffle(options)
    return Question(
        id, fact.task, "multiple_choice", fact.question, fact.answer, tuple(options), fact.evidence
    )


def _recognize_scenes(story: Story) -> list[ClosedSetFact]:
    """The background of the first and the last scene, and behind a shape that is seen on one background only."""
    backgrounds = _distinct(scene.background.color for scene in story.scenes)

    def fact(place: str, scenes: list[Scene]) -> ClosedSetFact:
        question = f"What colour is the background {place}?"
        return ClosedSetFact(
            "scene/scene_recognition",
            question,
            scenes[0].background.color,
            COLORS,
            backgrounds,
            _intervals(scenes),
        )

    facts = [
        fact("of the first scene", [story.scenes[0]]),
        fact("of the last scene", [story.scenes[-1]]),
    ]
    for shape in _shapes(story):
        scenes = _scenes_with(story, shape)
        if len({scene.background.color for scene in scenes}) == 1:
            facts.append(fact(f"behind the {shape}", scenes))
    return facts


def _recognize_objects(story: Story) -> list[ClosedSetFact]:
    """The shape in the first and the last scene, and before a background that has one shape only."""

    def fact(place: str, scenes: list[Scene]) -> ClosedSetFact:
        question = f"Which shape is seen {place}?"
        shape = _actor(scenes[0]).shape
        return ClosedSetFact(
            "object/object_recognition", question, shape, SHAPES, _shapes(story), _intervals(scenes)
        )

    facts = [
        fact("in the first scene", [story.scenes[0]]),
        fact("in the last scene", [story.scenes[-1]]),
    ]
    for background in _distinct(scene.background.color for scene in story.scenes):
        scenes = [scene for scene in story.scenes if scene.background.color == background]
        if len({_actor(scene).shape for scene in scenes}) == 1:
            facts.append(fact(f"on the {background} background", scenes))
    return facts


def _name_attributes(story: Story) -> list[ClosedSetFact]:
    """The colour of each shape that has only one."""
    seen = _distinct(_actor(scene).color for scene in story.scenes)
    facts = []
    for shape in _shapes(story):
        scenes = _scenes_with(story, shape)
        colours = _distinct(_actor(scene).color for scene in scenes)
        if len(colours) == 1:
            question = f"What colour is the {shape}?"
            facts.append(
                ClosedSetFact(
                    "object/object_attribute",
                    question,
                    colours[0],
                    COLORS,
                    seen,
                    _intervals(scenes),
                )
            )
    return facts


def _actor(scene: Scene) -> Actor:
    """The one figure of a scene."""
    return scene.appearances[0].actor


def _shapes(story: Story) -> tuple[str, ...]:
    """The shapes of a story, in the order in which they are first seen."""
    return _distinct(_actor(scene).shape for scene in story.scenes)


def _scenes_with(story: Story, shape: str) -> list[Scene]:
    return [scene for scene in story.scenes if _actor(scene).shape == shape]


def _intervals(scenes: list[Scene]) -> Intervals:
    return tuple(scene.interval for scene in scenes)


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


FACT_GENERATORS: FactGenerators = {
    "scene/scene_recognition": _recognize_scenes,
    "object/object_recognition": _recognize_objects,
    "object/object_attribute": _name_attributes,
}
