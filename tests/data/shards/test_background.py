"""Downloads in a thread: each error reaches the reader, whatever its kind."""

import time

import pytest

from lit_hour.data.shards.background import BackgroundDownloads
from lit_hour.errors import ShardError


def wait_for(downloads: BackgroundDownloads, name: str) -> None:
    """Start a download that does nothing until the one of that name before it has ended."""
    ended: list[None] = []
    downloads.start(f"after {name}", lambda: ended.append(None))
    deadline = time.monotonic() + 60
    while not ended and time.monotonic() < deadline:
        time.sleep(0.001)
    assert ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [ShardError("wrong bytes"), KeyError("size"), SystemExit(3)])
def test_error_of_any_kind_is_raised_by_the_next_start_and_ends_no_other_download(
    error: BaseException,
) -> None:
    downloads, attempts = BackgroundDownloads(), []

    def fail() -> None:
        attempts.append(None)
        raise error

    downloads.start("a", fail)
    wait_for(downloads, "a")
    with pytest.raises(type(error)) as raised:
        downloads.start("a", fail)
    assert raised.value is error
    downloads.start("a", lambda: attempts.append(None))  # tries again
    wait_for(downloads, "a")
    assert len(attempts) == 2
