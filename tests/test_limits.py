"""The limits: as functions of given times, and through a real app."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid.httpexceptions import HTTPNotFound

from pyramid_limitedsession.limits import Limits
from tests.apps import START, cookie_of

DAY = 24 * 60 * 60
quick = settings(deadline=None, database=None)

# -- verdict -----------------------------------------------------------


@pytest.mark.parametrize(
    ("touch_interval", "grace"), [(0, 0), (1, 0), (2, 1), (60, 59)]
)
@pytest.mark.parametrize(
    ("late", "expected"), [(-1, "active"), (0, "idle"), (1, "idle")]
)
def test_p7_idle_borders(touch_interval, grace, late, expected):
    """P7: idle at the very second, later by the grace of saved writes."""
    limits = Limits(100, None, touch_interval)
    now = START + 100 + grace + late
    assert expected == limits.verdict(START - 5000, START, now)


@pytest.mark.parametrize("touch_interval", [0, 1, 60])
@pytest.mark.parametrize(
    ("late", "expected"), [(-1, "active"), (0, "absolute"), (1, "absolute")]
)
def test_p7_absolute_borders(touch_interval, late, expected):
    """P7: the total length has no grace: its start is known exactly."""
    limits = Limits(None, 100, touch_interval)
    now = START + 100 + late
    assert expected == limits.verdict(START, now, now)


@pytest.mark.parametrize(
    ("created", "seen", "expected"),
    [
        (99, 49, "active"),
        (99, 50, "idle"),
        (100, 49, "absolute"),
        (100, 50, "absolute"),
    ],
)
def test_both_limits(created, seen, expected):
    """With both limits the first to come ends it; absolute is named first."""
    limits = Limits(50, 100, 1)
    assert expected == limits.verdict(START - created, START - seen, START)


def test_no_limits():
    """Without limits a session of any age is active."""
    assert Limits(None, None, 60).verdict(1, 1, START + 10**9) == "active"


@pytest.mark.parametrize("ahead", [1, 120, DAY])
def test_times_of_a_clock_that_is_ahead(ahead):
    """A row that another host wrote in our future is active."""
    limits = Limits(100, 1000, 1)
    then = START + ahead
    assert limits.verdict(then, then, START) == "active"


# -- cutoffs -----------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(100, 1000, 0), (START - 100, START - 1000)),
        (Limits(100, 1000, 1), (START - 100, START - 1000)),
        (Limits(100, 1000, 60), (START - 159, START - 1000)),
        (Limits(100, None, 1), (START - 100, 0)),
        (Limits(None, 1000, 60), (0, START - 1000)),
        (Limits(None, None, 60), (0, 0)),
    ],
)
def test_cutoffs(limits, expected):
    """Last seen and created at these times, or before, is dead."""
    assert expected == limits.cutoffs(START)


# -- touch_due ---------------------------------------------------------


@pytest.mark.parametrize(
    ("touch_interval", "ago", "expected"),
    [
        (0, 0, False),
        (0, 1, True),
        (1, 0, False),
        (1, 1, True),
        (1, 2, True),
        (60, 59, False),
        (60, 60, True),
        (60, 61, True),
        (60, 0, False),
        (60, -1, False),
        (60, -120, False),
    ],
)
def test_p5_touch_due_borders(touch_interval, ago, expected):
    """P5: due an interval after the last write, never within a second."""
    limits = Limits(7200, None, touch_interval)
    assert limits.touch_due(START - ago, START) is expected


# -- left_if_used --------------------------------------------------------


@pytest.mark.parametrize(
    ("idle", "absolute", "age", "expected"),
    [
        (None, None, 5, None),
        (100, None, 5, 100),
        (100, None, 10**6, 100),
        (None, 1000, 0, 1000),
        (None, 1000, 5, 995),
        (100, 1000, 899, 100),
        (100, 1000, 900, 100),
        (100, 1000, 901, 99),
        (100, 1000, 999, 1),
        (100, 1000, 1000, 0),
        (100, 1000, 1001, 0),
        (100, 1000, -5, 100),
    ],
)
def test_expires_in_borders(idle, absolute, age, expected):
    """The nearer limit counts, from now or from the start; never below 0."""
    limits = Limits(idle, absolute, 60)
    left = limits.left_if_used(START, START + age)
    assert expected == left.least


# -- coarse_expiry -----------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "ago", "expected"),
    [
        (Limits(None, None, 60), 0, None),
        (Limits(None, 1000, 60), 0, 2000),
        (Limits(None, 9 * DAY, 60), 0, 10 * DAY),
        (Limits(800, None, 1), 0, 1600),
        (Limits(800, None, 1), 1, 1700),
        (Limits(800, None, 1), 99, 1700),
        (Limits(800, None, 1), 100, 1700),
        (Limits(800, None, 1), 101, 1800),
        (Limits(800, None, 2), 0, 1700),
        (Limits(800, 825, 1), 1, 1650),
        (Limits(800, 875, 1), 1, 1700),
        (Limits(7, None, 1), 3, 17),
        (Limits(80 * DAY, None, 1), 0, 81 * DAY),
        (Limits(80 * DAY, None, 1), 1, 82 * DAY),
        (Limits(80 * DAY, None, 1), DAY, 82 * DAY),
        (Limits(80 * DAY, None, 1), DAY + 1, 83 * DAY),
    ],
)
def test_coarse_expiry_borders(limits, ago, expected):
    """It moves by an eighth of the idle limit, or a day, from the start.

    And it lies behind the end for as long again, or a day.
    """
    expiry = limits.coarse_expiry(START, START + ago)
    assert expected == (None if expiry is None else expiry - START)


# -- whatever the times ------------------------------------------------

SECONDS = st.integers(1, 3 * DAY) | st.integers(1, 100)
MAYBE = st.none() | SECONDS


@st.composite
def limits_of(draw, idle=MAYBE, absolute=MAYBE):
    """Limits as the settings allow them: touch_interval < idle_timeout."""
    idle = draw(idle)
    longest = 1000 if idle is None else max(idle - 1, 0)
    touch = st.integers(0, longest) | st.integers(0, min(longest, 60))
    return Limits(idle, draw(absolute), draw(touch))


@given(limits_of(idle=SECONDS, absolute=st.none()), st.data())
@quick
def test_p7_never_early_and_hardly_late(limits, data):
    """P7: used at any moments, it lives idle seconds after its last use.

    The activity is written only when that is due; the session is never
    refused because of it, and lives one touch_interval longer at most.
    """
    idle, touch = limits.idle, limits.touch_interval
    gap = st.integers(0, idle + touch + 1) | st.sampled_from(
        [touch, idle - 1, idle, idle + touch - 1, idle + touch]
    )
    seen = used = START
    for seconds in data.draw(st.lists(gap.filter(lambda x: x >= 0))):
        now = used + seconds
        verdict = limits.verdict(START, seen, now)
        if seconds < idle:
            assert verdict == "active"
        if seconds >= idle + touch:
            assert verdict == "idle"
        if verdict == "idle":
            break
        if limits.touch_due(seen, now):
            seen = now
        used = now


@given(limits_of(), SECONDS, st.integers(-200, 3 * DAY))
@quick
def test_p8_coarse_expiry_is_never_early(limits, age, unseen):
    """P8: what trimming may look at is dead by then."""
    created = START - age
    seen = START + unseen
    expiry = limits.coarse_expiry(created, seen)
    if expiry is None:
        assert (None, None) == (limits.idle, limits.absolute)
    else:
        assert limits.verdict(created, seen, expiry) != "active"


@given(limits_of(idle=SECONDS), SECONDS)
@quick
def test_p8_coarse_expiry_is_hardly_late(limits, age):
    """P8: a dead row is kept as long again, and no more than an eighth."""
    seen = START + age
    alone = Limits(limits.idle, None, limits.touch_interval)
    exact = seen + limits.idle + max(limits.touch_interval - 1, 0)
    assert alone.verdict(START, seen, exact - 1) == "active"
    assert alone.verdict(START, seen, exact) == "idle"
    told = exact + min(limits.idle, DAY)
    late = alone.coarse_expiry(START, seen) - told
    assert 0 <= late < limits.idle / 8 + 1
    assert late < DAY
    assert limits.coarse_expiry(START, seen) <= told + late


@given(limits_of(idle=st.none(), absolute=SECONDS), SECONDS)
@quick
def test_coarse_expiry_of_the_total_length_is_exact(limits, age):
    """With the absolute limit alone it never moves."""
    expected = START + limits.absolute + min(limits.absolute, DAY)
    assert expected == limits.coarse_expiry(START, START + age)


@given(limits_of(), st.integers(0, 10 * DAY), st.integers(0, 10 * DAY))
@quick
def test_p7_verdict_and_cutoffs_agree(limits, age, unseen):
    """P7: the load refuses a row if, and only if, trimming may take it."""
    created, seen = START - age, START - unseen
    idle_cutoff, absolute_cutoff = limits.cutoffs(START)
    is_dead = seen <= idle_cutoff or created <= absolute_cutoff
    verdict = limits.verdict(created, seen, START)
    assert is_dead is (verdict != "active")


@given(limits_of(), SECONDS, st.integers(0, 3 * DAY))
@quick
def test_expires_in_is_not_too_long(limits, age, unseen):
    """Used now, and then not for so many seconds, a session has ended.

    But for the grace, which is not told to anybody.
    """
    created = START - age
    left = limits.left_if_used(created, START).least
    if left is None:
        assert (None, None) == (limits.idle, limits.absolute)
        return
    exact = Limits(limits.idle, limits.absolute, 1)
    assert exact.verdict(created, START, START + left) != "active"
    if left > 0:
        assert exact.verdict(created, START, START + left - 1) == "active"


# -- through a real app ------------------------------------------------


@pytest.fixture(name="make_limited")
def _make_limited(make_world, mode):
    """Return a function that makes an application with these limits."""

    def make(**limits):
        world = make_world(
            "sqlite",
            mode,
            settings={
                f"limitedsession.{name}": value
                for name, value in limits.items()
            },
        )

        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return {}

        @world.on("get")
        def _(request):
            session = request.session
            return [dict(session), session.ended]

        @world.on("rotate")
        def _(request):
            request.session.rotate()
            return {}

        return world

    return make


# An hour of idle time, with the grace that its settings give.
ONE_HOUR = [
    ({"idle_timeout": "1h", "touch_interval": "0"}, 3600),
    ({"idle_timeout": "1h", "touch_interval": "1"}, 3600),
    ({"idle_timeout": "1h"}, 3659),
    ({"idle_timeout": "20s"}, 20),
]


@pytest.mark.parametrize(("limits", "seconds"), ONE_HOUR)
def test_p7_idle_is_refused_at_its_second(make_limited, limits, seconds):
    """P7: an idle session is refused by the load, cleaned or not."""
    world = make_limited(**limits)
    early, late = world.browser(), world.browser()
    early.get("/set?a=1")
    late.get("/set?a=1")
    world.clock.pass_(seconds - 1)
    assert [{"a": "1"}, None] == early.get("/get").json
    world.clock.pass_(1)
    assert [{}, "idle"] == late.get("/get").json
    assert 2 == len(world.rows())


def test_p7_absolute_is_refused_at_its_second(make_limited):
    """P7: used all the time, a session ends at its total length."""
    world = make_limited(idle_timeout="10m", absolute_timeout="1h")
    browser = world.browser()
    browser.get("/set?a=1")
    for _ in range(11):
        world.clock.pass_(300)
        assert [{"a": "1"}, None] == browser.get("/get").json
    world.clock.pass_(299)
    assert [{"a": "1"}, None] == browser.get("/get").json
    world.clock.pass_(1)
    assert [{}, "absolute"] == browser.get("/get").json


def test_p7_a_fraction_of_a_second_is_not_rounded_up(make_limited):
    """P7: the clock's fractions end no session early."""
    world = make_limited(idle_timeout="100s", touch_interval="1")
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(99.9)
    assert [{"a": "1"}, None] == browser.get("/get").json


