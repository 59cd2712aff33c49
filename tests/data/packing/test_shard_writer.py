"""What is packed beside videos: pictures and texts."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from lit_hour.config.schema import PackConfig
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ImageError, QuestionError
from tests.data.mixed import KEYS, RECORDS, talk, write_records
from tests.data.tiny import SETTINGS, VIDEO


@pytest.fixture
def files(mixed_files: Path, tmp_path: Path) -> Path:
    """A copy of the files, to be damaged."""
    return shutil.copytree(mixed_files, tmp_path / "files")


def members(shards: Path) -> dict[str, bytes]:
    contents = {}
    for path in sorted(shards.glob("0*.tar")):
        with tarfile.open(path) as tar:
            contents |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return contents


def test_pictures_are_stored_as_the_files_that_they_are(mixed: Path, mixed_files: Path) -> None:
    contents = members(mixed)
    assert [name for name in contents if not name.startswith("clip.")] == [
        *("more/chart.000000.png", "more/chart.json"),
        *("photo.000000.jpg", "photo.json"),
        *("record_00000003.000000.jpg", "record_00000003.000001.png", "record_00000003.json"),
        "record_00000004.json",
        *(
            "record_00000006.000000.webp",
            "record_00000006.000001.bmp",
            "record_00000006.000002.jpg",
            "record_00000006.json",
        ),
        "record_00000007.json",
    ]
    for name, original in [
        ("more/chart.000000.png", "more/chart.png"),
        ("record_00000006.000000.webp", "map.webp"),
        ("record_00000006.000001.bmp", "dot.bmp"),
        ("record_00000006.000002.jpg", "photo.jpg"),
    ]:
        assert contents[name] == (mixed_files / original).read_bytes()


def test_the_index_tells_the_kinds(mixed: Path) -> None:
    subjects = open_shards(mixed).entries
    kinds = ["video", "image", "image", "images", "text", "images", "text"]
    assert [(each.key, each.modality) for each in subjects] == list(zip(KEYS, kinds, strict=True))
    assert [each.num_frames for each in subjects] == [5, 1, 1, 2, 0, 3, 0]
    assert [each.num_questions for each in subjects] == [1, 1, 3, 1, 3, 3, 1]
    assert [each.duration_seconds for each in subjects] == [5.0, *[0.0] * 6]
    totals = json.loads((mixed / "index.json").read_text())
    assert totals["num_samples"] == {"video": 1, "image": 2, "images": 2, "text": 2}
    assert (totals["num_frames"], totals["num_questions"]) == (12, 13)


def test_the_suffix_is_that_of_the_content(files: Path, tmp_path: Path) -> None:
    (files / "map.webp").rename(files / "map.jpeg")
    questions = write_records(
        tmp_path / "q.json", [{"image": "map.jpeg", "question": "What?", "answer": "It."}]
    )
    pack(files, questions, tmp_path / "out", VIDEO, SETTINGS)
    assert list(members(tmp_path / "out")) == ["map.000000.webp", "map.json"]


def test_texts_alone_need_no_files(tmp_path: Path) -> None:
    questions = write_records(tmp_path / "q.json", [talk("Why?")])
    summary = pack(tmp_path / "nowhere", questions, tmp_path / "out", VIDEO, SETTINGS)
    assert (
        summary.num_samples == {"video": 0, "image": 0, "images": 0, "text": 1}
        and summary.num_frames == 0
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"photo\.jpg \(0 bytes\) is not a JPEG"),
        (b"not a picture", r"photo\.jpg \(13 bytes\) is not a JPEG"),
        (..., r"photo\.jpg \(1000 bytes\) is damaged or cut off"),
    ],
)
def test_a_damaged_picture_stops_packing_by_name(
    files: Path, tmp_path: Path, content, message: str
) -> None:
    photo = files / "photo.jpg"
    photo.write_bytes(photo.read_bytes()[:1000] if content is ... else content)
    questions = write_records(tmp_path / "q.json", RECORDS)
    with pytest.raises(ImageError, match=rf"{files}/{message}.*pack\.max_bad_samples \(now 0\)"):
        pack(files, questions, tmp_path / "out", VIDEO, SETTINGS)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "000000.json" in left  # the shard before it
    assert not [
        name
        for name in left
        if name.startswith("000001") or "unfinished" in name or name == "index.json"
    ]


def test_damaged_pictures_within_the_budget_are_left_out_with_what_asks_about_them(
    files: Path, tmp_path: Path
) -> None:
    photo = files / "photo.jpg"
    photo.write_bytes(photo.read_bytes()[:1000])
    questions = write_records(tmp_path / "q.json", RECORDS)
    summary = pack(
        files,
        questions,
        tmp_path / "out",
        VIDEO,
        PackConfig(videos_per_shard=2, num_workers=1, max_bad_samples=3),
    )
    assert [each.name for each in summary.skipped] == [
        "photo.jpg",
        "record_00000003",
        "record_00000006",
    ]
    assert all(f"{photo} (1000 bytes)" in each.reason for each in summary.skipped)
    shards = open_shards(tmp_path / "out")
    assert [each.key for each in shards.entries] == [
        "clip",
        "more/chart",
        "record_00000004",
        "record_00000007",
    ]
    assert all(shards.read(each).questions for each in shards.entries)
    assert not any(
        "photo" in name or "record_00000006" in name for name in members(tmp_path / "out")
    )


def test_a_missing_picture_is_listed_before_anything_is_written(
    files: Path, tmp_path: Path
) -> None:
    (files / "dot.bmp").unlink()
    (files / "photo.jpg").unlink()
    questions = write_records(tmp_path / "q.json", RECORDS)
    with pytest.raises(
        QuestionError,
        match=r"names 5 files, and 2 of them are not in .*: dot\.bmp, photo\.jpg\.$",
    ):
        pack(files, questions, tmp_path / "out", VIDEO, SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        (
            "clip.png",
            "image",
            r"The video clip\.mp4 and the image clip\.png in .* get the same key 'clip'",
        ),
        (
            "clip.mp4",
            "image",
            r"The (image|video) clip\.mp4 and the (image|video) clip\.mp4 in .* get the same key",
        ),
        (
            "record_00000002.png",
            "image",
            r"record_00000002 and .*record_00000002\.png in .* get the same key",
        ),
    ],
)
def test_a_key_that_two_would_get_is_refused(
    files: Path, tmp_path: Path, name: str, key: str, message: str
) -> None:
    if not (files / name).exists():
        shutil.copy(files / "more/chart.png", files / name)
    records = [RECORDS[0], talk("Why?"), {key: name, "question": "What?", "answer": "It."}]
    with pytest.raises(QuestionError, match=message):
        pack(files, write_records(tmp_path / "q.json", records), tmp_path / "out", VIDEO, SETTINGS)
