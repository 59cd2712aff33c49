"""What happens in the server, counted -> Prometheus' text."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MEANINGS = {
    "lit_hour_requests_total": "replies, by route and status",
    "lit_hour_answers_total": "answers, by how they ended",
    "lit_hour_answer_tokens_total": "pieces of text that were generated",
    "lit_hour_answer_seconds_total": "time of answers from their turn to their end",
    "lit_hour_videos_total": "videos, by what became of them",
    "lit_hour_video_frames_total": "frames that were remembered",
    "lit_hour_upload_bytes_total": "bytes of whole uploads",
}
_WITHOUT_LABELS = (
    "lit_hour_answer_tokens_total",
    "lit_hour_answer_seconds_total",
    "lit_hour_video_frames_total",
    "lit_hour_upload_bytes_total",
)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters that only grow, and gauges that are read when somebody looks.

    Attributes:
        gauges: name -> (meaning, how to read it).
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Labels]] = Counter(
            {(name, ()): 0 for name in _WITHOUT_LABELS}
        )
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "process_resident_memory_bytes": ("memory of the server's own process", resident_bytes),
        }

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count; each name is one of the table above."""
        self._counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]  # seconds are floats

    def text(self) -> str:
        """All of it, in the exposition format 0.0.4."""
        lines = []
        for name, meaning in _MEANINGS.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} counter"]
            found = sorted(
                (labels, amount)
                for (counted, labels), amount in self._counts.items()
                if counted == name
            )
            lines += [f"{name}{_spell(dict(labels))} {amount:g}" for labels, amount in found]
        for name, (meaning, read) in self.gauges.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge", f"{name} {read():.17g}"]
        return "\n".join(lines) + "\n"


class CountResponses:
    """Counts the replies of an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(
                    scope.get("route"), "path", "none"
                )  # never what the client wrote: names would grow for ever
                self._metrics.add(
                    "lit_hour_requests_total", route=route, status=str(message["status"])
                )
            await send(message)

        await self._app(scope, receive, count)


def resident_bytes() -> float:
    """Memory of this process that is in use now."""
    return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _spell(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""
