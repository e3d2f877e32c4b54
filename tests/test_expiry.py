"""The expiry tween: limits for sessions of any kind, through real apps."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from pyramid.httpexceptions import HTTPForbidden, HTTPFound
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare

from pyramid_limitedsession.expiry import FIRST
from tests.apps import START
from tests.sites import (
    ABSOLUTE,
    DAY,
    GRACE,
    HOUR,
    IDLE,
    MINUTE,
    Site,
    same,
    times,
)

OTHERS = pytest.mark.parametrize(
    "kind", ["cookie", "redis", "beaker"], indirect=True
)
DOCS = (Path(__file__).parent.parent / "docs" / "expiry.rst").read_text(
    encoding="utf-8"
)
# A second before a border, on it, after it: is the session still there?
SIDES = pytest.mark.parametrize(
    ("side", "stays"), [(-1, True), (0, False), (1, False)]
)


# -- the limits --------------------------------------------------------


@SIDES
def test_idle_limit(site, clock, side, stays):
    """A session ends when it was not used for the idle timeout and grace."""
    browser = site.visitor()
    clock.pass_(IDLE + GRACE + side)
    assert browser.get("/get").json == ("1" if stays else None)


@SIDES
@pytest.mark.parametrize(
    ("idle", "lasts"), [(8, 8), (10, 10), (11, 20), (600, 609), (601, 900)]
)
def test_grace_of_other_idle_limits(
    make_site, clock, idle, lasts, side, stays
):
    """The grace is the touch interval less a second, for each idle limit."""
    browser = (site := make_site(idle=idle)).visitor()
    clock.pass_(lasts + side)
    assert browser.get("/get").json == ("1" if stays else None)
    assert len(site.events) == (0 if stays else 1)


def test_idle_never_ends_early(site, clock):
    """A use that is too soon to be written still counts in full."""
    browser = site.visitor()
    clock.pass_(GRACE)
    browser.get("/get")
    assert site.written() == 0
    clock.pass_(IDLE - 1)
    assert browser.get("/get").json == "1"


@SIDES
def test_absolute_limit(site, clock, side, stays):
    """A session ends the absolute timeout after its start, used or not."""
    browser = site.visitor()
    for _ in range(7):
        clock.pass_(15 * MINUTE)
        assert browser.get("/get").json == "1"
    clock.pass_(15 * MINUTE + side)
    assert browser.get("/get").json == ("1" if stays else None)


@pytest.mark.parametrize("limit", ["idle", "absolute"])
def test_one_limit_alone(make_site, clock, limit):
    """Each limit works without the other."""
    site = make_site(**{limit: HOUR})
    browser = site.visitor()
    is_seen = times(site, browser)[1] is not None
    assert is_seen == (limit == "idle")
    clock.pass_(HOUR - 1)
    assert browser.get("/get").json == "1"
    clock.pass_(HOUR + GRACE)
    assert browser.get("/ended").json == limit


def test_absolute_comes_first(site, clock):
    """Of a session that is over by both limits, the absolute one is told."""
    browser = site.visitor()
    clock.pass_(DAY)
    assert browser.get("/ended").json == "absolute"


def test_without_limits_nothing_is_done(make_site, clock):
    """With neither limit, the factory is not wrapped and nothing written."""
    site = make_site()
    browser = site.visitor()
    clock.pass_(400 * DAY)
    assert times(site, browser) == [None, None]
    assert browser.get("/get").json == "1"
    with prepare(registry=site.router.registry) as env:
        left = env["request"].session_time_left
    assert left == (None, None)


# -- what it costs -----------------------------------------------------


def test_reading_writes_once_per_interval(site, clock):
    """Activity is written when the last one written is five minutes old."""
    browser = site.visitor()
    counts = []
    for _ in range(3):
        clock.pass_(GRACE)
        browser.get("/get")
        counts.append(site.written())
        clock.pass_(1)
        browser.get("/get")
        browser.get("/get")
        counts.append(site.written())
    assert counts == [0, 1] * 3


def test_only_absolute_never_writes_again(make_site, clock):
    """Without an idle limit there is one write, at the start."""
    site = make_site(absolute=DAY)
    browser = site.visitor()
    for _ in range(5):
        clock.pass_(HOUR)
        browser.get("/get")
    assert site.written() == 0


def test_first_times_cost_no_write_of_their_own(make_site):
    """A new session is saved with its times in the same write."""
    counts = []
    for idle in ("none", IDLE):
        site = make_site(idle=idle)
        site.browser().get("/put", {"a": "1"})
        counts.append(site.written())
    assert counts[0] == counts[1]


def test_looking_at_the_times_is_no_access(make_backend, clock):
    """An old signed cookie is not renewed because the tween looks inside."""
    backend = make_backend("cookie")
    backend.options = {"timeout": None}
    site = Site(backend, clock, idle=IDLE)

    @site.on
    def put_long_ago(request):
        def back(request, response):
            request.session.accessed -= 1000

        request.add_response_callback(back)
        request.session["a"] = "1"

    @site.on
    def touch_nothing(request):
        return request.session.new

    browser = site.browser()
    browser.get("/put_long_ago")
    assert "Set-Cookie" not in browser.get("/touch_nothing").headers
    # This is how Pyramid's own reading differs.
    assert "Set-Cookie" in browser.get("/get").headers


@pytest.mark.parametrize("path", ["/get", "/nothing", "/ended", "/left"])
def test_visitor_who_reads_gets_nothing(site, path):
    """A visitor without a session gets no cookie and no record."""
    browser = site.browser()
    for _ in range(2):
        response = browser.get(path)
        assert "Set-Cookie" not in response.headers
    assert site.backend.traffic == []


def test_visitor_with_a_strange_cookie_gets_nothing(site):
    """Garbage instead of a cookie makes no session either."""
    browser = site.browser()
    browser.set_cookie("session", "garbage")
    browser.get("/get")
    assert (site.written(), len(browser.cookies)) == (0, 1)


def test_request_without_session_costs_nothing(site, clock):
    """A request that does not ask for its session makes no traffic."""
    browser = site.visitor()
    clock.pass_(DAY)
    browser.get("/nothing")
    assert site.backend.traffic == []
    assert site.events == []


def test_session_that_became_empty_in_its_first_request(site):
    """A new session whose content is taken out again is not written."""

    @site.on
    def change_of_mind(request):
        request.session["a"] = "1"
        del request.session["a"]
        return FIRST in request.session

    assert site.browser().get("/change_of_mind").json is False
    browser = site.browser()
    browser.get("/change_of_mind")
    assert times(site, browser) == [None, None]


def test_cookies_are_not_sent_again_by_a_slow_request(make_backend, clock):
    """What the tween reads is no access that renews a signed cookie."""
    backend = make_backend("cookie")
    backend.options = {}
    site = Site(backend, clock, idle=IDLE)

    @site.on
    def slow(request):
        # As if made a while ago: Pyramid's cookie sessions read the clock.
        request.session.renewed -= 5

    assert "Set-Cookie" not in site.browser().get("/slow").headers


# pyramid_session_redis uses it for sessions with a timeout, its default.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex")
@pytest.mark.parametrize("path", ["/get", "/put?a=1", "/nothing", "/clear"])
def test_redis_commands_as_without_limits(make_backend, clock, path):
    """With Redis, a request that is no touch makes the commands it made."""
    backend = make_backend("redis")
    backend.options = {}
    commands = []
    for idle in ("none", IDLE):
        site = Site(backend, clock, idle=idle)
        browser = site.visitor(a="1", b="2")
        browser.get(path)
        commands.append([*backend.traffic])
    if path == "/clear":
        # It is not deleted, though it is empty but for its times.
        commands[0][commands[0].index("DEL")] = "SETEX"
    assert commands[0] == commands[1]


@pytest.mark.parametrize(
    ("idle", "step", "writes"),
    [
        (10 * MINUTE, 10, 1000),
        (10 * MINUTE, 60, 1000),
        (2 * HOUR, 10, 33),
        (2 * HOUR, 60, 200),
        (30 * DAY, 10, 33),
        (30 * DAY, 60, 200),
    ],
)
def test_writes_of_a_thousand_requests(
    make_backend, clock, idle, step, writes
):
    """The figures of docs/expiry.rst, over Redis, are these."""
    site = Site(make_backend("redis"), clock, idle=idle)
    browser = site.visitor()
    cookies = {"session": browser.cookies["session"].strip('"')}
    for _ in range(1000):
        clock.pass_(step)
        # WebTest's own checks take longer than all the rest.
        request = Request.blank("/get", cookies=cookies)
        assert request.get_response(site.router).json == "1"
    assert site.written() == writes
    text = {600: "10m", 7200: "2h"}.get(idle, "30d")
    row = re.search(rf"\n``{text}``((?: +\d+)+)\n", DOCS)[1].split()
    assert writes == int(row[0 if step == 10 else 1])
    assert set(site.backend.traffic) <= {"GET", "SET"}


# -- clear and invalidate ----------------------------------------------


@pytest.mark.parametrize("content", [{}, {"a": "2"}])
def test_clear_does_not_restart_the_total_limit(site, clock, content):
    """After clear() the absolute timeout goes on, with content or without."""

    @site.on
    def clear_and_put(request):
        request.session.clear()
        request.session.update(content)

    browser = site.visitor()
    clock.pass_(1000)
    browser.get("/clear_and_put")
    assert times(site, browser) == [START, START + 1000]
    browser.get("/put", {"a": "3"})
    clock.now = START + ABSOLUTE
    assert browser.get("/ended").json == "absolute"


def test_taking_out_every_key_is_clear(site, clock):
    """Deleting key by key, the reserved ones too, restarts nothing."""

    @site.on
    def delete_all(request):
        for key in list(request.session.keys()):
            if not key.startswith("_") or "limitedsession" in key:
                del request.session[key]

    browser = site.visitor()
    clock.pass_(1000)
    browser.get("/delete_all")
    browser.get("/put", {"a": "2"})
    assert times(site, browser)[0] == START


def test_idle_limit_holds_after_clear(site, clock):
    """A session that was cleared and not used again is idle in time."""
    browser = site.visitor()
    browser.get("/clear")
    browser.get("/put", {"a": "2"})
    clock.pass_(IDLE + GRACE)
    assert browser.get("/ended").json == "idle"


def test_invalidate_restarts_both_clocks(site, clock):
    """What is put in after invalidate() is a new session, from then on."""

    @site.on
    def start_again(request):
        request.session.invalidate()
        request.session["a"] = "2"

    browser = site.visitor()
    clock.pass_(1000)
    browser.get("/start_again")
    now = START + 1000
    assert times(site, browser) == [now, now]
    assert browser.get("/get").json == "2"


def test_content_carried_over_an_invalidate(site, clock):
    """Keys copied into the new session do not make it old."""

    @site.on
    def carry(request):
        content = dict(request.session.items())
        request.session.invalidate()
        request.session.update(content)

    browser = site.visitor()
    clock.pass_(1000)
    browser.get("/carry")
    assert times(site, browser) == [START + 1000] * 2


def test_invalidate_in_one_request_and_put_in_the_next(site, clock):
    """A session begins with its content, not with the end of another."""
    browser = site.visitor()
    clock.pass_(1000)
    browser.get("/invalidate")
    clock.pass_(1000)
    browser.get("/put", {"a": "2"})
    assert times(site, browser) == [START + 2000] * 2


def test_clear_then_invalidate_and_the_other_way(site, clock):
    """Whatever else is called, invalidate() ends the session."""

    @site.on
    def clear_invalidate(request):
        request.session.clear()
        request.session.invalidate()
        request.session["a"] = "2"

    @site.on
    def invalidate_clear(request):
        request.session.invalidate()
        request.session.clear()
        request.session["a"] = "3"

    browser = site.visitor()
    for path in ("/clear_invalidate", "/invalidate_clear"):
        clock.pass_(1000)
        browser.get(path)
        assert times(site, browser) == [clock.now, clock.now]


def test_deleting_the_cookie_at_logout_still_works(make_backend, clock):
    """With Redis, invalidate() alone takes the cookie from the browser."""
    site = Site(make_backend("redis"), clock, idle=IDLE)
    browser = site.visitor()
    browser.get("/invalidate")
    assert browser.cookies == {}


def test_delete_of_beaker(make_backend, clock):
    """Beaker's own delete() still takes the cookie from the browser."""
    site = Site(make_backend("beaker"), clock, idle=IDLE)

    @site.on
    def delete(request):
        request.session.delete()

    browser = site.visitor()
    browser.get("/delete")
    assert browser.cookies == {}
    assert "Set-Cookie" not in browser.get("/get").headers


