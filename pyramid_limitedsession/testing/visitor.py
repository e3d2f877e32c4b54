"""A visitor's session, set and read by a test without a request of his."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.cookies import SimpleCookie
from typing import Any

from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare

from ..factory import EXTERNAL, SessionFactory, is_managed
from ..session import LimitedSession
from ..tweens import REGISTRY_KEY
from ..views import HEADER

Environ = dict[str, Any]
App = Callable[[Environ, Any], Iterable[bytes]]


class Visitor:
    """Who visits an application in a test: his session, and his cookie.

    Made of WebTest's ``TestApp``, it shares its cookies and its environ, so
    that what a test puts into the session is there for the next request::

        visitor = Visitor(testapp)
        with visitor.session() as session:
            session["cart"] = [1]
        testapp.get("/cart")

    Made of an application, it keeps the cookies itself.

    :ivar cookies: the cookies of a visitor without a ``TestApp``, by name.
    """

    def __init__(
        self, app: Any, *, environ: Mapping[str, Any] | None = None
    ) -> None:
        """Take an application, or a ``TestApp`` around one.

        Args:
            app: either of them; the application may be in middlewares that
                have a ``registry``, or an ``app`` or ``application``, as it.
            environ: for an application: more of each request's environ.
        """
        self._testapp = app if hasattr(app, "cookiejar") else None
        self._registry = _registry_of(app)
        self._environ = dict(environ or {})
        self.cookies: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """The header with the cookies of a visitor without a ``TestApp``."""
        pairs = [f"{name}={value}" for name, value in self.cookies.items()]
        return {"Cookie": "; ".join(pairs)} if pairs else {}

    @contextmanager
    def session(self) -> Iterator[LimitedSession]:
        """Yield his session, as a request of his would find it now.

        What is changed in it is stored at the end, and he has the cookie
        then; if the block raises, nothing is. Where a test runs its requests
        in a transaction of its own (``tm.active``), this is part of it. It
        is no activity of his: limits go on as before.

        Raises what saving a session raises.
        """
        factory: SessionFactory = self._registry[REGISTRY_KEY]
        path = factory.settings.cookie.path
        request = Request(self._environ_for(path))
        request.headers[HEADER] = "true"
        with prepare(request=request, registry=self._registry):
            # As our tween does: pyramid_tm has no part in this.
            request.environ[EXTERNAL] = is_managed(request)
            unit = factory.unit_of(request)
            try:
                yield LimitedSession(unit)
            except BaseException:
                unit.settle(keep=False)
                raise
            unit.settle(keep=True, is_last=True)
            response = Response()
            while request.response_callbacks:
                request.response_callbacks.popleft()(request, response)
        self._take(path, response)

    # -- his cookies ---------------------------------------------------

    def _environ_for(self, path: str) -> Environ:
        """Return the environ of a request of his."""
        if self._testapp is None:
            blank = Request.blank(path, self._environ, headers=self.headers)
            return dict(blank.environ)
        seen: Environ = {}

        def look(environ: Environ, start: Any) -> Iterable[bytes]:
            seen.update(environ)
            return Response()(environ, start)  # type: ignore[no-any-return]

        self._visit(path, look)
        # What belongs to that request only.
        return {k: v for k, v in seen.items() if not k.startswith("webob.")}

    def _take(self, path: str, response: Response) -> None:
        """Take the cookies of an answer, as his browser would."""
        if self._testapp is not None:
            self._visit(path, response)
            return
        for header in response.headers.getall("Set-Cookie"):
            for name, morsel in SimpleCookie(header).items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]

    def _visit(self, path: str, app: App) -> None:
        """Let another application answer him, who has the same cookies."""
        elsewhere: Any = copy.copy(self._testapp)
        elsewhere.app = app
        elsewhere.get(path)


def _registry_of(app: Any) -> Registry:
    """Return the registry of an application, inside of what wraps it."""
    seen = 0
    while app is not None and seen < 20:
        registry = getattr(app, "registry", None)
        if registry is not None and REGISTRY_KEY in registry:
            return registry
        app = getattr(app, "app", None) or getattr(app, "application", None)
        seen += 1
    raise TypeError(
        "this is no application that includes pyramid_limitedsession, and no "
        "TestApp of one; if it is wrapped, hand in what config.make_wsgi_app "
        "returned"
    )
