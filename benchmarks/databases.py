"""The databases, and a table of many rows on each of them.

A *source* is made once; each run works on a *copy* of it, made anew, so that
all start alike. Servers make both by themselves: no row goes to and fro.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import AddConstraint, CreateIndex, CreateTable

from pyramid_limitedsession.layout import Layout
from pyramid_limitedsession.schema import typed_table
from pyramid_limitedsession.sqlstore import sorted_indexes

from .rows import (
    DEAD_SINCE,
    DEAD_SPAN,
    LIMITS,
    LIVE_BELOW,
    LIVE_SPAN,
    USERS,
    row,
    utc_now,
)

# Seconds to wait at most for what a server does behind a large change.
_PATIENCE = 60
_FEW = 100
IDLE = LIMITS.idle or 0
_NUMBERS = {
    "live": LIVE_BELOW,
    "live_span": LIVE_SPAN,
    "dead_since": DEAD_SINCE,
    "dead_span": DEAD_SPAN,
    # As `Limits.coarse_expiry` has it: slices from the start, rounded up.
    "told": 2 * IDLE + LIMITS.touch_interval - 1,
    "slice": IDLE // 8,
    "users": USERS,
}


class Database:
    """A database with a source and a copy of it.

    :ivar url: where the copy is.
    :ivar table: the copy's name.
    """

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url
        run = secrets.token_hex(3)
        self.table = f"pls_bench_{run}_copy"
        self.source = typed_table(Layout(f"pls_bench_{run}_source"))
        self.copy = typed_table(Layout(self.table))
        self.engine = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", hide_parameters=True
        )

    def version(self) -> str:
        """Return the database's name and version. Raises if it is down."""
        raise NotImplementedError

    def durability(self) -> str:
        """Return whether a commit waits for the disk, in its own words."""
        raise NotImplementedError

    def make_source(self, rows: int) -> None:
        """Make the table of which the copies are made."""
        raise NotImplementedError

    def make_copy(self, rows: int) -> None:
        """Make a fresh copy of the first rows, and let all come to rest."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove all that was made."""
        raise NotImplementedError

    def count(self) -> tuple[int, int]:
        """Return how many live and how many dead rows the copy has."""
        key = self.copy.c.session_id
        is_live = sa.func.substr(key, 64, 4) < LIVE_BELOW
        query = sa.select(
            sa.func.count(), sa.func.sum(sa.case((is_live, 1), else_=0))
        ).select_from(self.copy)
        with self.engine.connect() as connection:
            total, live = connection.execute(query).one()
        self.engine.dispose()
        return int(live or 0), total - int(live or 0)

    def _one(self, query: str) -> str:
        with self.engine.connect() as connection:
            return str(connection.exec_driver_sql(query).all()[0][-1])


class Server(Database):
    """A database server, in a database that is somebody else's too."""

    # Rows as `rows.row` makes them.
    rows_sql: ClassVar[str]

    def __init__(self, url: str) -> None:
        super().__init__(url)
        # From now on SQLAlchemy leaves it out when it makes the table.
        self._constrain = AddConstraint(_unique(self.copy))
        AddConstraint(_unique(self.source))

    def make_source(self, rows: int) -> None:
        """See `Database`. Without indexes: nothing is looked up in it."""
        with self.engine.connect() as connection:
            connection.execute(CreateTable(self.source))
            query: Any = sa.text(self.rows_sql).columns()
            connection.execute(
                self.source.insert().from_select(self._names, query),
                {**_NUMBERS, "now": utc_now(), "rows": rows},
            )

    def make_copy(self, rows: int) -> None:
        """See `Database`. Indexes come last: so they are made fast."""
        source, copy = self.source, self.copy
        some = sa.select(*source.c).where(source.c.id <= rows)
        with self.engine.connect() as connection:
            copy.drop(connection, checkfirst=True)
            connection.execute(CreateTable(copy))
            connection.execute(
                copy.insert().from_select(
                    self._names, some.order_by(source.c.id)
                )
            )
            connection.execute(self._constrain)
            for index in sorted_indexes(copy):
                connection.execute(CreateIndex(index))
            self._settle(connection)
        self.engine.dispose()
        os.sync()

    def close(self) -> None:
        """See `Database`."""
        with self.engine.connect() as connection:
            self.copy.drop(connection, checkfirst=True)
            self.source.drop(connection, checkfirst=True)
        self.engine.dispose()

    @property
    def _names(self) -> list[str]:
        return [column.name for column in self.source.c]

    def _settle(self, connection: Connection) -> None:
        raise NotImplementedError


