"""The SQL of maintenance: a walk through the whole table, batch by batch.

What the pls-* commands delete or end, they find on such a walk. It goes by
the rows' own addresses, so that no row is looked at twice, and a batch is
one range of them: a list of ids takes four times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection
from sqlalchemy.types import UserDefinedType

from .dberrors import translated
from .deadrows import Condition, DeadRows
from .limits import Cutoffs
from .sqlstore import SqlStore
from .store import Record

# With these PostgreSQL has one plan left: from one address on, in order.
IN_ORDER = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off; "
    "SET LOCAL enable_bitmapscan = off"
)
# Ranges of row addresses are scanned as such since then.
_FIRST_WITH_RANGES = (14,)


class _RowAddress(UserDefinedType[str]):
    """PostgreSQL's ``tid``: page and place in it, as ``(7,12)``."""

    cache_ok = True

    def get_col_spec(self, **options: Any) -> str:
        return "TID"


@dataclass(frozen=True)
class Way:
    """A way through the table, from its first row to what is its last now.

    :ivar address: what a row is found by, ``id`` or PostgreSQL's ``ctid``.
    :ivar start: an address before the first row.
    :ivar end: the last id, or the number of pages.
    """

    address: sa.ColumnElement[Any]
    start: Any
    end: int

    def share(self, after: Any) -> float:
        """Return the part of the way up to an address, from 0 to 1."""
        page = (
            after.strip("()").partition(",")[0] if self.is_by_page else after
        )
        return min(int(page) / self.end, 1.0) if self.end else 1.0

    @property
    def is_by_page(self) -> bool:
        """It goes through the table as it lies on the disk."""
        return isinstance(self.start, str)


@dataclass(frozen=True)
class Selection:
    """Sessions that meet every condition that is given.

    :ivar user: those of this user.
    :ivar ids: those with these ids.
    :ivar created_before: those that began before, seconds since the epoch.
    :ivar spared: not those with these ids.
    """

    user: str | None = None
    ids: tuple[int, ...] = ()
    created_before: int | None = None
    spared: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """What came of a batch.

    :ivar deleted: so many rows.
    :ivar last: the address to go on behind, None at the end.
    :ivar seconds: so long somebody else may have had to wait for it.
    """

    deleted: int
    last: Any
    seconds: float = 0.0


