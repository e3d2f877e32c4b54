"""How long we wait for a lock, on each database: never longer than told.

A request can hold locks on two connections, ours and the application's. Two
such requests may wait for each other in a circle that no database can see:
the bound is what ends it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .columntypes import MYSQL


def begin_text(dialect: str, seconds: int) -> str:
    """Return how a transaction of ours begins.

    READ COMMITTED whatever the server's or the application's default: our
    statements are made for it (MySQL gets its settings per connection).
    SQLite takes the write lock at once, because taking it after a read
    fails when somebody wrote in between.
    """
    if dialect == "postgresql":
        # Of the transaction, not of the session: poolers share sessions.
        return (
            "BEGIN ISOLATION LEVEL READ COMMITTED; "
            f"SET LOCAL lock_timeout = '{seconds}s'"
        )
    return "BEGIN IMMEDIATE" if dialect == "sqlite" else "BEGIN"


def connection_settings(dialect: str, seconds: int) -> tuple[str, ...]:
    """Return the statements that every new connection of ours executes."""
    if dialect == "sqlite":
        return (f"PRAGMA busy_timeout = {seconds * 1000}",)
    if dialect not in MYSQL:
        return ()
    return (
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        f"SET SESSION innodb_lock_wait_timeout = {seconds}",
        # For the table itself, which a migration may have locked.
        f"SET SESSION lock_wait_timeout = {seconds}",
    )


@contextmanager
def alone(connection: Connection, table: str, seconds: int) -> Iterator[bool]:
    """Yield whether nobody else cleans this table; hardly ever wait.

    Args:
        connection: in autocommit mode.
        table: the table's full name.
        seconds: what the connection waits otherwise.
    """
    dialect = connection.dialect.name
    number = lock_number(table)
    if dialect == "postgresql":
        # Of the transaction, for the same reason as above.
        lock = sa.func.pg_try_advisory_xact_lock(number)
        connection.exec_driver_sql(begin_text(dialect, seconds))
        try:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
            yield bool(connection.execute(sa.select(lock)).scalar())
        finally:
            connection.exec_driver_sql("COMMIT")
    elif dialect in MYSQL:
        name = lock_name(table)
        lock = sa.func.get_lock(name, 0)
        is_alone = bool(connection.execute(sa.select(lock)).scalar())
        _wait_on_mysql(connection, 1)
        try:
            yield is_alone
        finally:
            _wait_on_mysql(connection, seconds)
            if is_alone:
                connection.execute(sa.select(sa.func.release_lock(name)))
    else:
        # A busy SQLite is left alone at once, not after the timeout. In
        # memory, the connection and its timeout are the application's.
        wait = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            yield True
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {wait}")


def lock_number(table: str) -> int:
    """Return the number of the lock that whoever cleans a table holds."""
    return zlib.crc32(f"pyramid_limitedsession {table}".encode())


def lock_name(table: str) -> Any:
    """Return its name on MySQL, where it is one of the whole server."""
    database = sa.func.crc32(sa.func.coalesce(sa.func.database(), ""))
    start = f"pyramid_limitedsession.{lock_number(table)}."
    return sa.func.concat(start, database)


def _wait_on_mysql(connection: Connection, seconds: int) -> None:
    for statement in connection_settings("mysql", seconds)[1:]:
        connection.exec_driver_sql(statement)
