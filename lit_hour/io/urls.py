"""The form of URLs: what is one, its parts, and what of it may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def join_url(folder: str, name: str) -> str:
    """Return the URL of a file in a folder, with the folder's query."""
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def redact(url: str) -> str:
    """Return a URL without user, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_url(location: str) -> bool:
    """Return whether a location is a URL, not a path."""
    return "://" in location


def is_web_url(location: str) -> bool:
    """Return whether a location is an http(s) URL."""
    return location[:8].lower().startswith(("http://", "https://"))


def file_path(location: str) -> str:
    """Return a path, or the path of a URL, without the query of a signed one."""
    return urlsplit(location).path if is_url(location) else location


def is_gzip(location: str) -> bool:
    """Return whether a path or URL names a file that is compressed with gzip."""
    return file_path(location).endswith((".gz", ".tgz"))
