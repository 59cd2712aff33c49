"""Files of a command that may be named by http(s) URLs: `local_files`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import QuestionError
from lit_hour.io.urls import is_web_url

TIMEOUT_SECONDS = 3600.0


@contextmanager
def local_files(names: Sequence[str], allow_url: bool) -> Iterator[list[Path]]:
    """Return the paths of files; download URLs, and delete the downloads at the end of the block.

    Args:
        names: paths or URLs.
        allow_url: whether URLs are read.

    Raises:
        QuestionError: there is a URL, and URLs are not read.
        DownloadError: a URL gives no file.
    """
    urls = [name for name in names if is_web_url(name)]
    if not urls:
        yield [Path(name) for name in names]
        return
    if not allow_url:
        raise QuestionError(
            f"{urls[0]} is a URL, and URLs are not read. Download the file, or give --allow-url."
        )
    with TemporaryDirectory(prefix="lit_hour_ask_") as folder:
        yield [
            _download(name, Path(folder, str(index))) if name in urls else Path(name)
            for index, name in enumerate(names)
        ]


def _download(url: str, folder: Path) -> Path:
    """Download the file of a URL, which the user chose: its address may be a private one."""
    import asyncio

    from lit_hour.io.download import DownloadLimits, download

    folder.mkdir()
    name = PurePosixPath(unquote(urlsplit(url).path)).name.replace("\0", "")
    path = folder / ("file" if name in ("", "..") else name[-100:])
    limits = DownloadLimits(
        ServerConfig().max_upload_mb * 1_000_000, TIMEOUT_SECONDS, allow_private=True
    )
    asyncio.run(download(url, path, limits))
    return path
