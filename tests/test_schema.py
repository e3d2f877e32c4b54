"""The table: columns, types, names, times, and who makes it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pyramid.config import Configurator
from sqlalchemy.exc import IntegrityError

from pyramid_limitedsession import make_table
from pyramid_limitedsession.engines import make_engine
from pyramid_limitedsession.layout import Layout
from pyramid_limitedsession.schema import typed_table
from pyramid_limitedsession.sqlstore import SqlStore
from tests.apps import MODES, START, World, count_dead, older_than, trim

ROOT = Path(__file__).parent.parent

SERVERS = ("postgresql", "mariadb")


@pytest.fixture(name="make_space")
def _make_space(databases, run_name, tmp_path):
    """Return a function that makes an empty place for tables of any name.

    A file, a PostgreSQL schema or a MariaDB database; dropped at the end.
    The function returns its name and a URL that leads into it.
    """
    made: list[tuple[sa.Engine, str]] = []

    def make(database: str) -> tuple[str, str]:
        name = f"pls_{run_name}_space_{len(made)}"
        if database == "sqlite":
            return "main", f"sqlite:///{tmp_path / name}.sqlite"
        url = sa.make_url(databases.url(database))
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        made.append((engine, name))
        run(engine, f"CREATE SCHEMA {name}")
        if database == "postgresql":
            url = url.update_query_dict({"options": f"-csearch_path={name}"})
        else:
            url = url.set(database=name)
        return name, url.render_as_string(hide_password=False)

    yield make
    for engine, name in made:
        cascade = " CASCADE" if engine.dialect.name == "postgresql" else ""
        run(engine, f"DROP SCHEMA {name}{cascade}")
        engine.dispose()


@pytest.fixture(name="space")
def _space(make_space, database):
    """The URL of an empty place on each database."""
    return make_space(database)[1]


@pytest.fixture(name="engine")
def _engine(space):
    """An engine whose connections are in that place."""
    engine = sa.create_engine(space)
    yield engine
    engine.dispose()


@pytest.fixture(name="table")
def _table(engine):
    """The table, as create_all makes it."""
    metadata = sa.MetaData()
    make_table(metadata, "visits")
    metadata.create_all(engine)
    return typed_table(Layout("visits"))


@pytest.fixture(name="make_app")
def _make_app(clock):
    """Return a function that makes a World on a URL; closed at the end."""
    worlds: list[World] = []

    def make(url: str, mode: str, table: str, **settings: str) -> World:
        given = {f"limitedsession.{key}": settings[key] for key in settings}
        world = World(url, mode, clock=clock, table=table, settings=given)
        worlds.append(views(world))
        return world

    yield make
    for world in worlds:
        world.close()


def views(world: Any) -> Any:
    """Give a world the views of these tests."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return dict(request.session)

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return dict(request.session)

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return dict(request.session)

    @world.on("facts")
    def _(request):
        session = request.session
        return [session.created, session.expires_in, session.ended]

    return world


def run(engine: sa.Engine, statement: str) -> None:
    """Run one statement."""
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def put(engine: sa.Engine, table: sa.Table, **columns: Any) -> None:
    """Store one row."""
    row = {
        "session_id": "2::" + 64 * "0",
        "data": "{}",
        "version": 1,
        "created_at": START,
        "updated_at": START,
        "expires_at": None,
        **columns,
    }
    with engine.begin() as connection:
        connection.execute(table.insert(), row)


# -- columns, keys, indexes ------------------------------------------------

