"""Records as other projects write them become the same samples as records of this project."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lit_hour.data.questions.file import QuestionFile, read_question_file, read_questions
from lit_hour.data.questions.forms import strip_letters
from lit_hour.data.questions.record import SampleSpec
from lit_hour.errors import QuestionError

TURNS = [
    {"from": "human", "value": "<video>\nWhat is shown?"},
    {"from": "gpt", "value": "A counter."},
]
MESSAGES = [
    {"role": "user", "content": "<video>\nWhat is shown?"},
    {"role": "assistant", "content": "A counter."},
]
PARTS = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {
        "role": "user",
        "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "A counter."}]},
]
OPEN = {"video": "a.mp4", "question": "What?", "answer": "That."}


def read(folder: Path, records: Any, **keys: Any) -> QuestionFile:
    file = folder / "questions.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    return read_question_file(file, **keys)


def read_one(folder: Path, record: dict[str, Any]) -> SampleSpec:
    (sample,) = read(folder, [record]).samples
    return sample


@pytest.mark.parametrize(
    "record",
    [
        {"video": "a.mp4", "conversations": TURNS},
        {"video": ["a.mp4"], "conversations": TURNS},
        {"videos": ["a.mp4"], "messages": MESSAGES},
        {"videos": ["a.mp4"], "images": [], "audios": None, "messages": MESSAGES},
        {"video": "a.mp4", "image": None, "images": None, "id": None, "conversations": TURNS},
        {"videos": [{"path": "a.mp4", "bytes": None}], "messages": MESSAGES},
        {"video": "a.mp4", "conversations": MESSAGES},
        {"video": "a.mp4", "messages": TURNS, "conversations": None},
        {"video": "a.mp4", "start": None, "end": None, "system": None, "conversations": TURNS},
    ],
)
def test_forms_of_a_conversation_are_the_same_sample(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    sample = read_one(tmp_path, record)
    assert (sample.modality, sample.files, sample.key) == ("video", ("a.mp4",), "a")
    (question,) = sample.questions
    assert (question.question, question.answer) == ("\nWhat is shown?", "A counter.")
    assert (sample.system_prompt, sample.clip_seconds) == ("", None)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": PARTS},
        {"video": "a.mp4", "conversations": [{"from": "system", "value": "Be brief."}, *TURNS]},
        {"video": "a.mp4", "system": "Be brief.", "conversations": TURNS},
        {"video": "a.mp4", "system": "", "messages": PARTS},
        {"video": "a.mp4", "system_prompt": "Be brief.", "conversations": TURNS},
        {**OPEN, "system_prompt": " Be brief. "},
    ],
)
def test_system_turn_is_the_system_prompt_of_the_sample(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    sample = read_one(tmp_path, record)
    assert (sample.system_prompt, sample.files) == ("Be brief.", ("a.mp4",))
    assert len(sample.questions) == 1


@pytest.mark.parametrize(
    ("times", "clip_seconds", "key"),
    [
        ({"start": 10, "end": 14.5}, (10.0, 14.5), "a-10000-14500"),
        ({"video_start": 10, "video_end": "14.5"}, (10.0, 14.5), "a-10000-14500"),
        ({"start": "1:02.25"}, (62.25, float("inf")), "a-62250-end"),
        ({"end": "00:01:00"}, (0.0, 60.0), "a-0-60000"),
        ({"start": 0}, None, "a"),
        ({"start": "", "end": ""}, None, "a"),
    ],
)
def test_start_and_end_make_a_part_of_the_video(
    tmp_path: Path, times: dict[str, Any], clip_seconds: Any, key: str
) -> None:
    for record in (OPEN, {"video": "a.mp4", "conversations": TURNS}):
        sample = read_one(tmp_path, {**record, **times})
        assert (sample.clip_seconds, sample.key) == (clip_seconds, key)


def test_parts_and_system_prompts_of_one_video_are_samples_of_their_own(tmp_path: Path) -> None:
    records = [
        {**OPEN, "start": 1, "end": 2},
        OPEN,
        {**OPEN, "start": 1, "end": 2},
        {**OPEN, "start": 2, "end": 3},
        {**OPEN, "system_prompt": "Be brief."},
    ]
    samples = read(tmp_path, records).samples
    assert [(sample.clip_seconds, len(sample.questions)) for sample in samples] == [
        ((1.0, 2.0), 2),
        (None, 1),
        ((2.0, 3.0), 1),
        (None, 1),
    ]
    assert samples[0].name == "a.mp4 (1 s to 2 s)"
    assert len({sample.key for sample in samples}) == 4


def test_keys_are_unique_for_any_file_names(tmp_path: Path) -> None:
    names = ["视频一.mp4", "视频二.mp4", "clip 1.mp4", "clip_1.mp4", "a.mp4", "a.mkv", "b.c.mp4"]
    names += ["e\u0301.mp4", "\u00e9.mp4", "b_c.mp4", "x/a.mp4", "x_a.mp4", "a-0-1000.mp4"]
    records = [{**OPEN, "video": name} for name in names] + [{**OPEN, "end": 1}]
    samples = read(tmp_path, records).samples
    keys = [sample.key for sample in samples]
    assert len(set(keys)) == len(records)
    assert all("." not in key and key.isascii() for key in keys)
    assert keys[names.index("x/a.mp4")] == "x/a"  # a name that is alone keeps its readable key
    others = read(tmp_path, records[::-1]).samples  # whatever the order of the records
    assert {sample.name: sample.key for sample in samples} == {
        sample.name: sample.key for sample in others
    }


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["A. Apples.", "B. Candles.", "C. Berries."], "C"),
        (["(A) Apples.", "(B) Candles.", "(C) Berries."], "(C) Berries."),
        (["A: Apples.", "B: Candles.", "C: Berries."], "Berries."),
        (["A) Apples.", "B) Candles.", "C) Berries."], "C. Berries."),
        ({"A": "Apples.", "B": "Candles.", "C": "Berries."}, "C"),
        ("A. Apples.\nB. Candles.\nC. Berries.\n", "C."),
        (["Apples.", "Candles.", "Berries."], "C"),
    ],
)
def test_options_do_not_keep_their_letters(tmp_path: Path, options: Any, answer: str) -> None:
    (question,) = read_one(tmp_path, {**OPEN, "options": options, "answer": answer}).questions
    assert question.options == ("Apples.", "Candles.", "Berries.")
    assert question.answer_letter == "C"


@pytest.mark.parametrize("answer", ["b", "b.", "(b)", "b) Candles.", "Candles.", "B"])
def test_options_do_not_keep_their_lowercase_letters(tmp_path: Path, answer: str) -> None:
    options = ["a) Apples.", "b) Candles.", "c) Berries."]
    (question,) = read_one(tmp_path, {**OPEN, "options": options, "answer": answer}).questions
    assert question.options == ("Apples.", "Candles.", "Berries.")
    assert question.answer_letter == "B"
    with pytest.raises(QuestionError, match="is not among the options"):
        read(tmp_path, [{**OPEN, "options": options, "answer": "a) Candles."}])
    assert strip_letters(["a) x", "c) y"], "c") == (["a) x", "c) y"], "c")


def test_file_url_is_the_path_in_it(tmp_path: Path) -> None:
    record = {"messages": MESSAGES, "videos": ["file://sub/a.mp4"]}
    assert read_one(tmp_path, record).files == ("sub/a.mp4",)
    with pytest.raises(QuestionError, match=r"inside the folder of files, not '/data/a\.mp4'"):
        read_one(tmp_path, {**record, "videos": ["file:///data/a.mp4"]})


@pytest.mark.parametrize(
    "options",
    [["A. Apples.", "Candles."], ["B. Candles.", "A. Apples."], ["A.", "B."], ["A.m.", "B.m."]],
)
def test_texts_that_only_look_like_letters_are_kept(options: list[str]) -> None:
    assert strip_letters(options, options[0]) == (options, options[0])


@pytest.mark.parametrize(
    ("options", "answer", "text"),
    [
        ({"B": "Candles.", "A": "Apples."}, "A", "Apples."),
        ({"A": "Apples.", "B": None, "C": "Berries.", "D": ""}, "(C)", "Berries."),
        ({"0": "Apples.", "1": "Candles."}, "1", "Candles."),
        ({"a": "Apples.", "b": "Candles."}, "b", "Candles."),
        ({"A": 3, "B": 4}, "B. 4", "4"),
        (["B. Candles.", "A. Apples."], "A", "A. Apples."),
        (["A. Apples.", "C. Berries.", "D. Dates."], "C", "C. Berries."),
    ],
)
def test_answer_is_the_option_of_its_letter_in_any_order(
    tmp_path: Path, options: Any, answer: str, text: str
) -> None:
    (question,) = read_one(tmp_path, {**OPEN, "options": options, "answer": answer}).questions
    assert question.answer == text
    assert not {"", "None"} & set(question.options)


def test_letter_of_an_absent_option_is_an_error(tmp_path: Path) -> None:
    options = {"A": "Apples.", "B": None, "C": "Berries."}
    with pytest.raises(QuestionError, match="'B' is not among the options"):
        read(tmp_path, [{**OPEN, "options": options, "answer": "B"}])


def test_wrong_letter_before_the_text_of_an_answer_is_an_error(tmp_path: Path) -> None:
    record = {**OPEN, "options": ["A. x", "B. y"], "answer": "A. y"}
    with pytest.raises(QuestionError, match=r"'A\. y' is not among the options"):
        read(tmp_path, [record])


@pytest.mark.parametrize(
    ("name", "lines"),
    [("q.json", 3), ("q.jsonl", 3), ("q.json", 1), ("q.jsonl", 1)],
)
def test_json_lines_are_read_under_both_names(tmp_path: Path, name: str, lines: int) -> None:
    file = tmp_path / name
    file.write_text("".join(json.dumps({**OPEN, "id": number}) + "\n" for number in range(lines)))
    (sample,) = read_questions(file)
    assert len(sample.questions) == lines


def test_list_named_jsonl_and_utf16_are_read(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps([OPEN, OPEN], indent=1))
    (tmp_path / "q.json").write_text(json.dumps([OPEN]), encoding="utf-16")
    assert len(read_questions(tmp_path / "q.jsonl")[0].questions) == 2
    assert len(read_questions(tmp_path / "q.json")) == 1


def test_unused_keys_are_logged_once_with_their_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [{**OPEN, "frame_count": 3, "idx": number} for number in range(4)]
    records.append({"video": "a.mp4", "conversations": TURNS, "duration": 3.0})
    with caplog.at_level(logging.WARNING):
        content = read(tmp_path, records)
    assert content.unused_keys == {"frame_count": 4, "idx": 4, "duration": 1}
    (message,) = caplog.messages
    assert "'frame_count' (4 records), 'idx' (4 records), 'duration' (1 records)" in message


BAD: list[tuple[Any, str]] = [
    ({"video": "a.mp4", "conversations": TURNS + TURNS[:1]}, r"Turn 3, from human, has no other"),
    ({"video": "a.mp4", "conversations": TURNS[::-1]}, "must be from human, then gpt"),
    ({"video": "a.mp4", "conversations": [*TURNS, {"from": "tool", "value": "3"}]}, "from 'tool'"),
    (
        {"video": "a.mp4", "conversations": [*TURNS, {"from": "system", "value": "3"}]},
        "turn 3 is from system",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "content part"),
    ({"videos": ["a.mp4", "b.mp4"], "messages": MESSAGES}, "names 2 videos"),
    ({"video": "a.mp4", "system": "Be kind.", "messages": PARTS}, "second system prompt"),
    ({**OPEN, "start": 10**400}, "key 'start' must be a time"),
    ({**OPEN, "start": "-1:120"}, "key 'start' must be a time"),
    ({**OPEN, "evidence": [[1, 10**400]]}, "key 'evidence' must be a list"),
    ({"question": "What?"}, "key 'answer' is missing"),
    ({**OPEN, "id": "1"}, "also the id of record"),
    (3, "must be a mapping"),
]


def test_bad_records_are_left_out_within_the_budget_and_listed(tmp_path: Path) -> None:
    records = [{**OPEN, "id": "1"}, *(record for record, _ in BAD), OPEN]
    content = read(tmp_path, records, max_invalid=len(BAD))
    assert sum(len(sample.questions) for sample in content.samples) == 2
    for number, ((_, message), invalid) in enumerate(
        zip(BAD, content.invalid, strict=True), start=2
    ):
        assert f"questions.json: record {number}" in invalid.location
        assert message in invalid.reason
    with pytest.raises(QuestionError, match=r"raise pack\.max_bad_samples"):
        read(tmp_path, records, max_invalid=len(BAD) - 1)


def test_bad_line_is_left_out_within_the_budget(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(f"{json.dumps(OPEN)}\n{{\n{json.dumps(OPEN)}\n")
    content = read_question_file(file, max_invalid=1)
    assert len(content.samples[0].questions) == 2
    assert "q.jsonl: line 2 is not valid JSON" in content.invalid[0].reason


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
def test_number_of_thousands_of_digits_is_invalid_json(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(f'[{{"question": "What?", "answer": "That.", "n": {"9" * 5000}}}]')
    with pytest.raises(QuestionError, match="is not valid JSON: Exceeds the limit"):
        read_questions(file)
