"""The metrics of a server as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from lit_hour.server.metrics import CONTENT_TYPE_LATEST, Metrics
from tests.server.helpers import RunningServer


def samples(text: str) -> dict[str, float]:
    """Return the value of each sample by its name with labels."""
    values = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values


def test_metrics_of_a_server_are_valid_and_count(server: RunningServer, video: str) -> None:
    server.chat(video, "What?")
    response = server.get("/metrics")
    assert response.headers["content-type"] == CONTENT_TYPE_LATEST
    values = samples(response.body.decode())
    assert values["lit_hour_generations_total{outcome=completed}"] >= 1
    assert values["lit_hour_videos_total{status=ready}"] >= 1
    for name in (
        "lit_hour_generated_tokens_total",
        "lit_hour_generation_seconds_total",
        "lit_hour_encoded_frames_total",
        "lit_hour_memory_cache_bytes",
        "lit_hour_videos_stored",
    ):
        assert values[name] > 0, name
    for name in ("requests_running", "requests_waiting", "uploads_running"):
        assert values[f"lit_hour_{name}"] == 0, name
    assert 1e7 < values["process_resident_memory_bytes"] < 1e11


def test_requests_are_counted_by_route_not_by_path(server: RunningServer) -> None:
    for index in range(3):
        assert server.get(f"/v1/videos/video-{index}").status == 404
        assert server.get(f"/secret/{index}").status == 404
    text = server.get("/metrics").body.decode()
    assert 'route="/v1/videos/{video_id}",status="404"' in text
    assert "secret" not in text and "video-1" not in text


def test_each_server_has_counters_of_its_own() -> None:
    first, second = Metrics(), Metrics()
    first.generations.labels("completed").inc()
    first.generations.labels("completed").inc()
    first.generations.labels("failed").inc()
    first.add_gauge("lit_hour_example", "an example", lambda: 7)
    values = samples(first.render().decode())
    assert values["lit_hour_generations_total{outcome=completed}"] == 2
    assert values["lit_hour_generations_total{outcome=failed}"] == 1
    assert values["lit_hour_generated_tokens_total"] == 0
    assert values["lit_hour_example"] == 7
    others = samples(second.render().decode())
    assert not any(name.startswith("lit_hour_generations_total{") for name in others)
