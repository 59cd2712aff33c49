"""Load test of the server with 50 clients.

    python -m tests.benchmarks.serving_load RUN VIDEO [MINUTES]

The clients send questions about the video, most of them streamed. One request in ten uploads the
video, and one in ten disconnects in the middle of an answer. Any reply other than the expected one
or a 429 with the seconds to wait counts as an error, and so does a time-out. Memory is that of the
server process; at its end no file may be left on the disk.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import REPOSITORY

CLIENTS = 50
SAMPLES = 24  # of the memory
WARM_UP_SHARE = 0.25
TIMEOUT_SECONDS = 120.0
QUESTIONS = (
    "What is red?",
    "How many squares are there?",
    "What happens first?",
    "Where is the star?",
)


class Load:
    """Client threads that send requests until `end`, and counts of the outcomes."""

    def __init__(self, port: int, model: str, video: Path, end: float) -> None:
        self.port, self.model, self.end = port, model, end
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._url, self._content = video.resolve().as_uri(), video.read_bytes()

    def client(self, seed: int) -> None:
        """Send requests one after the other, as a client of a proxy with an address of its own."""
        chance = random.Random(seed)
        while time.monotonic() < self.end:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
            started = time.monotonic()
            try:
                happened = self._act(connection, chance, {"X-Forwarded-For": f"10.0.0.{seed}"})
            except (OSError, http.client.HTTPException, ValueError) as error:
                happened = f"error: {error!r}"
            finally:
                connection.close()
            self.counts[happened] += 1
            if happened == "answered":
                self.seconds.append(time.monotonic() - started)

    def _act(
        self,
        connection: http.client.HTTPConnection,
        chance: random.Random,
        headers: dict[str, str],
    ) -> str:
        what = chance.random()
        if what < 0.1:
            connection.request("POST", "/v1/videos?name=load.mp4", self._content, headers)
            return self._name(connection.getresponse(), 201, "uploaded")
        part = {"type": "video_url", "video_url": {"url": self._url}}
        content = [part, {"type": "text", "text": chance.choice(QUESTIONS)}]
        body = {
            "model": self.model,
            "stream": what < 0.8,
            "messages": [{"role": "user", "content": content}],
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        if what < 0.2:
            time.sleep(chance.random() / 2)
            return "disconnected"
        return self._name(connection.getresponse(), 200, "answered")

    def _name(self, reply: http.client.HTTPResponse, expected: int, name: str) -> str:
        body = reply.read()
        if reply.status == 429:
            retry_after = int(reply.headers["Retry-After"])  # an error if it is missing
            time.sleep(min(retry_after, 1.0))
            return "429" if retry_after >= 1 else "error: 429 without a time to wait"
        is_complete = (
            reply.status == expected
            and b'"error": {' not in body  # of a stream; a video has an empty error
            and (name != "answered" or b'"lit_hour"' in body)
        )
        return name if is_complete else f"error {reply.status}: {body[:300]!r}"


@dataclass(frozen=True)
class LoadResult:
    """What happened under load.

    Attributes:
        counts: of requests by outcome; names of errors begin with "error".
        seconds: of each answer.
        megabytes: of the server, at equal intervals.
        files_left: on the disk when the server had ended.
    """

    counts: Counter[str]
    seconds: list[float]
    megabytes: list[float]
    files_left: list[Path] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """Names of the outcomes that are errors."""
        return [name for name in self.counts if name.startswith("error")]


def read_megabytes(port: int) -> float:
    """Return the resident memory of the server in MB, from its metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    name = "process_resident_memory_bytes"
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1e6


def run_load(run: Path, video: Path, seconds: float, settings: Sequence[str] = ()) -> LoadResult:
    """Start a server, and run the clients for some seconds.

    Args:
        run: the run folder.
        video: a file.
        seconds: in which clients send requests.
        settings: `key=value` of the server.
    """
    with TemporaryDirectory() as folder:
        folders = [
            f"serving.{name}={folder}/{name}" for name in ("server.upload_folder", "memory_folder")
        ]
        argv = ["serve", "--run", str(run), "--port", "0", "--videos", str(video.parent)]
        with start_server([*argv, *folders, *settings]) as port:
            load = Load(port, run.resolve().name, video, time.monotonic() + seconds)
            clients = [
                threading.Thread(target=load.client, args=(seed,)) for seed in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            megabytes = []
            for _ in range(SAMPLES):
                time.sleep(seconds / SAMPLES)
                megabytes.append(read_megabytes(port))
            for client in clients:
                client.join()
        files_left = [path for path in Path(folder).rglob("*") if path.is_file()]
    return LoadResult(load.counts, load.seconds, megabytes, files_left)


@contextmanager
def start_server(argv: Sequence[str]) -> Iterator[int]:
    """Start `lit-hour` with a command that serves, and return its port; it ends with the block."""
    command = [sys.executable, "-m", "lit_hour", *argv]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline().split("/ ")[0].rpartition(":")[2])
        finally:
            server.terminate()


def print_result(result: LoadResult, minutes: float) -> None:
    """Print counts, times and memory."""
    print(
        f"{CLIENTS} clients, {minutes:g} minutes: "
        + ", ".join(f"{name}: {num}" for name, num in result.counts.most_common())
    )
    seconds = sorted(result.seconds)
    print(f"answers: median {seconds[len(seconds) // 2]:.2f} s, slowest {seconds[-1]:.2f} s")
    warm = result.megabytes[int(WARM_UP_SHARE * SAMPLES) :]
    largest_rise = max(later - earlier for earlier, later in pairwise(warm))
    print(
        f"memory after a quarter of the time {warm[0]:.0f} MB, at the end {warm[-1]:.0f} MB"
        f" (least {min(warm):.0f}, most {max(warm):.0f}, largest rise between two samples"
        f" {largest_rise:.0f}); {len(result.files_left)} files left"
    )


if __name__ == "__main__":
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
    print_result(run_load(Path(sys.argv[1]), Path(sys.argv[2]), 60 * minutes), minutes)