TYPES = {
    "sqlite": {
        "id": "INTEGER",
        "session_id": "VARCHAR(80)",
        "data": "TEXT",
        "version": "INTEGER",
        "created_at": "DATETIME",
        "updated_at": "DATETIME",
        "expires_at": "DATETIME",
        "user_id": "VARCHAR(190)",
        "profile": "VARCHAR(40)",
        "ended": "VARCHAR(20)",
    },
    "postgresql": {
        "id": "BIGINT",
        "session_id": "VARCHAR(80)",
        "data": "TEXT",
        "version": "INTEGER",
        "created_at": "TIMESTAMP",
        "updated_at": "TIMESTAMP",
        "expires_at": "TIMESTAMP",
        "user_id": "VARCHAR(190)",
        "profile": "VARCHAR(40)",
        "ended": "VARCHAR(20)",
    },
    "mariadb": {
        "id": "BIGINT(20)",
        "session_id": "VARCHAR(80)",
        "data": "LONGTEXT",
        "version": "INTEGER(11)",
        "created_at": "DATETIME",
        "updated_at": "DATETIME",
        "expires_at": "DATETIME",
        "user_id": "VARCHAR(190)",
        "profile": "VARCHAR(40)",
        "ended": "VARCHAR(20)",
    },
}


def test_columns_and_types(engine, table, database):
    """Each column has the type that this database needs, and no other is."""
    columns = sa.inspect(engine).get_columns("visits")
    assert list(TYPES[database]) == [column["name"] for column in columns]
    for column in columns:
        shown = column["type"].compile(engine.dialect)
        assert shown.startswith(TYPES[database][column["name"]])
        assert "WITH TIME ZONE" not in shown


def test_what_may_be_empty(engine, table):
    """A session may have no limit, user, profile or end; the rest it has."""
    columns = sa.inspect(engine).get_columns("visits")
    empty = [column["name"] for column in columns if column["nullable"]]
    assert ["expires_at", "user_id", "profile", "ended"] == empty


@pytest.mark.parametrize("database", ["mariadb"])
def test_binary_collations(engine, table):
    """On MariaDB keys are ASCII, and everything is compared byte by byte."""
    with engine.connect() as connection:
        query = sa.text(
            "SELECT column_name, collation_name "
            "FROM information_schema.columns WHERE table_name = 'visits' "
            "AND table_schema = database() AND collation_name IS NOT NULL"
        )
        found = dict(map(tuple, connection.execute(query)))
    assert {
        "session_id": "ascii_bin",
        "data": "utf8mb4_bin",
        "user_id": "utf8mb4_bin",
        "profile": "ascii_bin",
        "ended": "ascii_bin",
    } == found


def test_primary_key(engine, table):
    """The id is the primary key."""
    key = sa.inspect(engine).get_pk_constraint("visits")
    assert ["id"] == key["constrained_columns"]


def test_indexes(engine, table):
    """session_id is unique, two columns are indexed; updated_at never is.

    An index on it would make every touch rewrite all indexes of the row.
    """
    inspector = sa.inspect(engine)
    indexes = {
        tuple(index["column_names"]): bool(index["unique"])
        for index in inspector.get_indexes("visits")
    }
    uniques = inspector.get_unique_constraints("visits")
    indexes |= {tuple(unique["column_names"]): True for unique in uniques}
    assert {
        ("session_id",): True,
        ("expires_at",): False,
        ("user_id",): False,
    } == indexes


def test_no_foreign_keys(engine, table):
    """No other table is locked when a session is written."""
    assert [] == sa.inspect(engine).get_foreign_keys("visits")


def test_a_key_is_there_once(engine, table):
    """The database itself refuses a second row of the same key."""
    put(engine, table)
    with pytest.raises(IntegrityError):
        put(engine, table)


def test_keys_are_compared_byte_by_byte(engine, table, space):
    """Keys that differ in case only are different sessions."""
    keys = ["2::abc", "2::ABC", "2::abc1", "1::abc"]
    for key in keys:
        put(engine, table, session_id=key, data=f'{{"key": "{key}"}}')
    own = make_engine(space, {}, lock_timeout=5)
    store = SqlStore(own, table, lock_timeout=5)
    found = [store.load(key) for key in (*keys, "2::aBc")]
    own.dispose()
    expected = [*(f'{{"key": "{key}"}}' for key in keys), None]
    assert expected == [record and str(record.data) for record in found]


def test_ids_beyond_32_bits(engine, table):
    """An id of more than 32 bits is one like any other."""
    put(engine, table, id=2**40)
    with engine.connect() as connection:
        assert 2**40 == connection.execute(sa.select(table.c.id)).scalar()


