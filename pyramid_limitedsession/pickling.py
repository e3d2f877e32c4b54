"""Sessions as pickles: the widest range of values, and its price."""

from __future__ import annotations

import pickle
from typing import Any

from .foreign import ForeignSerializer
from .sameness import PROTOCOL, pickled_same

WARNING = (
    "limitedsession.serializer = pickle: whoever can write the table of the "
    "sessions, or restore it from a backup, can run any code in this "
    "application; where JSON's types are enough, take json (hybrid reads "
    "the pickles that are there, and runs nothing)"
)


class PickleSerializer(ForeignSerializer):
    """Python's pickles, in base64."""

    warning = WARNING

    def __init__(self) -> None:
        super().__init__(_pickled, pickle.loads, is_binary=True)

    def is_same(self, one: object, other: object) -> bool:
        """Say whether two values are the same once they are stored."""
        return pickled_same(one, other)


def _pickled(data: dict[str, Any]) -> bytes:
    return pickle.dumps(data, PROTOCOL)
