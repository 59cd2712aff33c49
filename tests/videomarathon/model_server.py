"""`transformers serve` as a process of its own on a free port: a model server that others wrote, and what its log tells."""

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
    "-m",
    "transformers.cli.transformers",
    "serve",
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    "--device",
    "cpu",
)
ALONE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
LISTENS = re.compile(r"running on (http://\S+)")
ANSWERED = re.compile(r'"POST /v1/chat/completions HTTP/1.1" (\d+)')
SECONDS_TO_START = 120.0


class ModelServer:
    """Serves the models that lie in a folder, each under the name of its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path = folder / "server.log"

    def __enter__(self) -> ModelServer:
        """Start, and do not wait: models may still be written."""
        environment = {**os.environ, **ALONE, "HF_HOME": str(self.folder / "hub")}
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
        """Up to and with the version; it is known when the server listens."""
        deadline = time.monotonic() + SECONDS_TO_START
        while (found := LISTENS.search(self.log_path.read_text())) is None:
            assert self.process.poll() is None and time.monotonic() < deadline, (
                self.log_path.read_text()
            )
            time.sleep(0.05)
        return f"{found[1]}/v1"

    def statuses(self) -> Counter[str]:
        """How many chat requests ended with each HTTP status so far."""
        return Counter(ANSWERED.findall(self.log_path.read_text()))
