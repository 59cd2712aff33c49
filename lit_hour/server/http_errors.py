"""Error responses in the format of OpenAI's API.

Handlers raise `fastapi.HTTPException`, or an `InputError` for a video or question that cannot be
used; `EXCEPTION_HANDLERS` turns both into JSON.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lit_hour.errors import InputError, OutOfMemoryError

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return the JSON body of an error."""
    default = "invalid_request_error" if status < 500 else "server_error"
    kind = _ERROR_TYPES.get(status, default)
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


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
    body = error_body(error.status_code, str(error.detail))
    return JSONResponse(body, error.status_code, headers)


async def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(error)


async def _handle_input_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InputError)
    status = input_error_status(error)
    return JSONResponse(error_body(status, str(error)), status)


EXCEPTION_HANDLERS = {HTTPException: _handle_http_exception, InputError: _handle_input_error}
