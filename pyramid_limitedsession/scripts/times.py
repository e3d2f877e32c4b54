"""Times as operators read and write them: UTC, or so long ago."""

from __future__ import annotations

import argparse
import datetime

from ..readers import read_duration

_FORM = "%Y-%m-%d %H:%M:%S"


def moment(seconds: int | None) -> str:
    """Return a time as text, in UTC."""
    if seconds is None:
        return "?"
    at = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return at.strftime(_FORM)


def ago(seconds: float) -> str:
    """Return a number of seconds in its largest unit, rounded: "3 d"."""
    for name, unit in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


class When:
    """A time that an argument names: a date and time, or so long ago."""

    def __init__(self, text: str) -> None:
        self._ago: int | None = None
        self._at = 0
        try:
            # With its unit: 20261125 is no number of seconds.
            self._ago = read_duration(text if text[-1:].isalpha() else "")
        except ValueError:
            self._at = _seconds(text)

    def at(self, now: int) -> int:
        """Return it in seconds since the epoch."""
        return self._at if self._ago is None else now - self._ago


def _seconds(text: str) -> int:
    try:
        # Python 3.10 does not know that Z is UTC.
        at = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; say it like '2026-11-25', "
            "'2026-11-25T14:30' (UTC), '2026-11-25T14:30+01:00', or '2h' for "
            "two hours ago"
        ) from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.timezone.utc)
    return int(at.timestamp())
