"""From session data to text and back; what may be stored, and how much.

Only JSON's own types are accepted: what is read back must equal what was
put in. ``json.dumps`` alone does not promise that (an ``int`` key comes
back as a string, a tuple as a list, ``NaN`` is no JSON at all), so the data
is checked first, and an error names the path of the offending key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .errors import (
    SessionOverflowError,
    SessionValueError,
    UnreadableDataError,
    shown,
)
from .pickled import unpickled

# Far deeper than any sane session, far from Python's recursion limit, at
# which writing and reading would both fail.
MAX_DEPTH = 100
# Python refuses to read integers of more digits than this back from text
# (sys.set_int_max_str_digits); 4300 digits are about 14,200 bits.
_MAX_INT_BITS = 14_000
_SPLIT_CHARACTER = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# Of a path, so many parts are shown in an error.
_PARTS_SHOWN = 8


class Serializer(Protocol):
    """What turns a session's data into text and text into data."""

    def dumps(self, data: dict[str, Any]) -> str:
        """Return the data as text; raise SessionValueError if it cannot."""

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""

    def as_written(self, text: str) -> str:
        """Return what `dumps` makes of the data that `loads` reads."""


class JSONSerializer:
    """Strict JSON in ASCII.

    ASCII, because then neither the character set of a table nor a NUL or a
    lone surrogate in a string can spoil what is stored.
    """

    def dumps(self, data: dict[str, Any]) -> str:
        """Return the data as JSON; raise SessionValueError if it cannot."""
        try:
            _check(data, MAX_DEPTH)
        except _Bad as bad:
            raise SessionValueError(_path(bad), bad.problem) from None
        return json.dumps(data, separators=(",", ":"), allow_nan=False)

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""
        data = _decoded(text)
        if not isinstance(data, dict):
            # Not raised in the decoder's except clause: its error, which
            # would be the context of this one, holds the whole text.
            raise UnreadableDataError
        return data

    def as_written(self, text: str) -> str:
        """Return the text: nobody else has written it."""
        return text


def _decoded(text: str) -> object:
    """Return the decoded text; None if `JSONSerializer` wrote it not."""
    try:
        data = json.loads(
            text, parse_constant=_refuse, parse_float=_finite_float
        )
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check(data, MAX_DEPTH)
    except (ValueError, TypeError, RecursionError, _Bad):
        return None
    return data


def _refuse(text: str) -> object:
    raise ValueError


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


class HybridSerializer(JSONSerializer):
    """JSON that also reads what somebody else has pickled, in base64.

    For the time of a change from one to the other. Nothing in a pickle is
    run, see `pickled`. What JSON does not know makes a row unreadable.
    """

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""
        data = _decoded(text)
        if not isinstance(data, dict):
            data = _checked(unpickled(text, depth=MAX_DEPTH))
        if not isinstance(data, dict):
            raise UnreadableDataError
        return data

    def as_written(self, text: str) -> str:
        """Return it as JSON; raise UnreadableDataError if it is damaged."""
        is_json = text.startswith("{")
        return text if is_json else self.dumps(self.loads(text))


def _checked(data: object) -> object:
    try:
        _check(data, MAX_DEPTH)
    except _Bad:
        return None
    return data


SERIALIZERS: dict[str, Callable[[], Serializer]] = {
    "json": JSONSerializer,
    "hybrid": HybridSerializer,
}


def as_serializer(given: Any) -> Serializer:
    """Return the serializer that a setting names; ValueError if none."""
    try:
        return SERIALIZERS[given.lower()]()
    except (KeyError, AttributeError):
        raise ValueError("it is none") from None


def check_size(
    text: str, data: dict[str, Any], serializer: Serializer, limit: int | None
) -> None:
    """Raise SessionOverflowError if the text has more than limit bytes."""
    size = len(text.encode())
    if limit is None or size <= limit:
        return
    sizes = [
        (key, len(serializer.dumps({key: value}).encode()))
        for key, value in data.items()
    ]
    sizes.sort(key=lambda pair: pair[1], reverse=True)
    raise SessionOverflowError(size, limit, sizes[:3])


class _Bad(Exception):
    """A value that cannot be stored; its path is collected on the way up."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []


def _check(value: object, depth: int) -> None:
    # Subclasses of JSON's types pass: they equal what is read back.
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value)
        return
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise _Bad("is an integer of too many digits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _Bad("is a number that JSON does not know")
    elif isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                kind = type(key).__name__
                raise _Bad(f"has a key of type {kind}, not str")
            _check_text(key)
        _check_items(value.items(), depth)
    elif isinstance(value, list):
        _check_items(enumerate(value), depth)
    else:
        raise _Bad(
            f"is of type {type(value).__name__}; a session keeps only None, "
            "bool, int, float, str, list, and dict with str keys"
        )


def _check_text(text: str) -> None:
    if not text.isascii() and _SPLIT_CHARACTER.search(text):
        raise _Bad("has two surrogates that JSON reads as one character")


def _check_items(items: Iterable[tuple[object, object]], depth: int) -> None:
    if depth <= 0:
        raise _Bad(f"is nested more than {MAX_DEPTH} deep, or in itself")
    for place, item in items:
        try:
            _check(item, depth - 1)
        except _Bad as bad:
            bad.path.append(f"[{shown(place)}]")
            raise


def _path(bad: _Bad) -> str:
    # Of a cycle's endless path the beginning is all that helps.
    parts = bad.path[::-1]
    return (
        "session"
        + "".join(parts[:_PARTS_SHOWN])
        + ("…" if len(parts) > _PARTS_SHOWN else "")
    )
