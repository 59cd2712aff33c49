"""Questions about deeds: which, when, in which order, why, and which most of all."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool, draw_orders
from lit_hour.synthetic.story import SOLO_VERBS, Action, Actor
from lit_hour.synthetic.story_index import StoryIndex, format_clock, intervals_of

NUM_IN_ORDER = 3
INFINITIVE = {
    "moves": "move",
    "spins": "spin",
    "grows": "grow",
    "shrinks": "shrink",
    "blinks": "blink",
    "bounces": "bounce",
    "touches": "touch",
    "pushes": "push",
}
TIMELESS = (
    *SOLO_VERBS,
    "touches",
    "pushes",
)  # as likely early as late, where one enters before one returns


def recognize_actions(look: StoryIndex, random: Random) -> list[Pool]:
    """What a figure does at a moment."""
    return [
        [
            Fact(
                f"What does the {deed.actor.name} do at {format_clock(deed.start_seconds + 1)}?",
                deed.verb,
                (deed.interval,),
            )
            for deed in look.solo_actions
        ]
    ]


def locate_actions(look: StoryIndex, random: Random) -> list[Pool]:
    """When a figure does what it does only once."""
    return [
        [
            Fact(
                f"When does the {deed.actor.name} {infinitive(deed)}?",
                f"from {format_clock(deed.start_seconds)} to {format_clock(deed.end_seconds)}",
                (deed.interval,),
            )
            for deed in look.unique_actions
            if deed.verb in TIMELESS
        ]
    ]


def order_actions(look: StoryIndex, random: Random) -> list[Pool]:
    """In which order a figure does three things that it does once each."""
    deeds_of: dict[Actor, list[Action]] = defaultdict(list)
    for deed in look.unique_actions:
        if deed.verb in SOLO_VERBS:
            deeds_of[deed.actor].append(deed)
    pool = []
    for actor, deeds in deeds_of.items():
        if len(deeds) < NUM_IN_ORDER:
            continue
        chosen = [deeds[index] for index in sorted(random.sample(range(len(deeds)), NUM_IN_ORDER))]
        orders = draw_orders([deed.verb for deed in chosen], random)
        first, second, third = random.sample([infinitive(deed) for deed in chosen], NUM_IN_ORDER)
        question = (
            f"In which order does the {actor.name} do these, each once: {first}, {second}, {third}?"
        )
        pool.append(Fact(question, orders[0], intervals_of(chosen), options=orders))
    return [pool]


def reason_about_actions(look: StoryIndex, random: Random) -> list[Pool]:
    """Why a figure changes its place that does nothing itself, and what each figure does most often."""
    causes = []
    for deed in look.story.actions:
        if deed.verb == "pushes":
            moment = format_clock(deed.start_seconds + (deed.end_seconds - deed.start_seconds) // 2)
            question = f"Why does the {deed.target} change its place at {moment}?"
            causes.append(
                Fact(
                    question,
                    _cause(deed.actor.name),
                    (deed.interval,),
                    rules_out=(_cause(deed.target),),
                )
            )
    deeds_of: dict[Actor, list[Action]] = defaultdict(list)
    for deed in look.solo_actions:
        deeds_of[deed.actor].append(deed)
    favourites = []
    for actor, deeds in deeds_of.items():
        (action, most), *others = Counter(deed.verb for deed in deeds).most_common(2)
        if most > max([1, *(count for _, count in others)]):
            evidence = intervals_of([deed for deed in deeds if deed.verb == action])
            favourites.append(
                Fact(f"What does the {actor.name} do most often by itself?", action, evidence)
            )
    return [causes, favourites]


def infinitive(deed: Action) -> str:
    """`touch the blue circle` of `touches the blue circle`."""
    verb, _, rest = deed.predicate.partition(" ")
    return f"{INFINITIVE[verb]} {rest}".strip()


def _cause(name: str) -> str:
    return f"the {name} pushes it"
