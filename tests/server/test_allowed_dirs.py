"""Videos that are brought: by path under the allowed folders and nowhere else, by upload, and as many as are kept."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from lit_hour.config.serving import ServerConfig
from lit_hour.errors import ServerError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AllowedDirs
from lit_hour.server.uploads import display_name
from tests.server.clips import clip
from tests.server.running import Running, running, wait_for


def open_url(served: Running, url: str) -> tuple[int, str]:
    reply = served.post("/v1/videos/open", url.encode())
    return reply.status, "" if reply.status == 200 else reply.reason


def test_videos_in_the_folders_are_listed_and_opened(served: Running, folder: Path) -> None:
    files = served.get("/v1/videos").json()["files"]
    assert [file["name"] for file in files] == ["no video.mp4", "walk.mp4", "deep er/ö#1.mp4"]
    assert [open_url(served, file["url"])[0] for file in files] == [422, 200, 200]
    assert "no video.mp4 cannot be opened as a video" in open_url(served, files[0]["url"])[1]


def test_a_file_is_brought_once_until_it_changes(
    served: Running, folder: Path, tmp_path: Path, content: bytes
) -> None:
    file = folder / "changing.mp4"
    file.write_bytes(content)
    try:
        first, again = (
            served.post("/v1/videos/open", file.as_uri()).json()["id"] for _ in range(2)
        )
        file.write_bytes(clip(seconds=2.0))
        changed = served.post("/v1/videos/open", file.as_uri()).json()["id"]
    finally:
        file.unlink()
    assert first == again != changed


ATTACKS = (
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
    "http://127.0.0.1/walk.mp4",
    "concat:{folder}/walk.mp4",
    "FTP://{folder}/walk.mp4",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_path_that_is_not_plainly_inside_is_refused(
    served: Running, folder: Path, attack: str
) -> None:
    url = attack.format(folder=folder)
    status, reason = open_url(served, url)
    assert status == 403 and "no path under the folders" in reason
    assert served.chat(url, "What?").status == 403


def test_a_file_inside_that_is_not_there_is_named_and_a_device_is_no_file(
    served: Running, folder: Path
) -> None:
    assert open_url(served, (folder / "none.mp4").as_uri())[0] == 404
    assert open_url(served, (folder / "walk.mp4/inner.mp4").as_uri())[0] == 404
    assert open_url(served, f"file://{folder}/{'x' * 300}.mp4")[0] == 404
    assert open_url(served, (folder / "deep er").as_uri())[0] == 404
    os.mkfifo(folder / "pipe.mp4")
    try:
        assert (
            open_url(served, (folder / "pipe.mp4").as_uri())[0] == 404
        )  # opening it would wait for ever
    finally:
        (folder / "pipe.mp4").unlink()


def test_without_folders_there_are_no_paths_and_a_folder_has_to_be_one(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    with running(predictor) as place:
        assert open_url(place, (tmp_path / "walk.mp4").as_uri())[0] == 403
    with pytest.raises(ServerError, match="none is no folder"):
        AllowedDirs([tmp_path / "none"])


def test_an_upload_is_remembered_shown_played_and_deleted(served: Running) -> None:
    content = clip(seconds=3.0)
    brought = served.post(f"/v1/videos?name={quote('../../ein Film.mp4')}", content)
    assert brought.status == 201 and brought.json()["name"] == "ein Film.mp4"
    video = brought.json()["id"]
    found = served.remembered(video)
    assert (found["state"], found["frames_read"]) == ("remembered", found["num_frames"])
    for place in range(len(found["pictures"])):
        picture = served.get(f"/v1/videos/{video}/pictures/{place}")
        assert picture.headers["content-type"] == "image/jpeg" and picture.body.startswith(
            b"\xff\xd8"
        )
    assert served.get(f"/v1/videos/{video}/pictures/{len(found['pictures'])}").status == 404
    part = served.get(f"/v1/videos/{video}/file", Range="bytes=10-19")
    assert (part.status, part.body, part.headers["content-type"]) == (
        206,
        content[10:20],
        "video/mp4",
    )
    assert served.request("DELETE", f"/v1/videos/{video}").status == 200
    assert served.get(f"/v1/videos/{video}").status == served.chat(video, "What?").status == 404
    assert not [
        file for file in served.server.upload_folder.iterdir() if file.read_bytes() == content
    ]


def test_names_are_only_shown() -> None:
    names = {
        "../../a.mp4": "a.mp4",
        "C:\\b.mp4": "b.mp4",
        "": "video",
        "..": "..",
        "a\n\0b": "ab",
        "x" * 500: "x" * 120,
    }
    assert {given: display_name(given) for given in names} == names


def test_the_least_recently_used_video_makes_room(
    predictor: VideoPredictor, content: bytes
) -> None:
    with running(predictor, ServerConfig(max_videos=2)) as place:
        first, second = (place.upload(content).json()["id"] for _ in range(2))
        for video in (second, first):
            place.remembered(video)
        assert place.chat(second, "What?").status == place.chat(first, "What?").status == 200
        third = place.upload(content).json()["id"]
        assert [place.get(f"/v1/videos/{video}").status for video in (first, second, third)] == [
            200,
            404,
            200,
        ]
        assert place.remembered(third)["state"] == "remembered"
        assert place.gauge("lit_hour_videos_kept") == place.gauge("lit_hour_upload_files") == 2


def test_memories_beyond_the_budget_are_on_disk_until_they_are_asked(
    predictor: VideoPredictor, content: bytes
) -> None:
    with running(predictor) as place:
        wanted = place.chat(place.upload(content).json()["id"], "What?").json()["choices"]
    with running(predictor, memory_gigabytes=1e-9) as place:
        videos = [place.upload(content).json()["id"] for _ in range(3)]
        for video in (*videos, *videos):
            place.remembered(video)
            assert place.chat(video, "What?").json()["choices"] == wanted
        wait_for(lambda: place.gauge("lit_hour_memory_bytes") == 0)
        folder = Path(place.server.memory_folder)
        assert len(list(folder.glob("*.safetensors"))) == 3
        assert place.request("DELETE", f"/v1/videos/{videos[0]}").status == 200
        wait_for(lambda: len(list(folder.glob("*.safetensors"))) == 2)
    assert not folder.exists()


def test_what_is_too_long_too_large_or_too_wide_is_refused(
    predictor: VideoPredictor, content: bytes
) -> None:
    limits = ServerConfig(max_upload_mb=1, max_video_seconds=3.0, max_frame_megapixels=0.004)
    with running(predictor, limits) as place:
        for sent, status, reason in (
            (content, 422, "clip.mp4 lasts 4 s, and this server takes videos of at most 3 s"),
            (clip(seconds=2.0), 422, "clip.mp4 has frames of 96 x 48 pixels"),
            (bytes(1_000_001), 413, "larger than the 1 MB"),
            (b"", 422, "empty"),
        ):
            reply = place.upload(sent)
            assert reply.status == status and reason in reply.reason
        assert place.gauge("lit_hour_upload_files") == 0