def test_without_limits_nothing_ends(make_limited):
    """With both limits off a session of years is accepted."""
    world = make_limited(idle_timeout="none", absolute_timeout="none")
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(10 * 365 * DAY)
    assert [{"a": "1"}, None] == browser.get("/get").json
    assert world.rows()[0].expires_at is None


@pytest.mark.parametrize(
    "limits", [{"idle_timeout": "1h"}, {"absolute_timeout": "1h"}]
)
def test_a_dead_cookie_is_deleted(make_limited, limits):
    """The browser forgets a dead session's cookie, and asks no more."""
    world = make_limited(**limits)
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(DAY)
    (cookie,) = cookie_of(browser.get("/get"))
    assert cookie.startswith("session=;")
    assert "Max-Age=0" in cookie
    assert {} == browser.cookies
    world.count()
    assert [{}, None] == browser.get("/get").json
    assert [] == world.count()


def test_a_living_sessions_cookie_is_left_alone(make_limited):
    """A session that is not over has no ended, and its cookie stays."""
    world = make_limited()
    browser = world.browser()
    browser.get("/set?a=1")
    response = browser.get("/get")
    assert [{"a": "1"}, None] == response.json
    assert [] == cookie_of(response)


def test_a_dead_session_is_followed_by_a_new_one(make_limited):
    """What is put in after the end is a new session with a new token."""
    world = make_limited(idle_timeout="1h")
    browser = world.browser()
    browser.get("/set?old=1")
    old = browser.cookies["session"]
    world.clock.pass_(DAY)
    browser.get("/set?new=1")
    assert old != browser.cookies["session"]
    assert [{"new": "1"}, None] == browser.get("/get").json
    assert [START, START + DAY] == [row.created_at for row in world.rows()]


