"""A `Story` in, questions out: as many of each task as are wanted and there is material for, in both formats."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from random import Random

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.questions import (
    actions,
    easy,
    events,
    needles,
    objects,
    scenes,
    spatiality,
    temporality,
)
from lit_hour.synthetic.questions.easy import generate_closed_set_questions
from lit_hour.synthetic.questions.sampling import Fact, Pool, draw_choice
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.story_index import StoryIndex
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import Question, QuestionFormat

QUESTIONS_PER_TASK = 2
KINDS_OF_SMALL_STORIES = {"easy": easy.FACT_GENERATORS, "needles": needles.FACT_GENERATORS}

QUESTION_GENERATORS: dict[
    str, tuple[Callable[[StoryIndex, Random], list[Pool]], str]
] = {  # and what a story has to have for it
    "temporality/temporal_perception": (
        temporality.perceive_moments,
        "two figures that do something",
    ),
    "temporality/duration_perception": (
        temporality.perceive_durations,
        "two backgrounds seen for different times",
    ),
    "temporality/temporal_reasoning": (
        temporality.reason_about_times,
        "two figures first seen at different times",
    ),
    "temporality/temporal_gap_estimation": (
        temporality.estimate_gaps,
        "three figures first seen at different times",
    ),
    "temporality/temporal_order": (
        temporality.order_figures,
        "two figures first seen at different times",
    ),
    "spatiality/spatial_perception": (
        spatiality.perceive_places,
        "figures that stand in two places",
    ),
    "spatiality/spatial_reasoning": (
        spatiality.reason_about_places,
        "two figures that first stand in one row or column",
    ),
    "object/object_recognition": (objects.recognize_objects, "two figures"),
    "object/object_attribute": (objects.name_attributes, "figures of two colours or sizes"),
    "object/object_interaction": (objects.name_partners, "two figures that are touched or pushed"),
    "object/object_reasoning": (
        objects.count_scenes,
        "figures that are seen in different numbers of scenes",
    ),
    "object/object_existence": (objects.tell_existence, "figures of two shapes and two colours"),
    "object/object_permanence": (
        objects.find_hidden,
        "two figures that hide, or two things that one hides behind",
    ),
    "action/action_recognition": (actions.recognize_actions, "two different actions"),
    "action/action_localization": (actions.locate_actions, "two things that happen only once"),
    "action/action_sequence": (actions.order_actions, "a figure that does three things once each"),
    "action/action_reasoning": (
        actions.reason_about_actions,
        "two figures that push another, or with different habits",
    ),
    "scene/scene_recognition": (scenes.recognize_scenes, "two backgrounds"),
    "scene/scene_transition": (scenes.tell_transitions, "three scenes"),
    "event/event_sequence": (
        events.order_events,
        "three scenes with something that happens only once",
    ),
    "event/key_event_extraction": (
        events.extract_key_events,
        "one that hides, or one that touches or pushes another",
    ),
    "event/overall_summarization": (
        events.summarize,
        "a figure that is there longest, and other backgrounds first and last",
    ),
}


def generate_questions(
    story: Story, key: str, tasks: Sequence[str] = (), per_task: int = QUESTIONS_PER_TASK
) -> list[Question]:
    """Ask about a story, open-ended first and then as multiple choice, so that neither gives the other away.

    The same arguments give the same questions, and a task has the same ones whatever others are asked for.

    Args:
        key: the name of the video, with which the ids of the questions begin: `key/0`, `key/1` and so on.
        tasks: keys of the taxonomy, as `parse_tasks` gives them; none for all that the story has material for.
        per_task: questions of each task and each format, fewer when there is no more to ask. A task that cannot be asked as
            multiple choice is left out: all answers are the same. An easy story has its own number.

    Raises:
        SyntheticDataError: the story has no material for one of `tasks`.
    """
    if story.difficulty in KINDS_OF_SMALL_STORIES:
        return generate_closed_set_questions(
            story, key, KINDS_OF_SMALL_STORIES[story.difficulty], tasks
        )
    look = StoryIndex(story)
    asked: dict[QuestionFormat, list[Question]] = {"open_ended": [], "multiple_choice": []}
    for task in tasks or QUESTION_GENERATORS:
        teller, need = QUESTION_GENERATORS[task]
        random = Random(f"{task} in story {story.seed}")
        pools = [pool for pool in teller(look, random) if pool]
        known: set[str] = set()
        drawn = {
            form: _draw_questions(pools, form, task, per_task, random, known) for form in asked
        }
        if all(drawn.values()):
            for form, found in drawn.items():
                asked[form] += found
        elif tasks:
            raise SyntheticDataError(
                f"the story {story.seed} of {story.duration_seconds:g} s has no material for {task}: it needs {need};"
                " a longer story has more"
            )
    return _number(
        key, [question for found in asked.values() for question in _shuffle(found, story)]
    )


def parse_tasks(words: str) -> tuple[str, ...]:
    """Keys of the taxonomy from words with commas between: `object/object_permanence`, or `object_permanence` alone.

    Raises:
        SyntheticDataError: there is no such task, with the nearest that there is.
    """
    key_of_name = {key.split("/")[1]: key for key in TASK_OF_KEY}
    keys = []
    for word in filter(None, (word.strip().replace(" ", "_") for word in words.split(","))):
        if word not in TASK_OF_KEY and word not in key_of_name:
            near = difflib.get_close_matches(word, [*TASK_OF_KEY, *key_of_name], n=1, cutoff=0.5)
            raise SyntheticDataError(
                f"there is no task {word!r}"
                + (
                    f"; did you mean {near[0]!r}?"
                    if near
                    else f"; there are {', '.join(key_of_name)}"
                )
            )
        keys.append(key_of_name.get(word, word))
    return tuple(dict.fromkeys(keys))


def _draw_questions(
    pools: list[Pool], form: QuestionFormat, task: str, num: int, random: Random, known: set[str]
) -> list[Question]:
    """Up to so many questions, none of them twice, and rather not those that are `known`, which grows."""
    found: dict[str, Question] = {}
    for _ in range(num):
        for pool in random.sample(pools, len(pools)):
            unasked = [fact for fact in pool if fact.question not in found]
            fresh = [fact for fact in unasked if fact.question not in known]
            drawn = _draw(fresh, unasked, form, random)
            if drawn is not None:
                fact, options = drawn
                found[fact.question] = Question(
                    "", task, form, fact.question, fact.answer, options, fact.evidence
                )
                break
    known |= found.keys()
    return list(found.values())


def _draw(
    fresh: Pool, unasked: Pool, form: QuestionFormat, random: Random
) -> tuple[Fact, tuple[str, ...]] | None:
    """A fresh fact, unless there is none or a choice between fresh ones has fewer options.

    What was asked before is taken out of a pool and not drawn again: this would make answers likelier that many facts share.
    """
    if form == "open_ended":
        facts = fresh or unasked
        return (random.choice(facts), ()) if facts else None
    drawn, other = draw_choice(fresh, random), draw_choice(unasked, random)
    return (
        other if drawn is None or (other is not None and len(other[1]) > len(drawn[1])) else drawn
    )


def _shuffle(found: list[Question], story: Story) -> list[Question]:
    return Random(f"order of questions about story {story.seed}").sample(found, len(found))


def _number(key: str, found: list[Question]) -> list[Question]:
    return [
        Question(
            f"{key}/{number}",
            each.task,
            each.format,
            each.question,
            each.answer,
            each.options,
            each.evidence,
        )
        for number, each in enumerate(found)
    ]
