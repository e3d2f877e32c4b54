"""What an application's own ``dumps`` and ``loads`` make of the content."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, TypeGuard

from .errors import SessionValueError, UnreadableDataError, shown
from .sameness import pickled_same

PICKLE_WARNING = (
    "limitedsession.serializer reads pickles: whoever can write the table "
    "of the sessions can run any code in this application; take json where "
    "its types are enough (hybrid reads pickles too, and runs nothing)"
)


class ForeignSerializer:
    """Somebody else's ``dumps`` and ``loads``, kept in a column of text.

    ``is_binary``: what is dumped is bytes; they are stored in base64.

    Whatever these two raise is told without its text, which may hold data.
    """

    is_native = False
    warning: str | None = None

    def __init__(
        self,
        dumps: Callable[[Any], Any],
        loads: Callable[[Any], Any],
        *,
        is_binary: bool,
    ) -> None:
        self._dumps = dumps
        self._loads = loads
        self._is_binary = is_binary

    def dumps(self, data: dict[str, Any]) -> str:
        """Return the data as text; raise SessionValueError if it cannot.

        It is read back: much can be written that cannot be read, as an error
        whose class wants two arguments can be pickled.
        """
        for key in data:
            if not isinstance(key, str):
                kind = type(key).__name__
                raise SessionValueError(
                    "session", f"has a key of type {kind}, not str"
                )
        text, problem = self._proven(data)
        if text is None:
            raise SessionValueError(*self._found(data, problem))
        return text

    def _found(self, data: dict[str, Any], problem: str) -> tuple[str, str]:
        """Return the place that cannot be stored, and what is wrong."""
        for key, value in data.items():
            text, its_problem = self._proven({key: value})
            if text is None:
                return f"session[{shown(key)}]", its_problem
        return "session", problem

    def _proven(self, data: dict[str, Any]) -> tuple[str | None, str]:
        """Return the data as a text that can be read, see `_tried`."""
        text, problem = self._tried(data)
        if text is not None and not is_content(self._read(text)):
            return None, "is written by its serializer, but cannot be read"
        return text, problem

    def _tried(self, data: dict[str, Any]) -> tuple[str | None, str]:
        """Return the data as text, or None and what is wrong with it."""
        try:
            text = self._text(data)
        except Exception as error:
            kind = type(error).__name__
            return None, f"cannot be written by its serializer ({kind})"
        if not is_storable(text):
            return None, "makes a text with characters that no database keeps"
        return text, ""

    def _text(self, data: dict[str, Any]) -> str:
        written = self._dumps(data)
        if self._is_binary:
            return base64.b64encode(written).decode("ascii")
        if not isinstance(written, str):
            raise TypeError
        return written

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""
        data = self._read(text)
        if is_content(data):
            return data
        # Not in an except clause: what was raised may hold data.
        raise UnreadableDataError

    def _read(self, text: str) -> object:
        try:
            if not self._is_binary:
                # A plain one: orjson takes no subclass.
                return self._loads("".join(text))
            # Encoders of others break lines.
            joined = "".join(text.split())
            return self._loads(base64.b64decode(joined, validate=True))
        except Exception:
            return None

    def as_written(self, text: str) -> str:
        """Return what `dumps` makes of the data that `loads` reads."""
        # It has just been read, so it is not read back once more.
        written, _ = self._tried(self.loads(text))
        return text if written is None else written

    def is_same(self, one: object, other: object) -> bool:
        """Say whether two values are the same once they are stored."""
        text, _ = self._tried({"": one})
        if text is not None and text == self._tried({"": other})[0]:
            return True
        # In a text the order of a set depends on chance.
        return pickled_same(one, other)


def is_content(data: object) -> TypeGuard[dict[str, Any]]:
    """Say whether what was read is a session's content."""
    return isinstance(data, dict) and all(isinstance(key, str) for key in data)


def is_storable(text: str) -> bool:
    """Say whether every database keeps the text."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def foreign_serializer(found: Any) -> ForeignSerializer:
    """Return the serializer of an object with ``dumps`` and ``loads``.

    It is tried here: an empty session tells whether it makes bytes or text.

    Raises ValueError if it cannot be used.
    """
    dumps, loads = (getattr(found, name, None) for name in ("dumps", "loads"))
    if not callable(dumps) or not callable(loads):
        raise ValueError("it has no functions dumps and loads")
    try:
        written = dumps({})
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"its dumps({{}}) raises {kind}") from error
    if not isinstance(written, (bytes, bytearray, str)):
        kind = type(written).__name__
        raise ValueError(
            f"its dumps({{}}) is of type {kind}, not bytes or str"
        )
    is_binary = not isinstance(written, str)
    made = ForeignSerializer(dumps, loads, is_binary=is_binary)
    if is_binary and written[:1] == b"\x80" and written[-1:] == b".":
        # A pickle, of whatever library.
        made.warning = PICKLE_WARNING
    try:
        made.loads(made.dumps({}))
    except (SessionValueError, UnreadableDataError) as error:
        raise ValueError("it does not read what it writes") from error
    return made
