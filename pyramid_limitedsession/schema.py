"""The table: its columns, its types, its indexes.

`make_table` adds it to any ``MetaData``, for instance to an application's
own, where Alembic finds it; `SessionMixin` makes it a declarative class.
`typed_table` is the same table as this package reads and writes it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Mapped, MappedColumn
from sqlalchemy.types import TypeEngine

from .columntypes import (
    KEY_LENGTH,
    MYSQL,
    SecretJSON,
    SecretKey,
    SecretNumber,
    SecretText,
    SecretUser,
    UTCSeconds,
    native_json,
    plain_text,
)
from .layout import COLUMNS, Layout, names_of
from .modeltypes import PROFILE_LENGTH, REASON_LENGTH, is_zoned, user_column
from .users import USER_LENGTH

# In a typed table's info: the application's own, which is to be made.
AS_MADE = "pyramid_limitedsession.as_made"


@dataclass(frozen=True)
class _Types:
    """The types of columns that we read in our own way.

    :ivar moment: returns that of a column of times, by its name.
    """

    key: TypeEngine[Any]
    data: TypeEngine[Any]
    moment: Callable[[str], TypeEngine[Any]]
    user: TypeEngine[Any]

    @classmethod
    def plain(cls, *, is_native: bool = False) -> _Types:
        """Return SQLAlchemy's own: what a migration makes."""
        text = mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin")
        return cls(
            plain_text(KEY_LENGTH),
            native_json()
            if is_native
            else sa.Text().with_variant(text, *MYSQL),
            lambda name: sa.DateTime(),
            plain_text(USER_LENGTH, "utf8mb4"),
        )


def make_table(
    metadata: sa.MetaData,
    name: str = "sessions",
    schema: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    is_native: bool = False,
) -> sa.Table:
    """Add the sessions table to a metadata and return it.

    Its columns have SQLAlchemy's own types, so that the migration that
    Alembic writes runs as it is, and also when this package is gone.

    Args:
        metadata: where it is added.
        name: the table's.
        schema: the table's; None: the connection's default.
        columns: what columns are called, if not as here.
        is_native: the data is a column of JSON (``serializer = null``).
    """
    layout = Layout(name, schema, names_of(COLUMNS, columns or {}))
    return plain_table(layout, metadata, is_native=is_native)


def plain_table(
    layout: Layout, metadata: sa.MetaData, *, is_native: bool = False
) -> sa.Table:
    """Add the table of a layout, with types of SQLAlchemy's own."""
    return _table(metadata, layout, _Types.plain(is_native=is_native))


class SessionMixin:
    """Make a declarative class of the sessions table.

    ``class WebSession(SessionMixin, Base): __tablename__ = "sessions"``
    declares what `make_table` declares, for an application that wants to
    query its sessions. Further columns, indexes and the schema are given as
    in any class; a column has to be nullable, or the server has to know its
    default, unless ``column_values`` fills it. Times are in UTC.

    A column of ours that the class declares itself takes the place of ours,
    under any name; ``version = None`` leaves one out. The class has to be
    named in the setting ``model`` then.
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
        own = _own_columns(cls, parts)
        there = [each for each in COLUMNS if own.get(each, ...) is not None]
        layout = Layout(name, schema, names_of(there, {}))
        types = _Types.plain()
        return _table(metadata, layout, types, *parts, own=own, **options)


def _own_columns(
    cls: type, parts: tuple[Any, ...]
) -> dict[str, sa.Column[Any] | None]:
    """Return columns of ours that a class declares itself.

    None: it says that there is none.
    """
    columns = [part for part in parts if isinstance(part, sa.Column)]
    own: dict[str, Any] = {}
    for name in COLUMNS:
        found = getattr(cls, name, ...)
        found = found.column if isinstance(found, MappedColumn) else found
        # Of a mixin, the class has a copy.
        called = found.name if isinstance(found, sa.Column) else name
        same = [each for each in columns if each.name in (called, name)]
        if same or found is None:
            own[name] = same[0] if same else None
    return own


def typed_table(layout: Layout, *, is_native: bool = False) -> sa.Table:
    """Return the table as this package reads and writes it.

    ``is_native``: its data is a column of JSON.
    """
    is_number = user_column(layout.types.get("user_id")).numbers is not None
    types = _Types(
        key=SecretKey(),
        data=SecretJSON() if is_native else SecretText(),
        moment=lambda name: UTCSeconds(is_zoned(layout.types.get(name))),
        user=SecretNumber() if is_number else SecretUser(),
    )
    others = [
        sa.Column(column.name, column.type, key=key)
        for key, column in layout.others.items()
    ]
    own = {} if layout.id is None else {"id": _own_id(layout.id)}
    table = _table(sa.MetaData(), layout, types, *others, own=own)
    if layout.table is not None:
        table.info[AS_MADE] = layout.table
    return table


def _own_id(column: sa.Column[Any]) -> sa.Column[Any]:
    """Return the column of an application's own ids, for inserting."""
    default: Any = column.default
    if isinstance(default, sa.Sequence):
        # One may be of one column only.
        default = sa.Sequence(
            default.name, schema=default.schema, optional=default.optional
        )
    elif default is not None:
        default = default.arg
    made = column.server_default is not None
    return sa.Column(
        column.name,
        column.type,
        key="id",
        primary_key=True,
        default=default,
        server_default=sa.FetchedValue() if made else None,
    )


