"""One tree of errors; each docstring is the error's default sentence.

No error holds a token, a key or session data: texts name places and types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import OperationalError
from transaction.interfaces import TransientError

_KEY_SHOWN = 40


def shown(key: object) -> str:
    """Return a key as error texts show it: quoted, and not too long."""
    text = repr(key)
    return text if len(text) <= _KEY_SHOWN else text[:_KEY_SHOWN] + "…"


class SessionError(Exception):
    """The session could not be used."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or type(self).__doc__)


class SessionValueError(SessionError, ValueError):
    """A value in the session is not one that its serializer keeps.

    :ivar path: where the value is, for instance ``session['cart'][3]``.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(f"{path} {problem}")


class SessionOverflowError(SessionError):
    """The session's data is larger than max_data_size allows.

    :ivar size: bytes of the data as it would be stored.
    :ivar limit: ``max_data_size`` in bytes.
    :ivar largest: the largest keys, as pairs of key and bytes.
    """

    def __init__(
        self, size: int, limit: int, largest: list[tuple[str, int]]
    ) -> None:
        self.size = size
        self.limit = limit
        self.largest = largest
        keys = ", ".join(
            f"{shown(key)} ({size} bytes)" for key, size in largest
        )
        super().__init__(
            f"the session's data has {size} bytes, "
            f"limitedsession.max_data_size allows {limit}; "
            f"largest keys: {keys}"
        )


class SessionProfileError(SessionError, ValueError):
    """No profile of this name is configured.

    :ivar name: the name that was asked for.
    """

    def __init__(self, name: object, known: Iterable[str]) -> None:
        self.name = name
        names = ", ".join(map(shown, sorted(known))) or "none"
        super().__init__(
            f"there is no profile {shown(name)}; configured are: {names}"
        )


class SessionConflict(SessionError, TransientError):
    """Another request changed the same key of the session.

    Raised only with ``on_conflict = retry``. It is a ``TransientError``, so
    that pyramid_retry replays the request.

    :ivar keys: the keys that both requests changed; empty if what the other
        one has stored cannot be read here.
    """

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        super().__init__(
            "another request changed the same keys of this session: "
            + ", ".join(map(shown, keys))
            if keys
            else "another request changed this session to what is unreadable"
        )


class SessionBusyError(SessionError, TransientError):
    """The database asks to try again: a lock, a deadlock, a conflict.

    It is a ``TransientError``, so that pyramid_retry replays the request.

    :ivar code: the database's own code, for instance ``40001`` or ``1213``.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(f"the database asks to try again (error {code})")


class SessionConnectionError(SessionError, TransientError, OperationalError):
    """The database closed the connection before the session was saved.

    It is a ``TransientError``, so that pyramid_retry replays the request,
    on another connection, and SQLAlchemy's ``OperationalError``, as which an
    application knows it from its own statements. A COMMIT that fails is not
    told so: nobody knows what came of it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        OperationalError.__init__(self, *arguments, **options)


class SessionTableError(SessionError):
    """The sessions table does not exist, or lacks a column.

    :ivar table: the table's name.
    :ivar reason: what the database says.
    """

    def __init__(self, table: str, reason: str) -> None:
        self.table, self.reason = table, reason
        super().__init__(
            f"the table {table!r} cannot be used ({reason}); if it is "
            "missing, make it with 'pls-init your.ini'; if you use Alembic, "
            "'pls-migration your.ini' writes a revision that makes it, or "
            "brings it up to date; if it is somebody else's, set another "
            "limitedsession.table_name"
        )


@contextmanager
def after_commit() -> Iterator[None]:
    """Make errors of the block final: nobody may replay the request.

    A `TransientError` would be: pyramid_retry would do again what the
    application has committed already.
    """
    try:
        yield
    except TransientError as error:
        raise SessionError(
            "the session could not be saved after the request's transaction "
            f"had ended: {error}"
        ) from error


class UnreadableDataError(SessionError):
    """The stored data cannot be read; the session counts as new."""
