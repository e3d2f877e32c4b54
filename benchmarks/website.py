"""A small application whose requests are measured, in this process."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from pyramid.config import Configurator
from pyramid.request import Request

from pyramid_limitedsession.tweens import REGISTRY_KEY

SETTINGS = {
    # Only what the requests themselves do.
    "limitedsession.self_clean": "0",
    "limitedsession.touch_interval": "1h",
    "limitedsession.idle_timeout": "30d",
    "tm.manager_hook": "pyramid_tm.explicit_manager",
}


class Site:
    """The application and one visitor of it, on a file of SQLite.

    Args:
        path: the file, which is not there yet.
        content: what is in the visitor's session.
        is_encrypted: whether it is stored encrypted.
    """

    def __init__(
        self,
        path: Path,
        content: dict[str, Any],
        *,
        is_encrypted: bool = False,
    ) -> None:
        settings = {
            **SETTINGS,
            "limitedsession.sqlalchemy.url": f"sqlite:///{path}",
            "limitedsession.encrypt": "true" if is_encrypted else "false",
        }
        numbers = itertools.count()

        def fill(request: Request) -> str:
            request.session.update(content)
            return ""

        def read(request: Request) -> str:
            return str(request.session["auth.userid"])

        def write(request: Request) -> str:
            request.session["seen"] = next(numbers)
            return ""

        with Configurator(settings=settings) as config:
            config.include("pyramid_limitedsession")
            for view in (fill, read, write):
                config.add_route(view.__name__, f"/{view.__name__}")
                config.add_view(
                    view, route_name=view.__name__, renderer="string"
                )
            self._app = config.make_wsgi_app()
        self._engine = self._app.registry[REGISTRY_KEY].store.engine
        sa.event.listen(self._engine, "connect", _hurry)
        self._engine.dispose()
        self._cookie = ""
        headers = dict(self.get("/fill"))
        self._cookie = headers["Set-Cookie"].split(";")[0]

    def get(self, path: str) -> list[tuple[str, str]]:
        """Let the application answer a request; return its headers.

        Raises RuntimeError if the answer is an error.
        """
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "HTTP_COOKIE": self._cookie,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
        }
        answer: list[Any] = []
        body = self._app(environ, lambda *given: answer.extend(given))
        for _ in body:
            pass
        if not answer[0].startswith("200"):
            raise RuntimeError(f"{path} was answered {answer[0]}")
        headers: list[tuple[str, str]] = answer[1]
        return headers

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.dispose()


def _hurry(connection: Any, record: object) -> None:
    """Let no commit wait for the disk: what is measured is work."""
    connection.execute("PRAGMA synchronous = OFF").close()
