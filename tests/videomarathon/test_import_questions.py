"""Import of question files in other formats."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lit_hour.cli.main import main
from lit_hour.data.questions.file import read_questions
from lit_hour.errors import QuestionError
from lit_hour.videomarathon.import_questions import ImportOptions, ImportResult
from lit_hour.videomarathon.import_questions import import_questions as import_files
from tests.videomarathon.factories import PACK_OPTIONS, FinishedRun, SyntheticVideos

PUBLISHED = [
    {
        "id": "v1",
        "data_source": "of a week",
        "video": "monday.mp4",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is seen first?"},
            {"from": "gpt", "value": "A star."},
            {"from": "human", "value": "And then?"},
            {"from": "gpt", "value": "A circle."},
        ],
    },
    {
        "id": "v2",
        "video": "elsewhere/garden.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nWho?"},
            {"from": "gpt", "value": "Nobody."},
        ],
    },
]
TABLE = """video,question,answer,options,evidence,task
garden.mp4,"What, then?",a pan,a pan | a plate,3-8.5; 10-12,object/object_recognition
garden.mp4,Where?,Here.,,,
"""


def import_questions(
    file: Path, roots: list[Path], out: Path, max_missing: int = 0, **options: Any
) -> ImportResult:
    return import_files(
        [str(file)], out, ImportOptions(roots=roots, max_missing=max_missing, **options)
    )


def write(path: Path, records: list[Any]) -> Path:
    path.write_text(
        "\n".join(map(json.dumps, records)) if path.suffix == ".jsonl" else json.dumps(records)
    )
    return path


@pytest.mark.parametrize("name", ["published.json", "published.jsonl"])
def test_published_format_with_videos_in_several_folders(
    videos: SyntheticVideos, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    file, roots = write(tmp_path / name, PUBLISHED), [tmp_path / "empty", videos.folder]
    result = import_questions(file, roots, tmp_path / "out", 0)
    assert (result.num_videos, result.num_questions, result.missing) == (2, 3, ())
    samples = read_questions(tmp_path / "out" / "questions.json")
    originals = {
        "of a week/monday.mp4": "of a week/monday.mp4",
        "elsewhere/garden.mp4": "garden.mp4",
    }
    assert [sample.files[0] for sample in samples] == [*originals]
    assert [(question.question, question.answer) for question in samples[0].questions] == [
        ("\nWhat is seen first?", "A star."),
        ("And then?", "A circle."),
    ]
    for video, original in originals.items():
        assert (tmp_path / "out/videos" / video).samefile(videos.folder / original)


def test_first_folder_with_the_video_counts(videos: SyntheticVideos, tmp_path: Path) -> None:
    for root in ("one", "other"):
        (tmp_path / root).mkdir()
        (tmp_path / root / "garden.mp4").write_bytes(root.encode())
    records = [{"video": "garden.mp4", "question": "Who?", "answer": "Nobody."}]
    file = write(tmp_path / "questions.json", records)
    import_questions(file, [tmp_path / "other", tmp_path / "one"], tmp_path / "out", 0)
    assert (tmp_path / "out/videos/garden.mp4").read_bytes() == b"other"
    message = r"out/videos/garden\.mp4 is a link to .*other.* and not to .*one"
    with pytest.raises(QuestionError, match=message):
        import_questions(file, [tmp_path / "one"], tmp_path / "out", 0)
    shutil.copytree(tmp_path / "other", tmp_path / "copy")
    import_questions(file, [tmp_path / "copy"], tmp_path / "out", 0)


def test_missing_videos_are_listed_and_stop_the_import_unless_allowed(
    videos: SyntheticVideos, tmp_path: Path
) -> None:
    records = [
        {"video": f"lost/{number}.mp4", "question": "Who?", "answer": "Nobody."}
        for number in range(3)
    ]
    records.append({"video": "garden.mp4", "question": "Who?", "answer": "Ida."})
    file = write(tmp_path / "questions.json", records)
    message = (
        r"3 of 4 videos are missing in .*first lost/0\.mp4 .*videomarathon\.max_missing_videos=3"
    )
    with pytest.raises(QuestionError, match=message):
        import_questions(file, [videos.folder], tmp_path / "out", 2)
    assert not (tmp_path / "out/questions.json").exists()
    result = import_questions(file, [videos.folder], tmp_path / "out", 3)
    assert result.missing == ("lost/0.mp4", "lost/1.mp4", "lost/2.mp4")
    assert (tmp_path / "out/missing.txt").read_text().splitlines() == list(result.missing)
    records = json.loads((tmp_path / "out/questions.json").read_text())
    assert [record["answer"] for record in records] == ["Ida."]


def test_csv_table_is_read(videos: SyntheticVideos, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8-sig")
    import_questions(tmp_path / "table.csv", [videos.folder], tmp_path / "out", 0)
    first, second = read_questions(tmp_path / "out/questions.json")[0].questions
    assert (first.question, first.answer) == ("What, then?", "a pan")
    assert first.options == ("a pan", "a plate")
    assert (first.evidence, first.task) == (((3.0, 8.5), (10.0, 12.0)), "object/object_recognition")
    assert (second.format, second.evidence) == ("open_ended", ())


@pytest.mark.parametrize(
    "table, reason",
    [
        ("video,question,answer\ngarden.mp4,Who?\n", "row 1 must have as many cells"),
        ("video,question,answer\ngarden.mp4,Who?,Ida,Eva\n", "row 1 must have as many cells"),
        (
            "video,question,answer,evidence\ngarden.mp4,Who?,Ida,early\n",
            "row 1: evidence must be intervals in seconds",
        ),
        ("video,question,answr\ngarden.mp4,Who?,Ida\n", "row 1.*did you mean 'answer'"),
        ('video,question,answer\ngarden.mp4,"Who?,Ida\n', "cannot be read as a table"),
    ],
)
def test_invalid_table_is_refused(
    videos: SyntheticVideos, tmp_path: Path, table: str, reason: str
) -> None:
    (tmp_path / "table.csv").write_text(table)
    with pytest.raises(QuestionError, match=reason):
        import_questions(tmp_path / "table.csv", [videos.folder], tmp_path / "out", 0)


def test_questions_about_images_are_refused(videos: SyntheticVideos, tmp_path: Path) -> None:
    records = [{"image": "a.jpg", "question": "Who?", "answer": "Ida."}]
    file = write(tmp_path / "questions.json", records)
    with pytest.raises(QuestionError, match=r"a\.jpg is not a video"):
        import_questions(file, [videos.folder], tmp_path / "out", 0)


def test_annotated_questions_can_be_imported_and_packed(
    videos: SyntheticVideos,
    finished_run: FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    main(
        [
            "import",
            str(finished_run.out / "questions.json"),
            str(out),
            "--videos",
            str(videos.folder),
        ]
    )
    command = capsys.readouterr().out.splitlines()[-1]
    imported, original = (
        json.loads((folder / "questions.json").read_text()) for folder in (out, finished_run.out)
    )
    assert imported == original
    main([*command.removeprefix("to pack them: lit-hour ").split(), *PACK_OPTIONS])
    assert "1 shards with 2 videos" in capsys.readouterr().out
