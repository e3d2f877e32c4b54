"""`LimitedSession`: what an application calls ``request.session``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from pyramid.interfaces import ISession
from zope.interface import implementer

from .events import Ended
from .limits import TimeLeft
from .store import CSRF_KEY, FLASH_PREFIX
from .unitofwork import Unit

# What JSON knows, and cannot be changed in place.
_UNCHANGEABLE = frozenset({type(None), bool, int, float, str})


@implementer(ISession)
class LimitedSession(MutableMapping[str, Any]):
    """A server-side session: a dict whose changes are part of the request.

    Nothing is loaded before the first look inside. Keys are strings, values
    are JSON's own types (with another serializer: what that one keeps);
    anything else raises `SessionValueError` when the request is saved.
    Changes inside nested values are noticed by comparing: ``changed()`` is
    never needed.

    What is not overridden here comes from ``MutableMapping``: ``get``,
    ``keys``, ``values``, ``items``, ``update``, ``pop``, ``setdefault``,
    ``==``; its views, unlike dict's, show no content in their reprs.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    # -- as a dict -----------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        value = self._unit.look()[key]
        self._expose(value)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._unit.open()[key] = value
        self._expose(value)

    def _expose(self, value: Any) -> None:
        if type(value) not in _UNCHANGEABLE:
            # Who holds it can change it: it is compared at the end.
            self._unit.expose()

    def __delitem__(self, key: str) -> None:
        del self._unit.open()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._unit.look()

    def __iter__(self) -> Iterator[str]:
        return iter(self._unit.look())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._unit.look())

    def __len__(self) -> int:
        return len(self._unit.look())

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the pair that was put in last, as dict does."""
        return self._unit.open().popitem()

    def clear(self) -> None:
        """Remove everything; keys that other requests add meanwhile too.

        The session goes on; to end it call `invalidate`.
        """
        self._unit.clear()

    def copy(self) -> dict[str, Any]:
        """Return a shallow copy, a plain dict."""
        return dict(self)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**other, **self}

    def __ior__(self, other: Any) -> LimitedSession:  # type: ignore[misc]
        self.update(other)
        return self

    def __repr__(self) -> str:
        # Of the content nothing: reprs go to logs and error pages. It does
        # not load either: a debugger's look is not a look inside.
        return f"<{type(self).__name__}>"

    # -- flash messages ------------------------------------------------

    def flash(
        self, msg: Any, queue: str = "", allow_duplicate: bool = True
    ) -> None:
        """Append a message to a queue, unless it is there already.

        Messages that parallel requests append are all kept.
        """
        messages = self._unit.open().setdefault(FLASH_PREFIX + queue, [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Return the queue's messages and empty it."""
        return self._unit.pop_queue(FLASH_PREFIX + queue)

    def peek_flash(self, queue: str = "") -> list[Any]:
        """Return the queue's messages and leave them there."""
        messages: list[Any] = self.get(FLASH_PREFIX + queue, [])
        return messages

    # -- CSRF token ----------------------------------------------------

    def new_csrf_token(self) -> str:
        """Make, keep and return a new CSRF token."""
        token = secrets.token_hex(20)
        self[CSRF_KEY] = token
        return token

    def get_csrf_token(self) -> str:
        """Return the session's CSRF token, a new one if it has none."""
        token = self.get(CSRF_KEY)
        return token if isinstance(token, str) else self.new_csrf_token()

    # -- life ----------------------------------------------------------

    @property
    def created(self) -> int:
        """When the session began, in seconds since the epoch."""
        return self._unit.known().created

    @property
    def new(self) -> bool:
        """True while no row is stored for it."""
        return self._unit.known().is_new

    @property
    def ended(self) -> Ended | None:
        """Why the session that the browser presented was not accepted.

        ``"idle"`` or ``"absolute"``: by its limits. ``"revoked"``: somebody
        ended it. ``"limit"``: its user has signed in too often elsewhere.
        ``"unreadable"``. None if it was accepted, or if none that is known
        was presented.
        """
        return self._unit.known().ended

    @property
    def expires_in(self) -> int | None:
        """Seconds it lasts at least if it is not used again; None: for ever.

        An idle session may last up to ``touch_interval`` longer, because
        activity is not written more often than that.
        """
        return self._unit.time_left.least

    @property
    def time_left(self) -> TimeLeft:
        """The same for each limit: ``time_left.idle``, ``.absolute``.

        In a passive request counted from the last activity before it, and
        to the second: then the session is refused.
        """
        return self._unit.time_left

    @property
    def profile(self) -> str | None:
        """The name of the limits that hold, None for the default ones."""
        return self._unit.profile_name

    def use_profile(self, name: str | None) -> None:
        """Let the limits of a configured profile hold for this session.

        Its name is stored with the content; None stands for the limits
        without a profile. A session that stays empty is not stored, and
        neither is its profile. ``invalidate`` ends it, ``rotate`` does not.

        Raises SessionProfileError, at once, if there is no such profile.
        """
        self._unit.use_profile(name)

    def changed(self) -> None:
        """Do nothing that is needed: changes are noticed anyway.

        Part of ``ISession`` for sessions that notice only assignments.
        """
        self._unit.open()

    def invalidate(self) -> None:
        """End the session; what is put in afterwards is a new session.

        The row is deleted in the request's transaction, and if that aborts
        in one of its own: a logout is a logout, also when it is followed by
        ``raise HTTPFound``. Requests still under way cannot bring it back.
        """
        self._unit.end()

    def rotate(self) -> None:
        """Give the session a new token; content and age stay.

        To be called when the visitor's rights change, as at login (OWASP
        ASVS 7.2.4): the old token opens nothing any more. If the
        transaction aborts the old token stays valid. A session without a
        row gets its first token at the end of the request in any case.

        The CSRF token is content and stays too, or forms in other tabs
        would fail; ``pyramid.csrf.new_csrf_token(request)`` makes another.
        """
        self._unit.rotate()
