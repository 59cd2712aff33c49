"""Each published layout is parsed into items; invalid records are named, within a budget."""

from __future__ import annotations

import copy
import json
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.item import Item
from lit_hour.evaluation.load_benchmark import BENCHMARKS, load_benchmark
from tests.evaluation import question_files
from tests.evaluation.conftest import WriteFiles


def load(
    name: str, content: Any, folder: Path, max_invalid: int = 0
) -> tuple[tuple[Item, ...], list[str]]:
    """The items of one changed file, and its invalid records as "location: reason"."""
    (file,) = question_files.write_all({next(iter(question_files.FILES[name])): content}, folder)
    questions = load_benchmark(name, [file], max_invalid)
    return questions.items, [
        f"{record.location}: {record.reason}" for record in questions.invalid_records
    ]


# The published layouts


def test_every_published_layout_loads(write_files: WriteFiles) -> None:
    for name in BENCHMARKS:
        questions = load_benchmark(name, write_files(name), max_invalid=0)
        assert len(questions.items) == question_files.NUM_ITEMS[name], name
        assert questions.invalid_records == (), name
        assert set(questions.files) == set(question_files.FILES[name])
        for item in questions.items:
            assert item.answer in item.options and item.prompt and item.videos, name


def test_video_mme_prompt_is_the_published_one(write_files: WriteFiles) -> None:
    item = load_benchmark("video_mme", write_files("video_mme"), 0).items[0]
    assert item.prompt == (
        "Select the best answer to the following multiple-choice question based on the video."
        " Respond with only the letter (A, B, C, or D) of the correct option."
        "\nHow many moons are there?\nA. 4.\nB. 9.\nC. 5.\nD. 13.\nThe best answer is:"
    )
    assert item.options == {"A": "4.", "B": "9.", "C": "5.", "D": "13."} and item.answer == "B"
    assert item.videos[0] == "abcdefghi-1.mp4" and item.id == "001-1"
    assert item.groups["duration"] == ("short",) and item.groups["task"] == ("Counting Problem",)


def test_video_mme_authors_json_gives_the_same_items(tmp_path: Path) -> None:
    first, _ = load("video_mme", question_files.VIDEO_MME[:2], tmp_path)
    (file,) = question_files.write_all({"authors.json": question_files.VIDEO_MME_AUTHORS}, tmp_path)
    second = load_benchmark("video_mme", [file], 0).items
    assert [(item.id, item.videos, item.prompt, item.groups) for item in first] == [
        (item.id, item.videos, item.prompt, item.groups) for item in second
    ]


def test_video_mme_loads_from_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads parquet and is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(question_files.VIDEO_MME), file)
    from_lines, _ = load("video_mme", question_files.VIDEO_MME, tmp_path)
    assert [item.prompt for item in load_benchmark("video_mme", [file], 0).items] == [
        item.prompt for item in from_lines
    ]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(QuestionError, match="not a readable parquet file"):
        load_benchmark("video_mme", [file], 0)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        QuestionError, match=r"test\.parquet: reading parquet needs pyarrow.*pip install pyarrow"
    ):
        load_benchmark("video_mme", [file], 0)


def test_lvbench_keeps_every_ability_of_a_question(write_files: WriteFiles) -> None:
    first, second = load_benchmark("lvbench", write_files("lvbench"), 0).items
    assert first.groups == {"ability": ("entity recognition", "reasoning")} and second.id == "1"
    assert (
        first.options["D"] == "Both"
        and first.answer == "D"
        and first.videos == ("Cm73ma6Ibcs.mp4",)
    )
    assert first.prompt.endswith("(D) Both\nAnswer the question with the option letter")


def test_longvideobench_options_get_letters(write_files: WriteFiles) -> None:
    first, second, third = load_benchmark("longvideobench", write_files("longvideobench"), 0).items
    assert (first.answer, second.answer, third.answer) == ("B", "E", "A")
    assert first.groups["duration group in seconds"] == ("3600",) and first.groups["level"] == (
        "L2-Relation",
    )
    assert third.prompt.split("\n") == [
        "Question: Which subtitle comes when the man in the blue shirt appears?",
        *(
            "A. promisc",
            "B. run",
            "Answer with the option's letter from the given choices directly.",
        ),
    ]


def test_mlvu_prompt_is_the_published_one(write_files: WriteFiles) -> None:
    first, second = load_benchmark("mlvu", write_files("mlvu"), 0).items
    assert first.prompt == (
        "Question: What did I put in the trashcan \nOptions:"
        "\n(A) a sponge\n(B) a pen\n(C) a pen\n(D) an apple"
        "\nOnly give the best option."
    )
    assert first.answer_start == "Best option:(" and first.system_prompt.startswith(
        "Carefully watch this video"
    )
    assert second.answer == "C", "of two equal options the published code takes the last"
    assert first.videos == ("3_ego/ego_0.mp4", "ego_0.mp4") and first.id == "3_ego/1"


