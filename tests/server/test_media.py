"""Videos and images in requests: data URLs, http(s) URLs, uploads by id, allowed paths."""

import base64
import gzip
import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lit_hour.config.schema import ImageConfig
from lit_hour.config.serving import ServerConfig
from lit_hour.inference.answer import Answer
from lit_hour.inference.batching import stream_answers
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io import download
from lit_hour.server import decode_worker
from lit_hour.server.decode_worker import ResourceLimits
from lit_hour.types import Message
from tests.helpers.http_server import run_in_thread
from tests.server.factories import make_clip
from tests.server.helpers import MODEL, Response, RunningServer, run_server, wait_for

QUESTION = "What is there?"


def encode(content: bytes, media_type: str = "video/mp4") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def make_image(color: str, size: tuple[int, int] = (60, 40), suffix: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, suffix)
    return buffer.getvalue()


def part(url: str, kind: str = "video_url") -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def ask(server: RunningServer, *parts: dict[str, Any] | str, **fields: Any) -> Response:
    content = [{"type": "text", "text": item} if isinstance(item, str) else item for item in parts]
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": MODEL, "messages": messages, **fields})
    return server.post("/v1/chat/completions", body)


def text_of(response: Response) -> str:
    assert response.status == 200, response.body
    return response.json()["choices"][0]["message"]["content"]


def files_of(server: RunningServer) -> int:
    return len(list(server.state.upload_dir.iterdir()))


def test_a_video_as_data_url_is_encoded_once(
    server: RunningServer, video: str, clip: bytes
) -> None:
    num_videos = len(server.state.videos)
    url = encode(clip)
    first = ask(server, part(url), QUESTION)
    assert text_of(first) == text_of(ask(server, part(video), QUESTION))
    escaped = json.dumps([part(url), {"type": "text", "text": QUESTION}]).replace("/", "\\/")
    wrapped = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": {escaped}}}]}}'
    assert text_of(server.post("/v1/chat/completions", wrapped)) == text_of(first)
    assert len(server.state.videos) == num_videos + 1
    for stored in server.get("/v1/videos").json()["data"]:
        if stored["name"] == "video":
            server.request("DELETE", f"/v1/videos/{stored['id']}")
    assert len(server.state.videos) == num_videos


def test_images_are_answered_as_by_the_predictor_and_not_kept(
    server: RunningServer, predictor: VideoPredictor, folder: Path, tmp_path: Path
) -> None:
    num_files, num_videos = files_of(server), len(server.state.videos)
    red, blue = make_image("red", (90, 30)), make_image("blue", suffix="jpeg")
    files = []
    for name, content in (("red.png", red), ("blue.jpg", blue)):
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    urls = [encode(red, "image/png"), encode(blue, "image/jpeg")]
    (folder / "red.png").write_bytes(red)

    def expect(paths: list[Path], text: str) -> str:
        prompt = predictor.processor.build_chat_prompt([Message("user", text)])
        *_, answer = stream_answers(predictor, predictor.encode_video(paths), prompt)
        assert isinstance(answer, Answer)
        return answer.text

    one = expect(files[:1], QUESTION)
    assert text_of(ask(server, part(urls[0], "image_url"), QUESTION)) == one
    allowed = part((folder / "red.png").as_uri(), "image_url")
    assert text_of(ask(server, allowed, QUESTION)) == one
    (folder / "red.png").unlink()
    both = expect(files, f"<image>\n{QUESTION}\n<image>")
    images = [part(url, "image_url") for url in urls]
    assert text_of(ask(server, images[0], QUESTION, images[1])) == both != one
    assert text_of(ask(server, images[1], QUESTION, images[0])) != both
    streamed = ask(server, images[0], QUESTION, stream=True)
    assert b"data: [DONE]" in streamed.body
    assert (files_of(server), len(server.state.videos)) == (num_files, num_videos)


def test_a_question_without_media_is_answered(
    server: RunningServer, predictor: VideoPredictor
) -> None:
    memory = predictor.encode_visual(None, 0.0, "")
    *_, answer = predictor.generate(memory, QUESTION)
    assert isinstance(answer, Answer)
    assert text_of(ask(server, QUESTION)) == answer.text
    assert ask(server, " ").status == 422


def test_evidence_of_an_image_is_refused(server: RunningServer) -> None:
    image = part(encode(make_image("red"), "image/png"), "image_url")
    response = ask(server, image, QUESTION, lit_hour={"evidence": True})
    assert response.status == 400 and response.json()["error"]["param"] == "lit_hour.evidence"
    answered = ask(server, image, QUESTION).json()["id"]
    assert server.get(f"/v1/chat/completions/{answered}/evidence").status == 404


