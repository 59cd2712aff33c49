"""Load test of the server with 50 clients.

    python -m tests.benchmarks.serving_load RUN VIDEO [MINUTES]

The clients send questions about the video, most of them streamed. One request in ten uploads the
video, and one in ten disconnects in the middle of an answer. Any reply other than the expected one
or 429 counts as an error. Memory is that of the server process.
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
from itertools import pairwise
from pathlib import Path

from tests import REPOSITORY

CLIENTS = 50
SAMPLES = 24  # of the memory
WARM_UP_SHARE = 0.25
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
        """Send requests one after the other."""
        chance = random.Random(seed)
        while time.monotonic() < self.end:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            started = time.monotonic()
            try:
                happened = self._act(connection, chance)
            except (OSError, http.client.HTTPException, ValueError) as error:
                happened = f"error: {error!r}"
            finally:
                connection.close()
            self.counts[happened] += 1
            if happened == "answered":
                self.seconds.append(time.monotonic() - started)

    def _act(self, connection: http.client.HTTPConnection, chance: random.Random) -> str:
        what = chance.random()
        if what < 0.1:
            connection.request("POST", "/v1/videos?name=load.mp4", self._content)
            return self._name(connection.getresponse(), 201, "uploaded")
        part = {"type": "video_url", "video_url": {"url": self._url}}
        content = [part, {"type": "text", "text": chance.choice(QUESTIONS)}]
        body = {
            "model": self.model,
            "stream": what < 0.8,
            "messages": [{"role": "user", "content": content}],
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        if what < 0.2:
            time.sleep(chance.random() / 2)
            return "disconnected"
        return self._name(connection.getresponse(), 200, "answered")

    def _name(self, reply: http.client.HTTPResponse, expected: int, name: str) -> str:
        body = reply.read()
        if reply.status == 429:
            time.sleep(min(float(reply.headers["Retry-After"]), 1.0))
            return "429"
        is_whole = (
            reply.status == expected
            and b'"error"' not in body
            and (name != "answered" or b'"lit_hour"' in body)
        )
        return name if is_whole else f"error {reply.status}: {body[:300]!r}"


def read_megabytes(port: int) -> float:
    """Return the resident memory of the server in MB, from its metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return (
        float(
            next(
                line for line in lines if line.startswith("process_resident_memory_bytes")
            ).split()[1]
        )
        / 1e6
    )


def main(run: Path, video: Path, minutes: float) -> None:
    """Start a server, run the clients, and print the result."""
    argv = ["serve", "--run", str(run), "--port", "0", "--videos", str(video.parent)]
    with subprocess.Popen(
        [sys.executable, "-m", "lit_hour", *argv],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().split("/ ")[0].rpartition(":")[2])
        try:
            load = Load(port, run.resolve().name, video, time.monotonic() + 60 * minutes)
            clients = [
                threading.Thread(target=load.client, args=(seed,)) for seed in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            megabytes = []
            for _ in range(SAMPLES):
                time.sleep(60 * minutes / SAMPLES)
                megabytes.append(read_megabytes(port))
            for client in clients:
                client.join()
        finally:
            server.terminate()
    print_result(load, megabytes, minutes)


def print_result(load: Load, megabytes: list[float], minutes: float) -> None:
    """Print counts, times and memory."""
    print(
        f"{CLIENTS} clients, {minutes:g} minutes: "
        + ", ".join(f"{name}: {num}" for name, num in load.counts.most_common())
    )
    seconds = sorted(load.seconds)
    print(f"answers: median {seconds[len(seconds) // 2]:.2f} s, slowest {seconds[-1]:.2f} s")
    warm = megabytes[int(WARM_UP_SHARE * SAMPLES) :]
    largest_rise = max(later - earlier for earlier, later in pairwise(warm))
    print(
        f"memory after a quarter of the time {warm[0]:.0f} MB, at the end {warm[-1]:.0f} MB"
        f" (least {min(warm):.0f}, most {max(warm):.0f}, largest rise between two samples"
        f" {largest_rise:.0f})"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 10.0)
