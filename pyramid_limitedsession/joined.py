"""Joined mode: sessions in the same database transaction as the app's data.

Writes go through ``request.dbsession``. Reads go through an engine of our
own made like the app's, because a read through the dbsession fails wherever
the request's transaction is broken, over, or not yet begun.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import sqlalchemy as sa
import zope.sqlalchemy
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from .dberrors import translated
from .engines import is_in_memory, make_engine_like
from .sqlstore import SqlStore, SqlWork
from .store import Record


class JoinedStores:
    """One store of our own for each engine the application uses."""

    def __init__(self, table: sa.Table, *, create: bool) -> None:
        self._table = table
        self._create = create
        self._lock = threading.Lock()
        self._stores: weakref.WeakKeyDictionary[Engine, SqlStore] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, dbsession: Session) -> SqlStore:
        """Return the store beside a dbsession's engine. Runs no SQL."""
        bind = dbsession.get_bind(clause=self._table)
        engine = bind if isinstance(bind, Engine) else bind.engine
        with self._lock:
            store = self._stores.get(engine)
            if store is None:
                # A database in memory is not there for anybody else.
                own = (
                    engine
                    if is_in_memory(engine)
                    else make_engine_like(engine)
                )
                store = SqlStore(own, self._table, create=self._create)
                self._stores[engine] = store
            return store

    def reads_enlisted(self, dbsession: Session) -> bool:
        """Say whether only the dbsession itself can see the sessions.

        So it is with a database in memory, and with a dbsession bound to
        one connection, whose transaction somebody else holds open.
        """
        bind = dbsession.get_bind(clause=self._table)
        return not isinstance(bind, Engine) or is_in_memory(bind)


def enlist(store: SqlStore, dbsession: Session, tm: Any) -> SqlWork:
    """Return a `Work` inside the database transaction of a dbsession.

    The dbsession takes part in tm's transaction from here on and is marked
    changed: what zope.sqlalchemy knows nothing of it rolls back, without a
    word. The end is tm's business: ``commit`` and ``rollback`` do nothing.
    """
    with translated(store.table.fullname):
        connection = dbsession.connection(
            bind_arguments={"clause": store.table}
        )
    zope.sqlalchemy.mark_changed(dbsession, transaction_manager=tm)
    return SqlWork(store, connection)


class EnlistedStore:
    """`Store` inside a transaction that somebody else manages and ends.

    For tests that run many requests in one transaction which is never
    committed, as the official cookiecutter's do: everything is read and
    written through the dbsession, so every request sees the one before.
    """

    commits_last = False

    def __init__(self, store: SqlStore, dbsession: Session, tm: Any) -> None:
        self._store = store
        self._dbsession = dbsession
        self._tm = tm

    def load(self, key: str) -> Record | None:
        """See `Store`."""
        return self.begin().load(key)

    def begin(self) -> SqlWork:
        """See `Store`."""
        return enlist(self._store, self._dbsession, self._tm)

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """See `Store`."""
        return self.begin().touch(record, seen=seen, expires=expires)

    def clean(self, *, now: int, cutoffs: tuple[int, int], most: int) -> int:
        """Clean nothing: what is expired here goes with the transaction."""
        return 0
