"""Videos of a server: files in allowed directories and nothing else, uploads, and eviction."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import ServerError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AllowedDirs
from tests.server.factories import make_clip
from tests.server.helpers import RunningServer, run_server, wait_for

FORBIDDEN_URLS = (
    "file:///etc/passwd",
    "/etc/passwd",
    "etc/passwd",
    "../secret.mp4",
    "{folder}/walk.mp4",
    "file://{folder}/../secret.mp4",
    "file://{folder}/%2e%2e/secret.mp4",
    "file://{folder}/..%2fsecret.mp4",
    "file://{folder}/deep er/../../secret.mp4",
    "file://{folder}_not/walk.mp4",
    "file://{folder}/link.mp4",
    "file://{folder}/inner.mp4",
    "file://{folder}/out/secret.mp4",
    "file://{folder}/out/allowed/walk.mp4",
    "file://{folder}/walk.mp4%00.txt",
    "file://{folder}/%ff.mp4",
    "file://{folder}/%ed%a0%80.mp4",
    "file://evil.example{folder}/walk.mp4",
    "file:////{folder}/walk.mp4",
    "file://{folder}/walk.mp4?x",
    "file://{folder}/walk.mp4#x",
    "file://{folder}",
    "file://{folder}/",
    "file:walk.mp4",
    "file://[/walk.mp4",
    "concat:{folder}/walk.mp4",
    "FTP://{folder}/walk.mp4",
)


def open_url(server: RunningServer, url: str) -> tuple[int, str]:
    response = server.post("/v1/videos/open", url.encode())
    return response.status, "" if response.status == 200 else response.error


def test_allowed_files_are_listed_and_opened(server: RunningServer, folder: Path) -> None:
    files = server.get("/v1/videos").json()["files"]
    assert [file["name"] for file in files] == ["no video.mp4", "walk.mp4", "deep er/ö#1.mp4"]
    assert [open_url(server, file["url"])[0] for file in files] == [422, 200, 200]
    assert "no video.mp4 cannot be opened as a video" in open_url(server, files[0]["url"])[1]


def test_a_file_is_added_once_until_it_changes(
    server: RunningServer, folder: Path, clip: bytes
) -> None:
    file = folder / "changing.mp4"
    file.write_bytes(clip)
    try:
        first, second = (
            server.post("/v1/videos/open", file.as_uri()).json()["id"] for _ in range(2)
        )
        file.write_bytes(make_clip(seconds=2.0))
        changed = server.post("/v1/videos/open", file.as_uri()).json()["id"]
    finally:
        file.unlink()
    assert first == second != changed


def test_paths_outside_the_allowed_directories_are_forbidden(
    server: RunningServer, folder: Path
) -> None:
    for template in FORBIDDEN_URLS:
        url = template.format(folder=folder)
        status, message = open_url(server, url)
        assert status == 403, template
        assert "not inside a directory that the server was started with" in message, template
        assert server.chat(url, "What?").status == 403, template


def test_missing_and_special_files_are_not_found(server: RunningServer, folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")  # opening it would block forever
    try:
        for path in ("none.mp4", "walk.mp4/inner.mp4", f"{'x' * 300}.mp4", "deep er", "pipe.mp4"):
            assert open_url(server, (folder / path).as_uri())[0] == 404, path
    finally:
        (folder / "pipe.mp4").unlink()


def test_without_allowed_directories_no_path_is_allowed(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    with run_server(predictor) as server:
        assert open_url(server, (tmp_path / "walk.mp4").as_uri())[0] == 403
    with pytest.raises(ServerError, match="none is not a directory"):
        AllowedDirs([tmp_path / "none"])


def test_an_upload_is_encoded_described_played_and_deleted(server: RunningServer) -> None:
    content = make_clip(seconds=3.0)
    upload = server.post(f"/v1/videos?name={quote('../../a film.mp4')}", content)
    assert upload.status == 201 and upload.json()["name"] == "a film.mp4"
    video = upload.json()["id"]
    description = server.wait_until_finished(video)
    assert description["status"] == "ready" and description["error"] == ""
    assert description["num_encoded_frames"] == description["num_frames"] > 0
    num_thumbnails = len(description["thumbnails"])
    for index in range(num_thumbnails):
        thumbnail = server.get(f"/v1/videos/{video}/thumbnails/{index}")
        assert thumbnail.headers["content-type"] == "image/jpeg"
        assert thumbnail.body.startswith(b"\xff\xd8")
    assert server.get(f"/v1/videos/{video}/thumbnails/{num_thumbnails}").status == 404
    part = server.get(f"/v1/videos/{video}/file", Range="bytes=10-19")
    assert (part.status, part.body) == (206, content[10:20])
    assert part.headers["content-type"] == "video/mp4"
    assert server.request("DELETE", f"/v1/videos/{video}").status == 200
    assert server.get(f"/v1/videos/{video}").status == 404
    assert server.chat(video, "What?").status == 404
    assert all(file.read_bytes() != content for file in server.state.upload_dir.iterdir())


def test_the_least_recently_used_video_is_evicted(predictor: VideoPredictor, clip: bytes) -> None:
    with run_server(predictor, ServerConfig(max_videos=2)) as server:
        first, second = (server.upload(clip).json()["id"] for _ in range(2))
        for video in (second, first):
            server.wait_until_finished(video)
        assert server.chat(second, "What?").status == server.chat(first, "What?").status == 200
        third = server.upload(clip).json()["id"]
        found = [server.get(f"/v1/videos/{video}").status for video in (first, second, third)]
        assert found == [200, 404, 200]
        assert server.wait_until_finished(third)["status"] == "ready"
        assert server.metric("lit_hour_videos_stored") == 2
        assert server.metric("lit_hour_upload_files") == 2


def test_memories_above_the_budget_are_spilled_and_answers_stay_the_same(
    predictor: VideoPredictor, clip: bytes
) -> None:
    with run_server(predictor) as server:
        expected = server.chat(server.upload(clip).json()["id"], "What?").json()["choices"]
    with run_server(predictor, memory_cache_gb=1e-9) as server:
        videos = [server.upload(clip).json()["id"] for _ in range(3)]
        for video in (*videos, *videos):
            server.wait_until_finished(video)
            assert server.chat(video, "What?").json()["choices"] == expected
        wait_for(lambda: server.metric("lit_hour_memory_cache_bytes") == 0)
        spill_dir = server.state.memory_dir
        assert len(list(spill_dir.glob("*.safetensors"))) == 3
        assert server.request("DELETE", f"/v1/videos/{videos[0]}").status == 200
        wait_for(lambda: len(list(spill_dir.glob("*.safetensors"))) == 2)
    assert not spill_dir.exists()


def test_uploads_above_a_limit_are_rejected(predictor: VideoPredictor, clip: bytes) -> None:
    limits = ServerConfig(max_upload_mb=1, max_video_seconds=3.0, max_frame_megapixels=0.004)
    with run_server(predictor, limits) as server:
        for content, status, message in (
            (clip, 422, "clip.mp4 lasts 4 s. This server accepts at most 3 s"),
            (make_clip(seconds=2.0), 422, "clip.mp4 has frames of 96 x 48 pixels"),
            (bytes(1_000_001), 413, "larger than 1 MB"),
            (b"", 422, "empty"),
        ):
            response = server.upload(content)
            assert response.status == status and message in response.error
        assert server.metric("lit_hour_upload_files") == 0
