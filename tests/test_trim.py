"""pls-trim: what goes, what stays, how fast, and who waits."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from pyramid_limitedsession.reserving import reserved
from pyramid_limitedsession.scripts import trim
from pyramid_limitedsession.sqlstore import SqlStore
from pyramid_limitedsession.sqlupkeep import Upkeep
from pyramid_limitedsession.trimming import Pace, Timer, Trimmer
from tests.apps import START, World, older_than
from tests.commands import DAY, VARIABLE, count, put, times

DEAD = START - 31 * DAY
SUMMARY = r"deleted {} \(expired, or not used for {} days\) in [0-9.]+ s\n"
BAD_DAYS = ("0", "0.0001", "-1", "abc", "", "nan", "inf", "1e9")


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(name="mode")
def _mode(database):
    """One mode on each database: a command uses the store, in any mode."""
    return "joined" if database == "postgresql" else "separate"


# -- pls-trim: what goes and what stays ------------------------------------


def test_trim_deletes_what_is_idle(world, make_ini):
    """Rows at or past the idle limit go; a second before it they stay."""
    put(world, *[(START - 9999, START - age) for age in (3599, 3600, 3601)])
    ini = make_ini(
        world, limited__idle_timeout="1h", limited__touch_interval="1s"
    )
    code, out, err = ini.trim()
    assert (0, "") == (code, err)
    assert re.fullmatch(SUMMARY.format("2 sessions", 30), out)
    assert [(START - 9999, START - 3599)] == times(world)


def test_trim_deletes_what_is_too_old(world, make_ini):
    """Rows at or past the absolute limit go; a second before it they stay."""
    put(world, *[(START - age, START) for age in (DAY - 1, DAY, DAY + 1)])
    code, out, _ = make_ini(world, limited__absolute_timeout="1d").trim()
    assert 0 == code
    assert re.fullmatch(SUMMARY.format("2 sessions", 30), out)
    assert [(START - DAY + 1, START)] == times(world)


def test_trim_deletes_what_was_not_used_for_30_days(world, make_ini):
    """Without limits, rows go that were last seen 30 days ago or earlier."""
    month = 30 * DAY
    put(world, *[(DEAD, START - month + s) for s in (1, 0, -1)])
    code, out, _ = make_ini(world).trim()
    assert 0 == code
    assert re.fullmatch(SUMMARY.format("2 sessions", 30), out)
    assert [(DEAD, START - month + 1)] == times(world)


def test_trim_spares_old_sessions_in_use(world, make_ini):
    """A session is not deleted because it was created long ago."""
    put(world, (START - 5000 * DAY, START - DAY))
    code, out, _ = make_ini(world).trim()
    assert 0 == code
    assert re.fullmatch(SUMMARY.format("0 sessions", 30), out)
    assert [(START - 5000 * DAY, START - DAY)] == times(world)


def test_trim_never_softens_the_limits(lite, make_ini):
    """More days than the idle limit do not keep what has expired."""
    put(lite, (START - 9999, START - 9999))
    make_ini(lite, limited__idle_timeout="1h").trim("--days", "300")
    assert [] == times(lite)


def test_trim_days(world, make_ini):
    """--days says how long a row may have been left alone."""
    put(world, *[(DEAD, START - days * DAY) for days in (1, 6, 8)])
    code, out, _ = make_ini(world).trim("--days", "7")
    assert 0 == code
    assert re.fullmatch(SUMMARY.format("1 session", 7), out)
    expected = [(DEAD, START - days * DAY) for days in (1, 6)]
    assert expected == times(world)


def test_trim_half_a_day(lite, make_ini):
    """A fraction of a day is a number of days too."""
    put(lite, (DEAD, START - DAY // 2), (DEAD, START - DAY // 2 + 1))
    _, out, _ = make_ini(lite).trim("--days", "0.5")
    assert re.fullmatch(SUMMARY.format("1 session", r"0\.5"), out)
    assert [(DEAD, START - DAY // 2 + 1)] == times(lite)


def test_trim_days_from_the_environment(lite, make_ini, monkeypatch):
    """SESSION_DAYS_TRIM_THRESHOLD is the default of --days."""
    monkeypatch.setenv(VARIABLE, "7")
    put(lite, *[(DEAD, START - days * DAY) for days in (1, 6, 8)])
    _, out, _ = make_ini(lite).trim()
    assert re.fullmatch(SUMMARY.format("1 session", 7), out)
    assert [START - DAY, START - 6 * DAY] == [seen for _, seen in times(lite)]


@pytest.mark.parametrize("variable", ["1", "0", "abc"])
def test_trim_days_win_over_the_environment(
    lite, make_ini, monkeypatch, variable
):
    """Where --days is given the variable does not matter, good or bad."""
    monkeypatch.setenv(VARIABLE, variable)
    put(lite, *[(DEAD, START - days * DAY) for days in (1, 6, 8)])
    code, out, _ = make_ini(lite).trim("--days", "7")
    assert 0 == code
    assert re.fullmatch(SUMMARY.format("1 session", 7), out)


@pytest.mark.parametrize("days", BAD_DAYS)
@pytest.mark.parametrize("place", ["argument", "variable"])
def test_trim_refuses_bad_days(lite, make_ini, monkeypatch, days, place):
    """No positive number of days: code 2, nothing deleted, places named."""
    put(lite, (DEAD, DEAD), (START, START))
    arguments = ["--days", days] if place == "argument" else []
    if place == "variable":
        monkeypatch.setenv(VARIABLE, days)
    code, out, err = make_ini(lite).trim(*arguments)
    assert (2, "") == (code, out)
    assert VARIABLE in err
    assert "--days" in err
    assert repr(days) in err
    assert [(DEAD, DEAD), (START, START)] == times(lite)


@pytest.mark.parametrize("batch", ["0", "-1", "abc", "", "1.5", "²"])
def test_trim_refuses_bad_batches(lite, make_ini, batch):
    """No positive number of rows: code 2, nothing deleted."""
    put(lite, (DEAD, DEAD))
    code, out, err = make_ini(lite).trim("--batch", batch)
    assert (2, "") == (code, out)
    assert "--batch" in err
    assert [(DEAD, DEAD)] == times(lite)


def test_trim_dry_run(world, make_ini):
    """--dry-run counts what a run would delete, and deletes nothing."""
    rows = [(DEAD, DEAD), (START, START), (DEAD, DEAD), (DEAD, START)]
    put(world, *rows)
    ini = make_ini(world)
    code, out, err = ini.trim("--dry-run")
    assert (0, "") == (code, err)
    assert (
        "would delete 2 sessions (expired, or not used for 30 days): "
        "2 not used for 30 days\n"
    ) == out
    assert rows == times(world)
    assert ini.trim()[1].startswith("deleted 2 sessions")


def test_trim_dry_run_by_reason(world, make_ini):
    """Each row is counted once, by the first reason there is."""
    ago = {days: START - days * DAY for days in (1, 3, 6, 10, 31)}
    put(world, (ago[10], START))
    put(world, *[(ago[1], START - 7200)] * 2)
    put(world, *[(ago[1], ago[1])] * 3, profile="long", user_id="ann")
    put(world, *[(START, START)] * 4, ended="revoked", expires_at=START)
    put(world, *[(ago[3], ago[3])] * 5, profile="long")
    put(world, *[(ago[31], ago[31])] * 6, profile="long", user_id="ann")
    put(world, (START, START), ended="revoked", expires_at=START + 1)
    put(world, (START, START))
    ini = make_ini(
        world,
        limited__idle_timeout="1h",
        limited__absolute_timeout="7d",
        limited__profile__long__idle_timeout="none",
        limited__profile__long__absolute_timeout="none",
    )
    days = ("--days", "20", "--anonymous-days", "2")
    _, out, _ = ini.trim("--dry-run", "--json", *days)
    reasons = {
        "absolute": 1,
        "idle": 2,
        "ended": 4,
        "anonymous": 5,
        "unused": 6,
    }
    assert {"would_delete": 18, "reasons": reasons} == json.loads(out)
    _, out, _ = ini.trim("--dry-run", *days)
    assert (
        "would delete 18 sessions (expired, or not used for 20 days, 2 if "
        "without a user): 4 ended, 1 past absolute_timeout, 2 past "
        "idle_timeout, 6 not used for 20 days, 5 without a user and not "
        "used for 2 days\n"
    ) == out
    _, out, _ = ini.trim("--json", *days)
    assert 18 == json.loads(out)["deleted"]
    assert 5 == len(world.rows())


def test_trim_damaged_rows(lite, make_ini):
    """Rows whose times are none go: nobody will ever load them."""
    put(lite, (START, START), (START, START))
    first = lite.rows()[0].id
    lite.execute(
        sa.text(
            f"UPDATE {lite.table.name} SET updated_at = 'x' WHERE id = {first}"
        )
    )
    # What SQLite takes for a time is no NULL: it is left alone here.
    assert "deleted 0" in make_ini(lite).trim()[1]


def test_trim_anonymous_days(world, make_ini):
    """--anonymous-days is a limit of its own for rows without a user."""
    ages = (2 * DAY - 1, 2 * DAY)
    seen = [START - age for age in ages]
    put(world, *[(DEAD, each) for each in seen])
    put(world, *[(DEAD, each) for each in seen], user_id="ann")
    code, out, _ = make_ini(world).trim("--anonymous-days", "2")
    assert 0 == code
    assert out.startswith(
        "deleted 1 session (expired, or not used for 30 days, 2 if without a "
    )
    assert [seen[0], *seen] == [row.updated_at for row in world.rows()]


def test_trim_anonymous_days_without_users(lite, make_ini):
    """Where no session has a user, all would be without one: wrong use."""
    put(lite, (DEAD, DEAD))
    ini = make_ini(lite, limited__user_key="none")
    code, out, err = ini.trim("--anonymous-days", "2")
    assert (2, "") == (code, out)
    assert "limitedsession.user_key" in err
    assert [(DEAD, DEAD)] == times(lite)


@pytest.mark.parametrize("batch", ["1", "7", "1000"])
def test_trim_in_batches(world, make_ini, batch):
    """Whatever the batch, all dead rows go and the live ones between stay."""
    rows = []
    for number in range(25):
        rows.append((DEAD, DEAD - number))
        if number % 3 == 0:
            rows.append((START - number, START - number))
    put(world, *rows)
    code, out, _ = make_ini(world).trim("--batch", batch)
    assert 0 == code
    assert re.fullmatch(SUMMARY.format("25 sessions", 30), out)
    assert [row for row in rows if row[1] > DEAD] == times(world)


def test_trim_json(world, make_ini):
    """--json tells what was done as one object."""
    put(world, *[(DEAD, DEAD)] * 3, (START, START))
    code, out, err = make_ini(world).trim("--json")
    told = json.loads(out)
    assert told.pop("seconds") >= 0
    assert {
        "deleted": 3,
        "finished": True,
        "busy": False,
        "retried": 0,
        "failed": [],
    } == told
    assert (0, "") == (code, err)


def test_trim_max_seconds(world, make_ini):
    """When the time is up it stops between two batches, and says so."""
    put(world, *[(DEAD, DEAD)] * 3)
    ini = make_ini(world)
    code, out, _ = ini.trim("--max-seconds", "0")
    assert 0 == code
    assert re.fullmatch(
        r"deleted 0 sessions \(.*\), and stopped before the end, in .* s\n",
        out,
    )
    assert 3 == len(world.rows())
    assert "deleted 3 sessions" in ini.trim("--max-seconds", "600")[1]


@pytest.mark.parametrize("option", ["--sleep", "--max-seconds"])
@pytest.mark.parametrize("seconds", ["-1", "abc", "nan", "inf", ""])
def test_trim_refuses_bad_seconds(lite, make_ini, option, seconds):
    """No number of seconds: code 2, nothing deleted."""
    put(lite, (DEAD, DEAD))
    code, out, err = make_ini(lite).trim(f"{option}={seconds}")
    assert (2, "") == (code, out)
    assert option in err
    assert [(DEAD, DEAD)] == times(lite)


# -- what happens meanwhile ------------------------------------------------

WHICH = older_than(START - 30 * DAY)
MOST_1, MOST_10 = ({"most": n, "clock": lambda: 0.0} for n in (1, 10))


@pytest.fixture(name="way", params=["way_by_id", "shortest_way"])
def _way(request):
    """Both ways through a table, by their names."""
    return request.param


def touching(world, row: int) -> list[int]:
    """Let somebody touch a row, before the first DELETE on the store."""
    touched = []

    def touch(connection, cursor, statement, *arguments):
        # SQLite: nobody else can, once our transaction has begun.
        is_next = statement.startswith(("DELETE", "BEGIN IMMEDIATE"))
        if is_next and not touched:
            touched.append(row)
            where = world.table.c.id == row
            change = world.table.update().where(where)
            world.execute(change.values(updated_at=START))

    sa.event.listen(world.store.engine, "before_cursor_execute", touch)
    return touched


def test_trim_spares_what_is_touched_meanwhile(world, way):
    """P8: a row touched between the SELECT and the DELETE survives."""
    put(world, *[(DEAD, DEAD - number) for number in range(3)])
    touched = touching(world, world.rows()[1].id)
    upkeep = Upkeep(world.store)
    walk = getattr(upkeep, way)()
    batch = upkeep.delete(
        walk, upkeep.dead(WHICH), after=walk.start, **MOST_10
    )
    assert 2 == batch.deleted
    assert touched == [row.id for row in world.rows()]


def test_trim_goes_on_behind_a_batch_that_survives(world, way):
    """A whole batch that is touched meanwhile does not end the run."""
    put(world, *[(DEAD, DEAD)] * 4)
    touched = touching(world, world.rows()[0].id)
    upkeep = Upkeep(world.store)
    walk = getattr(upkeep, way)()
    after, counts = walk.start, []
    while not counts or after is not None:
        batch = upkeep.delete(walk, upkeep.dead(WHICH), after=after, **MOST_1)
        after = batch.last
        counts.append(batch.deleted)
    expected = [3, 0] if walk.is_by_page else [0, 1, 1, 1, 0]
    assert expected == counts
    assert touched == [row.id for row in world.rows()]


def test_rows_made_meanwhile_are_none_of_this_walk(world):
    """A walk by ids ends where the table ended when it began."""
    put(world, (DEAD, DEAD))
    upkeep = Upkeep(world.store)
    walk = upkeep.way_by_id()
    put(world, (DEAD, DEAD))
    done = trimmer(world, upkeep).walk(walk)
    assert (1, True, 1) == (done.deleted, done.is_finished, len(world.rows()))


@pytest.mark.parametrize("database", ["postgresql"])
@pytest.mark.parametrize("mode", ["separate"])
def test_the_way_of_a_partitioned_table(world):
    """PostgreSQL walks by page, but a table without pages of its own by id."""
    upkeep = Upkeep(world.store)
    put(world, (DEAD, DEAD))
    assert upkeep.shortest_way().is_by_page
    name = world.table.name
    for statement in (
        "ALTER TABLE {0} RENAME TO {0}_old",
        "CREATE TABLE {0} (LIKE {0}_old INCLUDING DEFAULTS) "
        "PARTITION BY RANGE (id)",
        "ALTER SEQUENCE {0}_id_seq OWNED BY {0}.id",
        "DROP TABLE {0}_old",
        "CREATE TABLE {0}_1 PARTITION OF {0} DEFAULT",
    ):
        world.execute(sa.text(statement.format(name)))
    put(world, *[(DEAD, DEAD)] * 3, (START, START))
    assert not upkeep.shortest_way().is_by_page
    done = trimmer(world, upkeep).walk(upkeep.shortest_way())
    assert (3, 1) == (done.deleted, len(world.rows()))


def raw(cursor: Any, statement: str, *parameters: Any) -> list[Any]:
    """Return the first column, past those who listen to SQLAlchemy."""
    own = cursor.connection.cursor()
    own.execute(statement, *parameters)
    return [row[0] for row in own.fetchall()]


@pytest.mark.parametrize("database", ["postgresql"])
def test_the_page_way_reads_its_pages_only(world):
    """Each batch is a range of pages, and no other page is read for it."""
    put(world, (DEAD, DEAD))
    upkeep, plans = Upkeep(world.store), []

    def explain(connection, cursor, statement, parameters, *rest):
        if statement.startswith("DELETE") and not plans:
            plans.append("")
            plan = raw(cursor, f"EXPLAIN {statement}", parameters)
            plans[0] = "".join(plan)

    sa.event.listen(world.store.engine, "before_cursor_execute", explain)
    trimmer(world, upkeep).walk(upkeep.shortest_way())
    assert "Tid Range Scan" in plans[0]
    assert [] == times(world)


@pytest.mark.parametrize("database", ["postgresql"])
def test_the_page_way_of_a_large_table(world):
    """Over many pages, each row is met once, wherever it lies."""
    put(world, *[(DEAD, DEAD), (DEAD, START)] * 600)
    # Moved behind all others, and still dead.
    world.execute(
        world.table.update()
        .where(world.table.c.updated_at == DEAD, world.table.c.id % 3 == 0)
        .values(profile=None, version=2)
    )
    upkeep = Upkeep(world.store)
    way = upkeep.shortest_way()
    assert way.end > 20
    done = trimmer(world, upkeep, batch=120).walk(way)
    assert (600, 600) == (done.deleted, count(world))


@pytest.mark.parametrize("database", ["postgresql"])
def test_no_commit_waits_for_the_disk_on_postgresql(world):
    """A deletion's does not; the connection's next transaction does."""
    put(world, (DEAD, DEAD))
    setting = "SHOW synchronous_commit"
    told = []

    def look(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            told.append(raw(cursor, setting)[0])

    sa.event.listen(world.store.engine, "before_cursor_execute", look)
    upkeep = Upkeep(world.store)
    trimmer(world, upkeep).walk(upkeep.shortest_way())
    with world.store.transaction() as connection:
        told.append(connection.exec_driver_sql(setting).scalar())
    assert ["off", "on"] == told


@pytest.mark.parametrize(
    ("mode_of_file", "expected"), [("WAL", 1), ("DELETE", 2)]
)
def test_no_commit_waits_for_the_disk_on_sqlite(
    tmp_path, clock, mode_of_file, expected
):
    """In WAL mode, where nothing can be damaged by that, and only there."""
    file = tmp_path / "own.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode_of_file}")
        connection.execute("CREATE TABLE any_table (id INTEGER)")
    world = World(f"sqlite:///{file}", "separate", clock=clock, table="t")
    put(world, (DEAD, DEAD))
    told = []

    def look(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            told.append(raw(cursor, "PRAGMA synchronous")[0])

    sa.event.listen(world.store.engine, "before_cursor_execute", look)
    upkeep = Upkeep(world.store)
    trimmer(world, upkeep).walk(upkeep.shortest_way())
    world.close()
    assert [expected] == told


# -- what fails ------------------------------------------------------------


class Rests:
    """A clock that only a rest moves, and what is done while resting."""

    def __init__(self, meanwhile=lambda: None) -> None:
        self.slept: list[float] = []
        self._meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        """Rest."""
        self.slept.append(seconds)
        self._meanwhile()

    def timer(self) -> Timer:
        """Return it as a trimmer wants it."""
        return Timer(lambda: sum(self.slept), self.sleep)


def trimmer(world, upkeep, *, batch=2, rests=None) -> Trimmer:
    """Return a trimmer of what has been dead for 30 days."""
    return Trimmer(
        upkeep,
        upkeep.dead(WHICH),
        pace=Pace(1, batch, 1.0, 0.0, 0.0),
        timer=(rests or Rests()).timer(),
    )


# A row that the database refuses to delete: the one with version 7.
FORBID = {
    "sqlite": [
        "CREATE TRIGGER {0}_forbid BEFORE DELETE ON {0} WHEN OLD.version = 7 "
        "BEGIN SELECT RAISE(ABORT, 'canary'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION {0}_forbid() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN IF OLD.version = 7 THEN RAISE EXCEPTION ''canary''; "
        "END IF; RETURN OLD; END'",
        "CREATE TRIGGER {0}_forbid BEFORE DELETE ON {0} "
        "FOR EACH ROW EXECUTE FUNCTION {0}_forbid()",
    ],
    "mariadb": [
        "CREATE TRIGGER {0}_forbid BEFORE DELETE ON {0} FOR EACH ROW "
        "IF OLD.version = 7 THEN SIGNAL SQLSTATE '45000' "
        "SET MESSAGE_TEXT = 'canary'; END IF"
    ],
}


@pytest.fixture(name="forbidden")
def _forbidden(world, database):
    """A world whose database refuses to delete the rows of version 7."""
    name = world.table.name
    for statement in FORBID[database]:
        world.execute(sa.text(statement.format(name)))
    yield world
    if database == "postgresql":
        world.execute(sa.text(f"DROP FUNCTION {name}_forbid() CASCADE"))


def test_a_bad_batch_is_tried_again_then_left(forbidden):
    """It is tried three times; the walk goes on behind it, and tells."""
    put(forbidden, *[(DEAD, DEAD)] * 3)
    put(forbidden, (DEAD, DEAD), version=7)
    put(forbidden, *[(DEAD, DEAD)] * 3)
    rests = Rests()
    upkeep = Upkeep(forbidden.store)
    work = trimmer(forbidden, upkeep, rests=rests)
    done = work.walk(upkeep.way_by_id())
    assert (5, 1, 1) == (done.deleted, done.retried, len(done.failed))
    assert done.is_finished
    assert [0.5, 1.0] == [each for each in rests.slept if each]
    assert 2 == len(forbidden.rows())
    assert "canary" not in done.failed[0]


@pytest.mark.parametrize("mode", ["separate"])
def test_a_bad_batch_is_told(forbidden, make_ini, monkeypatch):
    """The command's line says so, and its exit code is 1."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    put(forbidden, (DEAD, DEAD), version=7)
    code, out, err = make_ini(forbidden).trim()
    assert (1, "") == (code, out)
    assert "; 1 batch failed and left to the next run: " in err
    assert "canary" not in err


