"""A `Story` in, questions out: each with the one answer that the story makes true, and when it can be seen.

Every kind has one fixed wording, and asks only about what its words single out: "the star" is the one star of the story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, zip_longest
from random import Random

from lit_hour.types import Question
from lit_hour.world.script import ACTIONS, COLOURS, SHAPES, Difficulty, Scene, Story

MAX_FACTS = 15  # of one story, each asked twice: open-ended and multiple choice
NUM_OPTIONS = 4
YES_OR_NO = ("no", "yes")

Intervals = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Fact:
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


def narrate(story: Story, video_name: str, difficulty: Difficulty = "full") -> list[Question]:
    """Ask about a story: at most `MAX_FACTS` facts, balanced over the kinds, open-ended first and then as multiple choice.

    The two versions of a fact lie far apart, so that questions that share a conversation do not give each other away.
    The same story and name give the same questions, whose ids are `video_name/0`, `video_name/1` and so on.
    """
    random = Random(f"questions of story {story.seed}")
    kinds = EASY_KINDS if difficulty == "easy" else KINDS
    facts = _choose([kind(story, random) for kind in kinds], random)
    numbers = range(len(facts))
    open_ended = [_open_ended(fact, f"{video_name}/{number}") for number, fact in zip(numbers, facts, strict=True)]
    multiple_choice = [
        _multiple_choice(fact, f"{video_name}/{len(facts) + number}", random)
        for number, fact in zip(numbers, facts, strict=True)
    ]
    return open_ended + multiple_choice


def _choose(facts_of_kind: list[list[Fact]], random: Random) -> list[Fact]:
    """Up to `MAX_FACTS`: one of each kind in turn, as long as there are any."""
    shuffled = [random.sample(facts, len(facts)) for facts in facts_of_kind]
    rounds = zip_longest(*shuffled)
    return [fact for facts in rounds for fact in facts if fact is not None][:MAX_FACTS]


def _open_ended(fact: Fact, id: str) -> Question:
    return Question(id, fact.task, "open_ended", fact.question, fact.answer, evidence=fact.evidence)


def _multiple_choice(fact: Fact, id: str, random: Random) -> Question:
    seen = sorted(set(fact.seen) - {fact.answer})
    unseen = sorted(set(fact.answers) - {fact.answer, *seen})
    wrong = random.sample(seen, len(seen)) + random.sample(unseen, len(unseen))
    options = [fact.answer, *wrong[: NUM_OPTIONS - 1]]
    random.shuffle(options)
    return Question(id, fact.task, "multiple_choice", fact.question, fact.answer, tuple(options), fact.evidence)


def _recognize_scenes(story: Story, random: Random) -> list[Fact]:
    """The background of the first and the last scene, and behind a shape that is seen on one background only."""
    backgrounds = _distinct(scene.background for scene in story.scenes)

    def fact(place: str, scenes: list[Scene]) -> Fact:
        question = f"What colour is the background {place}?"
        return Fact("scene/scene_recognition", question, scenes[0].background, COLOURS, backgrounds, _intervals(scenes))

    facts = [fact("of the first scene", [story.scenes[0]]), fact("of the last scene", [story.scenes[-1]])]
    for shape in _shapes(story):
        scenes = _scenes_with(story, shape)
        if len({scene.background for scene in scenes}) == 1:
            facts.append(fact(f"behind the {shape}", scenes))
    return facts


def _recognize_objects(story: Story, random: Random) -> list[Fact]:
    """The shape in the first and the last scene, and before a background that has one shape only."""

    def fact(place: str, scenes: list[Scene]) -> Fact:
        question = f"Which shape is seen {place}?"
        shape = scenes[0].actor.shape
        return Fact("object/object_recognition", question, shape, SHAPES, _shapes(story), _intervals(scenes))

    facts = [fact("in the first scene", [story.scenes[0]]), fact("in the last scene", [story.scenes[-1]])]
    for background in _distinct(scene.background for scene in story.scenes):
        scenes = [scene for scene in story.scenes if scene.background == background]
        if len({scene.actor.shape for scene in scenes}) == 1:
            facts.append(fact(f"on the {background} background", scenes))
    return facts


def _name_attributes(story: Story, random: Random) -> list[Fact]:
    """The colour of each shape that has only one."""
    seen = _distinct(scene.actor.colour for scene in story.scenes)
    facts = []
    for shape in _shapes(story):
        scenes = _scenes_with(story, shape)
        colours = _distinct(scene.actor.colour for scene in scenes)
        if len(colours) == 1:
            question = f"What colour is the {shape}?"
            facts.append(Fact("object/object_attribute", question, colours[0], COLOURS, seen, _intervals(scenes)))
    return facts


def _order_objects(story: Story, random: Random) -> list[Fact]:
    """Which of two shapes comes first; the two are named in random order."""
    facts = []
    for earlier, later in combinations(_shapes(story), 2):
        pair = tuple(random.sample((earlier, later), 2))
        question = f"Which is seen first, the {pair[0]} or the {pair[1]}?"
        evidence = _intervals([_scenes_with(story, earlier)[0], _scenes_with(story, later)[0]])
        facts.append(Fact("temporality/temporal_order", question, earlier, pair, pair, evidence))
    return facts


def _tell_existence(story: Story, random: Random) -> list[Fact]:
    """As many shapes that are there as shapes that are not."""
    present = _shapes(story)
    absent = tuple(shape for shape in SHAPES if shape not in present)
    num_each = min(len(present), len(absent))

    def fact(shape: str, answer: str, evidence: Intervals) -> Fact:
        return Fact("object/object_existence", f"Is there a {shape} in the video?", answer, YES_OR_NO, YES_OR_NO, evidence)

    there = [fact(shape, "yes", _intervals(_scenes_with(story, shape))) for shape in random.sample(present, num_each)]
    whole = ((0.0, story.duration_seconds),)
    not_there = [fact(shape, "no", whole) for shape in random.sample(absent, num_each)]
    return there + not_there


def _recognize_actions(story: Story, random: Random) -> list[Fact]:
    """What each shape does that does only one thing."""
    seen = _distinct(scene.action for scene in story.scenes)
    facts = []
    for shape in _shapes(story):
        scenes = _scenes_with(story, shape)
        actions = _distinct(scene.action for scene in scenes)
        if len(actions) == 1:
            question = f"What does the {shape} do?"
            facts.append(Fact("action/action_recognition", question, actions[0], ACTIONS, seen, _intervals(scenes)))
    return facts


def _shapes(story: Story) -> tuple[str, ...]:
    """The shapes of a story, in the order in which they are first seen."""
    return _distinct(scene.actor.shape for scene in story.scenes)


def _scenes_with(story: Story, shape: str) -> list[Scene]:
    return [scene for scene in story.scenes if scene.actor.shape == shape]


def _intervals(scenes: list[Scene]) -> Intervals:
    return tuple(scene.interval for scene in scenes)


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


Kind = Callable[[Story, Random], list[Fact]]
EASY_KINDS: tuple[Kind, ...] = (_recognize_scenes, _recognize_objects, _name_attributes)
KINDS: tuple[Kind, ...] = (
    *EASY_KINDS,
    _order_objects,
    _tell_existence,
    _recognize_actions,
)
