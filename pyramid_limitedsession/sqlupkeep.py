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

from .columntypes import SecretNumber
from .dberrors import translated
from .deadrows import Condition, DeadRows
from .limits import Cutoffs
from .sqlstore import SqlStore
from .store import Record, RowId

# Ranges of row addresses are scanned as such since then.
_FIRST_WITH_RANGES = (14,)
# Of PostgreSQL's pages, which have 8 KiB. A row of ours has 135 bytes or more.
_ROWS_OF_A_PAGE = 60
# Of SQLite's pages: half of what a million rows have in their indexes.
_CACHE_KIB = 64 * 1024


class _RowAddress(UserDefinedType[str]):
    """PostgreSQL's ``tid``: page and place in it, as ``(7,12)``."""

    cache_ok = True

    def get_col_spec(self, **options: Any) -> str:
        return "TID"


@dataclass(frozen=True)
class Way:
    """A way through the table, from its first row to what is its last now.

    :ivar is_by_page: page by page, as it lies on the disk; else by ids.
    :ivar end: the number of pages, or the last id; None: there is no row.
    """

    is_by_page: bool
    end: Any

    @property
    def start(self) -> Any:
        """Where the first batch begins: at the page; None: at the first id."""
        return 0 if self.is_by_page else None

    def share(self, after: Any) -> float:
        """Return the part of the way up to here, from 0 to 1.

        0 where that is not known, because ids are no numbers.
        """
        if not isinstance(self.end, int):
            return 0.0
        return min(after / self.end, 1.0) if self.end else 1.0


@dataclass(frozen=True)
class Selection:
    """Sessions that meet every condition that is given.

    :ivar user: those of this user.
    :ivar ids: those with these ids.
    :ivar created_before: those that began before, seconds since the epoch.
    :ivar spared: not those with these ids.
    """

    user: str | None = None
    ids: tuple[RowId, ...] = ()
    created_before: int | None = None
    spared: tuple[RowId, ...] = ()


