"""Applications with sessions of four kinds, limited by the expiry tween.

`Site` is one application; its backend is where its sessions are kept, which
outlives it, so that a test can have the same sessions with other settings.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import redis
import sqlalchemy as sa
from beaker.container import MemoryNamespaceManager
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.session import SignedCookieSessionFactory
from pyramid_beaker import BeakerSessionFactoryConfig
from pyramid_session_redis import RedisSessionFactory
from webtest import TestApp

from pyramid_limitedsession.expiry import FIRST, SEEN
from tests.apps import Clock

REDIS = os.environ.get("TEST_REDIS", "redis://127.0.0.1:6379/9")
KINDS = ("cookie", "redis", "beaker", "ours")
EXPIRY = "limitedsession.expiry."
MINUTE, HOUR, DAY = 60, 3600, 86400
IDLE, ABSOLUTE = 30 * MINUTE, 2 * HOUR
# An idle session may last so much longer: five minutes, less a second.
GRACE = 299


class Backend:
    """Where sessions are kept.

    :ivar writes: what was written since the test has looked.
    :ivar traffic: all that was asked of it.
    :ivar settings: what applications on it need.
    """

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.traffic: list[str] = []
        self.settings: dict[str, Any] = {}

    def problem(self) -> Exception | None:
        """Return why it cannot be used."""
        return None

    def sent(self, cookies: list[str]) -> None:
        """Note the cookies of a response."""

    def made(self, app: Any, clock: Clock) -> None:
        """Note that an application is there."""

    def close(self) -> None:
        """Leave nothing behind."""


class CookieBackend(Backend):
    """Pyramid's signed cookies; a write is a cookie that is sent."""

    def __init__(self, folder: object) -> None:
        super().__init__()
        self.traffic = self.writes
        self.options: dict[str, Any] = {"timeout": None, "reissue_time": None}

    def configure(self, config: Configurator) -> None:
        """Set the session factory."""
        factory = SignedCookieSessionFactory("s" * 64, **self.options)
        config.set_session_factory(factory)

    def sent(self, cookies: list[str]) -> None:
        """Count what a response has sent."""
        self.writes += cookies


class RedisBackend(Backend):
    """pyramid_session_redis; a write is a SET or SETEX."""

    def __init__(self, folder: object) -> None:
        super().__init__()
        writes, traffic = self.writes, self.traffic

        class Client(redis.Redis):
            def execute_command(self, *words: Any, **options: Any) -> Any:
                traffic.append(words[0])
                if words[0] in ("SET", "SETEX"):
                    writes.append(words[0])
                return super().execute_command(*words, **options)

        self.client = Client.from_url(REDIS)
        self.options: dict[str, Any] = {"timeout": None}
        self._prefix = f"pls-expiry-{secrets.token_hex(6)}-"

    def configure(self, config: Configurator) -> None:
        """Set the session factory."""
        factory = RedisSessionFactory(
            "secret",
            redis_client_callable=lambda request, **options: self.client,
            id_generator=lambda: self._prefix + secrets.token_hex(8),
            **self.options,
        )
        config.set_session_factory(factory)

    def problem(self) -> Exception | None:
        """Ask the server."""
        try:
            self.client.ping()
        except redis.RedisError as error:
            return error
        self.traffic.clear()
        return None

    def close(self) -> None:
        """Delete this test's keys."""
        for key in self.client.scan_iter(match=f"{self._prefix}*"):
            self.client.delete(key)
        self.client.close()


class BeakerBackend(Backend):
    """pyramid_beaker, in memory; a write is one to Beaker's container."""

    def __init__(self, folder: object) -> None:
        super().__init__()
        writes = self.traffic = self.writes

        class Memory(MemoryNamespaceManager):
            def __setitem__(self, key: str, value: Any) -> None:
                writes.append(key)
                super().__setitem__(key, value)

        self.options = {
            "type": "memory",
            "key": "session",
            "secret": "s" * 64,
            # Or Beaker writes every time.
            "save_accessed_time": False,
            "namespace_class": Memory,
        }

    def configure(self, config: Configurator) -> None:
        """Set the session factory."""
        config.set_session_factory(BeakerSessionFactoryConfig(**self.options))


