"""A needle story in, facts out: about what is there for three seconds, and about what is there all the time."""

from __future__ import annotations

from lit_hour.synthetic.questions.easy import ClosedSetFact, FactGenerators
from lit_hour.synthetic.stories.needle import NEEDLES
from lit_hour.synthetic.story import BACKGROUND_COLORS, COLORS, Scene, Story


def find_needles(story: Story) -> list[ClosedSetFact]:
    """The colour of each needle."""
    seen = tuple(dict.fromkeys(scene.background.color for scene in story.scenes))
    return [
        ClosedSetFact(
            "scene/scene_recognition",
            f"What colour is the {needle.background.pattern} background?",
            needle.background.color,
            BACKGROUND_COLORS,
            seen,
            (needle.interval,),
        )
        for needle in needles_of(story)
    ]


def order_needles(story: Story) -> list[ClosedSetFact]:
    """Which of them comes first, and which last."""
    needles = needles_of(story)
    evidence = tuple(needle.interval for needle in needles)
    return [
        ClosedSetFact(
            "temporality/temporal_order",
            f"Which background with a pattern is seen {when}?",
            needle.background.pattern,
            NEEDLES,
            NEEDLES,
            evidence,
        )
        for when, needle in (("first", needles[0]), ("last", needles[-1]))
    ]


def name_the_figure(story: Story) -> list[ClosedSetFact]:
    """The colour of the figure that is always there: what survives any forgetting."""
    ((actor,),) = {scene.actors for scene in story.scenes}
    whole = ((0.0, story.duration_seconds),)
    return [
        ClosedSetFact(
            "object/object_attribute",
            "What colour is the figure?",
            actor.color,
            COLORS,
            (),
            whole,
        )
    ]


def needles_of(story: Story) -> list[Scene]:
    """The short scenes, in the order of time."""
    return [scene for scene in story.scenes if scene.background.pattern in NEEDLES]


FACT_GENERATORS: FactGenerators = {
    "scene/scene_recognition": find_needles,
    "temporality/temporal_order": order_needles,
    "object/object_attribute": name_the_figure,
}