@dataclass(frozen=True)
class Batch:
    """What came of a batch.

    :ivar deleted: so many rows.
    :ivar last: where to go on, None at the end.
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
        self._c = store.statements.columns
        self._dead = DeadRows(store.table)

    # -- ways ----------------------------------------------------------

    def way_by_id(self) -> Way:
        """Return the way by ids. It passes every row that is there now."""
        # Not its maximum: PostgreSQL before 18 knows none of a UUID.
        number = self._c.id
        query = sa.select(number).order_by(number.desc()).limit(1)
        with self._store.autocommit() as connection:
            return Way(False, connection.execute(query).scalar())

    def shortest_way(self) -> Way:
        """Return the fastest way past all rows that nobody writes.

        On PostgreSQL page by page, whatever the order in which the rows were
        made. A row that is written meanwhile may be passed over.
        """
        pages = self._pages()
        return self.way_by_id() if pages is None else Way(True, pages)

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
            "WHERE c.oid = to_regclass(:name) AND a.amname = 'heap' "
            "AND c.relkind = 'r' AND NOT c.relhassubclass"
        )
        name = self._quoted(dialect.identifier_preparer)
        with self._store.autocommit() as connection:
            pages = connection.execute(query, {"name": name}).scalar()
        is_old = dialect.server_version_info < _FIRST_WITH_RANGES
        return None if pages is None or is_old else int(pages)

    def _quoted(self, preparer: Any) -> str:
        """Return the table's name as its statements have it."""
        options = self._store.engine.get_execution_options()
        schemas = options.get("schema_translate_map") or {}
        schema = schemas.get(self._table.schema, self._table.schema)
        name = str(preparer.quote(self._table.name))
        return f"{preparer.quote_schema(schema)}.{name}" if schema else name

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
        one_by_one: bool = False,
    ) -> Batch:
        """Delete the next rows that meet a condition, at most so many.

        Page by page, about so many. A row that does not meet the condition
        any more when its turn comes survives. ``one_by_one``: by its id each,
        because MySQL waits for every row of a range that somebody has locked,
        also for those that live.
        """
        last = self.skip(way, which, after=after, most=most)
        if last is None:
            return Batch(0, None)
        between = self._between(way, after)
        deleting = self._table.delete().where(*between, which)
        values: dict[str, Any] = {"last": last}
        if after is not None:
            values["after"] = after
        if way.is_by_page:
            values = {name: f"({page},0)" for name, page in values.items()}
        with self._relaxed() as connection:
            # From here on: a wait for somebody else is not our doing.
            started = clock()
            if one_by_one and not way.is_by_page:
                deleted = self._delete_each(connection, between, which, values)
            else:
                deleted = connection.execute(deleting, values).rowcount
        return Batch(deleted, last, clock() - started)

    @contextmanager
    def _relaxed(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that may be lost.

        Its commit does not wait for the disk: on SQLite everybody who writes
        would wait as long. What is lost when the power fails is a deletion,
        which the next run makes again.
        """
        with (
            translated(self._table.fullname),
            self._store.transaction(_relax) as connection,
        ):
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(
                    "SET LOCAL synchronous_commit = off"
                )
            yield connection

    def _delete_each(
        self,
        connection: Connection,
        between: list[Condition],
        which: Condition,
        values: dict[str, Any],
    ) -> int:
        number = self._c.id
        finding = sa.select(number).where(*between, which)
        ids = connection.execute(finding, values).scalars().all()
        deleting = self._table.delete().where(
            number == bindparam("one"), which
        )
        return sum(
            connection.execute(deleting, {"one": each}).rowcount
            for each in ids
        )

    def _between(self, way: Way, after: Any) -> list[Condition]:
        if not way.is_by_page:
            return [*self._behind(after), self._c.id <= bindparam("last")]
        address = sa.literal_column("ctid", _RowAddress())
        first, last = (
            sa.cast(bindparam(name, type_=sa.String), _RowAddress())
            for name in ("after", "last")
        )
        return [address >= first, address < last]

    def _behind(self, after: Any) -> list[Condition]:
        return [] if after is None else [self._c.id > bindparam("after")]

    def skip(
        self, way: Way, which: Condition, *, after: Any, most: int
    ) -> Any:
        """Return where `delete` would go on, None at the end.

        Found without a lock: on SQLite others may write meanwhile.
        """
        if way.is_by_page:
            pages = max(most // _ROWS_OF_A_PAGE, 1)
            return after + pages if after < way.end else None
        if way.end is None:
            return None
        number = self._c.id
        found = (
            sa.select(number.label("found"))
            .where(*self._behind(after), number <= way.end, which)
            .order_by(number)
            .limit(bindparam("most", type_=sa.Integer))
            .subquery()
        )
        last = found.c.found
        query = sa.select(last).order_by(last.desc()).limit(1)
        values = {"most": most} | ({} if after is None else {"after": after})
        with self._store.autocommit() as connection:
            return connection.execute(query, values).scalar()

    # -- selections ----------------------------------------------------

    def select(
        self, selection: Selection, *, after: RowId | None, most: int
    ) -> list[Record]:
        """Return the next sessions that are not ended, by their ids.

        Without their data. ``after`` None: from the first one on.
        """
        query = (
            sa.select(*self._store.statements.summary)
            .where(*self._behind(after), self._selected(selection))
            .order_by(self._c.id)
            .limit(most)
        )
        values = {} if after is None else {"after": after}
        with self._store.autocommit() as connection:
            return [Record(*row) for row in connection.execute(query, values)]

    def count_selected(self, selection: Selection) -> int:
        """Return how many sessions are selected now."""
        return self.count(self._selected(selection))

    def _selected(self, selection: Selection) -> Condition:
        c, before = self._c, selection.created_before
        conditions: list[Condition] = [
            c.ended.is_(None),
            c.id.not_in(selection.spared),
        ]
        if selection.user is not None:
            self._store.statements.require_users()
            conditions.append(c.user_id == selection.user)
            conditions.append(self._is_exactly(c.user_id, selection.user))
        if selection.ids:
            conditions.append(c.id.in_(selection.ids))
        if before is not None:
            conditions.append(c.created_at < before)
        return sa.and_(*conditions)

    def _is_exactly(self, column: Any, user: str) -> Condition:
        """Return the condition that a row is this user's, and nobody else's.

        Collations take others for the same: MySQL's with blanks at the end.
        """
        if isinstance(column.type, SecretNumber):
            return sa.true()
        text = sa.literal(user, column.type)
        is_same: Condition = self._store.statements.exactly(column, text)
        return is_same

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


def _relax(connection: Connection) -> None:
    """Prepare SQLite for a commit that does not wait for the disk.

    And for the indexes, in which the rows of a batch lie everywhere: with
    the cache that is usual most of the time would be spent reading them.
    """
    if connection.dialect.name != "sqlite" or connection.in_transaction():
        return
    connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KIB}")
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    if mode == "wal":
        # In another mode it could damage the file.
        connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
