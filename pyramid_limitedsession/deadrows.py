"""The SQL of cleaning: which rows are dead, and the statements on them.

A row is found without a lock, and deleted if it is still dead then: a list
of ids alone would kill a session that was touched in between.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.sql.elements import ColumnElement

from .limits import Cutoffs
from .schema import columns_of

Condition = ColumnElement[bool]


class DeadRows:
    """Conditions and statements on the dead rows of one table.

    Built for each call, since they have a part for each profile.
    """

    def __init__(self, table: sa.Table) -> None:
        self.table = table
        self._c = columns_of(table)
        self._most = bindparam("most", type_=sa.Integer)

    def reasons(self, cutoffs: Cutoffs) -> dict[str, Condition]:
        """Return why a row is dead, the first that is true; none: it lives.

        "ended": a tombstone that was there long enough. "damaged": it has no
        times, and is never loaded again. "absolute" and "idle": by the
        limits of its profile. "unused" and "anonymous": see `Cutoffs`.
        """
        c = self._c
        return {
            "ended": sa.and_(
                c.ended.is_not(None), c.expires_at <= cutoffs.now
            ),
            "damaged": sa.or_(c.updated_at.is_(None), c.created_at.is_(None)),
            "absolute": self._at_or_before(c.created_at, cutoffs, 1),
            "idle": self._at_or_before(c.updated_at, cutoffs, 0),
            "unused": c.updated_at <= cutoffs.unused,
            "anonymous": sa.and_(
                c.user_id.is_(None), c.updated_at <= cutoffs.anonymous
            ),
        }

    def _at_or_before(
        self, column: Any, cutoffs: Cutoffs, which: int
    ) -> Condition:
        """Compare a time with one of each profile's pair of cutoffs."""
        profile, profiles = self._c.profile, cutoffs.profiles
        return sa.or_(
            sa.and_(profile.is_(None), column <= cutoffs.default[which]),
            *(
                sa.and_(profile == name, column <= pair[which])
                for name, pair in profiles.items()
            ),
            sa.and_(
                profile.not_in(profiles), column <= cutoffs.unknown[which]
            ),
        )

    def is_dead(self, cutoffs: Cutoffs) -> Condition:
        """Return the condition that a row may be deleted."""
        return sa.or_(*self.reasons(cutoffs).values())

    def due(self, cutoffs: Cutoffs) -> sa.Select[Any]:
        """Ids of dead rows among those that may be looked at by now.

        Without ``expires_at``, among all.
        """
        c = self._c
        query = sa.select(c.id).where(self.is_dead(cutoffs))
        if "expires_at" in self.table.c:
            query = query.where(c.expires_at <= cutoffs.now)
            return query.order_by(c.expires_at).limit(self._most)
        return query.order_by(c.updated_at).limit(self._most)

    def delete_those(self, cutoffs: Cutoffs) -> sa.Delete:
        """Delete those of these ids that are dead."""
        among = self._c.id.in_(bindparam("ids", expanding=True))
        return self.table.delete().where(among, self.is_dead(cutoffs))

    def count(self, cutoffs: Cutoffs) -> sa.Select[Any]:
        """Return the number of dead rows for each reason."""
        whens = [
            (condition, sa.literal(name, sa.String))
            for name, condition in self.reasons(cutoffs).items()
        ]
        reason = sa.case(*whens).label("reason")
        return (
            sa.select(reason, sa.func.count())
            .where(self.is_dead(cutoffs))
            .group_by(sa.literal_column("1"))
        )
