"""Access control: which requests may pass, and which files on the server they may name.

`AccessMiddleware` applies an `AccessPolicy` with three checks to every request. The Host header
must be a name of this server, against DNS rebinding. The Origin must be this server, against pages
of other sites. If the server has a token, the request must carry it, as a bearer token or as the
cookie that a login sets. `AllowedDirs` is the allow-list of directories.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_hour.errors import ServerError
from lit_hour.media.video_probe import VIDEO_SUFFIXES
from lit_hour.server.http_errors import error_response

MIN_TOKEN_LENGTH = 16
PUBLIC_PATHS, PUBLIC_PREFIX = (
    ("/", "/health", "/ready", "/v1/login"),
    "/static/",
)  # show nothing of videos
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MAX_LISTED_FILES = 500
_HEADER_NAMES = re.compile(r"[\w-]+( *, *[\w-]+)*", re.ASCII)
_OUTSIDE = (
    "The path is not inside a directory that the server was started with (--videos), or contains a"
    " link or '..'."
)


def read_token(file: Path) -> str:
    """Return the token in a file.

    Raises:
        ServerError: the file cannot be read, is readable by other users, or its token is weak.
    """
    try:
        mode, token = file.stat().st_mode, file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"--token-file {file} cannot be read: {error}.") from error
    if mode & 0o077:
        raise ServerError(f"--token-file {file} is readable by other users. Run: chmod 600 {file}")
    is_printable = token.isascii() and token.isprintable() and " " not in token
    if len(token) < MIN_TOKEN_LENGTH or not is_printable:
        raise ServerError(
            f"--token-file {file} must hold a token of at least {MIN_TOKEN_LENGTH} printable"
            " characters without spaces. Make one:"
            f" python -c 'import secrets; print(secrets.token_urlsafe())' > {file}"
        )
    return token


def is_loopback(host: str) -> bool:
    """Return whether an address or name belongs to the loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class AccessPolicy:
    """Decides which requests one server accepts.

    Attributes:
        host: address that the server listens on.
        token: empty if none is required.
        host_names: further names in the Host header, such as that of a proxy.
        allow_origins: origins whose pages may use the server (CORS), or "*" for all.
        session_secret: content of the cookie that a login sets.
    """

    host: str
    token: str = ""
    host_names: frozenset[str] = frozenset()
    allow_origins: frozenset[str] = frozenset()
    session_secret: str = field(default_factory=secrets.token_urlsafe)

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise ServerError(
                f"--host {self.host} is reachable from other machines. Give --token-file FILE, so"
                " that clients need a token."
            )
        for origin in self.allow_origins:
            parts = urlsplit(origin)
            if origin == "*" and not self.token:
                raise ServerError(
                    "serving.server.allow_origins=* lets every page use the server. Give"
                    " --token-file FILE, or name the origins."
                )
            has_host = parts.scheme in ("http", "https") and bool(parts.netloc)
            if origin != "*" and (not has_host or f"{parts.scheme}://{parts.netloc}" != origin):
                raise ServerError(
                    f"serving.server.allow_origins={origin} is not an origin. Give it as"
                    " https://example.org, without a path."
                )

    def allows_origin(self, origin: str | None) -> bool:
        """Return whether pages of another origin may use the server."""
        return origin is not None and bool({origin, "*"} & self.allow_origins)

    def check(self, connection: HTTPConnection) -> None:
        """Check the Host, the Origin and the token of a request.

        Raises:
            HTTPException: 403, or 401 if only the token is missing.
        """
        headers = connection.headers
        host = headers.get("host", "")
        if not self._is_own_host(host):
            raise HTTPException(
                403,
                f"{host[:80]!r} is not a name of this server. Add it to"
                " serving.server.allowed_hosts.",
            )
        origin = headers.get("origin")
        has_other_origin = origin is not None and urlsplit(origin).netloc != host
        is_cross_site = (
            headers.get("sec-fetch-site") == "cross-site"
            and headers.get("sec-fetch-mode") != "navigate"
        )
        if (has_other_origin or is_cross_site) and not self.allows_origin(origin):
            raise HTTPException(403, "Pages of another origin may not use this server.")
        path = connection.url.path
        is_public = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIX)
        if not is_public and not self._is_authenticated(connection):
            raise HTTPException(401, "A token is required. Send Authorization: Bearer TOKEN.")

    def is_valid_token(self, token: str) -> bool:
        """Return whether a token is right, in constant time; any is if none is required."""
        return not self.token or hmac.compare_digest(token.encode(), self.token.encode())

    def cookie_name(self, headers: Headers) -> str:
        """Return the name of the cookie, with the port: browsers share cookies between ports."""
        return f"lit_hour_{headers.get('host', '').rpartition(':')[2]}"

    def _is_authenticated(self, connection: HTTPConnection) -> bool:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_valid_token(token.strip())
        cookie = connection.cookies.get(self.cookie_name(connection.headers), "")
        return not self.token or hmac.compare_digest(cookie.encode(), self.session_secret.encode())

    def _is_own_host(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in {"localhost", self.host, *self.host_names} or is_loopback(name):
            return True
        return bool(self.token) and (_is_address(name) or name == socket.gethostname().lower())


class AccessMiddleware:
    """ASGI middleware that rejects requests by a policy and adds security headers to responses."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self._app, self._policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send) if scope["type"] == "lifespan" else None

        request_headers = HTTPConnection(scope).headers
        origin = request_headers.get("origin")
        cors_headers = _cors_headers(request_headers) if self._policy.allows_origin(origin) else {}

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**SECURITY_HEADERS, **cors_headers}.items():
                    headers.setdefault(name, value)
            await send(message)

        is_preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in (
            request_headers
        )
        if is_preflight and cors_headers:  # browsers send no token with it
            return await Response(status_code=204)(scope, receive, add_headers)
        try:
            self._policy.check(HTTPConnection(scope))
        except HTTPException as error:
            return await error_response(error)(scope, receive, add_headers)
        return await self._app(scope, receive, add_headers)


def _cors_headers(headers: Headers) -> dict[str, str]:
    """Return the headers that let a page of an allowed origin read the response."""
    requested = headers.get("access-control-request-headers", "")
    return {
        "Access-Control-Allow-Origin": headers["origin"],
        "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
        "Access-Control-Allow-Headers": requested if _HEADER_NAMES.fullmatch(requested) else "",
        "Access-Control-Expose-Headers": "Retry-After",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


class AllowedDirs:
    """Allow-list of directories; clients may name the videos in them by URL."""

    def __init__(self, dirs: Sequence[Path]) -> None:
        """Check that the directories exist.

        Raises:
            ServerError: one is not a directory.
        """
        for directory in dirs:
            if not directory.is_dir():
                raise ServerError(
                    f"--videos {directory} is not a directory. Give one that contains videos."
                )
        self.dirs = tuple(dict.fromkeys(directory.resolve() for directory in dirs))

    def resolve(self, url: str) -> Path:
        """Return the file that a `file:///...` URL names.

        Raises:
            HTTPException: 403 for a path outside the allowed directories, whether it exists or not;
                404 for a path inside them that is not a file.
        """
        path = _parse_file_url(url)
        for directory in self.dirs:
            if path.is_relative_to(directory) and path != directory:
                return _check_regular_file(directory, path)
        raise HTTPException(403, _OUTSIDE)

    def list_videos(self) -> list[tuple[Path, str]]:
        """Return up to `MAX_LISTED_FILES` videos, sorted, each with its relative path as name."""
        videos: list[tuple[Path, str]] = []
        for directory in self.dirs:
            for path in _walk_videos(directory):
                videos.append((path, str(path.relative_to(directory))))
                if len(videos) == MAX_LISTED_FILES:
                    return videos
        return videos


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _parse_file_url(url: str) -> Path:
    try:
        parts = urlsplit(url)
        text = unquote(parts.path, errors="strict")
        text.encode()
    except ValueError as error:
        raise HTTPException(403, _OUTSIDE) from error
    is_local_file = parts.scheme == "file" and parts.netloc in ("", "localhost")
    path = PurePosixPath(text)
    if (
        not is_local_file
        or parts.query
        or parts.fragment
        or "\0" in text
        or not path.is_absolute()
        or ".." in path.parts
        or text.startswith("//")
    ):
        raise HTTPException(403, _OUTSIDE)
    return Path(path)


def _check_regular_file(directory: Path, path: Path) -> Path:
    """Return a path if it is a regular file and no component below the directory is a link."""
    current = directory
    try:
        for part in path.relative_to(directory).parts:
            current /= part
            mode = current.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise HTTPException(403, _OUTSIDE)
    except OSError as error:
        raise HTTPException(404, f"{path} does not exist, or cannot be read.") from error
    if not stat.S_ISREG(mode):
        raise HTTPException(404, f"{path} is not a file.")
    return path


def _walk_videos(directory: Path) -> Iterator[Path]:
    for parent, dir_names, file_names in os.walk(directory):
        dir_names[:] = sorted(name for name in dir_names if not name.startswith("."))
        for name in sorted(file_names):
            path = Path(parent, name)
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_symlink():
                yield path
