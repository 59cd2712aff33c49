"""Photographs: each in one split for good, copies once, broken ones left out."""

import os
from pathlib import Path

import pytest
from PIL import Image

from lit_hour.errors import SyntheticDataError
from lit_hour.synthetic.footage.photo_library import load_photos
from tests.synthetic.footage.helpers import COLORS, write_photos


def test_each_photograph_is_in_one_split_and_each_category_in_both(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    train, validation = load_photos(folder, "train"), load_photos(folder, "validation")
    names = {name.replace("_", " ") for name in COLORS}
    assert set(train.categories) == set(validation.categories) == names
    for category in names:
        assert len(train.photos[category]) == 3 and len(validation.photos[category]) == 1
        assert not set(train.photos[category]) & set(validation.photos[category])
    assert train.digest == validation.digest


def test_split_does_not_depend_on_names_or_other_categories(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    before = {path.read_bytes() for path in load_photos(folder, "validation").photos["red thing"]}
    for number, path in enumerate(sorted((folder / "red_thing").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed{number}.png"))
    (folder / "cyan_thing").rename(tmp_path / "moved away")
    after = {path.read_bytes() for path in load_photos(folder, "validation").photos["red thing"]}
    assert after == before


def test_a_category_of_one_photograph_is_in_training_only(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    for path in list((folder / "red_thing").iterdir())[1:]:
        path.unlink()
    assert "red thing" in load_photos(folder, "train").categories
    assert "red thing" not in load_photos(folder, "validation").categories


def test_copies_and_broken_pictures_are_left_out_with_a_warning(
    tmp_path: Path,
) -> None:
    folder = write_photos(tmp_path / "photos")
    fine = (folder / "red_thing" / "0.png").read_bytes()
    (folder / "green_thing" / "copy.png").write_bytes(fine)
    (folder / "red_thing" / "another.png").write_bytes(fine)
    (folder / "blue_thing" / "cut.png").write_bytes(fine[:60])
    with pytest.warns(UserWarning, match="3 photographs are left out"):
        library = load_photos(folder, "train")
    assert sum(map(len, library.photos.values())) == 3 * len(COLORS)


@pytest.mark.parametrize("name", [b"bad\xff", b"two\nlines", b"_"])
def test_category_that_cannot_be_printed_is_refused(tmp_path: Path, name: bytes) -> None:
    folder = write_photos(tmp_path / "photos")
    (folder / "red_thing").rename(folder / os.fsdecode(name))
    with pytest.raises(SyntheticDataError, match=r"which cannot be printed\. Rename") as caught:
        load_photos(folder, "train")
    assert str(caught.value).isprintable()


def test_unusable_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    (folder / "empty").mkdir()
    with pytest.raises(SyntheticDataError, match=r"'empty' has no photograph .* 0 pictures"):
        load_photos(folder, "train")
    (folder / "empty" / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(SyntheticDataError, match=r"holds 1 broken pictures\. Add intact"):
        load_photos(folder, "train")
    with pytest.raises(SyntheticDataError, match="one folder of photographs for each category"):
        load_photos(folder / "red_thing", "train")
    with pytest.raises(SyntheticDataError, match=r"missing cannot be read \(No such file"):
        load_photos(tmp_path / "missing", "train")
    single = tmp_path / "single"
    for name in ("a", "b"):
        (single / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (ord(name), 0, 0)).save(single / name / "0.png")
    with pytest.raises(SyntheticDataError, match="0 categories with a photograph for validation"):
        load_photos(single, "validation")
