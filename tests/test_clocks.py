"""Clocks: exact borders, jumps, rows from the future, hosts, time zones.

That limits hold to the second is in test_limits, what is stored under a
time zone in test_schema. Here the clocks themselves are wrong.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_limitedsession.limits import CLOCK_SKEW
from pyramid_limitedsession.scripts import trim as pls_trim
from pyramid_limitedsession.tokens import key_of, make_token
from tests import apps
from tests.apps import START, Clock, World, cookie_of

MINUTE, HOUR, DAY = 60, 3600, 86400
YEARS = 50 * 365 * DAY
PASSIVE = {"X-Session-Passive": "true"}
# Whatever is stored may be looked at by self-cleaning.
AT_ONCE = START - 10 * DAY
quick = settings(deadline=None, database=None)


def options(**given: Any) -> dict[str, str]:
    """Return settings: ``touch_interval=1``, ``short__idle_timeout="5s"``."""
    settings = {}
    for name, value in given.items():
        profile, _, last = name.rpartition("__")
        start = f"profile.{profile}." if profile else ""
        settings[f"limitedsession.{start}{last}"] = str(value)
    return settings


@pytest.fixture(name="make")
def _make(make_world):
    """Return a function that makes worlds whose visitors these tests know."""

    def make(database: str = "sqlite", mode: str = "separate", **given: Any):
        return views(make_world(database, mode, settings=options(**given)))

    return make


@pytest.fixture(name="make_host")
def _make_host(make_world):
    """Return a function that makes another host on the table of a world.

    It has its own settings, its own connections and the clock it is given.
    """
    hosts = []

    def make(world: World, clock: Clock | None = None, **given: Any) -> World:
        host = World(
            world.url,
            world.mode,
            clock=clock or world.clock,
            table=world.table.name,
            settings=options(**given),
        )
        hosts.append(host)
        return views(host)

    yield make
    for host in hosts:
        host.store.engine.dispose()
        host.engine.dispose()


def views(world: World) -> World:
    """Give a world the views of these tests."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("ended")
    def _(request):
        return request.session.ended

    @world.on("left")
    def _(request):
        return request.session.time_left

    @world.on("use")
    def _(request):
        request.session.use_profile(request.params["profile"])
        return {}

    return world


def put(world: World, **columns: Any) -> str:
    """Store a row; return its token."""
    token = make_token()
    row = {
        "session_id": key_of(token),
        "data": "{}",
        "version": 1,
        "created_at": START,
        "updated_at": START,
        "expires_at": AT_ONCE,
    }
    world.execute(world.table.insert(), {**row, **columns})
    return token


def visitor(world: World, token: str) -> Any:
    """Return a browser that has this token."""
    browser = world.browser()
    browser.set_cookie("session", token)
    return browser


def elsewhere(host: World, browser: Any) -> Any:
    """Return the same visitor as another host sees him."""
    return visitor(host, browser.cookies["session"])


def verdict(world: World, token: str) -> str:
    """Say what the load says, in a request that is no activity."""
    ended = visitor(world, token).get("/ended", headers=PASSIVE).json
    return ended or "active"


def cutoffs(world: World) -> Any:
    """Return what is too old by the clock of a world."""
    now = int(world.clock())
    return world.factory.settings.policy.profiles.cutoffs(now)


def count_dead(world: World) -> int:
    """Return how many rows trimming would delete now."""
    return apps.count_dead(world.store, cutoffs(world))


def trim(world: World) -> int:
    """Trim; return how many rows went."""
    return apps.trim(world.store, cutoffs(world))


def clean(world: World) -> int:
    """Clean as a request does now and then; return how many rows went."""
    return world.store.clean(cutoffs=cutoffs(world), most=10000)


def stored(world: World) -> set[str]:
    """Return the keys of the rows that are there."""
    return {row.session_id for row in world.rows()}


# -- borders of each profile -----------------------------------------------

# Of no profile, of two, and of one that is not configured any more, for
# which the strictest of all limits hold.
FOUR = {
    "idle_timeout": 100,
    "absolute_timeout": 1000,
    "touch_interval": 3,
    "short__idle_timeout": 10,
    "short__absolute_timeout": 2000,
    "long__idle_timeout": 700,
    "long__absolute_timeout": "none",
}


class Ends(NamedTuple):
    """The ages at which sessions of a profile end."""

    idle: int
    absolute: int | None


# The idle limits with a grace of two seconds.
ENDS = {
    None: Ends(102, 1000),
    "short": Ends(12, 2000),
    "long": Ends(702, None),
    "gone": Ends(12, 1000),
}