def test_tempcompass_options_are_read_as_written(write_files: WriteFiles) -> None:
    first, second = load_benchmark("tempcompass", write_files("tempcompass"), 0).items
    assert first.id == "multi-choice/1034419625/action/1" and first.answer == "B"
    assert second.options["C"] == "Nobody can say" and second.answer == "C"
    assert first.prompt.endswith("B. throws a ball\nPlease directly give the best option:")


def test_tempcompass_captioning_needs_a_judge(tmp_path: Path) -> None:
    question = (
        "Describe it.\nInformation A: {'subject': 'man'}\nInformation B: {'subject': 'dog'}"
        "\nGenerated Caption:"
    )
    content = {"1": {"action": [{"question": question, "answer": "B. dunking a basketball"}]}}
    ((item,), _) = load("tempcompass", content, tmp_path)
    assert (
        item.rule == "needs_judge"
        and item.prompt == question
        and item.id == "captioning/1/action/1"
    )


def test_egoschema_keeps_questions_with_a_published_answer(write_files: WriteFiles) -> None:
    first, second = load_benchmark("egoschema", write_files("egoschema"), 0).items
    assert (first.answer, second.answer) == ("D", "A") and second.videos == ("0074f737-11cb-2.mp4",)


# Invalid records and files


def changed(name: str, **columns: Any) -> Any:
    """A layout with some columns of its first record changed; None removes a column."""
    content = copy.deepcopy(next(iter(question_files.FILES[name].values())))
    record = (
        content[0]["qa"][0]
        if name == "lvbench"
        else content["1034419625"]["action"][0]
        if name == "tempcompass"
        else content[0]
    )
    for column, value in columns.items():
        record[column] = value
        if value is None:
            del record[column]
    return content


INVALID_RECORDS: list[tuple[str, dict[str, Any], str]] = [  # benchmark, changed columns, reason
    ("video_mme", {"answer": "E"}, "column 'answer': 'E' is none of A, B, C, D"),
    (
        "video_mme",
        {"options": ["A. 4.", "C. 9."]},
        "column 'options' has to hold options A., B. and so on",
    ),
    ("video_mme", {"options": "A. 4."}, "column 'options' has to be a list of texts"),
    ("video_mme", {"duration": "shrot"}, "did you mean 'short'"),
    ("video_mme", {"videoID": "../../etc/passwd"}, "must be a path inside the folder"),
    ("video_mme", {"task_type": None}, "column 'task_type' is missing"),
    ("video_mme", {"question": " "}, "key 'question' must be a nonempty text"),
    ("lvbench", {"answer": "F"}, "column 'answer': 'F' is none of A, B, C, D"),
    ("lvbench", {"question": "Who wins?"}, "has to hold options A., B. and so on"),
    ("lvbench", {"question_type": ["reasonning"]}, "did you mean 'reasoning'"),
    ("lvbench", {"uid": None}, "column 'uid' is missing"),
    (
        "longvideobench",
        {"correct_choice": 4},
        "column 'correct_choice' has to be an index from 0 to 3, not 4",
    ),
    ("longvideobench", {"correct_choice": True}, "not True"),
    ("longvideobench", {"video_path": "/root/video.mp4"}, "must be a path inside the folder"),
    ("longvideobench", {"duration_group": 61}, "'61' is none of 15, 60, 600, 3600"),
    (
        "longvideobench",
        {"candidates": [str(number) for number in range(30)]},
        "has 30 options; 2 to 26 are supported",
    ),
    ("mlvu", {"answer": "a banana"}, "column 'answer': 'a banana' is none of the options"),
    ("mlvu", {"question_type": "egos"}, "did you mean 'ego'"),
    ("mlvu", {"candidates": None}, "column 'candidates' is missing"),
    ("mlvu", {"video": "../ego_0.mp4"}, "must be a path inside the folder"),
    ("mlvu", {"answer": 3}, "key 'answer' must be a nonempty text"),
    (
        "tempcompass",
        {"answer": "C. flies"},
        "column 'answer': 'C. flies' is none of the options",
    ),
    (
        "tempcompass",
        {"question": "Does he fly?"},
        "column 'answer': 'B. throws a ball' is none of yes, no",
    ),
    ("tempcompass", {"answer": None}, "column 'answer' is missing"),
    ("egoschema", {"option 4": None}, "column 'option 4' is missing"),
]


def test_an_invalid_record_is_named_and_counted(write_files: WriteFiles) -> None:
    for name, columns, reason in INVALID_RECORDS:
        files = write_files(name)
        question_files.write_all({files[0].name: changed(name, **columns)}, files[0].parent)
        questions = load_benchmark(name, files, max_invalid=1)
        (invalid,) = questions.invalid_records
        assert reason in invalid.reason and str(files[0]) in invalid.location
        assert len(questions.items) == question_files.NUM_ITEMS[name] - 1
        with pytest.raises(
            QuestionError,
            match=r"1 records of .* cannot be used; evaluation\.\w+=0 are allowed",
        ):
            load_benchmark(name, files, max_invalid=0)


def test_a_duplicate_id_is_refused_with_the_record_that_has_it(tmp_path: Path) -> None:
    for name in ("video_mme", "longvideobench", "lvbench"):
        content = next(iter(question_files.FILES[name].values()))
        items, reasons = load(name, [*content, content[0]], tmp_path, max_invalid=2)
        assert len(items) == question_files.NUM_ITEMS[name]
        assert reasons
        for reason in reasons:
            assert "is taken by" in reason and "record 1" in reason, reason


