"""A store of one's own: hand-written SQL on Python's own driver for SQLite."""

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from pyramid_limitedsession.errors import SessionBusyError
from pyramid_limitedsession.limits import CLOCK_SKEW
from pyramid_limitedsession.store import Record, transaction_of
from pyramid_limitedsession.tokens import Secret, hashed

# The columns are those of a Record, in its order.
TABLE = """
CREATE TABLE IF NOT EXISTS web_sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
    data TEXT NOT NULL, version INTEGER NOT NULL, created INTEGER NOT NULL,
    seen INTEGER NOT NULL, expires INTEGER, user TEXT, profile TEXT,
    ended TEXT);
CREATE INDEX IF NOT EXISTS web_sessions_user ON web_sessions (user);
CREATE INDEX IF NOT EXISTS web_sessions_expires ON web_sessions (expires)"""
LOAD = "SELECT * FROM web_sessions WHERE key = ?"
LOCK = """SELECT * FROM web_sessions
    WHERE id = :id AND key IN (:key, :hashed) AND ended IS NULL"""
LOCK_ANY = "SELECT * FROM web_sessions WHERE id = ? AND ended IS NULL"
INSERT = """INSERT INTO web_sessions VALUES (NULL, :key, :data, :version,
    :created, :seen, :expires, :user, :profile, NULL)"""
REPLACE = """UPDATE web_sessions
    SET key = :hashed, data = :data, version = :version, user = :user,
        profile = :profile, expires = :expires,
        seen = CASE WHEN seen = :ahead THEN :seen ELSE max(seen, :seen) END
    WHERE id = :row"""
TOUCH = """UPDATE web_sessions
    SET seen = :seen,
        expires = CASE WHEN profile IS :profile THEN :expires ELSE expires END
    WHERE id = :row AND (seen < :seen OR seen = :ahead)"""
HASH = "UPDATE web_sessions SET key = :hashed WHERE id = :id AND key = :key"
DELETE = "DELETE FROM web_sessions WHERE id = ?"
OF_USER = """SELECT * FROM web_sessions
    WHERE user = ? AND ended IS NULL ORDER BY id"""
REVOKE = """UPDATE web_sessions
    SET ended = :reason, data = '', version = version + 1,
        expires = min(coalesce(expires, :until), :until)
    WHERE id = :id AND ended IS NULL"""
DUE = "SELECT * FROM web_sessions WHERE expires <= ? ORDER BY expires"


class BypassWork:
    """A transaction: one writer at a time, so what it reads is locked."""

    def __init__(self, connection):
        self._connection = connection

    def _run(self, statement, values):
        with busy():
            return self._connection.execute(statement, values)

    def _all(self, statement, values):
        return [record_of(row) for row in self._run(statement, values)]

    def load(self, key):
        return next(iter(self._all(LOAD, [key])), None)

    def lock(self, record):
        return next(iter(self._all(LOCK, values_of(record))), None)

    def insert(self, record):
        return self._run(INSERT, values_of(record)).lastrowid

    def update(self, record, *, old):
        row = self.lock(old)
        if row is None or row.version != old.version:
            return False
        self.replace(record, old=old)
        return True

    def replace(self, record, *, old):
        ahead = ahead_of(old, record.seen)
        row = {"row": old.id, "ahead": ahead}
        self._run(REPLACE, values_of(record) | row)

    def touch(self, record, *, seen, expires):
        if self.lock(record) is None:
            return False
        new = {"row": record.id, "ahead": ahead_of(record, seen)}
        new |= {"seen": seen, "expires": expires}
        self._run(TOUCH, values_of(record) | new)
        return True

    def hash_id(self, record):
        done = self._run(HASH, values_of(record))
        return record if done.rowcount else None

    def delete(self, ids):
        for row in ids:
            self._run(DELETE, [row])

    def of_user(self, user):
        return self._all(OF_USER, [user])

    def lock_all(self, ids):
        return [row for id in sorted(ids) for row in self._all(LOCK_ANY, [id])]

    def revoke(self, ids, *, reason, until):
        for row in ids:
            values = {"id": row, "reason": reason, "until": until}
            self._run(REVOKE, values)

    def clean(self, cutoffs, most):
        due = self._all(DUE, [cutoffs.now])
        dead = [row.id for row in due if cutoffs.is_dead(row)][:most]
        self.delete(dead)
        return len(dead)

    def commit(self):
        with closing(self._connection), busy():
            self._connection.execute("COMMIT")

    def rollback(self):
        # Closed without a COMMIT, nothing has happened.
        self._connection.close()


@dataclass(frozen=True)
class BypassStore:
    """Sessions in a file; each call has a connection of its own."""

    path: str
    patience: int = 5
    commits_last = True

    def _connect(self):
        # Python is to begin no transactions of its own.
        return sqlite3.connect(
            self.path, timeout=self.patience, isolation_level=None
        )

    def begin(self):
        connection = self._connect()
        try:
            with busy():
                connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            connection.close()
            raise
        return BypassWork(connection)

    def load(self, key):
        with closing(self._connect()) as connection:
            return BypassWork(connection).load(key)

    def of_user(self, user):
        with closing(self._connect()) as connection:
            return BypassWork(connection).of_user(user)

    def touch(self, record, *, seen, expires):
        with transaction_of(self) as work:
            return work.touch(record, seen=seen, expires=expires)

    def hash_id(self, record):
        with transaction_of(replace(self, patience=0)) as work:
            done = work.hash_id(record)
        return done and replace(record, key=hashed(record.key))

    def clean(self, *, cutoffs, most):
        try:
            with transaction_of(replace(self, patience=0)) as work:
                return work.clean(cutoffs, most)
        except SessionBusyError:
            return None


@contextmanager
def busy():
    """Tell what means "try again" from what is broken."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        raise SessionBusyError("SQLITE_BUSY") from error


def record_of(row):
    row_id, key, data, version, created, seen, expires, user, *rest = row
    user = None if user is None else Secret(user)
    times = (created, seen, expires)
    return Record(
        row_id, Secret(key), Secret(data), version, *times, user, *rest
    )


def values_of(record):
    return vars(record) | {"hashed": hashed(record.key)}


def ahead_of(record, seen):
    """The one activity that goes back: a known one that is far ahead."""
    return record.seen if record.seen > seen + CLOCK_SKEW else None


def make_store(settings):
    """What the setting limitedsession.store names."""
    path = settings["bypass.path"]
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLE)
    return BypassStore(path)
