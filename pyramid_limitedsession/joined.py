"""Joined mode: sessions in the same database transaction as the app's data.

Writes go through ``request.dbsession``. Reads go through an engine of our
own made like the app's, because a read through the dbsession fails wherever
the request's transaction is broken, over, or not yet begun. Exceptions are a
SQLite database in whose transaction the request already is, which may hold
the lock that the read would wait for, and a dbsession bound to a connection,
whose rows nobody else sees.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
import zope.sqlalchemy
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from .dberrors import translated
from .engines import is_in_memory, make_engine_like, with_options_of
from .limits import Cutoffs
from .sqlstore import SqlStore
from .sqlwork import SqlWork
from .store import Record, RowId, Work, transaction_of


class JoinedStores:
    """One store of our own for each engine the application uses."""

    def __init__(
        self,
        table: sa.Table,
        *,
        lock_timeout: int,
        max_data_size: int | None,
        create: bool,
    ) -> None:
        self._table = table
        self._lock_timeout = lock_timeout
        self._max_data_size = max_data_size
        self._create = create
        # Built once: it is asked for in every request.
        self._update = sa.update(table)
        self._lock = threading.Lock()
        # Engines that differ only in their options share a pool.
        self._twins: weakref.WeakKeyDictionary[Pool, Engine] = (
            weakref.WeakKeyDictionary()
        )
        self._stores: weakref.WeakKeyDictionary[Engine, SqlStore] = (
            weakref.WeakKeyDictionary()
        )

    def bind_of(self, dbsession: Session) -> Engine | Connection:
        """Return what the dbsession writes sessions to.

        Asked for an UPDATE, because an application may send its reads to a
        replica, which would not know of a session yet.
        """
        return dbsession.get_bind(clause=self._update)

    def of(self, bind: Engine | Connection) -> SqlStore:
        """Return the store beside a dbsession's bind. Runs no SQL."""
        engine = bind.engine
        with self._lock:
            store = self._stores.get(engine)
            if store is None:
                own = self._beside(engine)
                store = SqlStore(
                    own,
                    self._table,
                    lock_timeout=self._lock_timeout,
                    max_data_size=self._max_data_size,
                    create=self._create,
                )
                self._stores[engine] = store
            return store

    def _beside(self, engine: Engine) -> Engine:
        # A database in memory is not there for anybody else.
        if is_in_memory(engine):
            return engine
        twin = self._twins.get(engine.pool)
        if twin is None:
            twin = make_engine_like(engine, lock_timeout=self._lock_timeout)
            self._twins[engine.pool] = twin
        return with_options_of(twin, engine)


def reading_connection(
    store: SqlStore, dbsession: Session
) -> Connection | None:
    """Return the connection to read on, None for one of our own."""
    is_usable = dbsession.in_transaction() and dbsession.is_active
    if is_usable and store.engine.dialect.name == "sqlite":
        return _connection(store, dbsession)
    return None


def _connection(store: SqlStore, dbsession: Session) -> Connection:
    with translated(store.table.fullname):
        return dbsession.connection(
            bind_arguments={"clause": store.statements.update}
        )


def enlist(store: SqlStore, dbsession: Session, tm: Any) -> SqlWork:
    """Return a `Work` inside the database transaction of a dbsession.

    The dbsession takes part in tm's transaction from here on and is marked
    changed: what zope.sqlalchemy knows nothing of it rolls back, without a
    word. The end is tm's business: ``commit`` and ``rollback`` do nothing.
    """
    connection = _connection(store, dbsession)
    zope.sqlalchemy.mark_changed(dbsession, transaction_manager=tm)
    return SqlWork(store.statements, connection)


def work_on(store: SqlStore, connection: Connection) -> SqlWork:
    """Return a `Work` on a connection that the application opened.

    Its end is ours only if no transaction was open on it.
    """
    if connection.in_transaction():
        return SqlWork(store.statements, connection)

    def close(end: str) -> None:
        (connection.commit if end == "COMMIT" else connection.rollback)()

    return SqlWork(store.statements, connection, close)


class ReadingWork(SqlWork):
    """`Work` to read with, on the connection of a request's dbsession."""

    def __init__(
        self,
        store: SqlStore,
        connection: Connection,
        enlist: Callable[[], SqlWork] | None,
    ) -> None:
        super().__init__(store.statements, connection)
        self._enlist = enlist

    def hash_id(self, record: Record) -> Record | None:
        """See `Work`. Left to a later request if there is no transaction."""
        return (
            record if self._enlist is None else self._enlist().hash_id(record)
        )


