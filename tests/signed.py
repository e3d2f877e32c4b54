"""Sessions of users: what tests of their ends share."""

from __future__ import annotations

from typing import Any

from webtest import TestApp

from tests.apps import World

SETTINGS = {
    "limitedsession.idle_timeout": "1h",
    "limitedsession.absolute_timeout": "10h",
    "limitedsession.touch_interval": "1s",
    "limitedsession.user_key": "user",
}


def add_views(world: World) -> World:
    """Add the views that these tests use."""

    @world.on("in")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return [dict(request.session), request.session.ended]

    @world.on("others")
    def _(request):
        request.user_sessions.end_all(request.session["user"])
        return {}

    @world.on("all")
    def _(request):
        request.user_sessions.end_all(
            request.params["user"], except_current=False
        )
        return {}

    @world.on("list")
    def _(request):
        return [
            [each.id, each.created, each.seen, each.profile, each.is_current]
            for each in request.user_sessions.list(request.params["user"])
        ]

    return world


def signed_in(
    world: World, user: str = "ann", number: int = 1, app: Any = None
) -> list[TestApp]:
    """Return browsers of so many sessions of a user."""
    browsers = [TestApp(app or world.app) for _ in range(number)]
    for browser in browsers:
        browser.get(f"/in?user={user}")
    return browsers
