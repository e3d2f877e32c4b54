"""Reading a pickle as data, without unpickling it.

Python's own unpickler calls what a pickle names; and even where it may find
nothing to call, ten bytes make it take gigabytes (its memo is as long as the
largest index), and a tuple that is nested deep enough, used as a key, ends
the process. So this reads the opcodes of plain data, all that there are in a
session of JSON's types, and knows no other: no class, no function, no
persistent id, no bytes, no set.
"""

from __future__ import annotations

import base64
import pickletools
from collections.abc import Callable
from typing import Any

# The same list may stand in many places, and in JSON it is written at each.
# So many values and characters are read at most, and so many for each byte.
_MOST = 4 * 1024 * 1024
_MOST_PER_BYTE = 16
# What the argument of the opcode is.
_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
# Of Python 2: bytes that are read one to a character.
_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": list,
    "EMPTY_DICT": dict,
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_ABOUT_THE_PICKLE = frozenset({"PROTO", "FRAME", "STOP"})


class _NotData(Exception):
    """It is not plain data, or too much of it."""


def unpickled(text: str, *, depth: int) -> object:
    """Return what a base64-encoded pickle holds; None if it is not data.

    Tuples are lists. ``depth``: how deep it may be nested.
    """
    try:
        # Encoders break lines.
        data = base64.b64decode("".join(text.split()), validate=True)
        found = _Reader().read(data)
        return _Copier(_MOST + _MOST_PER_BYTE * len(data)).copy(found, depth)
    except Exception:
        # A damaged one can go wrong everywhere, and no error may be shown.
        return None


class _Reader:
    """Follows the opcodes of a pickle, as far as they make plain data."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        # What was on the stack before each open mark.
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        """Return what the pickle holds; raise anything if it is not data."""
        for opcode, value, _ in pickletools.genops(data):
            self._step(opcode.name, value)
        return self._stack.pop()

    def _step(self, name: str, value: Any) -> None:
        if name in _VALUES:
            self._stack.append(value)
        elif name in _STRINGS:
            self._stack.append(value.encode("latin-1").decode("utf-8"))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _PUTS:
            self._memo[value] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[value])
        elif name in _SHORT_TUPLES:
            start = len(self._stack) - _SHORT_TUPLES[name]
            self._stack[start:] = [self._stack[start:]]
        elif name not in _ABOUT_THE_PICKLE:
            self._put_together(name)

    def _put_together(self, name: str) -> None:
        if name == "MARK":
            self._below.append(self._stack)
            self._stack = []
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("LIST", "TUPLE"):
            items = self._since_mark()
            self._stack.append(items)
        elif name == "DICT":
            items = self._since_mark()
            self._stack.append({})
            self._set(items)
        elif name == "APPEND":
            item = self._stack.pop()
            self._stack[-1].append(item)
        elif name == "APPENDS":
            items = self._since_mark()
            self._stack[-1].extend(items)
        elif name == "SETITEM":
            key, item = self._stack[-2:]
            del self._stack[-2:]
            self._set([key, item])
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "POP" and self._stack:
            self._stack.pop()
        elif name in ("POP", "POP_MARK"):
            self._since_mark()
        else:
            raise _NotData

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _set(self, items: list[Any]) -> None:
        content = self._stack[-1]
        if len(items) % 2 or not isinstance(content, dict):
            raise _NotData
        for key, item in zip(items[::2], items[1::2], strict=True):
            # Before anything else is hashed.
            if type(key) is not str:
                raise _NotData
            content[key] = item


class _Copier:
    """Copies what was read, so that nothing in it is there twice.

    :ivar left: so many values and characters may still come.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def copy(self, value: Any, depth: int) -> Any:
        """Return the value, which may be nested so deep."""
        self.left -= 1 + (len(value) if isinstance(value, str) else 0)
        if self.left < 0 or depth < 0:
            raise _NotData
        if isinstance(value, dict):
            return {
                self.copy(key, depth): self.copy(item, depth - 1)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.copy(item, depth - 1) for item in value]
        return value
