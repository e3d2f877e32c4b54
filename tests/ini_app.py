"""An application that is started from an ini file, as the pls-* commands do.

Its settings: ``app.url``, the database of ``request.dbsession`` (left out:
there is no dbsession); ``app.now``, the time by its clock; ``app.sessions``
``= no`` leaves our package out.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy.orm import sessionmaker


def main(global_config: dict[str, str], **settings: str) -> Any:
    """Return the application of an ``[app:...]`` section."""
    with Configurator(settings=settings) as config:
        if settings.get("app.sessions") != "no":
            config.include("pyramid_limitedsession")
        if "app.now" in settings:
            now = int(settings["app.now"])
            config.set_session_clock(lambda: now)
        if "app.url" in settings:
            make = sessionmaker(sa.create_engine(settings["app.url"]))

            def dbsession(request: Request) -> Any:
                made = make()
                zope.sqlalchemy.register(made, transaction_manager=request.tm)
                return made

            config.add_request_method(dbsession, reify=True)
        return config.make_wsgi_app()
