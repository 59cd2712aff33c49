"""How much one core asks for, in which memory: python tests/benchmarks/annotating.py [VIDEOS] [MINUTES] [LATENCY_SECONDS]

Made-up videos, seen at 384 pixels, are annotated by one process on one core. The narrator answers from another process,
each request after the latency; what it measures is the client. It also counts the tokens of each form of request, and from them
what the published 28,000 videos of 20.8 minutes (9,700 hours) would cost.
"""

# ruff: noqa: E402  (the checkout comes first on the path)
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
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/marathon")]

from chat_server import completion
from narrator import Narrator

from lit_hour.config.marathon import MarathonConfig
from lit_hour.marathon.annotate import annotate
from lit_hour.world.render import render_story
from lit_hour.world.script import write_story

NUM_STORIES = 2
NUM_REQUESTS = 64
PUBLISHED_HOURS = 9_700
TOKENS_OF_FRAME = 196  # 384 x 384 pixels in patches of 28: what current vision-language models make of a frame
LETTERS_OF_TOKEN = 4
PROMPT_TOKENS_PER_SECOND, ANSWER_TOKENS_PER_SECOND = 20_000, 2_000  # assumed of a server: a 7B model on one GPU, many requests


class Latency:
    """The narrator on one thread, which answers any number of requests at once, each a while after it came."""

    def __init__(self, narrator: Narrator, seconds: float) -> None:
        self.narrator, self.seconds = narrator, seconds
        self.num_at_once = 0
        self.seconds_at: dict[int, float] = defaultdict(float)  # how long so many were in flight
        self.seconds_at_with_clips: dict[int, float] = {}  # the same up to the last clip: then videos come to their ends
        self.changed = time.monotonic()
        self.sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])  # see `add`
        self.heads: set[str] = set()

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
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            content = await reader.readexactly(length)
            self.count(1)
            body = json.loads(content)
            text = self.narrator.answer(body)
            self.add(body, text)
            await asyncio.sleep(self.seconds)
            self.count(-1)
            answer = json.dumps(completion(text, "stop", "")).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
            )
            await writer.drain()

    def add(self, body: dict, text: str) -> None:
        """Count requests, frames, letters of the prompt, letters of a beginning that was read before, letters of the answer."""
        parts = body["messages"][-1]["content"]
        form = body["response_format"]["json_schema"]["name"]
        if form == "clip_caption":
            self.seconds_at_with_clips = dict(self.seconds_at)
        sums = self.sums[form]
        letters = sum(len(part["text"]) for part in parts if part["type"] == "text") + len(json.dumps(body["response_format"]))
        head = parts[0]["text"]
        num_known = len(head) if head in self.heads and len(parts) > 1 else 0
        self.heads.add(head)
        num_frames = sum(part["type"] == "image_url" for part in parts)
        for index, number in enumerate((1, num_frames, letters, num_known, len(text))):
            sums[index] += number


def run_server(names: list[str], minutes: float, latency_seconds: float, pipe: Connection) -> None:
    """Serve until a word comes through the pipe, and send back what was counted."""
    stories = [write_story(seed, 60 * minutes) for seed in range(NUM_STORIES)]
    narrator = Narrator({name: stories[number % NUM_STORIES] for number, name in enumerate(names)})
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    latency = Latency(narrator, latency_seconds)

    async def serve() -> None:
        server = await asyncio.start_server(latency.serve, "127.0.0.1", 0, limit=2**26)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        pipe.send((dict(latency.seconds_at), latency.seconds_at_with_clips, dict(latency.sums)))
        os._exit(0)

    asyncio.run(serve())


def main(num_videos: int = 8, minutes: float = 20.8, latency_seconds: float = 1.0) -> None:
    """Annotate, and print what it took."""
    with TemporaryDirectory() as folder:
        names = [f"{number:05d}.mp4" for number in range(num_videos)]
        videos = Path(folder, "videos")
        videos.mkdir()
        for seed in range(min(NUM_STORIES, num_videos)):
            render_story(write_story(seed, 60 * minutes), videos / names[seed], 128, 5)
        for number in range(NUM_STORIES, num_videos):
            (videos / names[number]).symlink_to(videos / names[number % NUM_STORIES])
        pipe, far_end = multiprocessing.Pipe()
        multiprocessing.Process(target=run_server, args=(names, minutes, latency_seconds, far_end), daemon=True).start()
        port = pipe.recv()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        before, started = time.process_time(), time.monotonic()
        totals = annotate(videos, Path(folder, "out"), [f"http://127.0.0.1:{port}/v1"], "narrator", MarathonConfig())
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - before
        pipe.send("end")
        seconds_at, seconds_at_with_clips, sums = pipe.recv()
    report(num_videos, totals.num_answers, seconds, cpu_seconds, (seconds_at, seconds_at_with_clips))
    report_month(sums, num_videos, minutes)


def report(
    num_videos: int, num_answers: int, seconds: float, cpu_seconds: float, times: tuple[dict[int, float], dict[int, float]]
) -> None:
    """What the client did."""
    whole, with_clips = (
        sum(each for number, each in seconds_at.items() if number >= NUM_REQUESTS) / sum(seconds_at.values())
        for seconds_at in times
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{num_videos} videos, {num_answers} requests in {seconds:.1f} s ({num_answers / seconds:.1f}/s),"
        f" {1000 * cpu_seconds / num_answers:.1f} ms CPU each; {max(times[0])} in flight at most,"
        f" {NUM_REQUESTS} of them {whole:.0%} of the time,"
        f" {with_clips:.0%} up to the last clip; {memory:.0f} MiB at most"
    )


def report_month(sums: dict[str, list[int]], num_videos: int, minutes: float) -> None:
    """What the published number of hours would cost, if every video were like these."""
    scale = PUBLISHED_HOURS / (num_videos * minutes / 60)
    columns = ("requests", "prompt tokens", "read before", "answer tokens", "hours of a server")
    print(f"{PUBLISHED_HOURS:,} hours of video:\n{'':>14}" + "".join(f"{column:>19}" for column in columns))
    for form, counts in {**sums, "all": [sum(each) for each in zip(*sums.values(), strict=True)]}.items():
        num_requests, num_frames, asked, known, answered = (number * scale for number in counts)
        prompt = asked / LETTERS_OF_TOKEN + num_frames * TOKENS_OF_FRAME
        known, answer = known / LETTERS_OF_TOKEN, answered / LETTERS_OF_TOKEN
        hours = ((prompt - known) / PROMPT_TOKENS_PER_SECOND + answer / ANSWER_TOKENS_PER_SECOND) / 3600
        print(f"{form:>14}" + "".join(f"{number:19,.0f}" for number in (num_requests, prompt, known, answer, hours)))


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float, float), sys.argv[1:], strict=False)))
