"""The recordings of the published model, from the checkout and from the folder beside it."""

from pathlib import Path

from tests import REPOSITORY, SHARED

SOURCES = (REPOSITORY / "tests" / "golden", SHARED / "reference" / "golden")


def link_recordings(folder: Path) -> Path:
    """Fill a folder with links to the recordings, and return it.

    The small recordings are part of the checkout; the large ones may be beside it.
    """
    for source in SOURCES:
        for file in source.glob("*.*"):
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return folder
