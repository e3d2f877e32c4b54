"""Types of the columns: what is secret travels as `Secret`, times as seconds.

Each is told how it is called on a database, and reads there what it wrote.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from .errors import SessionValueError
from .tokens import Secret
from .users import USER_LENGTH, is_number

# Room for "2::" and 64 hex digits, and for other versions to come.
KEY_LENGTH = 80
MYSQL = ("mysql", "mariadb")


class UTCSeconds(TypeDecorator[int]):
    """Whole seconds since the epoch here, a UTC date and time there.

    Our own column has no time zone, so that no zone of a process, a server
    or a database session can shift it. An application's own may have one:
    ``timezone``. What is no time reads as None.
    """

    impl = sa.DateTime
    cache_ok = True

    # Not by keyword only: SQLAlchemy would not see it in its cache's key.
    def __init__(self, timezone: bool = False) -> None:
        super().__init__(timezone=timezone)
        self.timezone = timezone

    def process_bind_param(
        self, value: int | None, dialect: Dialect
    ) -> datetime.datetime | None:
        """Return the moment as SQLAlchemy wants it."""
        if value is None:
            return None
        moment = datetime.datetime.fromtimestamp(value, datetime.timezone.utc)
        # The others have no such columns, whatever they are declared as.
        is_zoned = self.timezone and dialect.name == "postgresql"
        return moment if is_zoned else moment.replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """Return the moment's seconds."""
        if not isinstance(value, datetime.datetime):
            return None
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        return int(value.timestamp())

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
            return _binary(KEY_LENGTH, "ascii")
        return sa.String(KEY_LENGTH)


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


class SecretJSON(SecretText):
    """The serialized data in a column of JSON, which the database reads.

    Text on both ways: neither the engine's nor the driver's own serializer
    is to have a say in it.
    """

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of this database, to make the table."""
        return native_json()

    def bind_processor(
        self, dialect: Dialect
    ) -> Callable[[str | None], Secret | None]:
        """Return a writer that passes the text on."""
        return lambda text: self.process_bind_param(text, dialect)

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], Secret | None]:
        """Return a reader that passes the text on."""
        return lambda text: self.process_result_value(text, dialect)

    def bind_expression(self, bindvalue: Any) -> Any:
        """Return JSON: PostgreSQL takes no text for it."""
        text = sa.type_coerce(bindvalue, SecretText())
        kind = sa.Text().with_variant(postgresql.JSONB(), "postgresql")
        return sa.cast(text, kind)

    def column_expression(self, column: Any) -> Any:
        """Return text: a driver would read JSON itself."""
        return text_of(column)


def text_of(column: Any) -> Any:
    """Return the data of a column as text."""
    if not isinstance(column.type, SecretJSON):
        return column
    return sa.type_coerce(sa.cast(column, sa.Text()), SecretText())


class SecretUser(_SecretType):
    """Who a session is of: as secret as what else is in it."""

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of this database."""
        if dialect.name in MYSQL:
            return _binary(USER_LENGTH, "utf8mb4")
        return sa.String(USER_LENGTH)


class SecretNumber(_SecretType):
    """The same in a column of whole numbers, of an application's own."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the number; raise SessionValueError if it is none.

        `users.UserColumn` has refused it long before.
        """
        if value is None:
            return None
        if not is_number(value):
            raise SessionValueError("the user of the session", "is no number")
        return _SecretInt(value)

    def process_result_value(
        self, value: Any, dialect: Dialect
    ) -> Secret | None:
        """Return the number's text."""
        return None if value is None else Secret(value)


class _SecretInt(int):
    def __repr__(self) -> str:
        return "'***'"

    # What a driver writes.
    __str__ = int.__repr__


def native_json() -> TypeEngine[Any]:
    """Return JSON of SQLAlchemy's own type."""
    return sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _binary(length: int, charset: str) -> TypeEngine[Any]:
    return mysql.VARCHAR(length, charset=charset, collation=f"{charset}_bin")


def plain_text(length: int, charset: str = "ascii") -> TypeEngine[Any]:
    """Return a text of SQLAlchemy's own type, compared byte by byte."""
    return sa.String(length).with_variant(_binary(length, charset), *MYSQL)
