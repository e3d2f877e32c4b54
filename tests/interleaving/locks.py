"""What held requests have locked, and who would have to wait for it.

A test that leads requests step by step must know this beforehand: a step
that waits for a held request would wait for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.interleaving.spec import Row, Visit

if TYPE_CHECKING:
    from tests.interleaving.player import Player


@dataclass
class Rows:
    """Rows that are locked, or that are to be written.

    :ivar maybe: these perhaps; what writes the same again may do nothing.
    :ivar surely: these certainly.
    :ivar inserts: a new row.
    :ivar others: rows of the application's own.
    :ivar gaps: MariaDB locks the place of a row that it did not find.
    """

    maybe: set[Row] = field(default_factory=set)
    surely: set[Row] = field(default_factory=set)
    inserts: bool = False
    others: bool = False
    gaps: bool = False

    @property
    def is_some(self) -> bool:
        """There is perhaps something."""
        return bool(self.maybe or self.is_sure or self.gaps)

    @property
    def is_sure(self) -> bool:
        """There is certainly something."""
        return bool(self.surely or self.inserts or self.others)


class Locks:
    """Says what held requests have locked."""

    def __init__(self, database: str, *, is_joined: bool) -> None:
        self._is_sqlite = database == "sqlite"
        self._is_mariadb = database == "mariadb"
        self._is_joined = is_joined

    def of(self, player: Player, rows: list[Row]) -> Rows:
        """Return what a held request has locked of these rows."""
        visit, place = player.visit, player.paused
        if place == "commit":
            return Rows(others=bool(visit.items))
        is_waiting = place == "finish" and not self._is_joined
        if place != "vote" and not is_waiting:
            return Rows()
        if self._is_sqlite and not self._is_joined:
            # The whole statement comes last.
            return Rows(others=place == "vote" and bool(visit.items))
        locked = _written(visit, rows)
        locked.others = bool(visit.items) and place == "vote"
        is_missed = visit.row not in rows and visit.may_write
        locked.gaps = self._is_mariadb and bool(visit.ends or is_missed)
        return locked

    def needs(self, player: Player, outcome: str, rows: list[Row]) -> Rows:
        """Return what a request will still write."""
        visit = player.visit
        if player.is_retried(outcome):
            return Rows()
        if outcome == "commit" and not player.is_committed:
            needed = _written(visit, rows)
            needed.others = bool(visit.items)
        else:
            needed = Rows({*visit.ends}, {*visit.ends} & {*rows})
        if visit.row and visit.is_touch_due:
            needed.maybe.add(visit.row)
            if not visit.maybe:
                needed.surely |= {visit.row} & {*rows}
        return needed

    def is_stopped(self, needed: Rows, locked: Rows) -> bool:
        """Say whether who needs this perhaps has to wait."""
        if self._is_sqlite:
            return locked.is_some and needed.is_some
        return bool(
            locked.maybe & needed.maybe or (locked.gaps and needed.inserts)
        )

    def is_surely_stopped(self, needed: Rows, locked: Rows) -> bool:
        """Say whether who needs this certainly has to wait."""
        if self._is_sqlite:
            # In separate mode the held request has two transactions one
            # after the other: who waits may come in between.
            return self._is_joined and locked.is_sure and needed.is_sure
        return bool(locked.surely & needed.surely) and not locked.gaps


def _written(visit: Visit, rows: list[Row]) -> Rows:
    written = Rows({*visit.ends}, {*visit.ends} & {*rows})
    if visit.row is None:
        written.inserts = visit.is_changed and not visit.lost
    elif visit.may_write:
        written.maybe.add(visit.row)
        is_mine = visit.row in rows and visit.turns == visit.row.turns
        if visit.is_changed and is_mine:
            written.surely.add(visit.row)
    return written
