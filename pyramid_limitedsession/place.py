"""Where one request's session is read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .store import Store, Work

Content = Mapping[str, Any]


class Part(Protocol):
    """A unit's part in a transaction; see `datamanager`."""

    def give_up(self) -> None:
        """Abort the transaction, which was left behind unfinished."""


@dataclass(frozen=True)
class Place:
    """Where one request's session is read and written.

    :ivar store: own connections, outside the request's transaction.
    :ivar join: makes a unit take part in the request's transaction; returns
        its part, or None if there is no transaction.
    :ivar enlist: joined mode: returns a `Work` inside the request's
        database transaction. None: the store's own transactions are used.
    :ivar reader: joined mode: returns a `Work` to read with, or None to
        read with the store.
    :ivar others: returns values for further columns of the application's,
        for a content that is to be written.
    """

    store: Store
    join: Callable[[Any], Part | None]
    enlist: Callable[[], Work] | None = None
    reader: Callable[[], Work | None] = lambda: None
    others: Callable[[Content], Content] = lambda content: {}

    def to_read(self) -> Store | Work:
        """Return what to read with."""
        return self.reader() or self.store