def border_rows() -> Iterator[tuple[dict[str, Any], str]]:
    """Rows a second before, on and after each border, and their verdicts."""
    for profile, ends in ENDS.items():
        for late in (-1, 0, 1):
            age = ends.idle + late
            times = {"created_at": START - age, "updated_at": START - age}
            said = "active" if late < 0 else "idle"
            yield {"profile": profile, **times}, said
            # An unset limit has no border: any age is as good.
            age = (ends.absolute or YEARS) + late
            is_over = ends.absolute is not None and late >= 0
            times = {"created_at": START - age, "updated_at": START}
            said = "absolute" if is_over else "active"
            yield {"profile": profile, **times}, said


@pytest.fixture(name="borders")
def _borders(make, database, mode):
    """A world of four profiles, its tokens and what they are to be told."""
    world = make(database, mode, **FOUR)
    told = {put(world, **columns): said for columns, said in border_rows()}
    return world, told


def living(told: dict[str, str]) -> set[str]:
    """Return the keys of the sessions that are not over."""
    return {key_of(token) for token, said in told.items() if said == "active"}


def test_the_load_knows_each_border(borders):
    """P7: a second before it lives, on it and after it is over."""
    world, told = borders
    assert told == {token: verdict(world, token) for token in told}
    assert len(told) == len(world.rows())


@pytest.mark.parametrize("delete", [trim, clean])
def test_what_deletes_knows_the_same_borders(borders, delete):
    """P8: counted, trimmed and cleaned away is what the load refuses."""
    world, told = borders
    dead = len(told) - len(living(told))
    assert 14 == dead == count_dead(world)
    assert dead == delete(world)
    assert living(told) == stored(world)
    assert 0 == count_dead(world)


def test_pls_trim_knows_the_same_borders(make, make_ini):
    """P8: the command deletes what the load refuses, and nothing else."""
    world = make(**FOUR)
    told = {put(world, **columns): said for columns, said in border_rows()}
    assert 0 == pls_trim.main([make_ini(world, START, **FOUR), "--days=365"])
    assert living(told) == stored(world)


def test_self_cleaning_knows_the_same_borders(make, make_host):
    """P8: a request that cleans leaves what the load accepts."""
    world = make(**FOUR)
    told = {put(world, **columns): said for columns, said in border_rows()}
    cleaning = make_host(world, self_clean=1, **FOUR)
    cleaning.browser().get("/ended")
    assert living(told) == stored(world)


@pytest.fixture(name="make_ini")
def _make_ini(tmp_path):
    """Return a function that writes an ini file with a time of its own."""

    def make(world: World, now: int, **given: Any) -> str:
        lines = ["[app:main]", "use = call:tests.ini_app:main"]
        values = {
            "app.now": now,
            "limitedsession.table_name": world.table.name,
            "limitedsession.sqlalchemy.url": world.url,
            **options(**given),
        }
        lines += [f"{name} = {value}" for name, value in values.items()]
        path = tmp_path / "clocks.ini"
        path.write_text("\n".join(lines))
        return str(path)

    return make


AROUND = [
    edge + late
    for ends in ENDS.values()
    for edge in (ends.idle, ends.absolute or 0)
    for late in (-1, 0, 1)
]
AGES = (
    st.integers(0, 3000)
    | st.sampled_from(AROUND)
    | st.sampled_from([-1, -300, -301, -DAY, -DAY - 1, -YEARS])
)
ROWS = st.lists(
    st.tuples(st.sampled_from([*ENDS]), AGES, AGES),
    min_size=1,
    max_size=40,
)


def compare(world: World, rows: list[tuple[str | None, int, int]]) -> None:
    """Check that SQL and Python agree about rows of these ages."""
    of = world.factory.settings.policy.profiles.of
    world.execute(world.table.delete())
    active, ahead = set(), set()
    values = []
    for profile, age, unseen in rows:
        created, seen = START - age, START - unseen
        key = key_of(make_token())
        values.append(
            {
                "session_id": key,
                "data": "{}",
                "version": 1,
                "created_at": created,
                "updated_at": seen,
                "expires_at": START,
                "profile": profile,
            }
        )
        limits = of(profile).limits
        if limits.verdict(created, seen, START) == "active":
            active.add(key)
        # A time ahead counts as now where it is not refused for that.
        known = limits.verdict(min(created, START), min(seen, START), START)
        if known == "active":
            ahead.add(key)
    world.execute(world.table.insert(), values)
    assert active <= ahead
    assert len(rows) - len(ahead) == count_dead(world) == clean(world)
    assert ahead == stored(world)
    world.execute(world.table.delete())
    world.execute(world.table.insert(), values)
    assert len(rows) - len(ahead) == trim(world)
    assert ahead == stored(world)


@pytest.mark.parametrize(
    ("database", "examples"),
    [("sqlite", 60), ("postgresql", 8), ("mariadb", 8)],
)
def test_p7_sql_and_python_agree_about_any_rows(make, database, examples):
    """P7: whatever rows there are, what is deleted is what is too old."""
    world = make(database, **FOUR)

    @settings(quick, max_examples=examples)
    @given(ROWS)
    def check(rows):
        compare(world, rows)

    check()


