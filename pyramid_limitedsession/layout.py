"""Where the sessions are kept: the table, its columns, and their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.types import TypeEngine

from .modeltypes import types_of

# The columns by the names that this package has for them. Those a table
# must have; the others switch something on, see `Layout.switched_off`.
REQUIRED = ("session_id", "data", "created_at", "updated_at")
COLUMNS = (
    *("id", "session_id", "data", "version", "created_at", "updated_at"),
    *("expires_at", "user_id", "profile", "ended"),
)
# What a table does without, for want of a column.
_OFF = {
    "id": "a session that is rotated by one request while another one ends "
    "it may survive that",
    "version": "a change made meanwhile is recognized by comparing the data",
    "expires_at": "cleaning reads the whole table",
    "user_id": "nobody's sessions can be listed, revoked or limited in "
    "number, and pls-trim --anonymous-days finds none",
    "profile": "no session can have a profile",
    "ended": "a session that is revoked is deleted: its browser is not told "
    "why it is over",
}


@dataclass(frozen=True)
class Layout:
    """A table of sessions as the settings describe it.

    :ivar names: of each column that it has, the name in the database.
    :ivar others: further columns of the application's own mapped class, by
        its attributes.
    :ivar id: that class's column of the ids.
    :ivar types: the types of its columns, as the database has them.
    :ivar table: its table, as it is to be made.
    """

    name: str = "sessions"
    schema: str | None = None
    names: Mapping[str, str] = field(
        default_factory=lambda: {name: name for name in COLUMNS}
    )
    others: Mapping[str, sa.Column[Any]] = field(
        default_factory=dict, repr=False
    )
    id: sa.Column[Any] | None = field(default=None, repr=False)
    types: Mapping[str, TypeEngine[Any]] = field(
        default_factory=dict, repr=False
    )
    table: sa.Table | None = field(default=None, repr=False)

    def has(self, name: str) -> bool:
        """Say whether the table has this column."""
        return name in self.names

    def switched_off(self) -> list[str]:
        """Return what each missing column switches off, as sentences."""
        return [
            f"there is no column {name!r}: {told}"
            for name, told in _OFF.items()
            if not self.has(name)
        ]


def layout_of(model: Any) -> Layout:
    """Return the layout of an application's own mapped class.

    Its attributes say which column is which, whatever those are called.

    Raises ValueError if it is no class that is mapped to one table, lacks an
    attribute that is required, or has one of a type that we cannot use.
    """
    try:
        mapper = sa.inspect(model)
        table = mapper.local_table
        columns = {
            attribute.key: attribute.columns[0]
            for attribute in mapper.column_attrs
        }
    except (NoInspectionAvailable, AttributeError):
        raise ValueError("it is no mapped class") from None
    if not isinstance(table, sa.Table):
        raise ValueError("it is not mapped to a table")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ValueError(f"it has no attribute {', '.join(missing)}")
    return Layout(
        name=str(table.name),
        schema=table.schema,
        names=names_of(columns, {k: str(v.name) for k, v in columns.items()}),
        others={
            key: column
            for key, column in columns.items()
            if key not in COLUMNS and column.table is table
        },
        id=columns.get("id"),
        types=types_of(columns),
        table=table,
    )


def names_of(present: Iterable[str], names: Mapping[str, str]) -> Any:
    """Return the names of the columns that are present, in our order."""
    present = set(present)
    return {name: names.get(name, name) for name in COLUMNS if name in present}
