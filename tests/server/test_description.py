"""`GET /v1/videos/ID/description` and `chapters.vtt`: computed once, for the video as it is."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from lit_hour.inference.describe import describe
from lit_hour.inference.description_formats import description_fields
from lit_hour.inference.predictor import VideoPredictor
from tests.server.helpers import RunningServer, wait_for


def test_equals_the_description_of_the_command(
    server: RunningServer, predictor: VideoPredictor, video: str
) -> None:
    answer = server.get(f"/v1/videos/{video}/description")
    assert answer.status == 200
    fields = answer.json()
    with server.state.cache.lease(server.state.videos.get(video).memory_key) as memory:
        expected = description_fields(describe(predictor, memory))
    assert fields.pop("id") == video and fields.pop("object") == "video.description"
    assert fields == {
        **expected,
        **{
            name: list(expected[name])
            for name in fields
            if name in ("chapters", "captions", "events")
        },
    }
    cues = server.get(f"/v1/videos/{video}/chapters.vtt")
    assert cues.headers["content-type"].startswith("text/vtt")
    assert cues.body.startswith(b"WEBVTT\n\n1\n00:00:00.000 --> 00:00:04.000\n")


def test_a_description_is_computed_once_until_the_video_is_longer(
    server: RunningServer, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_hour.server import description as module

    computed, steps = [], module.describe_steps

    def count(*args):
        computed.append(args)
        return steps(*args)

    monkeypatch.setattr(module, "describe_steps", count)
    video = server.upload(clip).json()["id"]
    url = f"/v1/videos/{video}/description"
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.get, url) for _ in range(3)]
        first, *others = [answer.result().json() for answer in answers]
    assert others == [first, first] and len(computed) == 1
    server.post(f"/v1/videos/{video}/append", clip)
    longer = server.get(url).json()
    assert len(computed) == 2 and longer["duration_seconds"] == pytest.approx(8.0)
    assert longer["chapters"][-1]["end_seconds"] == pytest.approx(8.0)


def test_questions_are_answered_while_a_video_is_described(
    server: RunningServer, video: str, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_hour.server import description as module

    order: list[str] = []

    def endless(*args):
        order.append("started")
        while "answered" not in order:
            yield None
        raise RuntimeError("stop")  # pragma: no cover - the generator is closed before

    monkeypatch.setattr(module, "describe_steps", endless)
    other = server.upload(clip).json()["id"]
    server.wait_until_finished(other)
    key = server.state.videos.get(other).memory_key
    num_bytes = server.state.cache.size_bytes(key)
    with ThreadPoolExecutor(2) as pool:
        described = pool.submit(server.get, f"/v1/videos/{other}/description")
        while not order:
            pass
        waiting = pool.submit(server.get, f"/v1/videos/{video}/description")
        assert server.chat(video, "What?").status == 200
        wait_for(lambda: server.state.descriptions._num_requests == 2)
        # the description that waits pins no memory beside the one that is computed
        wait_for(lambda: server.state.videos._leases.num_bytes == num_bytes)
        order.append("answered")
        assert described.result().status == 500
        waiting.result()


def test_videos_that_cannot_be_described(server: RunningServer) -> None:
    assert server.get("/v1/videos/video-none/description").status == 404
    assert server.get("/v1/videos/video-none/chapters.vtt").status == 404
