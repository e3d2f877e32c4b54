"""For tests: of applications, and of stores that are not ours.

Nothing here needs pytest or WebTest to be imported, and nothing of it is
imported by an application that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..memory import MemoryStore
from .sessioncontract import SessionContract
from .storecontract import StoreContract
from .visitor import Visitor

__all__ = [
    "MemoryStore",
    "SessionContract",
    "StoreContract",
    "Visitor",
    "memory_store",
]


def memory_store(settings: Mapping[str, Any]) -> MemoryStore:
    """Return a new store in memory, for the setting ``store``."""
    return MemoryStore()