# -- fractions of a second --------------------------------------------------


@pytest.mark.parametrize(
    "limit", [{"idle_timeout": 5}, {"absolute_timeout": 5}]
)
@pytest.mark.parametrize(
    ("later", "expected"),
    [(3.2, "active"), (4.09, "active"), (4.1, "over"), (5, "over")],
)
def test_a_fraction_is_cut_off(make, limit, later, expected):
    """Used at 10.9 with 5 s left it ends at 15.0: by less than a second early.

    Trimming says so at the same moment.
    """
    world = make(touch_interval=1, **limit)
    world.clock.pass_(10.9)
    browser = world.browser()
    browser.get("/set?a=1")
    token = browser.cookies["session"]
    # In a binary fraction 10.9 + 4.1 may be a little less than 15.
    world.clock.now = round(world.clock.now + later, 3)
    is_over = verdict(world, token) != "active"
    assert (expected == "over") is is_over
    assert int(is_over) == count_dead(world) == trim(world)


# -- a changed setting ------------------------------------------------------


def test_a_changed_setting_holds_at_once(make, make_host):
    """What a restarted application says of a profile holds for old rows too.

    Shorter or longer, the load and the cleaning follow it.
    """
    world = make(short__idle_timeout="1h", touch_interval=1)
    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/use?profile=short")
    token = browser.cookies["session"]
    shorter = make_host(world, short__idle_timeout="30m", touch_interval=1)
    longer = make_host(world, short__idle_timeout="3h", touch_interval=1)
    told = {}
    for minutes in (29, 30, 59, 60, 179, 180):
        world.clock.now = START + minutes * MINUTE
        told[minutes] = [
            (verdict(host, token), count_dead(host))
            for host in (shorter, world, longer)
        ]
    active, idle = ("active", 0), ("idle", 1)
    assert told == {
        29: [active, active, active],
        30: [idle, active, active],
        59: [idle, active, active],
        60: [idle, idle, active],
        179: [idle, idle, active],
        180: [idle, idle, idle],
    }
    # It was to be looked at from the second hour on.
    world.clock.now = START + 179 * MINUTE
    assert (0, 1) == (clean(longer), clean(world))


@pytest.mark.parametrize("limit", ["idle_timeout", "absolute_timeout"])
def test_a_profile_that_is_gone_is_as_strict_as_any(make, make_host, limit):
    """A session of a profile that was taken out ends by the shortest limit."""
    world = make(touch_interval=1, **{f"long__{limit}": "30d"})
    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/use?profile=long")
    token = browser.cookies["session"]
    kept = {"idle_timeout": "2h", f"short__{limit}": "30m"}
    gone = make_host(world, touch_interval=1, **kept)
    told = []
    for late in (-1, 0):
        world.clock.now = START + 30 * MINUTE + late
        told.append((verdict(gone, token), count_dead(gone)))
    assert [("active", 0), (limit.partition("_")[0], 1)] == told


# -- rows from the future ---------------------------------------------------

AHEAD = {
    "two minutes": 2 * MINUTE,
    "as far as clocks differ": CLOCK_SKEW,
    "a second more": CLOCK_SKEW + 1,
    "six minutes": 6 * MINUTE,
    "23 hours": 23 * HOUR,
    "a day": DAY,
    "a day and a second": DAY + 1,
    "25 hours": 25 * HOUR,
    "50 years": YEARS,
}


@pytest.fixture(name="future")
def _future(make, database, mode):
    """A world with both limits and no grace."""
    return make(
        database,
        mode,
        idle_timeout="1h",
        absolute_timeout="2h",
        touch_interval=1,
    )


def ahead_of(world: World, token: str) -> tuple[int, int]:
    """Return how far ahead of now a row's start and activity are."""
    now = int(world.clock())
    (row,) = (row for row in world.rows() if row.session_id == key_of(token))
    return row.created_at - now, row.updated_at - now


@pytest.mark.parametrize("path", ["/ended", "/set?a=1"])
def test_an_activity_in_the_future(future, path):
    """A touch or a save puts it right if it is farther than clocks differ.

    More than a day ahead it is refused, and left as it is.
    """
    tokens = {
        name: put(future, created_at=START - 1, updated_at=START + ahead)
        for name, ahead in AHEAD.items()
    }
    told = {name: verdict(future, token) for name, token in tokens.items()}
    for token in tokens.values():
        visitor(future, token).get(path)
    after = {
        name: ahead_of(future, token)[1] for name, token in tokens.items()
    }
    refused = {"a day and a second", "25 hours", "50 years"}
    kept = refused | {"two minutes", "as far as clocks differ"}
    assert refused == {name for name in AHEAD if told[name] == "idle"}
    assert set(AHEAD) - refused == {
        name for name in AHEAD if told[name] == "active"
    }
    assert {
        name: ahead if name in kept else 0 for name, ahead in AHEAD.items()
    } == after


