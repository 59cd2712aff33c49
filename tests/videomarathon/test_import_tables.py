"""Tables of other projects: VideoMarathon's parquet and JSON, NExT-QA's CSV; invalid records."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lit_hour.cli.main import main
from lit_hour.data.questions.file import read_questions
from lit_hour.errors import InputError, QuestionError, ShardError
from lit_hour.types import Question
from lit_hour.videomarathon import question_tables
from lit_hour.videomarathon.choices_in_text import recognize_choice
from lit_hour.videomarathon.import_questions import (
    ImportOptions,
    ImportResult,
    import_questions,
)
from lit_hour.videomarathon.question_tables import expand_files, split_question_type
from tests import REPOSITORY
from tests.helpers.http_server import FAST_STORE, serve
from tests.helpers.hub_server import DATA_SET, serve_hub

CHOICE = "What happens first?\nA. the pan\nB. the plate\nC. the cup\nD. the fork"
ROWS: list[dict[str, Any]] = [
    {
        "id": "v0",
        "video": "a.mp4",
        "data_source": "panda",
        "question": CHOICE,
        "answer": "B",
        "question_type": "temporality/temporal_order/mc",
        "URL": "https://www.youtube.com/watch?v=aaaaaaaaaaa",
    },
    {
        "id": "v1",
        "video": "a.mp4",
        "data_source": "panda",
        "question": "What is shown?",
        "answer": "A kitchen.",
        "question_type": "scene/scene recognition/oe",
        "URL": "https://www.youtube.com/watch?v=aaaaaaaaaaa",
    },
]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos/panda").mkdir(parents=True)
    (tmp_path / "videos/panda/a.mp4").write_bytes(b"a")
    (tmp_path / "videos/4010069381.mp4").write_bytes(b"b")
    return tmp_path / "videos"


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


def run_import(files: list[Path], videos: Path, **options: Any) -> ImportResult:
    settings = ImportOptions(roots=[videos], **options)
    return import_questions([str(file) for file in files], videos.parent / "out", settings)


def imported(videos: Path) -> list[Question]:
    samples = read_questions(videos.parent / "out/questions.json")
    return [question for sample in samples for question in sample.questions]


def test_videomarathon_parquet(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_parquet(
        videos.parent / "train-0.parquet",
        [{**row, "duration": 3.0, "note": None} for row in ROWS],
    )
    with caplog.at_level(logging.WARNING):
        result = run_import([file], videos)
    assert (result.num_videos, result.num_questions) == (1, 2)
    assert result.sources == {"panda": (1, 1, 2)}
    choice, open_ended = imported(videos)
    assert choice == Question(
        "v0",
        "temporality/temporal_order",
        "multiple_choice",
        "What happens first?",
        "the plate",
        ("the pan", "the plate", "the cup", "the fork"),
    )
    assert choice.answer_letter == "B"
    assert (open_ended.task, open_ended.format) == ("scene/scene_recognition", "open_ended")
    (message,) = caplog.messages
    assert "train-0.parquet has keys that are not used: 'duration' (2 records)" in message


def test_several_parquet_files_by_a_pattern_and_a_url(videos: Path) -> None:
    import fsspec

    for number in range(2):
        write_parquet(videos.parent / f"train-{number}.parquet", ROWS)  # the ids repeat
    pattern = str(videos.parent / "train-*.parquet")
    assert [Path(name).name for name in expand_files([pattern])] == [
        "train-0.parquet",
        "train-1.parquet",
    ]
    memory = fsspec.filesystem("memory")
    for number in range(2):
        content = (videos.parent / f"train-{number}.parquet").read_bytes()
        memory.pipe(f"/set/train-{number}.parquet", content)
    settings = ImportOptions(roots=[videos])
    for name in (pattern, "memory://set/train-*.parquet"):
        result = import_questions([name], videos.parent / "out", settings)
        assert result.num_questions == 4
        assert len({question.id for question in imported(videos)}) == 4
    with pytest.raises(QuestionError, match="There is no file"):
        expand_files([str(videos / "none-*.parquet")])


def test_parquet_behind_a_url_is_read_again_after_faults(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question_tables, "RemoteStore", lambda: FAST_STORE)
    file = write_parquet(videos.parent / "train.parquet", ROWS)
    settings = ImportOptions(roots=[videos])
    with serve(videos.parent) as server:
        url = f"{server.url}/train.parquet?signature=secret"
        server.statuses = [503, 429]
        assert import_questions([url], videos.parent / "out", settings).num_questions == 2
        assert server.statuses == []
        server.statuses = [503] * 20
        with pytest.raises(ShardError, match=r"train\.parquet: the server answers 503 Service"):
            import_questions([url], videos.parent / "out", settings)
        server.statuses = []
        file.write_bytes(file.read_bytes()[:-30])
        for name, message in (
            (url, r"/train\.parquet is not a readable parquet file"),
            (f"{server.url}/none.parquet", r"none\.parquet: it does not exist"),
            (f"{server.url}/q.json?a=b", r"/q\.json is not a \.parquet file\. Download it"),
        ):
            with pytest.raises(InputError, match=message) as error:
                import_questions([name], videos.parent / "out", settings)
            assert "secret" not in str(error.value)


@pytest.mark.slow
def test_parquet_files_of_a_private_data_set_of_hugging_face(videos: Path) -> None:
    (videos.parent / "set/data").mkdir(parents=True)
    for number in range(2):
        write_parquet(videos.parent / f"set/data/train-{number}.parquet", ROWS)
    (videos.parent / "set/data/test-0.parquet").write_bytes(b"not this one")
    url = f"hf://datasets/{DATA_SET}/data/train-*.parquet"
    words = ["import", url, str(videos.parent / "out"), "--videos", str(videos)]
    with serve_hub(videos.parent / "set") as hub:
        hub.num_unavailable = 1
        command = [sys.executable, "-m", "lit_hour", *words]
        environment = {**os.environ, **hub.environment}  # read when the library is imported
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert not any("test-0" in path for path, _ in hub.requests)
    assert len(imported(videos)) == 4


def test_processed_json_recognizes_multiple_choice(videos: Path) -> None:
    turns = [
        ("human", f"<image>\n{CHOICE}\nAnswer with the option's letter."),
        ("gpt", "B. the plate"),
        ("human", "Options: A) red B) blue. Which?"),
        ("gpt", "Both."),
        ("human", "Is it (A) red or (B) blue"),
        ("gpt", "(A)"),
    ]
    record = {
        "video": "a.mp4",
        "data_source": "panda",
        "conversations": [{"from": role, "value": text} for role, text in turns],
    }
    (videos.parent / "q.json").write_text(json.dumps([record]))
    run_import([videos.parent / "q.json"], videos)
    first, second, third = imported(videos)
    assert (first.question, first.answer_letter) == ("\nWhat happens first?", "B")
    assert first.options[-1] == "the fork"
    assert (second.format, second.answer) == ("open_ended", "Both.")
    assert third.options == ("red or", "blue") and third.question == "Is it"


@pytest.mark.parametrize(
    ("text", "answer", "options"),
    [
        ("What?\n(A) one\n(B) two", "(B) two", ("one", "two")),
        ("What? A. one B. two C. three", "C", ("one", "two", "three")),
        ("What?\nOptions:\nA: one\nB: two", "two", ("one", "two")),
        (
            "Who is A. Smith?\nA. one\nB. two\nPlease give the letter of the option.",
            "A",
            ("one", "two"),
        ),
        ("What?\nA. one\nB. two", "C", None),
        ("What?\nA. one\nB. two", "A. two", None),
        ("What?\nA. one", "A", None),
        ("What?\nB. one\nA. two", "A", None),
        ("A. one\nB. two", "A", None),
        ("What is plan A. and what is plan B?", "It is so.", None),
        ("What?\nA. one\nB. one", "A", None),
    ],
)
def test_options_in_the_text(text: str, answer: str, options: tuple[str, ...] | None) -> None:
    found = recognize_choice(Question("1", "", "open_ended", text, answer))
    assert (found and found.options) == options


@pytest.mark.parametrize(
    ("question_type", "task", "question_format"),
    [
        ("temporality/temporal_order/mc", "temporality/temporal_order", "multiple_choice"),
        ("Temporality/Temporal Order/OE", "temporality/temporal_order", "open_ended"),
        ("scene_transition/mc", "scene/scene_transition", "multiple_choice"),
        ("weather/rain/mc", "", "multiple_choice"),
        ("mc", "", "multiple_choice"),
        ("temporality", "", ""),
    ],
)
def test_question_types(question_type: str, task: str, question_format: str) -> None:
    assert split_question_type(question_type) == (task, question_format)


def test_unknown_tasks_are_logged_once(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {**ROWS[1], "id": str(number), "question_type": "weather/rain/oe"} for number in range(3)
    ]
    with caplog.at_level(logging.WARNING):
        run_import([write_parquet(videos.parent / "q.parquet", rows)], videos)
    assert ["'weather/rain/oe' (3)" in message for message in caplog.messages] == [True]


def test_invalid_rows_are_left_out_within_the_budget(videos: Path) -> None:
    rows = [
        ROWS[0],
        {**ROWS[0], "id": "x", "question": "Which one?"},  # no options
        {**ROWS[0], "id": "y", "answer": "E"},
        {**ROWS[1], "id": "z", "answer": None},
        ROWS[1],
    ]
    file = write_parquet(videos.parent / "q.parquet", rows)
    with pytest.raises(QuestionError, match=r"row 4.*videomarathon\.max_invalid_records \(now 2\)"):
        run_import([file], videos, max_invalid=2)
    assert not list((videos.parent / "out").glob("*.unfinished"))
    result = run_import([file], videos, max_invalid=3)
    assert (result.num_questions, result.num_invalid) == (2, 3)
    listed = (videos.parent / "out/invalid.txt").read_text().splitlines()
    assert [f"q.parquet: row {row}" in line for row, line in zip((2, 3, 4), listed, strict=True)]


NEXT_QA = """video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4
4010069381,369,640,480,how do they play,0,6,CH,roll it,tap it,strum it,hit it,pat it
4010069381,369,640,480,what do they play,4,7,CH,drums,flute,piano,horn,0
"""


def test_next_qa_csv(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (videos.parent / "val.csv").write_text(NEXT_QA)
    with caplog.at_level(logging.WARNING):
        run_import([videos.parent / "val.csv"], videos)
    first, second = imported(videos)
    assert (first.question, first.answer) == ("how do they play", "roll it")
    assert first.options == ("roll it", "tap it", "strum it", "hit it", "pat it")
    assert second.answer_letter == "E"
    (message,) = caplog.messages
    assert "val.csv" in message and "'frame_count' (2 records)" in message


def test_errors_name_the_file_of_the_user(videos: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4c\nsize 8\n"
    for name in ("q.csv", "q.json", "q.parquet"):
        (videos.parent / name).write_text(pointer)
        with pytest.raises(QuestionError, match=rf"{name} is a Git LFS pointer"):
            run_import([videos.parent / name], videos)
    (videos.parent / "half.parquet").write_bytes(
        write_parquet(videos.parent / "q.parquet", ROWS).read_bytes()[:500]
    )
    with pytest.raises(QuestionError, match=r"half\.parquet is not a readable parquet file"):
        run_import([videos.parent / "half.parquet"], videos)
    (videos.parent / "v.csv").write_text(NEXT_QA.replace(",0,6,", ",9,6,"))
    with pytest.raises(QuestionError, match=r"v\.csv: row 1.*'9' is none of 0, 1, 2, 3, 4"):
        run_import([videos.parent / "v.csv"], videos)
    with pytest.raises(QuestionError, match=r"q\.xlsx must be a \.json"):
        (videos.parent / "q.xlsx").touch()
        run_import([videos.parent / "q.xlsx"], videos)


def test_parts_of_videos_and_system_prompts_are_kept(videos: Path) -> None:
    record = {"video": "panda/a.mp4", "question": "What?", "answer": "It.", "start": 1, "end": 2}
    records = [record, {**record, "end": None, "system": "Be brief."}]
    (videos.parent / "q.json").write_text(json.dumps(records))
    run_import([videos.parent / "q.json"], videos)
    first, second = read_questions(videos.parent / "out/questions.json")
    assert (first.clip_seconds, first.system_prompt) == ((1.0, 2.0), "")
    assert (second.clip_seconds, second.system_prompt) == ((1.0, float("inf")), "Be brief.")


def test_command_line(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_parquet(videos.parent / "q.parquet", ROWS)
    manifest = videos.parent / "manifest.csv"
    words = [str(file), str(videos.parent / "out"), "--videos", str(videos)]
    main(["import", *words, "--manifest", str(manifest)])
    printed = capsys.readouterr().out
    assert "1 videos, 2 questions" in printed and "  panda: 1 of 1 videos, 2 questions" in printed
    assert "panda/a.mp4,found" in manifest.read_text()


MEASURE = """
import re, sys
from pathlib import Path
from lit_hour.videomarathon.import_questions import ImportOptions, import_questions
result = import_questions([sys.argv[1]], Path(sys.argv[2]), ImportOptions(max_missing=10**6))
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(result.num_questions, len(result.missing), peak)
"""


@pytest.mark.slow
def test_memory_of_300_000_rows_stays_below_500_mb(tmp_path: Path) -> None:
    file = tmp_path / "q.parquet"
    schema = pyarrow.Table.from_pylist(ROWS).schema
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, 300_000, 10_000):
            rows = [
                {**ROWS[number % 2], "id": f"q{number}", "video": f"{number // 11}.mp4"}
                for number in range(start, start + 10_000)
            ]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE, file, tmp_path / "out"],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    num_questions, num_missing, peak_kib = map(int, printed.split())
    assert (num_questions, num_missing) == (0, 27_273)
    assert peak_kib * 1024 < 500e6, f"{peak_kib * 1024 / 1e6:.0f} MB"
