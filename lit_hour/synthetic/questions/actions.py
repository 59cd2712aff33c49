"""Questions about actions: which, when, in which order, why, and which most often."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool, draw_orders
from lit_hour.synthetic.story import SOLO_VERBS, Action, Actor
from lit_hour.synthetic.story_index import StoryIndex, intervals_of
from lit_hour.text.timestamp import format_timestamp

NUM_IN_ORDER = 3
INFINITIVES = {
    "moves": "move",
    "spins": "spin",
    "grows": "grow",
    "shrinks": "shrink",
    "blinks": "blink",
    "bounces": "bounce",
    "touches": "touch",
    "pushes": "push",
}
# Verbs that are as likely early in a video as late; "enters", for example, comes before "returns".
TIMELESS_VERBS = (*SOLO_VERBS, "touches", "pushes")


def recognize_actions(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: what a figure does at a time."""
    return [
        [
            Fact(
                f"What does the {action.actor.name} do"
                f" at {format_timestamp(action.start_seconds + 1)}?",
                action.verb,
                (action.interval,),
            )
            for action in index.solo_actions
        ]
    ]


def locate_actions(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: when a figure does what it does only once."""
    return [
        [
            Fact(
                f"When does the {action.actor.name} {infinitive(action)}?",
                f"from {format_timestamp(action.start_seconds)}"
                f" to {format_timestamp(action.end_seconds)}",
                (action.interval,),
            )
            for action in index.unique_actions
            if action.verb in TIMELESS_VERBS
        ]
    ]


def order_actions(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: in which order a figure does three things that it does once each."""
    unique_solo = [action for action in index.unique_actions if action.verb in SOLO_VERBS]
    pool = []
    for actor, actions in _by_actor(unique_solo).items():
        if len(actions) < NUM_IN_ORDER:
            continue
        chosen = [actions[i] for i in sorted(random.sample(range(len(actions)), NUM_IN_ORDER))]
        orders = draw_orders([action.verb for action in chosen], random)
        listed = ", ".join(random.sample([infinitive(action) for action in chosen], NUM_IN_ORDER))
        question = f"In which order does the {actor.name} do these, each once: {listed}?"
        pool.append(Fact(question, orders[0], intervals_of(chosen), options=orders))
    return [pool]


def reason_about_actions(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: why a pushed figure moves, and what each figure does most often."""
    causes = []
    for action in index.story.actions:
        if action.verb == "pushes":
            middle = action.start_seconds + (action.end_seconds - action.start_seconds) // 2
            question = (
                f"Why does the {action.target} change its place at {format_timestamp(middle)}?"
            )
            answer, impossible = _cause(action.actor.name), _cause(action.target)
            causes.append(Fact(question, answer, (action.interval,), rules_out=(impossible,)))
    habits = []
    for actor, actions in _by_actor(index.solo_actions).items():
        (verb, most), *others = Counter(action.verb for action in actions).most_common(2)
        if most > max([1, *(count for _, count in others)]):
            evidence = intervals_of([action for action in actions if action.verb == verb])
            question = f"What does the {actor.name} do most often by itself?"
            habits.append(Fact(question, verb, evidence))
    return [causes, habits]


def infinitive(action: Action) -> str:
    """Return the predicate of an action as an infinitive: `touch the blue circle`."""
    verb, _, rest = action.predicate.partition(" ")
    return f"{INFINITIVES[verb]} {rest}".strip()


def _by_actor(actions: list[Action]) -> dict[Actor, list[Action]]:
    found: dict[Actor, list[Action]] = defaultdict(list)
    for action in actions:
        found[action.actor].append(action)
    return found


def _cause(name: str) -> str:
    return f"the {name} pushes it"