def test_a_start_in_the_future(future):
    """It stays as it is; more than a day ahead the session is refused."""
    tokens = {
        name: put(future, created_at=START + ahead)
        for name, ahead in AHEAD.items()
    }
    told = {name: verdict(future, token) for name, token in tokens.items()}
    for token in tokens.values():
        visitor(future, token).get("/set?a=1")
    after = {
        name: ahead_of(future, token)[0] for name, token in tokens.items()
    }
    refused = {"a day and a second", "25 hours", "50 years"}
    assert refused == {name for name in AHEAD if told[name] == "absolute"}
    assert AHEAD == after


def test_nothing_is_deleted_for_lying_in_the_future(
    make, make_host, make_ini, database
):
    """What is refused for lying ahead stays: that clock may be the slow one.

    Neither counted nor trimmed nor cleaned, by a request or by pls-trim.
    """
    limits = {"idle_timeout": "1h", "absolute_timeout": "2h"}
    world = make(database, **limits)
    for ahead in AHEAD.values():
        put(world, created_at=START + ahead)
        put(world, updated_at=START + ahead)
    assert (0, 0) == (count_dead(world), trim(world))
    make_host(world, self_clean=1, **limits).browser().get("/ended")
    assert 0 == pls_trim.main([make_ini(world, START, **limits), "--days=1"])
    assert 2 * len(AHEAD) == len(world.rows())


@pytest.mark.parametrize(
    ("limits", "column"),
    [
        ({"idle_timeout": "none", "absolute_timeout": "2h"}, "updated_at"),
        ({"idle_timeout": "1h"}, "created_at"),
    ],
)
def test_a_time_that_no_limit_counts_from(make, limits, column):
    """Where a limit is off its time may lie ahead; the other one holds."""
    world = make(touch_interval=1, **limits)
    end = 2 * HOUR if column == "updated_at" else HOUR
    token = put(world, **{column: START + YEARS})
    told = []
    for late in (-1, 0):
        world.clock.now = START + end + late
        told.append(verdict(world, token))
    assert "active" == told[0]
    assert "active" != told[1]


@pytest.mark.parametrize(
    "ahead", [0, 6 * MINUTE, 23 * HOUR, DAY, 25 * HOUR, YEARS]
)
def test_no_session_is_immortal(make, ahead):
    """Used all the time or never, it lives a day longer at most.

    Wherever its times lie, also once the clock has caught up with them.
    """
    world = make(idle_timeout="6h", absolute_timeout="12h", touch_interval=1)
    times = {"created_at": START + ahead, "updated_at": START + ahead}
    used, unused = put(world, **times), put(world, **times)
    for begin in sorted({START, START + max(ahead - DAY, 0)}):
        lived: dict[str, list[int]] = {used: [], unused: []}
        for hours in range(0, 48, 3):
            world.clock.now = begin + hours * HOUR
            for token, when in lived.items():
                if verdict(world, token) == "active":
                    when.append(hours)
            if hours in lived[used]:
                visitor(world, used).get("/ended")
        for token, limit in ((used, 12), (unused, 6)):
            when = lived[token]
            # From the hour in which the clock has caught up with it.
            assert not when or when[-1] - when[0] < 24 + limit
    world.clock.now = START + ahead + 12 * HOUR
    assert ["absolute"] * 2 == [verdict(world, each) for each in lived]
    assert 2 == count_dead(world)


@pytest.mark.parametrize("ahead", [2 * MINUTE, 23 * HOUR])
def test_what_is_left_of_a_start_in_the_future(make, ahead):
    """A session never says that it lasts longer than its limits."""
    world = make(idle_timeout="1h", absolute_timeout="2h", touch_interval=1)
    times = {"created_at": START + ahead, "updated_at": START + ahead}
    browser = visitor(world, put(world, **times))
    assert [HOUR, 2 * HOUR] == browser.get("/left", headers=PASSIVE).json
    assert [HOUR, 2 * HOUR] == browser.get("/left").json


# -- jumps ------------------------------------------------------------------


def test_a_day_forward_and_back_unused(make):
    """Who stayed away while the clock was wrong has lost nothing."""
    world = make(idle_timeout="1h", touch_interval=1)
    browser = world.browser()
    browser.get("/set?a=1")
    before = world.rows()
    world.clock.pass_(DAY)
    world.browser().get("/set?other=1")
    world.clock.pass_(-DAY + HOUR - 1)
    assert browser.get("/ended", headers=PASSIVE).json is None
    assert before == world.rows()[:1]


