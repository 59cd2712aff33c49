"""Answer the questions about a story from its rendered poses, second by second.

The oracle shares no code with the question generators: it reads the poses that are drawn, tells
scenes apart by their backgrounds only, and parses the text of the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise

from lit_hour.synthetic.render import poses_at
from lit_hour.synthetic.story import CELL_NAMES, Appearance, Story

CENTERS = (0.2, 0.5, 0.8)
THIRD_PERSON = {"touch": "touches", "push": "pushes"}


@dataclass(frozen=True)
class Second:
    """The content of one second of the video.

    Attributes:
        background: its name.
        figures: by name, `(x, y, diameter)` of a figure that is not behind a prop.
        hidden: by name, the kind of the prop that a figure is behind.
        acting: name and predicate of the figure that acts.
    """

    background: str
    figures: dict[str, tuple[float, float, float]]
    hidden: dict[str, str]
    acting: tuple[str, str] | None


class FrameOracle:
    """All seconds of a story, and queries over them."""

    def __init__(self, story: Story) -> None:
        num_seconds = int(story.duration_seconds)
        self.seconds = [read_second(story, index + 0.5) for index in range(num_seconds)]

    def at(self, timestamp: str) -> Second:
        return self.seconds[parse_timestamp(timestamp)]

    def acting_at(self, timestamp: str) -> tuple[str, str]:
        """Return name and predicate of the acting figure; empty if there is none."""
        return self.at(timestamp).acting or ("", "")

    def presence(self, name: str) -> list[int]:
        """Return the seconds in which a figure is present."""
        return [
            index
            for index, second in enumerate(self.seconds)
            if name in second.figures or name in second.hidden
        ]

    def names(self) -> set[str]:
        return {name for second in self.seconds for name in (*second.figures, *second.hidden)}

    def scenes(self) -> list[list[Second]]:
        return [list(run) for _, run in groupby(self.seconds, key=lambda item: item.background)]

    def runs(self, name: str, predicate: str) -> list[tuple[int, int]]:
        """Return when a figure does something: the first second and the one after the last."""
        found: list[tuple[int, int]] = []
        for index, second in enumerate(self.seconds):
            if second.acting != (name, predicate):
                continue
            if found and found[-1][1] == index:
                found[-1] = (found[-1][0], index + 1)
            else:
                found.append((index, index + 1))
        return found

    def clause_runs(self, clause: str) -> list[tuple[int, int]]:
        name, predicate = re.fullmatch(r"the (\w+ \w+) (.+)", clause).groups()
        return self.runs(name, predicate)

    def first_position(self, name: str) -> tuple[float, float]:
        """Return the position of a figure in the first second in which it does not move."""
        return next(
            second.figures[name][:2]
            for second in self.seconds
            if name in second.figures and second.acting is None
        )

    def true_answers(self, question: str) -> set[str]:
        """Return every answer that is true: exactly one, if the question is a good one."""
        for pattern, find_answers in ANSWERS.items():
            if match := re.fullmatch(pattern, question):
                return {answer for answer in find_answers(self, *match.groups()) if answer}
        raise AssertionError(f"no pattern for {question!r}")


def read_second(story: Story, seconds: float) -> Second:
    scene = story.scene_at(seconds)
    prop_at = {tuple(CENTERS[index] for index in prop.cell): prop.kind for prop in scene.props}
    present = [
        item for item in scene.appearances if item.start_seconds <= seconds < item.end_seconds
    ]
    hidden = {
        item.actor.name: prop_at[last_path_point(item, seconds)]
        for item in present
        if any(start <= seconds < end for start, end in item.hidden_intervals)
    }
    drawn = {
        actor.name: (pose.x, pose.y, 2 * pose.radius) for actor, pose in poses_at(scene, seconds)
    }
    figures = {
        item.actor.name: drawn.get(item.actor.name, (0.0, 0.0, 0.0))
        for item in present
        if item.actor.name not in hidden
    }
    action = scene.action_at(seconds)
    acting = (action.actor.name, action.predicate) if action else None
    return Second(f"{scene.background.pattern} {scene.background.color}", figures, hidden, acting)


def last_path_point(appearance: Appearance, seconds: float) -> tuple[float, float]:
    return [point[1:] for point in appearance.path if point[0] <= seconds][-1]


def parse_timestamp(timestamp: str) -> int:
    return sum(int(part) * 60**power for power, part in enumerate(timestamp.split(":")[::-1]))


def duration_text(seconds: int) -> str:
    parts = [
        (seconds // 3600, "hour"),
        (seconds % 3600 // 60, "minute"),
        (seconds % 60 if seconds < 3600 else 0, "second"),
    ]
    return " ".join(f"{number} {unit}{'s' * (number > 1)}" for number, unit in parts if number)


def timestamp_text(seconds: int) -> str:
    minutes = f"{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{seconds // 3600}:{minutes}" if seconds >= 3600 else minutes


def cell_name(point: tuple[float, ...]) -> str | None:
    if point[0] not in CENTERS or point[1] not in CENTERS:
        return None
    return CELL_NAMES[CENTERS.index(point[0]), CENTERS.index(point[1])]


def compare_positions(oracle: FrameOracle, one: str, other: str) -> list[str | None]:
    (x, y), (other_x, other_y) = oracle.first_position(one), oracle.first_position(other)
    across = {-1: "farther left", 1: "farther right"}.get((x > other_x) - (x < other_x))
    down = {-1: "higher", 1: "lower"}.get((y > other_y) - (y < other_y))
    return [across, down]


def sort_by_time(oracle: FrameOracle, clauses: list[str]) -> list[str]:
    """Return the clauses in time order; nothing if one of them does not happen exactly once."""
    runs = {clause: oracle.clause_runs(clause) for clause in clauses}
    if any(len(found) != 1 for found in runs.values()):
        return []
    return sorted(clauses, key=lambda clause: runs[clause][0])


def most_frequent(oracle: FrameOracle, name: str) -> list[str]:
    acting = [second.acting for second in oracle.seconds if second.acting]
    solo = {predicate for who, predicate in acting if who == name and re.fullmatch(SOLO, predicate)}
    counts = {predicate: len(oracle.runs(name, predicate)) for predicate in solo}
    return [predicate for predicate, count in counts.items() if count == max(counts.values())]


def summaries(oracle: FrameOracle) -> list[str]:
    counts = {name: len(oracle.presence(name)) for name in oracle.names()}
    first, last = oracle.seconds[0].background, oracle.seconds[-1].background
    return [
        f"The {name} is there for the longest time."
        f" The video begins on a {first} background and ends on a {last} one."
        for name, count in counts.items()
        if count == max(counts.values())
    ]


def third_person(infinitive: str) -> str:
    verb, _, rest = infinitive.partition(" ")
    return f"{THIRD_PERSON.get(verb, verb + 's')} {rest}".strip()


def order_of_actions(oracle: FrameOracle, name: str, infinitives: str) -> list[str]:
    subject = f"the {name} "
    clauses = [f"{subject}{third_person(infinitive)}" for infinitive in infinitives.split(", ")]
    ordered = sort_by_time(oracle, clauses)
    return [", then ".join(clause.removeprefix(subject) for clause in ordered)]


def first_arrivals(oracle: FrameOracle, listing: str) -> list[str]:
    arrivals = {name: oracle.presence(name)[0] for name in re.findall(r"the (\w+ \w+)", listing)}
    return [name for name, second in arrivals.items() if second == min(arrivals.values())]


def num_earlier(oracle: FrameOracle, name: str) -> list[str]:
    arrival = oracle.presence(name)[0]
    return [str(sum(oracle.presence(other)[0] < arrival for other in oracle.names()))]


def sizes(oracle: FrameOracle, name: str) -> set[str]:
    return {
        "small" if second.figures[name][2] < 0.23 else "large"
        for second in oracle.seconds
        if name in second.figures and second.acting is None
    }


def num_scenes(oracle: FrameOracle, name: str) -> list[str]:
    is_present = [
        any(name in (*second.figures, *second.hidden) for second in scene)
        for scene in oracle.scenes()
    ]
    return [str(sum(is_present))]


def pushers(oracle: FrameOracle, name: str, timestamp: str) -> list[str]:
    subject, predicate = oracle.acting_at(timestamp)
    return [f"the {subject} pushes it"] if predicate == f"pushes the {name}" else []


def action_times(oracle: FrameOracle, name: str, infinitive: str) -> list[str]:
    return [
        f"from {timestamp_text(start)} to {timestamp_text(end)}"
        for start, end in oracle.runs(name, third_person(infinitive))
    ]


def successors(oracle: FrameOracle, background: str) -> set[str]:
    scenes = oracle.scenes()
    return {
        after[0].background
        for before, after in pairwise(scenes)
        if before[0].background == background
    }


SOLO = r"moves \w+|spins|grows|shrinks|blinks|bounces"
FIGURE, TIME, KIND = r"(\w+ \w+)", r"([\d:]+)", r"(\w+)"
ANSWERS: dict[str, Callable[..., Iterable[str | None]]] = {
    f"Which figure is doing something at {TIME}[?]": lambda oracle, time: [
        oracle.acting_at(time)[0]
    ],
    f"For how long is the {FIGURE} background seen in all[?]": lambda oracle, background: [
        duration_text(sum(second.background == background for second in oracle.seconds))
    ],
    f"How many other figures are seen before the {FIGURE} is first seen[?]": num_earlier,
    (
        f"How much time passes from when the {FIGURE} is first seen"
        f" until the {FIGURE} is first seen[?]"
    ): lambda oracle, one, other: [
        duration_text(oracle.presence(other)[0] - oracle.presence(one)[0])
    ],
    "Which is seen first: (.*)[?]": first_arrivals,
    f"Where is the {FIGURE} at {TIME}[?]": lambda oracle, name, time: [
        cell_name(oracle.at(time).figures[name])
    ],
    (
        f"Where does the {FIGURE} first stand, compared with where the {FIGURE} first stands[?]"
    ): compare_positions,
    f"Which figure is in the (.+) at {TIME}[?]": lambda oracle, cell, time: [
        name for name, point in oracle.at(time).figures.items() if cell_name(point) == cell
    ],
    f"What colour is the {KIND} at {TIME}[?]": lambda oracle, shape, time: [
        name.split()[0] for name in oracle.at(time).figures if name.split()[1] == shape
    ],
    f"How large is the {FIGURE}: small or large[?]": sizes,
    f"Which figure is (touched|pushed) by another at {TIME}[?]": lambda oracle, verb, time: (
        re.findall(rf"{verb[:-2]}es the (.*)", oracle.acting_at(time)[1])
    ),
    f"In how many scenes is the {FIGURE} seen[?]": num_scenes,
    "Which of these is seen in the video: (.*)[?]": lambda oracle, listing: (
        set(re.findall(r"an? (\w+ \w+)", listing)) & oracle.names()
    ),
    f"Which figure is hidden behind the {KIND} at {TIME}[?]": lambda oracle, kind, time: [
        name for name, prop in oracle.at(time).hidden.items() if prop == kind
    ],
    f"Where is the {FIGURE} at {TIME}, when it cannot be seen[?]": lambda oracle, name, time: [
        f"behind the {oracle.at(time).hidden[name]}"
    ],
    f"What does the {FIGURE} do at {TIME}[?]": lambda oracle, name, time: [
        predicate for who, predicate in [oracle.acting_at(time)] if who == name
    ],
    f"When does the {FIGURE} (.+)[?]": action_times,
    f"In which order does the {FIGURE} do these, each once: (.+)[?]": order_of_actions,
    f"Why does the {FIGURE} change its place at {TIME}[?]": pushers,
    f"What does the {FIGURE} do most often by itself[?]": most_frequent,
    f"What is the background like at {TIME}[?]": lambda oracle, time: [oracle.at(time).background],
    f"What is the background like when the {FIGURE} is there[?]": lambda oracle, name: {
        oracle.seconds[index].background for index in oracle.presence(name)
    },
    f"Which background begins at {TIME}[?]": lambda oracle, time: (
        {oracle.at(time).background} - {oracle.seconds[parse_timestamp(time) - 1].background}
    ),
    f"Which background comes right after the {FIGURE} one[?]": successors,
    "In which order does this happen: (.+)[?]": lambda oracle, listing: [
        ", then ".join(sort_by_time(oracle, listing.split("; ")))
    ],
    "Which of these happens: (.+)[?]": lambda oracle, listing: [
        clause for clause in re.split(r", | or (?=the)", listing) if oracle.clause_runs(clause)
    ],
    (
        "Summarise the video: who is there for the longest time,"
        " and with which backgrounds does it begin and end[?]"
    ): summaries,
}
