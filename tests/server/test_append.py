"""`POST /v1/videos/ID/append`: a video in parts equals the video in one piece."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import av
import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.media.sample_times import continued_timestamps, sample_timestamps
from lit_hour.server import video_store
from lit_hour.server.decode_sandbox import DecodingCancelledError
from tests.media.helpers import write_moving
from tests.server.helpers import RunningServer, run_server

OVERRIDES = ("video.min_frames=1", "video.max_frames=16", "model.vision.encode_batch_size=5")
FPS = 25


@pytest.fixture(scope="module")
def live_server(random_run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    predictor = VideoPredictor.from_run(random_run.path, device="cpu", overrides=OVERRIDES)
    with run_server(predictor, ServerConfig(max_videos=6), []) as server:
        yield server


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen seconds, each of which can be decoded alone."""
    file = tmp_path_factory.mktemp("film") / "film.ts"
    return write_moving(
        file, 13 * FPS, g=str(FPS), sc_threshold="0", **{"x264-params": "open-gop=0"}
    )


def cut(film: Path, target: Path, bounds: tuple[float, ...]) -> list[bytes]:
    """Copy the packets of a video to files that begin at keyframes."""
    parts = []
    for start, end in zip((0.0, *bounds), (*bounds, 100.0), strict=True):
        with av.open(str(film)) as clip, av.open(str(target), "w", format="mpegts") as container:
            source = clip.streams.video[0]
            stream = container.add_stream_from_template(source)
            first = source.start_time
            is_inside = False
            for packet in clip.demux(source):
                if packet.dts is None:
                    continue
                if packet.is_keyframe:
                    seconds = float((packet.pts - first) * packet.time_base)
                    is_inside = start <= seconds + 1e-6 < end
                if is_inside:
                    packet.stream = stream
                    container.mux(packet)
        parts.append(target.read_bytes())
    return parts


def upload_live(server: RunningServer, content: bytes) -> str:
    video = server.post("/v1/videos?name=camera.ts&live=true", content).json()["id"]
    assert server.wait_until_finished(video)["status"] == "ready"
    return video


def memory_of(server: RunningServer, video: str):
    with server.state.cache.lease(server.state.videos.get(video).memory_key) as memory:
        return memory


def encode(server: RunningServer, content: bytes, file: Path):
    file.write_bytes(content)
    return server.state.generation._predictor.encode_video(file)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [(4.0, 5.0, 10.0), (1.0, 12.0)], ids=str)
def test_parts_equal_the_video_in_one_piece(
    live_server: RunningServer, film: Path, tmp_path: Path, bounds: tuple[float, ...]
) -> None:
    first, *parts = cut(film, tmp_path / "part.ts", bounds)
    video = upload_live(live_server, first)
    for number, part in enumerate(parts, start=2):
        described = live_server.post(f"/v1/videos/{video}/append", part)
        assert described.status == 200, described.body
        assert described.json()["num_parts"] == number
    assert described.json()["duration_seconds"] == pytest.approx(13.0)
    assert described.json()["num_frames"] == 13
    memory = memory_of(live_server, video)
    expected = encode(live_server, film.read_bytes(), tmp_path / "camera.ts")
    for name in ("tokens", "positions", "timestamps"):
        one, other = getattr(memory.repository, name), getattr(expected.repository, name)
        assert one.equal(other), name
    assert memory.note == expected.note
    answer = live_server.chat(video, "What?").json()["choices"][0]["message"]["content"]
    assert answer


@pytest.mark.slow
def test_a_full_memory_is_thinned(live_server: RunningServer, film: Path) -> None:
    video = upload_live(live_server, film.read_bytes())
    for _ in range(3):
        live_server.post(f"/v1/videos/{video}/append", film.read_bytes())
    described = live_server.get(f"/v1/videos/{video}").json()
    assert described["duration_seconds"] == pytest.approx(52) and described["num_frames"] <= 16
    times = memory_of(live_server, video).timestamps_seconds
    assert times[0] == 0 and times[-1] == 51 and times[-8:] == tuple(map(float, range(44, 52)))


