"""`transformers serve` in a process of its own on a free port: a third-party model server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from functools import cached_property
from pathlib import Path

COMMAND = (
    *("-m", "transformers.cli.transformers", "serve"),
    *("--host", "127.0.0.1", "--port", "0", "--device", "cpu"),
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
URL_LINE = re.compile(r"running on (http://\S+)")
CHAT_LINE = re.compile(r'"POST /v1/chat/completions HTTP/1.1" (\d+)')
START_TIMEOUT_SECONDS = 120.0


class TransformersServer:
    """Serves the models in the subfolders of a folder, each under the name of its subfolder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "server.log"

    def __enter__(self) -> TransformersServer:
        """Start without waiting; models may be written later."""
        environment = {**os.environ, **OFFLINE, "HF_HOME": str(self.folder / "hub")}
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *COMMAND], cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @cached_property
    def url(self) -> str:
        """Wait until the server listens and return its URL, including the version."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while (match := URL_LINE.search(self.log_path.read_text())) is None:
            is_starting = self.process.poll() is None and time.monotonic() < deadline
            assert is_starting, self.log_path.read_text()
            time.sleep(0.05)
        return f"{match[1]}/v1"

    def statuses(self) -> Counter[str]:
        """Return the number of chat requests so far by HTTP status."""
        return Counter(CHAT_LINE.findall(self.log_path.read_text()))
