"""Nothing hangs: whatever a request waits for, a setting says how long.

Somebody else holds a lock, and never lets go.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pyramid_limitedsession import SessionBusyError, SessionError
from tests.faults import add_views, locked, warnings_in

SETTINGS = {
    "limitedsession.lock_timeout": "1s",
    "limitedsession.sqlalchemy.pool_timeout": "1",
    "limitedsession.sqlalchemy.pool_size": "1",
    "limitedsession.sqlalchemy.max_overflow": "0",
}
# What a migration may do.
TABLE_LOCKS = {
    "sqlite": "BEGIN EXCLUSIVE",
    "postgresql": "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
    "mariadb": "LOCK TABLES {} WRITE",
}
# A single read has no lock_timeout of ours there, see the documentation.
QUERIES = {"postgresql": {"options": "-c lock_timeout=1s"}}


@pytest.fixture(name="make")
def _make(make_world, database):
    """Return a function that makes a world and a browser with a session."""

    def make(mode, query=None):
        settings = dict(SETTINGS)
        if mode == "joined":
            settings = {"limitedsession.lock_timeout": "1s"}
        world = make_world(database, mode, query=query, settings=settings)
        add_views(world)
        browser = world.browser()
        browser.get("/set?a=1")
        return world, browser

    return make


@contextmanager
def _soon():
    """Require that the block ends soon.

    The only look at real time in these tests, because time is their
    subject. Between the second that is set, or two where something is tried
    twice, and the 5 seconds of the default there is room for a slow machine.
    """
    begun = time.monotonic()
    yield
    assert 4 > time.monotonic() - begun


def test_saving_ends(make, database):
    """A change of a row that is locked is an error; nothing is written.

    It asks for a replay, except on SQLite, where the application's own work
    is committed by then.
    """
    world, browser = make("separate")
    with (
        locked(world),
        _soon(),
        pytest.raises(SessionError) as info,
    ):
        browser.get("/set?a=2")
    is_late = database == "sqlite"
    assert is_late is not isinstance(info.value, SessionBusyError)
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_logging_out_ends(make, database):
    """Who could not be logged out because of a lock is not told so."""
    world, browser = make("separate")
    with (
        locked(world),
        _soon(),
        pytest.raises(SessionError),
    ):
        browser.get("/out")
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_touching_ends(make, database, mode, caplog):
    """The page is shown; one warning says what was not written."""
    world, browser = make(mode)
    world.clock.pass_(100)
    with locked(world), _soon():
        assert {"a": "1"} == browser.get("/get").json
    assert ["a session's activity was not written"] == warnings_in(caplog)
    assert 0 == world.checked_out()


def test_loading_ends(make, database, mode):
    """A table that a migration has locked is an error, no empty session."""
    world, browser = make(mode, QUERIES.get(database))
    with (
        locked(world, TABLE_LOCKS[database]),
        _soon(),
        pytest.raises(SessionBusyError),
    ):
        browser.get("/get")
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_waiting_for_a_connection_ends(make):
    """An exhausted pool is an error when pool_timeout is over."""
    world, browser = make("separate")
    with (
        world.store.engine.connect(),
        _soon(),
        pytest.raises(PoolTimeoutError),
    ):
        browser.get("/get")
    assert {"a": "1"} == browser.get("/get").json