def test_rotation_does_not_restart_the_absolute_limit(make_limited):
    """P7: a rotated session ends when it would have ended anyway."""
    world = make_limited(absolute_timeout="1h")
    browser = world.browser()
    browser.get("/set?a=1")
    for seconds in (1800, 1799):
        world.clock.pass_(seconds)
        browser.get("/rotate")
        assert [{"a": "1"}, None] == browser.get("/get").json
    assert START == world.rows()[0].created_at
    world.clock.pass_(1)
    assert [{}, "absolute"] == browser.get("/get").json


def test_rotation_counts_as_activity(make_limited):
    """A rotation restarts the idle limit, as every use does."""
    world = make_limited(idle_timeout="1h")
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(3599)
    browser.get("/rotate")
    world.clock.pass_(3599)
    assert [{"a": "1"}, None] == browser.get("/get").json


def test_p5_activity_is_written_once_per_interval(make_limited):
    """P5: a reading session is written an interval after the last write."""
    world = make_limited(idle_timeout="1h", touch_interval="60")
    browser = world.browser()
    browser.get("/set?a=1")
    written = []
    for second in range(10, 310, 10):
        world.clock.pass_(10)
        world.count()
        browser.get("/get")
        if world.count() != ["SELECT"]:
            written.append(second)
    assert [60, 120, 180, 240, 300] == written


