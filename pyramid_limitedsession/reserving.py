"""One cleaner at a time: a table, reserved for as long as a command runs.

What cleans would be right without it; two at once would only wait for each
other. Requests that clean take the same lock, for a moment each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .columntypes import MYSQL
from .dberrors import is_busy
from .engines import is_in_memory, make_engine_like
from .waits import begin_text, lock_name, lock_number

_LONGEST_RUN = 7 * 24 * 60 * 60


@contextmanager
def reserved(engine: Engine, table: str, *, patience: int) -> Iterator[bool]:
    """Yield True, and keep others away; False if somebody else is at it.

    On a connection that is not one of the engine's: a small pool might have
    none left for the work.

    Args:
        engine: where the table is.
        table: its full name.
        patience: seconds to wait for a request that cleans.
    """
    if is_in_memory(engine):
        # Nobody else can see it.
        yield True
        return
    dialect = engine.dialect.name
    take = _take_file if dialect == "sqlite" else _take
    holder = take(engine, table, patience)
    if holder is None:
        yield False
        return
    connection, owner = holder
    try:
        yield True
    finally:
        # Whoever dies lets go: nothing has to be undone.
        with suppress(DBAPIError):
            connection.close()
        owner.dispose()
        if dialect == "sqlite":
            _remove(owner)


def _take(
    engine: Engine, table: str, patience: int
) -> tuple[Connection, Engine] | None:
    owner = make_engine_like(engine, lock_timeout=patience)
    connection = owner.connect()
    # It goes with the lock: nobody is to get it from a pool.
    connection.detach()
    try:
        if _is_taken(connection, table, patience):
            return connection, owner
    except DBAPIError as error:
        if not is_busy(error):
            raise
    connection.close()
    owner.dispose()
    return None


def _is_taken(connection: Connection, table: str, patience: int) -> bool:
    dialect = connection.dialect.name
    if dialect == "postgresql":
        # Of a transaction, since poolers share sessions. It sees nothing, so
        # it keeps no vacuum from its work.
        connection.exec_driver_sql(begin_text(dialect, patience))
        connection.exec_driver_sql(
            "SET LOCAL idle_in_transaction_session_timeout = 0"
        )
        if (connection.dialect.server_version_info or ()) >= (17,):
            connection.exec_driver_sql("SET LOCAL transaction_timeout = 0")
        lock = sa.func.pg_advisory_xact_lock(lock_number(table))
        connection.execute(sa.select(lock))
        return True
    if dialect in MYSQL:
        connection.exec_driver_sql(f"SET wait_timeout = {_LONGEST_RUN}")
        lock = sa.func.get_lock(lock_name(table), patience)
        return bool(connection.execute(sa.select(lock)).scalar())
    return True


def _take_file(
    engine: Engine, table: str, patience: int
) -> tuple[Connection, Engine] | None:
    # SQLite has no such locks. Another file beside the database has: it is
    # let go also when its process is killed, on every system.
    with engine.connect() as connection:
        # As SQLite has it: a URL may say it in many ways.
        files = connection.exec_driver_sql("PRAGMA database_list")
        path = next(row[2] for row in files if row[1] == "main")
    url = sa.URL.create("sqlite", database=f"{path}-{lock_number(table):x}")
    owner = sa.create_engine(url, poolclass=NullPool)
    connection = owner.connect()
    try:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
    except DBAPIError as error:
        connection.close()
        if not is_busy(error):
            raise
        return None
    return connection, owner


def _remove(owner: Engine) -> None:
    with suppress(OSError):
        os.remove(str(owner.url.database))
