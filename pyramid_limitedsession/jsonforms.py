"""JSON in the forms that others want: a column of JSON, and Rails."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from .errors import UnreadableDataError
from .jsontext import JSONSerializer, decoded
from .jsonvalues import MAX_DEPTH, JSONRules

# Of what JSON's own rules allow, a database or Rails does not.
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# json_valid() of MariaDB 10.11 refuses 32 levels; PostgreSQL and SQLite take
# more than JSON's own rules do.
_NATIVE_DEPTH = 31
_ODD_NUMBER = re.compile(r"[0-9]e[-+]|-0\.0")
# Strings too, because what is in them is to stay.
_STRING_OR_ODD_NUMBER = re.compile(
    r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9.]+e[-+][0-9]+|-0\.0(?=[],}])'
)

_WRAPPED = JSONRules()


class NullSerializer(JSONSerializer):
    """JSON for a column of JSON, which the database reads as well.

    It keeps what that means, not the text: an object's keys come back in
    another order, and so they are always written in one. What one of the
    databases would not keep is refused on each.
    """

    is_native = True
    rules = JSONRules(
        depth=_NATIVE_DEPTH,
        refused=_NO_CHARACTER,
        refused_text="has a NUL or half a character, which a column of JSON "
        "does not keep",
        least=-(2**63),
        most=2**64 - 1,
        refused_integer="is an integer of more than 64 bits, which not every "
        "column of JSON keeps",
    )

    def dumps(self, data: dict[str, Any]) -> str:
        """Return the data as JSON; raise SessionValueError if it cannot."""
        self.rules.require(data)
        # With the blanks that PostgreSQL writes: it is counted as stored.
        text = json.dumps(
            data, sort_keys=True, separators=(", ", ": "), allow_nan=False
        )
        if _ODD_NUMBER.search(text):
            text = _STRING_OR_ODD_NUMBER.sub(_in_full, text)
        return text

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged.

        Others write into such a column. What could not be written again is
        refused, too: a request that only reads would fail otherwise.
        """
        data = super().loads(text)
        if not self.rules.are_kept_by(data):
            raise UnreadableDataError
        return data

    def as_written(self, text: str) -> str:
        """Return it as `dumps` does; raise UnreadableDataError if damaged."""
        return self.dumps(self.loads(text))


def _in_full(found: re.Match[str]) -> str:
    """Return a number as PostgreSQL keeps it.

    It would read 1e16 as an integer. It knows no -0.0, which equals 0.0.
    """
    text = found[0]
    if text.startswith('"'):
        return text
    if text == "-0.0":
        return "0.0"
    number = format(Decimal(text), "f")
    return number if "." in number else f"{number}.0"


class RailsSerializer(JSONSerializer):
    """JSON as activerecord-session_store reads and writes it.

    Its JsonSerializer (2.3.0) writes ``{"value": {...}}``, and reads no
    more of an object than the value of that key. Here the object must have
    that key alone: without the others it would lose something. It writes no
    ASCII, and numbers in another way; so a text is compared as we would
    write it, and what Rails has written stays as it is.
    """

    rules = JSONRules(
        # One level is the wrapping; deeper than 100 Ruby's JSON reads not.
        depth=MAX_DEPTH - 1,
        refused=_SURROGATE,
        refused_text="has half a character, which Ruby's JSON does not read",
    )

    def dumps(self, data: dict[str, Any]) -> str:
        """Return the data as JSON; raise SessionValueError if it cannot."""
        # Reading back proves nothing of what Ruby reads.
        self.rules.require(data)
        return f'{{"value":{super().dumps(data)}}}'

    def loads(self, text: str) -> dict[str, Any]:
        """Return the data; raise UnreadableDataError if it is damaged."""
        wrapped = decoded(text, _WRAPPED)
        if isinstance(wrapped, dict) and list(wrapped) == ["value"]:
            data = wrapped["value"]
            if isinstance(data, dict) and self.rules.are_kept_by(data):
                return data
        raise UnreadableDataError

    def as_written(self, text: str) -> str:
        """Return it as `dumps` does; raise UnreadableDataError if damaged."""
        return self.dumps(self.loads(text))
