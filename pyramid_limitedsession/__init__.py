"""Server-side sessions for Pyramid in a transaction-managed SQL table.

``config.include("pyramid_limitedsession")`` is all an application does;
`includeme` says what that means for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.config import PHASE1_CONFIG, PHASE3_CONFIG, Configurator
from pyramid.events import ApplicationCreated
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IRequestExtensions, IRequestFactory, ITweens
from pyramid.request import Request
from pyramid.scripting import prepare

from .errors import (
    SessionBusyError,
    SessionConflict,
    SessionError,
    SessionOverflowError,
    SessionTableError,
    SessionValueError,
)
from .factory import SessionFactory
from .schema import make_table
from .session import LimitedSession
from .settings import PREFIX, read_settings
from .tweens import REGISTRY_KEY

__all__ = [
    "LimitedSession",
    "SessionBusyError",
    "SessionConflict",
    "SessionError",
    "SessionFactory",
    "SessionOverflowError",
    "SessionTableError",
    "SessionValueError",
    "includeme",
    "make_table",
]

TWEEN = "pyramid_limitedsession.tweens.lifecycle_tween_factory"


def includeme(config: Configurator) -> None:
    """Make ``request.session`` a limited session.

    - includes ``pyramid_tm``, whose transaction decides what is kept;
    - reads the ``limitedsession.`` settings, after the application has had
      time to change them, and raises ConfigurationError if one is wrong;
    - sets the session factory;
    - makes the table when the application is created, if that is set;
    - adds the life-cycle tween, above pyramid_tm's;
    - adds the directive ``config.set_session_clock(clock)``, with which
      tests of an application let time pass.
    """
    config.include("pyramid_tm")
    config.add_directive("set_session_clock", set_session_clock)
    config.add_tween(TWEEN, over="pyramid_tm.tm_tween_factory")

    def register() -> None:
        settings = read_settings(config.registry.settings)
        factory = SessionFactory(settings)
        config.registry[REGISTRY_KEY] = factory
        config.set_session_factory(factory)

    def check() -> None:
        factory: SessionFactory = config.registry[REGISTRY_KEY]
        _require_tween(config)
        if factory.store is None:
            _require_dbsession(config, factory.settings.dbsession)

    config.add_subscriber(_make_table, ApplicationCreated)
    config.action(None, register, order=PHASE1_CONFIG)
    # Behind the action that adds request.dbsession.
    config.action(None, check, order=PHASE3_CONFIG + 1)


def set_session_clock(
    config: Configurator, clock: Callable[[], float]
) -> None:
    """Let sessions read the time from ``clock``, seconds since the epoch."""

    def register() -> None:
        config.registry[REGISTRY_KEY].clock = clock

    config.action("set_session_clock", register)


def _make_table(event: ApplicationCreated) -> None:
    registry = event.app.registry
    factory: SessionFactory = registry[REGISTRY_KEY]
    if not factory.settings.create_table:
        return
    with prepare(registry=registry) as env:
        factory.store_for(env["request"]).create_if_told()


def _require_tween(config: Configurator) -> None:
    """Raise ConfigurationError if an explicit list of tweens has not ours."""
    tweens = config.registry.queryUtility(ITweens)
    explicit = [name for name, _ in tweens.explicit]
    if explicit and TWEEN not in explicit:
        raise ConfigurationError(
            "the setting pyramid.tweens lists the tweens, but not "
            f"{TWEEN}; write it above pyramid_tm.tm_tween_factory"
        )


def _require_dbsession(config: Configurator, name: str) -> None:
    """Raise ConfigurationError if requests have no such attribute."""
    registry = config.registry
    extensions: Any = registry.queryUtility(IRequestExtensions)
    added = extensions and {*extensions.descriptors, *extensions.methods}
    request_factory = registry.queryUtility(IRequestFactory, default=Request)
    if name in (added or ()) or hasattr(request_factory, name):
        return
    raise ConfigurationError(
        "pyramid_limitedsession does not know where to keep sessions: there "
        f"is no request.{name}; set {PREFIX}sqlalchemy.url = "
        "sqlite:////path/to/sessions.sqlite, or another SQLAlchemy URL, or "
        f"name the attribute that holds your dbsession in {PREFIX}dbsession"
    )
