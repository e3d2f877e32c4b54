"""The SQL of sessions: every statement, by its name.

Read them, and you know the whole behaviour against the database. Those of
cleaning are in `deadrows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects import mysql

from .columntypes import MYSQL, SecretJSON, SecretText, text_of
from .errors import SessionError
from .schema import columns_of

# Fits a 32-bit column; compare-and-swap only needs the next to differ.
MAX_VERSION = 2**31 - 1
# Before the name of each value: an application's own column of that name
# would be taken for it otherwise.
BIND = "pls_"


def bound(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the statements here call them."""
    return {BIND + name: value for name, value in values.items()}


def _bind(name: str, **options: Any) -> Any:
    return bindparam(BIND + name, **options)


class Statements:
    """The named statements on one table, built once so that they are cached.

    No upsert, and no insert under a key that came from a cookie: either
    would bring a session back that was ended meanwhile.
    """

    def __init__(
        self, table: sa.Table, *, dialect: str, most: int | None = None
    ) -> None:
        c = columns_of(table)
        self._dialect = dialect
        self.table = table
        self.columns = c
        # The key itself is the primary key.
        self.is_keyed = "id" not in table.c
        # A tombstone stays until it is trimmed.
        self.has_tombstones = {"ended", "expires_at"} <= set(table.c.keys())
        self.is_native = isinstance(table.c.data.type, SecretJSON)
        record = [
            c.id.label("id"),
            c.session_id,
            self._data(most),
            c.version.label("version"),
            c.created_at,
            c.updated_at,
            *(c.expires_at.label("expires_at"), c.user_id.label("user_id")),
            *(c.profile.label("profile"), c.ended.label("ended")),
        ]
        # Without the data, of which there may be much.
        self.summary = list(record)
        self.summary[2] = sa.literal("").label("data")
        same, self.unchanged = self._same(), self._unchanged()
        among = c.id.in_(_bind("ids", expanding=True))
        seen: Any = _bind("seen", type_=c.updated_at.type)
        # As `limits.moved` says: "ahead" is the one value that goes back.
        moves = sa.or_(
            c.updated_at < seen,
            c.updated_at == _bind("ahead", type_=c.updated_at.type),
        )
        change = self._present(
            {
                "session_id": _bind("new_key"),
                "data": _bind("new_data"),
                "version": _bind("new_version"),
                # Another host, or a later request, may have touched.
                "updated_at": sa.case((moves, seen), else_=c.updated_at),
                "expires_at": _bind("new_expires"),
                "user_id": _bind("new_user"),
                "profile": _bind("new_profile"),
            }
        )
        by_id = c.id == _bind("row")

        self.load = sa.select(*record).where(c.session_id == _bind("key"))
        self.lock = sa.select(*record).where(same).with_for_update()
        self.insert = table.insert()
        self.update = table.update().where(same, self.unchanged).values(change)
        # Of a tombstone too: its id is as plain.
        self.hash_id = (
            table.update()
            .where(by_id, self._key() == _bind("plain"))
            .values({c.session_id: _bind("new_key")})
        )
        self.replace = table.update().where(by_id).values(change)
        self.touch = (
            table.update()
            .where(same, moves)
            .values(
                self._present(
                    {"updated_at": seen, "expires_at": self._new_expiry()}
                )
            )
        )
        # No row, but each column: an error if one is missing.
        self.nothing = sa.select(*record).where(sa.false())
        self.exists = sa.select(c.id).where(same)
        self.delete = table.delete().where(among)
        self.of_user = (
            sa.select(*self.summary)
            .where(c.user_id == _bind("user"), c.ended.is_(None))
            .order_by(c.id)
        )
        self.read_all = (
            sa.select(*self.summary)
            .where(among, c.ended.is_(None))
            .order_by(c.id)
        )
        self.lock_all = self.read_all.with_for_update()
        self.revoke = self._tombstone(among)

    def _present(self, values: dict[str, Any]) -> dict[Any, Any]:
        """Leave out what the table has no column for."""
        c = self.table.c
        return {c[name]: each for name, each in values.items() if name in c}

    def _data(self, most: int | None) -> Any:
        """Return the data as text, NULL if it is more than ``most`` bytes.

        What is larger is not fetched: it would be refused in any case.
        """
        data = text_of(self.table.c.data)
        if most is None:
            return data.label("data")
        size = size_of(data, self._dialect)
        return sa.case((size <= most, data)).label("data")

    def _key(self) -> Any:
        # Writes find their row by the primary key. Would one lock the index
        # on session_id first and another the row, MySQL would find
        # deadlocks between a logout and a write; the concatenation keeps
        # its optimizer from that index.
        key = self.columns.session_id
        return key if self.is_keyed else key + sa.literal_column("''")

    def _same(self) -> Any:
        """Return the condition that a row is still that of a session."""
        c = self.columns
        # One that was read with its plain id may have been hashed since.
        keys: list[Any] = [_bind("key"), _bind("hashed_key")]
        by_key = self._key().in_(keys)
        if self.is_keyed:
            return sa.and_(by_key, c.ended.is_(None))
        return sa.and_(c.id == _bind("row"), by_key, c.ended.is_(None))

    def _unchanged(self) -> Any:
        """Return the condition that nobody has changed the data since."""
        if "version" in self.table.c:
            return self.table.c.version == _bind("old_version")
        # What is taken for changed in vain is merged, and nothing is lost.
        data = text_of(self.table.c.data)
        return self.exactly(data, _bind("old_data", type_=SecretText()))

    def exactly(self, column: Any, text: Any) -> Any:
        """Return the condition that they are the same, byte by byte.

        A table's collation may take other texts for equal.
        """
        if self._dialect in MYSQL:
            return sa.cast(column, mysql.BINARY) == sa.cast(text, mysql.BINARY)
        if self._dialect == "sqlite":
            blob = sa.LargeBinary
            return sa.cast(column, blob) == sa.cast(text, blob)
        return sa.collate(column, "C") == text

    def _new_expiry(self) -> Any:
        """Return what a touch makes of ``expires_at``."""
        c, kind = self.columns, self.columns.updated_at.type
        new: Any = _bind("new_expires", type_=kind)
        if "profile" not in self.table.c:
            return new
        # Another request may have chosen other limits.
        old = _bind("old_profile", type_=c.profile.type)
        return sa.case(
            (c.profile.is_not_distinct_from(old), new), else_=c.expires_at
        )

    def _tombstone(self, among: Any) -> Any:
        """Return what leaves a tombstone of rows.

        Whoever has loaded the row before finds another version, or data.
        """
        c = self.columns
        until: Any = _bind("until", type_=c.expires_at.type)
        return (
            self.table.update()
            .where(among, c.ended.is_(None))
            .values(
                self._present(
                    {
                        "ended": _bind("reason"),
                        "data": _bind("no_data"),
                        "version": sa.case(
                            (c.version < MAX_VERSION, c.version + 1), else_=1
                        ),
                        "expires_at": sa.case(
                            (c.expires_at < until, c.expires_at), else_=until
                        ),
                    }
                )
            )
        )

    def require_users(self) -> None:
        """Raise SessionError if no row says whose session it is.

        To find none of a user's sessions would be wrong.
        """
        if "user_id" not in self.table.c:
            raise SessionError(
                f"the table {self.table.fullname!r} has no column 'user_id': "
                "it is not known whose sessions are in it"
            )

    def with_others(self, statement: Any, names: Iterable[str]) -> Any:
        """Return a statement that fills further columns, too."""
        others: dict[Any, Any] = {
            self.table.c[name]: _bind(f"other_{name}") for name in names
        }
        return statement.values(others) if others else statement


def size_of(data: Any, dialect: str) -> Any:
    """Return the bytes of a text as it is stored."""
    if dialect in MYSQL:
        return sa.func.length(data, type_=sa.Integer)
    if dialect == "sqlite":
        # Of a text it counts characters.
        blob = sa.cast(data, sa.LargeBinary)
        return sa.func.length(blob, type_=sa.Integer)
    return sa.func.octet_length(data, type_=sa.Integer)
