"""Questions about backgrounds: which one is visible when, and which follows which."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from lit_hour.synthetic.questions.sampling import Fact, Pool
from lit_hour.synthetic.story_index import StoryIndex, intervals_of
from lit_hour.text.timestamp import format_timestamp

TRANSITION_SECONDS = 3.0  # of evidence on each side of a transition


def recognize_scenes(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: the background at a time, and behind figures with a single background."""
    at_times = [
        Fact(
            f"What is the background like at {format_timestamp(sum(scene.interval) // 2)}?",
            scene.background.name,
            (scene.interval,),
        )
        for scene in index.story.scenes
    ]
    of_figures = []
    for actor, appearances in index.appearances_by_actor.items():
        scenes = [scene for scene in index.story.scenes if actor in scene.actors]
        if len({scene.background for scene in scenes}) == 1:
            question = f"What is the background like when the {actor.name} is there?"
            answer = scenes[0].background.name
            of_figures.append(Fact(question, answer, intervals_of(appearances)))
    return [at_times, of_figures]


def recognize_transitions(index: StoryIndex, random: Random) -> list[Pool]:
    """Return facts: the background that begins at a time, and the successor of a unique one."""
    at_times, successors = [], []
    for before, after in pairwise(index.story.scenes):
        change = after.start_seconds
        evidence = (
            max(before.start_seconds, change - TRANSITION_SECONDS),
            min(after.end_seconds, change + TRANSITION_SECONDS),
        )
        name, name_before = after.background.name, before.background.name
        question = f"Which background begins at {format_timestamp(change)}?"
        at_times.append(Fact(question, name, (evidence,)))
        if len(index.scenes_by_background[before.background]) == 1:
            question = f"Which background comes right after the {name_before} one?"
            successors.append(Fact(question, name, (evidence,), rules_out=(name_before,)))
    return [at_times, successors]
