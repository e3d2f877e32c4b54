"""An application in which a test can run something at each place.

A request for ``/places/there`` passes all of them; a request for another
path none. `Places` holds what runs where.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from pyramid.events import (
    BeforeRender,
    ContextFound,
    NewRequest,
    NewResponse,
)
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW

from tests.apps import MODES, Clock, World

# Databases, modes and managers; what a manager in thread-local mode changes
# is the same on every database.
HOUSES = [
    *(
        (database, mode, "explicit")
        for database in ("sqlite", "postgresql", "mariadb")
        for mode in MODES
    ),
    *(("postgresql", mode, "thread-local") for mode in MODES),
]
THERE = "/places/there"
OURS = "pyramid_limitedsession.tweens.lifecycle_tween_factory"
TM = "pyramid_tm.tm_tween_factory"

BEFORE_THE_ANSWER = (
    "in a tween above everything, before the view",
    "in a tween above pyramid_tm, before the view",
    "in the security policy",
    "in a tween below pyramid_tm, before the view",
    "in a ``NewRequest`` subscriber",
    "in a route predicate",
    "in a root factory",
    "in a ``ContextFound`` subscriber",
    "in the view",
    "in a ``BeforeRender`` subscriber",
    "in a tween below pyramid_tm, behind the view",
    "in a tween above pyramid_tm, behind the view",
    "in a tween above everything, behind the view",
    "in a response callback",
)
BEHIND_THE_ANSWER = (
    "in a ``NewResponse`` subscriber",
    "in a finished callback",
    "while streaming",
)
ALL = BEFORE_THE_ANSWER + BEHIND_THE_ANSWER


class Places:
    """What runs at which place: ``places.at[place] = function(request)``."""

    def __init__(self) -> None:
        self.at: dict[str, Callable[[Request], Any]] = {}

    def visit(self, place: str, request: Request) -> Any:
        """Run what a test has set, in a request that is for it."""
        if request.path == THERE and place in self.at:
            return self.at[place](request)
        return None

    def configure(self, config: Any) -> None:
        """Let an application come along at all places."""
        config.registry["places"] = self
        for name, over, under in (
            ("above_everything", OURS, None),
            ("above_tm", TM, OURS),
            ("below_tm", EXCVIEW, TM),
        ):
            config.add_tween(f"tests.places.{name}", over=over, under=under)
        for event in (NewRequest, ContextFound, NewResponse):
            config.add_subscriber(self._subscriber(event.__name__), event)
        config.add_subscriber(
            lambda event: self.visit(
                "in a ``BeforeRender`` subscriber", event["request"]
            ),
            BeforeRender,
        )
        config.set_security_policy(Policy(self))
        config.add_route_predicate("place", self._predicate)
        config.add_route(
            "places",
            THERE,
            factory=lambda request: self.visit("in a root factory", request),
            place="in a route predicate",
        )
        config.add_view(self._view, route_name="places", renderer="json")
        config.add_exception_view(self._render, request_param="render")

    def _subscriber(self, name: str) -> Callable[[Any], None]:
        place = f"in a ``{name}`` subscriber"
        return lambda event: self.visit(place, event.request)

    def _predicate(self, place: str, config: Any) -> Any:
        def predicate(info: Any, request: Request) -> bool:
            self.visit(place, request)
            return True

        predicate.text = predicate.phash = lambda: place  # type: ignore
        return predicate

    def _view(self, request: Request) -> Any:
        request.add_response_callback(
            lambda request, response: self.visit(
                "in a response callback", request
            )
        )
        request.add_finished_callback(
            lambda request: self.visit("in a finished callback", request)
        )
        answer = self.visit("in the view", request)
        if "while streaming" in self.at:
            return Response(app_iter=self._stream(request))
        return answer if isinstance(answer, Response) else {}

    def _stream(self, request: Request) -> Any:
        yield b"first"
        self.visit("while streaming", request)
        yield b"second"

    def _render(self, error: Exception, request: Request) -> Response:
        told = self.visit("in an exception view", request)
        return Response(json={"told": told}, status=500)


class Policy:
    """A security policy by hand that asks the session who is there."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def identity(self, request: Request) -> Any:
        """Return what the session says, if anything is done with it."""
        return self._places.visit("in the security policy", request)

    authenticated_userid = identity

    def permits(self, request: Request, context: Any, permission: str) -> bool:
        """Allow everything."""
        return True


def _tween(where: str) -> Any:
    def factory(handler: Any, registry: Any) -> Any:
        places = registry["places"]

        def tween(request: Request) -> Response:
            places.visit(f"in a tween {where}, before the view", request)
            try:
                response = handler(request)
            except RuntimeError:
                answer = places.visit(f"a tween {where} swallows", request)
                if answer is None:
                    raise
                return answer
            places.visit(f"in a tween {where}, behind the view", request)
            return response

        return tween

    return factory


above_everything = _tween("above everything")
above_tm = _tween("above pyramid_tm")
below_tm = _tween("below pyramid_tm")


def make_house(
    databases: Any,
    house: tuple[str, str, str],
    **options: Any,
) -> World:
    """Make the world of one of `HOUSES`, for all tests of a module.

    A statement of the application's own waits two seconds for a lock, so
    that no test waits longer.
    """
    database, mode, manager = house
    waits = {
        "sqlite": {"timeout": "2"},
        "postgresql": {"options": "-clock_timeout=2s"},
        "mariadb": {"init_command": "SET innodb_lock_wait_timeout = 2"},
    }
    url = sa.make_url(databases.url(database))
    url = url.update_query_dict(waits[database])
    settings = {
        "limitedsession.lock_timeout": "2s",
        **options.pop("settings", {}),
    }
    world = World(
        url.render_as_string(hide_password=False),
        mode,
        clock=Clock(),
        table=f"pls_{secrets.token_hex(3)}_house",
        explicit=manager == "explicit",
        settings=settings,
        **options,
    )
    return add_views(world)


def add_views(world: World) -> World:
    """Add the views that these tests use."""

    @world.on("set")
    def _(request: Request) -> Any:
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request: Request) -> Any:
        return dict(request.session)

    return world
