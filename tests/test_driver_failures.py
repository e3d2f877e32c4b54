"""Connections that are killed and statements that time out, on each driver.

A statement before COMMIT that meets a lost connection can be done again. A
COMMIT cannot: it may have been done. A time limit of the server's on
statements is nobody's to try again: it is raised as it is.
"""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa
from pyramid_retry import IRetryableError
from sqlalchemy.exc import DBAPIError, OperationalError
from transaction.interfaces import TransientError

from pyramid_limitedsession import SessionConnectionError
from pyramid_limitedsession.dberrors import is_busy, is_lost, translated
from tests.apps import cookie_of
from tests.test_broken_database import Killer

POSTGRESQL = ("postgresql", "psycopg2")
MARIADB = ("mariadb", "mysqlclient")
# What the drivers say of a connection that was killed. psycopg2 has no code
# for it: it found the connection closed.
LOST = {
    "postgresql": {"57P01"},
    "psycopg2": {"57P01", "unknown"},
    "mariadb": {"2006", "2013", "1927"},
    "mysqlclient": {"2006", "2013", "1927"},
}
SECONDS = 10


@pytest.fixture(name="driver", params=(*POSTGRESQL, *MARIADB))
def _driver(request):
    return request.param


@pytest.fixture(name="world")
def _world(make_world, driver, mode):
    """A world with pyramid_retry, that notes its attempts at "/set"."""
    return _with_retry(make_world, driver, mode, {})


def _with_retry(make_world, driver, mode, settings):
    world = make_world(
        driver,
        mode,
        settings=settings,
        configure=lambda config: config.include("pyramid_retry"),
    )
    world.attempts = []

    @world.on("set")
    def _(request):
        world.attempts.append(request.environ["retry.attempt"])
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    return world


@pytest.fixture(name="browser")
def _browser(world):
    """A browser that has a session."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.attempts.clear()
    return browser


# -- what a killed connection says -------------------------------------


def _assert_lost(error, driver):
    """The error is of a lost connection, and says so to pyramid_retry."""
    assert is_lost(error)
    assert not is_busy(error)
    with pytest.raises(SessionConnectionError) as info, translated("t"):
        raise error
    assert isinstance(info.value, TransientError)
    assert isinstance(info.value, OperationalError)
    assert info.value.orig.code in LOST[driver]


def test_a_connection_killed_while_idle_is_lost(make_world, driver):
    """What the next statement on it raises is a SessionConnectionError."""
    world = make_world(driver)
    killer = Killer(world.engine)
    with world.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        killer.kill()
        with pytest.raises(DBAPIError) as info:
            connection.execute(sa.text("SELECT 1"))
        connection.invalidate()
    _assert_lost(info.value, driver)


def test_a_connection_killed_while_it_waits_is_lost(make_world, driver):
    """What a statement that waits for a lock raises is one as well."""
    world = make_world(driver)
    world.execute(world.Item.__table__.insert(), {"id": 1, "name": "one"})
    locking = sa.select(world.Item.__table__).with_for_update()
    engine = sa.create_engine(world.url)
    killer = Killer(engine)
    errors = []

    def wait():
        with engine.connect() as connection:
            try:
                connection.execute(locking)
            except DBAPIError as error:
                errors.append(error)
                connection.invalidate()

    with world.engine.begin() as holder:
        holder.execute(locking)
        thread = threading.Thread(target=wait)
        thread.start()
        _until_somebody_waits(world, driver)
        killer.kill()
        thread.join(SECONDS)
    engine.dispose()
    (error,) = errors
    _assert_lost(error, driver)


def _until_somebody_waits(world, driver):
    """Wait until a statement on the application's table waits for a lock."""
    if driver in POSTGRESQL:
        text = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND query LIKE :query"
        )
    else:
        text = (
            "SELECT count(*) FROM information_schema.processlist "
            "WHERE id <> connection_id() AND info LIKE :query"
        )
    values = {"query": f"%{world.item_table}%"}
    limit = time.monotonic() + SECONDS
    with world.engine.connect() as connection:
        while not connection.execute(sa.text(text), values).scalar():
            connection.rollback()
            assert time.monotonic() < limit


# -- what becomes of the request ---------------------------------------


def _writing_engine(world):
    return world.engine if world.mode == "joined" else world.store.engine


def _before(engine, verb, act):
    """Do something before the first statement of a kind, or the COMMIT."""
    done = []

    def before(*arguments):
        statement = arguments[2] if len(arguments) > 1 else "COMMIT"
        if statement.startswith(verb) and not done:
            done.append(statement)
            act()

    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "commit", before)
    return done


