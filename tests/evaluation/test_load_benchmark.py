"""Each benchmark's published layout becomes items; what is damaged is refused by name, within the budget."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import QuestionError
from lit_hour.evaluation.item import Item
from lit_hour.evaluation.load_benchmark import BENCHMARKS, load_benchmark
from tests import REPOSITORY
from tests.evaluation import layouts


def read(
    name: str, content: Any, folder: Path, max_refused: int = 0
) -> tuple[tuple[Item, ...], list[str]]:
    """The items of one changed file, and what was refused as "place: reason"."""
    (file,) = layouts.write_all({next(iter(layouts.FILES[name])): content}, folder)
    questions = load_benchmark(name, [file], max_refused)
    return questions.items, [
        f"{record.location}: {record.reason}" for record in questions.invalid_records
    ]


# The published layouts


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_layout_loads(name: str, write: Any) -> None:
    questions = load_benchmark(name, write(name), max_refused=0)
    assert len(questions.items) == layouts.NUM_ITEMS[name]
    assert questions.invalid_records == () and set(questions.files) == set(layouts.FILES[name])
    assert all(
        item.answer in item.options and item.prompt and item.videos for item in questions.items
    )


def test_video_mme_is_asked_with_the_published_words(write: Any) -> None:
    item = load_benchmark("video_mme", write("video_mme"), 0).items[0]
    assert item.prompt == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter"
        " (A, B, C, or D) of the correct option.\nHow many moons are there?\nA. 4.\nB. 9.\nC. 5.\nD. 13.\nThe best answer is:"
    )
    assert item.options == {"A": "4.", "B": "9.", "C": "5.", "D": "13."} and item.answer == "B"
    assert item.videos[0] == "abcdefghi-1.mp4" and item.id == "001-1"
    assert item.groups["duration"] == ("short",) and item.groups["task"] == ("Counting Problem",)


def test_video_mme_of_its_authors_is_the_same(tmp_path: Path) -> None:
    first, _ = read("video_mme", layouts.VIDEO_MME[:2], tmp_path)
    (file,) = layouts.write_all({"authors.json": layouts.VIDEO_MME_OF_AUTHORS}, tmp_path)
    second = load_benchmark("video_mme", [file], 0).items
    assert [(item.id, item.videos, item.prompt, item.groups) for item in first] == [
        (item.id, item.videos, item.prompt, item.groups) for item in second
    ]


def test_video_mme_loads_from_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow reads parquet and is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(layouts.VIDEO_MME), file)
    from_lines, _ = read("video_mme", layouts.VIDEO_MME, tmp_path)
    assert [item.prompt for item in load_benchmark("video_mme", [file], 0).items] == [
        item.prompt for item in from_lines
    ]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(QuestionError, match="no parquet file that can be read"):
        load_benchmark("video_mme", [file], 0)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        QuestionError, match=r"test\.parquet: parquet is read by pyarrow.*pip install pyarrow"
    ):
        load_benchmark("video_mme", [file], 0)


def test_lvbench_keeps_every_ability_of_a_question(write: Any) -> None:
    first, second = load_benchmark("lvbench", write("lvbench"), 0).items
    assert first.groups == {"ability": ("entity recognition", "reasoning")} and second.id == "1"
    assert (
        first.options["D"] == "Both"
        and first.answer == "D"
        and first.videos == ("Cm73ma6Ibcs.mp4",)
    )
    assert first.prompt.endswith("(D) Both\nAnswer the question with the option letter")


def test_longvideobench_numbers_its_options(write: Any) -> None:
    first, second, third = load_benchmark("longvideobench", write("longvideobench"), 0).items
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


def test_mlvu_is_asked_with_the_published_words(write: Any) -> None:
    first, second = load_benchmark("mlvu", write("mlvu"), 0).items
    assert first.prompt == (
        "Question: What did I put in the trashcan \nOptions:\n(A) a sponge\n(B) a pen\n(C) a pen\n(D) an apple"
        "\nOnly give the best option."
    )
    assert first.answer_start == "Best option:(" and first.system_prompt.startswith(
        "Carefully watch this video"
    )
    assert second.answer == "C", "of two equal options the published code takes the last"
    assert first.videos == ("3_ego/ego_0.mp4", "ego_0.mp4") and first.id == "3_ego/1"


def test_tempcompass_reads_options_as_they_are_written(write: Any) -> None:
    first, second = load_benchmark("tempcompass", write("tempcompass"), 0).items
    assert first.id == "multi-choice/1034419625/action/1" and first.answer == "B"
    assert second.options["C"] == "Nobody can say" and second.answer == "C"
    assert first.prompt.endswith("B. throws a ball\nPlease directly give the best option:")


def test_tempcompass_captioning_is_left_to_a_judge(tmp_path: Path) -> None:
    question = "Describe it.\nInformation A: {'subject': 'man'}\nInformation B: {'subject': 'dog'}\nGenerated Caption:"
    content = {"1": {"action": [{"question": question, "answer": "B. dunking a basketball"}]}}
    ((item,), _) = read("tempcompass", content, tmp_path)
    assert (
        item.rule == "needs_judge"
        and item.prompt == question
        and item.id == "captioning/1/action/1"
    )


def test_egoschema_asks_only_what_has_a_published_answer(write: Any) -> None:
    first, second = load_benchmark("egoschema", write("egoschema"), 0).items
    assert (first.answer, second.answer) == ("D", "A") and second.videos == ("0074f737-11cb-2.mp4",)


# Damage


def changed(name: str, **columns: Any) -> Any:
    """The content of a layout with some columns of its first record changed; None takes a column away."""
    content = copy.deepcopy(next(iter(layouts.FILES[name].values())))
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


@pytest.mark.parametrize(
    "name, columns, reason",
    [
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
        ("video_mme", {"question": " "}, "key 'question' has to be a text that is not empty"),
        ("lvbench", {"answer": "F"}, "column 'answer': 'F' is none of A, B, C, D"),
        ("lvbench", {"question": "Who wins?"}, "has to hold options A., B. and so on"),
        ("lvbench", {"question_type": ["reasonning"]}, "did you mean 'reasoning'"),
        ("lvbench", {"uid": None}, "column 'uid' is missing"),
        (
            "longvideobench",
            {"correct_choice": 4},
            "column 'correct_choice': 4 is no place from 0 to 3",
        ),
        ("longvideobench", {"correct_choice": True}, "True is no place"),
        ("longvideobench", {"video_path": "/root/video.mp4"}, "must be a path inside the folder"),
        ("longvideobench", {"duration_group": 61}, "'61' is none of 15, 60, 600, 3600"),
        (
            "longvideobench",
            {"candidates": [str(number) for number in range(30)]},
            "has 30 options; it takes 2 to 26",
        ),
        ("mlvu", {"answer": "a banana"}, "column 'answer': 'a banana' is none of the options"),
        ("mlvu", {"question_type": "egos"}, "did you mean 'ego'"),
        ("mlvu", {"candidates": None}, "column 'candidates' is missing"),
        ("mlvu", {"video": "../ego_0.mp4"}, "must be a path inside the folder"),
        ("mlvu", {"answer": 3}, "key 'answer' has to be a text"),
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
    ],
)
def test_a_damaged_record_is_named_and_counted(
    name: str, columns: dict[str, Any], reason: str, tmp_path: Path, write: Any
) -> None:
    files = write(name)
    layouts.write_all({files[0].name: changed(name, **columns)}, files[0].parent)
    questions = load_benchmark(name, files, max_refused=1)
    (refused,) = questions.invalid_records
    assert reason in refused.reason and str(files[0]) in refused.location
    assert len(questions.items) == layouts.NUM_ITEMS[name] - 1
    with pytest.raises(QuestionError, match=r"1 records of .* cannot be used, 0 may be"):
        load_benchmark(name, files, max_refused=0)


@pytest.mark.parametrize("name", ["video_mme", "longvideobench", "lvbench"])
def test_an_id_that_is_taken_is_refused_and_says_by_what(name: str, tmp_path: Path) -> None:
    content = next(iter(layouts.FILES[name].values()))
    items, refused = read(name, [*content, content[0]], tmp_path, max_refused=2)
    assert len(items) == layouts.NUM_ITEMS[name]
    assert refused and all("is taken by" in reason and "record 1" in reason for reason in refused)


def test_the_same_file_twice_is_refused(write: Any) -> None:
    (file,) = write("mlvu")
    with pytest.raises(
        QuestionError, match=r"2 records of MLVU dev cannot be used(.|\n)*'3_ego/1' is taken by"
    ):
        load_benchmark("mlvu", [file, file], max_refused=1)


@pytest.mark.parametrize("name, other", list(permutations(BENCHMARKS, 2)))
def test_a_file_of_another_benchmark_is_refused_and_recognised(
    name: str, other: str, write: Any
) -> None:
    files = write(other)[:1]
    known = (
        "" if other == "egoschema" else f"(.|\n)*it looks like a file of.*{BENCHMARKS[other].title}"
    )
    with pytest.raises(
        QuestionError,
        match=f"{files[0].name} is no file of {BENCHMARKS[name].title}.*it lacks{known}",
    ):
        load_benchmark(name, files, max_refused=1000)


def test_one_stranger_among_the_files_is_refused(write: Any) -> None:
    with pytest.raises(QuestionError, match=r"lvb_val\.json is no file of MLVU dev"):
        load_benchmark("mlvu", [*write("mlvu"), *write("longvideobench")], max_refused=1000)


def test_egoschema_without_its_answers_says_which_file_is_missing(write: Any) -> None:
    with pytest.raises(
        QuestionError, match=r"it lacks answer; give both questions\.json and subset_answers\.json"
    ):
        load_benchmark("egoschema", write("egoschema")[:1], max_refused=1000)


def test_egoschema_answers_without_a_question_are_counted(write: Any) -> None:
    files = write("egoschema")
    layouts.write_all({files[1].name: {**layouts.EGOSCHEMA_ANSWERS, "gone": 1}}, files[0].parent)
    (refused,) = load_benchmark("egoschema", files, max_refused=1).invalid_records
    assert (
        refused.location.endswith("subset_answers.json: record gone")
        and "'question' is missing" in refused.reason
    )


def test_the_test_set_of_longvideobench_is_refused(tmp_path: Path) -> None:
    content = [
        {key: value for key, value in record.items() if key != "correct_choice"}
        for record in layouts.LONGVIDEOBENCH
    ]
    with pytest.raises(
        QuestionError, match=r"it lacks correct_choice; the test set is published without answers"
    ):
        read("longvideobench", content, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "null",
        "3",
        '"text"',
        "[]",
        "{}",
        "[1, null]",
        '{"a": 1}',
        '{"a": {"b": [1]}}',
        '{"a": null}',
    ],
)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_json_of_any_other_shape_is_refused(name: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "strange.json"
    file.write_text(content)
    with pytest.raises(
        QuestionError,
        match=rf"strange\.json is no file of {BENCHMARKS[name].title}|'question' is missing",
    ):
        load_benchmark(name, [file], max_refused=0)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("cut.json", b'[{"video": ', "cut.json is not JSON"),
        ("cut.jsonl", b'{"a": 1}\n{"b": ', "cut.jsonl: line 2 is not JSON"),
        ("latin.json", b'["\xe9"]', "latin.json is not JSON"),
        ("deep.json", b"[" * 200_000, "deep.json is not JSON"),
        ("table.csv", b"a,b", "one of .json, .jsonl, .parquet"),
        ("gone.json", None, "gone.json cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(QuestionError, match=message):
        load_benchmark("mlvu", [tmp_path / name], max_refused=0)


def test_no_file_and_no_usable_record_are_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="no file of MLVU dev was given"):
        load_benchmark("mlvu", [], max_refused=0)
    with pytest.raises(QuestionError, match="2 records of MLVU dev cannot be used, and none can"):
        read(
            "mlvu",
            [{**record, "answer": "a banana"} for record in layouts.MLVU],
            tmp_path,
            max_refused=2,
        )


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(QuestionError, match="there is no benchmark 'mvlu'; did you mean 'mlvu'"):
        load_benchmark("mvlu", [], max_refused=0)


def test_a_file_written_again_has_another_digest(tmp_path: Path) -> None:
    digests = set()
    for content in (layouts.MLVU, layouts.MLVU[:1], layouts.MLVU):
        (file,) = layouts.write_all({"3_ego.json": content}, tmp_path)
        digests.add(json.dumps(load_benchmark("mlvu", [file], 0).files))
    assert len(digests) == 2


def test_files_of_one_name_keep_both_digests(tmp_path: Path) -> None:
    files = [
        layouts.write_all({"ego.json": [record]}, tmp_path / name)[0]
        for name, record in zip("ab", layouts.MLVU, strict=True)
    ]
    assert set(load_benchmark("mlvu", files, max_refused=1).files) == set(map(str, files))


def test_nothing_here_waits_for_torch() -> None:
    modules = (
        "load_benchmark",
        "scoring",
        "subtitles",
        "benchmarks.custom",
        "report.report",
        "report.compare",
        "report.html",
        "report.text",
    )
    code = f"import sys, {', '.join(f'lit_hour.evaluation.{module}' for module in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
