"""Sessions in the memory of one process, for the tests of applications.

A store with real transactions: others see what is committed, and a rollback
undoes it. As with SQLite one writes at a time, and who comes second waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from .errors import SessionBusyError
from .limits import CLOCK_SKEW, Cutoffs
from .store import Record, RowId, Work, transaction_of
from .tokens import Secret, hashed

Rows = dict[RowId, Record]
_NOTHING = Secret("")


class MemoryStore:
    """`Store` in memory; gone with the process.

    Two applications share its content only if both are given the same one.

    :ivar lock_timeout: seconds to wait for another writer at most.
    """

    commits_last = True

    def __init__(self, *, lock_timeout: float = 5.0) -> None:
        self.lock_timeout = lock_timeout
        # Of whoever writes. A work may end in another thread than it began.
        self._writing = threading.Lock()
        # What is committed; replaced as a whole, never changed.
        self._rows: Rows = {}
        self._last_id = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._rows)} sessions>"

    def __len__(self) -> int:
        return len(self._rows)

    def clear(self) -> None:
        """Forget all sessions, as between two tests."""
        with transaction_of(self) as work:
            work.delete(list(self._rows))

    # -- as a store ----------------------------------------------------

    def load(self, key: str) -> Record | None:
        """See `Store`."""
        return _with_key(self._rows, key)

    def hash_id(self, record: Record) -> Record | None:
        """See `Store`."""
        work = self._begin(0)
        done = work.hash_id(record)
        work.commit()
        return done and replace(record, key=hashed(record.key))

    def begin(self) -> Work:
        """See `Store`."""
        return self._begin(self.lock_timeout)

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """See `Store`."""
        with transaction_of(self) as work:
            return work.touch(record, seen=seen, expires=expires)

    def of_user(self, user: str) -> list[Record]:
        """See `Store`."""
        return _of_user(self._rows, user)

    def clean(self, *, cutoffs: Cutoffs, most: int) -> int | None:
        """See `Store`."""
        try:
            work = self._begin(0)
        except SessionBusyError:
            return None
        dead = sorted(_dead(self._rows, cutoffs))[:most]
        work.delete(row for _, row in dead)
        work.commit()
        return len(dead)

    def _begin(self, patience: float) -> MemoryWork:
        if not self._writing.acquire(timeout=patience):
            raise SessionBusyError("another writer")
        return MemoryWork(dict(self._rows), self._new_id, self._end)

    def _new_id(self) -> int:
        # Also of one that was rolled back: no id is given twice.
        self._last_id += 1
        return self._last_id

    def _end(self, rows: Rows | None) -> None:
        if rows is not None:
            self._rows = rows
        self._writing.release()


class MemoryWork:
    """`Work` on a copy of the rows, which a commit puts in their place."""

    def __init__(
        self,
        rows: Rows,
        new_id: Callable[[], int],
        end: Callable[[Rows | None], None],
    ) -> None:
        self._rows = rows
        self._new_id = new_id
        self._end = end
        self._is_open = True

    def load(self, key: str) -> Record | None:
        """See `Work`."""
        return _with_key(self._rows, key)

    def hash_id(self, record: Record) -> Record | None:
        """See `Work`."""
        row = self._rows.get(record.id)
        if row is None or row.key != record.key:
            return None
        self._rows[row.id] = replace(row, key=hashed(row.key))
        return record

    def lock(self, record: Record) -> Record | None:
        """See `Work`. Nobody else can write."""
        row = self._rows.get(record.id)
        is_same = (
            row is not None
            and row.ended is None
            and row.key in (record.key, hashed(record.key))
        )
        return row if is_same else None

    def insert(self, record: Record) -> RowId:
        """See `Work`."""
        if self.load(record.key) is not None:
            raise ValueError("there is a row with this key already")
        row = self._new_id()
        self._rows[row] = replace(record, id=row, others={})
        return row

    def update(self, record: Record, *, old: Record) -> bool:
        """See `Work`."""
        row = self.lock(old)
        if row is None or row.version != old.version:
            return False
        self.replace(record, old=old)
        return True

    def replace(self, record: Record, *, old: Record) -> None:
        """See `Work`."""
        row = self._rows[old.id]
        self._rows[old.id] = replace(
            row,
            key=hashed(record.key),
            data=record.data,
            version=record.version,
            seen=_moved(row.seen, record.seen, old.seen),
            expires=record.expires,
            user=record.user,
            profile=record.profile,
        )

    def delete(self, ids: Iterable[RowId]) -> None:
        """See `Work`."""
        for row in ids:
            self._rows.pop(row, None)

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """See `Work`."""
        row = self.lock(record)
        if row is None:
            return False
        moved = _moved(row.seen, seen, record.seen)
        if moved != row.seen:
            is_same = row.profile == record.profile
            self._rows[row.id] = replace(
                row, seen=moved, expires=expires if is_same else row.expires
            )
        return True

    def of_user(self, user: str) -> list[Record]:
        """See `Work`."""
        return _of_user(self._rows, user)

    def lock_all(self, ids: Iterable[RowId]) -> list[Record]:
        """See `Work`."""
        rows = [self._rows[row] for row in sorted({*ids} & {*self._rows})]
        return [_summary(row) for row in rows if row.ended is None]

    def revoke(self, ids: Iterable[RowId], *, reason: str, until: int) -> None:
        """See `Work`."""
        for row in self.lock_all(ids):
            expires = until if row.expires is None else row.expires
            self._rows[row.id] = replace(
                # With its data's place, see `_summary`.
                row,
                version=row.version + 1,
                expires=min(expires, until),
                ended=reason,
            )

    def commit(self) -> None:
        """See `Work`."""
        self._close(self._rows)

    def rollback(self) -> None:
        """See `Work`."""
        self._close(None)

    def _close(self, rows: Rows | None) -> None:
        if self._is_open:
            self._is_open = False
            self._end(rows)


def _with_key(rows: Rows, key: str) -> Record | None:
    found = (row for row in rows.values() if row.key == key)
    return next(found, None)


def _of_user(rows: Rows, user: str) -> list[Record]:
    found = [
        _summary(row)
        for row in rows.values()
        if row.user == user and row.ended is None
    ]
    return sorted(found, key=lambda row: row.id)


def _summary(row: Record) -> Record:
    return replace(row, data=_NOTHING)


def _dead(rows: Rows, cutoffs: Cutoffs) -> Iterator[tuple[int, RowId]]:
    """Yield what cleaning may take: since when, and its id."""
    for row in rows.values():
        if row.expires is None or row.expires > cutoffs.now:
            continue
        if cutoffs.is_dead(row):
            yield row.expires, row.id


def _moved(stored: int | None, seen: int | None, known: int | None) -> int:
    """Return the last activity: as `limits.moved`, and only a known value
    goes back."""
    stored, seen = stored or 0, seen or 0
    is_ahead = stored == known and stored > seen + CLOCK_SKEW
    return seen if is_ahead else max(stored, seen)
