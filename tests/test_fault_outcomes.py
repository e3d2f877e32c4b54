"""What a request leaves behind that a fault befalls, for the page of it.

What must hold is asserted; what was observed is compared with the page.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy as sa

from tests.faults import (
    Points,
    SmallFile,
    Victim,
    locked,
    small_disk,
    worlds_on,
)
from tests.outcomes import TABLES, Outcome, observe, send_and_wait
from tests.test_broken_database import Killer

PING = {"pool_pre_ping": True}
ONE = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0}
# The application's own connections wait no longer than ours are told to.
IMPATIENT = {
    "sqlite": {"timeout": "1"},
    "postgresql": {"options": "-c lock_timeout=1s"},
    "mariadb": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"},
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded.*fork:DeprecationWarning"
)


def _write(world, request):
    request.session["a"] = "new"
    request.dbsession.add(world.Item())


def _grow(world, request):
    # More than there is room for in pages that are there.
    request.session["noise"] = secrets.token_urlsafe(30_000)
    _write(world, request)


def _rotate(world, request):
    request.session.rotate()
    _write(world, request)


def _log_out(world, request):
    request.session.invalidate()
    request.dbsession.add(world.Item())


def _read(world, request):
    dict(request.session)


class Kit:
    """What a fault is made of.

    :ivar change: what the request does.
    :ivar meanwhile: is called then, in the view.
    :ivar send: sends the request, see `observe`.
    """

    def __init__(self, database, mode, url, clock, private_server, folder):
        self.database = database
        self.mode = mode
        self.folder = folder
        self.clock = clock
        self.change = _write
        self.meanwhile = lambda: None
        self.send = send_and_wait
        self._url = url
        self._private_server = private_server

    @property
    def server(self):
        """A server that may be stopped."""
        return self._private_server(self.database)

    @contextmanager
    def world(self, url=None, query=None, **options):
        """Give the application."""
        url = sa.make_url(url or self._url).update_query_dict(query or {})
        text = url.render_as_string(hide_password=False)
        with worlds_on(text, mode=self.mode, clock=self.clock) as make:
            world = make(**options)

            @world.on("change")
            def _(request):
                self.change(world, request)
                self.meanwhile()
                return {}

            yield world

    def befall(self, fault, *, in_view=False):
        """Let a fault last from the request's start, or its view, on."""
        stack = ExitStack()

        def begin():
            stack.enter_context(fault())

        def send(browser, path):
            with stack:
                if not in_view:
                    begin()
                return send_and_wait(browser, path)

        self.send = send
        if in_view:
            self.meanwhile = begin

    def writing_engine(self, world):
        """Return the engine that sessions are written with."""
        return world.engine if self.mode == "joined" else world.store.engine


@contextmanager
def stopped(kit):
    server = kit.server

    @contextmanager
    def fault():
        server.stop()
        yield
        server.start()

    kit.befall(fault)
    with kit.world(server.url, engine=PING) as world:
        yield world


@contextmanager
def exhausted(kit, at_save=False):
    prefix = "limitedsession.sqlalchemy."
    options = {"settings": {prefix + name: str(ONE[name]) for name in ONE}}
    if kit.mode == "joined":
        options = {"engine": ONE}
    with kit.world(**options) as world:
        engine = kit.writing_engine(world) if at_save else world.store.engine
        kit.befall(engine.connect, in_view=at_save)
        yield world


def exhausted_at_save(kit):
    return exhausted(kit, at_save=True)


@contextmanager
def lost(kit):
    with kit.world() as world:
        killer = Killer(world.engine, kit.writing_engine(world))
        kit.meanwhile = killer.kill
        yield world


@contextmanager
def lost_at_commit(kit):
    with kit.world() as world:
        killer = Killer(kit.writing_engine(world))
        points = Points(world)

        def reach(point):
            if point == "before COMMIT":
                # Once, so that what is tried again can succeed.
                points.reach = lambda point: None
                killer.kill()

        def meanwhile():
            points.reach = reach

        kit.meanwhile = meanwhile
        yield world


@contextmanager
def waiting(kit):
    settings = {"limitedsession.lock_timeout": "1s"}
    query = IMPATIENT[kit.database]
    with kit.world(query=query, settings=settings) as world:
        kit.befall(lambda: locked(world), in_view=True)
        yield world


@contextmanager
def read_only(kit):
    if kit.database == "sqlite":
        with kit.world() as world:
            kit.befall(lambda: _query_only(world))
            yield world
        return
    server = kit.server

    @contextmanager
    def fault():
        server.set_read_only(True)
        yield
        server.set_read_only(False)

    kit.befall(fault)
    with kit.world(server.url) as world:
        yield world


