"""The core of the contract on every driver, and what their errors mean.

Errors are real ones: two connections of the test's own get in each other's
way until the database itself says so.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from transaction.interfaces import TransientError

from pyramid_limitedsession.dberrors import is_busy, is_missing, translated
from pyramid_limitedsession.errors import (
    SessionBusyError,
    SessionError,
    SessionTableError,
)
from pyramid_limitedsession.store import Record
from pyramid_limitedsession.tokens import Secret, key_of, make_token
from tests.apps import START, cookie_of, count_dead, older_than, trim

POSTGRESQL = ("postgresql", "psycopg2")
MARIADB = ("mariadb", "mysqlclient")
SERVERS = POSTGRESQL + MARIADB
LONG_AGO = START - 100_000


@pytest.fixture(name="world")
def _world(make_world, driver, mode):
    """A real application on each driver, in each mode."""
    settings = {"limitedsession.lock_timeout": "1s"}
    world = make_world(driver, mode, settings=settings)

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    return world


@pytest.fixture(name="browser")
def _browser(world):
    """A browser that has a session."""
    browser = world.browser()
    browser.get("/set?a=1")
    return browser


# -- the contract ------------------------------------------------------


def test_insert_is_one_statement_and_one_row(world):
    """A first write is one INSERT, one row and one cookie."""
    response = world.browser().get("/set?a=1")
    assert ["INSERT"] == world.count()
    assert 1 == len(world.rows())
    assert 1 == len(cookie_of(response))


def test_read_is_one_statement(world, browser):
    """What was put in is read back with one SELECT."""
    world.count()
    assert {"a": "1"} == browser.get("/get").json
    assert ["SELECT"] == world.count()


def test_change_is_read_and_update(world, browser):
    """A change is one SELECT and one UPDATE, and raises the version."""
    world.count()
    browser.get("/set?a=2")
    assert ["SELECT", "UPDATE"] == world.count()
    assert [2] == [row.version for row in world.rows()]
    assert {"a": "2"} == browser.get("/get").json


def test_nested_change_is_saved(world, browser):
    """A change inside a nested value is saved."""

    @world.on("deep")
    def _(request):
        request.session.setdefault("deep", {"list": []})["list"].append(1)
        return {}

    browser.get("/deep")
    browser.get("/deep")
    assert {"a": "1", "deep": {"list": [1, 1]}} == browser.get("/get").json


def test_conflict_is_merged(world, browser):
    """Of two overlapping requests each keeps its keys and flash messages."""

    @world.on("flash")
    def _(request):
        request.session.flash("theirs")
        request.session["theirs"] = 1
        return {}

    @world.on("slow")
    def _(request):
        request.session["mine"] = 1
        request.session.flash("mine")
        other = world.browser()
        other.set_cookie("session", browser.cookies["session"])
        other.get("/flash")
        return {}

    browser.get("/slow")
    assert {
        "a": "1",
        "theirs": 1,
        "mine": 1,
        "_f_": ["theirs", "mine"],
    } == browser.get("/get").json


def test_rotate_keeps_the_row(world, browser):
    """A new token, a new key; the row's id, content and start stay."""
    (before,) = world.rows()
    token = browser.cookies["session"]
    browser.get("/rotate")
    (after,) = world.rows()
    assert token != browser.cookies["session"]
    assert before.session_id != after.session_id
    assert (before.id, before.data, before.created_at) == (
        after.id,
        after.data,
        after.created_at,
    )


def test_invalidate_deletes_the_row(world, browser):
    """Logging out deletes the row and the cookie."""
    response = browser.get("/out")
    assert [] == world.rows()
    assert "Max-Age=0" in cookie_of(response)[0]


def test_a_late_change_is_dropped(world, browser):
    """A change of a session that was ended meanwhile writes nothing."""

    @world.on("slow")
    def _(request):
        request.session["late"] = 1
        other = world.browser()
        other.set_cookie("session", browser.cookies["session"])
        other.get("/out")
        return {}

    response = browser.get("/slow")
    assert [] == world.rows()
    assert [] == cookie_of(response)