class EnlistedStore:
    """`Store` inside a transaction that somebody else opened and ends.

    For tests that run many requests in one transaction which is never
    committed: every request sees the one before, and nobody else does.
    """

    commits_last = False

    def __init__(self, begin: Callable[[], SqlWork]) -> None:
        self._begin = begin

    def load(self, key: str) -> Record | None:
        """See `Store`."""
        work = self._begin()
        record = work.load(key)
        work.rollback()
        return record

    def of_user(self, user: str) -> list[Record]:
        """See `Store`."""
        work = self._begin()
        records = work.of_user(user)
        work.rollback()
        return records

    def hash_id(self, record: Record) -> Record | None:
        """See `Work`: the transaction may abort."""
        with transaction_of(self) as work:
            return work.hash_id(record)

    def begin(self) -> SqlWork:
        """See `Store`."""
        return self._begin()

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """See `Store`."""
        work = self._begin()
        is_alive = work.touch(record, seen=seen, expires=expires)
        work.commit()
        return is_alive

    def clean(self, *, cutoffs: Cutoffs, most: int) -> int | None:
        """Clean nothing: what is expired here goes with the transaction."""
        return 0


class MiddlewareWork(SqlWork):
    """`Work` in a middleware's transaction; an end in it is for good."""

    def __init__(
        self, store: SqlStore, connection: Connection, transaction: Any
    ) -> None:
        super().__init__(store.statements, connection)
        self._store = store
        self._transaction = transaction

    def delete(self, ids: Iterable[RowId]) -> None:
        """See `Work`. Holds also if the transaction aborts."""
        ids = list(ids)
        self._for_good(lambda work: work.delete(ids))

    def revoke(self, ids: Iterable[RowId], *, reason: str, until: int) -> None:
        """See `Work`. Holds also if the transaction aborts."""
        ids = list(ids)
        self._for_good(
            lambda work: work.revoke(ids, reason=reason, until=until)
        )

    def lock_all(self, ids: Iterable[RowId]) -> list[Record]:
        """See `Work`. Without a lock, which `revoke` would wait for."""
        return self._each(self._sql.read_all, ids)

    def _for_good(self, act: Callable[[Work], None]) -> None:
        if not self._store.commits_last:
            self._do_alone(act)
            return
        # SQLite: nobody else can write before the transaction ends.
        act(SqlWork(self._store.statements, self._connection))

        def ended(is_kept: bool = False) -> None:
            if not is_kept:
                self._do_alone(act)

        self._transaction.addAfterAbortHook(ended)
        self._transaction.addAfterCommitHook(ended)

    def _do_alone(self, act: Callable[[Work], None]) -> None:
        with transaction_of(self._store) as work:
            act(work)


class MiddlewareStore(EnlistedStore):
    """`Store` in a middleware's transaction, that of repoze.tm.

    Unlike that of a test it is committed in the end: what is stored is read
    as ever, and who logs out is out, whatever comes of it.
    """

    def __init__(self, store: SqlStore, dbsession: Session, tm: Any) -> None:
        def begin() -> SqlWork:
            if not dbsession.is_active:
                return store.begin()
            connection = _connection(store, dbsession)
            zope.sqlalchemy.mark_changed(dbsession, transaction_manager=tm)
            return MiddlewareWork(store, connection, tm.get())

        super().__init__(begin)
        self._store = store
        self._dbsession = dbsession

    def load(self, key: str) -> Record | None:
        """See `Store`."""
        return self._reader().load(key)

    def hash_id(self, record: Record) -> Record | None:
        """See `Store`; where it reads in the transaction, see `Work`."""
        if self._reader() is self._store:
            return self._store.hash_id(record)
        return super().hash_id(record)

    def of_user(self, user: str) -> list[Record]:
        """See `Store`."""
        return self._reader().of_user(user)

    def clean(self, *, cutoffs: Cutoffs, most: int) -> int | None:
        """See `Store`."""
        return self._store.clean(cutoffs=cutoffs, most=most)

    def _reader(self) -> SqlStore | SqlWork:
        connection = reading_connection(self._store, self._dbsession)
        if connection is None:
            return self._store
        return SqlWork(self._store.statements, connection)