@pytest.mark.parametrize(
    ("touch_interval", "seconds", "expected"),
    [
        (60, 59, ["SELECT"]),
        (60, 60, ["SELECT", "UPDATE"]),
        (60, 61, ["SELECT", "UPDATE"]),
        (1, 0, ["SELECT"]),
        (1, 1, ["SELECT", "UPDATE"]),
        (0, 0, ["SELECT"]),
        (0, 1, ["SELECT", "UPDATE"]),
    ],
)
def test_p5_touch_borders(make_limited, touch_interval, seconds, expected):
    """P5: activity costs one UPDATE when it is due, before that none."""
    world = make_limited(touch_interval=touch_interval)
    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    world.clock.pass_(seconds)
    browser.get("/get")
    assert expected == world.count()


def test_touch_changes_the_activity_alone(make_limited):
    """A touch moves the last activity; version, data and key stay."""
    world = make_limited()
    browser = world.browser()
    browser.get("/set?a=1")
    (before,) = world.rows()
    world.clock.pass_(100)
    browser.get("/get")
    (after,) = world.rows()
    assert START + 100 == after.updated_at
    assert 1 == before.version
    kept = ("id", "session_id", "data", "version", "created_at")
    assert [getattr(before, name) for name in kept] == [
        getattr(after, name) for name in kept
    ]


