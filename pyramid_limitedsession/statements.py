"""The SQL: every statement on the sessions table, by its name.

Read them, and you know the whole behaviour against the database.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam


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
        )
        by_key = c.session_id == bindparam("key")
        # Writes find their row by the primary key. Would one lock the index
        # on session_id first and another the row, MySQL would find
        # deadlocks between a logout and a write; the concatenation keeps
        # its optimizer from that index.
        key = c.session_id + sa.literal_column("''")
        same = sa.and_(c.id == bindparam("row"), key == bindparam("key"))
        seen: Any = bindparam("seen", type_=c.updated_at.type)
        change: dict[Any, Any] = {
            c.session_id: bindparam("new_key"),
            c.data: bindparam("new_data"),
            c.version: bindparam("new_version"),
            # Another host, or a request that began later, may have touched.
            c.updated_at: sa.case(
                (c.updated_at < seen, seen), else_=c.updated_at
            ),
            c.expires_at: bindparam("new_expires"),
        }
        # The same times as `Limits.cutoffs`. A row without times is damaged
        # and never loaded again.
        dead = sa.or_(
            c.updated_at <= bindparam("idle_cutoff"),
            c.created_at <= bindparam("absolute_cutoff"),
            c.updated_at.is_(None),
            c.created_at.is_(None),
        )
        most = bindparam("most", type_=sa.Integer)
        among = c.id.in_(bindparam("ids", expanding=True))

        self.load = sa.select(*record).where(by_key)
        self.lock = sa.select(*record).where(same).with_for_update()
        self.insert = table.insert()
        self.update = (
            table.update()
            .where(same, c.version == bindparam("old_version"))
            .values(change)
        )
        self.replace = (
            table.update().where(c.id == bindparam("row")).values(change)
        )
        self.touch = (
            table.update()
            .where(same, c.updated_at < seen)
            .values(
                {c.updated_at: seen, c.expires_at: bindparam("new_expires")}
            )
        )
        # No row, but each column: an error if one is missing.
        self.nothing = sa.select(*record).where(sa.false())
        self.exists = sa.select(c.id).where(same)
        self.delete = table.delete().where(among)
        # Trimming: read ids without a lock, then delete those that are
        # still dead. A list of ids alone would kill a session that was
        # touched in between.
        self.expired = (
            sa.select(c.id)
            .where(c.expires_at <= bindparam("now"), dead)
            .order_by(c.expires_at)
            .limit(most)
        )
        self.dead = (
            sa.select(c.id)
            .where(c.id > bindparam("after"), dead)
            .order_by(c.id)
            .limit(most)
        )
        self.count_dead = sa.select(sa.func.count()).where(dead)
        self.delete_dead = table.delete().where(among, dead)