# -- a session that is over --------------------------------------------


def test_over_is_told(site, clock, caplog):
    """The request that finds it over learns why, by event and by log."""
    caplog.set_level(logging.INFO, "pyramid_limitedsession.expiry")
    browser = site.visitor(a="canary")
    value = next(iter(browser.cookies.values()))
    clock.pass_(DAY)
    assert browser.get("/ended").json == "absolute"
    assert [(event.reason) for event in site.events] == ["absolute"]
    assert "absolute" in caplog.text
    assert "canary" not in caplog.text
    assert value not in caplog.text


def test_over_is_told_by_predicate(make_site, clock):
    """A view may be for visitors whose session is idle."""

    def configure(config):
        config.add_route("page", "/a/page")
        for ended, text in (("idle", "sign in again"), (None, "welcome")):
            options = {"session_ended": ended} if ended else {}
            config.add_view(
                lambda request, text=text: Response(text),
                route_name="page",
                **options,
            )

    site = make_site(idle=IDLE, configure=configure)
    browser = site.visitor()
    assert browser.get("/a/page").text == "welcome"
    clock.pass_(DAY)
    assert browser.get("/a/page").text == "sign in again"


def test_event_may_look_at_the_session(make_site, clock):
    """A subscriber sees an empty session, and is called once."""
    seen = []

    def look(event):
        request = event.request
        seen.append((request.session.get("a"), request.session_ended))

    def configure(config):
        config.add_subscriber(
            look, "pyramid_limitedsession.events.SessionExpired"
        )

    site = make_site(idle=IDLE, configure=configure)
    browser = site.visitor()
    clock.pass_(DAY)
    browser.get("/get")
    assert seen == [(None, "idle")]