def columns_of(table: sa.Table) -> Any:
    """Return the columns for statements, by our names.

    In place of one that the table does not have, what would be in it.
    """
    absent = {
        "id": table.c.session_id,
        "version": sa.literal_column("0", sa.Integer()),
        "expires_at": sa.literal_column("NULL", UTCSeconds()),
        "user_id": sa.literal_column("NULL", SecretUser()),
        "profile": sa.literal_column("NULL", sa.String()),
        "ended": sa.literal_column("NULL", sa.String()),
    }
    return SimpleNamespace(
        **{
            name: table.c[name] if name in table.c else absent[name]
            for name in COLUMNS
        }
    )


def _table(
    metadata: sa.MetaData,
    layout: Layout,
    types: _Types,
    *parts: Any,
    own: Mapping[str, Any] | None = None,
    **options: Any,
) -> sa.Table:
    """Add the table, with further parts and options of an application.

    ``own`` are columns that take the place of ours; some may be among the
    parts.

    ``updated_at`` has no index on purpose: it moves with every touch, and
    an index on it would make each touch rewrite all indexes of the row on
    PostgreSQL. There is no foreign key either: it would add locks.
    """
    own, name = own or {}, layout.name
    found = {
        each: own.get(each, column)
        for each, column in _columns(layout, types).items()
    }
    keys = []
    if "id" in found and not found["session_id"].unique:
        # Made only if it is used: it goes with its column by itself.
        called = f"uq_{name}_session_id"
        keys = [sa.UniqueConstraint(found["session_id"], name=called)]
    return sa.Table(
        name,
        metadata,
        *found.values(),
        *keys,
        *(
            sa.Index(f"ix_{name}_{each}", found[each])
            for each in ("expires_at", "user_id")
            # An application's own column may bring one.
            if each in found and not found[each].index
        ),
        # Those in the place of ours are there already.
        *(each for each in parts if not _is_among(each, found.values())),
        schema=layout.schema,
        # An id is never given out twice: a late logout deletes by id.
        **{"sqlite_autoincrement": "id" in found, **options},
    )


def _is_among(one: object, others: Iterable[object]) -> bool:
    return any(one is other for other in others)


def _columns(layout: Layout, types: _Types) -> dict[str, sa.Column[Any]]:
    """Return our columns, those that the table has."""
    has_id = layout.has("id")
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        # No secret, it opens nothing; 32 bits run out in practice.
        "id": (
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            {"primary_key": True, "autoincrement": True},
        ),
        "session_id": (types.key, {"primary_key": not has_id}),
        "data": (types.data, {}),
        "version": (sa.Integer, {}),
        "created_at": (types.moment("created_at"), {}),
        "updated_at": (types.moment("updated_at"), {}),
        "expires_at": (types.moment("expires_at"), {"nullable": True}),
        "user_id": (types.user, {"nullable": True}),
        "profile": (plain_text(PROFILE_LENGTH), {"nullable": True}),
        # Why the session is over: such a row is a tombstone, without data.
        "ended": (plain_text(REASON_LENGTH), {"nullable": True}),
    }
    return {
        name: sa.Column(
            called,
            made[name][0],
            key=name,
            **{"nullable": False, **made[name][1]},
        )
        for name, called in layout.names.items()
    }
