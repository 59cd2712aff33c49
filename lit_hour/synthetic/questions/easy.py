"""Facts of an easy story: the color of a background, the color of a shape, and which shape."""

from __future__ import annotations

from collections.abc import Iterable

from lit_hour.synthetic.questions.closed_set import ClosedSetFact, FactGenerators
from lit_hour.synthetic.story import COLORS, SHAPES, Actor, Scene, Story
from lit_hour.synthetic.story_index import intervals_of


def recognize_scenes(story: Story) -> list[ClosedSetFact]:
    """Return facts: the background of the first and last scene, and of shapes with only one."""
    shown = _distinct(scene.background.color for scene in story.scenes)

    def fact(where: str, scenes: list[Scene]) -> ClosedSetFact:
        return ClosedSetFact(
            "scene/scene_recognition",
            f"What colour is the background {where}?",
            scenes[0].background.color,
            COLORS,
            shown,
            intervals_of(scenes),
        )

    facts = [
        fact("of the first scene", [story.scenes[0]]),
        fact("of the last scene", [story.scenes[-1]]),
    ]
    for shape in _shapes(story):
        scenes = _scenes_with(story, shape)
        if len({scene.background.color for scene in scenes}) == 1:
            facts.append(fact(f"behind the {shape}", scenes))
    return facts


def recognize_objects(story: Story) -> list[ClosedSetFact]:
    """Return facts: the shape in the first and last scene, and on backgrounds with one shape."""
    shown = _shapes(story)

    def fact(where: str, scenes: list[Scene]) -> ClosedSetFact:
        return ClosedSetFact(
            "object/object_recognition",
            f"Which shape is seen {where}?",
            _actor(scenes[0]).shape,
            SHAPES,
            shown,
            intervals_of(scenes),
        )

    facts = [
        fact("in the first scene", [story.scenes[0]]),
        fact("in the last scene", [story.scenes[-1]]),
    ]
    for background in _distinct(scene.background.color for scene in story.scenes):
        scenes = [scene for scene in story.scenes if scene.background.color == background]
        if len({_actor(scene).shape for scene in scenes}) == 1:
            facts.append(fact(f"on the {background} background", scenes))
    return facts


def recognize_attributes(story: Story) -> list[ClosedSetFact]:
    """Return facts: the color of the shape in the first and last scene, and of one-colored shapes.

    The first two tell figure from background without a look-up of the shape, which makes the
    others easier to learn.
    """
    shown = _distinct(_actor(scene).color for scene in story.scenes)

    def fact(which: str, scenes: list[Scene]) -> ClosedSetFact:
        return ClosedSetFact(
            "object/object_attribute",
            f"What colour is the {which}?",
            _actor(scenes[0]).color,
            COLORS,
            shown,
            intervals_of(scenes),
        )

    facts = [
        fact("shape in the first scene", [story.scenes[0]]),
        fact("shape in the last scene", [story.scenes[-1]]),
    ]
    for shape in _shapes(story):
        scenes = _scenes_with(story, shape)
        if len({_actor(scene).color for scene in scenes}) == 1:
            facts.append(fact(shape, scenes))
    return facts


def _actor(scene: Scene) -> Actor:
    """Return the only figure of a scene."""
    return scene.appearances[0].actor


def _shapes(story: Story) -> tuple[str, ...]:
    """Return the shapes of a story without repetition, in order of first appearance."""
    return _distinct(_actor(scene).shape for scene in story.scenes)


def _scenes_with(story: Story, shape: str) -> list[Scene]:
    return [scene for scene in story.scenes if _actor(scene).shape == shape]


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


FACT_GENERATORS: FactGenerators = {
    "scene/scene_recognition": recognize_scenes,
    "object/object_recognition": recognize_objects,
    "object/object_attribute": recognize_attributes,
}
