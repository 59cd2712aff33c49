"""Questions about the whole video: the order of events, which events happen, and a summary."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

from lit_hour.synthetic.questions.actions import TIMELESS_VERBS
from lit_hour.synthetic.questions.sampling import Fact, Pool, draw_orders
from lit_hour.synthetic.story import PROPS, Action, Story
from lit_hour.synthetic.story_index import StoryIndex, intervals_of, join_items

NUM_DRAWS = 8  # of facts about several actions, which are too many to enumerate
NUM_IN_ORDER = 3
LEAST_LEAD = 1.05  # of the figure present longest over every other one, as a ratio of durations
MEETING_VERBS = ("touches", "pushes")
SUMMARY_QUESTION = (
    "Summarise the video: who is there for the longest time,"
    " and with which backgrounds does it begin and end?"
)


def order_events(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: in which order three events happen, each once and in a scene of its own."""
    actions_of_scene: dict[float, list[Action]] = defaultdict(list)
    for action in index.unique_actions:
        if action.verb in (*TIMELESS_VERBS, "hides"):
            scene = index.story.scene_at(action.start_seconds)
            actions_of_scene[scene.start_seconds].append(action)
    if len(actions_of_scene) < NUM_IN_ORDER:
        return []
    pool = []
    for _ in range(NUM_DRAWS):
        starts = sorted(random.sample(list(actions_of_scene), NUM_IN_ORDER))
        chosen = [random.choice(actions_of_scene[start]) for start in starts]
        clauses = [action.clause for action in chosen]
        orders = draw_orders(clauses, random)
        listed = "; ".join(random.sample(clauses, NUM_IN_ORDER))
        question = f"In which order does this happen: {listed}?"
        pool.append(Fact(question, orders[0], intervals_of(chosen), options=orders))
    return [pool]


def extract_key_events(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which of four events happens.

    The options combine two subjects with two targets; one pair is true.
    """
    clauses = {action.clause for action in index.story.actions}
    key_actions = [
        action for action in index.story.actions if action.verb in (*MEETING_VERBS, "hides")
    ]
    names = [actor.name for actor in index.appearances_by_actor]
    pool = []
    for action in random.sample(key_actions, min(4 * NUM_DRAWS, len(key_actions))):
        candidates = names if action.verb in MEETING_VERBS else PROPS
        targets = [target for target in candidates if target != action.target]
        others = [actor for actor in index.appearances_by_actor if actor != action.actor]
        if not others or not targets:
            continue
        other, target = random.choice(others), random.choice(targets)
        if len({action.actor.name, action.target, other.name, target}) < 4:
            continue
        options = [
            Action(subject, action.verb, *action.interval, object_name).clause
            for subject in (action.actor, other)
            for object_name in (action.target, target)
        ]
        if len(clauses & set(options)) > 1:
            continue
        same = [item for item in index.story.actions if item.clause == action.clause]
        listed = tuple(random.sample(options, len(options)))
        question = f"Which of these happens: {join_items(listed, 'or')}?"
        pool.append(Fact(question, action.clause, intervals_of(same), options=listed))
    return [pool]


def summarize(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which figure is present longest and how the video begins and ends.

    The options combine two figures with the two orders of the backgrounds.
    """
    first, last = index.story.scenes[0], index.story.scenes[-1]
    main = main_figure(index.story)
    others = [actor.name for actor in index.appearances_by_actor if actor.name != main]
    if main is None or not others or first.background == last.background:
        return []
    ends = first.background.name, last.background.name
    options = tuple(
        _summary(name, *pair)
        for name in (main, random.choice(others))
        for pair in (ends, ends[::-1])
    )
    appearances = [item for item in index.story.appearances if item.actor.name == main]
    evidence = {first.interval, *intervals_of(appearances), last.interval}
    return [[Fact(SUMMARY_QUESTION, options[0], tuple(sorted(evidence)), options=options)]]


def main_figure(story: Story) -> str | None:
    """Return the name of the figure that is present clearly longest, or None."""
    seconds: Counter[str] = Counter()
    for appearance in story.appearances:
        duration = appearance.end_seconds - appearance.start_seconds
        seconds[appearance.actor.name] += round(duration)
    (name, longest), *others = seconds.most_common(2)
    return name if all(longest >= LEAST_LEAD * other for _, other in others) else None


def _summary(name: str, begin: str, end: str) -> str:
    return (
        f"The {name} is there for the longest time."
        f" The video begins on a {begin} background and ends on a {end} one."
    )
