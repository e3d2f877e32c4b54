"""Named sets of limits: a session's profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import SessionProfileError
from .limits import Cutoffs, Limits, least


@dataclass(frozen=True)
class Profile:
    """What holds for the sessions of one profile.

    :ivar limits: how long they live.
    :ivar cookie_max_age: their cookie's ``Max-Age`` in seconds; None: until
        the browser is closed; "auto": what remains of the limits.
    """

    limits: Limits
    cookie_max_age: int | Literal["auto"] | None = None

    def max_age(self, created: int, seen: int, now: int) -> int | None:
        """Return the ``Max-Age`` of a cookie that is sent at ``now``."""
        if self.cookie_max_age != "auto":
            return self.cookie_max_age
        return max(self.limits.cookie_expiry(created, seen) - now, 1)

    def cookie_moves(self, created: int, before: int, after: int) -> bool:
        """Say whether an activity makes the browser need its cookie anew.

        Args:
            created: when the session began.
            before: the last activity that was known.
            after: the one that is known now.
        """
        if self.cookie_max_age is None or before == after:
            return False
        if self.cookie_max_age != "auto" or after < before:
            # Moved back: it was sent for what that clock left.
            return True
        expiry = self.limits.cookie_expiry
        return expiry(created, before) != expiry(created, after)


@dataclass(frozen=True)
class Profiles:
    """The profiles in force.

    :ivar default: what holds for sessions without a profile.
    :ivar named: the others, by their names.
    """

    default: Profile
    named: Mapping[str, Profile] = field(default_factory=dict)

    def of(self, name: str | None) -> Profile:
        """Return what holds for a session with this profile.

        A name that is not configured any more may have stood for less than
        the default: the strictest of all limits hold for it.
        """
        if name is None:
            return self.default
        return self.named.get(name) or self.strictest

    def is_known(self, name: object) -> bool:
        """Say whether the name is configured; None, no profile, is."""
        return name is None or (isinstance(name, str) and name in self.named)

    def require(self, name: str | None) -> None:
        """Raise SessionProfileError if the name is not configured."""
        if not self.is_known(name):
            raise SessionProfileError(name, self.named)

    @property
    def strictest(self) -> Profile:
        """Each limit as it is where it is the shortest."""
        every = [
            profile.limits for profile in (self.default, *self.named.values())
        ]
        return Profile(
            Limits(
                least(*(limits.idle for limits in every)),
                least(*(limits.absolute for limits in every)),
                min(limits.touch_interval for limits in every),
            )
        )

    def cutoffs(self, now: int) -> Cutoffs:
        """Return for each profile the times that are too old at ``now``."""
        return Cutoffs(
            now,
            self.default.limits.cutoffs(now),
            {
                name: profile.limits.cutoffs(now)
                for name, profile in self.named.items()
            },
            self.strictest.limits.cutoffs(now),
        )
