"""What a client did wrong, or has to wait for -> a reply in the form that clients of OpenAI's interface read."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse

from lit_hour.errors import InputError

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class HTTPRefusal(Exception):
    """A request that is answered with a status and a reason instead of what it asked for."""

    def __init__(self, status: int, reason: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after_seconds = status, reason, retry_after_seconds

    def body(self) -> dict[str, object]:
        """The body of the reply."""
        kind = _KINDS.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {"error": {"message": self.reason, "type": kind, "param": None, "code": self.status}}

    def response(self) -> JSONResponse:
        """The reply."""
        headers = (
            {}
            if self.retry_after_seconds is None
            else {"Retry-After": str(self.retry_after_seconds)}
        )
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["Connection"] = "close"  # or the rest of the body would still be taken
        return JSONResponse(self.body(), self.status, headers)


async def reply_refused(request: Request, error: Exception) -> JSONResponse:
    """For FastAPI, which calls it with what a route raised."""
    assert isinstance(error, HTTPRefusal)
    return error.response()


async def reply_unusable(request: Request, error: Exception) -> JSONResponse:
    """What cannot be used as it is: the question, or the video."""
    return HTTPRefusal(422, str(error)).response()


HANDLERS = {HTTPRefusal: reply_refused, InputError: reply_unusable}
