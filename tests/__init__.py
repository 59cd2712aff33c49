"""Tests of lit_hour. The folders mirror those of the package."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = (
    REPOSITORY.parent / "shared"
)  # recordings, clips and question files that are not part of the checkout
