"""Access control: Host header, Origin header and tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_hour.errors import ServerError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AccessPolicy, is_loopback, read_token
from tests import REPOSITORY
from tests.server.helpers import RunningServer, run_server

TOKEN = "a-token-that-is-long-enough"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def guarded(predictor: VideoPredictor) -> Iterator[RunningServer]:
    """A server that requires a token, as every server that other machines can reach."""
    policy = AccessPolicy("0.0.0.0", TOKEN, frozenset({"proxy.example"}))
    with run_server(predictor, policy=policy) as server:
        yield server


@pytest.mark.slow
def test_a_host_header_that_names_another_server_is_forbidden(server: RunningServer) -> None:
    hosts = ("evil.example", "127.0.0.1.evil.example", "", "10.0.0.1", "[", "localhost.evil:80")
    for host in hosts:
        for path in ("/", "/v1/videos", "/health"):
            response = server.get(path, Host=host)
            assert response.status == 403, (host, path)
            assert "is not a name of this server" in response.error


def test_host_headers_of_the_loopback_interface_are_accepted(server: RunningServer) -> None:
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]:9"):
        assert server.get("/v1/videos", Host=host).status == 200, host


def test_a_server_with_a_token_accepts_any_address_and_the_allowed_hosts(
    guarded: RunningServer,
) -> None:
    for host, status in (
        ("10.0.0.1:80", 200),
        ("[fe80::1]", 200),
        ("proxy.example", 200),
        ("other.example", 403),
    ):
        assert guarded.get("/v1/videos", Host=host, **WITH_TOKEN).status == status, host


def test_requests_from_pages_of_another_origin_are_forbidden(server: RunningServer) -> None:
    origins = ("http://evil.example", "null", "https://localhost.evil", "http://127.0.0.1:1")
    for origin in origins:
        for response in (
            server.get("/v1/videos", Origin=origin),
            server.post("/v1/videos?name=a", b"x", Origin=origin),
        ):
            assert response.status == 403 and "another origin" in response.error, origin
    cross_site = server.get("/v1/videos", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")
    assert cross_site.status == 403


def test_the_page_is_served_and_loads_nothing_from_other_hosts(server: RunningServer) -> None:
    response = server.get("/", Origin=server.url.rstrip("/"))
    assert response.status == 200 and b"<!DOCTYPE html>" in response.body
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    for file in (REPOSITORY / "lit_hour/server/static").iterdir():
        asset = server.get("/" if file.suffix == ".html" else f"/static/{file.name}")
        assert asset.status == 200 and asset.body == file.read_bytes()
        # without the XML namespace and the comments, no "//" of a URL is left
        text = asset.body.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b"")
        assert b"//" not in text and b"innerHTML" not in text, file.name
    for path in ("/static/../server/app.py", "/static/none.js"):
        assert server.get(path).status == 404, path


def test_routes_about_videos_require_the_token(guarded: RunningServer) -> None:
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
            response = guarded.request(method, path, **headers)
            assert response.status == 401, (method, path, headers)
            assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/", "/static/app.js", "/health"):
        assert guarded.get(path).status == 200
    assert guarded.get("/metrics", **WITH_TOKEN).status == 200


def test_login_sets_a_cookie_that_scripts_and_other_sites_cannot_read(
    guarded: RunningServer,
) -> None:
    assert guarded.post("/v1/login", b"wrong").status == 401
    assert guarded.post("/v1/login", b"x" * 5000).status == 413
    response = guarded.post("/v1/login", TOKEN.encode())
    cookie, *attributes = response.headers["set-cookie"].split("; ")
    assert response.status == 204 and TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
    assert guarded.get("/v1/videos", Cookie=cookie).status == 200
    assert guarded.get("/v1/videos", Cookie=cookie, Origin="http://evil.example").status == 403


def test_a_host_that_is_not_loopback_requires_a_token() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        with pytest.raises(ServerError, match="Give --token-file FILE"):
            AccessPolicy(host)
        assert AccessPolicy(host, TOKEN).is_valid_token(TOKEN)
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "local"):
        assert not is_loopback(host), host


def test_a_token_file_that_is_readable_or_weak_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ServerError, match="cannot be read"):
        read_token(file)
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(ServerError, match=r"readable by other users\. Run: chmod 600 .*token"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    for token in ("", "short", "two words that are long", "töken-that-is-long-enough"):
        file.write_text(token, encoding="utf-8")
        with pytest.raises(ServerError, match="at least 16 printable"):
            read_token(file)