class Upkeep:
    """Maintenance of the table of a store, on its connections.

    Every method is one transaction, or none; each raises as a store does.
    """

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._table = store.table
        self._dead = DeadRows(store.table)

    # -- ways ----------------------------------------------------------

    def way_by_id(self) -> Way:
        """Return the way by ids. It passes every row that is there now."""
        column = self._table.c.id
        with self._store.autocommit() as connection:
            last = connection.execute(sa.select(sa.func.max(column))).scalar()
        return Way(column, -1, last or 0)

    def shortest_way(self) -> Way:
        """Return the fastest way past all rows that nobody writes.

        On PostgreSQL page by page, whatever the order in which the rows were
        made. A row that is written meanwhile may be passed over.
        """
        pages = self._pages()
        if pages is None:
            return self.way_by_id()
        ctid: Any = sa.literal_column("ctid", _RowAddress())
        return Way(ctid, "(0,0)", pages)

    def _pages(self) -> int | None:
        """Return the number of pages, None where there are no such pages."""
        dialect: Any = self._store.engine.dialect
        if dialect.name != "postgresql":
            return None
        # Not of a partitioned table, nor of one that is kept in another way.
        query = sa.text(
            "SELECT pg_relation_size(c.oid) "
            "/ current_setting('block_size')::int "
            "FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
            "WHERE c.oid = to_regclass(:name) AND a.amname = 'heap'"
        )
        name = dialect.identifier_preparer.format_table(self._table)
        with self._store.autocommit() as connection:
            pages = connection.execute(query, {"name": name}).scalar()
        is_old = dialect.server_version_info < _FIRST_WITH_RANGES
        return None if pages is None or is_old else int(pages)

    # -- batches -------------------------------------------------------

    def dead(self, cutoffs: Cutoffs) -> Condition:
        """Return the condition that a row is dead."""
        return self._dead.is_dead(cutoffs)

    def delete(
        self,
        way: Way,
        which: Condition,
        *,
        after: Any,
        most: int,
        clock: Callable[[], float],
    ) -> Batch:
        """Delete the next rows that meet a condition, at most so many.

        One that does not meet it any more when its turn comes survives.
        """
        last = self.skip(way, which, after=after, most=most)
        if last is None:
            return Batch(0, None)
        deleting = self._table.delete().where(
            way.address > _place("after", way),
            way.address <= _place("last", way),
            which,
        )
        values = {"after": after, "last": last}
        with self._transaction(way) as connection:
            # From here on: a wait for somebody else is not our doing.
            started = clock()
            deleted = connection.execute(deleting, values).rowcount
        return Batch(deleted, last, clock() - started)

    def skip(
        self, way: Way, which: Condition, *, after: Any, most: int
    ) -> Any:
        """Return the address of the last row of the next batch, or None.

        Found without a lock: on SQLite others may write meanwhile.
        """
        found = (
            sa.select(way.address.label("address"))
            .select_from(self._table)
            .where(way.address > _place("after", way), which)
            .limit(bindparam("most", type_=sa.Integer))
        )
        if not way.is_by_page:
            # Rows that are made meanwhile are none of this walk's.
            found = found.where(way.address <= way.end).order_by(way.address)
        batch = found.subquery()
        query = sa.select(sa.func.max(batch.c.address))
        values = {"after": after, "most": most}
        with self._reading(way) as connection:
            return connection.execute(query, values).scalar()

    @contextmanager
    def _reading(self, way: Way) -> Iterator[Connection]:
        if way.is_by_page:
            with self._transaction(way) as connection:
                yield connection
        else:
            with self._store.autocommit() as connection:
                yield connection

    @contextmanager
    def _transaction(self, way: Way) -> Iterator[Connection]:
        store = self._store
        with (
            translated(self._table.fullname),
            store.transaction(_prepare) as connection,
        ):
            if way.is_by_page:
                connection.exec_driver_sql(IN_ORDER)
            yield connection

    # -- selections ----------------------------------------------------

    def select(
        self, selection: Selection, *, after: int, most: int
    ) -> list[Record]:
        """Return the next sessions that are not ended, by their ids.

        Without their data.
        """
        c = self._table.c
        query = (
            sa.select(*self._store.statements.summary)
            .where(c.id > after, self._selected(selection))
            .order_by(c.id)
            .limit(most)
        )
        with self._store.autocommit() as connection:
            return [Record(*row) for row in connection.execute(query)]

    def count_selected(self, selection: Selection) -> int:
        """Return how many sessions are selected now."""
        return self.count(self._selected(selection))

    def _selected(self, selection: Selection) -> Condition:
        c, before = self._table.c, selection.created_before
        conditions: list[Condition] = [
            c.ended.is_(None),
            c.id.not_in(selection.spared),
        ]
        if selection.user is not None:
            conditions.append(c.user_id == selection.user)
            # MySQL ignores blanks at the end: let there be none.
            conditions.append(c.user_id + "." == selection.user + ".")
        if selection.ids:
            conditions.append(c.id.in_(selection.ids))
        if before is not None:
            conditions.append(c.created_at < before)
        return sa.and_(*conditions)

    # -- counts --------------------------------------------------------

    def count(self, which: Condition) -> int:
        """Return how many rows meet a condition."""
        query = sa.select(sa.func.count()).select_from(self._table)
        with self._store.autocommit() as connection:
            counted = connection.execute(query.where(which))
            return int(counted.scalar_one())

    def count_dead(self, cutoffs: Cutoffs) -> dict[str, int]:
        """Return how many rows are dead, for each reason that has some."""
        with self._store.autocommit() as connection:
            counted = connection.execute(self._dead.count(cutoffs))
            return {str(reason): count for reason, count in counted}


def _prepare(connection: Connection) -> None:
    """Let a commit on SQLite not wait for the disk, while all others wait.

    In WAL mode that cannot damage the file. What is lost when the power
    fails is a deletion, which the next run makes again.
    """
    if connection.dialect.name != "sqlite" or connection.in_transaction():
        return
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    if mode == "wal":
        connection.exec_driver_sql("PRAGMA synchronous = NORMAL")


def _place(name: str, way: Way) -> sa.ColumnElement[Any]:
    value: Any = bindparam(name, type_=sa.String if way.is_by_page else None)
    return sa.cast(value, _RowAddress()) if way.is_by_page else value