def test_touch_moves_the_last_activity(world, browser):
    """A later read moves updated_at and leaves the version alone."""
    world.clock.pass_(100)
    world.count()
    browser.get("/get")
    assert ["SELECT", "UPDATE"] == world.count()
    (row,) = world.rows()
    assert (START + 100, 1) == (row.updated_at, row.version)


def test_touch_never_moves_it_back(world, browser):
    """Activity of a clock that is behind changes nothing."""
    record = world.store.load(key_of(browser.cookies["session"]))
    assert world.store.touch(record, seen=START - 50, expires=None)
    assert [START] == [row.updated_at for row in world.rows()]


def test_touch_tells_that_a_row_is_gone(world, browser):
    """The touch of a row that does not exist any more returns False."""
    record = world.store.load(key_of(browser.cookies["session"]))
    browser.get("/out")
    touched = world.store.touch(record, seen=START + 1, expires=None)
    assert touched is False


def _put(world, *, seen, expires):
    """Insert a row by the store's own means."""
    record = Record(
        id=0,
        key=key_of(make_token()),
        data=Secret("{}"),
        version=1,
        created=seen,
        seen=seen,
        expires=expires,
    )
    work = world.store.begin()
    number = work.insert(record)
    work.commit()
    return number


def test_clean_takes_the_dead_and_leaves_the_living(world, browser):
    """Cleaning deletes what is expired, a batch at a time."""
    for _ in range(3):
        _put(world, seen=LONG_AGO, expires=LONG_AGO)
    cutoffs = older_than(START - 7200)
    clean = world.store.clean
    assert 2 == clean(cutoffs=cutoffs, most=2)
    assert 1 == clean(cutoffs=cutoffs, most=2)
    assert 0 == clean(cutoffs=cutoffs, most=2)
    assert {"a": "1"} == browser.get("/get").json


def test_trim_goes_through_the_whole_table(world, browser):
    """Trimming finds dead rows in the order of their ids, in batches."""
    for _ in range(3):
        _put(world, seen=LONG_AGO, expires=None)
    cutoffs = older_than(START - 7200)
    assert 3 == count_dead(world.store, cutoffs)
    assert 2 == trim(world.store, cutoffs, most=2, by_id=True)
    assert 1 == trim(world.store, cutoffs)
    assert 0 == count_dead(world.store, cutoffs)
    assert {"a": "1"} == browser.get("/get").json


@pytest.mark.parametrize(
    "text",
    ["ü€日本", "😀", "a\x00b", "\ud800", "\\u0000", "'\";--%s%%(a)s:b?", "  "],
)
def test_any_text_comes_back(world, text):
    """Text of any characters comes back as it was, as key and as value."""

    @world.on("put")
    def _(request):
        request.session[text] = [text]
        return {}

    seen = []

    @world.on("look")
    def _(request):
        seen.append(dict(request.session))
        return {}

    browser = world.browser()
    browser.get("/put")
    browser.get("/look")
    assert [{text: [text]}] == seen


def test_large_data_comes_back(world):
    """Data of 60 KB comes back whole, first written and then changed."""

    @world.on("grow")
    def _(request):
        request.session["a"] = request.session.get("a", "") + "x" * 30_000
        return {}

    browser = world.browser()
    browser.get("/grow")
    browser.get("/grow")
    assert {"a": "x" * 60_000} == browser.get("/get").json


def test_the_key_is_stored_whole(world):
    """The row's key is the whole key: 67 characters."""
    world.browser().get("/set?a=1")
    assert [67] == [len(row.session_id) for row in world.rows()]


@pytest.mark.parametrize(
    "change",
    ["upper", "leading", "trailing"],
)
def test_keys_are_compared_byte_by_byte(world, browser, change):
    """A row whose key differs in case or by a blank is not found."""
    c = world.table.c
    key = {
        "upper": sa.func.upper(c.session_id),
        "leading": sa.literal(" ").concat(c.session_id),
        "trailing": c.session_id.concat(" "),
    }[change]
    world.execute(world.table.update().values(session_id=key))
    assert {} == browser.get("/get").json
    assert 1 == len(world.rows())


