"""How much one core asks for, in which memory:

    python -m tests.benchmarks.annotation_throughput [VIDEOS] [MINUTES] [LATENCY_SECONDS] [REQUESTS_AT_ONCE]

Made-up videos, seen at 384 pixels, are annotated by one process on one core. The narrator answers from another process, each
request half to one and a half times the latency after it came; what it measures is the client, as the server sees it.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from lit_hour.config.videomarathon import ClientConfig, VideoMarathonConfig
from lit_hour.synthetic.render import render_story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.videomarathon.annotate import annotate
from tests.videomarathon.chat_server import completion
from tests.videomarathon.fake_teacher import FakeTeacher

NUM_STORIES = 2
NUM_REQUESTS = 64


class Latency:
    """The narrator on one thread, which answers any number of requests at once, each a while after it came."""

    def __init__(self, narrator: FakeTeacher, seconds: float) -> None:
        self.narrator, self.seconds, self.random = narrator, seconds, Random(0)
        self.num_at_once = 0
        self.seconds_at: dict[int, float] = defaultdict(float)  # how long so many were in flight
        self.seconds_at_with_clips: dict[
            int, float
        ] = {}  # the same up to the last clip: then videos come to their ends
        self.changed = time.monotonic()

    def count(self, change: int) -> None:
        now = time.monotonic()
        self.seconds_at[self.num_at_once] += now - self.changed
        self.changed, self.num_at_once = now, self.num_at_once + change

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            length = next(
                int(line[15:])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            content = await reader.readexactly(length)
            self.count(1)
            body = json.loads(content)
            if body["response_format"]["json_schema"]["name"] == "clip_caption":
                self.seconds_at_with_clips = dict(self.seconds_at)
            text = self.narrator.answer(body)
            await asyncio.sleep(
                self.seconds * self.random.uniform(0.5, 1.5)
            )  # no server answers all at the same moment
            self.count(-1)
            answer = json.dumps(completion(text, "stop", "")).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % len(answer)
                + answer
            )
            await writer.drain()


def run_server(names: list[str], minutes: float, latency_seconds: float, pipe: Connection) -> None:
    """Serve until a word comes through the pipe, and send back what was counted."""
    stories = [generate_story(seed, 60 * minutes) for seed in range(NUM_STORIES)]
    narrator = FakeTeacher(
        {name: stories[number % NUM_STORIES] for number, name in enumerate(names)}
    )
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    latency = Latency(narrator, latency_seconds)

    async def serve() -> None:
        server = await asyncio.start_server(latency.serve, "127.0.0.1", 0, limit=2**26)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        pipe.send((dict(latency.seconds_at), latency.seconds_at_with_clips))
        os._exit(0)

    asyncio.run(serve())


def main(
    num_videos: int = 8,
    minutes: float = 20.8,
    latency_seconds: float = 1.0,
    requests_at_once: int = 0,
) -> None:
    """Annotate, and print what it took."""
    with TemporaryDirectory() as folder:
        names = [f"{number:05d}.mp4" for number in range(num_videos)]
        videos = Path(folder, "videos")
        videos.mkdir()
        for seed in range(min(NUM_STORIES, num_videos)):
            render_story(generate_story(seed, 60 * minutes), videos / names[seed], 128, 5)
        for number in range(NUM_STORIES, num_videos):
            (videos / names[number]).symlink_to(videos / names[number % NUM_STORIES])
        pipe, far_end = multiprocessing.Pipe()
        multiprocessing.Process(
            target=run_server, args=(names, minutes, latency_seconds, far_end), daemon=True
        ).start()
        port = pipe.recv()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        serving = (
            ClientConfig(max_concurrent_requests=requests_at_once)
            if requests_at_once
            else ClientConfig()
        )
        settings = VideoMarathonConfig(client=serving)
        before, started = time.process_time(), time.monotonic()
        totals = annotate(
            videos, Path(folder, "out"), [f"http://127.0.0.1:{port}/v1"], "narrator", settings
        )
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - before
        pipe.send("end")
        times = pipe.recv()
    report(num_videos, totals.num_answers, seconds, cpu_seconds, times)


def describe(seconds_at: dict[int, float]) -> str:
    """How many requests were in flight."""
    total = sum(seconds_at.values())
    mean = sum(number * seconds for number, seconds in seconds_at.items()) / total
    busy = sum(seconds for number, seconds in seconds_at.items() if number >= NUM_REQUESTS) / total
    return f"{mean:.1f} on average, {max(seconds_at)} at most, {NUM_REQUESTS} or more {busy:.0%} of the time"


def report(
    num_videos: int,
    num_answers: int,
    seconds: float,
    cpu_seconds: float,
    times: tuple[dict[int, float], dict[int, float]],
) -> None:
    """What the client did."""
    whole, with_clips = (describe(seconds_at) for seconds_at in times)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{num_videos} videos, {num_answers} requests in {seconds:.1f} s ({num_answers / seconds:.1f}/s),"
        f" {1000 * cpu_seconds / num_answers:.1f} ms CPU each; {memory:.0f} MiB at most;"
        f" in flight: {whole}; up to the last clip: {with_clips}"
    )


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float, float, int), sys.argv[1:], strict=False)))
