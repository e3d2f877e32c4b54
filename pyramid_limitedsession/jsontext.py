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
        self.rules.require(data)
        return json.dumps(data, separators=(",", ":"), allow_nan=False)

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
    brackets = text.count("[") + text.count("{")
    if brackets > rules.depth and not rules.are_kept_by(data):
        return None
    return data


def _refuse(text: str) -> object:
    raise ValueError


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value
