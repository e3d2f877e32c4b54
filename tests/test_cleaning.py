"""The self-cleaning: expired rows vanish, and nobody notices."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa
import transaction
import zope.sqlalchemy
from pyramid.httpexceptions import HTTPNotFound

from pyramid_limitedsession.cleaning import Cleaner
from pyramid_limitedsession.reserving import reserved
from pyramid_limitedsession.sqlupkeep import Upkeep
from tests.apps import START, older_than

SHORT = {
    "limitedsession.self_clean": "1",
    "limitedsession.self_clean_batch": "3",
    "limitedsession.idle_timeout": "1h",
    "limitedsession.touch_interval": "1s",
}
HOUR = 3600
DEAD = START - HOUR


@pytest.fixture(name="make")
def _make(make_world, database, mode):
    """Return a function that makes a world which cleans at every request."""

    def make(table: str | None = None, **options: Any) -> Any:
        settings = {
            f"limitedsession.{name}": text for name, text in options.items()
        }
        given = {} if table is None else {"table": table}
        return views(
            make_world(database, mode, settings=SHORT | settings, **given)
        )

    return make


@pytest.fixture(name="world")
def _world(make):
    """A world that deletes three rows at most at every request."""
    return make()


def views(world: Any) -> Any:
    """Give a world the views of these tests."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("ended")
    def _(request):
        return request.session.ended

    @world.on("untouched")
    def _(request):
        return {}

    return world


def put(world: Any, count: int, **columns: Any) -> list[int]:
    """Store rows that have just expired; return their ids."""
    known = len(world.rows())
    row = {
        "data": "{}",
        "version": 1,
        "created_at": DEAD,
        "updated_at": DEAD,
        "expires_at": START,
        **columns,
    }
    keys = [f"2::{number:064x}" for number in range(known, known + count)]
    world.execute(
        world.table.insert(), [{**row, "session_id": key} for key in keys]
    )
    return [row.id for row in world.rows() if str(row.session_id) in keys]


def ids(world: Any) -> list[int]:
    """Return the ids of the rows that are there."""
    return [row.id for row in world.rows()]