class PostgreSQL(Server):
    """PostgreSQL 11 or later."""

    name = "postgresql"
    rows_sql = """
        SELECT i, '2::' || h,
            '{"_csrft_":"' || substr(h, 1, 40) || '","auth.userid":"user'
                || i % :users || '","cart":[' || i || ',1],"lang":"en",'
                || '"last":"/shop/items/' || i || '","theme":"dark"}',
            1,
            seen - lived * interval '1 second',
            seen,
            seen - lived * interval '1 second' + interval '1 second'
                * ((lived + :told + :slice - 1) / :slice * :slice),
            CASE WHEN i % 2 = 0 THEN 'user' || i % :users END,
            NULL, NULL
        FROM (
            SELECT i, h, lived, CAST(:now AS timestamp) - interval '1 second'
                * CASE WHEN substr(h, 61, 4) < :live THEN age % :live_span
                ELSE :dead_since + age % :dead_span END AS seen
            FROM (
                SELECT i, h, ('x' || substr(h, 9, 6))::bit(24)::int AS age,
                    ('x' || substr(h, 15, 4))::bit(16)::int % 3600 AS lived
                FROM (
                    SELECT i, encode(sha256(i::text::bytea), 'hex') AS h
                    FROM generate_series(1, :rows) AS i
                ) AS hashed
            ) AS numbers
        ) AS moments
    """

    def version(self) -> str:
        """See `Database`."""
        return f"PostgreSQL {self._one('SHOW server_version').split()[0]}"

    def durability(self) -> str:
        """See `Database`."""
        return ", ".join(
            f"{name} = {self._one(f'SHOW {name}')}"
            for name in ("fsync", "synchronous_commit")
        )

    def _settle(self, connection: Connection) -> None:
        table = connection.dialect.identifier_preparer.format_table(self.copy)
        connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
        # Not everybody may.
        with suppress(DBAPIError):
            connection.exec_driver_sql("CHECKPOINT")


class MariaDB(Server):
    """MariaDB, with its engine of sequences."""

    name = "mariadb"
    rows_sql = """
        SELECT i, CONCAT('2::', h),
            CONCAT('{"_csrft_":"', SUBSTR(h, 1, 40), '","auth.userid":"user',
                MOD(i, :users), '","cart":[', i, ',1],"lang":"en",',
                '"last":"/shop/items/', i, '","theme":"dark"}'),
            1,
            seen - INTERVAL lived SECOND,
            seen,
            seen + INTERVAL
                (lived + :told + :slice - 1) DIV :slice * :slice - lived
                SECOND,
            CASE WHEN MOD(i, 2) = 0 THEN CONCAT('user', MOD(i, :users)) END,
            NULL, NULL
        FROM (
            SELECT i, h, lived, CAST(:now AS DATETIME) - INTERVAL
                CASE WHEN SUBSTR(h, 61, 4) < :live THEN MOD(age, :live_span)
                ELSE :dead_since + MOD(age, :dead_span) END SECOND AS seen
            FROM (
                SELECT i, h, CONV(SUBSTR(h, 9, 6), 16, 10) AS age,
                    MOD(CONV(SUBSTR(h, 15, 4), 16, 10), 3600) AS lived
                FROM (
                    SELECT seq AS i, SHA2(seq, 256) AS h
                    FROM seq_1_to_1000000000 WHERE seq <= :rows
                ) AS hashed
            ) AS numbers
        ) AS moments
    """

    def version(self) -> str:
        """See `Database`."""
        return f"MariaDB {self._one('SELECT version()').partition('-')[0]}"

    def durability(self) -> str:
        """See `Database`."""
        name = "innodb_flush_log_at_trx_commit"
        return f"{name} = {self._one(f'SELECT @@{name}')}"

    def _settle(self, connection: Connection) -> None:
        table = connection.dialect.identifier_preparer.format_table(self.copy)
        connection.exec_driver_sql(f"ANALYZE TABLE {table}")
        # Not everybody may. It writes the table's pages to the disk.
        with suppress(DBAPIError):
            connection.exec_driver_sql(f"FLUSH TABLES {table} FOR EXPORT")
        connection.exec_driver_sql("UNLOCK TABLES")
        # Else what purges the rows of the last run works in the next one.
        end, left = time.monotonic() + _PATIENCE, self._unpurged()
        while left > _FEW and time.monotonic() < end:
            time.sleep(0.5)
            before, left = left, self._unpurged()
            if left >= before:
                # Somebody else's.
                break

    def _unpurged(self) -> int:
        query = "SHOW GLOBAL STATUS LIKE 'Innodb_history_list_length'"
        return int(self._one(query))