def test_an_invalid_part_appends_nothing(
    live_server: RunningServer, film: Path, tmp_path: Path
) -> None:
    first, second = cut(film, tmp_path / "part.ts", (6.0,))
    video = upload_live(live_server, first)
    url = f"/v1/videos/{video}/append"
    before = memory_of(live_server, video)
    for content, message in ((b"", "empty"), (b"no video" * 99, "cannot be opened as a video")):
        response = live_server.post(url, content)
        assert response.status == 422 and message in response.error
    long = live_server.post(url, write_moving(tmp_path / "long.ts", 18 * FPS).read_bytes())
    assert long.status == 422 and "more than video.max_frames" in long.error
    assert memory_of(live_server, video) is before
    assert live_server.post(url, second).json()["num_frames"] == 13
    assert live_server.post("/v1/videos/video-none/append", second).status == 404


@pytest.mark.slow
def test_concurrent_parts_are_appended_one_after_the_other(
    live_server: RunningServer, film: Path, tmp_path: Path
) -> None:
    (part, _) = cut(film, tmp_path / "part.ts", (2.0,))
    video = upload_live(live_server, part)
    with ThreadPoolExecutor(3) as pool:
        posts = [
            pool.submit(live_server.post, f"/v1/videos/{video}/append", part) for _ in range(3)
        ]
        assert [post.result().status for post in posts] == [200, 200, 200]
    assert memory_of(live_server, video).timestamps_seconds == tuple(map(float, range(8)))
    assert not list(live_server.state.upload_dir.glob("part*"))


@pytest.mark.parametrize("is_removed", (True, False), ids=("removed", "disconnected"))
def test_decoding_ends_when_the_part_is_no_longer_needed(
    live_server: RunningServer, film: Path, monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    started, ended = Event(), Event()

    def decode(*args) -> None:
        started.set()
        part = args[3]
        if part.cancelled.wait(30):
            ended.set()
        raise DecodingCancelledError

    monkeypatch.setattr(video_store, "append_part", decode)
    video = upload_live(live_server, film.read_bytes())
    connection = live_server.connect()
    connection.request("POST", f"/v1/videos/{video}/append", film.read_bytes())
    assert started.wait(30)
    if is_removed:
        live_server.request("DELETE", f"/v1/videos/{video}")
        response = connection.getresponse()
        assert response.status == 404 and b"was removed meanwhile" in response.read()
    connection.close()
    assert ended.wait(30)


def test_a_longer_video_no_longer_stands_for_its_file(
    server: RunningServer, folder: Path, clip: bytes
) -> None:
    url = (folder / "walk.mp4").as_uri()
    opened = server.post("/v1/videos/open", url).json()["id"]
    server.wait_until_finished(opened)
    longer = server.post(f"/v1/videos/{opened}/append", clip).json()
    assert longer["duration_seconds"] == pytest.approx(8) and longer["url"] == opened
    again = server.post("/v1/videos/open", url).json()["id"]
    assert again != opened
    assert server.wait_until_finished(again)["duration_seconds"] == pytest.approx(4)


@pytest.mark.parametrize("fps", (0.4, 1.0, 3.0, 29.97))
def test_continued_times_are_those_of_the_video_in_one_piece(fps: float) -> None:
    for bounds in ((4.0, 5.0, 5.04, 10.0), (0.04, 0.08, 7.36), (1 / 3, 2 / 3, 1.0)):
        times: list[float] = []
        start = 0.0
        for end in (*bounds, 12.5):
            times += [start + seconds for seconds in continued_timestamps(start, end - start, fps)]
            start = end
        assert times == pytest.approx(sample_timestamps(12.5, fps, 1, 10_000), abs=1e-9)
