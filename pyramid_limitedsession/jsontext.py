"""JSON as text: strict, in ASCII; and a reader that knows pickles, too."""

from __future__ import annotations

import json
import math
from typing import Any

from .errors import UnreadableDataError
from .jsonvalues import JSONRules
from .pickled import unpickled
from .sameness import json_same


class JSONSerializer:
    """Strict JSON in ASCII.

    ASCII, because then neither the character set of a table nor a NUL or a
    lone surrogate in a string can spoil what is stored.
    """

    is_native = False
    warning: str | None = None
    rules = JSONRules()

    def dumps(self, data: dict[str, Any]) -> str:
        """Return the data as JSON; raise SessionValueError if it cannot."""
        text = _encoded(data)
        # To read it back is much faster than to look at each value, and
        # proves the same; what is wrong is found by looking.
        if text is None or not self._is_kept(text, data):
            self.rules.require(data)
        return text or json.dumps(data)

    def _is_kept(self, text: str, data: object) -> bool:
        found = json.loads(text)
        is_deep = _may_be_deeper(text, self.rules.depth)
        return found == data and not (
            is_deep and _is_deeper(found, self.rules.depth)
        )

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""
        data = decoded(text, self.rules)
        if not isinstance(data, dict):
            # Not raised in the decoder's except clause: its error, which
            # would be the context of this one, holds the whole text.
            raise UnreadableDataError
        return data

    def as_written(self, text: str) -> str:
        """Return the text: nobody else has written it."""
        return text

    def is_same(self, one: object, other: object) -> bool:
        """Say whether two values are the same."""
        return json_same(one, other)


class HybridSerializer(JSONSerializer):
    """JSON that also reads what somebody else has pickled, in base64.

    For the time of a change from one to the other. Nothing in a pickle is
    run, see `pickled`. What JSON does not know makes a row unreadable.
    """

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""
        data = decoded(text, self.rules)
        if not isinstance(data, dict):
            data = unpickled(text, depth=self.rules.depth)
            if not isinstance(data, dict) or not self.rules.are_kept_by(data):
                raise UnreadableDataError
        return data

    def as_written(self, text: str) -> str:
        """Return it as JSON; raise UnreadableDataError if it is damaged."""
        is_json = text.startswith("{")
        return text if is_json else self.dumps(self.loads(text))


def decoded(text: str, rules: JSONRules) -> object:
    """Return the decoded text; None if it is no JSON, or nested too deep."""
    try:
        data = json.loads(
            text, parse_constant=_refuse, parse_float=_finite_float
        )
    except (ValueError, TypeError, RecursionError):
        return None
    if _may_be_deeper(text, rules.depth) and _is_deeper(data, rules.depth):
        return None
    return data


def _encoded(data: object) -> str | None:
    """Return the data as JSON, None if there is none of it."""
    try:
        return json.dumps(data, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None


def _may_be_deeper(text: str, depth: int) -> bool:
    return text.count("[") + text.count("{") > depth


def _is_deeper(data: object, depth: int) -> bool:
    """Say whether there are more than so many lists or dicts in another."""
    level: list[Any] = [data]
    for _ in range(depth):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True


def _refuse(text: str) -> object:
    raise ValueError


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value
