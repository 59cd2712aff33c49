"""Questions about the whole video: in which order things happen, what happens at all, and a summary in two sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

from lit_hour.synthetic.questions.actions import TIMELESS
from lit_hour.synthetic.questions.sampling import Fact, Pool, draw_orders
from lit_hour.synthetic.story import PROPS, Action, Story
from lit_hour.synthetic.story_index import StoryIndex, intervals_of, join_items

NUM_DRAWS = 8  # of facts about several deeds, of which there are too many to list
NUM_IN_ORDER = 3
CLEARLY = 1.05  # times as long as anybody else
MEETINGS = ("touches", "pushes")
QUESTION_OF_SUMMARY = "Summarise the video: who is there for the longest time, and with which backgrounds does it begin and end?"


def order_events(look: StoryIndex, random: Random) -> list[Pool]:
    """In which order three things happen, each once and in scenes of their own."""
    deeds_of_scene: dict[float, list[Action]] = defaultdict(list)
    for deed in look.unique_actions:
        if deed.verb in (*TIMELESS, "hides"):
            deeds_of_scene[look.story.scene_at(deed.start_seconds).start_seconds].append(deed)
    if len(deeds_of_scene) < NUM_IN_ORDER:
        return []
    pool = []
    for _ in range(NUM_DRAWS):
        starts = sorted(random.sample(list(deeds_of_scene), NUM_IN_ORDER))
        chosen = [random.choice(deeds_of_scene[start]) for start in starts]
        clauses = [deed.clause for deed in chosen]
        orders = draw_orders(clauses, random)
        question = (
            f"In which order does this happen: {'; '.join(random.sample(clauses, NUM_IN_ORDER))}?"
        )
        pool.append(Fact(question, orders[0], intervals_of(chosen), options=orders))
    return [pool]


def extract_key_events(look: StoryIndex, random: Random) -> list[Pool]:
    """Two who may do something and two to whom it may be done make four events, of which one happens."""
    happened = {deed.clause for deed in look.story.actions}
    key_deeds = [deed for deed in look.story.actions if deed.verb in (*MEETINGS, "hides")]
    names = [actor.name for actor in look.appearances_by_actor]
    pool = []
    for deed in random.sample(key_deeds, min(4 * NUM_DRAWS, len(key_deeds))):
        targets = [
            word for word in (names if deed.verb in MEETINGS else PROPS) if word != deed.target
        ]
        others = [actor for actor in look.appearances_by_actor if actor != deed.actor]
        if not others or not targets:
            continue
        actor, target = random.choice(others), random.choice(targets)
        if len({deed.actor.name, deed.target, actor.name, target}) < 4:
            continue
        options = [
            Action(who, deed.verb, *deed.interval, whom).clause
            for who in (deed.actor, actor)
            for whom in (deed.target, target)
        ]
        if len(happened & set(options)) > 1:
            continue
        evidence = intervals_of(
            [other for other in look.story.actions if other.clause == deed.clause]
        )
        listing = random.sample(options, len(options))
        pool.append(
            Fact(
                f"Which of these happens: {join_items(listing, 'or')}?",
                deed.clause,
                evidence,
                options=tuple(listing),
            )
        )
    return [pool]


def summarize(look: StoryIndex, random: Random) -> list[Pool]:
    """Who is there longest, and how the video begins and ends: true of one of two figures and one of two directions."""
    first, last = look.story.scenes[0], look.story.scenes[-1]
    main = main_figure(look.story)
    others = [actor.name for actor in look.appearances_by_actor if actor.name != main]
    if main is None or not others or first.background == last.background:
        return []
    ends = first.background.name, last.background.name
    options = [
        _summary(name, *pair)
        for name in (main, random.choice(others))
        for pair in (ends, ends[::-1])
    ]
    main_stays = [stay for stay in look.story.appearances if stay.actor.name == main]
    evidence = tuple(sorted({first.interval, *intervals_of(main_stays), last.interval}))
    return [[Fact(QUESTION_OF_SUMMARY, options[0], evidence, options=tuple(options))]]


def main_figure(story: Story) -> str | None:
    """The name of the figure that is there for clearly the longest time, or None."""
    seconds: Counter[str] = Counter()
    for stay in story.appearances:
        seconds[stay.actor.name] += round(stay.end_seconds - stay.start_seconds)
    (name, longest), *others = seconds.most_common(2)
    return name if all(longest >= CLEARLY * other for _, other in others) else None


def _summary(name: str, begin: str, end: str) -> str:
    return f"The {name} is there for the longest time. The video begins on a {begin} background and ends on a {end} one."
