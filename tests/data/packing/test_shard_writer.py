"""Packing of images and texts."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from lit_hour.config.schema import PackConfig
from lit_hour.data.packing.pack import pack
from lit_hour.data.questions.file import read_questions
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ImageError, QuestionError
from tests.data.factories import MIXED_KEYS, MIXED_RECORDS, PACK, VIDEO, conversation, write_records


@pytest.fixture
def files(mixed_files: Path, tmp_path: Path) -> Path:
    """A copy of the files that a test may change."""
    return shutil.copytree(mixed_files, tmp_path / "files")


def members(shards: Path) -> dict[str, bytes]:
    contents = {}
    for path in sorted(shards.glob("0*.tar")):
        with tarfile.open(path) as tar:
            contents |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return contents


def test_images_are_stored_as_files(mixed_shards: Path, mixed_files: Path) -> None:
    contents = members(mixed_shards)
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


def test_index_has_modalities_and_counts(mixed_shards: Path) -> None:
    entries = open_shards(mixed_shards).entries
    modalities = ["video", "image", "image", "images", "text", "images", "text"]
    assert [(entry.key, entry.modality) for entry in entries] == list(
        zip(MIXED_KEYS, modalities, strict=True)
    )
    assert [entry.num_frames for entry in entries] == [5, 1, 1, 2, 0, 3, 0]
    assert [entry.num_questions for entry in entries] == [1, 1, 3, 1, 3, 3, 1]
    assert [entry.duration_seconds for entry in entries] == [5.0, *[0.0] * 6]
    totals = json.loads((mixed_shards / "index.json").read_text())
    assert totals["num_samples"] == {"video": 1, "image": 2, "images": 2, "text": 2}
    assert (totals["num_frames"], totals["num_questions"]) == (12, 13)


def test_member_suffix_follows_the_content(files: Path, tmp_path: Path) -> None:
    (files / "map.webp").rename(files / "map.jpeg")
    questions = write_records(
        tmp_path / "q.json", [{"image": "map.jpeg", "question": "What?", "answer": "It."}]
    )
    pack(files, questions, tmp_path / "out", VIDEO, PACK)
    assert list(members(tmp_path / "out")) == ["map.000000.webp", "map.json"]


def test_texts_are_packed_without_a_folder_of_files(tmp_path: Path) -> None:
    questions = write_records(tmp_path / "q.json", [conversation("Why?")])
    summary = pack(tmp_path / "nowhere", questions, tmp_path / "out", VIDEO, PACK)
    assert (
        summary.num_samples == {"video": 0, "image": 0, "images": 0, "text": 1}
        and summary.num_frames == 0
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"photo\.jpg \(0 bytes\) is not a JPEG"),
        (b"not a image", r"photo\.jpg \(11 bytes\) is not a JPEG"),
        (..., r"photo\.jpg \(1000 bytes\) is damaged or cut off"),
    ],
)
def test_corrupt_image_stops_packing(files: Path, tmp_path: Path, content, message: str) -> None:
    photo = files / "photo.jpg"
    photo.write_bytes(photo.read_bytes()[:1000] if content is ... else content)
    questions = write_records(tmp_path / "q.json", MIXED_RECORDS)
    with pytest.raises(ImageError, match=rf"{files}/{message}.*pack\.max_bad_samples \(now 0\)"):
        pack(files, questions, tmp_path / "out", VIDEO, PACK)
    files_left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "000000.json" in files_left  # of the shard before
    assert not [
        name
        for name in files_left
        if name.startswith("000001") or "unfinished" in name or name == "index.json"
    ]


def test_corrupt_images_within_the_budget_are_skipped_with_their_questions(
    files: Path, tmp_path: Path
) -> None:
    photo = files / "photo.jpg"
    photo.write_bytes(photo.read_bytes()[:1000])
    questions = write_records(tmp_path / "q.json", MIXED_RECORDS)
    summary = pack(
        files,
        questions,
        tmp_path / "out",
        VIDEO,
        PackConfig(videos_per_shard=2, num_workers=1, max_bad_samples=3),
    )
    assert [entry.name for entry in summary.skipped] == [
        "photo.jpg",
        "record_00000003",
        "record_00000006",
    ]
    assert all(f"{photo} (1000 bytes)" in entry.reason for entry in summary.skipped)
    shards = open_shards(tmp_path / "out")
    assert [entry.key for entry in shards.entries] == [
        "clip",
        "more/chart",
        "record_00000004",
        "record_00000007",
    ]
    assert all(shards.read(entry).questions for entry in shards.entries)
    assert not any(
        "photo" in name or "record_00000006" in name for name in members(tmp_path / "out")
    )


def test_missing_images_are_listed_before_writing(files: Path, tmp_path: Path) -> None:
    (files / "dot.bmp").unlink()
    (files / "photo.jpg").unlink()
    questions = write_records(tmp_path / "q.json", MIXED_RECORDS)
    with pytest.raises(
        QuestionError,
        match=r"names 5 files, and 2 of them are not in .*: dot\.bmp, photo\.jpg\.$",
    ):
        pack(files, questions, tmp_path / "out", VIDEO, PACK)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["clip.png", "clip.mp4", "record_00000002.png"])
def test_samples_that_would_share_a_key_get_two(tmp_path: Path, name: str) -> None:
    records = [
        MIXED_RECORDS[0],
        conversation("Why?"),
        {"image": name, "question": "What?", "answer": "It."},
    ]
    samples = read_questions(write_records(tmp_path / "q.json", records))
    assert len({sample.key for sample in samples}) == 3
