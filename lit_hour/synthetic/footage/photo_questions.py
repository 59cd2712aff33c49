"""Generate questions about the photographs of a video: `generate_photo_questions`.

No wording gives an answer away: photographs and categories are drawn uniformly, wrong options are
other photographs of the same video first, and the number of photographs does not depend on the
duration of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from random import Random

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.footage.footage_story import FootageStory, ShownPhoto
from lit_hour.synthetic.questions.generate import draw_questions
from lit_hour.synthetic.questions.sampling import NUM_OPTIONS, Fact, Pool
from lit_hour.text.timestamp import format_timestamp
from lit_hour.types import Question

ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    "tenth",
)
LEAST_DISTANCE_SECONDS = 10.0  # between two times that are options of one question
MAX_DRAWS = 1000


def generate_photo_questions(
    story: FootageStory, key: str, tasks: Sequence[str] = (), per_task: int = 2
) -> list[Question]:
    """Generate open-ended questions and then multiple-choice ones.

    Args:
        story: what the video shows.
        key: name of the video; the ids of the questions are `key/0`, `key/1` and so on.
        tasks: keys of the taxonomy; all of `FACT_GENERATORS` if empty.
        per_task: questions per task and format, fewer if the video has no more.

    Raises:
        SyntheticDataError: there are no questions on one of `tasks`.
    """
    if unknown := [task for task in tasks if task not in FACT_GENERATORS]:
        raise SyntheticDataError(
            f"Photographs in footage have no material for {unknown[0]}. They support"
            f" {', '.join(FACT_GENERATORS)}."
        )
    open_ended: list[Question] = []
    multiple_choice: list[Question] = []
    for task in tasks or FACT_GENERATORS:
        random = Random(f"{task} in footage story {story.seed}")
        pools = [pool for pool in FACT_GENERATORS[task](story, random) if pool]
        used_texts: set[str] = set()
        open_ended += draw_questions(pools, "open_ended", task, per_task, random, used_texts)
        multiple_choice += draw_questions(
            pools, "multiple_choice", task, per_task, random, used_texts
        )
    random = Random(f"order of questions about footage story {story.seed}")
    questions = [
        *random.sample(open_ended, len(open_ended)),
        *random.sample(multiple_choice, len(multiple_choice)),
    ]
    return [replace(item, id=f"{key}/{number}") for number, item in enumerate(questions)]


def recognize_photos(story: FootageStory, random: Random) -> list[Pool]:
    """Return facts: which thing the k-th photograph shows."""
    return [
        [
            Fact(
                f"What does the {name} photograph show?",
                photo.category,
                (photo.interval,),
                options=_draw_categories(story, photo.category, random),
            )
            for index, photo in enumerate(story.photos)
            for name in _names(index, len(story.photos))
        ]
    ]


def order_photos(story: FootageStory, random: Random) -> list[Pool]:
    """Return facts: which of two comes first or last, and what comes right before or after one."""
    pairs = []
    for earlier, later in combinations(story.photos, 2):
        names = tuple(random.sample((earlier.category, later.category), 2))
        when, answer = random.choice((("first", earlier), ("last", later)))
        question = f"Which photograph is shown {when}: {names[0]} or {names[1]}?"
        evidence = (earlier.interval, later.interval)
        pairs.append(Fact(question, answer.category, evidence, options=names))
    return [pairs, _neighbors(story, random, "before"), _neighbors(story, random, "after")]


def recognize_existence(story: FootageStory, random: Random) -> list[Pool]:
    """Return facts: whether there is a photograph of a category; as many with yes as with no."""
    absent = [name for name in story.categories if name not in _shown_categories(story)]
    num_facts = min(len(story.photos), len(absent))
    present = random.sample(story.photos, num_facts)
    facts = [_existence(photo.category, "yes", photo.interval) for photo in present]
    everything = (0.0, story.duration_seconds)
    facts += [_existence(name, "no", everything) for name in random.sample(absent, num_facts)]
    return [random.sample(facts, len(facts))]


def count_photos(story: FootageStory, random: Random) -> list[Pool]:
    """Return facts: how many photographs are shown."""
    number = len(story.photos)
    others = [count for count in story.photo_counts if count != number]
    wrong = random.sample(others, min(len(others), NUM_OPTIONS - 1))
    if not wrong:  # every video has as many
        return []
    options = tuple(map(str, [number, *wrong]))
    evidence = tuple(photo.interval for photo in story.photos)
    return [[Fact("How many photographs are shown?", str(number), evidence, options=options)]]


def locate_photos(story: FootageStory, random: Random) -> list[Pool]:
    """Return facts: when a photograph is shown."""
    pool = []
    for photo in story.photos:
        start = photo.interval[0]
        others = [other.interval[0] for other in story.photos if other is not photo]
        candidates = random.sample(others, len(others))
        candidates += [random.uniform(0, story.duration_seconds) for _ in range(MAX_DRAWS)]
        chosen = [start]
        for seconds in candidates:
            is_distant = all(abs(seconds - other) >= LEAST_DISTANCE_SECONDS for other in chosen)
            if is_distant and len(chosen) < NUM_OPTIONS:
                chosen.append(seconds)
        options = tuple(map(format_timestamp, chosen)) if len(chosen) > 1 else ()
        question = f"At what time is the photograph of {photo.category} shown?"
        pool.append(Fact(question, format_timestamp(start), (photo.interval,), options=options))
    return [[fact for fact in pool if fact.options]]


def _neighbors(story: FootageStory, random: Random, side: str) -> list[Fact]:
    """Return facts: what the photograph right before or right after another one shows."""
    facts = []
    for earlier, later in pairwise(story.photos):
        named, answer = (earlier, later) if side == "after" else (later, earlier)
        facts.append(
            Fact(
                f"What does the photograph right {side} {named.category} show?",
                answer.category,
                (earlier.interval, later.interval),
                options=_draw_categories(story, answer.category, random, without=named.category),
            )
        )
    return facts


def _existence(category: str, answer: str, evidence: tuple[float, float]) -> Fact:
    question = f"Is there a photograph of {category}?"
    return Fact(question, answer, (evidence,), options=("yes", "no"))


def _draw_categories(
    story: FootageStory, answer: str, random: Random, without: str = ""
) -> tuple[str, ...]:
    """Return the answer and wrong categories, categories of the same video first."""
    shown = [name for name in _shown_categories(story) if name not in (answer, without)]
    absent = [name for name in story.categories if name not in {answer, without, *shown}]
    num_shown = min(len(shown), NUM_OPTIONS - 1)
    num_absent = min(len(absent), NUM_OPTIONS - 1 - num_shown)
    return (answer, *random.sample(shown, num_shown), *random.sample(absent, num_absent))


def _shown_categories(story: FootageStory) -> list[str]:
    return [photo.category for photo in story.photos]


def _names(index: int, num_photos: int) -> list[str]:
    """Return the words for the photograph of an index: `first`, `last`, `only`."""
    if num_photos == 1:
        return ["only"]
    names = [ORDINALS[index]] if index < len(ORDINALS) else []
    return names + (["last"] if index == num_photos - 1 else [])


FactGenerator = Callable[[FootageStory, Random], list[Pool]]
FACT_GENERATORS: dict[str, FactGenerator] = {
    "object/object_recognition": recognize_photos,
    "temporality/temporal_order": order_photos,
    "object/object_existence": recognize_existence,
    "object/object_reasoning": count_photos,
    "temporality/temporal_perception": locate_photos,
}


def photo_record(photo: ShownPhoto) -> dict[str, object]:
    """Return the entry of a photograph in the truth file of a set."""
    return {
        "category": photo.category,
        "file": str(photo.path),
        "interval": list(photo.interval),
        "area": photo.motion.area,
        "faded": photo.motion.is_faded,
    }
