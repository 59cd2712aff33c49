"""Questions about backgrounds: which is seen when, and which follows which."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool
from lit_hour.synthetic.story_index import StoryIndex, format_clock, intervals_of

AROUND_A_CHANGE_SECONDS = 3.0  # what has to be seen before and after it


def recognize_scenes(look: StoryIndex, random: Random) -> list[Pool]:
    """The background in the middle of each scene, and behind each figure that is seen on one background only."""
    moments = [
        Fact(
            f"What is the background like at {format_clock(sum(scene.interval) // 2)}?",
            scene.background.name,
            (scene.interval,),
        )
        for scene in look.story.scenes
    ]
    behind = []
    for actor, stays in look.appearances_by_actor.items():
        scenes = [scene for scene in look.story.scenes if actor in scene.actors]
        if len({scene.background for scene in scenes}) == 1:
            question = f"What is the background like when the {actor.name} is there?"
            behind.append(Fact(question, scenes[0].background.name, intervals_of(stays)))
    return [moments, behind]


def tell_transitions(look: StoryIndex, random: Random) -> list[Pool]:
    """What the background changes to at a time, and which one follows one that is seen only once."""
    moments, followers = [], []
    for before, after in pairwise(look.story.scenes):
        change = after.start_seconds
        near = (
            max(before.start_seconds, change - AROUND_A_CHANGE_SECONDS),
            min(after.end_seconds, change + AROUND_A_CHANGE_SECONDS),
        )
        moments.append(
            Fact(
                f"Which background begins at {format_clock(change)}?",
                after.background.name,
                (near,),
            )
        )
        if len(look.scenes_by_background[before.background]) == 1:
            question = f"Which background comes right after the {before.background.name} one?"
            given_away = (before.background.name,)
            followers.append(Fact(question, after.background.name, (near,), rules_out=given_away))
    return [moments, followers]
