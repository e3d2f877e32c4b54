"""Why a session is over: the reason, its event and its predicate."""

from __future__ import annotations

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_limitedsession import (
    SessionExpired,
    SessionRefused,
    SessionRevoked,
    SessionUnreadable,
)
from tests.apps import cookie_of
from tests.signed import SETTINGS, add_views, signed_in

REASONS = ("idle", "absolute", "revoked", "limit", "unreadable")


@pytest.fixture(name="make_ended")
def _make_ended(make_world_with):
    """Return a function that makes worlds whose sessions have users."""
    return make_world_with(SETTINGS, add_views)


@pytest.fixture(name="world")
def _world(make_ended, database, mode):
    return make_ended(database, mode)


def make_end(world, reason):
    """Return a browser whose session is over for this reason."""
    (browser,) = signed_in(world)
    values = {"limit": {"ended": "limit", "data": ""}}
    values["unreadable"] = {"data": "{"}
    if reason in values:
        world.execute(world.table.update().values(**values[reason]))
    elif reason == "revoked":
        world.browser().get("/all?user=ann")
    else:
        for _ in range(10 if reason == "absolute" else 0):
            world.clock.pass_(3599)
            browser.get("/get")
        world.clock.pass_(3600)
    return browser


# -- the reason --------------------------------------------------------


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_is_told_once(world, reason):
    """The next request knows why; then the browser has forgotten it."""
    browser = make_end(world, reason)
    answer = browser.get("/get")
    assert [{}, reason] == answer.json
    (cookie,) = cookie_of(answer) or [""]
    # What is unreadable may be readable again: the cookie stays.
    assert ("Max-Age=0" in cookie) is (reason != "unreadable")
    if reason != "unreadable":
        assert [{}, None] == browser.get("/get").json
        assert [] == cookie_of(browser.get("/get"))


@pytest.mark.parametrize("reason", REASONS)
def test_who_goes_on_has_a_new_session(world, reason):
    """What is put in after the end is another session, with its own row."""
    browser = make_end(world, reason)
    (old,) = world.rows()
    browser.get("/in?user=bob")
    rows = world.rows()
    assert [old] == rows[:1]
    assert [{"user": "bob"}, None] == browser.get("/get").json
    assert "bob" == rows[1].user_id


@pytest.mark.parametrize("reason", REASONS)
def test_signing_out_of_what_is_over_deletes_the_row(world, reason):
    """``invalidate`` needs no session that is still valid."""

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    browser = make_end(world, reason)
    assert "Max-Age=0" in cookie_of(browser.get("/out"))[0]
    assert [] == world.rows()


def test_nothing_is_told_without_an_end(world):
    """No cookie, a garbled one, an unknown one, a live session: None."""
    (browser,) = signed_in(world)
    assert [{"user": "ann"}, None] == browser.get("/get").json
    for cookie in (None, "x", 43 * "A"):
        other = world.browser()
        if cookie:
            other.set_cookie("session", cookie)
        assert [{}, None] == other.get("/get").json


def test_a_reason_that_nobody_knows_is_a_revocation(world):
    """Whatever another release wrote there, the session is over."""
    (browser,) = signed_in(world)
    world.execute(world.table.update().values(ended="by decree"))
    assert [{}, "revoked"] == browser.get("/get").json


# -- the event ---------------------------------------------------------

EVENTS = {
    "idle": SessionExpired,
    "absolute": SessionExpired,
    "revoked": SessionRevoked,
    "limit": SessionRevoked,
    "unreadable": SessionUnreadable,
}


def test_a_poll_is_no_event(make_ended):
    """What the next request will find too is notified there."""
    told = []

    def subscribe(config):
        config.add_subscriber(told.append, SessionRefused)

    world = make_ended(configure=subscribe)
    browser = make_end(world, "idle")
    for _ in range(2):
        browser.get("/get", headers={"X-Session-Passive": "1"})
    assert [] == told
    browser.get("/get")
    assert 1 == len(told)


@pytest.mark.parametrize("reason", REASONS)
def test_the_event_tells_the_reason_once_per_request(make_ended, reason):
    """A subscriber gets the request and the reason, and may look inside."""
    told = []

    def subscribe(config):
        def tell(event):
            assert {} == dict(event.request.session)
            told.append((type(event), event.reason))

        config.add_subscriber(tell, SessionRefused)
        config.add_subscriber(tell, EVENTS[reason])

    world = make_ended(configure=subscribe)
    browser = make_end(world, reason)

    @world.on("twice")
    def _(request):
        return [dict(request.session), len(request.session)]

    assert [] == told
    browser.get("/twice")
    assert 2 * [(EVENTS[reason], reason)] == told


def test_p6_an_event_shows_no_secret(make_ended):
    """P6: neither its attributes nor its repr hold a token, key or data."""
    told = []

    def subscribe(config):
        config.add_subscriber(told.append, SessionRefused)

    world = make_ended(configure=subscribe)
    browser = make_end(world, "idle")
    token = browser.cookies["session"]
    browser.get("/get")
    (event,) = told
    assert {"request", "reason"} == set(vars(event))
    for secret in (token, world.rows()[0].session_id[3:]):
        assert secret not in repr(event)


# -- the predicate -----------------------------------------------------


@pytest.fixture(name="pages")
def _pages(make_ended):
    def configure(config):
        config.add_route("page", "/pages/page")
        for ended in ("idle", ("revoked", "limit"), None):
            options = {} if ended is None else {"session_ended": ended}
            config.add_view(
                lambda request, ended=ended: [ended, request.session_ended],
                route_name="page",
                renderer="json",
                **options,
            )

    return make_ended(configure=configure)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("idle", ["idle", "idle"]),
        ("revoked", [["revoked", "limit"], "revoked"]),
        ("limit", [["revoked", "limit"], "limit"]),
        ("absolute", [None, "absolute"]),
    ],
)
def test_a_view_for_each_reason(pages, reason, expected):
    """``session_ended="idle"`` finds the page for "you were signed out"."""
    assert expected == make_end(pages, reason).get("/pages/page").json


def test_the_page_of_who_was_not_signed_out(pages):
    """Without an end the predicate is not true."""
    assert [None, None] == pages.browser().get("/pages/page").json
    (browser,) = signed_in(pages)
    assert [None, None] == browser.get("/pages/page").json


@pytest.mark.parametrize("wrong", ["ended", "", ("idle", "x"), "Idle"])
def test_p10_a_reason_that_does_not_exist(make_ended, wrong):
    """P10: a predicate that could never be true does not start."""

    def configure(config):
        config.add_view(lambda request: {}, session_ended=wrong)

    with pytest.raises(ConfigurationError, match="it is one of 'idle'"):
        make_ended(configure=configure)


# -- cleaning ----------------------------------------------------------


@pytest.mark.parametrize("reason", ["idle", "revoked"])
def test_cleaning_leaves_time_to_tell_why(world, reason):
    """A row is kept for as long again as the limit that ended it.

    A visitor who comes back to his desk is told why he is signed out.
    """
    browser = make_end(world, reason)
    profiles = world.factory.settings.policy.profiles

    def clean():
        cutoffs = profiles.cutoffs(int(world.clock()))
        return world.store.clean(cutoffs=cutoffs, most=9)

    world.clock.pass_(3599 if reason == "idle" else 7199)
    assert 0 == clean()
    assert [{}, reason] == browser.get("/get").json
    # Rounded up to an eighth of the limit.
    world.clock.pass_(451)
    assert 1 == clean()