@pytest.mark.parametrize("driver", SERVERS)
def test_an_accented_key_is_another_key(make_world, driver):
    """A key with an accent is refused by the column or is another key."""
    world = make_world(driver)
    key = "2::" + "e" * 64
    row = {
        "data": "{}",
        "version": 1,
        "created_at": START,
        "updated_at": START,
    }
    with world.engine.connect() as connection, connection.begin() as begun:
        insert = world.table.insert()
        connection.execute(insert, row | {"session_id": key})
        try:
            other = row | {"session_id": key.replace("e", "é", 1)}
            connection.execute(insert, other)
        except DBAPIError:
            begun.rollback()
            return
    assert world.store.load(Secret(key)).id == world.rows()[0].id


# -- errors that mean "try again" --------------------------------------


@pytest.fixture(name="ground")
def _ground(make_world):
    """Return a function that makes a world with two rows to fight for."""

    def make(driver):
        world = make_world(driver)
        rows = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
        world.execute(world.Item.__table__.insert(), rows)
        return world

    return make


def _update(world, number, name="x"):
    items = world.Item.__table__
    return (
        items.update()
        .where(items.c.id == number)
        .values(name=f"{name}{number}")
    )


def _assert_busy(error, code):
    """The error is a busy one, and says so to pyramid_retry."""
    assert code in (_code(error), error.orig.args[0])
    assert is_busy(error)
    assert not is_missing(error)
    with pytest.raises(SessionBusyError) as info, translated("sessions"):
        raise error
    assert isinstance(info.value, TransientError)
    assert isinstance(info.value, SessionError)


def _code(error):
    """Return the code that is told of a busy error."""
    with pytest.raises(SessionBusyError) as info, translated("sessions"):
        raise error
    return info.value.code


def _deadlock(world, prepare):
    """Let two threads wait for each other; return the loser's error."""
    barrier = threading.Barrier(2)

    def work(first, second):
        with world.engine.connect() as connection:
            connection.exec_driver_sql(prepare)
            connection.execute(_update(world, first))
            barrier.wait(10)
            connection.execute(_update(world, second))
            connection.rollback()

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work, 1, 2), pool.submit(work, 2, 1)]
        errors = [future.exception(timeout=30) for future in futures]
    (loser,) = [error for error in errors if error is not None]
    return loser


@pytest.mark.parametrize("driver", POSTGRESQL)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_serialization_failure_is_busy(ground, driver, level):
    """40001: the row was changed since this transaction began."""
    world = ground(driver)
    engine = world.engine.execution_options(isolation_level=level)
    with engine.connect() as connection:
        connection.execute(sa.select(world.Item.__table__)).all()
        world.execute(_update(world, 1, "theirs"))
        with pytest.raises(DBAPIError) as info:
            connection.execute(_update(world, 1))
    _assert_busy(info.value, "40001")


@pytest.mark.parametrize("driver", POSTGRESQL)
def test_deadlock_on_postgresql_is_busy(ground, driver):
    """40P01: two transactions waited for each other."""
    error = _deadlock(ground(driver), "SET LOCAL deadlock_timeout = '20ms'")
    _assert_busy(error, "40P01")


@pytest.mark.parametrize("driver", POSTGRESQL)
@pytest.mark.parametrize("how", ["nowait", "lock_timeout"])
def test_lock_not_available_is_busy(ground, driver, how):
    """55P03: somebody else holds the row's lock."""
    world = ground(driver)
    with (
        world.engine.begin() as holder,
        world.engine.connect() as connection,
    ):
        holder.execute(_update(world, 1))
        connection.exec_driver_sql("SET LOCAL lock_timeout = '20ms'")
        query = sa.select(world.Item.__table__).with_for_update(
            nowait=how == "nowait"
        )
        with pytest.raises(DBAPIError) as info:
            connection.execute(query)
    _assert_busy(info.value, "55P03")