class OurBackend(Backend):
    """LimitedSession without limits of its own, in SQLite."""

    def __init__(self, folder: object) -> None:
        super().__init__()
        self._engines: list[sa.Engine] = []
        self.settings = {
            "limitedsession.sqlalchemy.url": f"sqlite:///{folder}/ours.sqlite",
            "limitedsession.idle_timeout": "none",
            "limitedsession.self_clean": "0",
            # Its own writes of activity are not what is counted.
            "limitedsession.touch_interval": "10000d",
        }

    def configure(self, config: Configurator) -> None:
        """Include the package's other part."""
        config.include("pyramid_limitedsession")

    def made(self, app: Any, clock: Clock) -> None:
        """Count the statements of the application."""
        factory = app.registry["pyramid_limitedsession"]
        factory.clock = clock
        engine = factory.store.engine
        self._engines.append(engine)
        sa.event.listen(engine, "before_cursor_execute", self._ran)

    def _ran(self, *arguments: Any) -> None:
        verb = arguments[2].split()[0].upper()
        self.traffic.append(verb)
        if verb in ("INSERT", "UPDATE", "DELETE"):
            self.writes.append(verb)

    def close(self) -> None:
        """Close every connection."""
        for engine in self._engines:
            engine.dispose()


BACKENDS = {
    "cookie": CookieBackend,
    "redis": RedisBackend,
    "beaker": BeakerBackend,
    "ours": OurBackend,
}


class Site:
    """One application, whose views are called by their names.

    Beside those of the test: ``/put?a=1`` puts into the session, ``/get``
    returns its ``a``, ``/ended`` why it is over, ``/nothing`` does not use
    it, ``/quiet`` is ``/get`` with ``session_activity=False``, ``/left`` is
    the time-left view.
    """

    def __init__(
        self,
        backend: Any,
        clock: Clock,
        *,
        idle: Any = "none",
        absolute: Any = "none",
        settings: dict[str, Any] | None = None,
        configure: Callable[[Configurator], None] = lambda config: None,
        is_limited: bool = True,
    ) -> None:
        self.backend = backend
        self.clock = clock
        self.events: list[Any] = []
        self.views: dict[str, Callable[[Request], Any]] = {
            "put": lambda request: request.session.update(request.params),
            "get": _get,
            "ended": lambda request: request.session_ended,
            "nothing": lambda request: None,
            "clear": lambda request: request.session.clear(),
            "invalidate": lambda request: request.session.invalidate(),
        }
        limits = {f"{EXPIRY}idle_timeout": idle}
        limits[f"{EXPIRY}absolute_timeout"] = absolute
        self._given = {
            **backend.settings,
            **(limits if is_limited else {}),
            **(settings or {}),
        }
        self.router = self._make(configure, is_limited)
        backend.made(self.router, clock)

    def _make(
        self, configure: Callable[[Configurator], None], is_limited: bool
    ) -> Any:
        with Configurator(settings=self._given) as config:
            self.backend.configure(config)
            if is_limited:
                config.include("pyramid_limitedsession.expiry")
                config.set_expiry_clock(self.clock)
                config.add_session_timeout_view("/left")
                config.add_route("quiet", "/quiet")
                config.add_view(
                    _get,
                    route_name="quiet",
                    renderer="json",
                    session_activity=False,
                )
                config.add_subscriber(
                    self.events.append,
                    "pyramid_limitedsession.events.SessionExpired",
                )
            config.add_route("view", "/{name}")
            config.add_view(self._view, route_name="view", renderer="json")
            configure(config)
            return config.make_wsgi_app()

    def _view(self, request: Request) -> Any:
        return self.views[request.matchdict["name"]](request)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Serve a request as WSGI does, counting what is sent."""

        def start(status: str, headers: Any, *rest: Any) -> Any:
            sent = [v for name, v in headers if name == "Set-Cookie"]
            self.backend.sent(sent)
            return start_response(status, headers, *rest)

        return self.router(environ, start)

    def on(self, view: Callable[[Request], Any]) -> Any:
        """Decorate a function that answers at ``/its_name``."""
        self.views[view.__name__] = view
        return view

    def browser(self) -> TestApp:
        """Return a new browser."""
        return TestApp(self)

    def visitor(self, **content: str) -> TestApp:
        """Return a browser with a session; what was written is forgotten."""
        browser = self.browser()
        browser.get("/put", content or {"a": "1"})
        self.backend.writes.clear()
        self.backend.traffic.clear()
        return browser

    def written(self) -> int:
        """Return how many writes there were since the last time."""
        number = len(self.backend.writes)
        self.backend.writes.clear()
        return number


def _get(request: Request) -> Any:
    return request.session.get("a")


def same(site: Site, browser: TestApp) -> TestApp:
    """Return a browser with another's cookies, maybe at another site."""
    other = site.browser()
    for name, value in browser.cookies.items():
        other.set_cookie(name, value.strip('"'))
    return other


def times(site: Site, browser: TestApp) -> list[Any]:
    """Return start and last activity, by a request that writes nothing."""

    @site.on
    def times(request: Request) -> Any:
        request.headers["X-Session-Passive"] = "true"
        return [request.session.get(FIRST), request.session.get(SEEN)]

    return browser.get("/times").json
