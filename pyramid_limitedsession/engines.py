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
from .waits import connection_settings


def is_in_memory(engine: Engine) -> bool:
    """Say whether the engine is a SQLite database in memory.

    There a second connection is another, empty database, or the very
    connection of the app; neither can be an engine of our own.
    """
    return is_memory_url(engine.url)


def make_engine(
    url: str, options: dict[str, str], *, lock_timeout: int
) -> Engine:
    """Make the engine of separate mode from its settings.

    Args:
        url: SQLAlchemy's database URL.
        options: further engine options, texts as in an ini file.
        lock_timeout: seconds that its connections wait for a lock at most.
    """
    # A server may have closed the connection; a file has not.
    is_server = make_url(url).get_backend_name() != "sqlite"
    settings: dict[str, Any] = {
        "pool_pre_ping": is_server,
        **{name: _typed(value) for name, value in options.items()},
        "url": url,
    }
    engine = sa.engine_from_config(settings, prefix="", hide_parameters=True)
    return _own(engine, lock_timeout)


def _typed(value: object) -> object:
    """Return what "true" and "false" stand for, anything else as it is.

    SQLAlchemy reads its numbers from texts itself, but not all its truths:
    ``pool_pre_ping = false`` would be a text, and as such true.
    """
    return {"true": True, "false": False}.get(str(value).lower(), value)


def make_engine_like(engine: Engine, *, lock_timeout: int) -> Engine:
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
    return _own(twin, lock_timeout)


def with_options_of(twin: Engine, engine: Engine) -> Engine:
    """Return the twin with the engine's execution options.

    For instance ``schema_translate_map``, which decides on tables.
    """
    options = dict(engine.get_execution_options())
    options.pop("isolation_level", None)
    return twin.execution_options(**options) if options else twin


def _own(engine: Engine, lock_timeout: int) -> Engine:
    dialect = engine.dialect
    statements = connection_settings(dialect.name, lock_timeout)

    def connected(connection: Any, record: object) -> None:
        _prepare(dialect, connection, statements)

    event.listen(engine, "connect", connected)
    # A forked child would write into its parent's socket. Weak, because a
    # fork hook stays for the life of the process.
    ref = weakref.ref(engine)
    os.register_at_fork(after_in_child=lambda: _forget(ref))
    return engine


def _prepare(
    dialect: Dialect, connection: Any, statements: tuple[str, ...]
) -> None:
    # The app's own listeners may have left a transaction open, in which
    # autocommit cannot be switched on; commit keeps what they SET.
    connection.commit()
    dialect.set_isolation_level(connection, "AUTOCOMMIT")
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.close()


def _forget(ref: weakref.ref[Engine]) -> None:
    engine = ref()
    if engine is not None:
        engine.dispose(close=False)
