"""Servers are restarted, stopped, crashed, read-only, and out of space.

They are private ones, see `servers`; nothing here is simulated.
"""

from __future__ import annotations

import secrets
from functools import partial

import pytest

from tests.apps import cookie_of
from tests.faults import SmallFile, small_disk, warnings_in, worlds_on

PING = {"pool_pre_ping": True}


@pytest.fixture(name="server", params=["postgresql", "mariadb"])
def _server(request, private_server):
    """A private server, which runs."""
    return private_server(request.param)


@pytest.fixture(name="make")
def _make(server, clock):
    """Return a function that makes a world on the private server."""
    with worlds_on(server.url, clock=clock) as make:
        yield make
        # Only to drop the tables.
        server.start()


def _log_in(world, **content):
    """Return a browser with a session that holds this."""
    browser = world.browser()
    browser.get("/set", content or {"a": "1"})
    return browser


# -- restarts ----------------------------------------------------------


NO_PING = {"limitedsession.sqlalchemy.pool_pre_ping": "false"}


@pytest.mark.parametrize(
    ("mode", "options", "codes"),
    [
        ("separate", {}, [200, 200, 200]),
        ("separate", {"settings": NO_PING}, [503, 200, 200]),
        ("joined", {"engine": PING}, [200, 200, 200]),
        # One request for the pool that is read with, one for the app's own.
        ("joined", {}, [503, 503, 200]),
    ],
)
def test_a_restart_between_two_requests(make, server, mode, options, codes):
    """It costs no request, except of a pool that does not look."""
    world = make(mode=mode, **options)
    browser = _log_in(world)
    browser.get("/get")
    server.stop()
    server.start()
    assert codes == [
        browser.get("/set?a=2", status="*").status_int for _ in codes
    ]
    assert {"a": "2"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_a_restart_with_pyramid_retry(make, server):
    """It costs no request then, even if the app's own pool does not look."""
    world = make(
        mode="joined",
        configure=lambda config: config.include("pyramid_retry"),
    )
    browser = _log_in(world)
    browser.get("/get")
    server.stop()
    server.start()
    browser.get("/set?a=2")
    assert {"a": "2"} == browser.get("/get").json
    assert 0 == world.checked_out()


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_down_between_load_and_save(make, server, mode, end):
    """The request fails once; nothing is half-written, and no cookie sent."""
    world = make(mode=mode, engine=PING)
    browser = _log_in(world)

    @world.on("slow")
    def _(request):
        request.session["a"] = "2"
        request.session.rotate()
        request.dbsession.add(world.Item())
        request.dbsession.flush()
        getattr(server, end)()
        return {}

    response = browser.get("/slow", status=503)
    assert [] == cookie_of(response)
    assert 503 == browser.get("/get", status="*").status_int
    server.start()
    assert {"a": "1"} == browser.get("/get").json
    assert [] == world.items()
    assert 0 == world.checked_out()


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_down_at_the_end_of_a_session(make, server, mode, end):
    """Who could not be logged out is not told so, and still is logged in."""
    world = make(mode=mode, engine=PING)
    browser = _log_in(world)

    @world.on("leave")
    def _(request):
        request.session.invalidate()
        getattr(server, end)()
        return {}

    response = browser.get("/leave", status=503)
    server.start()
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json


def test_what_was_committed_survives_a_crash(make, server, mode):
    """Every session that was answered is there, changed ones as changed."""
    world = make(mode=mode, engine=PING)
    browsers = [_log_in(world, n=str(n)) for n in range(10)]
    for browser in browsers[5:]:
        browser.get("/both?more=1")
    browsers[0].get("/out")
    server.crash()
    server.start()
    expected = [
        {},
        *({"n": str(n)} for n in range(1, 5)),
        *({"n": str(n), "more": "1"} for n in range(5, 10)),
    ]
    assert expected == [browser.get("/get").json for browser in browsers]
    assert 9 == len(world.rows())
    assert 5 == len(world.items())


# -- a server that only reads ------------------------------------------


@pytest.fixture(name="read_only")
def _read_only(make, server, mode):
    """A world whose server became read-only; its browser has a session."""
    world = make(mode=mode, settings={"limitedsession.self_clean": "1"})
    browser = _log_in(world)
    browser.get("/get")
    server.set_read_only(True)
    yield world, browser
    server.set_read_only(False)


def test_reading_of_a_read_only_server_works(read_only, caplog):
    """A session is read, and nothing is logged above INFO."""
    world, browser = read_only
    assert {"a": "1"} == browser.get("/get").json
    assert [] == warnings_in(caplog)
    assert 0 == world.checked_out()


@pytest.mark.parametrize("path", ["/set?a=2", "/both?a=2", "/out"])
def test_writing_to_a_read_only_server_raises(read_only, server, path):
    """A change, or a logout, is an error; no cookie, the row as it was."""
    world, browser = read_only
    response = browser.get(path, status=503)
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json
    assert ['{"a":"1"}'] == [row.data for row in world.rows()]
    assert [] == world.items()
    assert 0 == world.checked_out()
    server.set_read_only(False)
    browser.get(path)
    assert {"a": "1"} != browser.get("/get").json


def test_a_new_session_on_a_read_only_server_raises(read_only):
    """A first write is an error, and no cookie is sent."""
    world, _ = read_only
    response = world.browser().get("/set?a=1", status=503)
    assert [] == cookie_of(response)
    assert 1 == len(world.rows())
    assert 0 == world.checked_out()


def test_touching_a_read_only_server_is_one_warning(read_only, caplog):
    """Activity that cannot be written is a log line, the page is shown."""
    world, browser = read_only
    world.clock.pass_(100)
    assert {"a": "1"} == browser.get("/get").json
    assert ["a session's activity was not written"] == warnings_in(caplog)
    assert 0 == world.checked_out()


def test_cleaning_a_read_only_server_is_one_warning(read_only, caplog):
    """Expired rows that cannot be deleted are a log line."""
    world, browser = read_only
    world.clock.pass_(100_000)
    assert {} == browser.get("/get").json
    assert ["expired sessions were not deleted"] == warnings_in(caplog)
    assert 1 == len(world.rows())
    assert 0 == world.checked_out()


# -- no space is left --------------------------------------------------

NO_SPACE = {
    "sqlite": "SQLITE_FULL: database or disk is full",
    "postgresql": "No space left on device",
}
SECRET = "c4n4ry"


@pytest.fixture(name="small", params=NO_SPACE)
def _small(request, private_server, clock, tmp_path, mode):
    """A world on a disk that can be filled, a browser, and that disk."""
    make = partial(worlds_on, clock=clock, mode=mode)
    if request.param == "sqlite":
        with make(f"sqlite:///{tmp_path}/small.sqlite") as new:
            world = new()
            yield world, _log_in(world), SmallFile(world)
        return
    with (
        small_disk(private_server("postgresql")) as disk,
        make(disk.url) as new,
    ):
        world = new()
        yield world, _log_in(world), disk


def _add_growing(world):
    """Add a view that writes more than there is room for."""

    @world.on("grow")
    def _(request):
        # Text that no database makes small.
        request.session["noise"] = SECRET + secrets.token_urlsafe(30_000)
        if "item" in request.params:
            request.dbsession.add(world.Item())
        return {}


def test_a_full_disk_is_an_error(small, caplog):
    """It says why, without values; no cookie, and old data is whole."""
    world, browser, disk = small
    _add_growing(world)
    other = _log_in(world, b="2")
    disk.fill()
    response = browser.get("/grow", status=503)
    assert "OperationalError" == response.json["error"]
    assert NO_SPACE[world.engine.dialect.name] in response.json["text"]
    assert SECRET not in response.text + caplog.text
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json
    assert {"b": "2"} == other.get("/get").json
    assert 0 == world.checked_out()
    disk.clear()
    browser.get("/grow")
    assert {"a", "noise"} == set(browser.get("/get").json)


def test_a_new_session_on_a_full_disk_is_an_error(small):
    """There is no row, and so no cookie."""
    world, _, disk = small
    _add_growing(world)
    disk.fill()
    response = world.browser().get("/grow", status=503)
    assert [] == cookie_of(response)
    assert 1 == len(world.rows())
    assert 0 == world.checked_out()


def test_a_full_disk_and_data_of_the_app(clock, tmp_path, mode):
    """Joined: neither is kept. On SQLite an own engine commits last."""
    url = f"sqlite:///{tmp_path}/small.sqlite"
    with worlds_on(url, clock=clock, mode=mode) as make:
        world = make()
        _add_growing(world)
        browser, disk = _log_in(world), SmallFile(world)
        disk.fill()
        browser.get("/grow?item=1", status=503)
        assert {"a": "1"} == browser.get("/get").json
        assert (mode == "separate") == bool(world.items())


def test_a_full_disk_is_cleaned_up_without_a_warning(small, caplog):
    """Of the transaction that SQLite itself rolled back nothing is told."""
    world, browser, disk = small
    _add_growing(world)
    disk.fill()
    browser.get("/grow", status=503)
    assert "a rollback failed" not in caplog.text
