"""Sessions of another factory that become ours: the setting ``adopt``.

The old factory is asked with a stand-in for the request. What it adds to
that (callbacks that save, prolong or send a cookie) never happens, unless
its session is ended: then they do what ending takes, on an answer that
nobody gets.

If an old session cannot be ended, an end that the application asked for
raises. Where ours is over by itself nobody can be told; then the browser
keeps our dead token, because beside that nothing is adopted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from pyramid.request import CallbackMethodsMixin, Request
from pyramid.response import Response
from pyramid.threadlocal import manager

from .draft import Draft
from .errors import SessionOverflowError, SessionValueError, shown
from .expiry import FIRST, SEEN
from .loading import Adopted, Found
from .settings import CookieSettings, Policy, Settings
from .stored import Stored
from .tokens import fingerprint

log = logging.getLogger(__name__)

# Beaker keeps these among the content.
_BEAKERS_OWN = frozenset(
    ("_accessed_time", "_creation_time", "_domain", "_id", "_path")
)


def old_session(
    settings: Settings, request: Request, owner_key: str
) -> OldSession | None:
    """Return what stands for a request's old session; None: it has none.

    Without any cookie it has none. ``owner_key`` is what is in the environ
    of a request below our tween: that request.
    """
    has_cookies = request.environ.get("HTTP_COOKIE") or request.cookies
    if settings.adopt is None or not has_cookies:
        return None
    is_inside = any(
        entry["request"] is not request and _is_owner(entry, owner_key)
        for entry in manager.stack
    )
    return OldSession(
        settings.adopt, settings.policy, request, is_inside=is_inside
    )


def _is_owner(entry: Mapping[str, Any], key: str) -> bool:
    request = entry["request"]
    owner = getattr(request, "environ", {}).get(key)
    return owner is not None and owner is request


class OldSession:
    """What the old factory has for one request, which asks at most once.

    ``is_inside``: another request makes this one, and may drop the cookie
    that its answer has: it ends what the application ends, but adopts nothing.
    """

    def __init__(
        self,
        factory: Callable[[Any], Any],
        policy: Policy,
        request: Request,
        *,
        is_inside: bool = False,
    ) -> None:
        self._factory = factory
        self._policy = policy
        self._is_inside = is_inside
        self._aside = _Aside(request)
        self._session: Any = None
        self._content: dict[str, Any] | None = None
        self._is_over = False
        self._failure: Exception | None = None
        self._cookies: list[str] = []

    def find(self, now: int) -> Found:
        """Return what becomes of it at ``now``.

        An empty new session if there is none, if the limits forbid it, or
        if it is too large. Raises what its factory raises.
        """
        if self._is_inside:
            return Found()
        content = self._look()
        if not content:
            return Found()
        created, seen = _times(self._session, content, now)
        limits = self._policy.profiles.default.limits
        verdict = limits.verdict(created, seen, now)
        if verdict != "active":
            return Found(ended=verdict)
        text = self._text(content)
        if text is None:
            return Found()
        loads = self._policy.serializer.loads
        return Found(
            content=loads(text),
            adopted=Adopted(created, lambda: loads(text)),
        )

    def end(self) -> None:
        """End it where it is kept. Raises what that raises, each time."""
        if self._failure is not None:
            # Each try may wait for a timeout.
            raise self._failure
        answer = Response()
        try:
            if self._is_over or not self._look():
                return
            if _is_beakers(self._session):
                # Its invalidate() leaves what is stored.
                self._session.delete()
            else:
                self._session.invalidate()
            self._aside.finish(answer)
        except Exception as error:
            self._failure = error
            self._cookies = self._probable(answer)
            raise
        self._cookies = _sent(answer)
        self._is_over = True

    def give_way(self, stored: Stored, is_over: bool) -> bool:
        """End it if it has moved or is over; say if our dead token may go.

        Args:
            stored: our session, once it is certain what became of it.
            is_over: the one that the browser presented is over. The old one
                may be what it was: it ends too, or it would come back.
        """
        has_moved = stored.adopted is not None and stored.record is not None
        if has_moved or is_over:
            try:
                self.end()
            except Exception as error:
                # The visitor's work is done. Its text may hold anything.
                name = type(error).__name__
                log.error("an old session could not be ended: %s", name)
        if has_moved and stored.record is not None:
            key = fingerprint(stored.record.key)
            log.info("an old session was adopted; it is session %s now", key)
        return self._failure is None or stored.ends_token

    def forget(
        self, response: Response, ours: CookieSettings | Literal[False]
    ) -> bool:
        """Delete its cookie if it is ended, or was to be; say if one is sent.

        ``ours``: of the cookie that is sent for our session, if one is.
        """
        # Whatever the old session wanted to send: it is to have no cookie.
        found = [_parsed(header) for header in self._cookies]
        taken = ours and (ours.name, ours.path, _domain(ours.domain))
        found = [each for each in found if _place(each) != taken]
        for each in found:
            response.set_cookie(value="", max_age=0, **each)
        return bool(found)

    def _probable(self, answer: Response) -> list[str]:
        """Return headers of its cookie, as far as they are known.

        It has sent none if it could not be ended. Beaker has made one by
        then. Whoever has read one cookie only, keeps it there; its path is
        most probably the default.
        """
        if _is_beakers(self._session):
            # Not asked for by name: that would load what cannot be loaded.
            made = vars(self._session).get("_headers", {}).get("cookie_out")
            return [made] if made else []
        names = self._aside.cookies.names
        if _sent(answer) or len(names) != 1:
            return _sent(answer)
        (name,) = names
        is_safe = self._aside.host_url.startswith("https:")
        return [f"{name}=; Path=/{'; Secure' if is_safe else ''}"]

    def _look(self) -> dict[str, Any]:
        """Return its content, empty if there is no session."""
        if self._content is None:
            try:
                self._session = self._factory(self._aside)
            except UnicodeError:
                # A cookie that nobody can read.
                self._session = None
            self._content = _content(self._session)
        return self._content

    def _text(self, content: dict[str, Any]) -> str | None:
        """Return what is kept of the content, None if it cannot be."""
        try:
            try:
                return _checked(self._policy, content)
            except SessionValueError:
                kept = {
                    key: value
                    for key, value in content.items()
                    if _is_kept(self._policy, key, value)
                }
            names = [shown(key) for key in content if key not in kept]
            log.error(
                "an old session is adopted without %s: that cannot be kept",
                ", ".join(names),
            )
            return _checked(self._policy, kept) if kept else None
        except SessionOverflowError as error:
            log.error("an old session is not adopted: %s", error)
            return None


class _Aside(CallbackMethodsMixin):
    """A request; what is added to it or set on it stays aside."""

    # Some factories send no cookie when a view has failed.
    exception = None

    def __init__(self, request: Request) -> None:
        self._request = request
        self.cookies = _Cookies(request.cookies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def finish(self, response: Response) -> None:
        """Call what was added, as Pyramid does at the end of a request."""
        callbacks: deque[Any] = self.response_callbacks
        while callbacks:
            callbacks.popleft()(self, response)
        callbacks = self.finished_callbacks
        while callbacks:
            callbacks.popleft()(self)


class _Cookies(Mapping[str, str]):
    """The cookies of a request.

    :ivar names: of those that were there, and were read.
    """

    def __init__(self, cookies: Mapping[str, str]) -> None:
        self._cookies = cookies
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        # A value that nobody can read is an error; the name is known.
        if name in set(self._cookies):
            self.names.add(name)
        return self._cookies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cookies)

    def __len__(self) -> int:
        return len(self._cookies)


def _is_beakers(session: Any) -> bool:
    return any(
        base.__module__ == "beaker.session" for base in type(session).__mro__
    )


def _content(session: Any) -> dict[str, Any]:
    if session is None:
        return {}
    # Beaker calls a session new again after clear().
    if getattr(session, "new", False) and not _is_beakers(session):
        return {}
    return {
        key: value for key, value in session.items() if key not in _BEAKERS_OWN
    }


def _times(
    session: Any, content: Mapping[str, Any], now: int
) -> tuple[int, int]:
    """Return its start and its last use, as far as they are known.

    The expiry tween may have kept them in the content.
    """
    known = _time(_created(session), now), _time(content.get(FIRST), now)
    return min(known), _time(content.get(SEEN), now)


def _created(session: Any) -> object:
    try:
        return session.created
    except (AttributeError, KeyError):
        # Beaker has forgotten it after clear().
        return None


def _time(value: object, now: int) -> int:
    """Return the time, or now if it cannot be one."""
    if isinstance(value, (int, float)) and 0 <= value <= now:
        return int(value)
    return now


def _checked(policy: Policy, content: dict[str, Any]) -> str | None:
    """Return what is to be stored, or raise what saving it would raise."""
    policy.user_of(content)
    return Draft(content, opened=True).text(policy, None)


def _is_kept(policy: Policy, key: str, value: Any) -> bool:
    try:
        _checked(policy, {key: value})
    except SessionValueError:
        return False
    return True


# -- its cookies -------------------------------------------------------


def _sent(answer: Response) -> list[str]:
    found: list[str] = answer.headers.getall("Set-Cookie")
    return found


def _parsed(header: str) -> dict[str, Any]:
    """Return the arguments of ``set_cookie`` that a header stands for.

    Its value is left out.
    """
    pair, *rest = header.split(";")
    given = {
        name.strip().lower(): value.strip()
        for name, _, value in (each.partition("=") for each in rest)
    }
    return {
        "name": pair.partition("=")[0].strip(),
        "path": given.get("path") or None,
        "domain": given.get("domain") or None,
        "secure": "secure" in given,
        "httponly": "httponly" in given,
        "samesite": given.get("samesite"),
    }


def _place(cookie: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells two cookies of a browser apart."""
    return cookie["name"], cookie["path"], _domain(cookie["domain"])


def _domain(domain: str | None) -> str | None:
    return domain and domain.lower().lstrip(".")