@pytest.mark.parametrize("driver", MARIADB)
def test_lock_wait_timeout_is_busy(ground, driver):
    """1205: somebody else holds the row's lock for too long."""
    world = ground(driver)
    with (
        world.engine.begin() as holder,
        world.engine.connect() as connection,
    ):
        holder.execute(_update(world, 1))
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        with pytest.raises(DBAPIError) as info:
            connection.execute(_update(world, 1))
        connection.invalidate()
    _assert_busy(info.value, 1205)


@pytest.mark.parametrize("driver", MARIADB)
def test_the_code_is_mariadbs_own(ground, driver):
    """Whatever the driver: a busy error's code is the server's number."""
    world = ground(driver)
    with (
        world.engine.begin() as holder,
        world.engine.connect() as connection,
    ):
        holder.execute(_update(world, 1))
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 0")
        with pytest.raises(DBAPIError) as info:
            connection.execute(_update(world, 1))
        connection.invalidate()
    assert "1205" == _code(info.value)


@pytest.mark.parametrize("driver", MARIADB)
def test_deadlock_on_mariadb_is_busy(ground, driver):
    """1213: two transactions waited for each other."""
    _assert_busy(_deadlock(ground(driver), "SELECT 1"), 1213)


@pytest.mark.parametrize("driver", MARIADB)
def test_record_changed_is_busy(ground, driver):
    """1020: with snapshot isolation, the row was changed since it began."""
    world = ground(driver)
    with world.engine.connect() as connection:
        known = connection.exec_driver_sql(
            "SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"
        ).first()
        if known is None:
            pytest.skip("this server has no innodb_snapshot_isolation")
        connection.exec_driver_sql(
            "SET SESSION innodb_snapshot_isolation = ON"
        )
        connection.rollback()
        connection.execute(sa.select(world.Item.__table__)).all()
        world.execute(_update(world, 1, "theirs"))
        with pytest.raises(DBAPIError) as info:
            connection.execute(_update(world, 1))
        connection.invalidate()
    _assert_busy(info.value, 1020)


