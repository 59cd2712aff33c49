"""Who may ask: names of the server, origins of pages, and tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_hour.errors import ServerError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AccessPolicy, is_loopback, read_token
from tests import REPOSITORY
from tests.server.running import Running, running

TOKEN = "a-token-that-is-long-enough"
TOKENS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(predictor: VideoPredictor) -> Iterator[Running]:
    """A server that asks for a token, as it has to where others can reach it."""
    with running(
        predictor, access=AccessPolicy("0.0.0.0", TOKEN, frozenset({"proxy.example"}))
    ) as place:
        yield place


@pytest.mark.parametrize(
    "host",
    ("evil.example", "127.0.0.1.evil.example", "", "10.0.0.1", "[", "localhost.evil.example:80"),
)
def test_a_name_that_is_not_the_servers_is_refused(served: Running, host: str) -> None:
    for path in ("/", "/v1/videos", "/health"):
        reply = served.get(path, Host=host)
        assert reply.status == 403 and "is not called" in reply.reason


@pytest.mark.parametrize(
    "host", ("localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]:9")
)
def test_names_of_the_loopback_are_taken(served: Running, host: str) -> None:
    assert served.get("/v1/videos", Host=host).status == 200


def test_a_server_with_a_token_goes_by_its_addresses_and_the_names_it_was_given(
    guarded: Running,
) -> None:
    for host, status in (
        ("10.0.0.1:80", 200),
        ("[fe80::1]", 200),
        ("proxy.example", 200),
        ("other.example", 403),
    ):
        assert guarded.get("/v1/videos", Host=host, **TOKENS).status == status, host


@pytest.mark.parametrize(
    "origin",
    ("http://evil.example", "null", "https://localhost.evil.example", "http://127.0.0.1:1"),
)
def test_a_page_of_another_origin_is_refused(served: Running, origin: str) -> None:
    for reply in (
        served.get("/v1/videos", Origin=origin),
        served.post("/v1/videos?name=a", b"x", Origin=origin),
    ):
        assert reply.status == 403 and "another origin" in reply.reason
    assert (
        served.get("/v1/videos", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status
        == 403
    )


def test_the_page_itself_is_served_and_may_load_nothing_from_elsewhere(served: Running) -> None:
    reply = served.get("/", Origin=served.url.rstrip("/"))
    assert reply.status == 200 and b"<!DOCTYPE html>" in reply.body
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    page = REPOSITORY / "lit_hour/server/static"
    for file in page.iterdir():
        asset = served.get("/" if file.suffix == ".html" else f"/page/{file.name}")
        assert asset.status == 200 and asset.body == file.read_bytes()
        outside = asset.body.replace(
            b"http://www.w3.org/2000/svg", b""
        )  # the name of a language, not an address
        assert b"//" not in outside.replace(b"// ", b"") and b"innerHTML" not in outside
    assert served.get("/page/../server/app.py").status == served.get("/page/none.js").status == 404


def test_all_that_tells_of_videos_asks_for_the_token(guarded: Running) -> None:
    for method, path in (
        ("GET", "/v1/videos"),
        ("POST", "/v1/videos"),
        ("POST", "/v1/videos/open"),
        ("GET", "/v1/videos/video-1/file"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/server"),
        ("GET", "/metrics"),
        ("GET", "/none"),
    ):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Cookie": f"lit_hour_0={TOKEN}"},
        ):
            reply = guarded.request(method, path, **headers)
            assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer", (
                method,
                path,
                headers,
            )
    for path in ("/", "/page/app.js", "/health"):
        assert guarded.get(path).status == 200
    assert guarded.get("/metrics", **TOKENS).status == 200


def test_a_login_sets_a_cookie_that_scripts_and_other_sites_do_not_get(guarded: Running) -> None:
    assert guarded.post("/v1/login", b"wrong").status == 401
    assert guarded.post("/v1/login", b"x" * 5000).status == 413
    reply = guarded.post("/v1/login", TOKEN.encode())
    cookie, *words = reply.headers["set-cookie"].split("; ")
    assert (
        reply.status == 204
        and {"HttpOnly", "SameSite=strict", "Path=/"} <= set(words)
        and TOKEN not in cookie
    )
    assert guarded.get("/v1/videos", Cookie=cookie).status == 200
    assert guarded.get("/v1/videos", Cookie=cookie, Origin="http://evil.example").status == 403


def test_a_server_that_others_can_reach_needs_a_token() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        with pytest.raises(ServerError, match="give --token-file FILE"):
            AccessPolicy(host)
        assert AccessPolicy(host, TOKEN).is_valid_token(TOKEN)
    assert [
        host
        for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "0.0.0.0", "local")
        if is_loopback(host)
    ] == [*("127.0.0.1", "127.9.9.9", "::1", "localhost")]


def test_a_token_file_that_is_no_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ServerError, match="cannot be read"):
        read_token(file)
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(ServerError, match=r"read by others: chmod 600 .*token"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    for token in ("", "short", "two words that are long", "töken-that-is-long-enough"):
        file.write_text(token, encoding="utf-8")
        with pytest.raises(ServerError, match="16 letters"):
            read_token(file)