def test_touch_sends_no_cookie(make_limited):
    """A touch needs no Set-Cookie: the token stays."""
    world = make_limited()
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(100)
    assert [] == cookie_of(browser.get("/get"))


def test_touch_moves_the_expiry_when_that_is_near(make_limited):
    """What trimming looks at moves with the activity, in its slices."""
    world = make_limited(idle_timeout="800s", touch_interval="1")
    browser = world.browser()
    browser.get("/set?a=1")
    moved = [world.rows()[0].expires_at - START]
    for _ in range(3):
        world.clock.pass_(60)
        browser.get("/get")
        moved.append(world.rows()[0].expires_at - START)
    assert [1600, 1700, 1800, 1800] == moved


def test_a_change_is_the_activity(make_limited):
    """P5: a change writes the activity with it: no second UPDATE."""
    world = make_limited()
    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    world.clock.pass_(100)
    browser.get("/set?a=2")
    assert ["SELECT", "UPDATE"] == world.count()
    assert START + 100 == world.rows()[0].updated_at


def test_an_untouched_session_is_no_activity(make_limited):
    """A request that does not look at its session does not prolong it."""
    world = make_limited(idle_timeout="1h")
    world.views["other"] = lambda request: {}
    browser = world.browser()
    browser.get("/set?a=1")
    for _ in range(3):
        world.clock.pass_(1800)
        browser.get("/other")
    assert [{}, "idle"] == browser.get("/get").json


@pytest.mark.parametrize("how", ["raise", "doom", "unhandled"])
def test_p4_activity_is_written_although_the_request_aborts(make_limited, how):
    """P4: who uses the application is active, also when a request fails."""
    world = make_limited()

    @world.on("fail")
    def _(request):
        request.session["a"] = "lost"
        if how == "unhandled":
            raise RuntimeError("boom")
        if how == "raise":
            raise HTTPNotFound
        request.tm.doom()
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(100)
    if how == "unhandled":
        with pytest.raises(RuntimeError, match="boom"):
            browser.get("/fail")
    else:
        browser.get("/fail", status="*")
    (row,) = world.rows()
    assert START + 100 == row.updated_at
    assert 1 == row.version
    assert [{"a": "1"}, None] == browser.get("/get").json


def _other_host(world, browser):
    """Return the same visitor, as another host sees him."""
    other = world.browser()
    other.set_cookie("session", browser.cookies["session"])
    return other


@pytest.mark.parametrize("path", ["/get", "/set?b=2", "/rotate"])
def test_activity_never_moves_back(make_limited, path):
    """A host whose clock is two minutes behind does not shorten a life."""
    world = make_limited(idle_timeout="1h")
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(500)
    browser.get("/get")
    (before,) = world.rows()
    world.clock.pass_(-120)
    _other_host(world, browser).get(path)
    (after,) = world.rows()
    assert START + 500 == before.updated_at
    assert START + 500 == after.updated_at
    assert before.expires_at == after.expires_at


def test_two_hosts_in_turn_write_no_more_than_one(make_limited):
    """P5: two clocks two minutes apart do not make every request a write."""
    world = make_limited(idle_timeout="1h", touch_interval="60")
    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    writes = 0
    for turn in range(60):
        ahead = 120 if turn % 2 else 0
        world.clock.pass_(10 + ahead)
        _other_host(world, browser).get("/get")
        writes += world.count().count("UPDATE")
        world.clock.pass_(-ahead)
    assert 600 == world.clock() - START
    assert writes <= 12


def test_a_session_of_a_clock_ahead_is_accepted(make_limited):
    """A session begun two minutes in our future is as good as any."""
    world = make_limited(idle_timeout="1h", absolute_timeout="2h")
    browser = world.browser()
    world.clock.pass_(120)
    browser.get("/set?a=1")
    world.clock.pass_(-120)
    assert [{"a": "1"}, None] == browser.get("/get").json