def test_an_image_that_was_deleted_is_an_error_without_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "red.png").write_bytes(make_image("red"))
    monkeypatch.setattr(decode_worker, "_limit_resources", lambda limits: None)  # of this process
    ours, theirs = Pipe(duplex=False)
    paths = (tmp_path / "red.png", tmp_path / "deleted.png")
    decode_worker.decode_images(theirs, paths, ResourceLimits(1.0, 0), 32, ImageConfig())
    message = json.loads(ours.recv_bytes())
    assert message["kind"] == "error"
    assert message["reason"] == "The file cannot be read (No such file or directory)."


@pytest.mark.slow
def test_media_that_cannot_be_used_are_refused_and_leave_no_file(
    predictor: VideoPredictor, clip: bytes
) -> None:
    png = make_image("red")
    deep = encode(encode(encode(clip).encode()).encode())
    cases: tuple[tuple[str, str, str], ...] = (
        ("video_url", "data:video/mp4;base64,", "is empty (0 bytes)"),
        ("video_url", "data:video/mp4;base64,AAAA", "only zero bytes"),
        ("video_url", "data:video/mp4;base64,A", "not valid base64"),
        ("video_url", "data:video/mp4;base64,####", "not valid base64"),
        ("video_url", "data:video/mp4,AAAA", "must be a data URL such as"),
        ("video_url", "data:,", "must be a data URL such as"),
        ("video_url", "data:text/html;base64,AAAA", "data URL of text/html"),
        ("video_url", deep, "cannot be opened as a video"),
        ("video_url", encode(png), "is a PNG image"),
        ("video_url", encode(clip[:200]), "video"),
        ("image_url", "data:image/png;base64,", "is empty (0 bytes)"),
        ("image_url", encode(clip, "image/png"), "is not a JPEG, PNG"),
        ("image_url", encode(png[:60], "image/png"), "damaged"),
        ("image_url", encode(make_image("red", (9000, 9000)), "image/png"), "pixels"),
        ("image_url", encode(make_image("red", (2000, 2)), "image/png"), "aspect ratio"),
        ("image_url", "file:///etc/passwd", "not inside a directory"),
        ("image_url", "/etc/passwd", "not inside a directory"),
        ("image_url", "video-unknown", "no such video"),
        ("video_url", "ftp://example.org/a.mp4", "not inside a directory"),
        ("video_url", "http://127.0.0.1:1/a.mp4", "this server reads none"),
        ("image_url", "https://example.org/a.png", "serving.server.allow_urls=true"),
        ("video_url", "", "not inside a directory"),
    )
    with run_server(predictor) as server:
        for kind, url, reason in cases:
            response = ask(server, part(url, kind), QUESTION)
            assert 400 <= response.status < 500, (url[:80], response)
            assert reason in response.error, (url[:80], response.error)
            assert str(server.state.upload_dir) not in response.error
            if response.status in (400, 422):
                field = f"messages[0].content[0].{kind}.url"
                assert response.json()["error"]["param"] == field
        text = ask(server, encode(clip))
        assert text.status == 400 and "is a data URL" in text.error
        uploaded = server.upload(clip).json()["id"]
        response = ask(server, part(uploaded, "image_url"), QUESTION)
        assert response.status == 422 and "is not a JPEG, PNG" in response.error
        assert files_of(server) == 1 and len(server.state.videos) == 1
        assert text_of(ask(server, part(uploaded), QUESTION))


@pytest.mark.slow
def test_a_large_request_is_refused_before_its_media_are_decoded(
    predictor: VideoPredictor, clip: bytes
) -> None:
    settings = ServerConfig(max_request_mb=2, max_upload_mb=1)
    with run_server(predictor, settings) as server:
        for size, reason in ((1_600_000, "larger than 2 MB"), (1_200_000, "only zero bytes")):
            response = ask(server, part(encode(bytes(size))), QUESTION)
            assert response.status in (413, 422) and reason in response.error
        response = ask(server, "x" * 1_100_000)
        assert response.status == 413 and "without its base64 data URLs" in response.error
        assert files_of(server) == 0


