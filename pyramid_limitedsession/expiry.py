"""Limits for sessions of any kind: signed cookies, Redis, Beaker, ours.

``config.include("pyramid_limitedsession.expiry")`` is all an application
does; `includeme` says what that means for it. Nothing here knows how a
session is stored: its times are two keys of its content.

The session factory is wrapped, so whoever asks for a session, at whatever
time, gets one within its limits. A tween writes, once, on the way out.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.events import ApplicationCreated
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISessionFactory, ITweens
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW, INGRESS
from zope.interface import implementer

from .events import Ended, refused
from .expirysettings import read_expiry_settings
from .limits import RESERVED, Limits, TimeLeft, moved
from .reading import parts_of
from .settings import read_settings
from .views import LIMITED, PASSIVE_PATHS, is_passive

log = logging.getLogger(__name__)

REGISTRY_KEY = "pyramid_limitedsession.expiry"
TM_TWEEN = "pyramid_tm.tm_tween_factory"
TWEEN = "pyramid_limitedsession.expiry.expiry_tween_factory"

# In a session, whole seconds since the epoch: its start, its last activity.
FIRST = f"{RESERVED}first"
SEEN = f"{RESERVED}seen"
# Beaker has these in a session in which nobody has put anything.
_BEAKERS_OWN = frozenset(
    ("_accessed_time", "_creation_time", "_domain", "_id", "_path")
)

Handler = Callable[[Request], Response]


def includeme(config: Configurator) -> None:
    """Limit the sessions of the application's session factory.

    - reads the ``limitedsession.expiry.`` settings, after the application
      has had time to change them, and raises ConfigurationError if one is
      wrong;
    - when the application is created: wraps its session factory, or raises
      ConfigurationError if there is none; with neither limit set, it does
      nothing;
    - adds the expiry tween, below pyramid_tm's and above exception views;
    - includes what views need, as `views.includeme` says;
    - adds the directive ``config.set_expiry_clock(clock)``, with which
      tests of an application let time pass.
    """
    config.include("pyramid_limitedsession.views")
    config.add_directive("set_expiry_clock", set_expiry_clock)
    config.add_tween(TWEEN, under=(TM_TWEEN, INGRESS), over=EXCVIEW)
    parts = parts_of(config.registry)
    parts.add("expiry")

    def register() -> None:
        given = config.registry.settings
        is_alone = "sessions" not in parts
        if not is_alone:
            # Its settings and ours are wrong in one message.
            read_settings(given)
        limits, passive = read_expiry_settings(given, is_alone=is_alone)
        config.registry[REGISTRY_KEY] = Expiry(limits)
        config.registry[PASSIVE_PATHS] = passive

    config.add_subscriber(_start, ApplicationCreated)
    config.action(None, register, order=PHASE1_CONFIG)


def set_expiry_clock(config: Configurator, clock: Callable[[], float]) -> None:
    """Let the limits read the time from ``clock``, seconds since the epoch."""

    def register() -> None:
        config.registry[REGISTRY_KEY].clock = clock

    config.action("set_expiry_clock", register)


class Expiry:
    """What all requests share; nothing here changes after the start.

    :ivar limits: the limits in force.
    :ivar clock: returns the time in seconds since the epoch.
    """

    def __init__(
        self, limits: Limits, clock: Callable[[], float] = time.time
    ) -> None:
        self.limits = limits
        self.clock = clock

    @property
    def is_on(self) -> bool:
        """True if there is a limit."""
        return (self.limits.idle, self.limits.absolute) != (None, None)


# -- at the start ------------------------------------------------------


def _start(event: ApplicationCreated) -> None:
    """Wrap the session factory, unless that has been done."""
    registry = event.app.registry
    expiry: Expiry = registry[REGISTRY_KEY]
    if not expiry.is_on:
        return
    _require_tween(registry)
    inner = registry.queryUtility(ISessionFactory)
    if inner is None:
        raise ConfigurationError(
            "pyramid_limitedsession.expiry has no sessions to limit: this "
            "application sets no session factory; call "
            "config.set_session_factory"
        )
    if not isinstance(inner, LimitedFactory):
        registry.registerUtility(
            LimitedFactory(inner, expiry), ISessionFactory
        )


def _require_tween(registry: Registry) -> None:
    """Raise ConfigurationError if an explicit list of tweens is not ours."""
    explicit = [name for name, _ in registry.getUtility(ITweens).explicit]
    order = [name for name in (TM_TWEEN, TWEEN, EXCVIEW) if name in explicit]
    is_sorted = order == sorted(order, key=explicit.index)
    if explicit and not (TWEEN in order and is_sorted):
        raise ConfigurationError(
            f"the setting pyramid.tweens must name {TWEEN}, after {TM_TWEEN} "
            f"and before {EXCVIEW} if it names these"
        )


# -- in a request ------------------------------------------------------


@implementer(ISessionFactory)
class LimitedFactory:
    """Makes sessions that are within their limits.

    :ivar inner: the application's own session factory.
    """

    def __init__(self, inner: Callable[[Request], Any], expiry: Expiry):
        self.inner = inner
        self._expiry = expiry

    def __call__(self, request: Request) -> Any:
        """Return the request's session, an empty one if it is over.

        Always the same: a second one would not know that it is over.
        """
        watch: Watch | None = getattr(request, LIMITED, None)
        if watch is None:
            session = self.inner(request)
            now = int(self._expiry.clock())
            watch = Watch(session, request, self._expiry.limits, now)
            watch.end_if_over()
            # Only now: had that failed, the next one to ask must not get it.
            setattr(request, LIMITED, watch)
            if watch.ended:
                request.registry.notify(refused(request, watch.ended))
        return watch.session


def expiry_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Return the tween that writes the times of sessions.

    It sits below pyramid_tm's tween, so that what it writes into a session
    that takes part in the transaction is part of it, and so before response
    callbacks send cookies.
    """
    expiry: Expiry | None = registry.get(REGISTRY_KEY)
    if expiry is None or not expiry.is_on:
        return handler

    def expiry_tween(request: Request) -> Response:
        try:
            response = handler(request)
        except Exception:
            try:
                _write_times(request)
            except Exception as error:
                # What passes through is what has to be told. Of this one
                # not the text, which may hold anything.
                name = type(error).__name__
                log.error("a session's times were not written: %s", name)
            raise
        _write_times(request)
        return response

    return expiry_tween