def test_when_all_fails_it_gives_up(forbidden, make_ini, monkeypatch):
    """After three batches in a row that failed: a sentence, and code 1."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    put(forbidden, *[(DEAD, DEAD)] * 300, version=7)
    code, out, err = make_ini(forbidden).trim("--batch", "1")
    assert (1, "") == (code, out)
    assert err.startswith("pls-trim: ")
    assert "canary" not in err
    assert 300 == count(forbidden)


def test_a_busy_row_is_waited_for(make_world, database):
    """A row that somebody has locked is tried again, and goes then."""
    settings = {"limitedsession.lock_timeout": "1s"}
    world = make_world(database, settings=settings)
    put(world, *[(DEAD, DEAD)] * 3)
    holder = world.engine.connect()
    if database == "sqlite":
        holder.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        holder.execute(sa.select(world.table).with_for_update())
    upkeep = Upkeep(world.store)
    rests = Rests(meanwhile=holder.close)
    done = trimmer(world, upkeep, rests=rests).walk(upkeep.shortest_way())
    assert (3, 1, []) == (done.deleted, done.retried, done.failed)


def test_a_locked_live_row_keeps_nobody_from_its_neighbours(make_world):
    """MariaDB waits for each row of a range: the last try is row by row."""
    settings = {"limitedsession.lock_timeout": "1s"}
    world = make_world("mariadb", settings=settings)
    put(world, *[(DEAD, DEAD)] * 4, (DEAD, START), *[(DEAD, DEAD)] * 4)
    live = world.table.c.updated_at == START
    upkeep = Upkeep(world.store)
    with world.engine.connect() as holder:
        row = world.rows()[4].id
        by_id = sa.select(world.table).where(world.table.c.id == row)
        holder.execute(by_id.with_for_update())
        work = trimmer(world, upkeep, batch=100)
        done = work.walk(upkeep.shortest_way())
    assert (8, 1, []) == (done.deleted, done.retried, done.failed)
    assert 1 == count(world) == count(world, live)


@pytest.mark.parametrize("database", ["postgresql"])
@pytest.mark.parametrize("mode", ["separate"])
def test_the_pages_of_the_right_table(world):
    """With schema_translate_map the way is that of the table it leads to."""
    put(world, *[(DEAD, DEAD)] * 3)
    name = f"{world.table.name}_tenant"
    world.execute(sa.text(f"CREATE SCHEMA {name}"))
    try:
        world.execute(
            sa.text(
                f"CREATE TABLE {name}.{world.table.name} "
                f"(LIKE {world.table.name} INCLUDING ALL)"
            )
        )
        engine = world.store.engine.execution_options(
            schema_translate_map={None: name}
        )
        store = SqlStore(engine, world.table, lock_timeout=5)
        assert 1 == Upkeep(world.store).shortest_way().end
        assert 0 == Upkeep(store).shortest_way().end
    finally:
        world.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))


# -- twice at once ---------------------------------------------------------


def test_the_second_one_says_so(world, make_ini):
    """While one is at work the other does nothing, says so, and is done."""
    put(world, (DEAD, DEAD))
    ini = make_ini(world)
    table = world.table.fullname
    with reserved(world.store.engine, table, patience=1) as is_alone:
        assert is_alone
        with impatient():
            code, out, err = ini.trim()
        assert (0, "") == (code, err)
        assert (
            "nothing was done: another pls-trim is at work on the table "
            f"'{table}'\n"
        ) == out
        assert 1 == len(world.rows())
    assert "deleted 1 session" in ini.trim()[1]


@contextmanager
def impatient():
    """Let pls-trim not wait for long."""
    before, trim.PATIENCE = trim.PATIENCE, 1
    try:
        yield
    finally:
        trim.PATIENCE = before


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_requests_do_not_clean_meanwhile(world):
    """Self-cleaning leaves the table to pls-trim, at once."""
    put(world, (DEAD, DEAD), expires_at=DEAD)
    table = world.table.fullname
    clean = {"cutoffs": WHICH, "most": 10}
    with reserved(world.store.engine, table, patience=1):
        assert world.store.clean(**clean) is None
    assert 1 == world.store.clean(**clean)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_it_waits_for_a_request_that_cleans(world):
    """A request holds the lock for a moment only: that is no other trim."""
    put(world, (DEAD, DEAD), expires_at=DEAD)
    cleaning, asked = threading.Event(), threading.Event()

    def hold(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE"):
            cleaning.set()
            asked.wait(30)

    sa.event.listen(world.store.engine, "before_cursor_execute", hold)

    def asking(connection, cursor, statement, *arguments):
        if "lock" in statement:
            asked.set()

    with ThreadPoolExecutor() as pool:
        clean = pool.submit(world.store.clean, cutoffs=WHICH, most=10)
        assert cleaning.wait(30)
        sa.event.listen(Engine, "before_cursor_execute", asking)
        try:
            table = world.table.fullname
            with reserved(world.store.engine, table, patience=30) as is_alone:
                assert is_alone
        finally:
            sa.event.remove(Engine, "before_cursor_execute", asking)
        assert 1 == clean.result()


@pytest.mark.parametrize("database", ["mariadb"])
def test_another_database_is_nobodys_business(world):
    """MariaDB's locks are the server's: their names say whose table it is."""
    other = f"{world.table.name}_other"
    world.execute(sa.text(f"CREATE DATABASE {other}"))
    there = sa.create_engine(sa.make_url(world.url).set(database=other))
    table = world.table.fullname
    try:
        with (
            reserved(world.store.engine, table, patience=1) as first,
            reserved(there, table, patience=1) as second,
        ):
            assert (True, True) == (first, second)
    finally:
        there.dispose()
        world.execute(sa.text(f"DROP DATABASE {other}"))


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("mode", ["separate"])
def test_a_file_that_a_uri_names(world, tmp_path):
    """However the URL says it, the lock is beside the file itself."""
    file = tmp_path / "a.sqlite"
    engine = sa.create_engine(f"sqlite:///file:{file}?uri=true")
    same = sa.create_engine(f"sqlite:///{file}")
    with (
        reserved(engine, "t", patience=1) as first,
        reserved(same, "t", patience=1) as second,
    ):
        assert (True, False) == (first, second)
    engine.dispose()
    same.dispose()


def test_another_table_is_nobodys_business(world):
    """Who trims one table keeps nobody from another."""
    engine = world.store.engine
    with (
        reserved(engine, "one", patience=1) as first,
        reserved(engine, "two", patience=1) as second,
    ):
        assert (True, True) == (first, second)


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("mode", ["separate"])
def test_no_file_is_left(world, make_ini, tmp_path_factory):
    """On SQLite the file that marks the table as taken goes in the end."""
    folder = Path(world.engine.url.database).parent
    before = sorted(folder.iterdir())
    make_ini(world).trim()
    assert before == sorted(folder.iterdir())


def test_a_small_pool_is_enough(make_world, database):
    """The lock is on no connection of the pool that the work needs."""
    settings = {
        "limitedsession.sqlalchemy.pool_size": "1",
        "limitedsession.sqlalchemy.max_overflow": "0",
        "limitedsession.sqlalchemy.pool_timeout": "1",
    }
    world = make_world(database, settings=settings)
    put(world, (DEAD, DEAD))
    upkeep = Upkeep(world.store)
    with reserved(world.store.engine, world.table.fullname, patience=1):
        done = trimmer(world, upkeep).walk(upkeep.shortest_way())
    assert 1 == done.deleted


# -- the pace --------------------------------------------------------------


def test_a_batch_that_takes_long_makes_the_next_one_smaller():
    """By half at most at a time, down to twenty rows."""
    pace = Pace(20, 5000, 0.02, 3.0)
    sizes = []
    for _ in range(7):
        sizes.append(pace.size)
        pace.after(1.0)
    assert [1000, 500, 250, 125, 62, 31, 20] == sizes


def test_a_batch_that_is_quick_makes_the_next_one_larger():
    """Twice as large at most at a time, up to --batch."""
    pace = Pace(20, 5000, 0.02, 3.0)
    sizes = []
    for _ in range(5):
        sizes.append(pace.size)
        pace.after(0.001)
    assert [1000, 2000, 4000, 5000, 5000] == sizes


def test_a_batch_in_time_stays_as_it_is():
    """At the very time that it may take, nothing changes."""
    pace = Pace(20, 5000, 0.02, 3.0)
    pace.after(0.02)
    assert 1000 == pace.size


@pytest.mark.parametrize(
    ("rest", "expected"), [(None, 0.75), (0.0, 0.0), (3.0, 3.0)]
)
def test_the_rest_between_batches(rest, expected):
    """Three times what the batch took, or as --sleep says."""
    assert expected == Pace(20, 5000, 0.02, 3.0, rest).after(0.25)


def test_no_batch_is_larger_than_told():
    """--batch 7 is seven rows, whatever they take."""
    pace = Pace(20, 7, 0.02, 3.0)
    for seconds in (0.001, 9.0, 0.0):
        pace.after(seconds)
        assert 7 == pace.size


# -- pls-trim: as a process ------------------------------------------------


@pytest.mark.parametrize("mode", ["separate"])
def test_trim_prints_one_line(world, make_ini):
    """Without a terminal there is one line on stdout and nothing else."""
    put(world, *[(DEAD, DEAD)] * 3, (START, START))
    code, out, err = make_ini(world).run("pls-trim", "--batch", "1")
    assert (0, "") == (code, err)
    assert re.fullmatch(SUMMARY.format("3 sessions", 30), out)
    assert [(START, START)] == times(world)


def test_trim_shows_progress_on_a_terminal(lite, make_ini):
    """On a terminal there are a bar, a rate and the time left."""
    put(lite, *[(DEAD, DEAD)] * 25)
    code, shown = make_ini(lite).on_terminal("pls-trim", "--batch", "5")
    assert 0 == code
    assert "trimming" in shown
    assert "100%" in shown
    assert "25 rows" in shown
    assert "/s" in shown
    assert re.search(r"0:00:00", shown)
    assert "deleted 25 sessions" in shown


@pytest.mark.parametrize("how", ["--quiet", "NO_COLOR"])
def test_trim_shows_less_if_told(lite, make_ini, how, monkeypatch):
    """--quiet draws no bar, NO_COLOR one without colours."""
    put(lite, *[(DEAD, DEAD)] * 25)
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
        _, shown = make_ini(lite).on_terminal("pls-trim")
        assert "trimming" in shown
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)
    else:
        assert (0, "") == make_ini(lite).on_terminal("pls-trim", how)
    assert [] == times(lite)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_trim_stopped_in_the_middle(lite, make_ini, number):
    """Ctrl-C and SIGTERM end it between two statements, in a sentence."""
    put(lite, *[(DEAD, DEAD)] * 3000)
    ini = make_ini(lite)
    arguments = ("--batch", "1", "--sleep", "0.01")
    with ini.process("pls-trim", *arguments) as process:
        while count(lite) == 3000 and process.poll() is None:
            pass
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (1, "") == (process.returncode, out)
    assert re.match(r"pls-trim: stopped: deleted \d+ sessions? so far", err)
    assert "Traceback" not in err
    assert 0 < count(lite) < 3000
    assert 0 == ini.trim()[0]
    assert 0 == count(lite)


@pytest.mark.parametrize("mode", ["separate"])
def test_trim_killed_in_the_middle(world, make_ini):
    """P8: SIGKILL in mid-run hurts no live row; the next run finishes."""
    put(world, *[(DEAD, START if n % 10 == 0 else DEAD) for n in range(4000)])
    ini = make_ini(world)
    live = world.table.c.updated_at == START
    with ini.process("pls-trim", "--batch", "20") as process:
        while count(world) == 4000 and process.poll() is None:
            pass
        process.kill()
        process.communicate(timeout=60)
    assert -signal.SIGKILL == process.returncode
    assert 400 == count(world, live)
    assert 400 < count(world) < 4000
    assert 0 == ini.trim()[0]
    assert (400, 400) == (count(world, live), count(world))