@pytest.fixture(name="wal")
def _wal(tmp_path):
    """An engine on a SQLite file of its own in WAL mode, with a table."""
    engine = sa.create_engine(
        f"sqlite:///{tmp_path}/wal.sqlite", connect_args={"timeout": 0}
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
    yield engine
    engine.dispose()


def test_sqlite_busy_is_busy(wal):
    """SQLITE_BUSY: somebody else is writing."""
    with wal.connect() as writer, wal.connect() as connection:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(DBAPIError) as info:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    code = getattr(info.value.orig, "sqlite_errorname", "unknown")
    assert code in ("SQLITE_BUSY", "unknown")
    _assert_busy(info.value, code)


def test_sqlite_busy_snapshot_is_busy(wal):
    """SQLITE_BUSY_SNAPSHOT: somebody wrote between our read and our write."""
    with wal.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT * FROM t").all()
        with wal.begin() as writer:
            writer.exec_driver_sql("INSERT INTO t VALUES (1)")
        with pytest.raises(DBAPIError) as info:
            connection.exec_driver_sql("INSERT INTO t VALUES (2)")
    code = getattr(info.value.orig, "sqlite_errorname", "unknown")
    assert code in ("SQLITE_BUSY_SNAPSHOT", "unknown")
    _assert_busy(info.value, code)


_PATIENCE = {
    "sqlite": "PRAGMA busy_timeout = 0",
    "postgresql": "SET lock_timeout = '20ms'",
    "psycopg2": "SET lock_timeout = '20ms'",
    "mariadb": "SET SESSION innodb_lock_wait_timeout = 1",
    "mysqlclient": "SET SESSION innodb_lock_wait_timeout = 1",
}


def _make_impatient(world, driver):
    """Let no connection of this world wait for a lock."""

    def connected(connection, record):
        cursor = connection.cursor()
        cursor.execute(_PATIENCE[driver])
        cursor.close()
        connection.commit()

    for engine in {world.engine, world.store.engine}:
        sa.event.listen(engine, "connect", connected)
        engine.dispose()


def test_a_locked_row_makes_the_request_transient(world, browser, driver):
    """A save that meets a lock raises what pyramid_retry replays.

    Only where the application's own data is committed by then (SQLite in
    separate mode) it is an error that is not replayed.
    """
    _make_impatient(world, driver)
    with world.engine.connect() as holder:
        if driver == "sqlite":
            holder.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            holder.execute(sa.select(world.table).with_for_update())
        with pytest.raises(SessionError) as info:
            browser.get("/set?a=2")
    is_late = driver == "sqlite" and world.mode == "separate"
    assert is_late is not isinstance(info.value, SessionBusyError)
    assert is_late is not isinstance(info.value, TransientError)
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == world.checked_out()


# -- errors that do not ------------------------------------------------


def _assert_other(error, kind):
    """The error stays of its class and is neither busy nor missing."""
    assert not is_busy(error)
    assert not is_missing(error)
    with pytest.raises(kind) as info, translated("sessions"):
        raise error
    assert type(error) is type(info.value)
    assert not isinstance(info.value, TransientError)
    assert info.value.orig.code in str(info.value)


def _raw_error(world, *rows):
    *good, bad = rows
    insert = world.table.insert()
    with world.engine.connect() as connection:
        for row in good:
            connection.execute(insert, row)
        with pytest.raises(DBAPIError) as info:
            connection.execute(insert, bad)
        connection.rollback()
    return info.value


def _row(**changes):
    return {
        "session_id": "2::" + "0" * 64,
        "data": "{}",
        "version": 1,
        "created_at": START,
        "updated_at": START,
        **changes,
    }


def test_a_unique_violation_is_an_integrity_error(make_world, driver):
    """Two rows of one key cannot be: an IntegrityError, not a busy one."""
    error = _raw_error(make_world(driver), _row(), _row())
    _assert_other(error, IntegrityError)


def test_a_not_null_violation_keeps_its_class(make_world, driver):
    """A row without data is refused, and that is not a busy error."""
    error = _raw_error(make_world(driver), _row(version=None))
    _assert_other(error, DBAPIError)


@pytest.mark.parametrize("driver", SERVERS)
def test_too_long_a_value_is_a_data_error(make_world, driver):
    """A key that does not fit its column is a DataError."""
    error = _raw_error(make_world(driver), _row(session_id="2::" + "0" * 90))
    _assert_other(error, DataError)


@pytest.mark.parametrize(
    "what", ["no such table", "no such column", "database is locked"]
)
@pytest.mark.parametrize("driver", SERVERS)
def test_data_cannot_pass_for_an_error(make_world, driver, what):
    """What a database quotes of the row does not decide the error's kind."""
    world = make_world(driver)
    if driver in POSTGRESQL:
        rows = [_row(data=what, version=None)]
    else:
        rows = [_row(session_id=what), _row(session_id=what)]
    _assert_other(_raw_error(world, *rows), IntegrityError)


def _work(world, statement):
    """Run one statement of the store in a transaction of its own."""
    record = Record(1, Secret("k"), Secret("{}"), 1, START, START, None)
    work = world.store.begin()
    run = {
        "select": lambda: work.load(record.key),
        "insert": lambda: work.insert(record),
        "update": lambda: work.update(record, old=record),
        "delete": lambda: work.delete([1]),
    }
    try:
        run[statement]()
    finally:
        work.rollback()


@pytest.mark.parametrize("statement", ["select", "insert", "update", "delete"])
def test_a_missing_table_is_told(make_world, driver, statement):
    """Whatever the statement: SessionTableError names the table and a way."""
    world = make_world(driver)
    world.table.drop(world.engine)
    with pytest.raises(SessionTableError, match="pls-init") as info:
        _work(world, statement)
    assert world.table.name == info.value.table
    assert not isinstance(info.value, TransientError)


@pytest.mark.parametrize("statement", ["select", "insert", "update"])
def test_a_missing_column_is_told(make_world, driver, statement):
    """Whatever the statement: SessionTableError names the missing column."""
    world = make_world(driver)
    world.execute(
        sa.text(f"ALTER TABLE {world.table.name} DROP COLUMN version")
    )
    with pytest.raises(SessionTableError, match="version"):
        _work(world, statement)