def test_what_is_put_in_afterwards_is_a_new_session(site, clock):
    """The request that finds it over may begin another one at once."""
    browser = site.visitor()
    clock.pass_(DAY)
    browser.get("/put", {"b": "2"})
    assert times(site, browser) == [START + DAY] * 2
    assert browser.get("/get").json is None
    clock.pass_(IDLE - 1)
    assert browser.get("/ended").json is None


def test_it_stays_over(site, clock):
    """The old cookie is refused as often as it is shown."""
    browser = site.visitor()
    old = same(site, browser)
    clock.pass_(DAY)
    for _ in range(2):
        again = same(site, old)
        assert again.get("/get").json is None


def test_asking_the_factory_again(site, clock):
    """The factory limits once, and gives what it gave."""

    @site.on
    def again(request):
        factory = request.registry.getUtility(ISessionFactory)
        return factory(request) is request.session

    browser = site.visitor()
    clock.pass_(DAY)
    assert browser.get("/again").json is True
    assert len(site.events) == 1


def test_passive_request_ends_it_too(site, clock):
    """A request that is no activity does not see a session that is over."""
    browser = site.visitor()
    clock.pass_(DAY)
    headers = {"X-Session-Passive": "true"}
    assert browser.get("/get", headers=headers).json is None


# -- activity ----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/quiet", {}),
        ("/left", {}),
        ("/get", {"X-Session-Passive": "true"}),
        ("/poll", {}),
    ],
)
def test_passive_requests(make_site, clock, path, headers):
    """By view, by header, by path: a passive request keeps nothing alive."""
    site = make_site(idle=IDLE, settings={"limitedsession.passive": "/po*"})
    site.views["poll"] = site.views["get"]
    browser = site.visitor()
    for _ in range(6):
        clock.pass_(5 * MINUTE)
        assert browser.get(path, headers=headers).json
    assert site.written() == 0
    clock.pass_(GRACE)
    assert browser.get("/get").json is None


