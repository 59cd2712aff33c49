"""Throughput and memory of the annotation client on one core.

    python -m tests.benchmarks.annotation_throughput [VIDEOS] [MINUTES] [LATENCY] [CONCURRENCY]

Synthetic videos, read at 384 pixels, are annotated by one process on one core. A fake teacher in
another process answers each request after 0.5 to 1.5 times LATENCY seconds, and records how many
requests are in flight.
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
TARGET_CONCURRENCY = 64
HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class DelayedTeacher:
    """Server that answers any number of concurrent requests, each after a random delay."""

    def __init__(self, teacher: FakeTeacher, seconds: float) -> None:
        self.teacher, self.seconds, self.random = teacher, seconds, Random(0)
        self.num_in_flight = 0
        # seconds by number of requests in flight: in all, and until the last clip was requested
        self.seconds_at: dict[int, float] = defaultdict(float)
        self.seconds_at_with_clips: dict[int, float] = {}
        self.changed = time.monotonic()

    def count(self, change: int) -> None:
        now = time.monotonic()
        self.seconds_at[self.num_in_flight] += now - self.changed
        self.changed, self.num_in_flight = now, self.num_in_flight + change

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
            text = self.teacher.answer(body)
            await asyncio.sleep(self.seconds * self.random.uniform(0.5, 1.5))
            self.count(-1)
            answer = json.dumps(completion(text, "stop", "")).encode()
            writer.write(HEADER % len(answer) + answer)
            await writer.drain()


def run_server(names: list[str], minutes: float, latency_seconds: float, pipe: Connection) -> None:
    """Serve until a message comes through the pipe, and send back the recorded times."""
    stories = [generate_story(seed, 60 * minutes) for seed in range(NUM_STORIES)]
    story_of_video = {name: stories[number % NUM_STORIES] for number, name in enumerate(names)}
    server = DelayedTeacher(FakeTeacher(story_of_video), latency_seconds)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    async def serve() -> None:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**26)
        pipe.send(listener.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        pipe.send((dict(server.seconds_at), server.seconds_at_with_clips))
        os._exit(0)

    asyncio.run(serve())


def main(
    num_videos: int = 8,
    minutes: float = 20.8,
    latency_seconds: float = 1.0,
    concurrency: int = 0,
) -> None:
    """Annotate the videos and print rate, CPU time, memory and concurrency."""
    with TemporaryDirectory() as folder:
        names = [f"{number:05d}.mp4" for number in range(num_videos)]
        videos = Path(folder, "videos")
        videos.mkdir()
        for seed in range(min(NUM_STORIES, num_videos)):
            render_story(generate_story(seed, 60 * minutes), videos / names[seed], 128, 5)
        for number in range(NUM_STORIES, num_videos):
            (videos / names[number]).symlink_to(videos / names[number % NUM_STORIES])
        pipe, server_pipe = multiprocessing.Pipe()
        arguments = (names, minutes, latency_seconds, server_pipe)
        multiprocessing.Process(target=run_server, args=arguments, daemon=True).start()
        port = pipe.recv()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        client = (
            ClientConfig(max_concurrent_requests=concurrency) if concurrency else ClientConfig()
        )
        config = VideoMarathonConfig(client=client)
        cpu_started, started = time.process_time(), time.monotonic()
        url = f"http://127.0.0.1:{port}/v1"
        totals = annotate(videos, Path(folder, "out"), [url], "teacher", config)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
        pipe.send("end")
        times = pipe.recv()
    print_report(num_videos, totals.num_responses, seconds, cpu_seconds, times)


def describe(seconds_at: dict[int, float]) -> str:
    """Describe the number of requests in flight over time."""
    total = sum(seconds_at.values())
    mean = sum(number * seconds for number, seconds in seconds_at.items()) / total
    busy = sum(seconds for number, seconds in seconds_at.items() if number >= TARGET_CONCURRENCY)
    return (
        f"{mean:.1f} on average, {max(seconds_at)} at most,"
        f" {TARGET_CONCURRENCY} or more {busy / total:.0%} of the time"
    )


def print_report(
    num_videos: int,
    num_answers: int,
    seconds: float,
    cpu_seconds: float,
    times: tuple[dict[int, float], dict[int, float]],
) -> None:
    """Print the figures of a run."""
    in_all, with_clips = (describe(seconds_at) for seconds_at in times)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{num_videos} videos, {num_answers} requests in {seconds:.1f} s"
        f" ({num_answers / seconds:.1f}/s), {1000 * cpu_seconds / num_answers:.1f} ms CPU per"
        f" request; {memory:.0f} MiB at most; in flight: {in_all}; until the last clip:"
        f" {with_clips}"
    )


if __name__ == "__main__":
    kinds = (int, float, float, int)
    main(*(kind(text) for kind, text in zip(kinds, sys.argv[1:], strict=False)))
