"""Errors that the user can fix; messages name the file, key or setting, and what is right.

The command line prints these in one line. Any other exception is a bug of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MAX_LISTED = 5  # items that a message lists before it only counts the rest
LOCAL_FOLDERS = ("runs", "shards", "weights")  # other relative paths may name a repository


def list_first(items: Sequence[str], separator: str = ", ") -> str:
    """Join the first items of a list for a message, and count the rest."""
    rest = len(items) - MAX_LISTED
    return separator.join(items[:MAX_LISTED]) + (f"{separator}and {rest} more" if rest > 0 else "")


def download_hint(path: str | Path) -> str:
    """Return how to download a repository of Hugging Face, if a missing path may be its name."""
    parts = Path(path).parts
    if len(parts) != 2 or parts[0] in LOCAL_FOLDERS or Path(parts[0]).exists():
        return ""
    return f" To download it from Hugging Face: hf download {path} --local-dir FOLDER"


class InputError(ValueError):
    """An input that cannot be used."""


class ConfigError(InputError):
    """A setting that does not exist or is out of range, or a YAML file that is not a mapping."""


class VideoError(InputError):
    """A video file that cannot be read."""


class ImageError(InputError):
    """An image that cannot be read."""


class QuestionError(InputError):
    """A question file, or one of its records, that cannot be used."""


class ShardError(InputError):
    """A shard or its index that is missing or corrupt, or does not match the settings."""


class RunError(InputError):
    """A run folder that is incomplete or belongs to another model."""


class DivergenceError(InputError):
    """More NaN or Inf losses or gradients than the settings allow."""


class OutOfMemoryError(InputError):
    """A step, answer or video that does not fit into memory; names the settings that bound it."""


class WeightsError(InputError):
    """Weights or a tokenizer that are missing, corrupt, or of another architecture."""


class SyntheticDataError(InputError):
    """A story that cannot be generated, or a folder of other synthetic data."""


class TeacherError(InputError):
    """A model server that does not answer, or annotations that cannot be resumed."""


class InvalidResponseError(InputError):
    """Responses of a model server that stay invalid after all attempts."""


class ReportError(InputError):
    """Answers or reports of an evaluation that are corrupt or do not match."""


class JsonlError(InputError):
    """A JSONL file that cannot be read or written."""


class ServerError(InputError):
    """A server that cannot be started safely with these arguments."""


class DownloadError(InputError):
    """A URL that is not allowed, or gives no file within the limits."""


class MemoryFileError(InputError):
    """A video memory on disk that is missing or corrupt, or of another video or model."""
