"""Read photographs from a folder with one folder per category: `load_photos`.

A photograph belongs to one split for good, whatever the seed: by the hash of its file, a quarter
of a category is for validation. Copies of a file count once, under all names.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lit_hour.errors import ImageError, SyntheticDataError, list_first
from lit_hour.media.image_reader import IMAGE_SUFFIXES, read_image
from lit_hour.synthetic.video_plan import SPLITS, Split

VALIDATION_SHARE = 0.25  # of the photographs of a category; at least one, if there are two


@dataclass(frozen=True)
class PhotoLibrary:
    """Photographs of one split.

    Attributes:
        photos: by category, in the order of their hashes; none is empty.
        digest: SHA-256 of the names of the categories and of all files, of both splits.
    """

    photos: dict[str, tuple[Path, ...]]
    digest: str

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the names of the categories, sorted."""
        return tuple(self.photos)


def load_photos(folder: Path, split: Split) -> PhotoLibrary:
    """Decode all photographs of a folder, and return the photographs of a split.

    Files that cannot be decoded are left out with a warning.

    Args:
        folder: one folder for each category; `_` in its name stands for a blank.
        split: whose photographs to return.

    Raises:
        SyntheticDataError: there is no folder, fewer than two categories, or a category without a
            photograph that can be decoded.
    """
    folders = sorted(path for path in _entries(folder) if path.is_dir())
    if len(folders) < 2:
        raise SyntheticDataError(
            f"{folder} holds {len(folders)} folders. --photos takes a folder with one folder of"
            " photographs for each category, at least two."
        )
    hashes: dict[str, dict[str, Path]] = {}  # category: hash: file
    faults: list[str] = []
    owner_of_hash: dict[str, str] = {}
    for path in tqdm(folders, desc="photographs", unit="category", leave=False, disable=None):
        category = path.name.replace("_", " ").strip()
        if not (category and category.isprintable()):  # its name is in questions
            raise SyntheticDataError(
                f"A folder of {folder} has the name {path.name!r}, which cannot be printed. Rename"
                " it."
            )
        if category in hashes:
            raise SyntheticDataError(f"Two folders of {folder} are named {category!r}. Rename one.")
        hashes[category] = _load_category(path, category, owner_of_hash, faults)
    if faults:
        listed = list_first(faults, "; ")
        warnings.warn(f"{len(faults)} photographs are left out: {listed}", stacklevel=2)
    lines = [f"{name} {digest}" for name, files in hashes.items() for digest in sorted(files)]
    photos = {category: _split_of(files, split) for category, files in hashes.items()}
    photos = {category: files for category, files in photos.items() if files}
    if len(photos) < 2:
        raise SyntheticDataError(
            f"{folder} has {len(photos)} categories with a photograph for {split}. Give at least"
            " two photographs of a category, so that both splits have one."
        )
    return PhotoLibrary(photos, hashlib.sha256("\n".join(lines).encode()).hexdigest())


def _load_category(
    folder: Path, category: str, owner_of_hash: dict[str, str], faults: list[str]
) -> dict[str, Path]:
    """Return the photographs of a category by the hash of their file.

    Args:
        folder: of the category.
        category: its name.
        owner_of_hash: category of each photograph so far; copies of these are left out.
        faults: why photographs are left out; added to.

    Raises:
        SyntheticDataError: none can be decoded.
    """
    files: dict[str, Path] = {}
    images = [path for path in _entries(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
    num_broken = 0
    for path in images:
        try:
            data = path.read_bytes()
            read_image(data, str(path))
        except (ImageError, OSError) as error:
            faults.append(str(error))
            num_broken += 1
            continue
        digest = hashlib.sha256(data).hexdigest()
        owner = owner_of_hash.setdefault(digest, category)
        if owner != category or digest in files:
            faults.append(f"{path} is a copy of a photograph of {owner}")
        else:
            files[digest] = path
    if not files:
        found = f"{num_broken} broken pictures" if num_broken else f"{len(images)} pictures"
        raise SyntheticDataError(
            f"Category {category!r} has no photograph that can be used: {folder} holds {found}."
            f" Add intact {', '.join(IMAGE_SUFFIXES)} files, or delete the folder."
        )
    return files


def _split_of(files: dict[str, Path], split: Split) -> tuple[Path, ...]:
    """Return the photographs of a split; the hashes of the files decide."""
    ordered = [files[digest] for digest in sorted(files)]
    num_validation = max(1, round(VALIDATION_SHARE * len(ordered))) if len(ordered) > 1 else 0
    by_split = {SPLITS[0]: ordered[num_validation:], SPLITS[1]: ordered[:num_validation]}
    return tuple(by_split[split])


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise SyntheticDataError(
            f"{folder} cannot be read ({error.strerror}). Give a folder of photographs."
        ) from error
