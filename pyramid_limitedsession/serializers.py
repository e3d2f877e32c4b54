"""From session data to text and back: which ways there are, and how much."""

from __future__ import annotations

import marshal
import pickle
from collections.abc import Callable
from typing import Any, Protocol

from .errors import SessionOverflowError
from .foreign import ForeignSerializer, foreign_serializer
from .jsonforms import NullSerializer, RailsSerializer
from .jsontext import HybridSerializer, JSONSerializer
from .pickling import PickleSerializer
from .readers import read_object

__all__ = [
    "HybridSerializer",
    "JSONSerializer",
    "Serializer",
    "as_serializer",
    "byte_count",
    "check_size",
]


class Serializer(Protocol):
    """What turns a session's data into text and text into data.

    :ivar is_native: the text is JSON for a column of that type.
    :ivar warning: what an application that uses it is to know.
    """

    is_native: bool
    warning: str | None

    def dumps(self, data: dict[str, Any]) -> str:
        """Return the data as text; raise SessionValueError if it cannot."""

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""

    def as_written(self, text: str) -> str:
        """Return what `dumps` makes of the data that `loads` reads."""

    def is_same(self, one: object, other: object) -> bool:
        """Say whether two values of a key are the same once stored.

        Never raises: what cannot be stored is not the same as anything.
        """


_BY_NAME: dict[str, Callable[[], Serializer]] = {
    "json": JSONSerializer,
    "hybrid": HybridSerializer,
    "pickle": PickleSerializer,
    "null": NullSerializer,
    "rails": RailsSerializer,
}


def as_serializer(given: Any) -> Serializer:
    """Return the serializer of a setting: a name, or what has both functions.

    Raises ValueError, or what importing it does, if it is none.
    """
    if isinstance(given, str) and given.lower() in _BY_NAME:
        return _BY_NAME[given.lower()]()
    found = _named(given) if isinstance(given, str) else given
    if isinstance(found, type):
        found = found()
    if isinstance(found, (JSONSerializer, ForeignSerializer)):
        return found
    if found is pickle:
        return PickleSerializer()
    if found is marshal:
        # It may crash on damaged data.
        raise ValueError("what Rails calls so is pickle in Python")
    return foreign_serializer(found)


def _named(name: str) -> Any:
    try:
        return read_object(name)
    except (ImportError, ValueError):
        if "." in name:
            raise
        known = ", ".join(_BY_NAME)
        raise ValueError(f"it is none of {known}, nor a module") from None


def byte_count(text: str) -> int:
    """Return the bytes of a text in the database."""
    return len(text.encode())


def check_size(
    text: str,
    data: dict[str, Any],
    serializer: Serializer,
    limit: int | None,
    *,
    stored_size: Callable[[str], int] = byte_count,
) -> None:
    """Raise SessionOverflowError if more than limit bytes would be stored.

    ``stored_size``: returns the bytes that are stored for a text of the
    serializer's.
    """
    if limit is None:
        return
    size = stored_size(text)
    if size <= limit:
        return
    sizes = [
        (key, stored_size(serializer.dumps({key: value})))
        for key, value in data.items()
    ]
    sizes.sort(key=lambda pair: pair[1], reverse=True)
    raise SessionOverflowError(size, limit, sizes[:3])
