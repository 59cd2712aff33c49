"""Which file is the video of a record: never another file with the same last name."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from lit_hour.errors import QuestionError
from lit_hour.videomarathon.import_manifest import COLUMNS
from lit_hour.videomarathon.import_questions import (
    ImportOptions,
    ImportResult,
    format_import_report,
    import_questions,
)
from lit_hour.videomarathon.video_lookup import VideoFolders


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def run_import(tmp_path: Path, names: list[str], *roots: Path, **options: Any) -> ImportResult:
    records = [
        {"video": name, "id": f"q{number}", "question": "What?", "answer": "It."}
        for number, name in enumerate(names)
    ]
    (tmp_path / "q.json").write_text(json.dumps(records))
    settings = ImportOptions(**{"roots": roots, "max_missing": len(names), **options})
    return import_questions([str(tmp_path / "q.json")], tmp_path / "out", settings)


def linked(tmp_path: Path) -> dict[str, str]:
    """Return the content of the file that each linked video is, which is its name."""
    folder = tmp_path / "out/videos"
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_file_of_another_folder_is_not_linked(tmp_path: Path) -> None:
    root = make_files(tmp_path / "all", "P01/x.mp4", "P03/y.mp4")
    result = run_import(tmp_path, ["P01/x.mp4", "P02/x.mp4", "P02/y.mp4"], root)
    assert linked(tmp_path) == {"P01/x.mp4": "P01/x.mp4"}
    assert result.missing == ("P02/x.mp4", "P02/y.mp4")


def test_file_of_the_given_folder_is_not_that_of_another_one(tmp_path: Path) -> None:
    make_files(tmp_path / "all", "P01/x.mp4")
    run_import(tmp_path, ["P01/x.mp4", "P02/x.mp4"], tmp_path / "all/P01")
    assert linked(tmp_path) == {"P01/x.mp4": "P01/x.mp4"}


def test_names_that_share_one_file_are_ambiguous(tmp_path: Path) -> None:
    root = make_files(tmp_path / "flat", "x.mp4")
    result = run_import(tmp_path, ["P01/x.mp4", "P02/x.mp4"], root)
    assert result.missing == ("P01/x.mp4", "P02/x.mp4") and not linked(tmp_path)
    listed = (tmp_path / "out/ambiguous.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in listed] == ["P01/x.mp4", "P02/x.mp4"]


def test_name_with_several_files_is_ambiguous_and_an_exact_path_is_not(tmp_path: Path) -> None:
    root = make_files(tmp_path / "all", "one/x.mp4", "two/x.mp4", "y.mp4", "one/y.mp4")
    result = run_import(tmp_path, ["x.mp4", "y.mp4"], root)
    assert result.missing == ("x.mp4",)
    assert linked(tmp_path) == {"y.mp4": "y.mp4"}
    (line,) = (tmp_path / "out/ambiguous.txt").read_text().splitlines()
    assert "one/x.mp4" in line and "two/x.mp4" in line
    with pytest.raises(QuestionError, match=r"1 of 2 videos are missing.*1 of them ambiguous"):
        run_import(tmp_path, ["x.mp4", "y.mp4"], root, max_missing=0)


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("sub/a", "sub/a.mp4"),
        ("a", "a.mp4"),
        ("/data/videos/sub/a.mp4", "data/videos/sub/a.mp4"),
        ("../videos/sub/a.mp4", "videos/sub/a.mp4"),
        (r"sub\a.mp4", "sub/a.mp4"),
        (r"D:\data\sub\a.mp4", "data/sub/a.mp4"),
        ("./sub/a.mp4", "sub/a.mp4"),
        ("sub/a.mkv", "sub/a.mp4"),
        ("a.b", "a.b.mp4"),
    ],
)
def test_ways_to_name_one_file(tmp_path: Path, name: str, link: str) -> None:
    root = make_files(tmp_path / "all", "sub/a.mp4", "sub/a.b.mp4")
    assert run_import(tmp_path, [name], root).num_videos == 1
    assert [*linked(tmp_path)] == [link]
    (record,) = json.loads((tmp_path / "out/questions.json").read_text())
    assert record["video"] == link


def test_names_are_compared_in_nfc(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Café/été.mp4")
    root = make_files(tmp_path / "all", decomposed)
    composed = unicodedata.normalize("NFC", decomposed)
    assert decomposed != composed
    assert run_import(tmp_path, [composed], root).missing == ()


def test_videos_found_by_the_end_of_their_path_are_counted(tmp_path: Path) -> None:
    root = make_files(tmp_path / "flat", "x.mp4", "sub/y.mp4")
    result = run_import(tmp_path, ["P01/x.mp4", "sub/y.mp4"], root)
    assert (result.num_videos, result.num_partial) == (2, 1)
    assert "1 videos were found by the end of their path alone" in format_import_report(
        tmp_path / "out", result
    )


def test_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("none", "file"):
        with pytest.raises(QuestionError, match=rf"{name} is not a folder"):
            VideoFolders([tmp_path, tmp_path / name])


def test_ids_name_the_files(tmp_path: Path) -> None:
    root = make_files(tmp_path / "ids", "abc.mp4", "dQw4w9WgXcQ.webm", "q2.mp4")
    rows = [
        "id,video,URL,question,answer",
        "v0,shows/one/abc.mp4,,What?,It.",
        "v1,shows/two/part.mp4,https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=1,What?,It.",
        "q2,shows/three/part.mp4,,What?,It.",
        "v3,shows/four/gone.mp4,,What?,It.",
    ]
    (tmp_path / "q.csv").write_text("\n".join(rows))
    options = ImportOptions(id_folders=[root], max_missing=1)
    result = import_questions([str(tmp_path / "q.csv")], tmp_path / "out", options)
    assert linked(tmp_path) == {
        "shows/one/abc.mp4": "abc.mp4",
        "shows/two/part.webm": "dQw4w9WgXcQ.webm",
        "shows/three/part.mp4": "q2.mp4",
    }
    assert result.missing == ("shows/four/gone.mp4",)


def test_manifest_lists_every_video_and_the_second_call_goes_on(tmp_path: Path) -> None:
    root, file = make_files(tmp_path / "all", "one/a.mp4"), tmp_path / "manifest.csv"
    rows = [
        "data_source,video,URL,question,answer",
        "one,a.mp4,https://youtu.be/aaaaaaaaaaa,What?,It.",
        "one,a.mp4,https://youtu.be/aaaaaaaaaaa,Who?,She.",
        "two,b.mp4,,What?,It.",
    ]
    (tmp_path / "q.csv").write_text("\n".join(rows))
    options = ImportOptions(roots=[root], manifest=file)
    first = import_questions([str(tmp_path / "q.csv")], tmp_path / "out", options)
    assert (first.num_videos, first.num_questions, first.num_new) == (1, 2, None)
    assert first.sources == {"one": (1, 1, 2), "two": (0, 1, 0)}
    lines = file.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1].startswith("a,https://youtu.be/aaaaaaaaaaa,one,one/a.mp4,found,")
    assert lines[2] == "b,,two,two/b.mp4,missing,,1"
    make_files(root, "two/b.mp4")
    second = import_questions([str(tmp_path / "q.csv")], tmp_path / "out", options)
    assert (second.num_videos, second.num_questions, second.num_new) == (2, 3, 1)
    report = format_import_report(tmp_path / "out", second)
    assert "1 videos have arrived since" in report and "  two: 1 of 1 videos, 1 questions" in report
    file.write_text("my,own,table\n")
    with pytest.raises(QuestionError, match=r"manifest\.csv is not a manifest"):
        import_questions([str(tmp_path / "q.csv")], tmp_path / "out", options)
