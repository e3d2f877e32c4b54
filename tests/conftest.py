"""Databases and applications for the tests: all of them real.

Every database is named by an environment variable; the defaults are a local
server's. With ``REQUIRE_DATABASES`` set, one that cannot be reached fails
its tests; otherwise they are skipped and say so.
"""

from __future__ import annotations

import os
import secrets

import pytest
import sqlalchemy as sa

from tests.apps import MODES, START, Clock, World, settings_of
from tests.commands import Ini
from tests.matrix import MatrixWriter
from tests.outcomes import (
    TABLES,
    as_result,
    place,
    read_results,
    write_results,
)
from tests.servers import NotInstalledError, Servers
from tests.sites import ABSOLUTE, BACKENDS, IDLE, KINDS, Site

SERVERS = {
    "postgresql": os.environ.get(
        "TEST_POSTGRESQL", "postgresql+psycopg://root@127.0.0.1:5432/test"
    ),
    "mariadb": os.environ.get(
        "TEST_MARIADB",
        # PyMySQL encrypts unless told not to, which takes half of the time
        # of a connection on one machine.
        "mysql+pymysql://root@127.0.0.1:3306/test?ssl_disabled=1",
    ),
}
# The same servers through the other drivers.
OTHER_DRIVERS = {
    "psycopg2": ("postgresql", "postgresql+psycopg2"),
    "mysqlclient": ("mariadb", "mysql+mysqldb"),
}
DATABASES = ("sqlite", *SERVERS)
DRIVERS = (*DATABASES, *OTHER_DRIVERS)


def _url(name: str, folder: object) -> str:
    if name == "memory":
        return "sqlite://"
    if name == "sqlite":
        return f"sqlite:///{folder}/test.sqlite"
    if name in OTHER_DRIVERS:
        server, driver = OTHER_DRIVERS[name]
        url = sa.make_url(SERVERS[server]).set(drivername=driver)
        url = url.difference_update_query(["ssl_disabled"])
        return url.render_as_string(hide_password=False)
    return SERVERS[name]


def _do_without(text: str) -> None:
    """Skip the test, or fail it where all databases have to be there."""
    if os.environ.get("REQUIRE_DATABASES"):
        pytest.fail(text)
    pytest.skip(text)


class Databases:
    """URLs of databases that answer; each is asked once."""

    def __init__(self, folder: object) -> None:
        self._folder = folder
        self._answers: dict[str, Exception | None] = {}

    def url(self, name: str) -> str:
        """Return the URL of a database, or skip or fail the test."""
        url = _url(name, self._folder)
        if name not in self._answers:
            self._answers[name] = self._ask(url)
        problem = self._answers[name]
        if problem is not None:
            _do_without(f"{name} cannot be used: {problem}")
        return url

    def _ask(self, url: str) -> Exception | None:
        try:
            engine = sa.create_engine(url)
            with engine.connect():
                pass
            engine.dispose()
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            return error
        return None


@pytest.fixture(scope="session", name="databases")
def _databases(tmp_path_factory):
    return Databases(tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="session", name="private_server")
def _private_server():
    """Return a function of a name that returns a running `Server`."""
    servers = Servers()

    def get(name):
        try:
            return servers.get(name)
        except NotInstalledError as error:
            return _do_without(f"no private {name}: {error}")

    yield get
    servers.close()


@pytest.fixture(scope="session", name="run_name")
def _run_name():
    """Part of every table's name: two runs on one server do not meet."""
    return secrets.token_hex(3)


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.fixture(name="make_world")
def _make_world(databases, run_name, clock):
    """Return a function that makes worlds; all are torn down at the end."""
    worlds = []

    def make(database="sqlite", mode="separate", query=None, **options):
        url = sa.make_url(databases.url(database))
        url = url.update_query_dict(query or {})
        world = World(
            url.render_as_string(hide_password=False),
            mode,
            clock=clock,
            **{"table": f"pls_{run_name}_{len(worlds)}_sessions", **options},
        )
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.close()


@pytest.fixture(name="make_world_with")
def _make_world_with(make_world):
    """Return a function of settings and views that returns a maker.

    It makes worlds that all have these, on any database in any mode.
    """

    def with_(base, add_views):
        def make(database="sqlite", mode="separate", **options):
            settings = base | options.pop("settings", {})
            return add_views(
                make_world(database, mode, settings=settings, **options)
            )

        return make

    return with_


@pytest.fixture(name="database", params=DATABASES)
def _database(request):
    return request.param


@pytest.fixture(name="driver", params=DRIVERS)
def _driver(request):
    return request.param


