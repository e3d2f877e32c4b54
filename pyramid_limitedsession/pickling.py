"""Sessions as pickles: any value, and whoever writes one runs code."""

from __future__ import annotations

import pickle
from typing import Any

from .foreign import PICKLE_WARNING, ForeignSerializer
from .sameness import PROTOCOL, pickled_same


class PickleSerializer(ForeignSerializer):
    """Python's pickles, in base64."""

    warning: str | None = PICKLE_WARNING

    def __init__(self) -> None:
        super().__init__(_pickled, pickle.loads, is_binary=True)

    def is_same(self, one: object, other: object) -> bool:
        """Say whether two values are the same once they are stored."""
        return pickled_same(one, other)


def _pickled(data: dict[str, Any]) -> bytes:
    return pickle.dumps(data, PROTOCOL)