@pytest.fixture
def web(clip: bytes) -> Iterator[ThreadingHTTPServer]:
    """A web server with a video, an image, and a redirect to what the query names."""
    contents = {"/clip.mp4": clip, "/red.png": make_image("red"), "/page.mp4": b"<html>" * 50}
    contents["/large.png"] = contents["/red.png"] + bytes(600_000)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            self.server.paths.append(path)  # type: ignore[attr-defined]
            content = contents.get(path, b"")
            self.send_response(302 if path == "/to" else 200 if content else 404)
            if path == "/to":
                self.send_header("Location", query)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.paths = []  # type: ignore[attr-defined]
    with run_in_thread(web):
        yield web


@pytest.mark.slow
def test_images_behind_urls_have_a_limit_together(
    predictor: VideoPredictor, web: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "is_public_address", lambda address: True)
    image = part(f"http://127.0.0.1:{web.server_port}/large.png", "image_url")
    with run_server(predictor, ServerConfig(allow_urls=True, max_request_mb=1)) as server:
        assert text_of(ask(server, image, QUESTION))
        response = ask(server, image, image, QUESTION)
        assert response.status == 400 and "large.png is larger than 0.39" in response.error
        assert response.json()["error"]["param"] == "messages[0].content[1].image_url.url"
        assert files_of(server) == 0


@pytest.mark.slow
def test_urls_are_read_if_the_server_may(
    predictor: VideoPredictor, clip: bytes, web: ThreadingHTTPServer, monkeypatch: Any
) -> None:
    url = f"http://127.0.0.1:{web.server_port}"
    settings = ServerConfig(allow_urls=True, url_timeout_seconds=5.0, max_concurrent_uploads=1)
    with run_server(predictor, settings) as server:
        for path in ("/clip.mp4", f"/to?{url}/clip.mp4"):
            refused = ask(server, part(f"{url}{path}"), QUESTION)
            assert refused.status == 400 and "is not public" in refused.error
        assert web.paths == []  # type: ignore[attr-defined]
        monkeypatch.setattr(download, "is_public_address", lambda address: True)
        uploaded = server.upload(clip).json()["id"]
        expected = text_of(ask(server, part(uploaded), QUESTION))
        for path in ("/clip.mp4", "/clip.mp4", f"/to?{url}/clip.mp4"):
            assert text_of(ask(server, part(f"{url}{path}"), QUESTION)) == expected
        assert web.paths == ["/clip.mp4", "/to", "/clip.mp4"]  # type: ignore[attr-defined]
        assert len(server.state.videos) == 2  # the redirect leads to the same content
        assert server.post("/v1/videos/open", f"{url}/clip.mp4").json()["name"] == "clip.mp4"
        image = part(f"{url}/red.png", "image_url")
        assert text_of(ask(server, image, QUESTION))
        messages = [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]
        zipped = gzip.compress(json.dumps({"model": MODEL, "messages": messages}).encode())
        # it counts as an upload, of which there is one at a time
        assert text_of(server.post("/v1/chat/completions", zipped, Content_Encoding="gzip"))
        for path, status, reason in (
            ("/none.mp4", 400, "answers with status 404"),
            ("/page.mp4", 422, "page.mp4 "),
        ):
            response = ask(server, part(f"{url}{path}"), QUESTION)
            assert response.status == status and reason in response.error
        assert files_of(server) == 2
        assert len(server.state.videos) == 2


@pytest.mark.slow
def test_a_client_that_hangs_up_cancels_the_decoding_of_its_media(
    predictor: VideoPredictor,
) -> None:
    long = encode(make_clip(seconds=30.0))
    body = json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": [part(long), QUESTION]}]}
    )
    with run_server(predictor) as server:
        connection = server.connect()
        connection.request("POST", "/v1/chat/completions", body.replace(f'"{QUESTION}"', "{}"))
        assert connection.getresponse().status == 400
        connection.close()
        connection = server.connect()
        good = body.replace(f'"{QUESTION}"', json.dumps({"type": "text", "text": QUESTION}))
        connection.request("POST", "/v1/chat/completions", good)
        connection.close()
        wait_for(lambda: server.metric("lit_hour_uploads_running") == 0)
        assert server.get("/health").status == 200


def test_the_visual_of_an_image_has_the_pixels_of_the_predictor(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    from lit_hour.inference.video_memory import check_input_files
    from lit_hour.server.image_sandbox import decode_images

    paths = []
    for name, size in (("a.png", (90, 30)), ("b.png", (33, 77))):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(make_image("green", size))
    for files in (paths[:1], paths):
        decoded = decode_images(files, predictor.config)
        expected = check_input_files(files).open_visual(predictor.config)
        assert type(decoded) is type(expected)
        for name, value in vars(expected).items():
            found = getattr(decoded, name)
            same = torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
            assert same, name
