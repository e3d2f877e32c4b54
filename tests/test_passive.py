"""Requests that read their session without counting as activity."""

from __future__ import annotations

import pytest
from pyramid.exceptions import ConfigurationError, URLDecodeError
from pyramid.httpexceptions import HTTPForbidden
from pyramid.request import Request
from pyramid.response import Response
from pyramid.view import render_view

from tests.apps import START, cookie_of
from tests.threads import same_session

IDLE = 600
HEADER = "X-Session-Passive"
SETTINGS = {
    "limitedsession.idle_timeout": "10m",
    "limitedsession.absolute_timeout": "1h",
    "limitedsession.touch_interval": "1s",
    "limitedsession.cookie_max_age": "10m",
    "limitedsession.passive": "/poll-* */ping",
}


class Nobody:
    """A security policy that permits nothing to anybody."""

    def identity(self, request):
        return request.session.get("a")

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return False

    def remember(self, request, userid, **kw):
        return []

    def forget(self, request, **kw):
        return []


def configure(config):
    """Add views with the option, behind a permission and for exceptions."""

    def read(request):
        return dict(request.session)

    def forbidden(request):
        return Response("no", status=403)

    config.add_route("passive", "/views/passive")
    config.add_route("secret", "/views/secret")
    config.add_route("broken", "/views/broken")
    config.add_view(
        read, route_name="passive", renderer="json", session_activity=False
    )
    config.add_view(
        read,
        route_name="secret",
        renderer="json",
        session_activity=False,
        permission="see",
    )

    def broken(request):
        dict(request.session)
        raise ValueError

    config.add_view(broken, route_name="broken", session_activity=False)
    config.add_exception_view(
        lambda request: Response("bad", status=500), context=ValueError
    )
    config.add_view(forbidden, context=HTTPForbidden)
    config.set_security_policy(Nobody())
    config.add_session_timeout_view("/views/left")


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    return add_views(
        make_world(database, mode, settings=SETTINGS, configure=configure)
    )


@pytest.fixture(name="one")
def _one(make_world):
    return add_views(make_world(settings=SETTINGS, configure=configure))


def add_views(world):
    """Add the views that these tests use."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        session = request.session
        return [dict(session), session.ended, session.time_left]

    for name in ("poll-1", "pollen"):
        world.views[name] = world.views["get"]
    world.views["poll-set"] = world.views["set"]
    return world


def seen(world):
    """Return when the one session was used, from the test's start."""
    (row,) = world.rows()
    return row.updated_at - START


PASSIVE = [
    ("/views/passive", {}),
    ("/views/secret", {}),
    ("/views/broken", {}),
    ("/poll-1", {}),
    ("/a/ping", {}),
    ("/get", {HEADER: "true"}),
    ("/get", {HEADER: "1"}),
    ("/views/left", {}),
]
ACTIVE = [
    ("/get", {}),
    ("/pollen", {}),
    ("/get", {HEADER: ""}),
    ("/get", {HEADER: "0"}),
    ("/get", {HEADER: "False"}),
    ("/get", {HEADER: "off"}),
]


@pytest.mark.parametrize(("path", "headers"), PASSIVE)
def test_a_passive_request_is_no_activity(one, path, headers):
    """It reads the session, and writes nothing and sends no cookie."""
    browser = one.browser()
    browser.get("/set?a=1")
    one.clock.pass_(30)
    one.count()
    answer = browser.get(path, headers=headers, status="*")
    assert ["SELECT"] == one.count()
    assert (0, []) == (seen(one), cookie_of(answer))
    assert answer.vary is not None
    assert "Cookie" in answer.vary


@pytest.mark.parametrize(("path", "headers"), ACTIVE)
def test_any_other_request_is_activity(one, path, headers):
    """What only looks like a passive request is written."""
    browser = one.browser()
    browser.get("/set?a=1")
    one.clock.pass_(30)
    answer = browser.get(path, headers=headers)
    assert 30 == seen(one)
    assert 1 == len(cookie_of(answer))


