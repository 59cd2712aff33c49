"""Times and durations of videos as people write them."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def format_timestamp(seconds: float) -> str:
    """Return a time as a video player shows it: `02:13`, and from an hour on `1:02:13`."""
    minutes, seconds_left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds_left:02d}"
        if hours
        else f"{minutes:02d}:{seconds_left:02d}"
    )


def parse_duration(text: str) -> int | None:
    """Return the seconds of `90s`, `3m`, `1h` or `1h30m`; None if the text has another form."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return None
    hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return 3600 * hours + 60 * minutes + seconds
