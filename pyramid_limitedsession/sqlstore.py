"""Sessions in a SQL table: connections, cleaning, the table itself.

Nobody but this module and `sqlwork` executes SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from .dberrors import translated
from .deadrows import DeadRows
from .engines import is_in_memory
from .errors import SessionBusyError, SessionTableError
from .limits import Cutoffs
from .schema import AS_MADE
from .sqlwork import SqlWork
from .statements import Statements
from .store import Record, transaction_of
from .tokens import hashed
from .waits import alone, begin_text

log = logging.getLogger(__name__)


class SqlStore:
    """`Store` on an engine of our own; see `engines`."""

    def __init__(
        self,
        engine: Engine,
        table: sa.Table,
        *,
        lock_timeout: int,
        max_data_size: int | None = None,
        create: bool = False,
    ) -> None:
        self.engine = engine
        self.table = table
        # A database in memory is on the application's own connection, which
        # has its own ways with transactions.
        self._is_shared = is_in_memory(engine)
        self.statements = Statements(
            table, dialect=engine.dialect.name, most=max_data_size
        )
        self.commits_last = engine.dialect.name == "sqlite"
        self._create_first = create
        self._lock_timeout = lock_timeout
        self._begin_text = begin_text(engine.dialect.name, lock_timeout)

    # -- sessions ------------------------------------------------------

    def load(self, key: str) -> Record | None:
        """See `Store`."""
        with self.autocommit() as connection:
            return SqlWork(self.statements, connection).load(key)

    def hash_id(self, record: Record) -> Record | None:
        """See `Store`."""
        if self.commits_last:
            # The request itself may have locked the file.
            with (
                self.autocommit() as connection,
                alone(connection, self.table.fullname, self._lock_timeout),
            ):
                own = SqlWork(self.statements, connection)
                done = own.hash_id(record)
        else:
            with transaction_of(self) as work:
                done = work.hash_id(record)
        if done is None:
            return None
        key = hashed(record.key)
        is_keyed = self.statements.is_keyed
        return replace(record, key=key, id=key if is_keyed else record.id)

    def of_user(self, user: str) -> list[Record]:
        """See `Store`."""
        with self.autocommit() as connection:
            return SqlWork(self.statements, connection).of_user(user)

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """See `Store`."""
        # In a transaction, because there its wait for a lock ends.
        with transaction_of(self) as work:
            return work.touch(record, seen=seen, expires=expires)

    def begin(self) -> SqlWork:
        """See `Store`."""
        connection = self._opened()

        def close(end: str) -> None:
            self._end(connection, end)

        return SqlWork(self.statements, connection, close)

    def clean(self, *, cutoffs: Cutoffs, most: int) -> int | None:
        """See `Store`."""
        try:
            with (
                self.autocommit() as connection,
                alone(
                    connection, self.table.fullname, self._lock_timeout
                ) as is_alone,
            ):
                if not is_alone:
                    return None
                return self._delete_due(connection, cutoffs, most)
        except SessionBusyError:
            return None

    def _delete_due(
        self, connection: Connection, cutoffs: Cutoffs, most: int
    ) -> int:
        dead = DeadRows(self.table)
        due = connection.execute(dead.due(cutoffs), {"most": most})
        ids = list(due.scalars())
        if not ids:
            return 0
        deleting = dead.delete_those(cutoffs)
        return connection.execute(deleting, {"ids": ids}).rowcount

    # -- table ---------------------------------------------------------

    @property
    def as_made(self) -> sa.Table:
        """The table as it is made: an application may have a class of it."""
        made: sa.Table = self.table.info.get(AS_MADE, self.table)
        return made

    def ddl(self) -> list[str]:
        """Return the statements that make the table on this database."""
        dialect = self.engine.dialect
        making: list[ExecutableDDLElement] = [
            CreateTable(self.as_made),
            *(CreateIndex(index) for index in sorted_indexes(self.as_made)),
        ]
        texts = [str(part.compile(dialect=dialect)).strip() for part in making]
        if dialect.paramstyle in ("format", "pyformat"):
            # Doubled for the driver, which will not see this text.
            texts = [text.replace("%%", "%") for text in texts]
        return [text + ";" for text in texts]

    def create(self) -> bool:
        """Make the table if it is missing; return whether it was.

        Several processes may start at once: whoever comes second finds the
        table made.
        """
        with translated(self.table.fullname), self.engine.connect() as conn:
            self._begin(conn)
            try:
                was_missing = not self._has_table(conn)
                if was_missing:
                    self.as_made.create(conn, checkfirst=False)
                self._close(conn, "COMMIT")
            except DBAPIError:
                self._close(conn, "ROLLBACK")
                if not self._has_table(conn):
                    raise
                return False
            return was_missing

    def check(self) -> None:
        """Raise SessionTableError if the table, or a column, is missing."""
        with translated(self.table.fullname), self.engine.connect() as conn:
            conn.execute(self.statements.nothing)

    def start(self) -> None:
        """Look at the table, and make it if that is told, at start-up.

        A server that does not answer is a warning: an application may start
        before its database does. The table is made at first use then.

        Raises:
            SessionTableError: the table, or a column of it, is missing.
        """
        if self._is_shared and not self._create_first:
            # The application makes it, on its own connection, later.
            return
        try:
            with translated(self.table.fullname):
                self.engine.connect().close()
        except OperationalError as error:
            if self._create_first and self.commits_last:
                # No server: a folder that is missing, or not ours.
                raise
            log.warning(
                "the database of the sessions does not answer (%s); their "
                "table is looked for again when it is needed",
                error.orig,
            )
            return
        try:
            self._check_or_create()
        finally:
            # A server that forks now must not hand a connection on.
            if not self._is_shared:
                self.engine.dispose()

    def _check_or_create(self) -> None:
        try:
            self.check()
        except SessionTableError:
            if not self._create_first:
                raise
            self.create()
            self.check()
        self._create_first = False

    def _has_table(self, connection: Connection) -> bool:
        return sa.inspect(connection).has_table(
            self.table.name, schema=self.table.schema
        )

    # -- connections ---------------------------------------------------

    @contextmanager
    def transaction(
        self, prepare: Callable[[Connection], None] = lambda connection: None
    ) -> Iterator[Connection]:
        """Yield a connection in a transaction, committed at the end.

        ``prepare`` is called with it before the transaction begins.
        """
        connection = self._opened(prepare)
        try:
            yield connection
        except BaseException:
            self._end(connection, "ROLLBACK")
            raise
        self._end(connection, "COMMIT")

    def _opened(
        self, prepare: Callable[[Connection], None] = lambda connection: None
    ) -> Connection:
        with translated(self.table.fullname):
            connection = self._connect()
            try:
                prepare(connection)
                self._begin(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _connect(self) -> Connection:
        if self._create_first:
            self.create()
            self._create_first = False
        return self.engine.connect()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Yield a connection on which each statement is a transaction."""
        with translated(self.table.fullname), self._connect() as connection:
            yield connection
            if self._is_shared:
                connection.commit()

    def _begin(self, connection: Connection) -> None:
        if self._is_shared:
            connection.begin()
        else:
            connection.exec_driver_sql(self._begin_text)

    def _close(self, connection: Connection, end: str) -> None:
        if not self._is_shared:
            # SQLite itself rolls back when its disk is full, for instance.
            if end == "COMMIT" or _is_open(connection):
                connection.exec_driver_sql(end)
        elif end == "COMMIT":
            connection.commit()
        else:
            connection.rollback()

    def _end(self, connection: Connection, end: str) -> None:
        if connection.closed:
            return
        try:
            with translated(self.table.fullname):
                self._close(connection, end)
        except Exception:
            # Whatever state it is in, nobody may get this connection.
            connection.invalidate()
            if end == "COMMIT":
                raise
            log.warning("a rollback failed; its connection was dropped")
        finally:
            connection.close()


def sorted_indexes(table: sa.Table) -> list[sa.Index]:
    """Return the table's indexes in a fixed order."""
    return sorted(table.indexes, key=lambda index: str(index.name))


def _is_open(connection: Connection) -> bool:
    """Say whether a transaction is open, as far as the driver knows."""
    driver = connection.connection.dbapi_connection
    return bool(getattr(driver, "in_transaction", True))
