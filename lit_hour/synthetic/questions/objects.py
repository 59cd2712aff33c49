"""Questions about figures: which is where, what it looks like, whom it meets, how often it comes, and where it is unseen."""

from __future__ import annotations

from collections import Counter
from itertools import product
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool
from lit_hour.synthetic.story import COLOURS, SHAPES, Deed, Interval
from lit_hour.synthetic.story_index import Look, clock, intervals, listed

NUM_DRAWS = 24  # of facts about existence, of which there are too many to list
TOLD_APART_SECONDS = 2  # of being hidden, at least


def recognize_objects(look: Look, random: Random) -> list[Pool]:
    """Which figure stands at a place while nothing happens."""
    return [
        [
            Fact(
                f"Which figure is in the {quiet.place(stay)} at {clock(quiet.interval[0])}?",
                stay.actor.name,
                (quiet.interval,),
            )
            for quiet in look.quiet
            for stay in quiet.visible()
        ]
    ]


def name_attributes(look: Look, random: Random) -> list[Pool]:
    """The colour of a shape that is alone of its kind at a moment, and the size of each figure."""
    colours = []
    for quiet in look.quiet:
        shapes = Counter(stay.actor.shape for stay in quiet.visible())
        for stay in quiet.visible():
            if shapes[stay.actor.shape] == 1:
                question = f"What colour is the {stay.actor.shape} at {clock(quiet.interval[0])}?"
                colours.append(Fact(question, stay.actor.colour, (quiet.interval,)))
    sizes = [
        Fact(f"How large is the {actor.name}: small or large?", actor.size_word, intervals(stays))
        for actor, stays in look.stays_of.items()
    ]
    return [colours, sizes]


def name_partners(look: Look, random: Random) -> list[Pool]:
    """To whom something is done."""
    done = {"touches": "touched", "pushes": "pushed"}
    return [
        [
            Fact(
                f"Which figure is {done[deed.action]} by another at {clock(sum(deed.interval) // 2)}?",
                deed.target,
                (deed.interval,),
            )
            for deed in look.story.deeds
            if deed.action in done
        ]
    ]


def count_scenes(look: Look, random: Random) -> list[Pool]:
    """In how many scenes each figure is seen."""
    num_scenes = Counter(actor for scene in look.story.scenes for actor in scene.actors)
    return [
        [
            Fact(
                f"In how many scenes is the {actor.name} seen?",
                str(num_scenes[actor]),
                intervals(stays),
            )
            for actor, stays in look.stays_of.items()
        ]
    ]


def tell_existence(look: Look, random: Random) -> list[Pool]:
    """Two colours and two shapes make four figures, of which one alone is in the video; the halves of the others may be."""
    names = {actor.name for actor in look.stays_of}
    colours = sorted({actor.colour for actor in look.stays_of}, key=COLOURS.index)
    shapes = sorted({actor.shape for actor in look.stays_of}, key=SHAPES.index)
    pool = []
    for _ in range(NUM_DRAWS):
        actor = random.choice(list(look.stays_of))
        other_colours = [colour for colour in colours if colour != actor.colour]
        other_shapes = [shape for shape in shapes if shape != actor.shape]
        if not other_colours or not other_shapes:
            continue
        pairs = product(
            (actor.colour, random.choice(other_colours)), (actor.shape, random.choice(other_shapes))
        )
        options = [f"{colour} {shape}" for colour, shape in pairs]
        if len(names & set(options)) > 1:
            continue
        listing = random.sample(options, len(options))
        question = f"Which of these is seen in the video: {listed([f'a {option}' for option in listing], 'or')}?"
        pool.append(
            Fact(question, actor.name, intervals(look.stays_of[actor]), options=tuple(listing))
        )
    return [pool]


def find_hidden(look: Look, random: Random) -> list[Pool]:
    """Who is behind a prop, and behind which prop one is, when it cannot be seen."""
    who, where = [], []
    for hides, hidden, evidence in _hidings(look):
        moment = clock(sum(hidden) // 2)
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


def _hidings(look: Look) -> list[tuple[Deed, Interval, tuple[Interval, ...]]]:
    """Each time that someone hides: the deed, when it is hidden, and when one sees it go and come back."""
    found = []
    for scene in look.story.scenes:
        for index, hides in enumerate(scene.deeds):
            if hides.action != "hides":
                continue
            outs = [deed for deed in scene.deeds[index:] if deed.action == "comes out"][:1]
            hidden = hides.end_seconds, outs[0].start_seconds if outs else scene.end_seconds
            if hidden[1] - hidden[0] >= TOLD_APART_SECONDS:
                found.append((hides, hidden, intervals([hides, *outs])))
    return found