@pytest.mark.parametrize("mode", ["joined", "separate"])
def test_large_content(make_app, space, mode):
    """Content beyond 64 kB is kept whole when max_data_size allows it."""
    world = make_app(space, mode, "visits", max_data_size="1MiB")

    @world.on("fill")
    def _(request):
        request.session["a"] = "x" * 200_000
        return {}

    browser = world.browser()
    browser.get("/fill")
    assert {"a": "x" * 200_000} == browser.get("/set").json


# -- alembic ---------------------------------------------------------------

CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


@pytest.mark.parametrize("convention", [None, CONVENTION])
def test_autogenerate_finds_no_difference(engine, convention):
    """What create_all makes is what Alembic expects, in any app's metadata."""
    metadata = sa.MetaData(naming_convention=convention)
    make_table(metadata, "visits")
    metadata.create_all(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True},
        )
        assert [] == compare_metadata(context, metadata)


def test_autogenerate_finds_what_pls_init_makes(engine, space):
    """A table that the package made needs no migration of the app."""
    own = make_engine(space, {}, lock_timeout=5)
    assert SqlStore(
        own, typed_table(Layout("visits")), lock_timeout=5
    ).create()
    own.dispose()
    metadata = sa.MetaData()
    make_table(metadata, "visits")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert [] == compare_metadata(context, metadata)


# -- names -----------------------------------------------------------------

NAMES = (
    "visits",
    'a"; drop table x; --',
    "a`b'c",
    "with spaces",
    "order",
    "Mixed",
    "a.b",
    "a:b",
    "ten % off",
    "größe",
    "x" * 48,
)


@pytest.mark.parametrize("name", NAMES)
def test_names(make_app, space, mode, name):
    """Under whatever name, sessions live, rotate, end and are trimmed."""
    world = make_app(space, mode, name)
    browser = world.browser()
    answers = [
        browser.get(path).json
        for path in ("/set?a=1", "/set?b=2", "/rotate", "/set")
    ]
    both = {"a": "1", "b": "2"}
    assert [{"a": "1"}, both, both, both] == answers
    assert 1 == len(world.rows())
    browser.get("/out")
    assert [] == world.rows()
    for _ in range(2):
        world.browser().get("/set?a=1")
    cutoffs = older_than(START)
    assert 2 == count_dead(world.store, cutoffs)
    assert 1 == trim(world.store, cutoffs, most=1, by_id=True)
    world.clock.pass_(19999)
    cutoffs = older_than(START, now=world.clock.now)
    assert 1 == world.store.clean(cutoffs=cutoffs, most=9)
    assert [] == world.rows()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_made(space, engine, name):
    """The package makes a table of whatever name, and finds it again."""
    own = make_engine(space, {}, lock_timeout=5)
    store = SqlStore(own, typed_table(Layout(name)), lock_timeout=5)
    assert [True, False] == [store.create(), store.create()]
    own.dispose()
    assert [name] == sa.inspect(engine).get_table_names()


@pytest.mark.parametrize("database", SERVERS)
def test_a_table_that_cannot_be_made_stops_the_start(space, caplog):
    """A name too long for the database: an error, not "does not answer"."""
    name = "x" * 60
    own = make_engine(space, {}, lock_timeout=5)
    store = SqlStore(
        own, typed_table(Layout(name)), lock_timeout=5, create=True
    )
    try:
        with pytest.raises(Exception, match=name):
            store.start()
    finally:
        own.dispose()
    assert [] == caplog.records


@pytest.mark.parametrize("database", SERVERS)
def test_schema(make_app, make_space, database, mode):
    """With schema = NAME the sessions are kept there and nowhere else."""
    _, url = make_space(database)
    name, _ = make_space(database)
    world = make_app(url, mode, "visits", schema=name)
    metadata = sa.MetaData()
    there = make_table(metadata, "visits", name)
    metadata.create_all(world.engine)
    browser = world.browser()
    browser.get("/set?a=1")
    assert {"a": "1", "b": "2"} == browser.get("/set?b=2").json
    assert [] == world.rows()
    with world.engine.connect() as connection:
        assert 1 == len(connection.execute(sa.select(there)).all())
    cutoffs = older_than(START)
    assert 1 == trim(world.store, cutoffs, most=9)


