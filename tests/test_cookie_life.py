"""How long the browser keeps the cookie: ``cookie_max_age``."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_limitedsession.limits import Limits
from pyramid_limitedsession.profiles import Profile
from tests.apps import START, cookie_of

HOUR, DAY = 3600, 86400


@pytest.fixture(name="make_kept")
def _make_kept(make_world):
    """Return a function that makes a world with these settings."""

    def make(database="sqlite", mode="separate", **given):
        world = make_world(
            database,
            mode,
            settings={f"limitedsession.{k}": v for k, v in given.items()},
        )

        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return {}

        @world.on("get")
        def _(request):
            return [dict(request.session), request.session.ended]

        @world.on("use")
        def _(request):
            request.session.use_profile(request.params["profile"] or None)
            return {}

        @world.on("none")
        def _(request):
            return {}

        return world

    return make


def max_age(response):
    """Return Max-Age of the one cookie, None without one, "" without it."""
    headers = cookie_of(response)
    if not headers:
        return None
    (header,) = headers
    found = re.search(r"Max-Age=(\d+)", header)
    return int(found[1]) if found else ""


def is_private(response):
    """Say whether no shared cache may keep it for others."""
    return (
        "no-store" in response.headers["Cache-Control"]
        and "Cookie" in response.headers["Vary"]
    )


# -- the three forms ---------------------------------------------------


def test_none_is_until_the_browser_is_closed(make_kept):
    """Without a Max-Age, and sent once, however long it is used."""
    world = make_kept(touch_interval="1s")
    browser = world.browser()
    assert "" == max_age(browser.get("/set?a=1"))
    for _ in range(3):
        world.clock.pass_(60)
        assert max_age(browser.get("/get")) is None


def test_a_duration_is_sent_with_every_write_of_activity(make_kept):
    """The same Max-Age, counted anew from the activity."""
    world = make_kept(touch_interval="60s", cookie_max_age="30d")
    browser = world.browser()
    answer = browser.get("/set?a=1")
    assert (30 * DAY, True) == (max_age(answer), is_private(answer))
    sent = []
    for _ in range(6):
        world.clock.pass_(20)
        answer = browser.get("/get")
        sent.append(max_age(answer))
        assert max_age(answer) is None or is_private(answer)
    assert [None, None, 30 * DAY] * 2 == sent


def test_auto_is_what_the_idle_limit_leaves(make_kept, database, mode):
    """At least the idle limit, at most two touch intervals more."""
    world = make_kept(
        database, mode, touch_interval="60s", cookie_max_age="auto"
    )
    browser = world.browser()
    answer = browser.get("/set?a=1")
    assert (2 * HOUR + 60 + 59, True) == (max_age(answer), is_private(answer))
    sent = []
    for _ in range(6):
        world.clock.pass_(20)
        answer = browser.get("/get")
        sent.append(max_age(answer))
        assert "Cookie" in answer.headers["Vary"]
        assert max_age(answer) is None or is_private(answer)
    assert [None, None, 2 * HOUR + 119] * 2 == sent


def test_auto_with_an_absolute_limit_alone_is_sent_once(make_kept):
    """The end does not move: the cookie is sent once and goes with it."""
    world = make_kept(
        idle_timeout="none", absolute_timeout="12h", cookie_max_age="auto"
    )
    browser = world.browser()
    assert 12 * HOUR == max_age(browser.get("/set?a=1"))
    for _ in range(3):
        world.clock.pass_(HOUR)
        assert max_age(browser.get("/get")) is None
        assert max_age(browser.get("/set?a=2")) is None


def test_auto_stops_at_the_absolute_limit(make_kept):
    """Once the absolute limit comes first, the cookie is sent no more."""
    world = make_kept(
        idle_timeout="1h",
        absolute_timeout="2h",
        touch_interval="1s",
        cookie_max_age="auto",
    )
    browser = world.browser()
    sent = [max_age(browser.get("/set?a=1"))]
    for _ in range(4):
        world.clock.pass_(1500)
        sent.append(max_age(browser.get("/get")))
    assert [3601, 3601, 3601, 2700, None] == sent


def test_auto_without_limits_is_as_long_as_browsers_keep_it(make_kept):
    """RFC 6265bis: 400 days, sent anew with the activity."""
    world = make_kept(idle_timeout="none", cookie_max_age="auto")
    browser = world.browser()
    assert 400 * DAY <= max_age(browser.get("/set?a=1")) <= 400 * DAY + 120
    world.clock.pass_(DAY)
    assert 400 * DAY <= max_age(browser.get("/get")) <= 400 * DAY + 120


def test_writes_of_data_do_not_send_it_more_often(make_kept):
    """A change moves the activity by less than the interval: no cookie.

    But the interval that it ends in is covered, so the cookie never goes
    before the session.
    """
    world = make_kept(touch_interval="60s", cookie_max_age="auto")
    browser = world.browser()
    browser.get("/set?a=0")
    sent = []
    for n in range(12):
        world.clock.pass_(10)
        sent.append(max_age(browser.get(f"/set?a={n}")))
    assert 5 * [None] == sent[:5]
    assert [2 * HOUR + 119] + 5 * [None] == sent[5:11]
    assert 2 * HOUR + 119 == sent[11]


def test_an_answer_without_the_session_sends_nothing(make_kept):
    """Who does not look into his session neither gets it nor its headers."""
    world = make_kept(touch_interval="1s", cookie_max_age="auto")
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(60)
    answer = browser.get("/none")
    assert max_age(answer) is None
    assert "Vary" not in answer.headers


# -- with profiles -----------------------------------------------------


def test_a_profile_may_keep_its_cookie(make_kept, database, mode):
    """ "remember-me" is kept; leaving it gives a cookie that is not.

    The browser has to be told, whatever the activity is.
    """
    world = make_kept(
        database,
        mode,
        **{
            "profile.remember-me.idle_timeout": "30d",
            "profile.remember-me.cookie_max_age": "auto",
            "profile.fixed.cookie_max_age": "1h",
        },
    )
    browser = world.browser()
    assert "" == max_age(browser.get("/set?a=1"))
    answer = browser.get("/use?profile=remember-me")
    assert (30 * DAY + 119, True) == (max_age(answer), is_private(answer))
    assert max_age(browser.get("/use?profile=remember-me")) is None
    assert HOUR == max_age(browser.get("/use?profile=fixed"))
    answer = browser.get("/use?profile=")
    assert ("", True) == (max_age(answer), is_private(answer))
    assert [{"a": "1"}, None] == browser.get("/get").json


# -- whatever the times ------------------------------------------------

SECONDS = st.integers(1, 3 * DAY)


@given(
    idle=st.none() | SECONDS,
    absolute=st.none() | SECONDS,
    touch=st.integers(1, 100),
    gaps=st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=30),
)
@settings(max_examples=300, deadline=None)
def test_p7_the_cookie_never_goes_before_its_session(
    idle, absolute, touch, gaps
):
    """P7: whenever the visitor may still come, the browser has its cookie.

    Requests read or write at any moments; the cookie is sent when the
    policy says so, and the browser drops it when it said.
    """
    if idle is not None:
        touch = min(touch, max(idle - 1, 1))
    limits = Limits(idle, absolute, touch)
    profile = Profile(limits, "auto")
    now = used = seen = START
    kept_until = now + profile.max_age(START, seen, now)
    sent = 1
    for gap, is_write in gaps:
        now = used + gap
        promised = limits.left_if_used(START, used).least
        if promised is not None and gap >= promised:
            break
        assert now < kept_until
        if is_write or limits.touch_due(seen, now):
            if profile.cookie_moves(START, seen, now):
                kept_until = now + profile.max_age(START, now, now)
                sent += 1
            seen = now
        used = now
    assert sent <= 1 + (now - START) // touch


@given(idle=SECONDS, touch=st.integers(1, 100), age=SECONDS)
@settings(max_examples=100, deadline=None)
def test_the_cookie_is_kept_hardly_longer(idle, touch, age):
    """It is kept for the idle limit and two touch intervals at most."""
    profile = Profile(Limits(idle, None, touch), "auto")
    now = START + age
    left = profile.max_age(START, now, now)
    assert idle <= left - touch < idle + touch
