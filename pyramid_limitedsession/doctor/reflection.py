"""What a database's catalogue says about the sessions table."""

from __future__ import annotations

import re
import warnings
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.types import NullType, TypeEngine

from ..columntypes import MYSQL
from .facts import (
    LARGEST_ID,
    ColumnFacts,
    Family,
    IndexFacts,
    TableFacts,
)

_INTEGER_BITS = {
    "TINYINT": 8,
    "SMALLINT": 16,
    "MEDIUMINT": 24,
    "INTEGER": 32,
}
# Bytes; of what is kept there each character is one.
_MOST_OF_TEXT = {
    "TINYTEXT": 2**8 - 1,
    "TEXT": 2**16 - 1,
    "MEDIUMTEXT": 2**24 - 1,
}


def reflected(connection: Connection, table: sa.Table) -> TableFacts | None:
    """Return what is there under the table's name; None: nothing."""
    with warnings.catch_warnings():
        # Of somebody's own types and indexes, which do not matter here.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        inspector = sa.inspect(connection)
        if not inspector.has_table(table.name, schema=table.schema):
            return None
        key = tuple(
            inspector.get_pk_constraint(table.name, schema=table.schema)[
                "constrained_columns"
            ]
        )
        columns = inspector.get_columns(table.name, schema=table.schema)
        indexes = _indexes(inspector, table)
    collations, engine = _of_mysql(connection, table)
    dialect = connection.dialect
    return TableFacts(
        columns={
            column["name"]: _column(
                column, key, collations.get(column["name"]), dialect
            )
            for column in columns
        },
        indexes=indexes,
        key=key,
        engine=engine,
        sequence=_sequence(connection, table),
        gives_ids_again=_gives_ids_again(connection, table),
    )


# -- columns -----------------------------------------------------------


def _column(
    column: Any, key: tuple[str, ...], collation: str | None, dialect: Dialect
) -> ColumnFacts:
    kind = column["type"]
    family = _family(kind, dialect)
    return ColumnFacts(
        name=column["name"],
        family=family,
        shown=_shown(kind, dialect),
        most=_most(kind, family, dialect),
        collation=collation,
        # MySQL's TIMESTAMP is one, its DATETIME is not.
        is_zoned=bool(getattr(kind, "timezone", False))
        or isinstance(kind, mysql.TIMESTAMP),
        is_nullable=bool(column["nullable"]),
        is_filled=_is_filled(column, key, dialect),
    )


def _family(kind: TypeEngine[Any], dialect: Dialect) -> Family:
    if isinstance(kind, NullType):
        return "unknown"
    if isinstance(kind, sa.CHAR) and dialect.name == "postgresql":
        return "padded"
    if isinstance(kind, sa.String) and not isinstance(kind, sa.Enum):
        return "text"
    if isinstance(kind, sa.Integer):
        return "integer"
    if isinstance(kind, sa.JSON):
        return "json"
    return "time" if isinstance(kind, sa.DateTime) else "other"


def _shown(kind: TypeEngine[Any], dialect: Dialect) -> str:
    if isinstance(kind, NullType):
        return "a type of somebody's own"
    return str(kind.compile(dialect=dialect))


def _most(
    kind: TypeEngine[Any], family: Family, dialect: Dialect
) -> int | None:
    if dialect.name == "sqlite":
        # It keeps what it gets, whatever the type is called.
        return LARGEST_ID if family == "integer" else None
    name = type(kind).__name__
    if family == "integer":
        bits = _INTEGER_BITS.get(name, 64)
        is_unsigned = getattr(kind, "unsigned", False)
        return int(2 ** (bits - (0 if is_unsigned else 1)) - 1)
    if dialect.name in MYSQL and name in _MOST_OF_TEXT:
        return _MOST_OF_TEXT[name]
    return getattr(kind, "length", None)


def _is_filled(column: Any, key: tuple[str, ...], dialect: Dialect) -> bool:
    if dialect.name == "sqlite" and key == (column["name"],):
        # Only an INTEGER, no BIGINT: that is the row's own number.
        return type(column["type"]) is sa.INTEGER
    return (
        column["default"] is not None
        or column.get("autoincrement") is True
        or "identity" in column
        or "computed" in column
    )


# -- indexes -----------------------------------------------------------


def _indexes(
    inspector: sa.Inspector, table: sa.Table
) -> tuple[IndexFacts, ...]:
    found = inspector.get_indexes(
        table.name,
        schema=table.schema,
        # Constraints' own; only SQLite has to be asked for them.
        include_auto_indexes=True,
    )
    return tuple(map(_index, found))


def _index(index: Any) -> IndexFacts:
    options = index.get("dialect_options", {})
    is_constraint = "duplicates_constraint" in index or index[
        "name"
    ].startswith("sqlite_autoindex_")
    return IndexFacts(
        name=None if is_constraint else index["name"],
        columns=tuple(index["column_names"]),
        also=tuple(options.get("postgresql_include", ())),
        is_unique=bool(index["unique"]),
        is_partial="postgresql_where" in options or "sqlite_where" in options,
    )


# -- what only one database has ----------------------------------------


def _of_mysql(
    connection: Connection, table: sa.Table
) -> tuple[dict[str, str], str | None]:
    """Return the collations of the columns, and the storage engine."""
    if connection.dialect.name not in MYSQL:
        return {}, None
    where = {"schema": table.schema, "name": table.name}
    collations = connection.execute(
        sa.text(
            "SELECT column_name, collation_name "
            "FROM information_schema.columns "
            "WHERE table_schema = COALESCE(:schema, DATABASE()) "
            "AND table_name = :name AND collation_name IS NOT NULL"
        ),
        where,
    )
    engine = connection.execute(
        sa.text(
            "SELECT engine FROM information_schema.tables "
            "WHERE table_schema = COALESCE(:schema, DATABASE()) "
            "AND table_name = :name"
        ),
        where,
    )
    found = {str(row[0]): str(row[1]) for row in collations}
    return found, engine.scalar()


def _sequence(
    connection: Connection, table: sa.Table
) -> tuple[str, int] | None:
    """Return PostgreSQL's sequence of the ids, and its largest number."""
    if connection.dialect.name != "postgresql" or "id" not in table.c:
        return None
    query = sa.text(
        "SELECT seqrelid::regclass::text, seqmax FROM pg_sequence "
        "WHERE seqrelid = to_regclass(pg_get_serial_sequence(:name, :id))"
    )
    values = {"name": quoted(connection, table), "id": str(table.c.id.name)}
    found = connection.execute(query, values).first()
    return None if found is None else (found[0], int(found[1]))


def quoted(connection: Connection, table: sa.Table) -> str:
    """Return the table's name, as PostgreSQL's functions take it."""
    preparer = connection.dialect.identifier_preparer
    # Doubled for the driver, which does not see this as a statement.
    return preparer.format_table(table).replace("%%", "%")


def _gives_ids_again(connection: Connection, table: sa.Table) -> bool:
    """Say whether SQLite gives the id of a deleted row to a new one."""
    if connection.dialect.name != "sqlite":
        return False
    preparer = connection.dialect.identifier_preparer
    schema = preparer.quote(table.schema) + "." if table.schema else ""
    query = sa.text(
        f"SELECT sql FROM {schema}sqlite_master "  # noqa: S608 - quoted
        "WHERE type = 'table' AND name = :name"
    )
    made = connection.execute(query, {"name": table.name}).scalar() or ""
    return re.search(r"\bAUTOINCREMENT\b", made, re.IGNORECASE) is None
