"""pls-init and pls-trim, with real ini files, databases and processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pyramid_limitedsession import scripts
from tests.apps import START, older_than

ROOT = Path(__file__).parent.parent
DAY = 86400
DEAD = START - 31 * DAY
SUMMARY = r"deleted {} \(expired, or not used for {} days\) in [0-9.]+ s\n"
BAD_DAYS = ("0", "-1", "abc", "", "nan", "inf", "1e9")
VARIABLE = "SESSION_DAYS_TRIM_THRESHOLD"
COMMANDS = {"pls-init": scripts.init, "pls-trim": scripts.trim}


class Ini:
    """An ini file for the table of a world, and the commands that take it.

    :ivar path: the file.
    """

    def __init__(self, path: Path, capsys: Any) -> None:
        self.path = path
        self._capsys = capsys
        self._sections: dict[str, dict[str, Any]] = {}

    def write(self, section: str = "main", **settings: Any) -> Ini:
        """Add ``[app:section]``; ``limited__x`` is ``limitedsession.x``."""
        self._sections[section] = {
            name.replace("limited__", "limitedsession.").replace("__", "."): (
                str(value)
            )
            for name, value in settings.items()
        }
        lines = []
        for name, values in self._sections.items():
            lines += [f"[app:{name}]", "use = call:tests.ini_app:main"]
            lines += [f"{key} = {text}" for key, text in values.items()]
        self.path.write_text("\n".join(lines))
        return self

    def call(self, name: str, *arguments: str, section: str = "") -> Any:
        """Call a command; return its exit code, stdout and stderr."""
        argv = [f"{self.path}{section}", *arguments]
        try:
            code: Any = COMMANDS[name](argv)
        except SystemExit as exit_:
            code = exit_.code
        return code, *self._capsys.readouterr()

    def init(self, *arguments: str, section: str = "") -> Any:
        """Call pls-init."""
        return self.call("pls-init", *arguments, section=section)

    def trim(self, *arguments: str, section: str = "") -> Any:
        """Call pls-trim."""
        return self.call("pls-trim", *arguments, section=section)

    def process(self, name: str, *arguments: str, **popen: Any) -> Any:
        """Start a command as a process of its own."""
        function = name.removeprefix("pls-")
        code = (
            f"import sys; from pyramid_limitedsession.scripts import "
            f"{function}; sys.exit({function}())"
        )
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
        environ.pop(VARIABLE, None)
        return subprocess.Popen(
            [sys.executable, "-c", code, str(self.path), *arguments],
            env=environ,
            text=True,
            **{
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **popen,
            },
        )

    def run(self, name: str, *arguments: str) -> Any:
        """Run a process to its end; return its code, stdout and stderr."""
        with self.process(name, *arguments) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


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
        settings["limited__table_name"] = world.table.name
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


def put(world, *times: tuple[int, int]) -> None:
    """Store rows, each created and last seen at these times."""
    world.execute(
        world.table.insert(),
        [
            {
                "session_id": f"2::{number:064x}",
                "data": "{}",
                "version": 1,
                "created_at": created,
                "updated_at": seen,
                "expires_at": None,
            }
            for number, (created, seen) in enumerate(times)
        ],
    )


def times(world) -> list[tuple[int, int]]:
    """Return when the rows that are there were created and last seen."""
    return [(row.created_at, row.updated_at) for row in world.rows()]


def exists(world) -> bool:
    """Say whether the sessions table is there."""
    return sa.inspect(world.engine).has_table(world.table.name)


def shape(world) -> dict[str, Any]:
    """Return all that can be read of the table's structure."""
    inspector = sa.inspect(world.engine)
    name = world.table.name
    columns = [
        {**column, "type": repr(column["type"])}
        for column in inspector.get_columns(name)
    ]
    indexes = inspector.get_indexes(name)
    uniques = inspector.get_unique_constraints(name)
    return {
        "columns": columns,
        "key": inspector.get_pk_constraint(name),
        "indexes": sorted(indexes, key=lambda index: index["name"]),
        "uniques": sorted(uniques, key=lambda unique: unique["name"]),
        "foreign": inspector.get_foreign_keys(name),
    }