def test_the_same_file_twice_is_refused(write_files: WriteFiles) -> None:
    (file,) = write_files("mlvu")
    with pytest.raises(
        QuestionError,
        match=r"2 records of MLVU dev cannot be used; evaluation\.\w+=1 are allowed"
        r"(.|\n)*'3_ego/1' is taken by",
    ):
        load_benchmark("mlvu", [file, file], max_invalid=1)


def test_a_file_of_another_benchmark_is_refused_and_recognized(write_files: WriteFiles) -> None:
    for name, other in permutations(BENCHMARKS, 2):
        file = write_files(other)[0]
        likely = f"it looks like a file of.*{BENCHMARKS[other].title}"
        if other == "egoschema":  # its questions.json has no answers
            likely = ""
        with pytest.raises(
            QuestionError,
            match=f"{file.name} is not a file of {BENCHMARKS[name].title}.*it lacks(.|\n)*{likely}",
        ):
            load_benchmark(name, [file], max_invalid=1000)


def test_one_foreign_file_among_others_is_refused(write_files: WriteFiles) -> None:
    with pytest.raises(QuestionError, match=r"lvb_val\.json is not a file of MLVU dev"):
        load_benchmark(
            "mlvu", [*write_files("mlvu"), *write_files("longvideobench")], max_invalid=1000
        )


def test_egoschema_without_answers_names_the_missing_file(write_files: WriteFiles) -> None:
    with pytest.raises(
        QuestionError, match=r"it lacks answer; pass both questions\.json and subset_answers\.json"
    ):
        load_benchmark("egoschema", write_files("egoschema")[:1], max_invalid=1000)


def test_egoschema_answers_without_a_question_are_invalid_records(write_files: WriteFiles) -> None:
    files = write_files("egoschema")
    question_files.write_all(
        {files[1].name: {**question_files.EGOSCHEMA_ANSWERS, "gone": 1}}, files[0].parent
    )
    (invalid,) = load_benchmark("egoschema", files, max_invalid=1).invalid_records
    assert (
        invalid.location.endswith("subset_answers.json: record gone")
        and "'question' is missing" in invalid.reason
    )


def test_the_test_set_of_longvideobench_is_refused(tmp_path: Path) -> None:
    content = [
        {key: value for key, value in record.items() if key != "correct_choice"}
        for record in question_files.LONGVIDEOBENCH
    ]
    with pytest.raises(
        QuestionError, match=r"it lacks correct_choice; the test set is published without answers"
    ):
        load("longvideobench", content, tmp_path)


def test_json_of_any_other_shape_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "strange.json"
    for content in (
        "null",
        "3",
        '"text"',
        "[]",
        "{}",
        "[1, null]",
        '{"a": 1}',
        '{"a": {"b": [1]}}',
        '{"a": null}',
    ):
        file.write_text(content)
        for name, benchmark in BENCHMARKS.items():
            with pytest.raises(
                QuestionError,
                match=rf"strange\.json is not a file of {benchmark.title}|'question' is missing",
            ):
                load_benchmark(name, [file], max_invalid=0)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("cut.json", b'[{"video": ', "cut.json is not valid JSON"),
        ("cut.jsonl", b'{"a": 1}\n{"b": ', "cut.jsonl: line 2 is not valid JSON"),
        ("latin.json", b'["\xe9"]', "latin.json is not valid JSON"),
        ("deep.json", b"[" * 200_000, "deep.json is not valid JSON"),
        ("table.csv", b"a,b", "must be one of .json, .jsonl, .parquet"),
        ("gone.json", None, "gone.json cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(QuestionError, match=message):
        load_benchmark("mlvu", [tmp_path / name], max_invalid=0)


def test_no_file_and_no_valid_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="No file of MLVU dev was given"):
        load_benchmark("mlvu", [], max_invalid=0)
    with pytest.raises(QuestionError, match="2 records of MLVU dev cannot be used; none is valid"):
        load(
            "mlvu",
            [{**record, "answer": "a banana"} for record in question_files.MLVU],
            tmp_path,
            max_invalid=2,
        )


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(QuestionError, match="There is no benchmark 'mvlu'; did you mean 'mlvu'"):
        load_benchmark("mvlu", [], max_invalid=0)


def test_the_digest_depends_on_the_content(tmp_path: Path) -> None:
    digests = set()
    for content in (question_files.MLVU, question_files.MLVU[:1], question_files.MLVU):
        (file,) = question_files.write_all({"3_ego.json": content}, tmp_path)
        digests.add(json.dumps(load_benchmark("mlvu", [file], 0).files))
    assert len(digests) == 2


def test_files_of_the_same_name_keep_both_digests(tmp_path: Path) -> None:
    files = [
        question_files.write_all({"ego.json": [record]}, tmp_path / name)[0]
        for name, record in zip("ab", question_files.MLVU, strict=True)
    ]
    assert set(load_benchmark("mlvu", files, max_invalid=1).files) == set(map(str, files))
