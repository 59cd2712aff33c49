"""Tests of lit_hour. The folders mirror the package."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
SHARED = REPOSITORY.parent / "shared"  # recordings and clips that are not part of the checkout


def published_stage(size: str, stage: str) -> list[Path]:
    """Return the config files of a training stage of Hour-LLaVA.

    Args:
        size: "3b" or "7b".
        stage: "s1", "s2" or "s3".
    """
    return [CONF / "model" / f"hour_llava_{size}.yaml", CONF / "stage" / f"{stage}.yaml"]
