"""What pls-doctor has found out about a running set-up: facts, no judgement.

What could not be found out is None; a check asks for it with `known`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from ..settings import Settings

Level = Literal["error", "warning", "hint"]
# What a check says: how bad it is, what is wrong, what to do about it.
Told = tuple[Level, str, str]
Family = Literal[
    "text", "padded", "integer", "time", "json", "other", "unknown"
]
DAY = 86400
LARGEST_ID = 2**63 - 1

_Fact = TypeVar("_Fact")


class Unknown(Exception):
    """What a check is about could not be found out."""


class Elsewhere(Exception):
    """What a check is about does not exist in this set-up."""


def known(fact: _Fact | None) -> _Fact:
    """Return the fact, or raise `Unknown`."""
    if fact is None:
        raise Unknown
    return fact


@dataclass(frozen=True)
class ColumnFacts:
    """A column as the database has it.

    :ivar family: what is kept in it. "padded": text that is filled up with
        blanks. "unknown": of a type that SQLAlchemy does not know.
    :ivar shown: its type as the database calls it.
    :ivar most: characters of a text, or the largest number; None: no limit.
    :ivar is_zoned: its times depend on the time zone of a connection.
    :ivar is_filled: the database fills it where an INSERT does not.
    """

    name: str
    family: Family
    shown: str
    most: int | None = None
    collation: str | None = None
    is_zoned: bool = False
    is_nullable: bool = True
    is_filled: bool = False


@dataclass(frozen=True)
class IndexFacts:
    """An index, or the constraint that has one.

    :ivar name: None where it is a constraint's own.
    :ivar columns: in order; an expression is None.
    :ivar also: further columns that are kept in it.
    :ivar is_partial: it holds only some of the rows.
    """

    name: str | None
    columns: tuple[str | None, ...]
    also: tuple[str, ...] = ()
    is_unique: bool = False
    is_partial: bool = False


@dataclass(frozen=True)
class TableFacts:
    """The table as the database has it.

    :ivar key: the columns of its primary key.
    :ivar last_id: the largest id there is.
    :ivar sequence: what the ids come from, and the largest that it gives.
    :ivar gives_ids_again: an id may be given out twice.
    :ivar engine: MySQL's and MariaDB's storage engine.
    :ivar refused: the kinds of statements that the database refuses to
        execute on it, and why.
    """

    columns: Mapping[str, ColumnFacts]
    indexes: tuple[IndexFacts, ...] = ()
    key: tuple[str, ...] = ()
    last_id: int | None = None
    sequence: tuple[str, int] | None = None
    gives_ids_again: bool = False
    engine: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerFacts:
    """The database as one of our own connections finds it.

    :ivar ahead: seconds, at least, by which its clock is ahead of the
        application's; negative: behind; None where they are the same clock.
    :ivar modes: MySQL's and MariaDB's ``sql_mode``.
    :ivar binlog_format: theirs too, None where no such log is written.
    :ivar most_bytes: of one statement.
    :ivar journal: SQLite's ``journal_mode``.
    """

    version: str
    ahead: float | None = None
    modes: frozenset[str] = frozenset()
    binlog_format: str | None = None
    most_bytes: int | None = None
    journal: str | None = None


@dataclass(frozen=True)
class RowFacts:
    """The rows, counted in one scan of the table.

    :ivar dead: those that cleaning or trimming may delete.
    :ivar waited: seconds for which the oldest row has been due for cleaning;
        0 if none is.
    :ivar unseen: dead ones that cleaning does not look at for days.
    :ivar plain: those whose id is not hashed.
    :ivar foreign: those whose content is no JSON.
    :ivar sealed: those whose content is encrypted.
    """

    total: int
    dead: int = 0
    waited: int = 0
    unseen: int = 0
    plain: int = 0
    foreign: int = 0
    sealed: int = 0


@dataclass(frozen=True)
class VacuumFacts:
    """What PostgreSQL's statistics say about the table."""

    live: int
    dead: int


@dataclass(frozen=True)
class ApplicationFacts:
    """A connection of the application's own engine.

    :ivar level: its isolation level.
    :ivar is_autocommit: each statement is a transaction.
    :ivar has_snapshot: MariaDB's ``innodb_snapshot_isolation`` is on.
    :ivar begin: SQLite: the word with which the application itself begins
        a transaction, None if it leaves that to the driver.
    """

    level: str
    is_autocommit: bool = False
    has_snapshot: bool = False
    begin: str | None = None


@dataclass(frozen=True)
class Wiring:
    """How the application is put together.

    :ivar order: tweens, the outermost first: "sessions" (ours),
        "transaction" (pyramid_tm's), "exceptions" (Pyramid's own).
    :ivar attempts: how often a request is tried; None: an execution policy
        of the application's own decides.
    :ivar asks_session: pyramid_tm asks a security policy for the user, which
        looks into the session.
    :ivar has_expiry: the expiry tween is included.
    """

    order: tuple[str, ...] = ("sessions", "transaction", "exceptions")
    attempts: int | None = 1
    asks_session: bool = False
    has_expiry: bool = False


@dataclass(frozen=True)
class Public:
    """Where browsers find the application.

    :ivar host: None where only the scheme is known.
    :ivar is_seen: the application is known to see that scheme.
    """

    scheme: str
    host: str | None = None
    path: str = "/"
    is_seen: bool = False


@dataclass(frozen=True)
class Facts:
    """All that is known.

    :ivar config_uri: the ini file, as commands take it.
    :ivar expected: the table as it should be, under the name it really has.
    :ivar is_in_memory: the database is in the memory of one process.
    :ivar problem: why the database cannot be asked.
    :ivar has_table: None where that is not known.
    """

    config_uri: str
    settings: Settings
    expected: sa.Table = field(repr=False)
    dialect: Dialect = field(repr=False)
    wiring: Wiring = field(default_factory=Wiring)
    public: Public | None = None
    is_in_memory: bool = False
    problem: str | None = None
    has_table: bool | None = None
    server: ServerFacts | None = None
    table: TableFacts | None = None
    rows: RowFacts | None = None
    vacuum: VacuumFacts | None = None
    application: ApplicationFacts | None = None

    @property
    def is_joined(self) -> bool:
        """Sessions are kept in the application's own transactions."""
        return self.settings.url is None

    @property
    def name(self) -> str:
        """The table's name, for texts."""
        return repr(self.expected.fullname)

    def called(self, name: str) -> str:
        """Return what a column is called in the database.

        Raises `Elsewhere` if the table is to have none.
        """
        column = self.expected.c.get(name)
        if column is None:
            raise Elsewhere
        return str(column.name)

    def require(self, *dialects: str) -> None:
        """Raise `Elsewhere` unless the database is one of these."""
        if self.dialect.name not in dialects:
            raise Elsewhere

    def command(self, name: str) -> str:
        """Return a call of one of our commands, for texts."""
        return f"'{name} {shlex.quote(self.config_uri)}'"
