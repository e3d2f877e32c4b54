"""The application that the contract of sessions is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http.cookies import SimpleCookie
from typing import Any, TypeVar

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare

from ..factory import SessionFactory
from ..store import Record, Store
from ..tokens import Secret, key_of
from ..tweens import REGISTRY_KEY
from .storekit import NOW

T = TypeVar("T")
COOKIE = "session"
# In the environ: what a request is to do, and what that returned.
_ACT = "pyramid_limitedsession.testing.act"
_DONE = "pyramid_limitedsession.testing.done"


class Site:
    """An application whose requests do whatever a test says.

    :ivar now: the time by its clock.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        configure: Callable[[Configurator], None],
    ) -> None:
        self.now = NOW
        explicit = {"tm.manager_hook": "pyramid_tm.explicit_manager"}
        with Configurator(settings={**explicit, **settings}) as config:
            config.include("pyramid_limitedsession")
            config.set_session_clock(lambda: self.now)
            config.add_view(_act)
            configure(config)
            self.app = config.make_wsgi_app()

    @property
    def store(self) -> Store:
        """Where the sessions are, outside of any request."""
        factory: SessionFactory = self.app.registry[REGISTRY_KEY]
        if factory.store is not None:
            return factory.store
        with prepare(registry=self.app.registry) as env:
            return factory.store_for(env["request"])

    def browser(self) -> Browser:
        """Return a browser without a cookie."""
        return Browser(self, {})


class Browser:
    """Who sends requests, and keeps cookies.

    :ivar cookies: the cookies that it has, by name.
    """

    def __init__(self, site: Site, cookies: Mapping[str, str]) -> None:
        self._site = site
        self.cookies = dict(cookies)

    def twin(self) -> Browser:
        """Return another one with the same cookies."""
        return Browser(self._site, self.cookies)

    def __call__(self, act: Callable[[Request], T]) -> T:
        """Act in a request of its own; return what that returns.

        Raises what the application raises.
        """
        done: list[T] = []
        request = Request.blank("/", {_ACT: act, _DONE: done})
        pairs = [f"{name}={value}" for name, value in self.cookies.items()]
        if pairs:
            request.headers["Cookie"] = "; ".join(pairs)
        response = request.get_response(self._site.app)
        for header in response.headers.getall("Set-Cookie"):
            self._take(header)
        return done[0]

    def _take(self, header: str) -> None:
        for name, morsel in SimpleCookie(header).items():
            self.cookies[name] = morsel.value
            if morsel["max-age"] == "0":
                del self.cookies[name]

    def put(self, **content: Any) -> Browser:
        """Put values into its session."""
        self(lambda request: request.session.update(content))
        return self

    def content(self) -> dict[str, Any]:
        """Return what is in its session."""
        content: dict[str, Any] = self(lambda request: dict(request.session))
        return content

    def ended(self) -> str | None:
        """Return why the session that it presents is over."""
        reason: str | None = self(lambda request: request.session.ended)
        return reason

    @property
    def token(self) -> Secret:
        """What is in its cookie."""
        return Secret(self.cookies[COOKIE])

    def record(self) -> Record:
        """Return the row of its session."""
        record = self._site.store.load(key_of(self.token))
        assert record is not None, "there is no row"
        return record


def _act(request: Request) -> Response:
    request.environ[_DONE].append(request.environ[_ACT](request))
    return Response()