@pytest.mark.parametrize("path", ["/ended", "/set?b=1"])
def test_a_day_forward_and_back_used(make, path):
    """Used while the clock was wrong, it ends when it should all the same.

    Its next use puts its activity right.
    """
    world = make(idle_timeout="2d", touch_interval=1)
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(DAY + 10)
    browser.get("/ended")
    world.clock.pass_(-DAY + 10)
    browser.get(path)
    (row,) = world.rows()
    assert (START, START + 20) == (row.created_at, row.updated_at)
    told = []
    for late in (-1, 0):
        world.clock.now = START + 20 + 2 * DAY + late
        told.append(browser.get("/ended", headers=PASSIVE).json)
    assert [None, "idle"] == told


def test_begun_while_the_clock_was_ahead(make):
    """Begun a day ahead it goes on, and lives a day longer at most."""
    world = make(absolute_timeout="12h", idle_timeout="none")
    world.clock.pass_(DAY)
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(-DAY)
    told = []
    for seconds in (0, DAY + 12 * HOUR - 1, DAY + 12 * HOUR):
        world.clock.now = START + seconds
        told.append(browser.get("/ended", headers=PASSIVE).json)
    assert [None, None, "absolute"] == told


def test_back_to_1970(make, make_host, make_ini, database):
    """A clock that was never set refuses everybody and deletes nothing.

    Neither does its self-cleaning, nor pls-trim. Set right, all is there.
    """
    limits = {"idle_timeout": "1h", "absolute_timeout": "2h"}
    world = make(database, **limits)
    kinds = [
        {},
        {"profile": "gone"},
        {"expires_at": None},
        {"ended": "revoked", "expires_at": START + DAY},
    ]
    tokens = [put(world, **kind) for kind in kinds]
    before = world.rows()
    told = {}
    cleaning = make_host(world, self_clean=1, **limits)
    for moment in (0, 1, 100, DAY):
        world.clock.now = moment
        told[moment] = [verdict(cleaning, token) for token in tokens]
        ini = make_ini(world, moment, **limits)
        assert 0 == pls_trim.main([ini, "--days=30"])
    expected = ["absolute"] * 3 + ["revoked"]
    assert [expected] * 4 == list(told.values())
    assert before == world.rows()
    world.clock.now = START + 1
    assert "active" == verdict(world, tokens[0])


def test_begun_in_1970(make, make_host):
    """What began before the clock was set is over once it is, and goes."""
    world = make(idle_timeout="1h", self_clean=1)
    world.clock.now = 5
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(10)
    assert browser.get("/ended").json is None
    world.clock.now = START
    assert "idle" == browser.get("/ended").json
    assert [] == world.rows()


@pytest.mark.parametrize("jump", [-START, YEARS])
def test_ended_everywhere_while_the_clock_is_wrong(make, jump):
    """Whoever is thrown out then is out, also when the clock is right."""
    world = make(idle_timeout="1h")

    @world.on("end_all")
    def _(request):
        request.user_sessions.end_all("ann")
        return {}

    browser = world.browser()
    browser.get("/set?auth.userid=ann")
    world.clock.pass_(jump)
    world.browser().get("/end_all")
    world.clock.pass_(-jump)
    assert "revoked" == browser.get("/ended").json


def test_far_forward_a_load_deletes_nothing(make):
    """Fifty years ahead all are refused, and every row is still there."""
    world = make(idle_timeout="1h", touch_interval=1)
    tokens = [put(world) for _ in range(3)]
    before = world.rows()
    world.clock.pass_(YEARS)
    assert ["idle"] * 3 == [verdict(world, token) for token in tokens]
    for token in tokens:
        visitor(world, token).get("/ended")
    assert before == world.rows()
    world.clock.pass_(-YEARS)
    assert ["active"] * 3 == [verdict(world, token) for token in tokens]


def test_far_forward_self_cleaning_is_what_loses_sessions(make, make_host):
    """Lost is one batch for each cleaning meanwhile, the oldest first.

    And nothing that no limit ends.
    """
    limits = {
        "idle_timeout": "1h",
        "touch_interval": 1,
        "forever__idle_timeout": "none",
    }
    world = make(**limits)
    put(world, profile="forever", expires_at=None)
    tokens = [put(world, expires_at=START + n) for n in range(5)]
    cleaning = make_host(world, self_clean=1, self_clean_batch=2, **limits)
    world.clock.pass_(YEARS)
    cleaning.browser().get("/ended")
    world.clock.pass_(-YEARS)
    cleaning.browser().get("/ended")
    told = [key_of(token) in stored(world) for token in tokens]
    assert [False, False, True, True, True] == told
    assert 4 == len(world.rows())
    assert "active" == verdict(world, tokens[2])


