"""Routes beside the answers: models, HEAD, liveness and readiness, CORS, errors in one shape."""

from collections.abc import Iterator

import pytest

from lit_hour.errors import ServerError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.server.auth import AccessPolicy
from tests.server.helpers import MODEL, RunningServer, run_server

ORIGIN = "https://app.example"
TOKEN = "a-token-that-is-long-enough"


def test_a_model_is_described_by_its_name(server: RunningServer) -> None:
    model = server.get(f"/v1/models/{MODEL}")
    assert model.status == 200 and model.json() == server.get("/v1/models").json()["data"][0]
    for name in ("gpt-4", "a/b", "%2e%2e"):
        missing = server.get(f"/v1/models/{name}")
        assert missing.status == 404 and f"only '{MODEL}'" in missing.error
        assert missing.json()["error"]["param"] == "model"


def test_head_has_the_headers_and_no_body(server: RunningServer) -> None:
    for path in ("/", "/static/app.js", "/health", "/ready", "/v1/models"):
        head, full = server.request("HEAD", path), server.get(path)
        assert head.status == full.status == 200 and head.body == b"" != full.body, path
        assert head.headers["content-length"] == full.headers["content-length"], path


def test_readiness_ends_with_a_full_queue_and_liveness_does_not(server: RunningServer) -> None:
    assert server.get("/ready").json() == {"status": "ready"}
    with server.hold_queue(40):  # 8 run, 32 wait
        response = server.get("/ready")
        assert response.status == 503 and int(response.headers["retry-after"]) > 0
        assert "queue is full" in response.error
        assert server.get("/health").status == 200
        chat = server.post("/v1/chat/completions", b"{}")
        assert chat.status == 429 and int(chat.headers["retry-after"]) > 0
    assert server.get("/ready").status == 200


def test_errors_have_one_shape(server: RunningServer) -> None:
    for method, path, status, reason in (
        ("GET", "/v1/none", 404, "There is no route GET /v1/none. The routes are"),
        ("GET", "/v1/completions", 404, "POST /v1/chat/completions"),
        ("PUT", "/v1/videos", 405, "/v1/videos does not take PUT. Use GET, POST."),
        ("GET", "/v1/chat/completions", 405, "Use POST"),
        ("GET", "/v1/videos/video-1/thumbnails/x", 400, "index"),
        ("POST", "/v1/chat/completions", 400, "not valid JSON"),
    ):
        response = server.request(method, path)
        assert response.status == status and reason in response.error, (path, response)
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["code"] == status
    assert "GET /v1/videos" in server.get("/v1/none").error


@pytest.fixture(scope="module")
def shared(predictor: VideoPredictor) -> Iterator[RunningServer]:
    """A server with a token that pages of one other origin may use."""
    policy = AccessPolicy("127.0.0.1", TOKEN, allow_origins=frozenset({ORIGIN}))
    with run_server(predictor, policy=policy) as server:
        yield server


def test_pages_of_an_allowed_origin_may_use_the_server(shared: RunningServer) -> None:
    headers = {"Origin": ORIGIN, "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"}
    preflight = shared.request(
        "OPTIONS",
        "/v1/chat/completions",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization, content-type,x-stainless-os",
        **headers,
    )
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    assert shared.get("/v1/videos", **headers).status == 401
    authorized = shared.get("/v1/videos", Authorization=f"Bearer {TOKEN}", **headers)
    assert authorized.status == 200
    assert authorized.headers["access-control-allow-origin"] == ORIGIN
    assert authorized.headers["vary"] == "Origin"


def test_pages_of_other_origins_get_nothing(shared: RunningServer, server: RunningServer) -> None:
    for origin in ("https://evil.example", f"{ORIGIN}.evil", "http://app.example", "null", "*"):
        for one in (shared, server):
            for method in ("OPTIONS", "GET"):
                response = one.request(
                    method, "/v1/videos", Origin=origin, Access_Control_Request_Method="POST"
                )
                assert response.status == 403, (origin, method)
                assert "access-control-allow-origin" not in response.headers


def test_allowed_origins_are_checked_at_the_start() -> None:
    with pytest.raises(ServerError, match=r"allow_origins=\* lets every page"):
        AccessPolicy("127.0.0.1", allow_origins=frozenset({"*"}))
    assert AccessPolicy("127.0.0.1", TOKEN, allow_origins=frozenset({"*"})).allows_origin("x")
    for origin in ("example.org", "https://example.org/", "https://example.org/a", "https://"):
        with pytest.raises(ServerError, match="is not an origin"):
            AccessPolicy("127.0.0.1", TOKEN, allow_origins=frozenset({origin}))
