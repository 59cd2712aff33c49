"""A `Story` in, what a perfect witness would say of it out: captions of clips, the list of events, and a summary."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import ceil

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.events import main_figure
from lit_hour.synthetic.story import (
    CELL_NAMES,
    Action,
    Actor,
    Appearance,
    Interval,
    Scene,
    Story,
    nearest_cell_name,
)
from lit_hour.synthetic.story_index import format_clock, format_duration, join_items

NUM_KEY_EVENTS = 6  # of a summary, spread over the video


@dataclass(frozen=True)
class ClipCaption:
    """What a clip shows, from six sides; times are those of the whole video."""

    start_seconds: float
    end_seconds: float
    temporality: str
    spatiality: str
    object: str
    action: str
    scene: str
    overall: str


@dataclass(frozen=True)
class StoryEvent:
    """What one figure does in a row, deed by deed."""

    start_seconds: float
    end_seconds: float
    text: str


def describe_clip(story: Story, start: float, end: float) -> ClipCaption:
    """Describe the clip between two times, in seconds.

    Raises:
        SyntheticDataError: the clip is empty or outside the story.
    """
    if not 0 <= start < end <= story.duration_seconds:
        raise SyntheticDataError(
            f"there is no clip from {start} s to {end} s in a story of {story.duration_seconds:g} s:"
            " it has to begin before it ends, and both inside the story"
        )
    scenes = [scene for scene in story.scenes if _shared(scene.interval, (start, end))]
    stays = [
        (scene, stay)
        for scene in scenes
        for stay in scene.appearances
        if _shared(stay.interval, (start, end))
    ]
    deeds = [
        deed for scene in scenes for deed in scene.actions if _shared(deed.interval, (start, end))
    ]
    scene_text, object_text, action_text = (
        _tell_scenes(scenes),
        _tell_objects(scenes, stays),
        _tell_actions(deeds),
    )
    return ClipCaption(
        start,
        end,
        temporality=_tell_times(deeds, start, end),
        spatiality=_sentence(
            "; ".join(_tell_place(scene, stay, start, end) for scene, stay in stays)
        ),
        object=object_text,
        action=action_text,
        scene=scene_text,
        overall=f"{scene_text} {object_text} {action_text}",
    )


def split_into_clips(story: Story, clip_seconds: float) -> list[Interval]:
    """The story cut into clips of this duration; the last may be shorter."""
    count = int(-(-story.duration_seconds // clip_seconds))
    return [
        (index * clip_seconds, min((index + 1) * clip_seconds, story.duration_seconds))
        for index in range(count)
    ]


def list_events(story: Story) -> list[StoryEvent]:
    """Deeds in a row of one figure in one scene make an event, in the order of time."""
    found = []
    for scene in story.scenes:
        for actor, run in groupby(scene.actions, key=lambda deed: deed.actor):
            deeds = list(run)
            text = _sentence(f"the {actor.name} {join_items([deed.predicate for deed in deeds])}")
            found.append(StoryEvent(deeds[0].start_seconds, deeds[-1].end_seconds, text))
    return found


def summarize_story(story: Story) -> str:
    """The whole video in a few sentences."""
    first, last = story.scenes[0], story.scenes[-1]
    names = [f"the {actor.name}" for actor in story.actors]
    main = main_figure(story)
    told = list_events(story)
    spread = (
        [told[index * len(told) // NUM_KEY_EVENTS] for index in range(NUM_KEY_EVENTS)]
        if told
        else []
    )
    key_events = " ".join(
        f"From {format_clock(event.start_seconds)}, {_within(event.text)}"
        for event in dict.fromkeys(spread)
    )
    many = f"{len(story.scenes)} scenes" if len(story.scenes) > 1 else "one scene"
    return " ".join(
        (
            f"The video of {format_duration(story.duration_seconds)} has {many}.",
            f"It begins on a {first.background.name} background and ends on a {last.background.name} one.",
            f"It shows {join_items(names)}"
            + (f"; the {main} is there for the longest time." if main else "."),
            key_events,
        )
    ).strip()


def _tell_times(deeds: list[Action], start: float, end: float) -> str:
    told = [
        f"{deed.clause} from {format_clock(deed.start_seconds)} to {format_clock(deed.end_seconds)}"
        for deed in deeds
    ]
    return _sentence(
        f"the clip lasts {format_duration(end - start)}: "
        + (", then ".join(told) or "nothing happens")
    )


def _tell_place(scene: Scene, stay: Appearance, start: float, end: float) -> str:
    """Where a figure is while nothing happens, as near as possible to the middle of the time for which the clip has it."""
    first, last = max(start, stay.start_seconds), min(end, stay.end_seconds)
    middle = (first + last) / 2
    seconds = [first, *range(ceil(first), ceil(last))]
    moment = min(seconds, key=lambda each: (scene.action_at(each) is not None, abs(each - middle)))
    place = nearest_cell_name(stay.position_at(moment))
    kinds = [prop.kind for prop in scene.props if CELL_NAMES[prop.cell] == place]
    where = (
        f"behind the {kinds[0]} in the {place}"
        if stay.is_hidden_at(moment) and kinds
        else f"in the {place}"
    )
    return f"at {format_clock(moment)} the {stay.actor.name} is {where}"


def _tell_objects(scenes: list[Scene], stays: list[tuple[Scene, Appearance]]) -> str:
    actors: list[Actor] = list(dict.fromkeys(stay.actor for _, stay in stays))
    props = list(dict.fromkeys(prop.kind for scene in scenes for prop in scene.props))
    figures = (
        join_items([f"a {actor.size_word} {actor.name}" for actor in actors])
        if actors
        else "nobody"
    )
    return _sentence(
        f"the clip shows {figures}" + (f", and a {' and a '.join(props)}" if props else "")
    )


def _tell_actions(deeds: list[Action]) -> str:
    return _sentence(
        ", ".join(dict.fromkeys(deed.clause for deed in deeds)) or "nobody does anything"
    )


def _tell_scenes(scenes: list[Scene]) -> str:
    first, *others = scenes
    changes = "".join(
        f", from {format_clock(scene.start_seconds)} on {scene.background.name}" for scene in others
    )
    return _sentence(f"the background is {first.background.name}{changes}")


def _shared(one: Interval, other: Interval) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def _within(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
