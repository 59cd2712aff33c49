"""Somebody who watches a whole story second by second, and answers questions from what was seen, by their words alone.

It shares no code with the narrators: it reads the poses that are drawn, and knows scenes only by their backgrounds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from lit_hour.synthetic.render import poses_at
from lit_hour.synthetic.story import CELL_NAMES, Story

SHARES = (0.2, 0.5, 0.8)
THIRD_PERSON = {"touch": "touches", "push": "pushes"}


@dataclass(frozen=True)
class Sight:
    """What is seen in one second: figures by name with `(x, y, diameter)`, or with the thing that they are behind."""

    background: str
    figures: dict[str, tuple[float, float, float]]
    hidden: dict[str, str]
    doing: tuple[str, str] | None


class Witness:
    def __init__(self, story: Story) -> None:
        self.sights = [look(story, index + 0.5) for index in range(int(story.duration_seconds))]

    def present(self, name: str) -> list[int]:
        """Seconds in which a figure is there."""
        return [
            second
            for second, sight in enumerate(self.sights)
            if name in sight.figures or name in sight.hidden
        ]

    def names(self) -> set[str]:
        return {name for sight in self.sights for name in (*sight.figures, *sight.hidden)}

    def scenes(self) -> list[list[Sight]]:
        return [list(run) for _, run in groupby(self.sights, key=lambda sight: sight.background)]

    def runs(self, name: str, words: str) -> list[tuple[int, int]]:
        """When a figure does something: first second and the one after the last."""
        seconds = [
            second for second, sight in enumerate(self.sights) if sight.doing == (name, words)
        ]
        found: list[tuple[int, int]] = []
        for second in seconds:
            if found and found[-1][1] == second:
                found[-1] = (found[-1][0], second + 1)
            else:
                found.append((second, second + 1))
        return found

    def happened(self, clause: str) -> list[tuple[int, int]]:
        name, words = re.fullmatch(r"the (\w+ \w+) (.+)", clause).groups()
        return self.runs(name, words)

    def first_stand(self, name: str) -> tuple[float, float]:
        return next(
            s.figures[name][:2] for s in self.sights if name in s.figures and s.doing is None
        )


def look(story: Story, seconds: float) -> Sight:
    scene = story.scene_at(seconds)
    kind_at = {tuple(SHARES[index] for index in prop.cell): prop.kind for prop in scene.props}
    there = [stay for stay in scene.appearances if stay.start_seconds <= seconds < stay.end_seconds]
    hidden = {}
    for stay in there:
        if any(start <= seconds < end for start, end in stay.hidden_intervals):
            hidden[stay.actor.name] = kind_at[
                stay.path[[key[0] > seconds for key in (*stay.path, (1e9,))].index(True) - 1][1:]
            ]
    posed = {
        actor.name: (pose.x, pose.y, 2 * pose.radius) for actor, pose in poses_at(scene, seconds)
    }
    figures = {
        stay.actor.name: posed.get(stay.actor.name, (0.0, 0.0, 0.0))
        for stay in there
        if stay.actor.name not in hidden
    }
    deed = scene.action_at(seconds)
    doing = (deed.actor.name, deed.predicate) if deed else None
    return Sight(f"{scene.background.pattern} {scene.background.color}", figures, hidden, doing)


def seconds_of(clock: str) -> int:
    return sum(int(part) * 60**power for power, part in enumerate(reversed(clock.split(":"))))


def spoken(seconds: int) -> str:
    parts = [
        (seconds // 3600, "hour"),
        (seconds % 3600 // 60, "minute"),
        (seconds % 60 if seconds < 3600 else 0, "second"),
    ]
    return " ".join(
        f"{number} {word}{'s' if number > 1 else ''}" for number, word in parts if number
    )


def clock_of(seconds: int) -> str:
    minutes = f"{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{seconds // 3600}:{minutes}" if seconds >= 3600 else minutes


def place_at(point: tuple[float, ...]) -> str | None:
    if point[0] not in SHARES or point[1] not in SHARES:
        return None
    return CELL_NAMES[SHARES.index(point[0]), SHARES.index(point[1])]


def true_answers(seen: Witness, question: str) -> set[str]:
    """Every answer that is true: one, if the question is a good one."""
    for pattern, answer in ANSWERS.items():
        if match := re.fullmatch(pattern, question):
            return {found for found in answer(seen, *match.groups()) if found}
    raise AssertionError(f"no witness can answer {question!r}")


def places_compared(seen: Witness, one: str, other: str) -> list[str]:
    (x, y), (other_x, other_y) = seen.first_stand(one), seen.first_stand(other)
    across = {-1: "farther left", 1: "farther right"}.get((x > other_x) - (x < other_x))
    down = {-1: "higher", 1: "lower"}.get((y > other_y) - (y < other_y))
    return [across, down]


def in_order(seen: Witness, clauses: list[str]) -> list[str]:
    """The clauses in the order of time; nothing if one of them happens more or less than once."""
    runs = {clause: seen.happened(clause) for clause in clauses}
    if any(len(found) != 1 for found in runs.values()):
        return []
    return sorted(clauses, key=lambda clause: runs[clause][0])


def most_often(seen: Witness, name: str) -> list[str]:
    alone = {
        s.doing[1]
        for s in seen.sights
        if s.doing and s.doing[0] == name and re.fullmatch(ALONE, s.doing[1])
    }
    counts = {words: len(seen.runs(name, words)) for words in alone}
    return [words for words, count in counts.items() if count == max(counts.values())]


def summaries(seen: Witness) -> list[str]:
    counts = {name: len(seen.present(name)) for name in seen.names()}
    ends = seen.sights[0].background, seen.sights[-1].background
    return [
        f"The {name} is there for the longest time. The video begins on a {ends[0]} background and ends on a {ends[1]} one."
        for name, count in counts.items()
        if count == max(counts.values())
    ]


def at(clock: str, seen: Witness) -> Sight:
    return seen.sights[seconds_of(clock)]


def third_person(words: str) -> str:
    verb, _, rest = words.partition(" ")
    return f"{THIRD_PERSON.get(verb, verb + 's')} {rest}".strip()


def ordered_deeds(seen: Witness, name: str, words: str) -> list[str]:
    ordered = in_order(seen, [f"the {name} {third_person(each)}" for each in words.split(", ")])
    return [", then ".join(clause.removeprefix(f"the {name} ") for clause in ordered)]


ALONE = r"moves \w+|spins|grows|shrinks|blinks|bounces"
FIGURE, CLOCK, KIND = r"(\w+ \w+)", r"([\d:]+)", r"(\w+)"
ANSWERS = {
    f"Which figure is doing something at {CLOCK}[?]": lambda seen, t: [
        (at(t, seen).doing or ("",))[0]
    ],
    f"For how long is the {FIGURE} background seen in all[?]": lambda seen, background: [
        spoken(sum(sight.background == background for sight in seen.sights))
    ],
    f"How many other figures are seen before the {FIGURE} is first seen[?]": lambda seen, name: [
        str(sum(seen.present(other)[0] < seen.present(name)[0] for other in seen.names()))
    ],
    f"How much time passes from when the {FIGURE} is first seen until the {FIGURE} is first seen[?]": lambda seen, a, b: [
        spoken(seen.present(b)[0] - seen.present(a)[0])
    ],
    "Which is seen first: (.*)[?]": lambda seen, listing: [
        name
        for name in re.findall(r"the (\w+ \w+)", listing)
        if seen.present(name)[0]
        == min(seen.present(other)[0] for other in re.findall(r"the (\w+ \w+)", listing))
    ],
    f"Where is the {FIGURE} at {CLOCK}[?]": lambda seen, name, t: [
        place_at(at(t, seen).figures[name])
    ],
    f"Where does the {FIGURE} first stand, compared with where the {FIGURE} first stands[?]": places_compared,
    f"Which figure is in the (.+) at {CLOCK}[?]": lambda seen, place, t: [
        name for name, point in at(t, seen).figures.items() if place_at(point) == place
    ],
    f"What colour is the {KIND} at {CLOCK}[?]": lambda seen, shape, t: [
        name.split()[0] for name in at(t, seen).figures if name.split()[1] == shape
    ],
    f"How large is the {FIGURE}: small or large[?]": lambda seen, name: {
        "small" if s.figures[name][2] < 0.23 else "large"
        for s in seen.sights
        if name in s.figures and s.doing is None
    },
    f"Which figure is (touched|pushed) by another at {CLOCK}[?]": lambda seen, done, t: re.findall(
        rf"{done[:-2]}es the (.*)", (at(t, seen).doing or ("", ""))[1]
    ),
    f"In how many scenes is the {FIGURE} seen[?]": lambda seen, name: [
        str(
            sum(
                any(name in (*sight.figures, *sight.hidden) for sight in run)
                for run in seen.scenes()
            )
        )
    ],
    "Which of these is seen in the video: (.*)[?]": lambda seen, listing: (
        set(re.findall(r"an? (\w+ \w+)", listing)) & seen.names()
    ),
    f"Which figure is hidden behind the {KIND} at {CLOCK}[?]": lambda seen, kind, t: [
        name for name, behind in at(t, seen).hidden.items() if behind == kind
    ],
    f"Where is the {FIGURE} at {CLOCK}, when it cannot be seen[?]": lambda seen, name, t: [
        f"behind the {at(t, seen).hidden[name]}"
    ],
    f"What does the {FIGURE} do at {CLOCK}[?]": lambda seen, name, t: [
        words for who, words in [at(t, seen).doing or ("", "")] if who == name
    ],
    f"When does the {FIGURE} (.+)[?]": lambda seen, name, words: [
        f"from {clock_of(start)} to {clock_of(end)}"
        for start, end in seen.runs(name, third_person(words))
    ],
    f"In which order does the {FIGURE} do these, each once: (.+)[?]": ordered_deeds,
    f"Why does the {FIGURE} change its place at {CLOCK}[?]": lambda seen, name, t: [
        f"the {who} pushes it"
        for who, words in [at(t, seen).doing or ("", "")]
        if words == f"pushes the {name}"
    ],
    f"What does the {FIGURE} do most often by itself[?]": most_often,
    f"What is the background like at {CLOCK}[?]": lambda seen, t: [at(t, seen).background],
    f"What is the background like when the {FIGURE} is there[?]": lambda seen, name: {
        seen.sights[second].background for second in seen.present(name)
    },
    f"Which background begins at {CLOCK}[?]": lambda seen, t: (
        {at(t, seen).background} - {seen.sights[seconds_of(t) - 1].background}
    ),
    f"Which background comes right after the {FIGURE} one[?]": lambda seen, background: {
        after[0].background
        for before, after in zip(seen.scenes(), seen.scenes()[1:], strict=False)
        if before[0].background == background
    },
    "In which order does this happen: (.+)[?]": lambda seen, listing: [
        ", then ".join(in_order(seen, listing.split("; ")))
    ],
    "Which of these happens: (.+)[?]": lambda seen, listing: [
        clause for clause in re.split(r", | or (?=the)", listing) if seen.happened(clause)
    ],
    "Summarise the video: who is there for the longest time, and with which backgrounds does it begin and end[?]": summaries,
}