def on_deletion(world: Any, act: Any) -> list[str]:
    """Do something before the first DELETE on the store's connections.

    Returns:
        The deletions that the store has tried; more are appended.
    """
    tried: list[str] = []

    def before(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            tried.append(statement)
            if len(tried) == 1:
                act(connection)

    sa.event.listen(world.store.engine, "before_cursor_execute", before)
    return tried


# -- when, and how much ----------------------------------------------------


def test_expired_rows_vanish(world):
    """A request that uses its session deletes what has expired."""
    put(world, 2)
    world.browser().get("/get")
    assert [] == ids(world)


def test_it_deletes_at_the_very_second(world):
    """A row goes at the second of its deadline, not a second earlier."""
    put(world, 1)
    (later,) = put(world, 1, updated_at=DEAD + 1)
    world.browser().get("/get")
    assert [later] == ids(world)


def test_live_rows_stay(world):
    """Rows in use, rows that never expire and the visitor's own row stay."""
    browser = world.browser()
    browser.get("/set?a=1")
    (own,) = ids(world)
    live = put(world, 2, updated_at=START, expires_at=START + HOUR)
    live += put(world, 2, updated_at=START, expires_at=None)
    put(world, 3)
    world.clock.pass_(1)
    put(world, 3)
    browser.get("/get")
    world.clock.pass_(1)
    browser.get("/get")
    assert [own, *live] == ids(world)
    assert {"a": "1"} == browser.get("/get").json


def test_a_batch_is_the_most(world):
    """One cleaning deletes at most self_clean_batch rows."""
    put(world, 8)
    left = []
    for _ in range(4):
        world.browser().get("/get")
        left.append(len(ids(world)))
        world.clock.pass_(1)
    assert [5, 2, 0, 0] == left


def test_the_longest_expired_go_first(world):
    """What may be deleted longest is deleted first."""
    (last,) = put(world, 1, expires_at=START)
    put(world, 3, expires_at=START - 5)
    world.browser().get("/get")
    assert [last] == ids(world)


def test_every_so_many_requests(make):
    """With self_clean = 5, five requests make a batch, whatever the first."""
    world = make(self_clean="5")
    put(world, 9)
    browser = world.browser()
    left = [9]
    for _ in range(15):
        browser.get("/get")
        left.append(len(ids(world)))
    assert [9, 6, 3, 0] == sorted(set(left), reverse=True)
    first, second, third = [
        number for number in range(1, 16) if left[number] < left[number - 1]
    ]
    assert first <= 5
    assert (first + 5, first + 10) == (second, third)


def test_processes_begin_apart(make):
    """What a process has counted when it begins is drawn by lot.

    One that serves few requests and ends would never clean otherwise.
    """
    world = make(self_clean="3")
    cleaned = []
    for _ in range(60):
        put(world, 1)
        Cleaner(world.factory).count(world.store)
        cleaned.append(ids(world) == [])
        world.execute(world.table.delete())
    assert {True, False} == set(cleaned)


def test_what_is_skipped_stays_owed(world, caplog):
    """A batch that was skipped is made up for, in the next second."""
    put(world, 8)
    store = Skipping(world.store, times=3)
    cleaner = Cleaner(world.factory)
    for _ in range(3):
        cleaner.count(store)
        cleaner.count(store)
        world.clock.pass_(1)
    assert (3, 8) == (store.asked, len(ids(world)))
    for _ in range(3):
        cleaner.count(world.store)
    assert [] == ids(world)
    assert [] == caplog.records


def test_what_failed_stays_owed(forbidden, database, caplog):
    """A batch that failed is made up for, once the database lets it."""
    put(forbidden, 8)
    cleaner = Cleaner(forbidden.factory)
    for _ in range(2):
        cleaner.count(forbidden.store)
        forbidden.clock.pass_(1)
    assert 2 == len(caplog.records)
    of = f" ON {forbidden.table.name}" if database == "postgresql" else ""
    name = f"{forbidden.table.name}_forbid"
    forbidden.execute(sa.text(f"DROP TRIGGER {name}{of}"))
    for _ in range(3):
        cleaner.count(forbidden.store)
    assert [] == ids(forbidden)


def test_an_interrupted_cleaning_is_not_the_last(world):
    """What is no error, as a green thread's timeout, ends it for once only."""
    put(world, 2)
    cleaner = Cleaner(world.factory)
    with pytest.raises(KeyboardInterrupt):
        cleaner.count(Interrupted())
    world.clock.pass_(1)
    cleaner.count(world.store)
    assert [] == ids(world)


class Interrupted:
    """A store whose cleaning is interrupted before it begins."""

    def clean(self, **options: Any) -> int | None:
        """Clean nothing."""
        raise KeyboardInterrupt


def test_sessions_of_response_callbacks_count(world):
    """Also who is the first to use the session after the view makes rows."""

    @world.on("late")
    def _(request):
        request.add_response_callback(
            lambda request, response: request.session.update(a=1)
        )
        return {}

    put(world, 3)
    world.browser().get("/late")
    assert 1 == len(ids(world))


class Skipping:
    """A real store, of which somebody else has the lock for some times."""

    def __init__(self, store: Any, *, times: int) -> None:
        self.asked = 0
        self._store = store
        self._times = times

    def clean(self, **options: Any) -> int | None:
        """Clean as the store does while somebody else is at it."""
        self.asked += 1
        assert self.asked <= self._times
        engine, table = self._store.engine, self._store.table.fullname
        if engine.dialect.name == "sqlite":
            with engine.connect() as writer:
                writer.exec_driver_sql("BEGIN IMMEDIATE")
                deleted = self._store.clean(**options)
                writer.exec_driver_sql("ROLLBACK")
            return deleted
        with reserved(engine, table, patience=1):
            return self._store.clean(**options)


def test_not_without_a_session(world):
    """A request that does not use its session deletes nothing."""
    put(world, 2)
    world.statements.clear()
    world.browser().get("/untouched")
    assert [] == world.statements
    assert 2 == len(ids(world))


def test_self_clean_0_is_never(make):
    """With self_clean = 0 nothing is ever deleted."""
    world = make(self_clean="0")
    put(world, 2)
    browser = world.browser()
    for _ in range(20):
        browser.get("/get")
        world.clock.pass_(1)
    assert 2 == len(ids(world))


def test_a_visitor_whose_session_has_expired(world):
    """The row of an expired visit goes in the very request it is refused."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(2 * HOUR)
    assert "idle" == browser.get("/ended").json
    assert [] == ids(world)


@pytest.mark.parametrize("mode", ["separate"])
def test_dead_rows_stay_bounded(make, clock):
    """Whatever the traffic, cleaning keeps up with it.

    Three processes on one table; bursts, lulls, and visitors that never come
    back. At no time do more rows wait to be deleted than had not been due at
    the busiest time, and what each process has still to count.
    """
    chance = random.Random(20270115)  # noqa: S311 - no secret
    settings = {"self_clean": "10", "self_clean_batch": "10"}
    limits = {"idle_timeout": "40s", "touch_interval": "1s"}
    first = make(**settings, **limits)
    name = first.table.name
    others = [make(name, **settings, **limits) for _ in range(2)]
    browsers = [world.browser() for world in (first, *others)]
    busiest = waited = 0
    for _ in range(40):
        for _ in range(chance.choice((0, 0, 1, 2, 25))):
            browser = chance.choice(browsers)
            browser.reset()
            browser.get("/set?a=1")
            due, not_due = count_due(first)
            busiest, waited = max(busiest, not_due), max(waited, due)
            assert due <= busiest + 3 * 10
        clock.pass_(chance.choice((1, 5, 30)))
    assert 20 < waited


def count_due(world: Any) -> tuple[int, int]:
    """Return how many rows cleaning may take now, and how many not."""
    with world.engine.connect() as connection:
        times = connection.execute(sa.select(world.table.c.expires_at))
        due = [time <= world.clock.now for (time,) in times]
    return due.count(True), due.count(False)


@pytest.mark.parametrize("mode", ["separate"])
def test_smaller_batches_would_not_do(make, clock):
    """A batch smaller than self_clean does not keep up: the rows pile up."""
    world = make(
        self_clean="10",
        self_clean_batch="5",
        idle_timeout="4s",
        touch_interval="1s",
    )
    for _ in range(70):
        world.browser().get("/set?a=1")
        clock.pass_(1)
    assert 20 < count_due(world)[0]


# -- failures ---------------------------------------------------------------

FORBID = {
    "sqlite": [
        "CREATE TRIGGER {0}_forbid BEFORE DELETE ON {0} "
        "BEGIN SELECT RAISE(ABORT, 'not today'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION {0}_forbid() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RAISE EXCEPTION ''not today''; END'",
        "CREATE TRIGGER {0}_forbid BEFORE DELETE ON {0} "
        "FOR EACH ROW EXECUTE FUNCTION {0}_forbid()",
    ],
    "mariadb": [
        "CREATE TRIGGER {0}_forbid BEFORE DELETE ON {0} FOR EACH ROW "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not today'"
    ],
}


@pytest.fixture(name="forbidden")
def _forbidden(world, database):
    """A world whose database refuses to delete sessions."""
    for statement in FORBID[database]:
        world.execute(sa.text(statement.format(world.table.name)))
    yield world
    if database == "postgresql":
        name = f"{world.table.name}_forbid"
        world.execute(sa.text(f"DROP FUNCTION {name}() CASCADE"))


def test_a_failure_is_a_warning(forbidden, caplog):
    """P8: if cleaning fails the visitor's answer is what it would be."""
    put(forbidden, 2)
    browser = forbidden.browser()
    response = browser.get("/set?a=1")
    assert ({}, 200) == (response.json, response.status_int)
    assert {"a": "1"} == browser.get("/get").json
    (record,) = caplog.records
    assert "WARNING" == record.levelname
    assert "expired sessions were not deleted" == record.message
    assert 0 == forbidden.checked_out()


def test_a_failure_shows_no_secret(forbidden, caplog):
    """P6: the warning of a failed cleaning shows neither key nor content."""
    put(forbidden, 2, data='{"canary": 1}')
    forbidden.browser().get("/get")
    assert "DELETE FROM" in caplog.text
    assert "canary" not in caplog.text
    assert "2::" not in caplog.text


def test_cleaning_works_again_after_a_failure(forbidden, database):
    """Once the database lets it, the next cleaning deletes the rows."""
    put(forbidden, 2)
    browser = forbidden.browser()
    browser.get("/get")
    name = f"{forbidden.table.name}_forbid"
    of = f" ON {forbidden.table.name}" if database == "postgresql" else ""
    forbidden.execute(sa.text(f"DROP TRIGGER {name}{of}"))
    forbidden.clock.pass_(1)
    browser.get("/get")
    assert [] == ids(forbidden)


SHORT_WAITS = {
    "postgresql": "SET lock_timeout = '100ms'",
    "mariadb": "SET SESSION innodb_lock_wait_timeout = 1",
}


@pytest.mark.parametrize("database", sorted(SHORT_WAITS))
def test_locked_rows_are_left_alone(world, database, caplog):
    """P8: rows that somebody holds locked stay, the answer is unchanged."""

    def connected(connection, record):
        cursor = connection.cursor()
        cursor.execute(SHORT_WAITS[database])
        cursor.close()

    world.store.engine.dispose()
    sa.event.listen(world.store.engine, "connect", connected)
    dead = put(world, 2)
    with world.engine.begin() as connection:
        connection.execute(sa.select(world.table).with_for_update())
        assert {} == world.browser().get("/get").json
    assert [] == caplog.records
    assert dead == ids(world)
    world.clock.pass_(1)
    world.browser().get("/get")
    assert [] == ids(world)


@pytest.mark.parametrize("mode", ["separate"])
def test_a_missing_table_is_not_hidden(world):
    """A database without the table: the request itself says so, not a log."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.table.drop(world.engine)
    with pytest.raises(Exception, match="pls-init"):
        browser.get("/get")


# -- alone ------------------------------------------------------------------


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_one_cleaner_at_a_time(world):
    """While one cleans, another process deletes nothing and does not wait."""
    dead = put(world, 5)
    counts = []

    def second_cleaner(connection):
        counts.append(world.store.clean(cutoffs=older_than(DEAD), most=10))
        assert dead == ids(world)

    tried = on_deletion(world, second_cleaner)
    world.browser().get("/get")
    assert [None] == counts
    assert 1 == len(tried)
    assert dead[3:] == ids(world)


def test_the_cleaner_is_let_go(world):
    """After a cleaning the next one, on any connection, is free to clean."""
    put(world, 1)
    world.browser().get("/get")
    put(world, 1)
    values = {"cutoffs": older_than(DEAD), "most": 10}
    # Who holds the connection that cleaned leaves another one to the next.
    with world.store.engine.connect():
        assert 1 == world.store.clean(**values)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_other_tables_are_cleaned_meanwhile(world, make):
    """Who cleans one table does not keep another's cleaner away."""
    other = make()
    put(world, 1)
    put(other, 1)
    on_deletion(world, lambda connection: other.browser().get("/get"))
    world.browser().get("/get")
    assert ([], []) == (ids(world), ids(other))


def test_one_thread_at_a_time(world):
    """While one request cleans, another one of the process does not."""
    put(world, 5)

    def second_request(connection):
        world.clock.pass_(5)
        assert {} == world.browser().get("/get").json

    tried = on_deletion(world, second_request)
    world.browser().get("/get")
    assert 1 == len(tried)
    assert 2 == len(ids(world))


def busy_timeout(connection: Any) -> int:
    """Return how long a SQLite connection waits for a lock."""
    return int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar())


