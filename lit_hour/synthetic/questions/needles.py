"""Facts of a needle story: about the short scenes, and about the figure that is always present."""

from __future__ import annotations

from lit_hour.synthetic.questions.closed_set import ClosedSetFact, FactGenerators
from lit_hour.synthetic.stories.needle import NEEDLE_PATTERNS
from lit_hour.synthetic.story import BACKGROUND_COLORS, COLORS, Scene, Story
from lit_hour.synthetic.story_index import intervals_of


def recognize_needles(story: Story) -> list[ClosedSetFact]:
    """Return facts: the color of each needle."""
    shown = tuple(dict.fromkeys(scene.background.color for scene in story.scenes))
    return [
        ClosedSetFact(
            "scene/scene_recognition",
            f"What colour is the {needle.background.pattern} background?",
            needle.background.color,
            BACKGROUND_COLORS,
            shown,
            (needle.interval,),
        )
        for needle in needle_scenes(story)
    ]


def order_needles(story: Story) -> list[ClosedSetFact]:
    """Return facts: which needle comes first and which last."""
    needles = needle_scenes(story)
    return [
        ClosedSetFact(
            "temporality/temporal_order",
            f"Which background with a pattern is seen {when}?",
            needle.background.pattern,
            NEEDLE_PATTERNS,
            NEEDLE_PATTERNS,
            intervals_of(needles),
        )
        for when, needle in (("first", needles[0]), ("last", needles[-1]))
    ]


def recognize_figure(story: Story) -> list[ClosedSetFact]:
    """Return facts: the color of the figure, which every frame shows: a control for forgetting."""
    ((actor,),) = {scene.actors for scene in story.scenes}
    return [
        ClosedSetFact(
            "object/object_attribute",
            "What colour is the figure?",
            actor.color,
            COLORS,
            (),
            ((0.0, story.duration_seconds),),
        )
    ]


def needle_scenes(story: Story) -> list[Scene]:
    """Return the short scenes in time order."""
    return [scene for scene in story.scenes if scene.background.pattern in NEEDLE_PATTERNS]


FACT_GENERATORS: FactGenerators = {
    "scene/scene_recognition": recognize_needles,
    "temporality/temporal_order": order_needles,
    "object/object_attribute": recognize_figure,
}