def by_hand(world, script: str) -> None:
    """Run a script's statements as a database's own shell does."""
    connection = world.engine.raw_connection()
    try:
        cursor = connection.cursor()
        for statement in script.split(";\n"):
            if statement.strip():
                cursor.execute(statement)
        connection.commit()
    finally:
        connection.close()


def use(world) -> list[Any]:
    """Use a session: new, read, changed, ended; return what was read."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return dict(request.session)

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return dict(request.session)

    browser = world.browser()
    paths = ("/set?a=1", "/set?b=2", "/set?a=3", "/out")
    return [browser.get(path).json for path in paths]


USED = [{"a": "1"}, {"a": "1", "b": "2"}, {"a": "3", "b": "2"}, {}]


# -- pls-init -------------------------------------------------------------


def test_init_makes_the_table(bare, make_ini):
    """pls-init makes a table that sessions can use, and says so."""
    code, out, err = make_ini(bare).init()
    assert (0, "") == (code, err)
    assert f"made the table '{bare.table.name}'\n" == out
    assert USED == use(bare)


def test_init_twice_is_harmless(bare, make_ini):
    """A second pls-init changes nothing and says that the table exists."""
    ini = make_ini(bare)
    ini.init()
    put(bare, (START, START))
    before = shape(bare)
    code, out, err = ini.init()
    assert (0, "") == (code, err)
    assert f"the table '{bare.table.name}' exists already\n" == out
    assert before == shape(bare)
    assert [(START, START)] == times(bare)


def test_init_sql_makes_nothing(bare, make_ini):
    """pls-init --sql only prints."""
    code, out, err = make_ini(bare).init("--sql")
    assert (0, "") == (code, err)
    assert out.startswith("CREATE TABLE")
    assert not exists(bare)


def test_init_sql_by_hand_is_the_same_table(bare, make_ini):
    """What --sql prints makes the very table that pls-init makes."""
    ini = make_ini(bare)
    _, script, _ = ini.init("--sql")
    ini.init()
    made = shape(bare)
    bare.table.drop(bare.engine)
    by_hand(bare, script)
    assert made == shape(bare)
    assert USED == use(bare)


def test_init_sql_escapes_nothing_for_a_driver(
    databases, database, run_name, tmp_path, capsys
):
    """--sql prints names as a database's shell takes them, also with a %."""
    ini = Ini(tmp_path / "test.ini", capsys).write(
        limited__sqlalchemy__url=databases.url(database),
        limited__create_table="false",
        # "%%" is how an ini file says "%".
        limited__table_name=f"ten %% of {run_name}",
    )
    code, script, _ = ini.init("--sql")
    assert 0 == code
    assert f"ten % of {run_name}" in script


@pytest.mark.parametrize("mode", ["separate"])
def test_init_where_the_start_makes_the_table(bare, make_ini):
    """With create_table = true too the table is there afterwards."""
    code, _, err = make_ini(bare, limited__create_table="true").init()
    assert (0, "") == (code, err)
    assert exists(bare)


@pytest.mark.parametrize("mode", ["joined"])
def test_init_in_a_process(bare, make_ini):
    """As a real process pls-init does the same, with nothing on stderr."""
    code, out, err = make_ini(bare).run("pls-init")
    assert (0, "") == (code, err)
    assert f"made the table '{bare.table.name}'\n" == out
    assert exists(bare)


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
    text = "would delete 2 sessions (expired, or not used for 30 days)\n"
    assert text == out
    assert rows == times(world)
    assert ini.trim()[1].startswith("deleted 2 sessions")


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


@pytest.mark.parametrize("database", ["postgresql"])
@pytest.mark.parametrize("mode", ["separate"])
def test_trim_in_a_batch_that_is_too_large(world, make_ini):
    """A batch of more rows than one statement takes values still works."""
    put(world, *[(DEAD, DEAD)] * 70_000, (START, START))
    code, out, err = make_ini(world).trim("--batch", "1000000")
    assert (0, "") == (code, err)
    assert re.fullmatch(SUMMARY.format("70000 sessions", 30), out)
    assert [(START, START)] == times(world)


