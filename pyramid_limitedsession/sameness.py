"""When two values are the same, without asking an application's ``==``.

Which may do anything: say that two objects of one row are equal, whatever
was changed in them, or return an array.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

# Every Python that we run on reads it.
PROTOCOL = 5


def json_same(one: object, other: object) -> bool:
    """Say whether two values are the same as JSON: 1, 1.0 and True differ.

    What is not JSON is the same only as itself.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            json_same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_same, one, other))
    return one is other or (
        _scalar(one) is not None
        and _scalar(one) is _scalar(other)
        and one == other
    )


def _scalar(value: object) -> type | None:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind
    return None


def pickled_same(one: object, other: object) -> bool:
    """Say whether two values have the same pickle, in whatever order sets are.

    What cannot be pickled is not the same as anything.
    """
    try:
        return _form(one) == _form(other)
    except Exception:
        # An application's own methods are called. Its error may hold data.
        return False


def _form(value: object) -> bytes:
    file = io.BytesIO()
    _Former(file, PROTOCOL).dump(value)
    return file.getvalue()


class _Former(pickle.Pickler):
    """Writes pickles to be compared; they cannot be read."""

    def persistent_id(self, value: Any) -> Any:
        """Return what is written in place of a value, None for itself."""
        if type(value) is str:
            # Whether two equal texts are one object depends on chance.
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, (set, frozenset)):
            # Their order changes with each round trip, and with the process.
            kind = type(value)
            own = _form(getattr(value, "__dict__", None))
            items = sorted(map(_form, value))
            return kind.__module__, kind.__qualname__, own, items
        return None
