"""Lines of passages, what models write in their place, and chapters."""

import pytest

from lit_hour.text.chapters import (
    MAX_SENTENCES,
    NO_EVENTS,
    Passage,
    caption_question,
    events_question,
    format_lines,
    merge_passages,
    parse_lines,
)

PASSAGES = [Passage(80.0, 120.0, "A man enters."), Passage(3599.0, 3725.0, "He\n leaves: at last.")]


def test_questions_name_the_part_in_full_seconds() -> None:
    assert caption_question(80, 119.2) == "Describe what happens between 01:20 and 02:00."
    assert events_question(0, 3600) == (
        "List the events between 00:00 and 1:00:00, one per line, with their times."
    )


def test_lines_are_parsed_to_the_passages_they_were_written_from() -> None:
    lines = format_lines(PASSAGES)
    assert lines == "01:20 to 02:00: A man enters.\n59:59 to 1:02:05: He leaves: at last."
    parsed = parse_lines(lines, 0, 4000, 4000)
    assert parsed[0] == PASSAGES[0] and parsed[1].text == "He leaves: at last."
    assert format_lines([]) == NO_EVENTS and parse_lines(NO_EVENTS, 0, 60, 60) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    (
        ("01:20 - 02:00 A man enters.", (80, 120, "A man enters.")),
        ("- [01:20–02:00] A man enters.", (80, 120, "A man enters.")),
        ("* **01:20 to 02:00**: A man enters.", (80, 120, "A man enters.")),
        ("01:20 to 09:00: beyond the end", (80, 300, "beyond the end")),
        ("02:00 to 01:20: reversed", None),
        ("01:20 to 01:20: without length", None),
        ("00:59 to 01:20: before the part", None),
        ("04:00 to 04:10: behind the part", None),
        ("99:99 to 01:20: no time", None),
        ("01:20: one time", None),
        ("01:20 to 02:00:", None),
        ("A man enters at 01:20 to 02:00", None),
    ),
)
def test_parse_lines_takes_what_models_write(line: str, expected: tuple | None) -> None:
    assert parse_lines(line, 60, 240, 300) == ([Passage(*expected)] if expected else [])


def test_parse_lines_is_fast_on_nonsense() -> None:
    assert parse_lines("01:20 " * 20_000 + "\n" + "-" * 100_000, 0, 1e9, 1e9) == []


def test_neighbors_that_say_the_same_are_merged() -> None:
    passages = [
        Passage(0, 60, "The star spins. The sky is grey."),
        Passage(60, 120, "The star spins. The sky is grey."),
        Passage(120, 180, "A crowd leaves the stadium at night."),
    ]
    first, second = merge_passages(passages)
    assert first == Passage(0, 120, "The star spins. The sky is grey.")
    assert second == passages[2]
    assert [chapter.title for chapter in (first, second)] == [
        "The star spins",
        "A crowd leaves the stadium at night",
    ]


def test_chapters_cover_the_video_within_their_limit() -> None:
    passages = [Passage(n, n + 1, f"event{n} happens in room{n // 7}.") for n in range(300)]
    chapters = merge_passages(passages, max_chapters=9)
    assert len(chapters) == 9
    ends = [chapter.end_seconds for chapter in chapters]
    assert [0, *ends] == [*(chapter.start_seconds for chapter in chapters), 300]
    assert all(chapter.text.count(".") <= MAX_SENTENCES for chapter in chapters)
    assert merge_passages([]) == [] and merge_passages(passages[:1]) == passages[:1]


def test_a_title_is_short() -> None:
    assert len(Passage(0, 1, "word " * 1000).title) < 90
    assert Passage(0, 1, "").title == ""