@contextmanager
def _query_only(world):
    """Let SQLite refuse writes as it does with a file it may only read."""

    def set_(connection, record, proxy):
        connection.execute("PRAGMA query_only = ON")

    def reset(connection, record):
        connection.execute("PRAGMA query_only = OFF")

    engines = {world.engine, world.store.engine}
    for engine in engines:
        sa.event.listen(engine, "checkout", set_)
        sa.event.listen(engine, "checkin", reset)
    yield
    for engine in engines:
        sa.event.remove(engine, "checkout", set_)


@contextmanager
def full(kit):
    with ExitStack() as stack:
        if kit.database == "sqlite":
            url = f"sqlite:///{kit.folder}/small.sqlite"
            world = stack.enter_context(kit.world(url))
            disk = SmallFile(world)
        else:
            disk = stack.enter_context(small_disk(kit.server))
            world = stack.enter_context(kit.world(disk.url))

        @contextmanager
        def fault():
            disk.fill()
            yield
            disk.clear()

        kit.befall(fault)
        kit.change = _grow
        yield world


@contextmanager
def killed(kit, point="before COMMIT"):
    with kit.world() as world:
        victim = Victim(world)

        def send(browser, path):
            victim.dies_at(point, browser, path)
            return "none", []

        kit.send = send
        yield world


def killed_behind(kit):
    return killed(kit, "after COMMIT")


@contextmanager
def only_reading(kit):
    with read_only(kit) as world:
        kit.change, send = _read, kit.send

        def send_later(*request):
            # The activity is due, and cannot be written.
            kit.clock.pass_(100)
            return send(*request)

        kit.send = send_later
        yield world


def rotate_and_die(kit):
    kit.change = _rotate
    return killed_behind(kit)


def log_out_and_lose(kit):
    kit.change = _log_out
    return lost_at_commit(kit)


def log_out_and_wait(kit):
    kit.change = _log_out
    return waiting(kit)


FAULTS = {
    "finds the server stopped": stopped,
    "finds the pool exhausted": exhausted,
    "finds the pool exhausted when it saves": exhausted_at_save,
    "loses its connection between load and save": lost,
    "loses its connection before its COMMIT arrives": lost_at_commit,
    "waits too long for a lock": waiting,
    "writes to a read-only server or file": read_only,
    "finds the disk full": full,
    "is killed (SIGKILL) before its COMMIT": killed,
    "is killed (SIGKILL) behind its COMMIT": killed_behind,
    "only reads, from a read-only server or file": only_reading,
    "calls ``rotate()``, and is killed (SIGKILL) behind its COMMIT": (
        rotate_and_die
    ),
    "logs out, and loses its connection before its COMMIT arrives": (
        log_out_and_lose
    ),
    "logs out, and waits too long for a lock": log_out_and_wait,
}
# A file has no server. MariaDB's own process ends when its disk is full.
IMPOSSIBLE = {
    *((f, "sqlite") for f in (stopped, lost, lost_at_commit)),
    (log_out_and_lose, "sqlite"),
    (full, "mariadb"),
}
EXPECTED = {
    killed: Outcome("none", "as before", "none", "as before"),
    killed_behind: Outcome("none", "changed", "none", "the change"),
    only_reading: Outcome("200", "as before", "none", "as before"),
    # The browser was not told the new token: its user logs in again.
    rotate_and_die: Outcome("none", "new key", "none", "a new session"),
    # An end is tried once more.
    log_out_and_lose: Outcome("503", "deleted", "deleted", "a new session"),
}


def test_every_situation_of_the_page_is_tried():
    """The page and these tests have the same situations."""
    assert list(TABLES["Faults"].situations) == list(FAULTS)


@pytest.mark.parametrize(
    ("situation", "database"),
    [
        (situation, database)
        for situation, fault in FAULTS.items()
        for database in ("sqlite", "postgresql", "mariadb")
        if (fault, database) not in IMPOSSIBLE
    ],
)
def test_p4_a_fault(
    situation,
    database,
    mode,
    databases,
    clock,
    private_server,
    tmp_path,
    outcomes,
):
    """P4: before the COMMIT nothing is changed, behind it all; no cookie."""
    url = databases.url(database)
    kit = Kit(database, mode, url, clock, private_server, tmp_path)
    with FAULTS[situation](kit) as world:
        browser = world.browser()
        browser.get("/set?a=old")
        outcome = observe(
            world,
            browser,
            "/change",
            lambda browser: browser.get("/get").json,
            lambda *request: kit.send(*request),
        )
        nothing = Outcome("503", "as before", "none", "as before")
        assert EXPECTED.get(FAULTS[situation], nothing) == outcome
        if mode == "joined":
            is_done = outcome.row in ("changed", "new key")
            assert is_done == bool(world.items())
        assert 0 == world.checked_out()
    outcomes("Faults", situation, mode, database, outcome)