@pytest.mark.parametrize(("jump", "is_lost"), [(YEARS, True), (-START, False)])
def test_who_comes_while_the_clock_is_wrong(make, jump, is_lost):
    """A browser keeps its token where the clock may be what is wrong.

    Times that lie years ahead tell it. A clock that is ahead itself cannot
    be told from a session that is old; who comes passively keeps that too.
    """
    world = make(idle_timeout="1h")
    came, polled = world.browser(), world.browser()
    for browser in (came, polled):
        browser.get("/set?a=1")
    world.clock.pass_(jump)
    answer = came.get("/ended")
    assert answer.json == "idle"
    assert is_lost is any("Max-Age=0" in each for each in cookie_of(answer))
    assert [] == cookie_of(polled.get("/ended", headers=PASSIVE))
    world.clock.pass_(-jump)
    assert is_lost is ("session" not in came.cookies)
    assert 2 == len(world.rows())
    assert polled.get("/ended").json is None
    assert "session" in polled.cookies


# -- an activity is not moved back by somebody slow -------------------------


def slow_view(world: World, act: Any) -> None:
    """Add ``/slow``: it has loaded its session, then ``act()``, then ``do``.

    ``do`` is a parameter: a key to set, or nothing.
    """

    @world.on("slow")
    def _(request):
        session = request.session
        session.get("a")
        act()
        if "do" in request.params:
            session[request.params["do"]] = 1
        return {}


@pytest.mark.parametrize("path", ["/slow", "/slow?do=b"])
@pytest.mark.parametrize("meanwhile", ["/ended", "/set?b=2"])
def test_a_slow_request_does_not_move_the_activity_back(
    make, database, mode, path, meanwhile
):
    """A request of ten minutes leaves what others have written meanwhile.

    Whether they touched or changed the session, and this one too.
    """
    world = make(database, mode, idle_timeout="1h", touch_interval=1)
    browser = world.browser()
    browser.get("/set?a=1")
    other = elsewhere(world, browser)

    def act():
        world.clock.pass_(10 * MINUTE)
        other.get(meanwhile)

    slow_view(world, act)
    world.clock.pass_(10)
    browser.get(path)
    (row,) = world.rows()
    assert START + 10 + 10 * MINUTE == row.updated_at


def test_a_session_that_waits_for_its_first_look(make):
    """A request that looks ten minutes late puts nothing right either."""
    world = make(idle_timeout="1h", touch_interval=1)
    browser = world.browser()
    browser.get("/set?a=1")
    other = elsewhere(world, browser)

    @world.on("late")
    def _(request):
        session = request.session
        world.clock.pass_(10 * MINUTE)
        other.get("/ended")
        world.clock.pass_(5)
        session["b"] = 1
        return {}

    browser.get("/late")
    (row,) = world.rows()
    assert START + 10 * MINUTE + 5 == row.updated_at


def test_a_passive_request_does_not_move_the_activity_back(
    make, database, mode
):
    """A poll that saves leaves the activity of a click meanwhile alone."""
    world = make(database, mode, idle_timeout="1h", touch_interval=1)
    browser = world.browser()
    browser.get("/set?a=1")
    click = elsewhere(world, browser)
    slow_view(world, lambda: click.get("/ended"))
    world.clock.pass_(50 * MINUTE)
    browser.get("/slow?do=b", headers=PASSIVE)
    (row,) = world.rows()
    assert START + 50 * MINUTE == row.updated_at
    world.clock.pass_(50 * MINUTE)
    assert browser.get("/ended").json is None


@pytest.mark.parametrize("path", ["/slow", "/slow?do=b"])
@pytest.mark.parametrize("own", [{}, PASSIVE])
@pytest.mark.parametrize(
    ("meanwhile", "passive"),
    [("/ended", {}), ("/set?c=1", {}), ("/set?c=1", PASSIVE)],
)
def test_two_at_once_put_it_right(make, path, own, meanwhile, passive):
    """What two requests have found ahead is right after both of them.

    A save puts it right also if its request is passive, a touch is none.
    """
    world = make(idle_timeout="1d", touch_interval=1)
    browser = world.browser()
    world.clock.pass_(6 * HOUR)
    browser.get("/set?a=1")
    world.clock.pass_(-6 * HOUR)
    other = elsewhere(world, browser)

    def act():
        other.get(meanwhile, headers=passive)
        world.clock.pass_(20)

    slow_view(world, act)
    browser.get(path, headers=own)
    (row,) = world.rows()
    assert START == row.updated_at


# -- two hosts --------------------------------------------------------------

APART = 120


