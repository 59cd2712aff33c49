import json
from pathlib import Path
from typing import Any

import pytest

from lit_hour.cli import main
from lit_hour.data.questions.file import read_questions
from lit_hour.errors import QuestionError
from lit_hour.videomarathon.import_questions import import_questions
from tests.videomarathon.factories import FinishedRun, SyntheticVideos

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


def write(path: Path, records: list[Any]) -> Path:
    path.write_text(
        "\n".join(map(json.dumps, records)) if path.suffix == ".jsonl" else json.dumps(records)
    )
    return path


@pytest.mark.parametrize("name", ["published.json", "published.jsonl"])
def test_the_published_form_is_read_and_videos_are_found_under_several_roots(
    films: SyntheticVideos, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    imported = import_questions(
        write(tmp_path / name, PUBLISHED), [tmp_path / "empty", films.folder], tmp_path / "out", 0
    )
    assert (imported.num_videos, imported.num_questions, imported.missing) == (2, 3, ())
    subjects = read_questions(tmp_path / "out" / "questions.json")
    assert [subject.files[0] for subject in subjects] == [
        "of a week/monday.mp4",
        "elsewhere/garden.mp4",
    ]
    assert [(each.question, each.answer) for each in subjects[0].questions] == [
        ("What is seen first?", "A star."),
        ("And then?", "A circle."),
    ]
    for name_of_video, original in (
        ("of a week/monday.mp4",) * 2,
        ("elsewhere/garden.mp4", "garden.mp4"),
    ):
        assert (tmp_path / "out/videos" / name_of_video).samefile(films.folder / original)


def test_the_first_root_counts(films: SyntheticVideos, tmp_path: Path) -> None:
    for root in ("one", "other"):
        (tmp_path / root).mkdir()
        (tmp_path / root / "garden.mp4").write_bytes(root.encode())
    file = write(
        tmp_path / "questions.json",
        [{"video": "garden.mp4", "question": "Who?", "answer": "Nobody."}],
    )
    import_questions(file, [tmp_path / "other", tmp_path / "one"], tmp_path / "out", 0)
    assert (tmp_path / "out/videos/garden.mp4").read_bytes() == b"other"
    with pytest.raises(QuestionError, match=r"out/videos/garden\.mp4 is .*other.* and not .*one"):
        import_questions(file, [tmp_path / "one"], tmp_path / "out", 0)


def test_missing_videos_are_listed_and_stop_the_import_unless_they_may_be_missing(
    films: SyntheticVideos, tmp_path: Path
) -> None:
    records = [
        {"video": f"lost/{number}.mp4", "question": "Who?", "answer": "Nobody."}
        for number in range(3)
    ]
    records.append({"video": "garden.mp4", "question": "Who?", "answer": "Ida."})
    file = write(tmp_path / "questions.json", records)
    with pytest.raises(
        QuestionError,
        match=r"3 of 4 videos are in none of .*the first is lost/0\.mp4;.* videomarathon\.max_missing_videos=3",
    ):
        import_questions(file, [films.folder], tmp_path / "out", 2)
    assert not (tmp_path / "out/questions.json").exists()
    imported = import_questions(file, [films.folder], tmp_path / "out", 3)
    assert imported.missing == ("lost/0.mp4", "lost/1.mp4", "lost/2.mp4")
    assert (tmp_path / "out/missing.txt").read_text().splitlines() == list(imported.missing)
    assert [
        each["answer"] for each in json.loads((tmp_path / "out/questions.json").read_text())
    ] == ["Ida."]


def test_a_table_is_read(films: SyntheticVideos, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8-sig")
    import_questions(tmp_path / "table.csv", [films.folder], tmp_path / "out", 0)
    first, second = read_questions(tmp_path / "out/questions.json")[0].questions
    assert (first.question, first.answer, first.options) == (
        "What, then?",
        "a pan",
        ("a pan", "a plate"),
    )
    assert (first.evidence, first.task) == (((3.0, 8.5), (10.0, 12.0)), "object/object_recognition")
    assert (second.format, second.evidence) == ("open_ended", ())


@pytest.mark.parametrize(
    "table, reason",
    [
        ("video,question,answer\ngarden.mp4,Who?\n", "row 1 has not as many cells"),
        ("video,question,answer\ngarden.mp4,Who?,Ida,Eva\n", "row 1 has not as many cells"),
        (
            "video,question,answer,evidence\ngarden.mp4,Who?,Ida,early\n",
            "row 1: evidence is written as seconds",
        ),
        ("video,question,answr\ngarden.mp4,Who?,Ida\n", "record 1.*did you mean 'answer'"),
        ('video,question,answer\ngarden.mp4,"Who?,Ida\n', "cannot be read as a table"),
    ],
)
def test_a_wrong_table_is_refused_with_the_row(
    films: SyntheticVideos, tmp_path: Path, table: str, reason: str
) -> None:
    (tmp_path / "table.csv").write_text(table)
    with pytest.raises(QuestionError, match=reason):
        import_questions(tmp_path / "table.csv", [films.folder], tmp_path / "out", 0)


def test_pictures_are_left_to_pack(films: SyntheticVideos, tmp_path: Path) -> None:
    file = write(
        tmp_path / "questions.json", [{"image": "a.jpg", "question": "Who?", "answer": "Ida."}]
    )
    with pytest.raises(QuestionError, match=r"a\.jpg is no video"):
        import_questions(file, [films.folder], tmp_path / "out", 0)


def test_what_was_annotated_can_be_brought_in_and_packed(
    films: SyntheticVideos,
    finished: FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    main(["import", str(finished.out / "questions.json"), str(out), "--videos", str(films.folder)])
    command = capsys.readouterr().out.splitlines()[-1]
    assert json.loads((out / "questions.json").read_text()) == json.loads(
        (finished.out / "questions.json").read_text()
    )
    small = [
        "video.image_size=32",
        "video.min_frames=2",
        "video.max_frames=3",
        "pack.num_workers=1",
    ]
    main([*command.removeprefix("to pack them: python -m lit_hour ").split(), *small])
    assert "1 shards with 2 videos" in capsys.readouterr().out