def test_trim_spares_what_is_touched_meanwhile(world):
    """P8: a row touched between the SELECT and the DELETE survives."""
    rows = [(DEAD, DEAD - number) for number in range(3)]
    put(world, *rows)
    touched = []

    def touch(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE") and not touched:
            touched.append(world.rows()[1].id)
            row = world.table.c.id == touched[0]
            change = world.table.update().where(row)
            world.execute(change.values(updated_at=START))

    sa.event.listen(world.store.engine, "before_cursor_execute", touch)
    cutoffs = older_than(START - 30 * DAY)
    count, after = world.store.trim(cutoffs=cutoffs, after=-1, most=10)
    assert (2, None) == (count, after)
    assert touched == [row.id for row in world.rows()]


def test_trim_goes_on_behind_a_batch_that_survives(world):
    """A whole batch that is touched meanwhile does not end the run."""
    put(world, *[(DEAD, DEAD)] * 4)
    first = world.rows()[0].id
    touched = []

    def touch(connection, cursor, statement, *arguments):
        if statement.startswith("DELETE") and not touched:
            touched.append(first)
            row = world.table.c.id == first
            change = world.table.update().where(row)
            world.execute(change.values(updated_at=START))

    sa.event.listen(world.store.engine, "before_cursor_execute", touch)
    cutoffs = older_than(START - 30 * DAY)
    after: int | None = -1
    counts = []
    while after is not None:
        count, after = world.store.trim(cutoffs=cutoffs, after=after, most=1)
        counts.append(count)
    assert [0, 1, 1, 1, 0] == counts
    assert [first] == [row.id for row in world.rows()]


# -- pls-trim: as a process ------------------------------------------------


@pytest.mark.parametrize("mode", ["separate"])
def test_trim_prints_one_line(world, make_ini):
    """Without a terminal there is one line on stdout and nothing else."""
    put(world, *[(DEAD, DEAD)] * 3, (START, START))
    code, out, err = make_ini(world).run("pls-trim", "--batch", "1")
    assert (0, "") == (code, err)
    assert re.fullmatch(SUMMARY.format("3 sessions", 30), out)
    assert [(START, START)] == times(world)


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo terminals")
def test_trim_shows_progress_on_a_terminal(lite, make_ini):
    """On a terminal a bar goes to stderr; stdout has its one line."""
    import pty

    put(lite, *[(DEAD, DEAD)] * 25)
    terminal, end = pty.openpty()
    with make_ini(lite).process("pls-trim", stderr=end) as process:
        os.close(end)
        shown = b""
        while part := _read(terminal):
            shown += part
        out = process.stdout.read()
    os.close(terminal)
    assert b"trimming" in shown
    assert b"25/25" in shown
    assert re.fullmatch(SUMMARY.format("25 sessions", 30), out)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Linux: the other end was closed.
        return b""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("mode", ["separate"])
def test_trim_killed_in_the_middle(world, make_ini):
    """P8: SIGKILL in mid-run hurts no live row; the next run finishes."""
    put(
        world,
        *[(DEAD, START if n % 10 == 0 else DEAD) for n in range(20_000)],
    )
    ini = make_ini(world)
    live = world.table.c.updated_at == START

    def count(*where: Any) -> int:
        query = sa.select(sa.func.count()).select_from(world.table)
        with world.engine.connect() as connection:
            query = query.where(*where)
            return int(connection.execute(query).scalar_one())

    with ini.process("pls-trim", "--batch", "20") as process:
        while count() == 20_000 and process.poll() is None:
            pass
        process.kill()
        process.communicate(timeout=60)
    assert -signal.SIGKILL == process.returncode
    assert 2_000 == count(live)
    assert 2_000 < count() < 20_000
    code, _, _ = ini.trim()
    assert 0 == code
    assert (2_000, 2_000) == (count(live), count())


# -- exit codes and texts --------------------------------------------------


@pytest.fixture(name="name", params=sorted(COMMANDS))
def _name(request):
    """Each command in turn."""
    return request.param


def test_help(name, lite, make_ini):
    """--help exits with 0 and shows an example."""
    code, out, err = make_ini(lite).call(name, "--help")
    assert (0, "") == (code, err)
    assert f"examples:\n  {name} production.ini" in out


def test_no_arguments(name, capsys):
    """Without an ini file a command exits with 2 and shows its usage."""
    with pytest.raises(SystemExit) as caught:
        COMMANDS[name]([])
    assert 2 == caught.value.code
    assert f"usage: {name}" in capsys.readouterr().err


def test_a_missing_ini_file(name, lite, make_ini):
    """A file that is not there is a wrong use, and named."""
    ini = make_ini(lite)
    ini.path.unlink()
    code, out, err = ini.call(name)
    assert (2, "") == (code, out)
    assert f"there is no file '{ini.path}'" in err


@pytest.mark.parametrize("argument", ["--nonsense", "novalue"])
def test_wrong_use(name, lite, make_ini, argument):
    """An unknown option, and a variable without a value, exit with 2."""
    code, out, err = make_ini(lite).call(name, argument)
    assert (2, "") == (code, out)
    assert argument in err


DOWN = {
    "sqlite": "sqlite:////nowhere/at/all/sessions.sqlite",
    "postgresql": "postgresql+psycopg://ann:hunter2@127.0.0.1:1/test",
    "mariadb": "mysql+pymysql://ann:hunter2@127.0.0.1:1/test",
}


@pytest.fixture(name="down")
def _down(lite, make_ini, database, mode):
    """An ini file whose database does not answer."""
    ini = make_ini(lite)
    if mode == "joined":
        return ini.write(app__url=DOWN[database])
    return ini.write(limited__sqlalchemy__url=DOWN[database])


@pytest.mark.parametrize("mode", ["joined"])
def test_a_database_that_is_down(name, down):
    """It is told in a sentence, with code 1 and without the password."""
    code, out, err = down.run(name)
    assert (1, "") == (code, out)
    assert f"{name}: " in err
    assert "Traceback" not in err
    assert "hunter2" not in err


@pytest.mark.parametrize("mode", ["separate"])
def test_a_database_that_is_down_verbosely(name, down):
    """-v shows the traceback, without the password."""
    code, out, err = down.run(name, "-v")
    assert (1, "") == (code, out)
    assert "Traceback (most recent call last)" in err
    assert "hunter2" not in err


def test_trim_without_a_table(bare, make_ini):
    """Where the table is missing, the sentence says how to make it."""
    code, out, err = make_ini(bare).trim()
    assert (1, "") == (code, out)
    assert "pls-init" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"app__sessions": "no"}, "does not include pyramid_limitedsession"),
        ({"limited__idle_timeout": "soon"}, "limitedsession.idle_timeout"),
        ({}, "there is no request.dbsession"),
    ],
)
def test_an_application_that_cannot_be_used(
    name, lite, make_ini, settings, text
):
    """What is wrong with the application is a sentence, with code 1."""
    code, out, err = make_ini(lite).write(**settings).call(name)
    assert (1, "") == (code, out)
    assert err.startswith(f"{name}: ")
    assert text in err


