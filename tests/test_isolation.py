"""The isolation levels of the application's engine, in both modes.

Two requests of one session overlap: the *slow* one uses the database in its
view, then a *fast* one comes and goes, and only then the slow one changes its
session. Some databases refuse a write on a picture that is so old: in joined
mode the slow request fails then, and pyramid_retry replays it.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from transaction.interfaces import TransientError

from pyramid_limitedsession import SessionBusyError
from tests.apps import MODES, Clock, World, cookie_of
from tests.levels import LEVELS, Level, add_views, overlap, overlap_locked
from tests.outcomes import Outcome
from tests.threads import in_threads, same_session

THREADS = 6
ROUNDS = 10


def title_of(value):
    """Return how a parameter is called in the names of tests."""
    return value.title if isinstance(value, Level) else value


# Of the module, so that all tests of one world run one after the other.
@pytest.fixture(scope="module", name="level", params=LEVELS, ids=title_of)
def _level(request):
    """A way to isolate the application's transactions."""
    return request.param


@pytest.fixture(scope="module", name="mode", params=MODES)
def _mode(request):
    """Where sessions are kept."""
    return request.param


@pytest.fixture(scope="module", name="worlds")
def _worlds(databases, run_name, tmp_path_factory):
    """Return worlds that are made once for all tests here."""
    made = {}

    def get(level, mode):
        if (level.title, mode) not in made:
            url = databases.url(level.database)
            if level.database == "sqlite":
                folder = tmp_path_factory.mktemp("isolation")
                url = _sqlite_url(folder, level)
            elif level.database == "mariadb":
                _require_snapshot_isolation(url)
            table = f"pls_{run_name}_i{len(made)}_sessions"
            made[level.title, mode] = _make_world(level, mode, url, table)
        # A server has not enough connections for all these worlds.
        for key, world in made.items():
            if key != (level.title, mode):
                world.engine.dispose()
                world.store.engine.dispose()
        return made[level.title, mode]

    yield get
    for world in made.values():
        world.close()


def _sqlite_url(folder, level):
    # A file of its own: WAL mode is a property of the file.
    path = folder / "test.sqlite"
    if level.is_wal:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    return f"sqlite:///{path}?timeout=30"


def _require_snapshot_isolation(url):
    engine = sa.create_engine(url)
    query = "SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"
    with engine.connect() as connection:
        known = connection.exec_driver_sql(query).first()
    engine.dispose()
    if known is None:
        pytest.skip("this server has no innodb_snapshot_isolation")


def _make_world(level, mode, url, table):
    pool = {"pool_size": THREADS, "max_overflow": THREADS}
    settings = {
        "limitedsession.lock_timeout": "30s",
        # Nothing is replayed unless the browser says so.
        "retry.activate_hook": lambda request: request.environ.get(
            "test.attempts", 1
        ),
    }
    if mode == "separate":
        for name, value in pool.items():
            settings[f"limitedsession.sqlalchemy.{name}"] = str(value)
    world = World(
        url,
        mode,
        clock=Clock(),
        table=table,
        settings=settings,
        engine={**level.engine, **pool},
        listen=level.listen,
        configure=lambda config: config.include("pyramid_retry"),
    )
    add_views(world, level)
    return world


@pytest.fixture(name="world")
def _world(worlds, level, mode):
    """The world of a level and a mode, without any rows."""
    world = worlds(level, mode)
    world.execute(world.table.delete())
    world.execute(sa.delete(world.Item))
    world.between = lambda: None
    yield world
    assert 0 == world.checked_out()


@pytest.fixture(name="is_refused")
def _is_refused(level, mode):
    """Whether the change of the slow request is refused."""
    return mode == "joined" and level.refuses and not level.locks


# -- one request after the other ---------------------------------------


def test_one_after_the_other(world):
    """Requests that do not overlap find what the ones before them left."""
    browser = world.browser()
    for what in ("start", "count", "flash1", "rotate", "mark"):
        browser.get(f"/slow?what={what}")
    expected = {"n": 2, "_f_": ["1"], "marked": True}
    assert expected == browser.get("/get").json
    world.clock.pass_(600)
    browser.get("/slow?what=look")
    assert [world.clock.now] == [row.updated_at for row in world.rows()]
    browser.get("/slow?what=clear")
    assert {} == browser.get("/get").json
    browser.get("/slow?what=out")
    assert [] == world.rows()


