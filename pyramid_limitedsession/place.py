"""Where one request's session is read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .store import Store, Work

Content = Mapping[str, Any]


class Part(Protocol):
    """A unit's part in a transaction; see `datamanager`."""

    def give_up(self) -> None:
        """Abort the transaction, which was left behind unfinished."""


class Others:
    """Values for further columns of the application's, during one request.

    ``ask``: returns them for a content; None: there are no such columns.
    """

    def __init__(
        self, ask: Callable[[Content], Content] | None = None
    ) -> None:
        self._ask = ask
        self._asked: str | None = None
        self._values: Content = {}

    def of(self, text: str, loads: Callable[[str], Content]) -> Content:
        """Return the values for the content that a text holds.

        Asked once for the same text: behind the application's own commit,
        what it would ask itself may be out of reach.
        """
        if self._ask is not None and text != self._asked:
            self._values = self._ask(loads(text))
            self._asked = text
        return self._values

    def forget(self) -> None:
        """Ask again next time: the transaction is over."""
        self._asked = None


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
    :ivar others: values for further columns of the application's.
    """

    store: Store
    join: Callable[[Any], Part | None]
    enlist: Callable[[], Work] | None = None
    reader: Callable[[], Work | None] = lambda: None
    others: Others = field(default_factory=Others)

    def to_read(self) -> Store | Work:
        """Return what to read with."""
        return self.reader() or self.store