def test_a_lost_statement_is_replayed(world, browser):
    """Lost before the UPDATE: the second attempt has another connection."""
    engine = _writing_engine(world)
    killed = _before(engine, "UPDATE", Killer(engine).kill)
    assert 200 == browser.get("/set?a=2").status_int
    assert 1 == len(killed)
    assert [0, 1] == world.attempts
    assert {"a": "2"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_a_lost_commit_is_not_replayed(world, browser):
    """Lost before the COMMIT: nobody knows, so nothing is done again."""
    engine = _writing_engine(world)
    killed = _before(engine, "COMMIT", Killer(engine).kill)
    with pytest.raises(Exception) as info:  # noqa: PT011 - any of them
        browser.get("/set?a=2")
    assert 1 == len(killed)
    assert [0] == world.attempts
    assert not isinstance(info.value, TransientError)
    assert not IRetryableError.providedBy(info.value)
    assert 0 == world.checked_out()


def test_a_lost_commit_of_our_own_is_not_replayed(make_world, driver, mode):
    """Without a transaction of the application's: the same."""
    settings = {"tm.activate_hook": lambda request: False}
    world = _with_retry(make_world, driver, mode, settings)
    browser = world.browser()
    browser.get("/set?a=1")
    world.attempts.clear()
    engine = world.store.engine
    killed = _before(engine, "COMMIT", Killer(engine).kill)
    with pytest.raises(Exception) as info:  # noqa: PT011 - any of them
        browser.get("/set?a=2")
    assert 1 == len(killed)
    assert [0] == world.attempts
    assert not isinstance(info.value, TransientError)
    assert not IRetryableError.providedBy(info.value)


# -- time limits on statements -----------------------------------------

LIMITS = {
    "postgresql": "SET statement_timeout = '100ms'",
    "psycopg2": "SET statement_timeout = '100ms'",
    "mariadb": "SET SESSION max_statement_time = 0.1",
    "mysqlclient": "SET SESSION max_statement_time = 0.1",
}
CODES = {
    "postgresql": "57014",
    "psycopg2": "57014",
    "mariadb": "1969",
    "mysqlclient": "1969",
}


@pytest.fixture(name="limited")
def _limited(world, browser, driver):
    """A world on whose connections no statement runs for long."""

    def connected(connection, record):
        cursor = connection.cursor()
        cursor.execute(LIMITS[driver])
        cursor.close()
        connection.commit()

    for engine in {world.engine, world.store.engine}:
        sa.event.listen(engine, "connect", connected)
        engine.dispose()
    return world


@pytest.fixture(name="holder")
def _holder(limited):
    """A connection of somebody who has no such limit."""
    engine = sa.create_engine(limited.url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def _lock_the_row(holder, world):
    holder.execute(sa.select(world.table).with_for_update())


def _lock_the_table(holder, world, driver):
    if driver in POSTGRESQL:
        holder.exec_driver_sql(f"LOCK TABLE {world.table.name}")
    else:
        holder.exec_driver_sql(f"LOCK TABLES {world.table.name} WRITE")


def _assert_timed_out(browser, path, driver):
    """The request raises the driver's own kind of error, with its code."""
    with pytest.raises(OperationalError) as info:
        browser.get(path)
    assert CODES[driver] == info.value.orig.code
    assert not isinstance(info.value, TransientError)


def test_a_time_limit_at_load(limited, browser, holder, driver):
    """A load that takes too long raises: no empty session, no replay."""
    _lock_the_table(holder, limited, driver)
    _assert_timed_out(browser, "/set?a=2", driver)
    holder.invalidate()
    assert [0] == limited.attempts
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == limited.checked_out()


def test_a_time_limit_at_save(limited, browser, holder, driver):
    """A save that takes too long raises; the row is as it was."""
    _lock_the_row(holder, limited)
    _assert_timed_out(browser, "/set?a=2", driver)
    holder.rollback()
    assert [0] == limited.attempts
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == limited.checked_out()


def test_a_time_limit_at_logout(limited, browser, holder, driver):
    """A logout that takes too long raises: nobody is told he is out."""
    _lock_the_row(holder, limited)
    _assert_timed_out(browser, "/out", driver)
    holder.rollback()
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == limited.checked_out()


def test_a_time_limit_at_touch(limited, browser, holder, driver, caplog):
    """Activity that takes too long to write is a log line, with the code."""
    limited.clock.pass_(100)
    _lock_the_row(holder, limited)
    response = browser.get("/get")
    holder.rollback()
    assert {"a": "1"} == response.json
    assert [] == cookie_of(response)
    (record,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "a session's activity was not written" == record.getMessage()
    assert CODES[driver] in caplog.text
    assert 0 == limited.checked_out()
