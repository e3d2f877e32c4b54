"""``request.user_sessions``: the sessions of one user, and their end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .ending import Revocation
from .loading import is_alive
from .tokens import shown_id
from .unitofwork import Unit
from .users import name_of


@dataclass(frozen=True)
class Summary:
    """What a user may see of a session of his.

    :ivar id: names it for `UserSessions.end`: a whole number, or a text
        where the table has no ``id``. It is no token, and opens nothing.
    :ivar created: when it began, in seconds since the epoch.
    :ivar seen: its last activity that was written.
    :ivar profile: the name of its limits, None for the default ones.
    :ivar is_current: it is the one of this request.
    """

    id: int | str
    created: int
    seen: int
    profile: str | None
    is_current: bool


class UserSessions:
    """The sessions whose content names a user, see ``user_key``.

    A revoked session is ended with the request's transaction, and if that
    aborts in one of its own: as with ``invalidate``, whoever is thrown out
    is out. Its browser is told why: ``session.ended`` is ``"revoked"``.

    All methods raise ValueError if the user's name is not a text or an
    integer, or one that no session can have in any table. Whom only this
    table cannot keep, where users are numbers for instance, has no sessions.
    """

    def __init__(self, unit: Callable[[], Unit]) -> None:
        self._unit = unit

    def list(self, user_id: str | int) -> list[Summary]:
        """Return the user's sessions that may be used, the last used first.

        As they are committed: not with what this request has changed.
        """
        unit = self._unit()
        own = unit.known().record
        name = name_of(user_id)
        if unit.policy.users.problem(name) is not None:
            return []
        read = unit.place.to_read().of_user
        found = [
            Summary(
                id=shown_id(record.id),
                created=record.created or 0,
                seen=record.seen or 0,
                profile=record.profile,
                is_current=own is not None and own.id == record.id,
            )
            for record in read(name)
            if is_alive(unit.policy, record, unit.stored.now)
        ]
        found.sort(key=lambda each: (each.seen, each.id), reverse=True)
        return found

    def end(self, user_id: str | int, summary_id: int | str) -> None:
        """End one of the user's sessions; of somebody else's, none."""
        self._revoke(Revocation(name_of(user_id), summary_id, False))

    def end_all(
        self, user_id: str | int, *, except_current: bool = True
    ) -> None:
        """End all of the user's sessions, as after a change of password.

        Args:
            user_id: whose.
            except_current: not the one of this request.
        """
        self._revoke(Revocation(name_of(user_id), None, except_current))

    def _revoke(self, revocation: Revocation) -> None:
        unit = self._unit()
        if unit.policy.users.problem(revocation.user) is None:
            unit.revoke(revocation)
