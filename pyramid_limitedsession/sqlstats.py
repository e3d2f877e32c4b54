"""The SQL of statistics: the whole table, counted in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .columntypes import text_of
from .deadrows import DeadRows
from .limits import FARTHEST_AHEAD, Cutoffs
from .sqlstore import SqlStore
from .statements import size_of

# Bytes and seconds up to which, in a histogram.
SIZES = (256, 1024, 4096, 16384, 65536)
AGES = (3600, 86400, 7 * 86400, 30 * 86400, 90 * 86400)
_STATES = ("ended", "damaged", "absolute", "idle")


@dataclass(frozen=True)
class Group:
    """Rows that are alike.

    :ivar state: "live", or why it is not: "idle", "absolute", "ended",
        "damaged", or "ahead" if its times lie more than a day ahead.
    :ivar is_signed_in: it has a user.
    :ivar size: into which part of `SIZES` its data falls; the last is more.
    :ivar age: the same of `AGES`, for the time since it began.
    :ivar unused: the same for the time since it was used.
    :ivar trimmed: why trimming would take it, None if it would not.
    :ivar count: so many rows.
    :ivar bytes: all their data.
    """

    state: str
    is_signed_in: bool
    size: int
    age: int
    unused: int
    trimmed: str | None
    count: int
    bytes: int


class Census:
    """Counts the rows of a store's table."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._table = store.table

    def groups(self, cutoffs: Cutoffs) -> list[Group]:
        """Return all rows in groups of those that are alike; one scan."""
        c, now = self._store.statements.columns, cutoffs.now
        bytes_ = size_of(
            text_of(self._table.c.data), self._store.engine.dialect.name
        )
        reasons = DeadRows(self._table).reasons(cutoffs)
        keys = [
            self._state(reasons, now),
            c.user_id.is_not(None),
            _part(SIZES, lambda limit: bytes_ < limit),
            _part(AGES, lambda limit: c.created_at > now - limit),
            _part(AGES, lambda limit: c.updated_at > now - limit),
            sa.case(*_named(reasons)),
        ]
        columns = [key.label(f"k{place}") for place, key in enumerate(keys)]
        total = sa.func.coalesce(sa.func.sum(bytes_), 0)
        query = sa.select(*columns, sa.func.count(), total).group_by(
            *(sa.literal_column(column.name) for column in columns)
        )
        with self._store.autocommit() as connection:
            rows = connection.execute(query.select_from(self._table))
            return [
                Group(row[0], bool(row[1]), *row[2:6], row[6], int(row[7]))
                for row in rows
            ]

    def largest_users(self, most: int) -> list[tuple[str, int]]:
        """Return the users with the most sessions that are not ended.

        None where the table does not say whose sessions they are.
        """
        if "user_id" not in self._table.c:
            return []
        c, count = self._store.statements.columns, sa.func.count()
        user = c.user_id
        query = (
            sa.select(user, count)
            .where(user.is_not(None), c.ended.is_(None))
            .group_by(user)
            .order_by(count.desc(), user)
            .limit(most)
        )
        with self._store.autocommit() as connection:
            return [
                (name, number) for name, number in connection.execute(query)
            ]

    def _state(self, reasons: dict[str, Any], now: int) -> Any:
        c, far = self._store.statements.columns, now + FARTHEST_AHEAD
        states = reasons | {"ended": c.ended.is_not(None)}
        is_ahead = sa.or_(c.updated_at > far, c.created_at > far)
        return sa.case(
            *_named({name: states[name] for name in _STATES}),
            (is_ahead, sa.literal("ahead", sa.String)),
            else_=sa.literal("live", sa.String),
        )


def _named(conditions: dict[str, Any]) -> list[Any]:
    return [
        (condition, sa.literal(name, sa.String))
        for name, condition in conditions.items()
    ]


def _part(limits: Sequence[int], is_below: Callable[[int], Any]) -> Any:
    """Return into which part between limits a row falls."""
    whens = [(is_below(limit), place) for place, limit in enumerate(limits)]
    return sa.case(*whens, else_=len(limits))


def total(
    groups: Iterable[Group], key: Callable[[Group], Any]
) -> dict[Any, int]:
    """Return how many rows there are for each value of a key."""
    counts: dict[Any, int] = {}
    for group in groups:
        value = key(group)
        counts[value] = counts.get(value, 0) + group.count
    return counts
