"""Questions about figures: which is where, what it looks like, whom it meets, how often it comes, and where it is unseen."""

from __future__ import annotations

from collections import Counter
from itertools import product
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool
from lit_hour.synthetic.story import COLORS, SHAPES, Action, Interval
from lit_hour.synthetic.story_index import StoryIndex, format_clock, intervals_of, join_items

NUM_DRAWS = 24  # of facts about existence, of which there are too many to list
TOLD_APART_SECONDS = 2  # of being hidden, at least


def recognize_objects(look: StoryIndex, random: Random) -> list[Pool]:
    """Which figure stands at a place while nothing happens."""
    return [
        [
            Fact(
                f"Which figure is in the {quiet.cell_name(stay)} at {format_clock(quiet.interval[0])}?",
                stay.actor.name,
                (quiet.interval,),
            )
            for quiet in look.still_moments
            for stay in quiet.visible()
        ]
    ]


def name_attributes(look: StoryIndex, random: Random) -> list[Pool]:
    """The colour of a shape that is alone of its kind at a moment, and the size of each figure."""
    colours = []
    for quiet in look.still_moments:
        shapes = Counter(stay.actor.shape for stay in quiet.visible())
        for stay in quiet.visible():
            if shapes[stay.actor.shape] == 1:
                question = (
                    f"What colour is the {stay.actor.shape} at {format_clock(quiet.interval[0])}?"
                )
                colours.append(Fact(question, stay.actor.color, (quiet.interval,)))
    sizes = [
        Fact(
            f"How large is the {actor.name}: small or large?", actor.size_word, intervals_of(stays)
        )
        for actor, stays in look.appearances_by_actor.items()
    ]
    return [colours, sizes]


def name_partners(look: StoryIndex, random: Random) -> list[Pool]:
    """To whom something is done."""
    done = {"touches": "touched", "pushes": "pushed"}
    return [
        [
            Fact(
                f"Which figure is {done[deed.verb]} by another at {format_clock(sum(deed.interval) // 2)}?",
                deed.target,
                (deed.interval,),
            )
            for deed in look.story.actions
            if deed.verb in done
        ]
    ]


def count_scenes(look: StoryIndex, random: Random) -> list[Pool]:
    """In how many scenes each figure is seen."""
    num_scenes = Counter(actor for scene in look.story.scenes for actor in scene.actors)
    return [
        [
            Fact(
                f"In how many scenes is the {actor.name} seen?",
                str(num_scenes[actor]),
                intervals_of(stays),
            )
            for actor, stays in look.appearances_by_actor.items()
        ]
    ]


def tell_existence(look: StoryIndex, random: Random) -> list[Pool]:
    """Two colours and two shapes make four figures, of which one alone is in the video; the halves of the others may be."""
    names = {actor.name for actor in look.appearances_by_actor}
    colours = sorted({actor.color for actor in look.appearances_by_actor}, key=COLORS.index)
    shapes = sorted({actor.shape for actor in look.appearances_by_actor}, key=SHAPES.index)
    pool = []
    for _ in range(NUM_DRAWS):
        actor = random.choice(list(look.appearances_by_actor))
        other_colours = [colour for colour in colours if colour != actor.color]
        other_shapes = [shape for shape in shapes if shape != actor.shape]
        if not other_colours or not other_shapes:
            continue
        pairs = product(
            (actor.color, random.choice(other_colours)), (actor.shape, random.choice(other_shapes))
        )
        options = [f"{colour} {shape}" for colour, shape in pairs]
        if len(names & set(options)) > 1:
            continue
        listing = random.sample(options, len(options))
        question = f"Which of these is seen in the video: {join_items([f'a {option}' for option in listing], 'or')}?"
        pool.append(
            Fact(
                question,
                actor.name,
                intervals_of(look.appearances_by_actor[actor]),
                options=tuple(listing),
            )
        )
    return [pool]


def find_hidden(look: StoryIndex, random: Random) -> list[Pool]:
    """Who is behind a prop, and behind which prop one is, when it cannot be seen."""
    who, where = [], []
    for hides, hidden, evidence in _hidings(look):
        moment = format_clock(sum(hidden) // 2)
        who.append(
            Fact(
                f"Which figure is hidden behind the {hides.target} at {moment}?",
                hides.actor.name,
                evidence,
            )
        )
        question = f"Where is the {hides.actor.name} at {moment}, when it cannot be seen?"
        where.append(Fact(question, f"behind the {hides.target}", evidence))
    return [who, where]


def _hidings(look: StoryIndex) -> list[tuple[Action, Interval, tuple[Interval, ...]]]:
    """Each time that someone hides: the deed, when it is hidden, and when one sees it go and come back."""
    found = []
    for scene in look.story.scenes:
        for index, hides in enumerate(scene.actions):
            if hides.verb != "hides":
                continue
            outs = [deed for deed in scene.actions[index:] if deed.verb == "comes out"][:1]
            hidden = hides.end_seconds, outs[0].start_seconds if outs else scene.end_seconds
            if hidden[1] - hidden[0] >= TOLD_APART_SECONDS:
                found.append((hides, hidden, intervals_of([hides, *outs])))
    return found
