"""The policy of limits, as functions of given times.

All times are whole seconds since the epoch, UTC. Nothing here reads a
clock: ``now`` is an argument.

A session is *idle* when its last activity is ``idle_timeout`` ago.
Activity is written at most once per ``touch_interval``, so what is stored
may be up to ``touch_interval - 1`` seconds older than the last activity.
The load adds this grace: a session never ends early because a write was
saved. With a touch interval of one second (what ``auto`` gives for idle
limits below 40 s) the grace is zero.

Clocks go wrong. A time that lies ahead of ``now`` counts as now. A last
activity further ahead than the clocks of two hosts differ (`CLOCK_SKEW`) is
put right when the session is used. More than a day ahead, which is more than
any mistake about time zones, it is taken for no time at all, and the
session for over: it would live for ever otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

Verdict = Literal["active", "idle", "absolute"]

# What trimming may take moves in slices of this part of the idle limit, so
# that the indexed column changes rarely (a touch that changes an indexed
# column cannot be a heap-only update on PostgreSQL).
_SLICES = 8
_DAY = 24 * 60 * 60
_LONGEST_SLICE = _DAY
# So long, in seconds, a browser can be told why its session is over.
_LONGEST_TOLD = _DAY
LONG_AGO = 0
# Keys of a session's content that begin so are times, kept by `expiry`.
RESERVED = "_limitedsession_"
# Seconds by which the clocks of two hosts may differ: a time so far ahead is
# left alone, or each of them would put right what the other has written.
CLOCK_SKEW = 300
FARTHEST_AHEAD = _DAY
# RFC 6265bis: a browser keeps no cookie longer.
_LONGEST_COOKIE = 400 * _DAY


class TimeLeft(NamedTuple):
    """Seconds until each limit ends a session; None: that limit is off."""

    idle: int | None
    absolute: int | None

    @property
    def least(self) -> int | None:
        """Seconds until the session ends, None if no limit ends it."""
        return least(*self)

    def or_less(self, other: TimeLeft) -> TimeLeft:
        """Return what is left where the other's limits hold too."""
        return TimeLeft(
            least(self.idle, other.idle),
            least(self.absolute, other.absolute),
        )


class Row(Protocol):
    """What cleaning has to know of a row, see `store.Record`."""

    @property
    def created(self) -> int | None:
        """When the session began."""

    @property
    def seen(self) -> int | None:
        """Its last activity."""

    @property
    def expires(self) -> int | None:
        """When it may be looked at; of a tombstone, when it may go."""

    @property
    def user(self) -> str | None:
        """Whose it is."""

    @property
    def profile(self) -> str | None:
        """The name of its limits."""

    @property
    def ended(self) -> str | None:
        """Why it is a tombstone."""


@dataclass(frozen=True)
class Cutoffs:
    """The times at ``now`` that are too old, for trimming.

    Pairs as from `Limits.cutoffs`, of the last activity and of the start.

    :ivar default: for sessions without a profile.
    :ivar profiles: for those with a profile, by its name.
    :ivar unknown: for those whose profile is not configured any more.
    :ivar unused: a last activity that is too old whatever the limits are.
    :ivar anonymous: the same for sessions without a user.
    """

    now: int
    default: tuple[int, int]
    profiles: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unknown: tuple[int, int] = (LONG_AGO, LONG_AGO)
    unused: int = LONG_AGO
    anonymous: int = LONG_AGO

    def is_dead(self, row: Row) -> bool:
        """Say whether cleaning may take a row, when it may look at it."""
        if row.created is None or row.seen is None:
            return True
        if row.ended and row.expires is not None and row.expires <= self.now:
            return True
        pair = self.profiles.get(row.profile or "", self.unknown)
        idle, absolute = self.default if row.profile is None else pair
        return (
            row.created <= absolute
            or row.seen <= max(idle, self.unused)
            or (row.user is None and row.seen <= self.anonymous)
        )


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
        farthest = now + FARTHEST_AHEAD
        if created <= absolute_cutoff:
            return "absolute"
        if self.absolute is not None and created > farthest:
            return "absolute"
        if seen <= idle_cutoff:
            return "idle"
        if self.idle is not None and seen > farthest:
            return "idle"
        return "active"

    def cutoffs(self, now: int) -> tuple[int, int]:
        """Return the last-seen and the creation time that are too old.

        A row seen at or before the first, or created at or before the
        second, is dead. The load and the trimming both use this pair, so
        they cannot disagree. (What lies too far ahead is refused, but not
        trimmed: a host whose clock is years behind would delete everything.)
        """
        idle = absolute = LONG_AGO
        if self.idle is not None:
            idle = now - self.idle - self._grace
        if self.absolute is not None:
            absolute = now - self.absolute
        return idle, absolute

    def touch_due(self, seen: int, now: int) -> bool:
        """Say whether activity at ``now`` is to be written."""
        is_long_ago = now - seen >= max(self.touch_interval, 1)
        return is_long_ago or moved(seen, now) < seen

    def left(self, created: int, seen: int, now: int) -> TimeLeft:
        """Return the seconds until a session ends that is not used again."""
        idle = absolute = None
        if self.idle is not None:
            idle = max(min(seen, now) + self.idle + self._grace - now, 0)
        if self.absolute is not None:
            absolute = max(min(created, now) + self.absolute - now, 0)
        return TimeLeft(idle, absolute)

    def left_if_used(self, created: int, now: int) -> TimeLeft:
        """Return the seconds left at least after an activity at ``now``.

        Whether it is written or not: the grace is not promised.
        """
        return TimeLeft(self.idle, self.left(created, now, now).absolute)

    def coarse_expiry(self, created: int, seen: int) -> int | None:
        """Return the time from which self-cleaning may look at the row.

        That is when the session has been over for as long again as its
        limit, at most a day: until then its browser can be told why.
        Rounded up to slices counted from the session's own start, so that
        it moves rarely and sessions do not move together. None: no limit
        ever ends this session.
        """
        deadlines = []
        if self.idle is not None:
            step = min(max(self.idle // _SLICES, 1), _LONGEST_SLICE)
            idle_end = seen + self.idle + self._grace
            told = idle_end + min(self.idle, _LONGEST_TOLD)
            slices = -(-(told - created) // step)
            deadlines.append(created + slices * step)
        if self.absolute is not None:
            told = created + self.absolute + min(self.absolute, _LONGEST_TOLD)
            deadlines.append(told)
        return min(deadlines, default=None)

    def cookie_expiry(self, created: int, seen: int) -> int:
        """Return the time until which a browser has to keep the cookie.

        Never before the session ends: by the idle limit it is counted from
        the end of the touch interval that ``seen`` is in (intervals from the
        session's own start), and any activity in that interval, written or
        not, is covered. So it moves once per touch interval.
        """
        step = max(self.touch_interval, 1)
        interval_end = created + ((seen - created) // step + 1) * step
        idle = _LONGEST_COOKIE if self.idle is None else self.idle
        deadline = interval_end + idle + self._grace
        if self.absolute is None:
            return deadline
        if self.idle is None:
            return created + self.absolute
        return min(deadline, created + self.absolute)


def least(*limits: int | None) -> int | None:
    """Return the shortest limit; None is none."""
    return min((each for each in limits if each is not None), default=None)


def moved(seen: int, now: int) -> int:
    """Return the last activity after one at ``now``.

    It never moves back: a request that began later, or another host, may
    have written it. Unless it was further ahead than clocks differ when it
    was loaded; only that very value is put right.
    """
    return now if seen > now + CLOCK_SKEW else max(seen, now)
