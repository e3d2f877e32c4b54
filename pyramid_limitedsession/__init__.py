"""Server-side sessions for Pyramid in a transaction-managed SQL table.

``config.include("pyramid_limitedsession")`` is all an application does;
`includeme` says what that means for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.events import ApplicationCreated
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import (
    IRequestExtensions,
    IRequestFactory,
    ISessionFactory,
    ITweens,
)
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.scripting import prepare

from .errors import (
    SessionBusyError,
    SessionConflict,
    SessionConnectionError,
    SessionError,
    SessionOverflowError,
    SessionProfileError,
    SessionTableError,
    SessionValueError,
)
from .events import (
    SessionExpired,
    SessionRefused,
    SessionRevoked,
    SessionUnreadable,
)
from .factory import SessionFactory
from .limits import TimeLeft
from .options import EXPIRY
from .ownstore import make_own_store
from .reading import PREFIX, parts_of
from .schema import SessionMixin, make_table
from .session import LimitedSession
from .settings import read_settings
from .tweens import REGISTRY_KEY
from .usersessions import Summary, UserSessions
from .views import PASSIVE_PATHS

__all__ = [
    "LimitedSession",
    "SessionBusyError",
    "SessionConflict",
    "SessionConnectionError",
    "SessionError",
    "SessionExpired",
    "SessionFactory",
    "SessionMixin",
    "SessionOverflowError",
    "SessionProfileError",
    "SessionRefused",
    "SessionRevoked",
    "SessionTableError",
    "SessionUnreadable",
    "SessionValueError",
    "Summary",
    "TimeLeft",
    "UserSessions",
    "includeme",
    "make_table",
]

log = logging.getLogger(__name__)

TM_TWEEN = "pyramid_tm.tm_tween_factory"
TWEEN = "pyramid_limitedsession.tweens.lifecycle_tween_factory"


def includeme(config: Configurator) -> None:
    """Make ``request.session`` a limited session.

    - includes ``pyramid_tm``, whose transaction decides what is kept;
    - reads the ``limitedsession.`` settings, after the application has had
      time to change them, and raises ConfigurationError if one is wrong;
    - sets the session factory;
    - when the application is created: checks that its wiring is possible,
      makes the table, if that is set, and logs an error if it is missing;
    - adds the life-cycle tween, above pyramid_tm's;
    - adds ``request.user_sessions``, and includes what `views` has for an
      application's views;
    - adds the directive ``config.set_session_clock(clock)``, with which
      tests of an application let time pass.
    """
    config.include("pyramid_tm")
    config.include(f"{__name__}.views")
    parts_of(config.registry).add("sessions")
    config.add_request_method(user_sessions, property=True)
    config.add_directive("set_session_clock", set_session_clock)
    config.add_tween(TWEEN, over=TM_TWEEN)

    def register() -> None:
        settings = read_settings(config.registry.settings)
        own = make_own_store(settings.store, config.registry.settings)
        factory = SessionFactory(settings, store=own)
        config.registry[REGISTRY_KEY] = factory
        config.registry[PASSIVE_PATHS] = settings.passive
        config.set_session_factory(factory)

    config.add_subscriber(_start, ApplicationCreated)
    config.action(None, register, order=PHASE1_CONFIG)


def user_sessions(request: Request) -> UserSessions:
    """Return ``request.user_sessions``."""
    factory: SessionFactory = request.registry[REGISTRY_KEY]
    return UserSessions(lambda: factory.unit_of(request))


def set_session_clock(
    config: Configurator, clock: Callable[[], float]
) -> None:
    """Let sessions read the time from ``clock``, seconds since the epoch."""

    def register() -> None:
        config.registry[REGISTRY_KEY].clock = clock

    config.action("set_session_clock", register)


def _start(event: ApplicationCreated) -> None:
    """Check what can be known when the application is complete."""
    registry = event.app.registry
    factory: SessionFactory = registry[REGISTRY_KEY]
    _require_tween(registry)
    _require_expiry(registry)
    used = registry.queryUtility(ISessionFactory)
    # The expiry tween puts one of its own around it.
    if getattr(used, "inner", used) is not factory:
        raise ConfigurationError(
            "request.session would not be a session of "
            "pyramid_limitedsession: this application sets another session "
            "factory, by config.set_session_factory or as an argument of its "
            "Configurator; take that out"
        )
    warning = factory.settings.policy.serializer.warning
    if warning is not None:
        log.warning("%s", warning)
    if factory.store is None:
        _require_dbsession(registry, factory.settings.dbsession)
    for told in factory.settings.layout.switched_off():
        log.warning("the table of sessions: %s", told)
    if factory.settings.store is not None:
        # It has looked for itself when it was made.
        return
    with prepare(registry=registry) as env:
        _look_at_table(factory, env["request"])


def _look_at_table(factory: SessionFactory, request: Request) -> None:
    """Make the table if that is told; log an error if it is missing."""
    try:
        store = factory.store_for(request)
    except Exception:
        if factory.settings.create_table:
            raise
        # A dbsession may depend on a request that somebody has sent.
        log.info("the sessions' table is looked for at its first use")
        return
    try:
        store.start()
    except SessionTableError as error:
        # No reason not to start: what makes the table, as pls-init or a
        # script of the application, may start the application first.
        log.error("%s", error)


def _require_tween(registry: Registry) -> None:
    """Raise ConfigurationError if an explicit list of tweens is not ours."""
    explicit = [name for name, _ in registry.getUtility(ITweens).explicit]
    if not explicit:
        return
    ours, tm = (
        explicit.index(name) if name in explicit else None
        for name in (TWEEN, TM_TWEEN)
    )
    if ours is None or tm is None or ours > tm:
        raise ConfigurationError(
            "the setting pyramid.tweens must name both tweens, in this "
            f"order: {TWEEN} {TM_TWEEN}"
        )


def _require_expiry(registry: Registry) -> None:
    """Raise ConfigurationError if limits are set that nobody enforces."""
    start = f"{PREFIX}{EXPIRY}"
    given = [key for key in registry.settings if key.startswith(start)]
    if given and "expiry" not in parts_of(registry):
        raise ConfigurationError(
            f"{min(given)} has no effect, because this application does not "
            f"include {__name__}.expiry; sessions of this package are "
            f"limited by {PREFIX}{min(given)[len(start) :]}"
        )


def _require_dbsession(registry: Registry, name: str) -> None:
    """Raise ConfigurationError if requests have no such attribute."""
    extensions: Any = registry.queryUtility(IRequestExtensions)
    added = extensions and {*extensions.descriptors, *extensions.methods}
    factory = registry.queryUtility(IRequestFactory, default=Request)
    is_own = hasattr(factory, name) and not hasattr(Request, name)
    if is_own or (name in (added or ()) and name != "tm"):
        return
    raise ConfigurationError(
        "pyramid_limitedsession does not know where to keep sessions: there "
        f"is no request.{name} of this application's own; set "
        f"{PREFIX}sqlalchemy.url = sqlite:////path/to/sessions.sqlite, or "
        "another SQLAlchemy URL, or name the attribute that holds your "
        f"dbsession in {PREFIX}dbsession"
    )