def test_polling_keeps_no_session_alive(world):
    """However often it polls, a session ends that is not used otherwise."""
    browser, poller = world.browser(), world.browser()
    browser.get("/set?a=1")
    poller.set_cookie("session", browser.cookies["session"])
    for left in range(IDLE - 60, -1, -60):
        world.clock.pass_(60)
        answer = poller.get("/views/left").json
        assert answer["idle"] == (left or None)
    assert (False, "idle") == (answer["active"], answer["ended"])
    assert browser.get("/get").json[1] == "idle"


def test_a_passive_change_is_saved_and_is_no_activity(world):
    """What a passive request changes is stored; the clock stands still."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(30)
    assert [] == cookie_of(browser.get("/poll-set?b=2"))
    assert 0 == seen(world)
    assert {"a": "1", "b": "2"} == browser.get("/poll-1").json[0]
    world.clock.pass_(IDLE - 30)
    assert browser.get("/get").json[1] == "idle"


def test_a_passive_merge_is_no_activity(world):
    """Merged into what another request wrote, it moves nothing either."""
    browser = world.browser()
    browser.get("/set?a=1")
    (other,) = same_session(world, browser, 1)
    world.clock.pass_(30)

    @world.on("poll-slow")
    def _(request):
        assert request.session["a"] == "1"
        other.get("/poll-set?b=2")
        request.session["c"] = "3"
        return {}

    browser.get("/poll-slow")
    assert 0 == seen(world)
    assert {"a": "1", "b": "2", "c": "3"} == browser.get("/poll-1").json[0]


def test_what_is_left_is_counted_from_the_last_activity(one):
    """A passive request is told when the session will be refused."""
    browser = one.browser()
    browser.get("/set?a=1")
    one.clock.pass_(100)
    assert [IDLE - 100, 3500] == browser.get("/poll-1").json[2]
    assert [IDLE, 3500] == browser.get("/get").json[2]


def test_what_is_left_is_exact_with_a_touch_interval(make_world):
    """The seconds that a passive request is told are those that are left.

    With the grace of the touch interval: the server refuses at zero.
    """
    settings = SETTINGS | {"limitedsession.touch_interval": "30s"}
    world = add_views(make_world(settings=settings, configure=configure))
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(20)
    browser.get("/get")
    left = browser.get("/views/left").json["idle"]
    assert IDLE - 20 + 29 == left
    world.clock.pass_(left - 1)
    assert 1 == browser.get("/views/left").json["idle"]
    world.clock.pass_(1)
    assert browser.get("/views/left").json["ended"] == "idle"


# -- the ready-made view -----------------------------------------------


def test_the_view_says_what_is_left(world):
    """It answers as JSON, for nobody's cache."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(10)
    answer = browser.get("/views/left")
    assert {
        "active": True,
        "ended": None,
        "idle": IDLE - 10,
        "absolute": 3590,
    } == answer.json
    assert answer.content_type == "application/json"
    assert "no-store" in answer.headers["Cache-Control"]


def test_a_visitor_without_a_session_gets_none(one):
    """It answers that there is no session, and makes none."""
    answer = one.browser().get("/views/left")
    nothing = {"active": False, "ended": None, "idle": None, "absolute": None}
    assert nothing == answer.json
    assert ([], []) == (one.rows(), cookie_of(answer))


def test_limits_that_are_off_are_none(make_world):
    """Without a limit there is no number."""
    world = add_views(
        make_world(
            settings=SETTINGS
            | {
                "limitedsession.idle_timeout": "none",
                "limitedsession.absolute_timeout": "none",
            },
            configure=configure,
        )
    )
    browser = world.browser()
    browser.get("/set?a=1")
    assert {
        "active": True,
        "ended": None,
        "idle": None,
        "absolute": None,
    } == browser.get("/views/left").json


