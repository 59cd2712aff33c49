"""Error responses in the format of OpenAI's API.

Handlers raise `fastapi.HTTPException`, `FieldError` with the name of the field, or an `InputError`
for a video or question that cannot be used; `EXCEPTION_HANDLERS` turns them into JSON.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from lit_hour.errors import InputError, OutOfMemoryError

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class FieldError(HTTPException):
    """A field of a request that cannot be used."""

    def __init__(self, field: str, message: str, status: int = 400) -> None:
        super().__init__(status, message)
        self.field = field


def error_body(status: int, message: str, field: str | None = None) -> dict[str, Any]:
    """Return the JSON body of an error; `field` is the one of the request that caused it."""
    default = "invalid_request_error" if status < 500 else "server_error"
    kind = _ERROR_TYPES.get(status, default)
    return {"error": {"message": message, "type": kind, "param": field, "code": status}}


def input_error_status(error: InputError) -> int:
    """Return the status for an error: 503 if memory ran out, else 422."""
    return 503 if isinstance(error, OutOfMemoryError) else 422


def error_response(error: HTTPException) -> JSONResponse:
    """Return the response for an exception."""
    headers = dict(error.headers or {})
    if error.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status_code in (408, 413):
        headers["Connection"] = "close"  # otherwise the server would read the rest of the body
    field = error.field if isinstance(error, FieldError) else None
    body = error_body(error.status_code, str(error.detail), field)
    return JSONResponse(body, error.status_code, headers)


async def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    is_unknown_route = error.status_code == 404 and error.detail == HTTPStatus(404).phrase
    if is_unknown_route:
        error = HTTPException(404, _describe_routes(request))
    elif error.status_code == 405:
        allowed = ", ".join(_allowed_methods(request))
        message = f"{request.url.path} does not take {request.method}. Use {allowed}."
        error = HTTPException(405, message, {"Allow": allowed})
    return error_response(error)


async def _handle_input_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InputError)
    status = input_error_status(error)
    return JSONResponse(error_body(status, str(error)), status)


async def _handle_invalid_parameter(request: Request, error: Exception) -> JSONResponse:
    """Describe a part of a path or a query that has another type."""
    assert isinstance(error, RequestValidationError)
    name = str(error.errors()[0]["loc"][-1])
    message = f"{name} in {request.url.path[:80]} has the wrong type. Correct it."
    return JSONResponse(error_body(400, message, name), 400)


async def _handle_bug(request: Request, error: Exception) -> JSONResponse:
    """Answer in the same form; the traceback is in the log."""
    return JSONResponse(error_body(500, "The server failed. See its log."), 500)


def _allowed_methods(request: Request) -> list[str]:
    matching = (
        route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE
    )
    return sorted({method for route in matching for method in getattr(route, "methods", ())})


def _describe_routes(request: Request) -> str:
    routes = sorted(
        f"{method} {route.path.replace(':path', '')}"
        for route in request.app.routes
        for method in getattr(route, "methods", ())
        if method != "HEAD" and not route.path.startswith("/static/")
    )
    path = f"{request.method} {request.url.path[:80]}"
    return f"There is no route {path}. The routes are {', '.join(routes)}."


EXCEPTION_HANDLERS: dict[type[Exception], Any] = {
    HTTPException: _handle_http_exception,
    InputError: _handle_input_error,
    RequestValidationError: _handle_invalid_parameter,
    Exception: _handle_bug,
}