class SQLite(Database):
    """SQLite in WAL mode, in files of a folder."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._source = folder / "source.sqlite"
        self._copy = folder / "copy.sqlite"
        super().__init__(f"sqlite:///{self._copy}")
        # The table has one name in both files.
        self.source = self.copy

    def version(self) -> str:
        """See `Database`."""
        return f"SQLite {sqlite3.sqlite_version}"

    def durability(self) -> str:
        """See `Database`."""
        modes = ("OFF", "NORMAL", "FULL", "EXTRA")
        mode = modes[int(self._one("PRAGMA synchronous"))]
        self.engine.dispose()
        return f"journal_mode = WAL, synchronous = {mode}"

    def make_source(self, rows: int) -> None:
        """See `Database`."""
        _remove(self._source)
        self._fill(self._source, rows)

    def make_copy(self, rows: int) -> None:
        """See `Database`."""
        _remove(self._copy)
        with closing(sqlite3.connect(self._source)) as connection:
            # A name of our own making, here and below.
            count = connection.execute(f"SELECT max(id) FROM {self.table}")  # noqa: S608
            is_whole = count.fetchone()[0] <= rows
        if is_whole:
            shutil.copyfile(self._source, self._copy)
        else:
            self._fill(self._copy, rows)
        os.sync()

    def close(self) -> None:
        """See `Database`."""
        self.engine.dispose()
        _remove(self._source)
        _remove(self._copy)

    def _fill(self, path: Path, rows: int) -> None:
        dialect, now = self.engine.dialect, utc_now()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -500000")
            making = CreateTable(self.copy).compile(dialect=dialect)
            connection.execute(str(making))
            places = ", ".join("?" for _ in self.copy.c)
            connection.executemany(
                f"INSERT INTO {self.table} VALUES ({places})",  # noqa: S608
                _as_sqlite(rows, now),
            )
            for index in sorted_indexes(self.copy):
                making_index = CreateIndex(index).compile(dialect=dialect)
                connection.execute(str(making_index))
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL")


def _as_sqlite(rows: int, now: Any) -> Iterator[tuple[Any, ...]]:
    """Yield rows with times as SQLAlchemy writes them into SQLite."""
    for number in range(1, rows + 1):
        values = row(number, now)
        moments = (f"{moment}.000000" for moment in values[4:7])
        yield (*values[:4], *moments, *values[7:])


def _remove(path: Path) -> None:
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)


def _unique(table: sa.Table) -> sa.UniqueConstraint:
    return next(
        each
        for each in table.constraints
        if isinstance(each, sa.UniqueConstraint)
    )