def test_passive_request_may_begin_a_session(site):
    """What a passive request puts in has its times, or it had no limits."""
    browser = site.browser()
    headers = {"X-Session-Passive": "true"}
    browser.get("/put", {"a": "1"}, headers=headers)
    assert times(site, browser) == [START, START]


def test_time_left(site, clock):
    """The time-left view counts from the last activity, and down."""
    browser = site.visitor()
    clock.pass_(100)
    assert browser.get("/left").json == {
        "active": True,
        "ended": None,
        "idle": IDLE + GRACE - 100,
        "absolute": ABSOLUTE - 100,
    }
    assert browser.get("/left").json["idle"] == IDLE + GRACE - 100
    clock.pass_(DAY)
    left = browser.get("/left").json
    assert (left["active"], left["ended"]) == (False, "absolute")


def test_time_left_of_active_requests(site, clock):
    """A request that is activity has the whole idle timeout before it."""

    @site.on
    def left(request):
        return request.session_time_left

    site.views["mine"] = site.views["left"]
    assert site.browser().get("/mine").json == [IDLE, ABSOLUTE]
    browser = site.visitor()
    clock.pass_(100)
    assert browser.get("/mine").json == [IDLE, ABSOLUTE - 100]


def refused(exception, request):
    """Answer a refusal, as applications do, with a message in the session."""
    request.session["a"] = "refused"
    return Response(status=403)