def _write_times(request: Request) -> None:
    """Write the times of the request's session, if that was asked for."""
    watch: Watch | None = getattr(request, LIMITED, None)
    if watch is not None:
        watch.write()


class Watch:
    """One request's session, with its times; a `views.Limited`.

    :ivar session: as its factory has made it.
    :ivar ended: why the session that the browser presented is over, or None.
    """

    def __init__(
        self, session: Any, request: Request, limits: Limits, now: int
    ) -> None:
        self.session = session
        self.ended: Ended | None = None
        self._request = request
        self._limits = limits
        self._now = now
        # None: the session begins in this request, once it has content.
        self._first: int | None = None
        self._seen = now
        self._read()
        self._notice_invalidate()

    def _read(self) -> None:
        """Take the times that came with the session.

        It may have none although it came with the browser: if it is older
        than this part of the application, or got its content where no
        tween is. ``new`` is not asked: Beaker calls a session new again
        after ``clear()``.
        """
        first, seen = _stamps(self.session)
        if first is None and _has_content(self.session):
            first = _created(self.session, self._now)
        self._first = first
        if seen is not None:
            self._seen = seen

    def _notice_invalidate(self) -> None:
        """Let both clocks start anew when the session is invalidated.

        Not so after ``clear()``, which Pyramid's cookie sessions cannot tell
        from it afterwards. A session on which no attribute can be set is
        taken for a cleared one: its total limit goes on.
        """
        session, invalidate = self.session, self.session.invalidate

        def noticed() -> None:
            invalidate()
            self._first = None
            if "created" in getattr(session, "__dict__", ()):
                # Pyramid's cookie sessions keep it for ever.
                session.created = self._now

        with contextlib.suppress(AttributeError):
            session.invalidate = noticed

    def end_if_over(self) -> None:
        """End the session if one of its limits says so."""
        if self._first is None:
            return
        verdict = self._limits.verdict(self._first, self._seen, self._now)
        if verdict != "active":
            log.info("a session is over: %s", verdict)
            self.session.invalidate()
            self._first = None
            self.ended = verdict

    @property
    def time_left(self) -> TimeLeft:
        """Return what the limits leave to the session."""
        limits, first, now = self._limits, self._first, self._now
        if first is None or not is_passive(self._request):
            return limits.left_if_used(now if first is None else first, now)
        return limits.left(first, self._seen, now)

    def write(self) -> None:
        """Write what has to be; most often that is nothing.

        What ``clear()`` took away is put back. A passive request writes the
        times of a session that has none too: it would have no limits.
        """
        limits, first, seen, now = (
            self._limits,
            self._first,
            self._seen,
            self._now,
        )
        if first is None:
            if not _has_content(self.session):
                return
            first = seen = now
        elif limits.touch_due(seen, now) and not is_passive(self._request):
            seen = moved(seen, now)
        _put(self.session, FIRST, first)
        if limits.idle is not None:
            _put(self.session, SEEN, seen)


# -- in a session ------------------------------------------------------


def _peek(session: Any, key: str) -> Any:
    """Return a value, or None, without this being an access.

    An access makes Pyramid's cookie sessions send their cookie again.
    """
    if isinstance(session, dict):
        return dict.get(session, key)
    return session.get(key)


def _has_content(session: Any) -> bool:
    if getattr(session, "_invalidated", False):
        # pyramid_session_redis: a look inside would make a new session of
        # it, and its cookie would not be deleted.
        return False
    is_dict = isinstance(session, dict)
    keys = dict.keys(session) if is_dict else session.keys()
    return not _BEAKERS_OWN.issuperset(keys)


def _stamps(session: Any) -> tuple[int | None, int | None]:
    """Return its start and its last activity, None for what cannot be."""
    found = _peek(session, FIRST), _peek(session, SEEN)
    first, seen = (
        value if type(value) is int and value >= 0 else None for value in found
    )
    if (first, seen) != found:
        log.warning("a session's times cannot be read; they begin anew")
    return first, seen


def _created(session: Any, now: int) -> int:
    """Return when it says that it began, or now if that cannot be."""
    try:
        created = session.created
    except (AttributeError, KeyError):
        # Beaker has forgotten it after clear().
        return now
    is_number = isinstance(created, (int, float))
    if is_number and 0 <= created <= now:
        return int(created)
    return now


def _put(session: Any, key: str, value: int) -> None:
    """Write a value that is not there: each may be a write to the store."""
    if _peek(session, key) != value:
        session[key] = value