class Ahead(Clock):
    """A clock that is two minutes ahead of another one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self) -> float:
        """Return the time there."""
        return self._clock() + APART


@pytest.fixture(name="hosts")
def _hosts(make, make_host, database, mode):
    """Two hosts on one table; the clock of the second is ahead."""
    limits = {"idle_timeout": 300, "touch_interval": 15}
    first = make(database, mode, **limits)
    return first, make_host(first, Ahead(first.clock), **limits)


def updates(*hosts: World) -> int:
    """Return how many rows these hosts have changed since last time."""
    return sum(host.count().count("UPDATE") for host in hosts)


def test_two_hosts_in_turn(hosts):
    """P5: two clocks apart neither refuse a visitor nor write by turns.

    Not more often than one host alone would.
    """
    first, second = hosts
    browser = first.browser()
    browser.get("/set?a=1")
    other = elsewhere(second, browser)
    updates(*hosts)
    refused = []
    for turn in range(60):
        first.clock.pass_(5)
        answer = (other if turn % 2 else browser).get("/ended")
        refused.append(answer.json)
    assert {None} == set(refused)
    assert 300 // 15 >= updates(*hosts) > 0


def test_two_hosts_save_in_turn(hosts):
    """Changes on both hosts are all kept, and the activity moves forward."""
    first, second = hosts
    browser = first.browser()
    browser.get("/set?a=1")
    other = elsewhere(second, browser)
    seen = []
    for turn in range(6):
        first.clock.pass_(30)
        (other if turn % 2 else browser).get(f"/set?t{turn}=1")
        seen.append(first.rows()[0].updated_at - START)
    assert [30, 180, 180, 240, 240, 300] == seen
    assert 7 == first.rows()[0].version


@pytest.mark.parametrize(
    ("used", "asked", "end"),
    [
        ("behind", "behind", 300),
        ("behind", "ahead", 300 - APART),
        ("ahead", "behind", 300 + APART),
        ("ahead", "ahead", 300),
    ],
)
def test_two_hosts_end_a_session_as_far_apart(
    make, make_host, used, asked, end
):
    """A session ends earlier or later by as much as the clocks differ."""
    limits = {"idle_timeout": 300, "touch_interval": 1}
    behind = make(**limits)
    ahead = make_host(behind, Ahead(behind.clock), **limits)
    hosts = {"behind": behind, "ahead": ahead}
    browser = hosts[used].browser()
    browser.get("/set?a=1")
    told = []
    for late in (-1, 0):
        behind.clock.now = START + end + late
        token = browser.cookies["session"]
        told.append((verdict(hosts[asked], token), count_dead(hosts[asked])))
    assert [("active", 0), ("idle", 1)] == told


def test_two_hosts_refuse_nobody_who_comes_in_time(make, make_host):
    """Whoever used either host less than idle - 120 s ago is accepted."""
    limits = {"idle_timeout": 300, "touch_interval": 15}
    behind = make(**limits)
    ahead = make_host(behind, Ahead(behind.clock), **limits)
    gaps = st.integers(0, 300 - APART - 1) | st.just(300 - APART - 1)
    turns = st.lists(st.tuples(st.booleans(), gaps), max_size=20)

    @settings(quick, max_examples=20)
    @given(turns)
    def check(turns):
        behind.clock.now = START
        browser = behind.browser()
        browser.get("/set?a=1")
        other = elsewhere(ahead, browser)
        for is_ahead, gap in turns:
            behind.clock.pass_(gap)
            answer = (other if is_ahead else browser).get("/ended")
            assert answer.json is None

    check()


# -- time zones -------------------------------------------------------------


class Night(NamedTuple):
    """A night in which the local time jumps at a moment."""

    zone: str
    moment: str


NIGHTS = (
    Night("Europe/Berlin", "2026-03-29T01:00:00+00:00"),
    Night("Europe/Berlin", "2026-10-25T01:00:00+00:00"),
    Night("America/St_Johns", "2026-11-01T04:30:00+00:00"),
    # A day that did not exist: from the 29th to the 31st of December.
    Night("Pacific/Apia", "2011-12-30T10:00:00+00:00"),
)


@pytest.fixture(name="local")
def _local(monkeypatch):
    """Return a function that takes the process to a time zone."""
    if not hasattr(time, "tzset"):
        pytest.skip("a process cannot change its time zone here")
    with monkeypatch.context() as patch:

        def go(zone: str) -> None:
            patch.setenv("TZ", zone)
            time.tzset()

        yield go
    time.tzset()


def offset(zone: str, now: float) -> str:
    """Return a zone's offset from UTC at a moment, as ``+01:00``."""
    moment = datetime.datetime.fromtimestamp(now, ZoneInfo(zone))
    text = moment.strftime("%z")
    return f"{text[:3]}:{text[3:5]}"


class Zones:
    """Takes every connection of a world to a zone when it is used.

    MariaDB without its tables of zones knows offsets alone: that of the
    moment, as a zone with daylight saving would have it.
    """

    def __init__(self, world: World) -> None:
        self.zone = "UTC"
        self.taken = 0
        self._world = world
        for engine in {world.engine, world.store.engine}:
            sa.event.listen(engine, "checkout", self._checked_out)

    def _checked_out(self, connection: Any, *arguments: Any) -> None:
        name = self._world.engine.dialect.name
        if name == "sqlite":
            return
        statement = f"SET TIME ZONE '{self.zone}'"
        if name != "postgresql":
            # +13:00 is the farthest that it knows.
            now = min(offset(self.zone, self._world.clock()), "+13:00")
            statement = f"SET time_zone = '{now}'"
        with connection.cursor() as cursor:
            cursor.execute(statement)
        # A SET is undone with its transaction on PostgreSQL.
        connection.commit()
        self.taken += 1


