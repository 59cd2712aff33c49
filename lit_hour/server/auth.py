"""The folders whose videos may be asked about, and a path that a client names -> a file in one of them, or a refusal.

Who may ask: a request in, the same request on to the application, or a refusal.

Three gates. The name that the browser used for this server has to be its own, so that a stranger's name which suddenly
points here (DNS rebinding) is refused. A request that a page of another origin made is refused. And where a token is asked
for, it has to be there: as a bearer token, or in the cookie that a login with the token has set.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_hour.errors import ServerError
from lit_hour.media.video_probe import VIDEO_SUFFIXES
from lit_hour.server.http_errors import HTTPRefusal

MAX_LISTED = 500

_OUTSIDE = "this is no path under the folders that the server was given with --videos, or it goes through a link or '..'"


class AllowedDirs:
    """Folders that were allowed when the server was started."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Look at the folders.

        Raises:
            ServerError: one is no folder.
        """
        for folder in folders:
            if not folder.is_dir():
                raise ServerError(f"--videos {folder} is no folder: give one that holds videos")
        self.dirs = tuple(dict.fromkeys(folder.resolve() for folder in folders))

    def resolve(self, url: str) -> Path:
        """The file that a `file:///...` URL names.

        Raises:
            RefusedError: 403 for anything that is not plainly inside of an allowed folder, whether it is there or not;
                404 for a file inside that is not there.
        """
        path = _path_of(url)
        for folder in self.dirs:
            if path.is_relative_to(folder) and path != folder:
                return _plain_file(folder, path)
        raise HTTPRefusal(403, _OUTSIDE)

    def list_videos(self) -> list[tuple[Path, str]]:
        """Videos in the folders by their names, each with what to call it, at most `MAX_LISTED`."""
        listed: list[tuple[Path, str]] = []
        for folder in self.dirs:
            for path in _walk(folder):
                listed.append((path, str(path.relative_to(folder))))
                if len(listed) == MAX_LISTED:
                    return listed
        return listed


def _path_of(url: str) -> Path:
    try:
        parts = urlsplit(url)
        text = unquote(parts.path, errors="strict")
        text.encode()
    except ValueError as error:
        raise HTTPRefusal(403, _OUTSIDE) from error
    is_plain = (
        parts.scheme == "file"
        and parts.netloc in ("", "localhost")
        and not parts.query
        and not parts.fragment
    )
    pure = PurePosixPath(text)
    if (
        not is_plain
        or "\0" in text
        or not pure.is_absolute()
        or ".." in pure.parts
        or text.startswith("//")
    ):
        raise HTTPRefusal(403, _OUTSIDE)
    return Path(pure)


def _plain_file(folder: Path, path: Path) -> Path:
    """A file below a folder, on the way to which no link lies."""
    place = folder
    try:
        for part in path.relative_to(folder).parts:
            place /= part
            mode = place.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise HTTPRefusal(403, _OUTSIDE)
    except OSError as error:
        raise HTTPRefusal(404, f"there is no file {path} that can be read") from error
    if not stat.S_ISREG(mode):
        raise HTTPRefusal(404, f"{path} is no file")
    return path


def _walk(folder: Path) -> Iterator[Path]:
    for inside, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(inside, name)
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_symlink():
                yield path


MIN_TOKEN_LENGTH = 16
PUBLIC_PATHS, PUBLIC_PREFIX = (
    ("/", "/health", "/v1/login"),
    "/page/",
)  # they tell nothing about videos

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        ServerError: the file cannot be read, others may read it too, or it holds no token that is hard to guess.
    """
    try:
        mode, token = file.stat().st_mode, file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"--token-file {file} cannot be read: {error}") from error
    if mode & 0o077:
        raise ServerError(f"--token-file {file} can be read by others: chmod 600 {file}")
    if (
        len(token) < MIN_TOKEN_LENGTH
        or not token.isascii()
        or not token.isprintable()
        or " " in token
    ):
        raise ServerError(
            f"--token-file {file} has to hold a token of {MIN_TOKEN_LENGTH} letters, digits and signs or more;"
            f" to make one: python -c 'import secrets; print(secrets.token_urlsafe())' > {file}"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class AccessPolicy:
    """The gates of one server.

    Attributes:
        host: that it listens on.
        token: empty where none is asked for.
        names: other names that it goes by.
        secret: what the cookie of a login holds.
    """

    host: str
    token: str = ""
    host_names: frozenset[str] = frozenset()
    session_secret: str = field(default_factory=secrets.token_urlsafe)

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise ServerError(
                f"--host {self.host} can be reached by others: give --token-file FILE, so that they need a token"
            )

    def check(self, connection: HTTPConnection) -> None:
        """Let a request pass.

        Raises:
            RefusedError: 403 or 401.
        """
        headers = connection.headers
        host = headers.get("host", "")
        if not self._is_own_host(host):
            raise HTTPRefusal(
                403,
                f"this server is not called {host[:80]!r}: add the name to serving.server.allowed_hosts",
            )
        origin = headers.get("origin")
        is_strange = origin is not None and urlsplit(origin).netloc != host
        if is_strange or (
            headers.get("sec-fetch-site") == "cross-site"
            and headers.get("sec-fetch-mode") != "navigate"
        ):
            raise HTTPRefusal(403, "a page of another origin may not use this server")
        path = connection.url.path
        is_open = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIX)
        if not is_open and not self._is_authenticated(connection):
            raise HTTPRefusal(401, "give the token of this server: Authorization: Bearer TOKEN")

    def is_valid_token(self, given: str) -> bool:
        """Whether it is the token, or none is asked for."""
        return not self.token or hmac.compare_digest(given.encode(), self.token.encode())

    def cookie_name(self, headers: Headers) -> str:
        """The name of the cookie: cookies do not tell ports apart, and there may be several servers."""
        return f"lit_hour_{headers.get('host', '').rpartition(':')[2]}"

    def _is_authenticated(self, connection: HTTPConnection) -> bool:
        kind, _, given = connection.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.is_valid_token(given.strip())
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
    """Keeps those out who may not ask, and tells browsers what the page may do."""

    def __init__(self, app: ASGIApp, access: AccessPolicy) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send) if scope["type"] == "lifespan" else None

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._access.check(HTTPConnection(scope))
        except HTTPRefusal as refusal:
            return await refusal.response()(scope, receive, add_headers)
        return await self._app(scope, receive, add_headers)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