@pytest.mark.parametrize("database", ["sqlite"])
def test_a_busy_sqlite_is_left_alone_at_once(world, caplog):
    """While somebody writes, nothing is deleted, and nobody waits for it."""
    dead = put(world, 2)
    waits = []
    tried = on_deletion(
        world, lambda connection: waits.append(busy_timeout(connection))
    )
    with world.engine.connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        assert {} == world.browser().get("/get").json
        writer.rollback()
    assert ([0], 1) == (waits, len(tried))
    assert [] == caplog.records
    assert dead == ids(world)
    world.clock.pass_(1)
    world.browser().get("/get")
    assert [] == ids(world)


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("busy", [False, True])
def test_sqlite_waits_afterwards_as_before(world, busy):
    """Cleaned or busy: the connection's busy_timeout is what it was."""
    put(world, 1)
    with world.store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1234")
    # The pool has one connection: all of this happens on it.
    waits = []
    on_deletion(
        world, lambda connection: waits.append(busy_timeout(connection))
    )
    with world.engine.connect() as writer:
        if busy:
            writer.exec_driver_sql("BEGIN IMMEDIATE")
        world.browser().get("/get")
        writer.rollback()
    assert [0] == waits
    with world.store.engine.connect() as connection:
        assert 1234 == busy_timeout(connection)


