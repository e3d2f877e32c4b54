"""What a request ends for good, whatever comes of its transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .store import Record, RowId, Work
from .tokens import shown_id

# A tombstone tells its browser why for at most so long; seconds.
_TOMBSTONE = 30 * 24 * 60 * 60


@dataclass(frozen=True)
class Revocation:
    """Sessions of a user that somebody ends.

    :ivar only: what is shown of a row's id; None: all of the user's.
    :ivar spares_current: not the request's own session.
    """

    user: str = field(repr=False)
    only: RowId | None
    spares_current: bool


class Ends:
    """The ends that a request has still to carry out.

    :ivar rows: ids of rows that it ends.
    :ivar revocations: sessions of users that it ends.
    :ivar unsure: revocations that were carried out in the application's
        transaction, which may have a snapshot: it cannot know what others
        have committed meanwhile.
    """

    def __init__(self) -> None:
        self.rows: tuple[RowId, ...] = ()
        self.revocations: tuple[Revocation, ...] = ()
        self.unsure: tuple[Revocation, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows or self.revocations)

    def carried_out(
        self,
        rows: tuple[RowId, ...],
        revocations: tuple[Revocation, ...],
        *,
        is_unsure: bool,
    ) -> None:
        """Forget these, which are committed."""
        self.rows = tuple(row for row in self.rows if row not in rows)
        self.revocations = self.revocations[len(revocations) :]
        if is_unsure:
            self.unsure += revocations


def to_revoke(
    work: Work, revocations: tuple[Revocation, ...], own: RowId | None
) -> list[Record]:
    """Return the rows that are to be revoked, by their ids."""
    found = {
        record.id: record
        for revocation in revocations
        for record in work.of_user(revocation.user)
        if revocation.only in (None, shown_id(record.id))
        and not (revocation.spares_current and record.id == own)
    }
    return [found[row] for row in sorted(found)]


def revoke(
    work: Work,
    found: list[Record],
    reason: Literal["revoked", "limit"],
    now: int,
    *,
    whoever: bool = False,
) -> int:
    """Make tombstones of rows, which keep their places until they expire.

    Returns how many.

    They are locked in the order of their ids first, as everybody does: of
    two sessions that end each other, one waits for the other. Whose user is
    another one by then is left alone, unless they are to end ``whoever`` they
    are of.
    """
    users = {record.id: record.user for record in found}
    ids = [
        record.id
        for record in work.lock_all(users)
        if whoever or record.user == users[record.id]
    ]
    if ids:
        work.revoke(ids, reason=reason, until=now + _TOMBSTONE)
    return len(ids)