EVERY = range(-5400, 5401, 1800)


def walk(world: World, night: Night) -> list[Any]:
    """Walk through a night; return what happens, counted from its moment.

    One session is used all the time. Another one begins every half hour and
    is left alone: it lives for half an hour, and then it is trimmed.
    """
    begin = int(datetime.datetime.fromisoformat(night.moment).timestamp())
    world.execute(world.table.delete())
    world.clock.now = begin + EVERY[0] - 1000
    kept = world.browser()
    kept.get("/set?kept=1")
    told: list[Any] = []
    left = None
    for now in EVERY:
        world.clock.now = begin + now - 900
        kept.get("/ended")
        if left is not None:
            world.clock.now = begin + now - 1
            before = verdict(world, left), count_dead(world)
            world.clock.now = begin + now
            after = verdict(world, left), count_dead(world), trim(world)
            told.append((before, after))
        world.clock.now = begin + now
        ended = kept.get("/ended").json
        browser = world.browser()
        browser.get("/set?a=1")
        left = browser.cookies["session"]
        times = [
            (row.created_at - begin, row.updated_at - begin)
            for row in world.rows()
        ]
        told.append((ended, times))
    return told


def walked() -> list[Any]:
    """Return what every walk tells."""
    told: list[Any] = []
    for now in EVERY:
        if now > EVERY[0]:
            told.append((("active", 0), ("idle", 1, 1)))
        told.append((None, [(EVERY[0] - 1000, now), (now, now)]))
    return told


def test_nights_in_which_the_clocks_change(make, database, mode, local):
    """Whatever zone the process and the connections are in, all is as in UTC.

    Also in the hour that comes twice and on the day that never was.
    """
    world = make(database, mode, idle_timeout="30m", touch_interval=1)
    zones = Zones(world)
    for night in NIGHTS:
        local(night.zone)
        zones.zone = night.zone
        assert offset(night.zone, START) != "+00:00"
        assert walked() == walk(world, night), night
    assert (database == "sqlite") is (zones.taken == 0)


@pytest.mark.parametrize("border", [2**31, 2**32])
def test_the_borders_of_32_bits(make, database, border):
    """In 2038 and in 2106 a session goes on, and ends at its second."""
    world = make(
        database, idle_timeout=5, absolute_timeout=20, touch_interval=1
    )
    used, left = world.browser(), world.browser()
    world.clock.now = border - 3
    for browser in (used, left):
        browser.get("/set?a=1")
    told = []
    for world.clock.now in range(border - 2, border + 4):
        ended = left.get("/ended", headers=PASSIVE).json
        told.append((used.get("/ended").json, ended, count_dead(world)))
    alive, dead = (None, None, 0), (None, "idle", 1)
    assert [alive] * 4 + [dead] * 2 == told
    assert 1 == trim(world)
    (row,) = world.rows()
    assert (border - 3, border + 3) == (row.created_at, row.updated_at)


# -- the cookie -------------------------------------------------------------


def max_age(answer: Any) -> int | None:
    """Return the Max-Age of the cookie that is sent, None if none is."""
    for cookie in cookie_of(answer):
        for part in cookie.split("; "):
            if part.startswith("Max-Age="):
                return int(part.removeprefix("Max-Age="))
    return None


@pytest.mark.parametrize(
    ("jump", "back"),
    [(200, None), (6 * MINUTE, 2 * DAY + 1), (DAY, 2 * DAY + 1)],
)
def test_a_cookie_of_a_clock_that_jumps(make, jump, back):
    """With ``auto`` a jump sends it anew, for what remains by that clock.

    But for a difference that two hosts may have.
    """
    world = make(idle_timeout="2d", touch_interval=1, cookie_max_age="auto")
    browser = world.browser()
    ages = [max_age(browser.get("/set?a=1"))]
    for seconds in (jump, -jump, 0, 10):
        world.clock.pass_(seconds)
        ages.append(max_age(browser.get("/ended")))
    full = 2 * DAY + 1
    later = None if back is None else full
    assert [full, full, back, None, later] == ages


@pytest.mark.parametrize("idle", ["10h", "none"])
def test_a_cookie_that_was_sent_for_too_short(make, idle):
    """What a clock that was ahead took from the cookie is given back."""
    world = make(
        idle_timeout=idle,
        absolute_timeout="12h",
        touch_interval=1,
        cookie_max_age="auto",
    )

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(9 * HOUR)
    assert 3 * HOUR == max_age(browser.get("/rotate"))
    world.clock.pass_(-9 * HOUR)
    expected = 12 * HOUR if idle == "none" else 10 * HOUR + 1
    assert expected == max_age(browser.get("/ended"))
    assert max_age(browser.get("/ended")) is None
