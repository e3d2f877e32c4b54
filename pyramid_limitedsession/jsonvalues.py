"""What JSON keeps: what is read back must equal what was put in.

``json.dumps`` alone does not promise that (an ``int`` key comes back as a
string, a tuple as a list, ``NaN`` is no JSON at all), so the data is checked
first, and an error names the path of the offending key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import SessionValueError, shown

# Far deeper than any sane session, far from Python's recursion limit, at
# which writing and reading would both fail.
MAX_DEPTH = 100
# Python refuses to write and to read integers of more digits than this
# (sys.set_int_max_str_digits).
_MAX_INT = 10**4300 - 1
# Of a path, so many parts are shown in an error.
_PARTS_SHOWN = 8


class _Bad(Exception):
    """A value that cannot be stored; its path is collected on the way up."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []


@dataclass(frozen=True)
class JSONRules:
    """What may be stored, of JSON's own types.

    :ivar depth: how deep it may be nested.
    :ivar refused: finds what no text may hold, of NUL and surrogates.
    :ivar refused_text: says so.
    :ivar least: the least integer.
    :ivar most: the greatest integer.
    :ivar refused_integer: says that one is beyond these.
    """

    depth: int = MAX_DEPTH
    refused: re.Pattern[str] = re.compile("[\ud800-\udbff][\udc00-\udfff]")
    refused_text: str = "has two surrogates that JSON reads as one character"
    least: int = -_MAX_INT
    most: int = _MAX_INT
    refused_integer: str = "is an integer of too many digits"

    def require(self, data: object) -> None:
        """Raise SessionValueError if the data may not be stored."""
        try:
            self._check(data, self.depth)
        except _Bad as bad:
            raise SessionValueError(_path(bad), bad.problem) from None

    def are_kept_by(self, data: object) -> bool:
        """Say whether the data may be stored."""
        try:
            self._check(data, self.depth)
        except _Bad:
            return False
        return True

    def _check(self, value: object, depth: int) -> None:
        # Subclasses of JSON's types pass: they equal what is read back.
        if value is None or isinstance(value, bool):
            return
        if isinstance(value, str):
            self._check_text(value)
        elif isinstance(value, int):
            if not self.least <= value <= self.most:
                raise _Bad(self.refused_integer)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _Bad("is a number that JSON does not know")
        elif isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    kind = type(key).__name__
                    raise _Bad(f"has a key of type {kind}, not str")
                self._check_text(key)
            self._check_items(value.items(), depth)
        elif isinstance(value, list):
            self._check_items(enumerate(value), depth)
        else:
            raise _Bad(
                f"is of type {type(value).__name__}; a session keeps only "
                "None, bool, int, float, str, list, and dict with str keys"
            )

    def _check_text(self, text: str) -> None:
        is_plain = text.isascii() and "\0" not in text
        if not is_plain and self.refused.search(text):
            raise _Bad(self.refused_text)

    def _check_items(
        self, items: Iterable[tuple[object, object]], depth: int
    ) -> None:
        if depth <= 0:
            raise _Bad(f"is nested more than {self.depth} deep, or in itself")
        for place, item in items:
            try:
                self._check(item, depth - 1)
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
