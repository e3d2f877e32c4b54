"""Database errors: which mean "try again", and what may be shown of them.

A driver's message can hold what was being written: PostgreSQL's DETAIL line
quotes the failing row, MySQL's duplicate-key message the key. What leaves
this package names the kind of error and its code, no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from .errors import SessionBusyError, SessionTableError

# Serialization failure, deadlock, lock not available (PostgreSQL).
_BUSY_STATES = frozenset({"40001", "40P01", "55P03"})
# Record changed since last read, lock wait timeout, deadlock (MySQL).
_BUSY_NUMBERS = frozenset({1020, 1205, 1213})
_MISSING_STATES = frozenset({"42P01", "42703"})
_MISSING_NUMBERS = frozenset({1146, 1054})
_MISSING_TEXTS = ("no such table", "no such column", "has no column")


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
        SessionTableError: the table or a column is missing.
        DBAPIError: of the same class as the original, without its values.
    """
    try:
        yield
    except DBAPIError as error:
        # "from None": the chain would print the original after all.
        raise _translate(error, table) from None


def is_busy(error: DBAPIError) -> bool:
    """Say whether the same work may succeed when it is done again."""
    if _state(error) in _BUSY_STATES or _number(error) in _BUSY_NUMBERS:
        return True
    # sqlite_errorname came with Python 3.11; its messages are stable.
    name = getattr(error.orig, "sqlite_errorname", "")
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or (
        not name and "database is locked" in str(error.orig)
    )


def is_missing(error: DBAPIError) -> bool:
    """Say whether the table or one of its columns does not exist."""
    return (
        _state(error) in _MISSING_STATES
        or _number(error) in _MISSING_NUMBERS
        or any(text in str(error.orig) for text in _MISSING_TEXTS)
    )


def _translate(error: DBAPIError, table: str) -> Exception:
    code = _code(error)
    if is_busy(error):
        return SessionBusyError(code)
    if is_missing(error):
        return SessionTableError(table, _first_line(error))
    kind = type(error.orig).__name__
    text = f"{kind}, error {code}"
    if not isinstance(error, (IntegrityError, DataError)):
        text = f"{kind}: {_first_line(error)}"
    return type(error)(
        error.statement,
        None,
        DriverError(text, code),
        hide_parameters=True,
        connection_invalidated=error.connection_invalidated,
    )


def _first_line(error: DBAPIError) -> str:
    # PostgreSQL quotes values in the lines after the first. MySQL drivers
    # have number and message as two arguments.
    message = (
        str(error.orig.args[-1]) if error.orig and error.orig.args else ""
    )
    return message.partition("\n")[0]


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
    return (
        _state(error)
        or str(_number(error) or "")
        or getattr(error.orig, "sqlite_errorname", "unknown")
    )