def test_the_reason_is_left_to_the_next_page(world):
    """A poll that finds the session over leaves its cookie in the browser.

    Or the page that comes next could not say why.
    """
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(IDLE)
    for _ in range(2):
        answer = browser.get("/views/left")
        assert (answer.json["ended"], cookie_of(answer)) == ("idle", [])
    answer = browser.get("/get")
    assert answer.json[1] == "idle"
    assert "Max-Age=0" in cookie_of(answer)[0]
    assert browser.get("/views/left").json["ended"] is None


def test_the_view_needs_no_permission_unless_one_is_given(make_world):
    """It tells a visitor of his own session, in any application."""

    def closed(config):
        config.set_security_policy(Nobody())
        config.set_default_permission("see")
        config.add_session_timeout_view("/views/left")
        config.add_session_timeout_view(
            "/views/shut", route_name="shut", permission="see"
        )

    world = make_world(settings=SETTINGS, configure=closed)
    assert world.browser().get("/views/left").json["active"] is False
    world.browser().get("/views/shut", status=403)


# -- where it is decided -----------------------------------------------


def test_a_subrequest_to_a_passive_view_leaves_its_parent_active(one):
    """The request that the browser sent is what counts."""
    browser = one.browser()
    browser.get("/set?a=1")

    @one.on("parent")
    def _(request):
        subrequest = request.copy()
        subrequest.path_info = "/views/passive"
        return request.invoke_subrequest(subrequest).json

    one.clock.pass_(30)
    assert {"a": "1"} == browser.get("/parent").json
    assert 30 == seen(one)


def test_a_path_that_is_no_text_is_no_passive_one(make_world):
    """Bytes that are not UTF-8 match no pattern, and are no 500 of ours."""

    def tell(config):
        config.add_exception_view(
            lambda request: dict(request.session),
            context=URLDecodeError,
            renderer="json",
        )

    world = add_views(make_world(settings=SETTINGS, configure=tell))
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(30)
    request = Request.blank("/")
    request.environ["PATH_INFO"] = "/\xff"
    request.headers["Cookie"] = f"session={browser.cookies['session']}"
    assert {"a": "1"} == request.get_response(world.app).json
    assert 30 == seen(world)


def test_patterns_are_relative_to_the_application(one):
    """An application below a prefix is configured as one at the root."""
    browser = one.browser(SCRIPT_NAME="/shop")
    browser.get("/set?a=1")
    one.clock.pass_(30)
    browser.get("/poll-1")
    assert 0 == seen(one)


@pytest.mark.parametrize("value", ["no", 0, None])
def test_p10_the_view_option_is_a_bool(make_world, value):
    """P10: anything else is a mistake that is told when it is configured."""

    def wrong(config):
        config.add_view(lambda request: {}, session_activity=value)

    with pytest.raises(ConfigurationError, match="say it like False"):
        make_world(configure=wrong)


def test_the_view_option_true_changes_nothing(make_world):
    """``session_activity=True`` is as if it was not there."""

    def say_it(config):
        config.add_route("on", "/views/on")
        config.add_view(
            lambda request: dict(request.session),
            route_name="on",
            renderer="json",
            session_activity=True,
        )

    world = add_views(make_world(settings=SETTINGS, configure=say_it))
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(30)
    browser.get("/views/on")
    assert 30 == seen(world)


def test_a_part_of_a_page_does_not_decide_for_it(make_world):
    """A passive view that a page renders as a part leaves the page active."""

    def configure(config):
        config.add_view(
            lambda request: Response("part"),
            name="part",
            session_activity=False,
        )

    world = add_views(make_world(settings=SETTINGS, configure=configure))

    @world.on("page")
    def _(request):
        part = render_view(request.context, request, "part")
        return [part.decode(), dict(request.session)]

    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(30)
    assert ["part", {"a": "1"}] == browser.get("/page").json
    assert 30 == seen(world)
