"""Plans of videos in, the hours that their requests take out: the real scheduler with servers that are simulated.

`AnnotationJob`, `PrioritySemaphore` and `ClientPool` are the project's own, in an event loop whose clock jumps to the next thing that happens. What is
replaced are the videos, which take their time to be read, and the connections. A server has one rate at which it reads prompts
and one at which it writes answers, spends its time on the one or the other, and writes no single answer faster than a limit.
It refuses a share of the requests (429), and one server of each process is dead for an hour.
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
from lit_hour.videomarathon import llm_client as servers_module
from lit_hour.videomarathon.annotate import AnnotationJob
from lit_hour.videomarathon.llm_client import ClientPool, gather_all, task_group
from lit_hour.videomarathon.teacher import REQUEST_KINDS
from tests.benchmarks.dataset_cost.request_counts import Work

REQUEST = httpx.Request("POST", "http://simulated/v1/chat/completions")
DEAD_HOURS = (1.0, 2.0)  # from when to when the first server of a process is dead


@dataclass(frozen=True)
class Speed:
    """What is assumed of one server, and of the client's reading."""

    prompt_tokens_per_second: float = 20_000.0
    answer_tokens_per_second: float = 2_000.0
    answer_tokens_per_second_of_request: float = 100.0
    refused_share: float = 0.001
    read_seconds_of_clip: float = 1.0


class Clock(asyncio.SelectorEventLoop):
    """Time that passes only when all wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


@dataclass
class SimulatedServer:
    """Answers after the time that a server would take."""

    speed: Speed
    dead_hours: tuple[float, float]
    random: random.Random = field(default_factory=lambda: random.Random(0))
    is_free_at: float = 0.0
    busy_seconds: float = 0.0  # sum over requests

    async def post(self, path: str, *, body: dict[str, Work], **_: Any) -> Any:
        work, now = body["work"], asyncio.get_running_loop().time()
        dies, lives = (3600 * hours for hours in self.dead_hours)
        if dies <= now < lives:
            raise openai.APIConnectionError(request=REQUEST)
        if self.random.random() < self.speed.refused_share:
            raise openai.RateLimitError(
                "busy", response=httpx.Response(429, request=REQUEST), body=None
            )
        reading = (work.prompt_tokens - work.known_tokens) / self.speed.prompt_tokens_per_second
        self.is_free_at = (
            max(now, self.is_free_at)
            + reading
            + work.answer_tokens / self.speed.answer_tokens_per_second
        )
        alone_seconds = (
            reading + work.answer_tokens / self.speed.answer_tokens_per_second_of_request
        )
        seconds = max(self.is_free_at - now, alone_seconds)
        if now < dies < now + seconds:
            await asyncio.sleep(dies - now)
            raise openai.APIConnectionError(request=REQUEST)
        self.busy_seconds += seconds
        await asyncio.sleep(seconds)
        message = SimpleNamespace(message=SimpleNamespace(content="x"), finish_reason="stop")
        usage = SimpleNamespace(
            prompt_tokens=work.prompt_tokens, completion_tokens=work.answer_tokens
        )
        return SimpleNamespace(choices=[message], usage=usage)


class SimulatedRun(AnnotationJob):
    """Begins videos as a run does, and asks about them what their plans say."""

    plans: dict[str, dict[str, Work]]
    speed: Speed

    async def _annotate(
        self, name: str, servers: ClientPool, place: int, is_read: asyncio.Event
    ) -> None:
        plan = self.plans[name]

        async def ask(form: str) -> None:
            await servers.chat({"work": plan[form]}, "", (REQUEST_KINDS.index(form), place))  # type: ignore[arg-type]

        async with task_group() as group:
            for _ in range(plan["clip_caption"].num_requests):
                await asyncio.sleep(self.speed.read_seconds_of_clip)
                group.create_task(ask("clip_caption"))
                await servers.slots.wait_until_drained((0, len(self.plans)))
            is_read.set()
        for form in REQUEST_KINDS[1:]:
            await gather_all(ask(form) for _ in range(plan[form].num_requests))


def hours_of(
    plans: Sequence[dict[str, Work]], num_servers: int, settings: VideoMarathonConfig, speed: Speed
) -> tuple[float, float, dict[str, int]]:
    """Of one process with so many servers: hours until the end, requests in flight on average, failures by their kind."""
    names = [f"{number:05d}" for number in range(len(plans))]
    with asyncio.Runner(loop_factory=Clock) as runner:
        clock = runner.get_loop()

        async def work() -> tuple[float, float, dict[str, int]]:
            servers_module.time = SimpleNamespace(monotonic=clock.time)  # type: ignore[assignment]
            servers = ClientPool(["http://simulated"] * num_servers, settings.client)
            dead = [DEAD_HOURS, *[(float("inf"), float("inf"))] * (num_servers - 1)]
            simulated = [SimulatedServer(speed, hours) for hours in dead]
            for server, stand_in in zip(servers._endpoints, simulated, strict=True):
                server.client = stand_in  # type: ignore[assignment]
            run = SimulatedRun(Path(), Path(), "simulated", settings, {})
            run.plans, run.speed = dict(zip(names, plans, strict=True)), speed
            await run._annotate_all(names, servers, tqdm(disable=True))
            in_flight = sum(each.busy_seconds for each in simulated) / clock.time()
            return clock.time() / 3600, in_flight, dict(servers.usage.failures)

        return runner.run(work())