@pytest.mark.parametrize("database", SERVERS)
def test_schema_in_autogenerate(make_space, database):
    """Alembic finds no difference for a table in a schema either."""
    _, url = make_space(database)
    name, _ = make_space(database)
    engine = sa.create_engine(url)
    metadata = sa.MetaData()
    make_table(metadata, "visits", name)
    metadata.create_all(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda given, kind, parents: (
                    kind != "schema" or given == name
                ),
            },
        )
        assert [] == compare_metadata(context, metadata)
    engine.dispose()


# -- who makes it ----------------------------------------------------------


@pytest.mark.parametrize("database", SERVERS)
@pytest.mark.parametrize("create", ["auto", "true"])
def test_separate_mode_makes_it_at_start(
    make_app, make_space, database, create
):
    """In separate mode a missing table is made when the app starts."""
    _, url = make_space(database)
    name, _ = make_space(database)
    world = make_app(
        url, "separate", "visits", schema=name, create_table=create
    )
    assert ["visits"] == sa.inspect(world.engine).get_table_names(schema=name)


def test_joined_mode_makes_it_when_told(make_app, space):
    """With create_table = true joined mode makes it when the app starts."""
    world = make_app(space, "joined", "visits", create_table="true")
    world.table.drop(world.engine)
    settings = dict(world.app.registry.settings)
    world.store.engine.dispose()
    world.app = world._make_app(settings, lambda config: None)
    world.factory = world.app.registry["pyramid_limitedsession"]
    assert sa.inspect(world.engine).has_table("visits")
    browser = world.browser()
    browser.get("/set?a=1")
    assert {"a": "1"} == browser.get("/set").json


def test_joined_mode_makes_nothing_by_itself(make_app, space):
    """In joined mode the app's migrations own the schema: no table is made."""
    world = make_app(space, "joined", "visits")
    world.table.drop(world.engine)
    with pytest.raises(Exception, match="pls-init"):
        world.browser().get("/set?a=1")
    assert not sa.inspect(world.engine).has_table("visits")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DROP TABLE visits", "visits"),
        ("ALTER TABLE visits DROP COLUMN version", "version"),
    ],
)
def test_a_table_that_cannot_be_used_is_told_at_start(
    make_app, space, mode, change, reason, caplog
):
    """A missing table or column is one error in the log when the app starts.

    The application starts nevertheless: what makes the table, a script of
    the application for instance, may have to start it first.
    """
    world = make_app(space, mode, "visits", create_table="false")
    run(world.engine, change)
    caplog.clear()
    settings = dict(world.app.registry.settings)
    app = world._make_app(settings, lambda config: None)
    store = app.registry["pyramid_limitedsession"].store or world.store
    (record,) = caplog.records
    assert logging.ERROR == record.levelno
    assert record.message.startswith("the table 'visits' cannot be used (")
    assert reason in record.message.partition("); ")[0][-60:]
    assert "pls-init" in record.message
    # A server that forks its workers now hands no connection on to them.
    assert 0 == store.engine.pool.checkedin()
    store.engine.dispose()


def test_a_dbsession_that_needs_a_request_is_no_error(clock, caplog):
    """Where request.dbsession fails outside requests the table is not told.

    It cannot be known then; the first use tells.
    """
    caplog.set_level(logging.INFO)
    with Configurator() as config:
        config.include("pyramid_limitedsession")
        config.add_request_method(
            lambda request: request.matchdict["tenant"],
            "dbsession",
            reify=True,
        )
        config.make_wsgi_app()
    assert ["the sessions' table is looked for at its first use"] == [
        record.message for record in caplog.records
    ]