def test_sections(lite, make_ini, make_world):
    """The part behind # names the section of the application."""
    other = make_world()
    ini = make_ini(lite).write(
        "other",
        limited__sqlalchemy__url=other.url,
        limited__table_name=other.table.name,
        app__now=START,
    )
    put(lite, (DEAD, DEAD))
    put(other, (DEAD, DEAD))
    code, _, _ = ini.trim(section="#other")
    assert 0 == code
    assert ([(DEAD, DEAD)], []) == (times(lite), times(other))


def test_a_section_that_is_not_there(name, lite, make_ini):
    """An unknown section is told by its name, not by a traceback."""
    code, out, err = make_ini(lite).call(name, section="#nowhere")
    assert (1, "") == (code, out)
    assert "nowhere" in err


def test_variables(lite, make_ini):
    """name=value on the command line fills %(name)s in the file."""
    put(lite, (DEAD, DEAD), (START, START))
    ini = make_ini(lite).write(
        limited__sqlalchemy__url=lite.url,
        limited__table_name="%(rows)s",
        app__now="%(time)s",
    )
    code, _, err = ini.trim(f"rows={lite.table.name}", f"time={START}")
    assert (0, "") == (code, err)
    assert [(START, START)] == times(lite)


def test_nothing_secret_is_printed(world, make_ini):
    """P6: keys and contents are in no command's output, not even with -v."""
    put(world, (DEAD, DEAD), (START, START))
    ini = make_ini(world)
    runs = [
        ini.init("-v"),
        ini.init("-v", "--sql"),
        ini.trim("-v", "--dry-run"),
        ini.trim("-v"),
    ]
    printed = "".join(out + err for _, out, err in runs)
    assert [] == [key for key in ("2::", "0" * 8) if key in printed]
