"""The table: its columns, its types, its indexes.

`make_table` adds it to any ``MetaData``, for instance to an application's
own, where Alembic finds it; `SessionMixin` makes it a declarative class.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapped
from sqlalchemy.types import TypeDecorator, TypeEngine

from .tokens import Secret
from .users import USER_LENGTH

# Room for "2::" and 64 hex digits, and for other versions to come.
_KEY_LENGTH = 80
_PROFILE_LENGTH = 40
_REASON_LENGTH = 20
MYSQL = ("mysql", "mariadb")


class UTCSeconds(TypeDecorator[int]):
    """Whole seconds since the epoch here, a UTC date and time there.

    The column has no time zone, so that no zone of a process, a server or a
    database session can shift it. What is no time reads as None.
    """

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(
        self, value: int | None, dialect: Dialect
    ) -> datetime.datetime | None:
        """Return the moment as SQLAlchemy wants it."""
        if value is None:
            return None
        moment = datetime.datetime.fromtimestamp(value, datetime.timezone.utc)
        return moment.replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """Return the moment's seconds."""
        if not isinstance(value, datetime.datetime):
            return None
        return int(value.replace(tzinfo=datetime.timezone.utc).timestamp())

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], int | None] | None:
        """Return a reader that takes a damaged time (SQLite) as None."""
        read = super().result_processor(dialect, coltype)

        def read_or_none(value: Any) -> int | None:
            try:
                return read(value) if read is not None else None
            except (ValueError, TypeError):
                return None

        return read_or_none


class _SecretType(TypeDecorator[str]):
    # Both ways as Secret: echo prints parameters and rows by their repr.
    impl: Any = sa.Text
    cache_ok = True

    def process_bind_param(
        self, value: str | None, dialect: Dialect
    ) -> Secret | None:
        return None if value is None else Secret(value)

    def process_result_value(
        self, value: Any, dialect: Dialect
    ) -> Secret | None:
        return None if value is None else Secret(value)


class SecretKey(_SecretType):
    """The hash of a token.

    ASCII and compared byte by byte on MySQL and MariaDB, whose default
    collations take other-case, accented and blank-padded keys for equal.
    """

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of this database."""
        if dialect.name in MYSQL:
            return _binary(_KEY_LENGTH, "ascii")
        return sa.String(_KEY_LENGTH)


class SecretText(_SecretType):
    """The serialized data.

    LONGTEXT on MySQL and MariaDB: TEXT ends at 64 kB there, and a
    non-strict server cuts what is longer without an error.
    """

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of this database."""
        if dialect.name in MYSQL:
            return mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin")
        return sa.Text()


class SecretUser(_SecretType):
    """Who a session is of: as secret as what else is in it."""

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of this database."""
        if dialect.name in MYSQL:
            return _binary(USER_LENGTH, "utf8mb4")
        return sa.String(USER_LENGTH)


def _binary(length: int, charset: str) -> TypeEngine[Any]:
    return mysql.VARCHAR(length, charset=charset, collation=f"{charset}_bin")


def _plain(length: int, charset: str = "ascii") -> TypeEngine[Any]:
    return sa.String(length).with_variant(_binary(length, charset), *MYSQL)


@dataclass(frozen=True)
class _Types:
    """The types of columns that we read in our own way.

    By default SQLAlchemy's own: what a migration makes.
    """

    key: TypeEngine[Any] = field(default_factory=lambda: _plain(_KEY_LENGTH))
    data: TypeEngine[Any] = field(
        default_factory=lambda: sa.Text().with_variant(
            mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL
        )
    )
    moment: TypeEngine[Any] = field(default_factory=sa.DateTime)
    user: TypeEngine[Any] = field(
        default_factory=lambda: _plain(USER_LENGTH, "utf8mb4")
    )


def make_table(
    metadata: sa.MetaData, name: str = "sessions", schema: str | None = None
) -> sa.Table:
    """Add the sessions table to a metadata and return it.

    Its columns have SQLAlchemy's own types, so that the migration that
    Alembic writes runs as it is, and also when this package is gone.
    """
    return _table(metadata, name, schema, _Types())


class SessionMixin:
    """Make a declarative class of the sessions table.

    ``class WebSession(SessionMixin, Base): __tablename__ = "sessions"``
    declares what `make_table` declares, for an application that wants to
    query its sessions. Further columns, indexes and the schema are given as
    in any class; a column has to be nullable, or the server has to know its
    default, because this package fills its own only. Times are in UTC.
    """

    if TYPE_CHECKING:
        # At run time the columns come from the one list of them below.
        id: Mapped[int]
        session_id: Mapped[str]
        data: Mapped[str]
        version: Mapped[int]
        created_at: Mapped[datetime.datetime]
        updated_at: Mapped[datetime.datetime]
        expires_at: Mapped[datetime.datetime | None]
        user_id: Mapped[str | None]
        profile: Mapped[str | None]
        ended: Mapped[str | None]

    @classmethod
    def __table_cls__(
        cls,
        name: str,
        metadata: sa.MetaData,
        *parts: Any,
        schema: str | None = None,
        **options: Any,
    ) -> sa.Table:
        """Return the class's table: declarative calls this to make it."""
        return _table(metadata, name, schema, _Types(), *parts, **options)


def typed_table(name: str, schema: str | None = None) -> sa.Table:
    """Return the same table as this package reads and writes it."""
    types = _Types(SecretKey(), SecretText(), UTCSeconds(), SecretUser())
    return _table(sa.MetaData(), name, schema, types)


def _table(
    metadata: sa.MetaData,
    name: str,
    schema: str | None,
    types: _Types,
    *parts: Any,
    **options: Any,
) -> sa.Table:
    """Add the table, with further parts and options of an application.

    ``updated_at`` has no index on purpose: it moves with every touch, and
    an index on it would make each touch rewrite all indexes of the row on
    PostgreSQL. There is no foreign key either: it would add locks.
    """
    return sa.Table(
        name,
        metadata,
        # No secret, it opens nothing; 32 bits run out in practice.
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("session_id", types.key, nullable=False),
        sa.Column("data", types.data, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", types.moment, nullable=False),
        sa.Column("updated_at", types.moment, nullable=False),
        sa.Column("expires_at", types.moment, nullable=True),
        sa.Column("user_id", types.user, nullable=True),
        sa.Column("profile", _plain(_PROFILE_LENGTH), nullable=True),
        # Why the session is over: such a row is a tombstone, without data.
        sa.Column("ended", _plain(_REASON_LENGTH), nullable=True),
        sa.UniqueConstraint("session_id", name=f"uq_{name}_session_id"),
        sa.Index(f"ix_{name}_expires_at", "expires_at"),
        sa.Index(f"ix_{name}_user_id", "user_id"),
        *parts,
        schema=schema,
        # An id is never given out twice: a late logout deletes by id.
        **{"sqlite_autoincrement": True, **options},
    )
