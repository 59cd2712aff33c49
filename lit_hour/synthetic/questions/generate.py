"""Generate the questions about a story, per task and in both formats: `generate_questions`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from lit_hour.synthetic.questions.closed_set import generate_closed_set_questions
from lit_hour.synthetic.questions.sampling import Fact, Pool, draw_choice
from lit_hour.synthetic.story import Story
from lit_hour.synthetic.story_index import StoryIndex
from lit_hour.taxonomy import TASK_OF_KEY
from lit_hour.types import Question, QuestionFormat

QUESTIONS_PER_TASK = 2

QuestionGenerator = Callable[[StoryIndex, Random], list[Pool]]

# By task: the generator, and what a story needs to have for it (for the error message).
QUESTION_GENERATORS: dict[str, tuple[QuestionGenerator, str]] = {
    "temporality/temporal_perception": (
        temporality.perceive_moments,
        "two figures that act",
    ),
    "temporality/duration_perception": (
        temporality.perceive_durations,
        "two backgrounds of different total durations",
    ),
    "temporality/temporal_reasoning": (
        temporality.reason_about_times,
        "two figures with different arrival times",
    ),
    "temporality/temporal_gap_estimation": (
        temporality.estimate_gaps,
        "three figures with different arrival times",
    ),
    "temporality/temporal_order": (
        temporality.order_arrivals,
        "two figures with different arrival times",
    ),
    "spatiality/spatial_perception": (
        spatiality.perceive_positions,
        "figures in two cells",
    ),
    "spatiality/spatial_reasoning": (
        spatiality.reason_about_positions,
        "two figures whose first positions share a row or column",
    ),
    "object/object_recognition": (objects.recognize_objects, "two figures"),
    "object/object_attribute": (
        objects.recognize_attributes,
        "figures of two colors or sizes",
    ),
    "object/object_interaction": (
        objects.recognize_partners,
        "two figures that are touched or pushed",
    ),
    "object/object_reasoning": (
        objects.count_scenes,
        "figures in different numbers of scenes",
    ),
    "object/object_existence": (
        objects.recognize_existence,
        "figures of two shapes and two colors",
    ),
    "object/object_permanence": (
        objects.recognize_hidden,
        "two figures that hide, or two props that a figure hides behind",
    ),
    "action/action_recognition": (actions.recognize_actions, "two different actions"),
    "action/action_localization": (actions.locate_actions, "two actions that occur once"),
    "action/action_sequence": (
        actions.order_actions,
        "a figure that does three things once each",
    ),
    "action/action_reasoning": (
        actions.reason_about_actions,
        "two figures that push another, or that have different habits",
    ),
    "scene/scene_recognition": (scenes.recognize_scenes, "two backgrounds"),
    "scene/scene_transition": (scenes.recognize_transitions, "three scenes"),
    "event/event_sequence": (
        events.order_events,
        "three scenes with an action that occurs once",
    ),
    "event/key_event_extraction": (
        events.extract_key_events,
        "a figure that hides, or that touches or pushes another",
    ),
    "event/overall_summarization": (
        events.summarize,
        "a figure that is present longest, and different backgrounds first and last",
    ),
}


def generate_questions(
    story: Story, key: str, tasks: Sequence[str] = (), per_task: int = QUESTIONS_PER_TASK
) -> list[Question]:
    """Generate open-ended questions and then multiple-choice ones.

    The formats are kept apart so that neither gives the answers of the other away. The same
    arguments give the same questions, and those of a task do not depend on the other tasks.

    Args:
        story: the ground truth.
        key: name of the video; the ids of the questions are `key/0`, `key/1` and so on.
        tasks: keys of the taxonomy, as `parse_tasks` returns them; if empty, every task for which
            the story has material.
        per_task: questions per task and format, fewer if the story has no more. A task without
            multiple-choice questions is left out, because all its answers are the same. Easy and
            needle stories ignore this number.

    Raises:
        SyntheticDataError: the story has no material for one of `tasks`.
    """
    if story.difficulty == "easy":
        return generate_closed_set_questions(story, key, easy.FACT_GENERATORS, tasks)
    if story.difficulty == "needles":
        return generate_closed_set_questions(story, key, needles.FACT_GENERATORS, tasks)
    index = StoryIndex(story)
    open_ended: list[Question] = []
    multiple_choice: list[Question] = []
    for task in tasks or QUESTION_GENERATORS:
        generate, requirement = QUESTION_GENERATORS[task]
        random = Random(f"{task} in story {story.seed}")
        pools = [pool for pool in generate(index, random) if pool]
        used_texts: set[str] = set()
        task_open = draw_questions(pools, "open_ended", task, per_task, random, used_texts)
        task_choice = draw_questions(pools, "multiple_choice", task, per_task, random, used_texts)
        if task_open and task_choice:
            open_ended += task_open
            multiple_choice += task_choice
        elif tasks:
            raise SyntheticDataError(
                f"The story {story.seed} of {story.duration_seconds:g} s has no material for"
                f" {task}. It needs {requirement}. A longer story has more."
            )
    questions = [*_shuffle(open_ended, story), *_shuffle(multiple_choice, story)]
    return [replace(item, id=f"{key}/{number}") for number, item in enumerate(questions)]


def parse_tasks(text: str) -> tuple[str, ...]:
    """Return keys of the taxonomy from a list with commas.

    A task is written `object/object_permanence`, or `object_permanence` alone.

    Raises:
        SyntheticDataError: there is no such task; the message names the nearest one.
    """
    key_of_name = {key.split("/")[1]: key for key in TASK_OF_KEY}
    keys = []
    for name in filter(None, (part.strip().replace(" ", "_") for part in text.split(","))):
        if name not in TASK_OF_KEY and name not in key_of_name:
            known = [*TASK_OF_KEY, *key_of_name]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"Tasks: {', '.join(key_of_name)}."
            raise SyntheticDataError(f"Unknown task {name!r}. {hint}")
        keys.append(key_of_name.get(name, name))
    return tuple(dict.fromkeys(keys))


def draw_questions(
    pools: list[Pool],
    form: QuestionFormat,
    task: str,
    num_questions: int,
    random: Random,
    used_texts: set[str],
) -> list[Question]:
    """Draw up to `num_questions` different questions.

    Args:
        pools: facts of the task.
        form: of the questions.
        task: key of the taxonomy.
        num_questions: to draw.
        random: the source of every choice.
        used_texts: questions in the other format, which are avoided; the drawn ones are added.
    """
    drawn_questions: dict[str, Question] = {}
    for _ in range(num_questions):
        for pool in random.sample(pools, len(pools)):
            available = [fact for fact in pool if fact.question not in drawn_questions]
            fresh = [fact for fact in available if fact.question not in used_texts]
            drawn = _draw(fresh, available, form, random)
            if drawn is not None:
                fact, options = drawn
                drawn_questions[fact.question] = Question(
                    "", task, form, fact.question, fact.answer, options, fact.evidence
                )
                break
    used_texts |= drawn_questions.keys()
    return list(drawn_questions.values())


def _draw(
    fresh: Pool, available: Pool, form: QuestionFormat, random: Random
) -> tuple[Fact, tuple[str, ...]] | None:
    """Draw a fresh fact, or any available one if that gives more options.

    Questions are removed from the pool before drawing. Drawing again until a fresh one comes would
    make answers more likely that many facts share.
    """
    if form == "open_ended":
        facts = fresh or available
        return (random.choice(facts), ()) if facts else None
    drawn, other = draw_choice(fresh, random), draw_choice(available, random)
    if drawn is None or (other is not None and len(other[1]) > len(drawn[1])):
        return other
    return drawn


def _shuffle(questions: list[Question], story: Story) -> list[Question]:
    random = Random(f"order of questions about story {story.seed}")
    return random.sample(questions, len(questions))