# -- two at once -------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Two doings, and what the session holds afterwards.

    :ivar first: if the slow one is refused.
    :ivar both: if the changes are merged.
    :ivar replayed: if the slow one is done again.
    """

    slow: str
    fast: str
    first: dict[str, Any]
    both: dict[str, Any]
    replayed: dict[str, Any]


def _case(slow, fast, *, first, both, replayed=None):
    return Case(
        slow, fast, first, both, both if replayed is None else replayed
    )


CASES = {
    "different keys": _case(
        "count",
        "mark",
        first={"n": 1, "marked": True},
        both={"n": 2, "marked": True},
    ),
    # The later value counts; only a replay has seen the other's.
    "the same key": _case(
        "count", "count", first={"n": 2}, both={"n": 2}, replayed={"n": 3}
    ),
    "flash messages": _case(
        "flash1",
        "flash2",
        first={"n": 1, "_f_": ["2"]},
        both={"n": 1, "_f_": ["2", "1"]},
    ),
    "clear after an added key": _case(
        "clear", "mark", first={"n": 1, "marked": True}, both={}
    ),
    "an added key after clear": _case(
        "mark", "clear", first={}, both={"marked": True}
    ),
    "a write and a touch": _case(
        "count", "look", first={"n": 1}, both={"n": 2}
    ),
}
with_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def only(mode, *levels):
    """Run a test in one mode, at some levels only."""

    def decorate(test):
        for name, values in ("mode", [mode]), ("level", levels):
            test = pytest.mark.parametrize(
                name, values, ids=title_of, indirect=True, scope="module"
            )(test)
        return test

    return decorate


only_refused = only(
    "joined", *(x for x in LEVELS if x.refuses and not x.locks)
)


@with_cases
def test_p2_nothing_is_silently_lost(world, case, is_refused):
    """P2: both changes are kept, or the slow request says it failed."""
    pair = overlap(world, case.slow, case.fast, after=600)
    assert is_refused == isinstance(pair.answer, SessionBusyError)
    expected = case.first if is_refused else case.both
    assert expected == pair.stale.get("/get").json


@only_refused
@with_cases
def test_p2_with_pyramid_retry_all_is_kept(world, case):
    """P2: with pyramid_retry both requests are answered and both kept."""
    pair = overlap(world, case.slow, case.fast, attempts=3, after=600)
    assert pair.is_answered
    assert case.replayed == pair.stale.get("/get").json


def test_p2_looked_at_late(world, is_refused):
    """P2: the same if the session is first looked at behind the fast one."""
    pair = overlap(world, "count", "mark", query="&look-late=1")
    assert is_refused == isinstance(pair.answer, SessionBusyError)
    n = 1 if is_refused else 2
    assert {"n": n, "marked": True} == pair.stale.get("/get").json


def test_a_touch_against_a_write(world):
    """A slow request that only reads disturbs no write, and is activity."""
    pair = overlap(world, "look", "count", after=600)
    assert pair.is_answered
    assert {"n": 2} == pair.stale.get("/get").json
    assert [world.clock.now] == [row.updated_at for row in world.rows()]


@pytest.mark.parametrize("end", ["rotate", "out"])
def test_p3_a_write_after_the_end(world, end, is_refused):
    """P3: a write behind a logout or a rotation is dropped or refused."""
    pair = overlap(world, "count", end)
    assert is_refused == isinstance(pair.answer, SessionBusyError)
    if not is_refused:
        assert [] == cookie_of(pair.answer)
    _assert_ended(world, pair, end)


@only_refused
@pytest.mark.parametrize("end", ["rotate", "out"])
def test_p3_a_replayed_write_after_the_end(world, end):
    """P3: nor does the replay bring it back, or send a cookie."""
    pair = overlap(world, "count", end, attempts=3)
    assert pair.is_answered
    assert [] == cookie_of(pair.answer)
    _assert_ended(world, pair, end)


def _assert_ended(world, pair, end):
    """The old token is dead; a rotated session is as it was."""
    assert {} == pair.stale.get("/get").json
    rotated = end == "rotate"
    assert ({"n": 1} if rotated else {}) == pair.quick.get("/get").json
    assert (1 if rotated else 0) == len(world.rows())


def test_a_rotation_behind_a_write(world, is_refused):
    """It has both changes; if it is refused, the old token stays valid."""
    pair = overlap(world, "rotate", "count")
    assert is_refused == isinstance(pair.answer, SessionBusyError)
    assert {"n": 2} == pair.late.get("/get").json
    assert ({"n": 2} if is_refused else {}) == pair.stale.get("/get").json
    assert 1 == len(world.rows())


@only_refused
def test_a_replayed_rotation_behind_a_write(world):
    """With pyramid_retry it has both changes, and the old token is dead."""
    pair = overlap(world, "rotate", "count", attempts=3)
    assert {"n": 2} == pair.late.get("/get").json
    assert {} == pair.stale.get("/get").json
    assert 1 == len(world.rows())


@pytest.mark.parametrize("fast", ["count", "out", "rotate"])
def test_p4_a_logout_is_done(world, fast, is_refused):
    """P4: a logout is durable, also in a request that is refused."""
    pair = overlap(world, "out", fast)
    assert is_refused == isinstance(pair.answer, SessionBusyError)
    assert [] == world.rows()


@only_refused
@pytest.mark.parametrize("fast", ["count", "out"])
def test_a_replayed_logout_deletes_its_cookie(world, fast):
    """With pyramid_retry a refused logout is done and its cookie deleted."""
    pair = overlap(world, "out", fast, attempts=3)
    assert "Max-Age=0" in cookie_of(pair.answer)[0]
    assert [] == world.rows()


def test_the_page_of_outcomes(world, level, mode, outcomes):
    """The page says what becomes of two changes at once."""
    way = overlap_locked if level.locks else overlap
    pair = way(world, "count", "mark")
    (row,) = world.rows()
    cookies = [text for answer in pair.answers for text in cookie_of(answer)]
    outcome = Outcome(
        "200, 200" if pair.is_answered else "200, error (retry)",
        _what_is_kept(json.loads(row.data)),
        "set" if cookies else "none",
        _what_is_kept(pair.stale.get("/get").json),
    )
    table = "Two requests at once, by isolation level"
    outcomes(table, level.title, mode, level.database, outcome)


def _what_is_kept(content):
    return {
        (2, True): "both changes",
        (1, True): "the first change",
        (2, False): "the second change",
    }[content["n"], "marked" in content]


# -- many at once ------------------------------------------------------


@dataclass
class Race:
    """What came of a race.

    :ivar errors: what the requests without an answer raised.
    :ivar kept: how many of the changes are in the session.
    :ivar inserted: how many of the application's rows there are.
    """

    errors: list[BaseException]
    kept: int
    inserted: int


def race(world, *, attempts=1, meet=False) -> Race:
    """Let threads count on keys of their own, and insert rows of the app's.

    Args:
        world: where.
        attempts: how often a request is tried.
        meet: each thread's first request waits for those of the others.
    """
    first = world.browser()
    first.get("/do?what=mark")
    browsers = same_session(
        world, first, THREADS, **{"test.attempts": attempts}
    )
    barrier = threading.Barrier(THREADS)
    world.between = lambda: barrier.wait(timeout=30)
    errors = []

    def work(n):
        for i in range(ROUNDS):
            query = "&meet=1" if meet and i == 0 else ""
            try:
                browsers[n].get(f"/race?key=k{n}&item={n}.{i}{query}")
            except TransientError as error:
                errors.append(error)

    in_threads(work, THREADS)
    content = first.get("/get").json
    kept = sum(content.get(f"k{n}", 0) for n in range(THREADS))
    return Race(errors, kept, len(world.items()))


@only("joined", *LEVELS)
def test_p2_a_race_with_pyramid_retry(world, level):
    """P2: joined, with enough attempts, every request is answered and kept."""
    all_ = THREADS * ROUNDS
    inserted = all_ if level.takes_inserts else 0
    assert Race([], all_, inserted) == race(world, attempts=200)


@only("separate", *LEVELS)
def test_p2_a_race_without_pyramid_retry(world, level):
    """P2: separate, every request is answered at once and kept."""
    all_ = THREADS * ROUNDS
    inserted = all_ if level.takes_inserts else 0
    assert Race([], all_, inserted) == race(world)


@only("joined", *(level for level in LEVELS if level.refuses))
def test_refused_requests_leave_no_trace(world, level):
    """Joined: what is refused says "try again", and nothing of it is kept."""
    result = race(world, meet=True)
    assert [] != result.errors
    assert THREADS * ROUNDS == len(result.errors) + result.kept
    assert (result.kept if level.takes_inserts else 0) == result.inserted
