"""Database errors: which mean "try again", and what may be shown of them.

A driver's message can hold what was being written: PostgreSQL's DETAIL line
quotes the failing row, MySQL's duplicate-key message the key. What leaves
this package names the kind of error and its code, no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from .errors import (
    SessionBusyError,
    SessionConnectionError,
    SessionTableError,
    UnreadableDataError,
)

# Serialization failure, deadlock, lock not available (PostgreSQL).
_BUSY_STATES = frozenset({"40001", "40P01", "55P03"})
# Record changed since last read, lock wait timeout, deadlock (MySQL).
_BUSY_NUMBERS = frozenset({1020, 1205, 1213})
# Admin shutdown, crash shutdown (PostgreSQL): the server closed a connection.
_LOST_STATES = frozenset({"57P01", "57P02"})
# Server gone away, lost during query, connection killed (MySQL, MariaDB).
_LOST_NUMBERS = frozenset({2006, 2013, 1927})
# Also when sqlite_errorname is not there, before Python 3.11.
_BUSY_TEXTS = ("database is locked", "database table is locked")
# Also a schema, and what cannot be done with a column of that type.
_MISSING_STATES = frozenset({"42P01", "42703", "3F000", "42883", "42804"})
_MISSING_NUMBERS = frozenset({1146, 1054})
_NO_DATABASE = 1049
_MISSING_TEXTS = (
    *("no such table", "no such column", "table "),
    "unknown database",
)

# Errors whose message can hold nothing of a row, and helps an operator:
# connections, rights, read-only, resources, shutdown. Others may quote what
# was being written, and a trigger may say anything.
_TOLD_STATES = ("08", "25", "28", "53", "57", "58", "42501")
_TOLD_NUMBERS = frozenset(
    {*range(1040, 1050), 1129, 1130, 1142, 1290, *range(2000, 3000)}
)
_TOLD_TEXTS = (
    "attempt to write a readonly database",
    "unable to open database file",
    "database or disk is full",
    "file is not a database",
    "database disk image is malformed",
    "disk I/O error",
)
_NOT_TEXT = "Could not decode to UTF-8"


class DriverError(Exception):
    """What may be told of a driver's error: its class, its code, no values.

    :ivar code: SQLSTATE, MySQL's number or SQLite's error name.
    """

    def __init__(self, text: str, code: str) -> None:
        self.code = code
        super().__init__(text)


@contextmanager
def translated(table: str) -> Iterator[None]:
    """Turn database errors of the block into ones that may be shown.

    Raises:
        SessionBusyError: the database asks to try again.
        SessionConnectionError: it closed the connection.
        SessionTableError: the table or a column is missing.
        UnreadableDataError: what is stored is no text (SQLite).
        DBAPIError: of the same class as the original, without its values.
    """
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, DriverError):
            # By a block inside this one, already.
            raise
        # "from None": the chain would print the original after all.
        raise _translate(error, table) from None


def is_busy(error: DBAPIError) -> bool:
    """Say whether the same work may succeed when it is done again."""
    return (
        _state(error) in _BUSY_STATES
        or _number(error) in _BUSY_NUMBERS
        or _sqlite_text(error).startswith(_BUSY_TEXTS)
    )


def is_lost(error: DBAPIError) -> bool:
    """Say whether the database closed the connection that was in use."""
    return (
        bool(error.connection_invalidated)
        or _state(error) in _LOST_STATES
        or _number(error) in _LOST_NUMBERS
    )


def is_missing(error: DBAPIError) -> bool:
    """Say whether the table, its schema or a column does not exist."""
    if _number(error) == _NO_DATABASE and error.statement:
        # Not at connecting: then the URL names another one.
        return True
    return (
        _state(error) in _MISSING_STATES
        or _number(error) in _MISSING_NUMBERS
        or _sqlite_text(error).startswith(_MISSING_TEXTS)
    )


def _translate(error: DBAPIError, table: str) -> Exception:
    code = _code(error)
    if is_busy(error):
        return SessionBusyError(code)
    if is_missing(error):
        return SessionTableError(table, _first_line(error))
    if _sqlite_text(error).startswith(_NOT_TEXT):
        return UnreadableDataError()
    text = f"{type(error.orig).__name__}, error {code}"
    if _is_told(error):
        text = f"{text}: {_first_line(error)}"
    # What a lost connection was to do can be done again on another one.
    kind = SessionConnectionError if is_lost(error) else type(error)
    return kind(
        error.statement,
        None,
        DriverError(text, code),
        hide_parameters=True,
        connection_invalidated=error.connection_invalidated,
    )


def _is_told(error: DBAPIError) -> bool:
    if _is_sqlite(error):
        return _sqlite_text(error).startswith(_TOLD_TEXTS)
    if _number(error):
        return _number(error) in _TOLD_NUMBERS
    state = _state(error)
    if not state:
        # The driver itself speaks: nobody answered it.
        return isinstance(error, (OperationalError, InterfaceError))
    return state.startswith(_TOLD_STATES)


def _first_line(error: DBAPIError) -> str:
    # PostgreSQL quotes values in the lines after the first. MySQL drivers
    # have number and message as two arguments.
    args = error.orig.args if error.orig else ()
    return str(args[-1] if args else "").partition("\n")[0]


def _is_sqlite(error: DBAPIError) -> bool:
    return type(error.orig).__module__.startswith("sqlite3")


def _sqlite_text(error: DBAPIError) -> str:
    # Only SQLite's: another database's message may begin with anything.
    return _first_line(error) if _is_sqlite(error) else ""


def _state(error: DBAPIError) -> str:
    # psycopg has sqlstate, psycopg2 pgcode.
    for name in ("sqlstate", "pgcode"):
        state = getattr(error.orig, name, None)
        if isinstance(state, str):
            return state
    return ""


def _number(error: DBAPIError) -> int:
    args = getattr(error.orig, "args", ())
    return args[0] if args and isinstance(args[0], int) else 0


def _code(error: DBAPIError) -> str:
    # PyMySQL has a state too, which is HY000 for most.
    return (
        str(_number(error) or "")
        or _state(error)
        or getattr(error.orig, "sqlite_errorname", "unknown")
    )
