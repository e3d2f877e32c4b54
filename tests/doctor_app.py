"""Applications that pls-doctor has something to say about.

Their settings: ``app.url``, the database of ``request.dbsession``;
``app.isolation``, its isolation level; ``app.begin``, what SQLite's
transactions are begun with; ``app.schema``, what it translates the schema
"s" to; ``app.ahead``, the seconds by which its clock is ahead; ``app.policy``,
the name of a security policy below.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
import zope.sqlalchemy
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy.orm import sessionmaker


class Helper:
    """A policy with Pyramid's own helper."""

    def __init__(self) -> None:
        helper = SessionAuthenticationHelper()
        self.authenticated_userid = helper.authenticated_userid


class Counting:
    """A policy that writes into the session whenever it is asked."""

    def authenticated_userid(self, request: Request) -> None:
        """Return nobody."""
        request.session.setdefault("asked", []).append(1)


class Header:
    """A policy that leaves the session alone."""

    def authenticated_userid(self, request: Request) -> str | None:
        """Return whom a proxy has found out."""
        user: str | None = request.headers.get("X-User")
        return user


class Failing(Helper):
    """A policy that fails once it has looked."""

    def __init__(self) -> None:
        super().__init__()
        self.authenticated_userid = self.fail

    def fail(self, request: Request) -> None:
        """Look and fail."""
        raise KeyError(request.session.get("user"))


POLICIES = {
    each.__name__: each for each in (Helper, Counting, Header, Failing)
}


def attempts(request: Request) -> int:
    """Say how often a request is tried, for pyramid_retry."""
    return 3


def own_policy(config: Configurator) -> None:
    """Include an execution policy of the application's own."""
    config.set_execution_policy(
        lambda environ, router: router.invoke_request(
            router.make_request(environ)
        )
    )


def main(global_config: dict[str, str], **settings: str) -> Any:
    """Return the application of an ``[app:...]`` section."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_limitedsession")
        ahead = int(settings.get("app.ahead", 0))
        config.set_session_clock(lambda: time.time() + ahead)
        if "app.policy" in settings:
            config.set_security_policy(POLICIES[settings["app.policy"]]())
        if "app.url" in settings:
            config.add_request_method(
                _dbsession_of(_engine(settings)), "dbsession", reify=True
            )
        return config.make_wsgi_app()


def _engine(settings: dict[str, str]) -> sa.Engine:
    options: dict[str, Any] = {}
    if "app.isolation" in settings:
        options["isolation_level"] = settings["app.isolation"]
    if "app.schema" in settings:
        options["execution_options"] = {
            "schema_translate_map": {"s": settings["app.schema"]}
        }
    engine = sa.create_engine(settings["app.url"], **options)
    if "app.begin" in settings:
        _begin_with(engine, settings["app.begin"])
    return engine


def _begin_with(engine: sa.Engine, begin: str) -> None:
    """Do as SQLAlchemy's recipe for an own BEGIN says."""

    @sa.event.listens_for(engine, "connect")
    def _(connection: Any, record: object) -> None:
        connection.isolation_level = None

    if begin == "nothing":
        return

    @sa.event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql(begin)


def _dbsession_of(engine: sa.Engine) -> Any:
    make = sessionmaker(engine)

    def dbsession(request: Request) -> Any:
        made = make()
        zope.sqlalchemy.register(made, transaction_manager=request.tm)
        return made

    return dbsession
