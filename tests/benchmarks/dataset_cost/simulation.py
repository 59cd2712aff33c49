"""Simulate annotating many videos: the real scheduler with simulated servers and a simulated clock.

`AnnotationJob` and `ClientPool` are the project's own, in an event loop whose clock jumps to the
next event. Simulated are reading the videos, which takes a fixed time per clip, and the servers. A
server has one rate for prompt tokens and one for answer tokens, spends its time on either, and
writes no single answer faster than a limit. It refuses a share of the requests (429), and one
server of each process is down for an hour.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import openai
from tqdm import tqdm

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.videomarathon import llm_client
from lit_hour.videomarathon.annotate import AnnotationJob
from lit_hour.videomarathon.llm_client import ClientPool, gather_all, task_group
from lit_hour.videomarathon.teacher import REQUEST_KINDS
from tests.benchmarks.dataset_cost.request_counts import Workload

REQUEST = httpx.Request("POST", "http://simulated/v1/chat/completions")
DOWN_HOURS = (1.0, 2.0)  # start and end of the outage of the first server of a process
NEVER = (float("inf"), float("inf"))


@dataclass(frozen=True)
class Rates:
    """Assumed rates of one server, and of reading videos."""

    prompt_tokens_per_second: float = 20_000.0
    answer_tokens_per_second: float = 2_000.0
    answer_tokens_per_second_of_request: float = 100.0
    refused_share: float = 0.001
    read_seconds_of_clip: float = 1.0


class SimulatedClock(asyncio.SelectorEventLoop):
    """Event loop with simulated time, which advances only while every task waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        # private parts of asyncio.BaseEventLoop, which its type stubs leave out
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@dataclass
class SimulatedServer:
    """Stand-in for the client of a server: `post` takes as long as the server would."""

    rates: Rates
    down_hours: tuple[float, float]
    random: random.Random = field(default_factory=lambda: random.Random(0))
    is_free_at: float = 0.0
    busy_seconds: float = 0.0  # summed over requests

    async def post(self, path: str, *, body: dict[str, Workload], **_: Any) -> Any:
        workload, now = body["workload"], asyncio.get_running_loop().time()
        down, up = (3600 * hours for hours in self.down_hours)
        if down <= now < up:
            raise openai.APIConnectionError(request=REQUEST)
        if self.random.random() < self.rates.refused_share:
            response = httpx.Response(429, request=REQUEST)
            raise openai.RateLimitError("busy", response=response, body=None)
        new_tokens, rates = workload.prompt_tokens - workload.cached_tokens, self.rates
        prefill = new_tokens / rates.prompt_tokens_per_second
        shared_decode = workload.answer_tokens / rates.answer_tokens_per_second
        single_decode = workload.answer_tokens / rates.answer_tokens_per_second_of_request
        self.is_free_at = max(now, self.is_free_at) + prefill + shared_decode
        seconds = max(self.is_free_at - now, prefill + single_decode)
        if now < down < now + seconds:
            await asyncio.sleep(down - now)
            raise openai.APIConnectionError(request=REQUEST)
        self.busy_seconds += seconds
        await asyncio.sleep(seconds)
        message = SimpleNamespace(message=SimpleNamespace(content="x"), finish_reason="stop")
        usage = SimpleNamespace(
            prompt_tokens=workload.prompt_tokens, completion_tokens=workload.answer_tokens
        )
        return SimpleNamespace(choices=[message], usage=usage)


class SimulatedJob(AnnotationJob):
    """A job that sends the requests of a workload for each video, instead of annotating it."""

    workloads: dict[str, dict[str, Workload]]
    rates: Rates

    async def _annotate(
        self, name: str, clients: ClientPool, index: int, is_read: asyncio.Event
    ) -> None:
        workload = self.workloads[name]

        async def send(kind: str) -> None:
            priority = (REQUEST_KINDS.index(kind), index)
            await clients.chat({"workload": workload[kind]}, "", priority)

        async with task_group() as group:
            for _ in range(workload["clip_caption"].num_requests):
                await asyncio.sleep(self.rates.read_seconds_of_clip)
                group.create_task(send("clip_caption"))
                await clients.slots.wait_until_drained((0, len(self.workloads)))
            is_read.set()
        for kind in REQUEST_KINDS[1:]:
            await gather_all(send(kind) for _ in range(workload[kind].num_requests))


def simulate_process(
    workloads: Sequence[dict[str, Workload]],
    num_servers: int,
    config: VideoMarathonConfig,
    rates: Rates,
) -> tuple[float, float, dict[str, int]]:
    """Simulate one process that uses some servers.

    Returns:
        Hours until the end, mean number of requests in flight, and failures by kind.
    """
    names = [f"{number:05d}" for number in range(len(workloads))]
    with asyncio.Runner(loop_factory=SimulatedClock) as runner:
        clock = runner.get_loop()

        async def run() -> tuple[float, float, dict[str, int]]:
            llm_client.time = SimpleNamespace(monotonic=clock.time)
            clients = ClientPool(["http://simulated"] * num_servers, config.client)
            outages = [DOWN_HOURS, *[NEVER] * (num_servers - 1)]
            servers = [SimulatedServer(rates, outage) for outage in outages]
            for endpoint, server in zip(clients._endpoints, servers, strict=True):
                endpoint.client = server
            job = SimulatedJob(Path(), Path(), "simulated", config, {})
            job.workloads, job.rates = dict(zip(names, workloads, strict=True)), rates
            await job._annotate_all(names, clients, tqdm(disable=True))
            in_flight = sum(server.busy_seconds for server in servers) / clock.time()
            return clock.time() / 3600, in_flight, dict(clients.usage.failures)

        return runner.run(run())
