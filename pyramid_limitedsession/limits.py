"""The policy of limits, as functions of given times.

All times are whole seconds since the epoch, UTC. Nothing here reads a
clock: ``now`` is an argument.

A session is *idle* when its last activity is ``idle_timeout`` ago.
Activity is written at most once per ``touch_interval``, so what is stored
may be up to ``touch_interval - 1`` seconds older than the last activity.
The load adds this grace: a session never ends early because a write was
saved. With a touch interval of one second (what ``auto`` gives for idle
limits below 40 s) the grace is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["active", "idle", "absolute"]

# What trimming may take moves in slices of this part of the idle limit, so
# that the indexed column changes rarely (a touch that changes an indexed
# column cannot be a heap-only update on PostgreSQL).
_SLICES = 8
_LONGEST_SLICE = 24 * 60 * 60
LONG_AGO = 0


@dataclass(frozen=True)
class Limits:
    """How long a session lives; None switches a limit off.

    :ivar idle: seconds without activity (OWASP: idle timeout).
    :ivar absolute: seconds since the start (OWASP: absolute timeout).
    :ivar touch_interval: activity is written at most this often, seconds.
    """

    idle: int | None
    absolute: int | None
    touch_interval: int

    @property
    def _grace(self) -> int:
        return max(self.touch_interval - 1, 0)

    def verdict(self, created: int, seen: int, now: int) -> Verdict:
        """Say whether a session may be used at ``now``.

        At the very second of its deadline a session is over.
        """
        idle_cutoff, absolute_cutoff = self.cutoffs(now)
        if created <= absolute_cutoff:
            return "absolute"
        if seen <= idle_cutoff:
            return "idle"
        return "active"

    def cutoffs(self, now: int) -> tuple[int, int]:
        """Return the last-seen and the creation time that are too old.

        A row seen at or before the first, or created at or before the
        second, is dead. The load and the trimming both use this pair, so
        they cannot disagree.
        """
        idle = absolute = LONG_AGO
        if self.idle is not None:
            idle = now - self.idle - self._grace
        if self.absolute is not None:
            absolute = now - self.absolute
        return idle, absolute

    def touch_due(self, seen: int, now: int) -> bool:
        """Say whether activity at ``now`` is to be written."""
        return now - seen >= max(self.touch_interval, 1)

    def expires_in(self, created: int, now: int) -> int | None:
        """Return the seconds left for a session that is used at ``now``."""
        left = []
        if self.idle is not None:
            left.append(self.idle)
        if self.absolute is not None:
            left.append(max(created + self.absolute - now, 0))
        return min(left, default=None)

    def coarse_expiry(self, created: int, seen: int) -> int | None:
        """Return the time from which trimming may look at the row.

        Never before the row is dead, and rounded up to slices counted from
        the session's own start, so that it moves rarely and sessions do not
        move together. None: no limit ever ends this session.
        """
        deadlines = []
        if self.idle is not None:
            step = min(max(self.idle // _SLICES, 1), _LONGEST_SLICE)
            idle_end = seen + self.idle + self._grace
            slices = -(-(idle_end - created) // step)
            deadlines.append(created + slices * step)
        if self.absolute is not None:
            deadlines.append(created + self.absolute)
        return min(deadlines, default=None)