@pytest.fixture(name="mode", params=MODES)
def _mode(request):
    return request.param


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    """A real application on each database, in each mode."""
    return make_world(database, mode)


# -- the commands ------------------------------------------------------


@pytest.fixture(name="make_ini")
def _make_ini(tmp_path, capsys):
    """Return a function that writes the ini file of a world's table."""

    def make(world, **settings):
        key = "app__url" if world.mode == "joined" else "limited__sqlalchemy"
        if key == "limited__sqlalchemy":
            settings["limited__sqlalchemy__url"] = world.url
            settings.setdefault("limited__create_table", "false")
        else:
            settings[key] = world.url
        settings.setdefault("app__now", START)
        settings.setdefault("limited__idle_timeout", "none")
        settings |= {
            # As ConfigParser has it.
            name: str(text).replace("%", "%%")
            for name, text in settings_of(world.layout).items()
        }
        return Ini(tmp_path / "test.ini", capsys).write(**settings)

    return make


@pytest.fixture(name="bare")
def _bare(world):
    """A world whose table is missing."""
    world.table.drop(world.engine)
    return world


@pytest.fixture(name="lite")
def _lite(make_world):
    """A world where the database makes no difference."""
    return make_world()


# -- sessions of any kind, for the expiry tween -------------------------


@pytest.fixture(name="make_backend")
def _make_backend(tmp_path):
    """Return a function of a kind of session; all are closed at the end."""
    backends = []

    def make(kind):
        backend = BACKENDS[kind](tmp_path)
        problem = backend.problem()
        if problem is not None:
            _do_without(f"{kind} cannot be used: {problem}")
        backends.append(backend)
        return backend

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture(name="kind", params=KINDS)
def _kind(request):
    return request.param


@pytest.fixture(name="backend")
def _backend(make_backend, kind):
    return make_backend(kind)


@pytest.fixture(name="make_site")
def _make_site(backend, clock):
    """Return a function that makes applications on one backend."""

    def make(**options):
        return Site(backend, clock, **options)

    return make


@pytest.fixture(name="site")
def _site(make_site):
    """An application with both limits."""
    return make_site(idle=IDLE, absolute=ABSOLUTE)


# -- the page of outcomes ----------------------------------------------


def pytest_addoption(parser):
    """Add the option that "make outcomes" uses."""
    parser.addoption(
        "--write-outcomes",
        action="store_true",
        help="write docs/outcomes.* and docs/matrix.* from what the tests "
        "observe",
    )

    parser.addoption(
        "--fewer-places",
        action="store_true",
        help="one mode on each server, but for what depends on both",
    )


# What is run in these is run in the other mode on the other server.
LEFT_OUT = ({"separate", "postgresql"}, {"joined", "mariadb"})
# Tests whose very subject is the mode, the server, or what both do together.
EVERYWHERE = frozenset(
    f"test_{name}"
    for name in (
        *("contract", "transactions", "races", "killed", "interleaving"),
        *("merge", "on_conflict", "isolation", "matrix", "waits"),
    )
)


def pytest_collection_modifyitems(config, items):
    """Leave out places, if told."""
    if not config.getoption("--fewer-places"):
        return
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item):
    params = getattr(item, "callspec", None) and item.callspec.params
    if not params:
        return False
    place = {params.get("mode"), params.get("database")}
    return place in LEFT_OUT and item.path.stem not in EVERYWHERE


def pytest_configure(config):
    """Collect what is observed, in the process that hears all reports."""
    is_worker = hasattr(config, "workerinput")
    if config.getoption("--write-outcomes") and not is_worker:
        config.pluginmanager.register(OutcomesWriter())
        config.pluginmanager.register(MatrixWriter())


class OutcomesWriter:
    """Writes the page once the tests have run."""

    def __init__(self):
        self._cells = []

    def pytest_runtest_logreport(self, report):
        """Take the cells that a passed test has told."""
        if report.when == "call" and report.passed:
            self._cells += [
                value
                for name, value in report.user_properties
                if name == "outcome"
            ]

    def pytest_sessionfinish(self):
        """Write the files."""
        write_results(self._cells)


@pytest.fixture(name="outcomes")
def _outcomes(request, record_property):
    """Return ``tell(table, situation, mode, database, outcome)``.

    It fails the test if the page says something else.
    """
    is_writing = request.config.getoption("--write-outcomes")

    def tell(table, situation, mode, database, outcome):
        assert situation in TABLES[table].situations
        where, result = place(mode, database), as_result(outcome)
        if is_writing:
            record_property("outcome", (table, situation, where, result))
            return
        told = read_results()[table][situation][where]
        assert told == result, "not as docs/outcomes.rst says"

    return tell
