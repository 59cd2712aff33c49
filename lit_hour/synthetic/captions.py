"""Ground-truth texts of a story: a caption of a clip, the list of events, and a summary.

The fields are those that a video-captioning teacher fills in `lit_hour.videomarathon`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import ceil

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions.events import main_figure
from lit_hour.synthetic.story import (
    CELL_NAMES,
    Action,
    Appearance,
    Interval,
    Scene,
    Story,
    nearest_cell_name,
)
from lit_hour.synthetic.story_index import format_duration, join_items
from lit_hour.text.timestamp import format_timestamp

NUM_KEY_EVENTS = 6  # in a summary, spread over the video


@dataclass(frozen=True)
class ClipCaption:
    """A description of one clip under six aspects; times count from the start of the video."""

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
    """Consecutive actions of one figure."""

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
            f"Invalid clip from {start} s to {end} s. It must start before it ends, and lie within"
            f" the story of {story.duration_seconds:g} s."
        )
    clip = start, end
    scenes = [scene for scene in story.scenes if _overlap(scene.interval, clip)]
    appearances = [
        (scene, appearance)
        for scene in scenes
        for appearance in scene.appearances
        if _overlap(appearance.interval, clip)
    ]
    actions = [
        action for scene in scenes for action in scene.actions if _overlap(action.interval, clip)
    ]
    positions = [_describe_position(*item, start, end) for item in appearances]
    scene_text = _describe_scenes(scenes)
    object_text = _describe_objects(scenes, [appearance for _, appearance in appearances])
    action_text = _describe_actions(actions)
    return ClipCaption(
        start,
        end,
        temporality=_describe_times(actions, start, end),
        spatiality=_sentence("; ".join(positions)),
        object=object_text,
        action=action_text,
        scene=scene_text,
        overall=f"{scene_text} {object_text} {action_text}",
    )


def split_into_clips(story: Story, clip_seconds: float) -> list[Interval]:
    """Return the intervals of consecutive clips of the story; the last may be shorter."""
    num_clips = ceil(story.duration_seconds / clip_seconds)
    return [
        (index * clip_seconds, min((index + 1) * clip_seconds, story.duration_seconds))
        for index in range(num_clips)
    ]


def list_events(story: Story) -> list[StoryEvent]:
    """Return the events in time order: consecutive actions of one figure in one scene are one."""
    events = []
    for scene in story.scenes:
        for actor, run in groupby(scene.actions, key=lambda action: action.actor):
            actions = list(run)
            predicates = join_items([action.predicate for action in actions])
            text = _sentence(f"the {actor.name} {predicates}")
            events.append(StoryEvent(actions[0].start_seconds, actions[-1].end_seconds, text))
    return events


def summarize_story(story: Story) -> str:
    """Return a summary of the whole video in a few sentences."""
    first, last = story.scenes[0].background.name, story.scenes[-1].background.name
    names = join_items([f"the {actor.name}" for actor in story.actors])
    main = main_figure(story)
    longest = f"; the {main} is there for the longest time" if main else ""
    num_scenes = f"{len(story.scenes)} scenes" if len(story.scenes) > 1 else "one scene"
    events = list_events(story)
    key_events = [
        events[index * len(events) // NUM_KEY_EVENTS] for index in range(NUM_KEY_EVENTS) if events
    ]
    sentences = [
        f"The video of {format_duration(story.duration_seconds)} has {num_scenes}.",
        f"It begins on a {first} background and ends on a {last} one.",
        f"It shows {names}{longest}.",
    ]
    for event in dict.fromkeys(key_events):
        text = event.text[:1].lower() + event.text[1:]
        sentences.append(f"From {format_timestamp(event.start_seconds)}, {text}")
    return " ".join(sentences)


def _describe_times(actions: list[Action], start: float, end: float) -> str:
    texts = [
        f"{action.clause} from {format_timestamp(action.start_seconds)}"
        f" to {format_timestamp(action.end_seconds)}"
        for action in actions
    ]
    return _sentence(
        f"the clip lasts {format_duration(end - start)}: "
        + (", then ".join(texts) or "nothing happens")
    )


def _describe_position(scene: Scene, appearance: Appearance, start: float, end: float) -> str:
    """Describe where a figure stands, at a second without an action near the middle of the clip."""
    first = max(start, appearance.start_seconds)
    last = min(end, appearance.end_seconds)
    middle = (first + last) / 2
    moment = min(
        [first, *range(ceil(first), ceil(last))],
        key=lambda seconds: (scene.action_at(seconds) is not None, abs(seconds - middle)),
    )
    cell_name = nearest_cell_name(appearance.position_at(moment))
    props = [prop.kind for prop in scene.props if CELL_NAMES[prop.cell] == cell_name]
    behind = f"behind the {props[0]} " if appearance.is_hidden_at(moment) and props else ""
    return (
        f"at {format_timestamp(moment)} the {appearance.actor.name} is {behind}in the {cell_name}"
    )


def _describe_objects(scenes: list[Scene], appearances: list[Appearance]) -> str:
    actors = list(dict.fromkeys(appearance.actor for appearance in appearances))
    props = list(dict.fromkeys(prop.kind for scene in scenes for prop in scene.props))
    figures = [f"a {actor.size_word} {actor.name}" for actor in actors]
    prop_text = f", and a {' and a '.join(props)}" if props else ""
    return _sentence(f"the clip shows {join_items(figures) if figures else 'nobody'}{prop_text}")


def _describe_actions(actions: list[Action]) -> str:
    clauses = dict.fromkeys(action.clause for action in actions)
    return _sentence(", ".join(clauses) or "nobody does anything")


def _describe_scenes(scenes: list[Scene]) -> str:
    first, *others = scenes
    changes = "".join(
        f", from {format_timestamp(scene.start_seconds)} on {scene.background.name}"
        for scene in others
    )
    return _sentence(f"the background is {first.background.name}{changes}")


def _overlap(one: Interval, other: Interval) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
