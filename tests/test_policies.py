"""Security policies that ask the session who is there.

With ``tm.annotate_user``, pyramid_tm's default, they are asked when the
transaction begins, above every exception view.
"""

from __future__ import annotations

import socket

import pytest
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.httpexceptions import HTTPFound
from pyramid.security import forget, remember
from sqlalchemy.exc import OperationalError

from tests.apps import cookie_of
from tests.test_broken_database import Outage

ANNOTATE = pytest.mark.parametrize("annotate", ["true", "false"])


class HelperPolicy:
    """A policy with Pyramid's own helper."""

    def __init__(self):
        helper = SessionAuthenticationHelper()
        self.authenticated_userid = helper.authenticated_userid
        self.identity = helper.authenticated_userid
        self.remember = helper.remember
        self.forget = helper.forget

    def permits(self, request, context, permission):
        """Allow everything to who is signed in."""
        return self.identity(request) is not None


class CountingPolicy(HelperPolicy):
    """A policy by hand that writes: it counts how often it was asked."""

    def __init__(self):
        super().__init__()
        self.authenticated_userid = self.identity = self.count

    def count(self, request):
        """Return nobody."""
        asked = request.session.get("asked", 0)
        request.session["asked"] = asked + 1


@pytest.fixture(name="make")
def _make(make_world):
    """Return a function that makes a world with a policy."""

    def make(database, mode, annotate, policy=HelperPolicy):
        def configure(config):
            config.set_security_policy(policy())
            config.add_exception_view(
                unavailable, OperationalError, renderer="json"
            )

        settings = {"tm.annotate_user": annotate}
        world = make_world(
            database, mode, settings=settings, configure=configure
        )
        add_views(world)
        return world

    return make


def unavailable(error, request):
    """Render the application's own page for a database that is down."""
    request.response.status = 503
    return {"sorry": True}


def add_views(world):
    """Views that log in and out."""

    @world.on("login")
    def _(request):
        remember(request, "ann")
        request.session.rotate()
        return HTTPFound("/who")

    @world.on("logout")
    def _(request):
        forget(request)
        request.session.invalidate()
        return HTTPFound("/who")

    @world.on("who")
    def _(request):
        annotated = request.tm.get().user
        return [request.authenticated_userid, annotated.strip()]

    @world.on("page")
    def _(request):
        return {}


@ANNOTATE
def test_the_helper_keeps_users_logged_in(make, database, mode, annotate):
    """With Pyramid's helper a login lasts until the logout."""
    world = make(database, mode, annotate)
    browser = world.browser()
    note = "ann" if annotate == "true" else ""
    assert [None, ""] == browser.get("/who").json
    assert ["ann", note] == browser.get("/login").follow().json
    browser.get("/page")
    assert ["ann", note] == browser.get("/who").json
    assert [None, ""] == browser.get("/logout").follow().json
    assert [] == world.rows()
    assert 0 == world.checked_out()


@ANNOTATE
def test_p5_a_policy_costs_one_select(make, database, mode, annotate):
    """P5: policy and view ask the database once; nothing is written."""
    world = make(database, mode, annotate)
    browser = world.browser()
    browser.get("/login")
    world.count()
    browser.get("/who")
    assert ["SELECT"] == world.count()
    browser.get("/page")
    assert (["SELECT"] if annotate == "true" else []) == world.count()


@ANNOTATE
def test_a_policy_that_writes(make, mode, annotate):
    """A change that a policy makes is part of the request's transaction."""
    world = make("sqlite", mode, annotate, CountingPolicy)

    @world.on("asked")
    def _(request):
        assert request.authenticated_userid is None
        return request.session["asked"]

    @world.on("redirect")
    def _(request):
        assert request.authenticated_userid is None
        raise HTTPFound("/asked")

    browser = world.browser()
    once = browser.get("/asked").json
    assert 2 * once == browser.get("/asked").json
    browser.get("/redirect")
    assert 3 * once == browser.get("/asked").json
    assert 0 == world.checked_out()


@pytest.fixture(name="dead_port")
def _dead_port():
    """A port on which nobody listens, and nobody can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
@pytest.mark.parametrize(
    ("annotate", "path"),
    [("true", "/who"), ("true", "/nowhere/at/all"), ("false", "/who")],
)
def test_p9_a_policy_while_the_database_is_down(
    make, server, mode, annotate, dead_port, path
):
    """P9: the application's own page is shown, and nobody is logged out."""
    world = make(server, mode, annotate)
    browser = world.browser()
    browser.get("/login")
    power = Outage(world, dead_port)
    power.begin()
    response = browser.get(path, status="*")
    power.end()
    assert {"sorry": True} == response.json
    assert [] == cookie_of(response)
    assert "ann" == browser.get("/who").json[0]
    assert 0 == world.checked_out()


@ANNOTATE
@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_policy_asks_nobody_without_a_token(
    make, server, annotate, dead_port
):
    """A visitor without a session gets pages while the database is down."""
    world = make(server, "separate", annotate)
    power = Outage(world, dead_port)
    power.begin()
    assert {} == world.browser().get("/page").json
    power.end()
