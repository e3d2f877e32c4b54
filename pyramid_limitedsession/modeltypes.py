"""What types the columns of an application's own mapped class may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

from .users import USER_LENGTH, UserColumn

Kind = TypeEngine[Any]

# "2::" and 64 hex digits.
SHORTEST_KEY = 67
PROFILE_LENGTH = 40
REASON_LENGTH = 20


def types_of(columns: Mapping[str, sa.Column[Any]]) -> dict[str, Kind]:
    """Return the types of columns, as the database has them.

    Raises ValueError if we could not read and write one of those of ours.
    """
    types = {name: _bare(column.type) for name, column in columns.items()}
    problems = [
        f"its {name} is {columns[name].type!r}; it has to be {wanted}"
        for name, (wanted, fits) in _WANTED.items()
        if name in types and not fits(types[name])
    ]
    zones = {is_zoned(types[name]) for name in _TIMES if name in types}
    if len(zones) > 1:
        # They are compared with each other, and with the same values.
        problems.append(
            f"of {', '.join(_TIMES)} some have a time zone; all have to, "
            "or none"
        )
    if problems:
        raise ValueError("; ".join(problems))
    return types


def user_column(kind: Kind | None) -> UserColumn:
    """Return what a column of users keeps; None: one of our own."""
    if isinstance(kind, sa.Integer):
        bits = _bits(kind)
        if getattr(kind, "unsigned", False):
            return UserColumn(numbers=range(2**bits))
        return UserColumn(numbers=range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    return UserColumn(min(getattr(kind, "length", None) or 2**31, USER_LENGTH))


def is_json(kind: Kind) -> bool:
    """Say whether a column keeps JSON, which the database reads."""
    return isinstance(kind, sa.JSON)


def is_zoned(kind: Kind | None) -> bool:
    """Say whether a column keeps times with a time zone."""
    return bool(getattr(kind, "timezone", False))


def _bare(kind: Kind) -> Kind:
    """Return the type that an application's own one is made of."""
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return kind


def _bits(kind: Kind) -> int:
    if isinstance(kind, sa.BigInteger):
        return 64
    if isinstance(kind, sa.SmallInteger):
        return 16
    # MySQL's.
    return {"TINYINT": 8, "MEDIUMINT": 24}.get(type(kind).__name__, 32)


def _is_text(kind: Kind, least: int = 0) -> bool:
    is_text = isinstance(kind, sa.String) and not isinstance(kind, sa.Enum)
    length = getattr(kind, "length", None)
    return is_text and (length is None or length >= least)


def _is_time(kind: Kind) -> bool:
    return isinstance(kind, sa.DateTime)


def _text(least: int) -> tuple[str, Callable[[Kind], bool]]:
    wanted = f"a text, of at least {least} characters if it has a length"
    return wanted, lambda kind: _is_text(kind, least)


_TIMES = ("created_at", "updated_at", "expires_at")
_TIME = ("a date with a time (DateTime)", _is_time)
# Of each column, what it has to be. Of the ids the application has the say.
_WANTED: Mapping[str, tuple[str, Callable[[Kind], bool]]] = {
    "session_id": _text(SHORTEST_KEY),
    "data": (
        "a text, or JSON for serializer = null",
        lambda kind: _is_text(kind) or is_json(kind),
    ),
    "version": (
        "a whole number of at least 32 bits",
        lambda kind: isinstance(kind, sa.Integer) and _bits(kind) >= 32,
    ),
    **dict.fromkeys(_TIMES, _TIME),
    "user_id": (
        "a text or a whole number",
        lambda kind: _is_text(kind) or isinstance(kind, sa.Integer),
    ),
    "profile": _text(PROFILE_LENGTH),
    "ended": _text(REASON_LENGTH),
}
