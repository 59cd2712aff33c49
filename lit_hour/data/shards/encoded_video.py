"""A video file that is decoded when its sample is read: on disk, or a member of a tar."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_hour.errors import VideoError
from lit_hour.io.memory_file import memory_file


@dataclass(frozen=True)
class EncodedVideo:
    """A video file.

    Attributes:
        name: path for messages.
        content: of the file, if it is a member of a tar; otherwise `name` is its path.
    """

    name: str
    content: bytes | None = None

    @contextmanager
    def open(self) -> Iterator[Path]:
        """Yield a path that FFmpeg can open, several times and in several threads.

        The content of a member is copied to an anonymous file in memory, which the system frees
        with this process, however that ends. Errors of the block name the member.

        Raises:
            VideoError: as the block does.
        """
        if self.content is None:
            yield Path(self.name)
            return
        with memory_file(self.content) as stream:
            path = Path(f"/proc/self/fd/{stream.fileno()}")
            try:
                yield path
            except VideoError as error:
                raise VideoError(str(error).replace(str(path), self.name)) from error

    @contextmanager
    def rename_warnings(self, path: Path) -> Iterator[None]:
        """Let the warnings of the block name the member in place of its path from `open`.

        Not for several threads at once: Python's filters of warnings are global.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            text = str(warning.message).replace(str(path), self.name)
            warnings.warn(text, warning.category, stacklevel=3)