@OTHERS
def test_content_from_an_exception_view(make_site, clock):
    """What an exception view puts in has its times like any other."""
    site = make_site(
        idle=IDLE,
        configure=lambda config: config.add_exception_view(
            refused, context=HTTPForbidden
        ),
    )

    @site.on
    def refuse(request):
        raise HTTPForbidden

    browser = site.browser()
    browser.get("/refuse", status=403)
    clock.pass_(100)
    assert times(site, browser) == [START, START]
    assert browser.get("/get").json == "refused"


@OTHERS
@pytest.mark.parametrize("error", [HTTPForbidden, HTTPFound])
def test_rendered_exception(site, clock, error):
    """A view that raises a response has used its session."""

    @site.on
    def refuse(request):
        request.session.get("a")
        raise error("/")

    browser = site.visitor()
    clock.pass_(IDLE)
    browser.get("/refuse", status=[302, 403])
    clock.pass_(IDLE)
    assert browser.get("/get").json == "1"


def test_aborted_request_of_our_own_sessions(make_backend, clock, caplog):
    """What an aborted transaction takes back is no activity either.

    Nobody is warned of it: it is no change of the application's.
    """
    site = Site(make_backend("ours"), clock, idle=IDLE)

    @site.on
    def refuse(request):
        request.session.get("a")
        raise HTTPFound("/")

    browser = site.visitor()
    clock.pass_(IDLE)
    browser.get("/refuse", status=302)
    assert times(site, browser) == [START, START]
    assert "discarded" not in caplog.text


def test_unhandled_exception(site, clock, caplog):
    """An exception that nobody handles passes through unchanged."""

    @site.on
    def fail(request):
        request.session.get("a")
        raise ZeroDivisionError("mine")

    browser = site.visitor()
    clock.pass_(IDLE)
    with pytest.raises(ZeroDivisionError, match="mine"):
        browser.get("/fail")
    assert "not written" not in caplog.text


def test_unhandled_exception_counts_where_it_can(make_backend, clock):
    """Redis sessions are saved after a failed request; its use counts."""
    site = Site(make_backend("redis"), clock, idle=IDLE)

    @site.on
    def fail(request):
        request.session.get("a")
        raise ZeroDivisionError

    browser = site.visitor()
    clock.pass_(IDLE)
    with pytest.raises(ZeroDivisionError):
        browser.get("/fail")
    clock.pass_(IDLE)
    assert browser.get("/get").json == "1"
