"""The SQL of sessions: every statement, by its name.

Read them, and you know the whole behaviour against the database. Those of
cleaning are in `deadrows`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

# Fits a 32-bit column; compare-and-swap only needs the next to differ.
MAX_VERSION = 2**31 - 1


class Statements:
    """The named statements on one table, built once so that they are cached.

    No upsert, and no insert under a key that came from a cookie: either
    would bring a session back that was ended meanwhile.
    """

    def __init__(self, table: sa.Table) -> None:
        c = table.c
        record = (
            c.id,
            c.session_id,
            c.data,
            c.version,
            c.created_at,
            c.updated_at,
            c.expires_at,
            c.user_id,
            c.profile,
            c.ended,
        )
        by_key = c.session_id == bindparam("key")
        # Writes find their row by the primary key. Would one lock the index
        # on session_id first and another the row, MySQL would find
        # deadlocks between a logout and a write; the concatenation keeps
        # its optimizer from that index.
        key = c.session_id + sa.literal_column("''")
        same = sa.and_(
            c.id == bindparam("row"),
            # One that was read with its plain id may have been hashed since.
            key.in_([bindparam("key"), bindparam("hashed_key")]),
            c.ended.is_(None),
        )
        seen: Any = bindparam("seen", type_=c.updated_at.type)
        # As `limits.moved` says: "ahead" is the one value that goes back.
        moves = sa.or_(
            c.updated_at < seen,
            c.updated_at == bindparam("ahead", type_=c.updated_at.type),
        )
        change: dict[Any, Any] = {
            c.session_id: bindparam("new_key"),
            c.data: bindparam("new_data"),
            c.version: bindparam("new_version"),
            # Another host, or a request that began later, may have touched.
            c.updated_at: sa.case((moves, seen), else_=c.updated_at),
            c.expires_at: bindparam("new_expires"),
            c.user_id: bindparam("new_user"),
            c.profile: bindparam("new_profile"),
        }
        among = c.id.in_(bindparam("ids", expanding=True))
        self.table = table

        self.load = sa.select(*record).where(by_key)
        self.lock = sa.select(*record).where(same).with_for_update()
        self.insert = table.insert()
        self.update = (
            table.update()
            .where(same, c.version == bindparam("old_version"))
            .values(change)
        )
        # Of a tombstone too: its id is as plain.
        self.hash_id = (
            table.update()
            .where(c.id == bindparam("row"), key == bindparam("plain"))
            .values({c.session_id: bindparam("new_key")})
        )
        self.replace = (
            table.update().where(c.id == bindparam("row")).values(change)
        )
        self.touch = (
            table.update()
            .where(same, moves)
            .values(
                {
                    c.updated_at: seen,
                    # Another request may have chosen other limits.
                    c.expires_at: sa.case(
                        (
                            c.profile.is_not_distinct_from(
                                bindparam("old_profile", type_=c.profile.type)
                            ),
                            bindparam("new_expires", type_=seen.type),
                        ),
                        else_=c.expires_at,
                    ),
                }
            )
        )
        # No row, but each column: an error if one is missing.
        self.nothing = sa.select(*record).where(sa.false())
        self.exists = sa.select(c.id).where(same)
        self.delete = table.delete().where(among)
        # Without the data, of which there may be much.
        self.summary = summary = [
            sa.literal("").label("data") if column is c.data else column
            for column in record
        ]
        self.of_user = (
            sa.select(*summary)
            .where(c.user_id == bindparam("user"), c.ended.is_(None))
            .order_by(c.id)
        )
        self.read_all = (
            sa.select(*summary).where(among, c.ended.is_(None)).order_by(c.id)
        )
        self.lock_all = self.read_all.with_for_update()
        until: Any = bindparam("until", type_=c.expires_at.type)
        # What is left is a tombstone; whoever has loaded the row before
        # finds another version.
        self.revoke = (
            table.update()
            .where(among, c.ended.is_(None))
            .values(
                {
                    c.ended: bindparam("reason"),
                    c.data: bindparam("no_data"),
                    c.version: sa.case(
                        (c.version < MAX_VERSION, c.version + 1), else_=1
                    ),
                    c.expires_at: sa.case(
                        (c.expires_at < until, c.expires_at), else_=until
                    ),
                }
            )
        )
