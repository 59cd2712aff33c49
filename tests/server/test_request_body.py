"""Bodies of requests: gzip, and multipart uploads, in pieces of any size."""

import asyncio
import gzip
import random
from collections.abc import AsyncIterator

import pytest
from fastapi import HTTPException
from starlette.requests import Request

from lit_hour.config.serving import ServerConfig
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.multipart import MultipartFile, multipart_boundary
from lit_hour.server.request_body import read_body
from tests.server.helpers import RunningServer, chat_body, run_server

CONTENT = random.Random(0).randbytes(5000) + b"\r\n--B\r\n--Bound\r\n" + bytes(300)


def read(chunks: list[bytes], max_bytes: int = 100_000, **headers: str) -> bytes:
    remaining = [*({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks)]
    remaining.append({"type": "http.request", "body": b"", "more_body": False})
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

    async def receive() -> dict[str, object]:
        return remaining.pop(0)

    request = Request({"type": "http", "headers": raw}, receive)
    return asyncio.run(read_body(request, max_bytes, 5.0))


def cut(content: bytes, generator: random.Random) -> list[bytes]:
    """Cut a content into pieces of 1 to 50 bytes."""
    pieces = []
    while content:
        length = generator.randint(1, 50)
        pieces.append(content[:length])
        content = content[length:]
    return pieces


def test_gzip_is_decompressed_also_in_several_members() -> None:
    body = gzip.compress(CONTENT[:3000]) + gzip.compress(CONTENT[3000:])
    for chunks in ([body], cut(body, random.Random(1))):
        assert read(chunks, content_encoding="gzip") == CONTENT
    assert read([CONTENT], content_encoding="identity") == CONTENT


def test_gzip_has_a_limit_after_decompression_and_is_checked() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 60_000
    for body, encoding, status in (
        (bomb, "gzip", 413),
        (gzip.compress(bomb), "gzip", 200),  # nested: the inner one is plain data
        (b"no gzip at all", "gzip", 400),
        (gzip.compress(CONTENT)[:-10], "gzip", 400),
        (gzip.compress(CONTENT) + b"rest", "gzip", 400),
        (CONTENT, "br", 415),
        (CONTENT, "gzip, gzip", 415),
    ):
        if status == 200:
            assert read([body], content_encoding=encoding) == bomb
            continue
        with pytest.raises(HTTPException) as error:
            read([body], content_encoding=encoding)
        assert error.value.status_code == status


def form(*parts: tuple[str, bytes], end: bytes = b"--\r\n") -> bytes:
    """Return a multipart body; each part has the rest of its disposition, and its content."""
    body = b"".join(
        b"--Boundary\r\nContent-Disposition: form-data; "
        + head.encode()
        + b"\r\nContent-Type: video/mp4\r\n\r\n"
        + content
        + b"\r\n"
        for head, content in parts
    )
    return body + b"--Boundary" + end


def read_file(chunks: list[bytes]) -> tuple[str, bytes]:
    async def iterate() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> tuple[str, bytes]:
        file = MultipartFile(iterate(), b"Boundary")
        content = b"".join([chunk async for chunk in file.content()])
        return file.name, content

    return asyncio.run(collect())


def test_the_file_of_a_form_is_found_however_it_is_cut() -> None:
    file = ('name="file"; filename="a b.mp4"', CONTENT)
    field = ('name="purpose"', b"vision")
    for parts in ((file,), (field, file), (file, field), (field, field, file, field)):
        body = form(*parts)
        for chunks in (
            [body],
            cut(body, random.Random(2)),
            [body[i : i + 1] for i in range(len(body))],
        ):
            assert read_file(chunks) == ("a b.mp4", CONTENT)
    assert read_file([form(('name="file"; filename="a.mp4"', b""))]) == ("a.mp4", b"")
    for chunks in ([b"pre-amble\r\n" + form(file)], [b"pre", b"-amble\r", b"\n" + form(file)]):
        assert read_file(chunks) == ("a b.mp4", CONTENT)
    for rest in (b"rest", b"\r\n--Boundary\r\nnot a header"):  # damage after the file
        assert read_file([form(file) + rest]) == ("a b.mp4", CONTENT)
    begun = form(file, end=b"\r\nnot a header")
    assert read_file([begun]) == read_file(cut(begun, random.Random(3))) == ("a b.mp4", CONTENT)
    longer = ('name="file"; filename="a.mp4"', CONTENT + b"\r\n--BoundaryX\r\n\r\n")
    assert read_file([form(longer)]) == ("a.mp4", longer[1])  # the delimiter of another body
    encoded = ("name=\"file\"; filename*=utf-8''%C3%A9.mp4", CONTENT)
    assert read_file([form(encoded)]) == ("\u00e9.mp4", CONTENT)


def test_a_damaged_form_is_refused() -> None:
    file, field = ('name="file"; filename="a.mp4"', CONTENT), ('name="x"', b"y")
    for body in (
        b"",
        b"--",
        CONTENT,
        form(field),
        form(),
        form(file)[:200],
        form(file, end=b"")[:-10],
        form(("x" * 20_000, b"y")),
        form(("name=\"file\"; filename*=idna''a%ff", CONTENT)),
        form(("name=\"file\"; filename*=utf-8\0''a", CONTENT)),
        form(*[('name="x"', bytes(30_000))] * 4, file),
    ):
        with pytest.raises(HTTPException) as error:
            read_file([body])
        assert error.value.status_code == 400 and "multipart" in str(error.value.detail)
    for content_type in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/form-data; boundary*=idna''a%ff",
    ):
        with pytest.raises(HTTPException, match="boundary"):
            multipart_boundary(content_type)
    assert multipart_boundary("video/mp4") is None and multipart_boundary("") is None
    assert multipart_boundary('multipart/form-data; boundary="a b"') == b"a b"


def test_uploads_and_questions_may_be_forms_or_compressed(
    server: RunningServer, clip: bytes, video: str
) -> None:
    form_type = "multipart/form-data; boundary=Boundary"
    body = form(('name="purpose"', b"vision"), ('name="file"; filename="../my film.mp4"', clip))
    upload = server.post("/v1/videos", body, Content_Type=form_type)
    assert upload.status == 201 and upload.json()["name"] == "my film.mp4"
    zipped = server.post("/v1/videos?name=a.mp4", gzip.compress(clip), Content_Encoding="gzip")
    assert zipped.status == 201
    first, second = (server.chat(one.json()["id"], "What?").json() for one in (upload, zipped))
    assert first["choices"] == second["choices"]
    for one in (upload, zipped):
        server.request("DELETE", f"/v1/videos/{one.json()['id']}")
    question = gzip.compress(chat_body(video, "What?").encode())
    answer = server.post("/v1/chat/completions", question, Content_Encoding="gzip")
    assert answer.status == 200
    assert server.post("/v1/chat/completions", question).status == 400


@pytest.mark.slow
def test_a_compressed_bomb_leaves_no_file(predictor: VideoPredictor) -> None:
    bomb = gzip.compress(bytes(30_000_000))
    with run_server(predictor, ServerConfig(max_upload_mb=2, max_request_mb=2)) as server:
        for path in ("/v1/videos", "/v1/chat/completions"):
            response = server.post(path, bomb, Content_Encoding="gzip")
            assert response.status == 413 and "larger than 2 MB" in response.error
        assert list(server.state.upload_dir.iterdir()) == []
