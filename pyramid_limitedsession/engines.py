"""Engines of our own, for what must not run in the app's transaction.

Every connection of these engines is in the driver's autocommit mode, so
that a read is one round trip; a transaction is opened and ended in SQL.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Dialect, Engine, make_url

from .readers import is_memory_url
from .schema import MYSQL

# No wait of ours for a lock is longer, in seconds. A request can hold locks
# on two connections, ours and the application's: two such requests may wait
# for each other in a circle that no database can see.
LOCK_TIMEOUT = 5
# How a transaction of ours begins. READ COMMITTED whatever the server's or
# the application's default: our statements are made for it (MySQL gets both
# settings once per connection). SQLite: to take the write lock at once,
# because taking it after a read fails when somebody wrote in between.
BEGIN = {
    "postgresql": "BEGIN ISOLATION LEVEL READ COMMITTED; "
    f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'",
    "sqlite": "BEGIN IMMEDIATE",
}
_MYSQL_SETTINGS = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT}",
)


def is_in_memory(engine: Engine) -> bool:
    """Say whether the engine is a SQLite database in memory.

    There a second connection is another, empty database, or the very
    connection of the app; neither can be an engine of our own.
    """
    return is_memory_url(engine.url)


def make_engine(url: str, options: dict[str, str]) -> Engine:
    """Make the engine of separate mode from its settings.

    Args:
        url: SQLAlchemy's database URL.
        options: further engine options, texts as in an ini file.
    """
    # A server may have closed the connection; a file has not.
    is_server = make_url(url).get_backend_name() != "sqlite"
    settings: dict[str, Any] = {
        "pool_pre_ping": "true" if is_server else "false",
        **options,
        "url": url,
    }
    engine = sa.engine_from_config(settings, prefix="", hide_parameters=True)
    return _own(engine)


def make_engine_like(engine: Engine) -> Engine:
    """Make an engine that connects as the given one, with a pool of its own.

    Same creator, arguments and pool events. A pool of its own, because a
    request that waited here for a connection it holds itself would wait
    for ever.
    """
    twin = Engine(
        engine.pool.recreate(),
        engine.dialect,
        engine.url,
        hide_parameters=True,
    )
    return _own(twin)


def with_options_of(twin: Engine, engine: Engine) -> Engine:
    """Return the twin with the engine's execution options.

    For instance ``schema_translate_map``, which decides on tables.
    """
    options = dict(engine.get_execution_options())
    options.pop("isolation_level", None)
    return twin.execution_options(**options) if options else twin


def _own(engine: Engine) -> Engine:
    dialect = engine.dialect

    def connected(connection: Any, record: object) -> None:
        _prepare(dialect, connection)

    event.listen(engine, "connect", connected)
    # A forked child would write into its parent's socket. Weak, because a
    # fork hook stays for the life of the process.
    ref = weakref.ref(engine)
    os.register_at_fork(after_in_child=lambda: _forget(ref))
    return engine


def _prepare(dialect: Dialect, connection: Any) -> None:
    # The app's own listeners may have left a transaction open, in which
    # autocommit cannot be switched on; commit keeps what they SET.
    connection.commit()
    dialect.set_isolation_level(connection, "AUTOCOMMIT")
    if dialect.name in MYSQL:
        cursor = connection.cursor()
        for statement in _MYSQL_SETTINGS:
            cursor.execute(statement)
        cursor.close()


def _forget(ref: weakref.ref[Engine]) -> None:
    engine = ref()
    if engine is not None:
        engine.dispose(close=False)
