"""`Work` in SQL: sessions on one database connection.

What it executes is in `statements`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy.engine import Connection

from .dberrors import translated
from .limits import CLOCK_SKEW
from .readers import LARGEST_BATCH
from .statements import Statements, bound
from .store import Record, RowId
from .tokens import Secret, hashed, is_plain


class SqlWork:
    """`Work` on one SQLAlchemy connection."""

    def __init__(
        self,
        statements: Statements,
        connection: Connection,
        close: Callable[[str], None] = lambda end: None,
    ) -> None:
        self._sql = statements
        self._connection = connection
        self._close = close

    def _run(self, statement: Any, values: dict[str, Any]) -> Any:
        with translated(self._sql.table.fullname):
            return self._connection.execute(statement, bound(values))

    def _first(self, statement: Any, values: dict[str, Any]) -> Any:
        with translated(self._sql.table.fullname):
            return self._connection.execute(statement, bound(values)).first()

    def load(self, key: str) -> Record | None:
        """See `Work`."""
        record = _record(self._first(self._sql.load, {"key": key}))
        # MariaDB ignores blanks at the end, and a table that we did not
        # make may have a collation that ignores more.
        return record if record and record.key == key else None

    def hash_id(self, record: Record) -> Record | None:
        """See `Work`."""
        values = {
            "row": record.id,
            "plain": record.key,
            "new_key": hashed(record.key),
        }
        is_there = self._run(self._sql.hash_id, values).rowcount
        return record if is_there else None

    def lock(self, record: Record) -> Record | None:
        """See `Work`. SQLite has no row locks and needs none: one writer."""
        return _record(self._first(self._sql.lock, _same(record)))

    def insert(self, record: Record) -> RowId:
        """See `Work`."""
        values = {
            "session_id": record.key,
            "data": record.data,
            "version": record.version,
            "created_at": record.created,
            "updated_at": record.seen,
            "expires_at": record.expires,
            "user_id": record.user,
            "profile": record.profile,
            "ended": record.ended,
            **record.others,
        }
        present = {
            name: value
            for name, value in values.items()
            if name in self._sql.table.c
        }
        with translated(self._sql.table.fullname):
            result: Any = self._connection.execute(self._sql.insert, present)
        return result.inserted_primary_key[0]

    def update(self, record: Record, *, old: Record) -> bool:
        """See `Work`."""
        where = _same(old) | {
            "old_version": old.version,
            "old_data": old.data,
        }
        statement = self._sql.with_others(self._sql.update, record.others)
        result = self._run(statement, _change(record, old) | where)
        return bool(result.rowcount)

    def replace(self, record: Record, *, old: Record) -> None:
        """See `Work`."""
        statement = self._sql.with_others(self._sql.replace, record.others)
        self._run(statement, _change(record, old) | {"row": old.id})

    def delete(self, ids: Iterable[RowId]) -> None:
        """See `Work`."""
        ids = list(ids)
        if self._sql.is_keyed:
            # What was plain may have been hashed since.
            ids += [hashed(each) for each in ids if is_plain(each)]
        for batch in _batches(ids):
            self._run(self._sql.delete, {"ids": batch})

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """See `Work`."""
        same = _same(record)
        values = same | _activity(seen, expires, record)
        values["old_profile"] = record.profile
        if self._run(self._sql.touch, values).rowcount:
            return True
        # No row moved: it is gone, or a later request touched it.
        return self._first(self._sql.exists, same) is not None

    def of_user(self, user: str) -> list[Record]:
        """See `Work`. Raises SessionError if the table knows no users."""
        self._sql.require_users()
        records = self._all(self._sql.of_user, {"user": user})
        # MySQL ignores blanks at the end.
        return [record for record in records if record.user == user]

    def lock_all(self, ids: Iterable[RowId]) -> list[Record]:
        """See `Work`."""
        return self._each(self._sql.lock_all, ids)

    def _each(self, statement: Any, ids: Iterable[RowId]) -> list[Record]:
        return [
            record
            for batch in _batches(ids)
            for record in self._all(statement, {"ids": batch})
        ]

    def _all(self, statement: Any, values: dict[str, Any]) -> list[Record]:
        with translated(self._sql.table.fullname):
            rows = self._connection.execute(statement, bound(values)).all()
        return [Record(*row) for row in rows]

    def revoke(self, ids: Iterable[RowId], *, reason: str, until: int) -> None:
        """See `Work`."""
        if not self._sql.has_tombstones:
            self.delete(ids)
            return
        # What a column of JSON takes.
        nothing = Secret("{}" if self._sql.is_native else "")
        values = {"reason": reason, "no_data": nothing, "until": until}
        for batch in _batches(ids):
            self._run(self._sql.revoke, values | {"ids": batch})

    def commit(self) -> None:
        """See `Work`."""
        self._close("COMMIT")

    def rollback(self) -> None:
        """See `Work`."""
        self._close("ROLLBACK")


def _record(row: Any) -> Record | None:
    return None if row is None else Record(*row)


def _batches(ids: Iterable[RowId]) -> list[list[RowId]]:
    ids = list(ids)
    starts = range(0, len(ids), LARGEST_BATCH)
    return [ids[start : start + LARGEST_BATCH] for start in starts]


def _same(record: Record) -> dict[str, Any]:
    return {
        "row": record.id,
        "key": record.key,
        "hashed_key": hashed(record.key),
    }


def _change(record: Record, old: Record) -> dict[str, Any]:
    return {
        "new_key": hashed(record.key),
        "new_data": record.data,
        "new_version": record.version,
        "new_user": record.user,
        "new_profile": record.profile,
        **{f"other_{name}": each for name, each in record.others.items()},
    } | _activity(record.seen or 0, record.expires, old)


def _activity(seen: int, expires: int | None, old: Record) -> dict[str, Any]:
    # NULL is equal to no row's: nothing goes back.
    is_ahead = (old.seen or 0) > seen + CLOCK_SKEW
    ahead = old.seen if is_ahead else None
    return {"seen": seen, "ahead": ahead, "new_expires": expires}
