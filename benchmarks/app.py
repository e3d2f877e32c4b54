"""The smallest application that has sessions: what pls-trim starts here."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator


def main(global_config: dict[str, str], **settings: str) -> Any:
    """Return the application of an ``[app:main]`` section."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_limitedsession")
        return config.make_wsgi_app()
