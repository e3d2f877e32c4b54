"""The SQL of pls-upgrade: plain ids are hashed, pickles become JSON.

A walk through the table by ids, batch by batch, while the application runs.
A row is looked at without a lock, and changed if it is then still as it was:
who has changed it meanwhile has hashed its id, and written JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.engine import Connection

from .columntypes import text_of
from .dberrors import translated
from .errors import UnreadableDataError
from .sealing import MARK
from .serializers import Serializer
from .sqlstore import SqlStore
from .statements import bound
from .store import RowId
from .tokens import Secret, is_plain, key_of, parse_token


@dataclass(frozen=True)
class Batch:
    """What came of a batch.

    :ivar last: the id to go on behind, None at the end.
    :ivar counts: rows, by what was done: "hashed", "rewritten"; or why they
        were left alone: "odd" (no cookie can have such an id), "taken" (the
        hash of the id is another row's), "sealed" (encrypted: only the
        browser has the key), "unreadable", "too_large".
    """

    last: RowId | None
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Rewriting:
    row: RowId
    version: int
    old: Secret = field(repr=False)
    text: Secret = field(repr=False)


class Upgrade:
    """A walk through the table of a store.

    Args:
        store: where the sessions are.
        serializer: rewrites what is not JSON; None: only ids are hashed.
        limit: ``max_data_size``; what is larger as JSON stays as it is.
        is_dry: nothing is written, only counted.
    """

    def __init__(
        self,
        store: SqlStore,
        *,
        serializer: Serializer | None,
        limit: int | None,
        is_dry: bool,
    ) -> None:
        self._store = store
        self._serializer = serializer
        self._limit = limit
        self._is_dry = is_dry
        c = store.statements.columns
        data = text_of(store.table.c.data)
        due = ~c.session_id.startswith("2::")
        if serializer is not None:
            pickled = sa.and_(c.ended.is_(None), ~data.startswith("{"))
            due = sa.or_(due, pickled)
        self._c = c
        self._due = due
        self._is_sealed = data.startswith(MARK).label("is_sealed")
        self._keys = sa.select(c.session_id).where(
            c.session_id.in_(bindparam("keys", expanding=True))
        )
        self._content = sa.select(
            c.version.label("version"), data.label("data")
        ).where(c.id == bindparam("row"))
        self._rewrite = (
            store.table.update()
            .where(c.id == bindparam("pls_row"), store.statements.unchanged)
            .values({store.table.c.data: bindparam("pls_text")})
        )

    def _page(self, after: RowId | None, most: int) -> Any:
        c = self._c
        query = sa.select(
            c.id.label("id"),
            c.session_id,
            c.ended.label("ended"),
            self._is_sealed,
        )
        query = query.where(self._due).order_by(c.id).limit(most)
        return query if after is None else query.where(c.id > after)

    def batch(self, *, after: RowId | None, most: int) -> Batch:
        """Deal with the next rows behind an id, at most so many.

        One transaction, which holds locks for as long as it takes to write
        so many rows. Raises as a store does; then nothing was done, and the
        same batch may be tried again.
        """
        counts: Counter[str] = Counter()
        with self._store.autocommit() as connection:
            rows = connection.execute(self._page(after, most)).all()
            if not rows:
                return Batch(None)
            plain = self._to_hash(connection, rows, counts)
            rewritings = self._to_rewrite(connection, rows, counts)
        if self._is_dry:
            counts.update(hashed=len(plain), rewritten=len(rewritings))
        elif plain or rewritings:
            self._write(plain, rewritings, counts)
        return Batch(rows[-1].id if len(rows) == most else None, counts)

    def _to_hash(
        self, connection: Connection, rows: Iterable[Any], counts: Counter[str]
    ) -> dict[RowId, Secret]:
        """Return the plain ids that are to be hashed, by their rows."""
        plain = {}
        for row in rows:
            if parse_token(row.session_id, legacy=True):
                plain[row.id] = row.session_id
            else:
                counts["odd"] += is_plain(row.session_id)
        keys = [key_of(each) for each in plain.values()]
        # Somebody who does not know of hashes may have made the row anew.
        taken = set(connection.execute(self._keys, {"keys": keys}).scalars())
        counts["taken"] += len(taken)
        return {
            row: each
            for row, each in plain.items()
            if key_of(each) not in taken
        }

    def _to_rewrite(
        self, connection: Connection, rows: Iterable[Any], counts: Counter[str]
    ) -> list[_Rewriting]:
        rewritings: list[_Rewriting] = []
        if self._serializer is None:
            return rewritings
        # A tombstone has no data.
        for row in (row for row in rows if row.ended is None):
            if row.is_sealed:
                counts["sealed"] += 1
                continue
            try:
                found = self._rewriting(connection, row.id, self._serializer)
            except UnreadableDataError:
                counts["unreadable"] += 1
                continue
            if found is None:
                continue
            # JSON is ASCII: one byte a character.
            if self._limit is not None and len(found.text) > self._limit:
                counts["too_large"] += 1
            else:
                rewritings.append(found)
        return rewritings

    def _rewriting(
        self, connection: Connection, row: RowId, serializer: Serializer
    ) -> _Rewriting | None:
        """Return what is to be written, None if it is written as it is."""
        # One row at a time: data may be large, and one may not be text.
        with translated(self._store.table.fullname):
            found = connection.execute(self._content, {"row": row}).first()
        if found is None:
            return None
        text = serializer.as_written(found.data)
        if text == found.data:
            return None
        return _Rewriting(row, found.version, found.data, Secret(text))

    def _write(
        self,
        plain: dict[RowId, Secret],
        rewritings: list[_Rewriting],
        counts: Counter[str],
    ) -> None:
        # In the order of the ids, as everybody locks rows.
        new = {each.row: each for each in rewritings}
        hashing = self._store.statements.hash_id
        name = self._store.table.fullname
        with translated(name), self._store.transaction() as connection:
            for row in sorted({*plain, *new}):
                # First what finds the row by its id, which may be the key.
                if row in new:
                    done = connection.execute(
                        self._rewrite,
                        bound(
                            {
                                "row": row,
                                "old_version": new[row].version,
                                "old_data": new[row].old,
                                "text": new[row].text,
                            }
                        ),
                    )
                    counts["rewritten"] += done.rowcount
                if row in plain:
                    key = plain[row]
                    values = {"row": row, "plain": key, "new_key": key_of(key)}
                    done = connection.execute(hashing, bound(values))
                    counts["hashed"] += done.rowcount