def test_made_by_several_at_once(space, engine):
    """Of several processes that start at once one makes it; none fails."""
    most = 4
    barrier = threading.Barrier(most)
    made: list[object] = []

    def start(name: str) -> None:
        own = make_engine(space, {}, lock_timeout=5)
        store = SqlStore(own, typed_table(Layout(name)), lock_timeout=5)
        try:
            with own.connect():
                barrier.wait(timeout=30)
            made.append(store.create())
        except Exception as error:
            made.append(error)
        finally:
            own.dispose()

    for number in range(5):
        made.clear()
        name = f"visits_{number}"
        threads = [
            threading.Thread(target=start, args=(name,)) for _ in range(most)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [False, False, False, True] == sorted(made, key=str)
        # SQLite describes tables as the connection last saw them.
        engine.dispose()
        indexes = sa.inspect(engine).get_indexes(name)
        assert f"ix_{name}_expires_at" in [index["name"] for index in indexes]


# -- times -----------------------------------------------------------------

ZONES = ("America/St_Johns", "Asia/Kolkata", "Pacific/Auckland", "UTC")


@pytest.fixture(name="zone", params=ZONES)
def _zone(request, monkeypatch):
    """The process is in this time zone."""
    if not hasattr(time, "tzset"):
        pytest.skip("a process cannot change its time zone here")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def stored(world: World) -> list[str]:
    """Return the times of the only row as the database shows them."""
    columns = (world.table.c.created_at, world.table.c.updated_at)
    texts = [sa.cast(column, sa.String(19)) for column in columns]
    with world.engine.connect() as connection:
        return [
            text[:19] for text in connection.execute(sa.select(*texts)).one()
        ]


def lives_as_long_as_it_should(world: World) -> None:
    """Check the stored times of a session, and the second of its end."""
    browser = world.browser()
    browser.get("/set?a=1")
    assert ["2027-01-15 08:00:00"] * 2 == stored(world)
    world.clock.pass_(600)
    assert [START, 7200, None] == browser.get("/facts").json
    assert ["2027-01-15 08:00:00", "2027-01-15 08:10:00"] == stored(world)
    world.clock.pass_(7200 + 58)
    other = world.browser()
    other.set_cookie("session", browser.cookies["session"])
    world.execute(world.table.update().values(updated_at=START + 600))
    assert [START, 7200, None] == other.get("/facts").json
    world.execute(world.table.update().values(updated_at=START + 599))
    assert "idle" == other.get("/facts").json[2]


def test_times_whatever_the_zone_of_the_process(make_app, space, mode, zone):
    """What is stored is UTC, and limits hold to the second, under any TZ."""
    lives_as_long_as_it_should(make_app(space, mode, "visits"))


SET_ZONE = {
    "postgresql": "SET TIME ZONE 'America/St_Johns'",
    "mariadb": "SET time_zone = '-03:30'",
}


@pytest.mark.parametrize("database", SERVERS)
def test_times_whatever_the_zone_of_the_connection(
    make_app, space, mode, database
):
    """What is stored is UTC, whatever zone the database session is in."""
    world = make_app(space, mode, "visits")
    zones = []

    def connected(connection, record):
        cursor = connection.cursor()
        cursor.execute(SET_ZONE[database])
        cursor.close()
        # A SET is undone with its transaction on PostgreSQL.
        connection.commit()
        zones.append(record)

    for engine in {world.engine, world.store.engine}:
        engine.dispose()
        sa.event.listen(engine, "connect", connected)
    lives_as_long_as_it_should(world)
    assert 2 <= len(zones)


@pytest.mark.parametrize("zone", ["America/New_York"], indirect=True)
def test_a_repeated_hour_is_told_apart(make_app, space, mode, clock, zone):
    """Two moments with the same local time, an hour apart, stay apart."""
    # Half past one on the night in which the clocks went back, twice.
    moments = [1_793_511_000, 1_793_514_600]
    world = make_app(space, mode, "visits")
    for clock.now in moments:
        world.browser().get("/set?a=1")
    assert moments == [row.created_at for row in world.rows()]
