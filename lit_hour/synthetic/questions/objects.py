"""Questions about figures: identity, attributes, meetings, number of scenes, hidden figures."""

from __future__ import annotations

from collections import Counter
from itertools import product
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool
from lit_hour.synthetic.story import COLORS, SHAPES, Action, Interval
from lit_hour.synthetic.story_index import StoryIndex, intervals_of, join_items
from lit_hour.text.timestamp import format_timestamp

NUM_DRAWS = 24  # of facts about existence, which are too many to enumerate
LEAST_HIDDEN_SECONDS = 2
PARTICIPLES = {"touches": "touched", "pushes": "pushed"}


def recognize_objects(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which figure stands in a cell at a still moment."""
    return [
        [
            Fact(
                f"Which figure is in the {moment.cell_name(appearance)}"
                f" at {format_timestamp(moment.interval[0])}?",
                appearance.actor.name,
                (moment.interval,),
            )
            for moment in index.still_moments
            for appearance in moment.visible()
        ]
    ]


def recognize_attributes(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: the color of the only visible figure of a shape, and the size of a figure."""
    colors = []
    for moment in index.still_moments:
        actors = [appearance.actor for appearance in moment.visible()]
        counts = Counter(actor.shape for actor in actors)
        for actor in actors:
            if counts[actor.shape] == 1:
                timestamp = format_timestamp(moment.interval[0])
                question = f"What colour is the {actor.shape} at {timestamp}?"
                colors.append(Fact(question, actor.color, (moment.interval,)))
    sizes = [
        Fact(
            f"How large is the {actor.name}: small or large?",
            actor.size_word,
            intervals_of(appearances),
        )
        for actor, appearances in index.appearances_by_actor.items()
    ]
    return [colors, sizes]


def recognize_partners(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which figure is touched or pushed at a time."""
    return [
        [
            Fact(
                f"Which figure is {PARTICIPLES[action.verb]} by another"
                f" at {format_timestamp(sum(action.interval) // 2)}?",
                action.target,
                (action.interval,),
            )
            for action in index.story.actions
            if action.verb in PARTICIPLES
        ]
    ]


def count_scenes(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: in how many scenes each figure appears."""
    num_scenes = Counter(actor for scene in index.story.scenes for actor in scene.actors)
    return [
        [
            Fact(
                f"In how many scenes is the {actor.name} seen?",
                str(num_scenes[actor]),
                intervals_of(appearances),
            )
            for actor, appearances in index.appearances_by_actor.items()
        ]
    ]


def recognize_existence(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which of four figures exists: two colors combined with two shapes.

    The color or the shape of a wrong option may well occur in the video.
    """
    actors = list(index.appearances_by_actor)
    names = {actor.name for actor in actors}
    colors = sorted({actor.color for actor in actors}, key=COLORS.index)
    shapes = sorted({actor.shape for actor in actors}, key=SHAPES.index)
    pool = []
    for _ in range(NUM_DRAWS):
        actor = random.choice(actors)
        other_colors = [color for color in colors if color != actor.color]
        other_shapes = [shape for shape in shapes if shape != actor.shape]
        if not other_colors or not other_shapes:
            continue
        pairs = product(
            (actor.color, random.choice(other_colors)), (actor.shape, random.choice(other_shapes))
        )
        options = [f"{color} {shape}" for color, shape in pairs]
        if len(names & set(options)) > 1:
            continue
        listed = tuple(random.sample(options, len(options)))
        text = join_items([f"a {option}" for option in listed], "or")
        question = f"Which of these is seen in the video: {text}?"
        evidence = intervals_of(index.appearances_by_actor[actor])
        pool.append(Fact(question, actor.name, evidence, options=listed))
    return [pool]


def recognize_hidden(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: which figure is behind a prop, and behind which prop a figure is."""
    figures, props = [], []
    for action, hidden, evidence in _hidden_intervals(index):
        timestamp, name = format_timestamp(sum(hidden) // 2), action.actor.name
        question = f"Which figure is hidden behind the {action.target} at {timestamp}?"
        figures.append(Fact(question, name, evidence))
        question = f"Where is the {name} at {timestamp}, when it cannot be seen?"
        props.append(Fact(question, f"behind the {action.target}", evidence))
    return [figures, props]


def _hidden_intervals(
    index: StoryIndex,
) -> list[tuple[Action, Interval, tuple[Interval, ...]]]:
    """List the times at which a figure is hidden.

    Returns:
        Per time: the action "hides", the hidden interval, and as evidence the intervals in which
        the figure goes behind the prop and comes out.
    """
    found = []
    for scene in index.story.scenes:
        for number, action in enumerate(scene.actions):
            if action.verb != "hides":
                continue
            later = scene.actions[number:]
            come_out = [item for item in later if item.verb == "comes out"][:1]
            end = come_out[0].start_seconds if come_out else scene.end_seconds
            if end - action.end_seconds >= LEAST_HIDDEN_SECONDS:
                evidence = intervals_of([action, *come_out])
                found.append((action, (action.end_seconds, end), evidence))
    return found
