"""The DDL that makes a table what it should be, on its own database.

As a database's shell takes it: each statement ends with a semicolon.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import (
    AddConstraint,
    CreateColumn,
    CreateIndex,
    DropIndex,
)
from sqlalchemy.sql.ddl import BaseDDLElement

from ..columntypes import MYSQL
from .facts import LARGEST_ID, ColumnFacts, TableFacts


class Repairs:
    """Statements for one table.

    PostgreSQL's indexes are made and dropped while others write.
    """

    def __init__(self, table: sa.Table, dialect: Dialect) -> None:
        # A copy: an index that is made here belongs to its table.
        self._table = table.to_metadata(sa.MetaData())
        self._columns = {column.name: column for column in self._table.c}
        self._dialect = dialect
        self._name = self._plain(
            dialect.identifier_preparer.format_table(table)
        )

    def add_column(self, name: str) -> str:
        """Return what adds a column."""
        return self._alter(f"ADD COLUMN {self._definition(name)}")

    def add_index(self, name: str) -> str:
        """Return what makes the index on a column."""
        found = [
            index
            for index in self._table.indexes
            if [column.name for column in index.columns] == [name]
        ]
        return self._text(CreateIndex(_concurrent(found[0])))

    def add_unique(self, name: str) -> str:
        """Return what makes a column unique."""
        (found,) = (
            constraint
            for constraint in self._table.constraints
            if isinstance(constraint, sa.UniqueConstraint)
            and [column.name for column in constraint.columns] == [name]
        )
        if self._dialect.name != "sqlite":
            return self._text(AddConstraint(found))
        column = self._columns[name]
        return self._text(
            CreateIndex(sa.Index(str(found.name), column, unique=True))
        )

    def drop_index(self, name: str) -> str:
        """Return what drops an index, which need not be one of ours."""
        # Of any column: it is known by its name.
        index = sa.Index(name, self._table.c.session_id)
        return self._text(DropIndex(_concurrent(index)))

    def change(self, found: ColumnFacts) -> str:
        """Return what makes a server's column as it should be.

        It is never made shorter.
        """
        if self._dialect.name in MYSQL:
            return self._alter(f"MODIFY {self._definition(found.name, found)}")
        kind = self._type(self._expected(found.name, found))
        return self._alter(
            f"ALTER COLUMN {self._quoted(found.name)} TYPE {kind}"
        )

    def widen_ids(self, found: TableFacts) -> str:
        """Return what makes a server's ids 64 bits wide."""
        statement = self.change(found.columns[self._table.c.id.name])
        if found.sequence is None or found.sequence[1] == LARGEST_ID:
            return statement
        name = found.sequence[0]
        # An identity follows the type by itself, and is altered once more.
        widened = f"ALTER SEQUENCE {name} AS BIGINT MAXVALUE {LARGEST_ID};"
        return f"{statement} {widened}"

    def allow_null(self, found: ColumnFacts) -> str | None:
        """Return what lets a column be NULL; None: nothing can.

        It may be somebody else's column.
        """
        column = self._quoted(found.name)
        if self._dialect.name in MYSQL:
            return self._alter(f"MODIFY {column} {self._own_type(found)} NULL")
        if self._dialect.name != "postgresql":
            return None
        return self._alter(f"ALTER COLUMN {column} DROP NOT NULL")

    def use_innodb(self) -> str:
        """Return what gives MySQL's table transactions."""
        return self._alter("ENGINE = InnoDB")

    def drop_table(self) -> str:
        """Return what drops the table, where nothing else repairs it."""
        return f"DROP TABLE {self._name};"

    def vacuum(self) -> str:
        """Return what frees the space of dead rows on PostgreSQL."""
        return f"VACUUM ANALYZE {self._name};"

    # -- parts of statements -------------------------------------------

    def _alter(self, what: str) -> str:
        return f"ALTER TABLE {self._name} {what};"

    def _own_type(self, found: ColumnFacts) -> str:
        if found.name in self._columns:
            return self._type(self._expected(found.name, found))
        text = found.shown
        return f"{text} COLLATE {found.collation}" if found.collation else text

    def _definition(self, name: str, found: ColumnFacts | None = None) -> str:
        return self._text(CreateColumn(self._expected(name, found)), end="")

    def _expected(
        self, name: str, found: ColumnFacts | None
    ) -> sa.Column[Any]:
        """Return the column as it should be, but as long as it was."""
        column = self._columns[name]
        kind: Any = column.type.dialect_impl(self._dialect)
        kind = getattr(kind, "impl_instance", kind)
        length = getattr(kind, "length", None)
        longest = found.most if found is not None else None
        if length is None or longest is None or longest <= length:
            return column
        table = self._table.to_metadata(sa.MetaData())
        table.c[column.key].type = (
            mysql.VARCHAR(
                longest, charset=kind.charset, collation=kind.collation
            )
            if isinstance(kind, mysql.VARCHAR)
            else sa.String(longest)
        )
        return table.c[column.key]

    def _type(self, column: sa.Column[Any]) -> str:
        return str(column.type.compile(dialect=self._dialect))

    def _quoted(self, name: str) -> str:
        return self._plain(self._dialect.identifier_preparer.quote(name))

    def _text(self, element: BaseDDLElement, end: str = ";") -> str:
        text = str(element.compile(dialect=self._dialect)).strip()
        return self._plain(text) + end

    def _plain(self, text: str) -> str:
        # Doubled for the driver, which will not see this text.
        is_doubled = self._dialect.paramstyle in ("format", "pyformat")
        return text.replace("%%", "%") if is_doubled else text


def _concurrent(index: sa.Index) -> sa.Index:
    index.dialect_options["postgresql"]["concurrently"] = True
    return index
