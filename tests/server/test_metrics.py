"""What Prometheus reads."""

import re

from lit_hour.server.metrics import Metrics, resident_bytes
from tests.server.running import Running


def test_each_line_is_prometheus_text(served: Running, video: str) -> None:
    served.chat(video, "What?")
    reply = served.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*\})? [0-9.e+-]+')
    lines = reply.body.decode().splitlines()
    assert [
        line for line in lines if not line.startswith("# ") and not sample.fullmatch(line)
    ] == []
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {
        line.split("{")[0].split()[0] for line in lines if not line.startswith("#")
    } <= described
    assert (
        served.gauge("lit_hour_answer_tokens_total")
        > 0
        < served.gauge("lit_hour_answer_seconds_total")
    )


def test_routes_are_counted_and_not_what_clients_write(served: Running) -> None:
    for place in range(3):
        assert (
            served.get(f"/v1/videos/video-{place}").status
            == served.get(f"/secret/{place}").status
            == 404
        )
    text = served.get("/metrics").body.decode()
    assert (
        'route="/v1/videos/{video_id}",status="404"' in text
        and "secret" not in text
        and "video-1" not in text
    )


def test_counts_add_up_by_label() -> None:
    metrics = Metrics()
    for ending, amount in (("whole", 1), ("whole", 2), ("refused", 1)):
        metrics.add("lit_hour_answers_total", amount, ending=ending)
    text = metrics.text()
    assert (
        'lit_hour_answers_total{ending="whole"} 3\n' in text
        and 'lit_hour_answers_total{ending="refused"} 1\n' in text
    )
    assert "lit_hour_answer_tokens_total 0\n" in text
    assert 1e7 < resident_bytes() < 1e11
