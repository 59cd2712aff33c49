"""Format a time of a video for people."""

from __future__ import annotations


def format_timestamp(seconds: float) -> str:
    """Return a time as a video player shows it: `02:13`, and from an hour on `1:02:13`."""
    minutes, seconds_left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds_left:02d}"
        if hours
        else f"{minutes:02d}:{seconds_left:02d}"
    )
