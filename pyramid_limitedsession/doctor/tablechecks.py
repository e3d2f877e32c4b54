"""Checks of the sessions table: what they find, and the DDL that cures it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from ..columntypes import MYSQL
from ..layout import COLUMNS
from .facts import (
    LARGEST_ID,
    ColumnFacts,
    Elsewhere,
    Facts,
    IndexFacts,
    TableFacts,
    Told,
    known,
)
from .repairs import Repairs

# What is stored beside the data in one statement, amply.
_REST_OF_STATEMENT = 4096


def table_exists(facts: Facts) -> Iterator[Told]:
    """Find that the table is missing."""
    if not known(facts.has_table):
        yield (
            "error",
            f"there is no table {facts.name}",
            f"make it: {facts.command('pls-init')}",
        )


def columns_exist(facts: Facts) -> Iterator[Told]:
    """Find missing columns."""
    table = known(facts.table)
    for column in facts.expected.columns:
        if column.name in table.columns:
            continue
        yield (
            "error",
            f"the table {facts.name} has no column {column.name!r}",
            _repairs(facts).add_column(column.name)
            if column.nullable
            else _another_table(facts),
        )


def types_fit(facts: Facts) -> Iterator[Told]:
    """Find columns that change or refuse what is put in."""
    if facts.dialect.name == "sqlite":
        # It keeps everything, in any column.
        raise Elsewhere
    for column, found in _pairs(facts):
        if column.key == "id" and facts.settings.layout.id is not None:
            # Whatever the application's own class has.
            continue
        family, length = _kind_of(column, facts)
        if found.family not in (family, "unknown"):
            yield (
                "error",
                f"the column {found.name!r} is {found.shown}; "
                f"it has to keep {_KEPT[family]}",
                _repairs(facts).change(found)
                if found.family == "padded"
                else _another_table(facts),
            )
        elif found.is_zoned and not _reads_zones(column, facts):
            yield (
                "warning",
                f"the column {found.name!r} is {found.shown}; what is read "
                "depends on the time zone of the connection",
                _repairs(facts).change(found),
            )
        elif length and found.most is not None and found.most < length:
            yield (
                "error",
                f"the column {found.name!r} takes {found.most} characters; "
                f"it needs {length}",
                _repairs(facts).change(found),
            )


_KEPT = {
    "text": "texts of any length up to its own, without blanks at the end",
    "integer": "whole numbers",
    "time": "dates with times",
    "json": "JSON, for limitedsession.serializer = null",
}


def nulls_fit(facts: Facts) -> Iterator[Told]:
    """Find columns whose NOT NULL keeps sessions from being stored."""
    for column, found in _pairs(facts):
        if column.nullable and not found.is_nullable:
            yield (
                "error",
                f"the column {found.name!r} takes no NULL; it has to",
                _cure(facts, _repairs(facts).allow_null(found)),
            )
    # Further ones are filled by a function of the application's.
    has_others = facts.settings.column_values is not None
    ours = {
        column.name
        for column in facts.expected.columns
        if has_others or column.key in COLUMNS
    }
    for name, found in known(facts.table).columns.items():
        if name in ours or found.is_nullable or found.is_filled:
            continue
        yield (
            "error",
            f"the column {name!r} is not one of ours, takes no NULL and has "
            "no default, so that no session can be stored",
            _repairs(facts).allow_null(found) or "give it a default",
        )


def ids_fit(facts: Facts) -> Iterator[Told]:
    """Find ids that run out, come twice or are not given at all."""
    table = known(facts.table)
    name = facts.called("id")
    found = known(table.columns.get(name))
    is_given = found.is_filled or facts.settings.layout.id is not None
    if not _is_key(table, name) or not is_given:
        yield (
            "error",
            f"the column {name!r} is not a primary key whose values the "
            "database gives",
            _cure(facts, None),
        )
    elif table.gives_ids_again and found.family == "integer":
        yield (
            "warning",
            "the id of a deleted session may be given to another one, which "
            "a late logout would end (the table was made without "
            "AUTOINCREMENT)",
            _cure(facts, None),
        )
    most = _last_id(table, found)
    if found.family == "integer" and most < LARGEST_ID:
        used = (table.last_id or 0) / most
        yield (
            "error" if used > 0.5 else "warning",
            f"there are ids up to {most} only; {used:.0%} are used",
            _repairs(facts).widen_ids(table),
        )


def _is_key(table: TableFacts, name: str) -> bool:
    return table.key == (name,) or any(
        index.is_unique and index.columns == (name,) for index in table.indexes
    )


def _last_id(table: TableFacts, found: ColumnFacts) -> int:
    limits = [found.most, table.sequence and table.sequence[1]]
    return min([each for each in limits if each is not None] + [LARGEST_ID])


def data_fits(facts: Facts) -> Iterator[Told]:
    """Find data for which there is no room."""
    limit = facts.settings.policy.max_data_size
    told = (
        "max_data_size is off"
        if limit is None
        else f"max_data_size allows {limit}"
    )
    name = facts.called("data")
    found = known(known(facts.table).columns.get(name))
    if found.most is not None and (limit is None or found.most < limit):
        yield (
            "error",
            f"the column {name!r} is {found.shown}, which takes {found.most} "
            f"characters; limitedsession.{told}",
            _repairs(facts).change(found),
        )
    most = known(facts.server).most_bytes
    if most is not None and limit and limit + _REST_OF_STATEMENT > most:
        yield (
            "error",
            f"the server takes statements of {most} bytes "
            f"(max_allowed_packet); limitedsession.{told}",
            "let the server take more, or set limitedsession.max_data_size "
            f"= {max(most // 2, 1)}",
        )


# -- indexes -----------------------------------------------------------


def key_is_unique(facts: Facts) -> Iterator[Told]:
    """Find that a load has no index."""
    table = known(facts.table)
    name = facts.called("session_id")
    known(table.columns.get(name))
    if not any(
        index.columns == (name,) and index.is_unique and not index.is_partial
        for index in table.indexes
    ) and table.key != (name,):
        yield (
            "error",
            f"the column {name!r} is not unique: each load reads the "
            "whole table",
            _repairs(facts).add_unique(name),
        )


def indexes_exist(facts: Facts) -> Iterator[Told]:
    """Find missing indexes."""
    table = known(facts.table)
    for key, why in _INDEXED.items():
        if key not in facts.expected.c:
            continue
        name = facts.called(key)
        # Without the column, an index is what its own cure needs next.
        is_there = any(
            index.columns[0] == name and not index.is_partial
            for index in table.indexes
            if index.columns
        )
        if not is_there:
            yield (
                "warning",
                f"there is no index on {name!r}: {why}",
                _repairs(facts).add_index(name),
            )


_INDEXED = {
    "expires_at": "each self-cleaning reads the whole table",
    "user_id": "a look for a user's sessions, as at login with "
    "max_sessions_per_user, reads the whole table",
}


def activity_has_no_index(facts: Facts) -> Iterator[Told]:
    """Find indexes that have to follow each activity."""
    if "expires_at" not in facts.expected.c:
        # Cleaning looks for its rows by this one.
        raise Elsewhere
    name = facts.called("updated_at")
    for index in known(facts.table).indexes:
        if name not in (*index.columns, *index.also):
            continue
        yield (
            "warning",
            f"{_called(index)} contains {name!r}, which moves with the "
            f"activity of each session: {_moves(facts)}",
            _cure(facts, None)
            if index.name is None
            else _repairs(facts).drop_index(index.name),
        )


def _called(index: IndexFacts) -> str:
    return f"the index {index.name!r}" if index.name else "a constraint"


def _moves(facts: Facts) -> str:
    if facts.dialect.name == "postgresql":
        return "every such UPDATE writes all indexes of the row"
    return "every such UPDATE writes it too"


# -- MariaDB and MySQL -------------------------------------------------


def collations_are_binary(facts: Facts) -> Iterator[Told]:
    """Find texts that are not compared byte by byte."""
    facts.require(*MYSQL)
    columns = known(facts.table).columns
    for key in ("session_id", "user_id"):
        column = facts.expected.c.get(key)
        name = "" if column is None else str(column.name)
        found = columns.get(name)
        if found is None or found.collation is None:
            continue
        if found.collation.endswith("_bin") or found.collation == "binary":
            continue
        yield (
            "warning",
            f"the column {name!r} has the collation {found.collation}, which "
            "takes different texts for equal",
            _repairs(facts).change(found),
        )


def engine_has_transactions(facts: Facts) -> Iterator[Told]:
    """Find that the table takes no part in transactions."""
    facts.require(*MYSQL)
    engine = known(known(facts.table).engine)
    if engine.lower() != "innodb":
        yield (
            "error",
            f"the table's engine is {engine}, which is not made for "
            "transactions: nothing is ever rolled back",
            _repairs(facts).use_innodb(),
        )


# -- rights ------------------------------------------------------------


def writes_are_allowed(facts: Facts) -> Iterator[Told]:
    """Find statements that the database refuses."""
    refused = known(facts.table).refused
    if refused:
        yield (
            "error",
            f"the database refuses {', '.join(refused)} "
            f"({next(iter(refused.values()))})",
            f"let the user of the application's URL write in {facts.name}, "
            "on a server that can be written to",
        )


# -- shared ------------------------------------------------------------


def _pairs(facts: Facts) -> Iterator[tuple[sa.Column[Any], ColumnFacts]]:
    """Yield each column as it should be, and as it is."""
    columns = known(facts.table).columns
    for column in facts.expected.columns:
        if column.key in COLUMNS and column.name in columns:
            yield column, columns[column.name]


def _kind_of(column: sa.Column[Any], facts: Facts) -> tuple[str, int | None]:
    """Return the family of a column as it should be, and its length.

    Of an application's own that is what it says, if that is less.
    """
    kind: Any = column.type.dialect_impl(facts.dialect)
    kind = getattr(kind, "impl_instance", kind)
    if isinstance(kind, sa.Integer):
        return "integer", None
    if isinstance(kind, sa.DateTime):
        return "time", None
    if isinstance(kind, sa.JSON):
        # MariaDB keeps it as a text.
        return ("text" if facts.dialect.name in MYSQL else "json"), None
    length = getattr(kind, "length", None)
    own = facts.settings.layout.types.get(str(column.key))
    if length is not None and own is not None:
        length = min(length, getattr(own, "length", None) or length)
    return "text", length


def _reads_zones(column: sa.Column[Any], facts: Facts) -> bool:
    """Say whether it is a column of PostgreSQL's that we know to have them."""
    is_known = bool(getattr(column.type, "timezone", False))
    return is_known and facts.dialect.name == "postgresql"


def _repairs(facts: Facts) -> Repairs:
    return Repairs(facts.expected, facts.dialect)


def _cure(facts: Facts, statement: str | None) -> str:
    """Return the statement, or how to do without one."""
    if statement is not None:
        return statement
    there = known(facts.table).columns
    if any(
        column.name not in there and not column.nullable
        for column in facts.expected.columns
    ):
        return _another_table(facts)
    return (
        "pls-migration may be able to change it and keep the sessions; or "
        "make the table anew, which ends all sessions: "
        f"{_repairs(facts).drop_table()} and then "
        f"{facts.command('pls-init')}"
    )


def _another_table(facts: Facts) -> str:
    return (
        "this is no table of sessions: set another "
        f"limitedsession.table_name, and then {facts.command('pls-init')}"
    )