# -- beside the request -----------------------------------------------------


@pytest.mark.parametrize("outcome", ["commit", "abort", "doom"])
def test_it_runs_on_a_connection_of_its_own(world, outcome):
    """P8: it deletes after the outcome, never in the app's transaction."""
    put(world, 2)
    kept = ["x"] if outcome == "commit" else []
    seen = []

    @world.on("work")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.dbsession.flush()
        request.session.get("a")
        if outcome == "abort":
            raise HTTPNotFound
        if outcome == "doom":
            request.tm.doom()
        return {}

    def app_ran(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            seen.append("the app's engine")

    sa.event.listen(world.engine, "before_cursor_execute", app_ran)
    on_deletion(world, lambda connection: seen.append(world.items()))
    world.browser().get("/work", status="*")
    assert [kept] == seen
    assert kept == world.items()
    assert [] == ids(world)
    assert 0 == world.checked_out()


@pytest.mark.parametrize("mode", ["joined"])
def test_not_inside_a_transaction_of_somebody_else(world):
    """Where a test manages the app's transaction nothing is cleaned away."""
    dead = put(world, 2)
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    dbsession = world.session_factory()
    zope.sqlalchemy.register(dbsession, transaction_manager=tm)
    environ = {"tm.active": True, "tm.manager": tm}
    browser = world.browser(**environ, **{"app.dbsession": dbsession})
    browser.get("/set?a=1")
    assert {"a": "1"} == browser.get("/get").json
    tm.abort()
    assert dead == ids(world)


# -- the settings now in force ----------------------------------------------


def test_rows_that_live_longer_now_survive(make):
    """After idle_timeout was raised, rows whose old deadline passed stay.

    They do not keep the cleaner from the dead rows behind them.
    """
    world = make(idle_timeout="2h", self_clean_batch="2")
    alive = put(world, 5, expires_at=START - HOUR)
    put(world, 3, updated_at=DEAD - HOUR)
    for _ in range(2):
        world.browser().get("/get")
        world.clock.pass_(1)
    assert alive == ids(world)


def test_rows_that_live_shorter_now_are_refused(world):
    """After idle_timeout was lowered, a row is dead before its deadline."""
    browser = world.browser()
    browser.get("/set?a=1")
    row = world.table.update()
    world.execute(row.values(expires_at=START + 9 * HOUR))
    world.clock.pass_(HOUR)
    assert "idle" == browser.get("/ended").json
    assert {} == browser.get("/get").json


def test_rows_that_live_shorter_now_are_trimmed(world):
    """What is dead before its old deadline is left to trim, which takes it."""
    dead = put(world, 2, expires_at=START + 9 * HOUR)
    (alive,) = put(world, 1, updated_at=DEAD + 1, expires_at=START + HOUR)
    world.browser().get("/get")
    assert [*dead, alive] == ids(world)
    cutoffs = world.factory.settings.policy.profiles.cutoffs(START)
    upkeep = Upkeep(world.store)
    assert {"idle": 2} == upkeep.count_dead(cutoffs)
    way, which = upkeep.shortest_way(), upkeep.dead(cutoffs)
    batch = upkeep.delete(
        way, which, after=way.start, most=10, clock=lambda: 0.0
    )
    assert 2 == batch.deleted
    assert [alive] == ids(world)


def test_absolute_limit_in_force(make):
    """Rows past the absolute limit go too, however fresh their activity."""
    world = make(absolute_timeout="1d")
    put(world, 1, created_at=START - 86400, updated_at=START)
    (alive,) = put(world, 1, created_at=START - 86399, updated_at=START)
    world.browser().get("/get")
    assert [alive] == ids(world)


def test_what_is_touched_meanwhile_survives(world):
    """P8: a row touched between the SELECT and the DELETE survives."""
    (touched, _) = put(world, 2)
    row = world.table.update().where(world.table.c.id == touched)
    on_deletion(
        world, lambda connection: world.execute(row.values(updated_at=START))
    )
    world.browser().get("/get")
    assert [touched] == ids(world)
