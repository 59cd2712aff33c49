"""Prometheus metrics of one server. `Metrics` holds a registry of its own, not the global one."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE_LATEST
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Metrics:
    """Counters that the server increments, and gauges that are read at each scrape."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.http_requests = self._counter(
            "lit_hour_http_requests", "HTTP responses by route and status", "route", "status"
        )
        self.generations = self._counter(
            "lit_hour_generations", "answers by outcome: completed, failed, cancelled", "outcome"
        )
        self.generation_seconds = self._counter(
            "lit_hour_generation_seconds", "time that answers ran, without waiting in the queue"
        )
        self.attributions = self._counter(
            "lit_hour_attributions",
            "evidence for answers by outcome: completed, failed, cancelled",
            "outcome",
        )
        self.attribution_seconds = self._counter(
            "lit_hour_attribution_seconds", "time that attributions ran, without waiting"
        )
        self.generated_tokens = self._counter("lit_hour_generated_tokens", "tokens streamed")
        self.videos = self._counter(
            "lit_hour_videos", "videos by final status: ready, failed, removed", "status"
        )
        self.encoded_frames = self._counter("lit_hour_encoded_frames", "frames encoded")
        self.uploaded_bytes = self._counter("lit_hour_uploaded_bytes", "bytes of finished uploads")

    def add_gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Add a gauge; each scrape calls `read` for its value."""
        Gauge(name, documentation, registry=self._registry).set_function(read)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)


class CountResponses:
    """ASGI middleware that counts the responses of an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                # the route, not the path: paths that clients make up would add labels forever
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.http_requests.labels(route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, count)
