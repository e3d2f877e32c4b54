"""What all pls-* commands share, and pls-init: real ini files, databases
and processes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from tests.apps import START
from tests.commands import COMMANDS, DAY, VARIABLE, Ini, main_of, put, times

DEAD = START - 31 * DAY


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


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


# -- exit codes and texts --------------------------------------------------


@pytest.fixture(name="name", params=COMMANDS)
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
        main_of(name)([])
    assert 2 == caught.value.code
    assert f"usage: {name}" in capsys.readouterr().err


def test_a_missing_ini_file(name, lite, make_ini):
    """A file that is not there is a wrong use, and named."""
    ini = make_ini(lite)
    ini.path.unlink()
    code, out, err = ini.work(name)
    assert (2, "") == (code, out)
    assert f"there is no file '{ini.path}'" in err


@pytest.mark.parametrize("argument", ["--nonsense", "novalue"])
def test_wrong_use(name, lite, make_ini, argument):
    """An unknown option, and a variable without a value, exit with 2."""
    code, out, err = make_ini(lite).work(name, argument)
    assert (2, "") == (code, out)
    # A variable may hold a password: it is not repeated.
    assert "name=value" if argument == "novalue" else argument in err


def test_quiet(name, world, make_ini):
    """--quiet prints nothing, and the command works all the same."""
    if name == "pls-migration":
        # It has a line for an application without Alembic only.
        code, out, _ = make_ini(world).work(name, "--quiet")
        assert (1, "") == (code, out)
        return
    code, out, err = make_ini(world).work(name, "--quiet")
    assert ("", "") == (out, err)
    assert code == (name == "pls-doctor" and code)


def test_json(name, lite, make_ini):
    """--json prints one JSON object, on one line."""
    if name == "pls-migration":
        return
    _, out, err = make_ini(lite).work(name, "--json")
    assert "" == err
    assert out.count("\n") == 1
    assert isinstance(json.loads(out), dict)


def test_json_or_quiet(name, lite, make_ini):
    """Both at once make no sense."""
    code, out, err = make_ini(lite).work(name, "--json", "--quiet")
    assert (2, "") == (code, out)
    assert "--quiet" in err


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
    code, out, err = down.work(name)
    told = out if name == "pls-doctor" else err
    assert 1 == code
    assert f"{name}: " in told or "cannot be used" in told
    assert "Traceback" not in out + err
    assert "hunter2" not in out + err


@pytest.mark.parametrize("mode", ["separate"])
def test_a_database_that_is_down_verbosely(down):
    """-v shows the traceback, without the password."""
    code, out, err = down.run("pls-trim", "-v")
    assert (1, "") == (code, out)
    assert "Traceback (most recent call last)" in err
    assert "hunter2" not in err


@pytest.mark.parametrize(
    "name", sorted(COMMANDS.keys() - {"pls-init", "pls-migration"})
)
@pytest.mark.parametrize("mode", ["separate"])
def test_without_a_table(name, bare, make_ini):
    """Where the table is missing, the sentence says how to make it."""
    code, out, err = make_ini(bare).work(name)
    assert 1 == code
    assert "pls-init" in out + err
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
    code, out, err = make_ini(lite).write(**settings).work(name)
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
    code, out, err = make_ini(lite).work(name, section="#nowhere")
    assert (2, "") == (code, out)
    assert "has no section [app:nowhere]" in err


def test_wrong_settings_are_told_plainly(lite, make_ini):
    """The line of a wrong setting, and nothing of how it was found."""
    code, out, err = make_ini(lite, limited__idle_timeot="3").work("pls-stats")
    assert (1, "") == (code, out)
    assert "did you mean limitedsession.idle_timeout?" in err
    assert "class" not in err
    assert "Line 0" not in err


def test_an_application_that_is_not_installed(lite, make_ini):
    """It is said how to make it found."""
    ini = make_ini(lite)
    text = ini.path.read_text().replace("tests.ini_app", "no_such_app")
    ini.path.write_text(text)
    code, out, err = ini.call("pls-stats")
    assert (1, "") == (code, out)
    assert "PYTHONPATH=." in err


@pytest.mark.parametrize("is_last", [True, False])
def test_variables(lite, make_ini, is_last):
    """name=value fills %(name)s in the file, before and behind options."""
    put(lite, (DEAD, DEAD), (START, START))
    ini = make_ini(lite).write(
        limited__sqlalchemy__url=lite.url,
        limited__table_name="%(rows)s",
        app__now="%(time)s",
    )
    variables = [f"rows={lite.table.name}", f"time={START}"]
    days = ["--days", "30"]
    given = [*days, *variables] if is_last else [*variables, *days]
    code, _, err = ini.trim(*given)
    assert (0, "") == (code, err)
    assert [(START, START)] == times(lite)


def test_nothing_secret_is_printed(name, world, make_ini):
    """P6: keys, contents and users are in no output, not even with -v."""
    ann = {"user_id": "ann", "data": '{"canary": 1}'}
    put(world, (DEAD, DEAD), (START, START), **ann)
    ini = make_ini(world)
    printed = "".join(
        map(str, ini.work(name, "-v") if name != "pls-migration" else "")
    )
    printed += "".join(map(str, ini.work(name, "--json")))
    found = [
        each for each in ("2::", "0" * 20, "canary", "ann") if each in printed
    ]
    assert [] == found


def test_no_password_in_the_error_of_an_ini_file(name, lite, make_ini):
    """A percent sign in a password: the option is named, not its value."""
    ini = make_ini(lite).write(
        limited__sqlalchemy__url="postgresql://ann:hunter2%40@127.0.0.1/x"
    )
    code, out, err = ini.work(name)
    assert (1, "") == (code, out)
    assert "hunter2" not in err
    assert "percent sign" in err


def test_a_reader_that_has_seen_enough(lite, make_ini):
    """A pipe that is closed, as by head, is no error."""
    ini = make_ini(lite)
    environ = {"PYTHONUNBUFFERED": ""}
    with ini.process("pls-stats", environ=environ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (0, "") == (process.returncode, err)
