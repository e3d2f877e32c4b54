"""What a table in a database lacks, as the two halves of an Alembic revision.

Alembic is an optional dependency: it is imported when it is needed. What is
written needs nothing of this package.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

if TYPE_CHECKING:
    from alembic.operations.ops import (
        DowngradeOps,
        MigrateOperation,
        UpgradeOps,
    )
    from alembic.runtime.migration import MigrationContext

MAKE, UPGRADE = "make", "upgrade"
_MYSQL_TYPES = "from sqlalchemy.dialects import mysql"
# What a column may have that a copy of the table would not have.
_SPECIAL = re.compile(
    r"\b(CHECK|COLLATE|CONFLICT|DEFAULT|GENERATED|REFERENCES)\b", re.I
)


@dataclass(frozen=True)
class Plan:
    """What a revision has to do.

    :ivar change: MAKE or UPGRADE the table; None if nothing is to be done.
    :ivar upgrade: the body of ``upgrade()``.
    :ivar downgrade: the body of ``downgrade()``.
    :ivar imports: what both need, besides ``op`` and ``sa``.
    :ivar left: what is unlike this package's own table, and stays so.
    :ivar lacks: columns without which this is no table of this package, and
        which no revision can fill.
    """

    change: str | None
    upgrade: str
    downgrade: str
    imports: str
    left: tuple[str, ...]
    lacks: tuple[str, ...]


def plan_for(connection: Connection, target: sa.Table) -> Plan:
    """Compare a database's table with what it ought to be.

    Only what is missing is added. What an application or an operator has
    added is not dropped, and what they have changed is not changed back.
    """
    from alembic.operations import ops

    context = _context_of(connection, target)
    found = _differences(context, target)
    adding, left = _added(found), _left(found)
    lacks = tuple(
        str(op.column.name)
        for op in adding
        if isinstance(op, ops.AddColumnOp) and not op.column.nullable
    )
    copying = _copy_of(connection, target, is_ours=not (left or lacks))
    if copying is None:
        left += ("the ids (SQLite gives them out again)",)
    is_missing = any(isinstance(op, ops.CreateTableOp) for op in adding)
    upgrade = _rendered(context, ops.UpgradeOps(copying or adding))
    return Plan(
        MAKE if is_missing else UPGRADE if adding or copying else None,
        upgrade,
        # What a copy has got besides stays: it harms no earlier version.
        _rendered(context, ops.UpgradeOps(adding).reverse()),
        _MYSQL_TYPES if "mysql." in upgrade else "",
        left,
        lacks,
    )


# -- the difference --------------------------------------------------------


def _context_of(connection: Connection, target: sa.Table) -> MigrationContext:
    """Return a context in which Alembic sees nothing but our table."""
    from alembic.runtime.migration import MigrationContext

    default = connection.dialect.default_schema_name
    schema = None if target.schema == default else target.schema

    def is_looked_at(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == schema
        return kind != "table" or name == target.name

    def is_ours(
        part: Any, name: str | None, kind: str, is_found: bool, other: Any
    ) -> bool:
        return not is_found

    options = {
        "include_schemas": schema is not None,
        "include_name": is_looked_at,
        "include_object": is_ours,
    }
    return MigrationContext.configure(connection, opts=options)


def _differences(
    context: MigrationContext, target: sa.Table
) -> list[MigrateOperation]:
    """Return what Alembic would do, one operation after the other."""
    from alembic.autogenerate import produce_migrations
    from alembic.operations import ops

    with warnings.catch_warnings():
        # Of what an application has added that SQLAlchemy does not know.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        found = produce_migrations(context, target.metadata).upgrade_ops
    return [
        each
        for part in (found.ops if found else ())
        for each in (
            part.ops if isinstance(part, ops.ModifyTableOps) else [part]
        )
    ]


def _added(found: Iterable[MigrateOperation]) -> list[MigrateOperation]:
    """Return what adds something that is not there in any form."""
    from alembic.operations import ops

    found = list(found)
    changed = {
        op.index_name for op in found if isinstance(op, ops.DropIndexOp)
    }
    return [
        op
        for op in found
        if isinstance(op, ops.CreateTableOp | ops.AddColumnOp)
        or (isinstance(op, ops.CreateIndexOp) and op.index_name not in changed)
    ]


def _left(found: Iterable[MigrateOperation]) -> tuple[str, ...]:
    """Return what is not as it was made, and what was taken away."""
    from alembic.operations import ops

    told = []
    for op in found:
        if isinstance(op, ops.AlterColumnOp):
            if op.modify_type is not None or op.modify_nullable is not None:
                told.append(f"the column {op.column_name!r}")
        elif isinstance(op, ops.DropIndexOp):
            told.append(f"the index {str(op.index_name)!r}")
    return tuple(told)


def _rendered(
    context: MigrationContext, half: UpgradeOps | DowngradeOps
) -> str:
    from alembic.autogenerate import render_python_code

    return render_python_code(half, migration_context=context)


# -- SQLite: AUTOINCREMENT cannot be added -----------------------------------


def _copy_of(
    connection: Connection, target: sa.Table, *, is_ours: bool
) -> list[MigrateOperation] | None:
    """Return how to copy a table that gives out an id again; [] if not.

    The first version of ours did. None: it does, and it is not only ours, so
    that a copy would lose something.
    """
    if connection.dialect.name != "sqlite" or target.schema is not None:
        return []
    if "id" not in target.c:
        return []
    query = sa.text("SELECT name, sql FROM sqlite_master")
    parts = connection.execute(query).all()
    own = [part.sql for part in parts if part.name == target.name]
    if not own or "AUTOINCREMENT" in own[0].upper():
        return []
    found = {
        str(column["name"])
        for column in sa.inspect(connection).get_columns(str(target.name))
    }
    if (
        not is_ours
        or found - {column.name for column in target.columns}
        or _SPECIAL.search(own[0])
        or any(_depends(part, target) for part in parts)
    ):
        return None
    return _copying(connection, target, found)


def _depends(part: Any, target: sa.Table) -> bool:
    """Say whether another table, index, view or trigger names the table."""
    ours = {target.name, *(index.name for index in target.indexes)}
    if part.sql is None or part.name in ours:
        return False
    name = str(target.name)
    # In brackets a quotation mark is not doubled.
    words = "|".join(map(re.escape, (name, name.replace('"', '""'))))
    found = re.search(rf"(?<!\w)({words})(?!\w)", part.sql, re.I)
    return found is not None


def _copying(
    connection: Connection, target: sa.Table, present: set[str]
) -> list[MigrateOperation]:
    """Return operations that put a copy in the table's place."""
    from alembic.operations import ops

    dialect = connection.dialect
    new = target.to_metadata(sa.MetaData(), name=f"_new_{target.name}")
    columns = [column for column in target.columns if column.name in present]
    filling = new.insert().from_select(
        [column.key for column in columns], sa.select(*columns)
    )
    quoted = dialect.identifier_preparer.quote
    renaming = f"ALTER TABLE {quoted(new.name)} RENAME TO "
    statements = [
        # Alembic takes a colon in a text for a parameter's.
        re.sub(r"\s*\n\s*", " ", text).replace(":", "\\:")
        for text in (
            str(filling.compile(dialect=dialect)),
            renaming + quoted(target.name),
        )
    ]
    return [
        ops.CreateTableOp.from_table(new),
        ops.ExecuteSQLOp(statements[0]),
        ops.DropTableOp.from_table(target),
        ops.ExecuteSQLOp(statements[1]),
        *(
            ops.CreateIndexOp.from_index(index)
            for index in sorted(
                target.indexes, key=lambda each: str(each.name)
            )
        ),
    ]
