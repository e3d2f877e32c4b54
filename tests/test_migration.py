"""pls-migration: real ini files, Alembic folders and databases."""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.orm import DeclarativeBase

from pyramid_limitedsession import SessionMixin, make_table
from pyramid_limitedsession.tokens import key_of, make_token
from tests.alembic_site import (
    ADDED,
    VERSIONS,
    AlembicSite,
    empty_place,
    old_table,
)
from tests.apps import START, World

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "migrations.rst").read_text(encoding="utf-8")
STATEMENT = re.compile(r"^    ((?:ALTER|CREATE) [^;]+);$", re.M)
SERVERS = ("postgresql", "mariadb")
WROTE = (
    r"wrote (\S+_(make|upgrade)_the_sessions_table\.py), which "
    r"(makes|upgrades) the table '([^\n]*?)'([^\n]*); "
    r"run: alembic -c (\S+) upgrade (\S+)\n"
)
TOKEN = make_token()


@pytest.fixture(name="make_site")
def _make_site(databases, tmp_path, capsys):
    """Return a function that makes an application with Alembic."""
    sites, places = [], []

    def make(database="sqlite", table="sessions"):
        place = empty_place(databases, database, tmp_path)
        places.append(place)
        name, url = place.__enter__()
        path = tmp_path / str(len(sites))
        path.mkdir()
        site = AlembicSite(path, capsys, url=url, table=table)
        site.place = name
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.engine.dispose()
    for place in places:
        place.__exit__(None, None, None)


@pytest.fixture(name="site")
def _site(make_site, database):
    """An application on each database, without the sessions table."""
    return make_site(database)


@pytest.fixture(name="lite")
def _lite(make_site):
    """An application where the database makes no difference."""
    return make_site()


@pytest.fixture(name="use")
def _use(clock):
    """Return a function that uses sessions, and returns what was read.

    Two new ones of a user, the second ended; and one that was there before,
    if there was one.
    """
    worlds = []

    def use(site, **settings):
        world = World(
            site.url,
            "joined",
            clock=clock,
            table=site.table,
            settings={
                f"limitedsession.{name}": settings[name] for name in settings
            },
        )
        worlds.append(world)

        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return dict(request.session)

        @world.on("out")
        def _(request):
            request.session.invalidate()
            return {}

        first, second, old = world.browser(), world.browser(), world.browser()
        first.get("/set?a=1&auth.userid=ann")
        second.get("/set?a=2")
        second.get("/out")
        old.set_cookie("session", TOKEN)
        return [browser.get("/set").json for browser in (first, second, old)]

    yield use
    for world in worlds:
        world.store.engine.dispose()
        world.engine.dispose()


USED = [{"a": "1", "auth.userid": "ann"}, {}]
MOMENT = datetime.datetime.fromtimestamp(START, datetime.timezone.utc)
ROW = {
    "session_id": key_of(TOKEN),
    "data": '{"old": "1"}',
    "version": 7,
    "created_at": MOMENT.replace(tzinfo=None),
    "updated_at": MOMENT.replace(tzinfo=None),
}
OTHER = ROW | {"session_id": key_of(make_token()), "expires_at": None}


def put(site, table):
    """Make a table of an earlier version, with two rows."""
    table.metadata.create_all(site.engine)
    with site.engine.begin() as connection:
        connection.execute(table.insert(), [ROW | {"expires_at": None}, OTHER])
    return table


def rows(site, table):
    """Return the rows, by the columns that a version has."""
    with site.engine.connect() as connection:
        query = sa.select(table).order_by(table.c.id)
        return [row._asdict() for row in connection.execute(query)]


def metadata(site, schema=None, **options):
    """Return a metadata that holds our table only."""
    made = sa.MetaData(**options)
    make_table(made, site.table, schema)
    return made


def mixed(site):
    """Return the metadata of an application that uses the mixin."""

    class Base(DeclarativeBase):
        pass

    class WebSession(SessionMixin, Base):
        __tablename__ = site.table

    return Base.metadata


def exists(site, schema=None):
    """Say whether the table is there."""
    return sa.inspect(site.engine).has_table(site.table, schema=schema)


def columns(site):
    """Return the names of the columns that are there."""
    found = sa.inspect(site.engine).get_columns(site.table)
    return [column["name"] for column in found]


def indexes(site):
    """Return the names of the indexes that are there."""
    found = sa.inspect(site.engine).get_indexes(site.table)
    return {index["name"] for index in found}


def text_of(site):
    """Return the text of the one revision that was written."""
    (path,) = site.files()
    text = path.read_text(encoding="utf-8")
    compile(text, path, "exec")
    assert "limitedsession" not in text
    return text


# -- the three cases -------------------------------------------------------

CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


def test_a_missing_table(site, use):
    """The revision makes the table; then nothing differs, and it works."""
    code, out, err = site.call()
    assert (0, "") == (code, err)
    found = re.fullmatch(WROTE, out)
    assert ("make", "makes", "sessions", "") == found.group(2, 3, 4, 5)
    assert [Path(found[1]).name] == [path.name for path in site.files()]
    assert (str(site.ini), "head") == found.group(6, 7)
    text_of(site)
    assert not exists(site)
    site.upgrade()
    for wanted in (
        metadata(site),
        metadata(site, naming_convention=CONVENTION),
        mixed(site),
    ):
        assert [] == site.differences(wanted)
        command.check(site.config(metadata=wanted))
    assert [*USED, {}] == use(site)


def test_the_downgrade_of_a_missing_table(site):
    """Back again, the table is gone."""
    site.call()
    site.upgrade()
    assert exists(site)
    site.downgrade()
    assert not exists(site)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_earlier_version(site, version, use):
    """Its rows stay, its sessions live on, and then nothing differs."""
    old = put(site, old_table(version, "sessions"))
    before = rows(site, old)
    code, out, err = site.call()
    assert (0, "") == (code, err)
    found = re.fullmatch(WROTE, out)
    assert ("upgrade", "upgrades", "sessions", "") == found.group(2, 3, 4, 5)
    text_of(site)
    site.upgrade()
    for wanted in (metadata(site), mixed(site)):
        assert [] == site.differences(wanted)
    (now,) = metadata(site).tables.values()
    empty = dict.fromkeys(ADDED)
    assert [row | empty for row in before] == rows(site, now)
    assert (0, f"nothing to do: {UP_TO_DATE}\n", "") == site.call()
    assert [*USED, {"old": "1"}] == use(site)
    # What is deployed later is the application.
    with site.engine.begin() as connection:
        connection.execute(old.insert(), ROW | {"session_id": "2::later"})


@pytest.mark.parametrize("version", VERSIONS)
def test_the_downgrade_of_an_earlier_version(site, version):
    """Back again, the table is as it was, with its rows."""
    old = put(site, old_table(version, "sessions"))
    before = rows(site, old)
    site.call()
    site.upgrade()
    site.downgrade()
    assert [column.name for column in old.columns] == columns(site)
    assert [] == site.differences(old.metadata)
    assert before == rows(site, old)


UP_TO_DATE = "the table 'sessions' is up to date"


def test_nothing_to_do(site):
    """A table that is as it should be needs no revision."""
    metadata(site).create_all(site.engine)
    assert (0, f"nothing to do: {UP_TO_DATE}\n", "") == site.call()
    facts = {"table": "sessions", "change": None, "left": []}
    assert facts == site.facts()
    assert (0, "", "") == site.call("--quiet")
    assert (0, f"nothing to do: {UP_TO_DATE}\n", "") == site.call("--dry-run")
    assert [] == site.files()


# -- what is not ours ------------------------------------------------------


def test_what_an_application_added_stays(site):
    """Its columns, indexes and their rows are neither dropped nor named."""
    put(site, old_table(2, "sessions"))
    site.run(
        "CREATE TABLE shops (id INTEGER PRIMARY KEY)",
        "ALTER TABLE sessions ADD COLUMN shop INTEGER REFERENCES shops (id)",
        "ALTER TABLE sessions ADD COLUMN device VARCHAR(30) DEFAULT 'pc'",
        "CREATE INDEX by_device ON sessions (device)",
        "CREATE INDEX by_activity ON sessions (updated_at)",
    )
    facts = site.facts()
    assert ("upgrade", []) == (facts["change"], facts["left"])
    text = text_of(site)
    assert not [name for name in ("device", "by_activity") if name in text]
    for move in (site.upgrade, site.downgrade):
        move()
        assert "device" in columns(site)
        assert {"by_device", "by_activity"} <= indexes(site)
        with site.engine.connect() as connection:
            found = connection.execute(sa.text("SELECT device FROM sessions"))
            assert ["pc", "pc"] == list(found.scalars())


def test_what_an_application_added_is_no_reason(site):
    """A table with more than we need is up to date."""
    metadata(site).create_all(site.engine)
    site.run(
        "ALTER TABLE sessions ADD COLUMN device VARCHAR(30) NOT NULL "
        "DEFAULT 'pc'",
        "CREATE INDEX by_activity ON sessions (updated_at)",
        "CREATE TABLE sessions_log (id INTEGER PRIMARY KEY)",
    )
    assert (0, f"nothing to do: {UP_TO_DATE}\n", "") == site.call()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_sqlalchemy_does_not_know(site, database):
    """An index on an expression is no reason for a warning either."""
    put(site, old_table(2, "sessions"))
    site.run("CREATE INDEX by_size ON sessions (length(data))")
    code, _, err = site.call()
    assert (0, "") == (code, err)
    assert "by_size" not in text_of(site)
    site.upgrade()
    assert (0, f"nothing to do: {UP_TO_DATE}\n", "") == site.call()


CHANGES = {
    "postgresql": (
        "ALTER TABLE sessions ALTER COLUMN data TYPE VARCHAR(9000)",
        "ALTER TABLE sessions ALTER COLUMN version DROP NOT NULL",
        "COMMENT ON TABLE sessions IS 'of the web site'",
        "COMMENT ON COLUMN sessions.id IS 'a number'",
        "DROP INDEX ix_sessions_expires_at",
        "CREATE INDEX ix_sessions_expires_at "
        "ON sessions (expires_at, updated_at)",
    ),
    "mariadb": (
        "ALTER TABLE sessions MODIFY data MEDIUMTEXT NOT NULL",
        "ALTER TABLE sessions MODIFY version INTEGER NULL",
        "ALTER TABLE sessions COMMENT 'of the web site'",
        "DROP INDEX ix_sessions_expires_at ON sessions",
        "CREATE INDEX ix_sessions_expires_at "
        "ON sessions (expires_at, updated_at)",
    ),
}
LEFT = [
    "the column 'data'",
    "the column 'version'",
    "the index 'ix_sessions_expires_at'",
]


@pytest.mark.parametrize("database", SERVERS)
def test_what_an_operator_changed_stays(site, database):
    """It is told, and not changed back; what is missing is added."""
    put(site, old_table(2, "sessions"))
    site.run(*CHANGES[database])
    code, out, err = site.call()
    assert (0, "") == (code, err)
    found = re.fullmatch(WROTE, out)
    told = f"; unlike this package's own, and left so: {', '.join(LEFT)}"
    assert told == found[5]
    before = site.differences(metadata(site))
    text = text_of(site)
    assert not [name for name in ("'data'", "expires_at") if name in text]
    site.upgrade()
    now = site.differences(metadata(site))
    # What differed differs, but for three columns and their index.
    assert len(before) - 4 == len(now)
    assert LEFT == site.facts()["left"]
    line = f"nothing to do: {UP_TO_DATE}{told}\n"
    assert (0, line, "") == site.call()


def test_a_table_of_somebody_else(site):
    """Without a column that every version has, nothing is written."""
    put(site, old_table(2, "sessions"))
    site.run("ALTER TABLE sessions DROP COLUMN version")
    code, out, err = site.call()
    assert (1, "") == (code, out)
    assert "'sessions' is none of this package's: it lacks version;" in err
    assert [] == site.files()


# -- SQLite: ids -----------------------------------------------------------

IDS = "the ids (SQLite gives them out again)"
DEPENDING = {
    "a column": "ALTER TABLE sessions ADD COLUMN device VARCHAR(30)",
    "an index": "CREATE INDEX by_activity ON sessions (updated_at)",
    "a trigger": "CREATE TRIGGER made AFTER DELETE ON sessions "
    "BEGIN SELECT 1; END",
    "a view": "CREATE VIEW live AS SELECT id FROM Sessions",
    "a table": "CREATE TABLE log (session INTEGER REFERENCES sessions (id))",
}


def test_ids_are_not_given_out_again(lite):
    """After the upgrade of the first version SQLite gives no id again."""
    put(lite, old_table(1, "sessions"))
    assert "AUTOINCREMENT" not in lite.sql("sessions")
    lite.call()
    lite.upgrade()
    assert "AUTOINCREMENT" in lite.sql("sessions")
    lite.run("DELETE FROM sessions")
    (table,) = metadata(lite).tables.values()
    with lite.engine.begin() as connection:
        connection.execute(table.insert(), ROW)
    assert [3] == [row["id"] for row in rows(lite, table)]
    lite.downgrade()
    assert "AUTOINCREMENT" in lite.sql("sessions")


def test_ids_of_a_table_that_was_upgraded_by_hand(lite):
    """Where only that is missing the revision does only that."""
    put(lite, old_table(1, "sessions"))
    lite.run(
        "ALTER TABLE sessions ADD COLUMN user_id VARCHAR(190)",
        "ALTER TABLE sessions ADD COLUMN profile VARCHAR(40)",
        "ALTER TABLE sessions ADD COLUMN ended VARCHAR(20)",
        "CREATE INDEX ix_sessions_user_id ON sessions (user_id)",
        "UPDATE sessions SET user_id = id",
    )
    assert "upgrade" == lite.facts()["change"]
    lite.upgrade()
    assert "AUTOINCREMENT" in lite.sql("sessions")
    assert [] == lite.differences(metadata(lite))
    (table,) = metadata(lite).tables.values()
    assert ["1", "2"] == [row["user_id"] for row in rows(lite, table)]
    lite.downgrade()
    assert ["1", "2"] == [row["user_id"] for row in rows(lite, table)]


@pytest.mark.parametrize("what", DEPENDING)
def test_ids_where_a_copy_would_lose_something(lite, what):
    """With parts of an application the table is not copied; that is told."""
    put(lite, old_table(1, "sessions"))
    lite.run(DEPENDING[what])
    query = sa.text("SELECT name FROM sqlite_master")
    with lite.engine.connect() as connection:
        before = set(connection.execute(query).scalars())
    told = [IDS]
    assert told == lite.facts()["left"]
    assert "drop_table" not in text_of(lite)
    lite.upgrade()
    with lite.engine.connect() as connection:
        assert before <= set(connection.execute(query).scalars())
    assert set(ADDED) <= set(columns(lite))
    found = lite.facts()
    assert (None, told) == (found["change"], found["left"])


@pytest.mark.parametrize("quoted", ['"{}"', "[{}]"])
def test_ids_where_something_depends_on_a_strange_name(make_site, quoted):
    """The table is found in a view however it is quoted there."""
    site = make_site(table='the "old" ones')
    put(site, old_table(1, site.table))
    name = site.table.replace('"', '""') if '"' in quoted else site.table
    site.run(f"CREATE VIEW live AS SELECT id FROM {quoted.format(name)}")
    assert [IDS] == site.facts()["left"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("version INTEGER", "version INTEGER CHECK (version > 0)", [IDS]),
        ("data TEXT", "data BLOB", ["the column 'data'", IDS]),
        ("data TEXT NOT NULL", "data TEXT", ["the column 'data'", IDS]),
    ],
)
def test_ids_of_a_table_that_was_made_by_hand(lite, old, new, told):
    """What a copy would not have is a reason too."""
    put(lite, old_table(1, "other"))
    lite.run(lite.sql("other").replace("other", "sessions").replace(old, new))
    assert told == lite.facts()["left"]
    assert "drop_table" not in text_of(lite)


@pytest.mark.parametrize("part", ["sessions_log", "my sessions"])
def test_ids_beside_tables_with_similar_names(lite, part):
    """Tables of an application's own that have nothing to do with ours."""
    put(lite, old_table(1, "sessions"))
    name = f'"{part}"'
    lite.run(f"CREATE TABLE {name} (id INTEGER)")
    expected = "sessions" in part.split()
    assert expected == bool(lite.facts()["left"])


# -- names -----------------------------------------------------------------

NAMES = (
    'a"; drop table x; --',
    "a`b'c",
    "with spaces",
    "order",
    "Mixed",
    "a.b",
    "a :b",
    "ten % off",
    "a {0} ${x}",
    "größe",
    "back\\slash",
    '"""',
    "x" * 48,
)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_a_missing_table(make_site, name, use):
    """Under whatever name, the table is made, used, and dropped again."""
    site = make_site(table=name)
    assert 0 == site.call()[0]
    text_of(site)
    site.upgrade()
    assert {"alembic_version", name} == set(
        sa.inspect(site.engine).get_table_names()
    )
    assert [*USED, {}] == use(site)
    site.downgrade()
    assert not exists(site)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_an_earlier_version(make_site, name, use):
    """Under whatever name, the table is upgraded with its rows."""
    site = make_site(table=name)
    put(site, old_table(1, name))
    assert 0 == site.call()[0]
    text_of(site)
    site.upgrade()
    assert None is site.facts()["change"]
    assert [*USED, {"old": "1"}] == use(site)


@pytest.mark.parametrize("database", SERVERS)
def test_names_on_servers(make_site, database, use):
    """The same on the servers, whose drivers have their own quoting."""
    name = 'a"; drop table x; -- 10 % off'
    site = make_site(database, table=name)
    old = put(site, old_table(2, name))
    assert 0 == site.call()[0]
    site.upgrade()
    assert None is site.facts()["change"]
    assert [*USED, {"old": "1"}] == use(site)
    site.downgrade()
    assert 3 == len(rows(site, old))
    old.drop(site.engine)
    assert "make" == site.facts()["change"]
    site.files()[0].unlink()


# -- schemas ---------------------------------------------------------------


@pytest.mark.parametrize("database", SERVERS)
@pytest.mark.parametrize("version", [0, *VERSIONS])
def test_a_schema(make_site, database, version, use):
    """With schema = NAME only the table there matters, and is changed."""
    site, there = make_site(database), make_site(database)
    schema = there.place
    site.run("CREATE TABLE sessions (id INTEGER PRIMARY KEY)")
    site.app["limitedsession.schema"] = schema
    site.write()
    if version:
        put(site, old_table(version, "sessions", schema))
    facts = site.facts()
    assert f"{schema}.sessions" == facts["table"]
    assert ("upgrade" if version else "make") == facts["change"]
    site.upgrade()
    assert ["id"] == columns(site)
    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, parents: (
            kind != "schema" or name == schema
        ),
    }
    assert [] == site.differences(metadata(site, schema), **options)
    assert None is site.facts()["change"]
    old = {"old": "1"} if version else {}
    assert [*USED, old] == use(site, schema=schema)
    site.downgrade()
    assert bool(version) == exists(site, schema)


@pytest.mark.parametrize("database", SERVERS)
def test_the_schema_that_is_the_default(make_site, database):
    """It may be named, though the database does not name it."""
    site = make_site(database)
    site.app["limitedsession.schema"] = site.place
    site.write()
    put(site, old_table(2, "sessions"))
    assert "upgrade" == site.facts()["change"]
    site.upgrade()
    assert set(ADDED) <= set(columns(site))
    assert None is site.facts()["change"]


# -- the application's Alembic folder --------------------------------------


def test_it_follows_the_head(lite):
    """The revision follows the application's last one, run or not."""
    own = lite.revise("own")
    lite.call()
    script = lite.scripts().get_revision("head")
    assert own.revision == script.down_revision
    lite.upgrade()
    assert exists(lite)


def test_twice_before_the_upgrade(lite):
    """It looks at the database only: another revision is written.

    Whoever deletes the second has lost nothing.
    """
    first = lite.facts()
    second = lite.facts()
    assert first["revision"] != second["revision"]
    script = lite.scripts().get_revision(second["revision"])
    assert first["revision"] == script.down_revision
    Path(second["path"]).unlink()
    lite.upgrade()
    assert [] == lite.differences(metadata(lite))


@pytest.fixture(name="heads")
def _heads(lite):
    """Two heads; the second one's parent is no head."""
    base = lite.revise("base").revision
    first = lite.revise("first").revision
    second = lite.revise("second", head=base, splice=True).revision
    return base, first, second


def test_several_heads(lite, heads):
    """Which head the revision is to follow has to be said."""
    _, first, second = heads
    code, out, err = lite.call()
    assert (2, "") == (code, out)
    assert "say with --head which head the revision is to follow: " in err
    assert first in err
    assert second in err
    assert 3 == len(lite.files())


def test_head(lite, heads):
    """With --head it follows that one; the line tells how to run it."""
    _, first, second = heads
    code, out, _ = lite.call("--head", second)
    assert 0 == code
    *_, revision = re.fullmatch(WROTE, out).groups()
    script = lite.scripts().get_revision(revision)
    assert second == script.down_revision
    assert {first, revision} == set(lite.scripts().get_heads())
    lite.upgrade(revision)
    assert exists(lite)


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_a_head_that_is_none(lite, heads, option):
    """What is unknown, or is followed already, is wrong use."""
    for head in ("nonsense", heads[0]):
        code, out, err = lite.call("--head", head, *option)
        assert (2, "") == (code, out)
        assert "--head" in err
    assert 3 == len(lite.files())


def test_config(lite):
    """--config names the ini file that has the section [alembic]."""
    other = lite.ini.parent / "my alembic.ini"
    lite.ini.rename(other)
    lite.alembic = {}
    lite.write()
    code, out, err = lite.call()
    assert (1, "") == (code, out)
    assert "name the ini file that does with --config" in err
    assert "[alembic]" in err
    code, out, err = lite.call("--config", str(other))
    assert (0, "") == (code, err)
    assert f"; run: alembic -c '{other}' upgrade head\n" in out
    assert 1 == len(lite.files())


def test_config_that_is_missing(lite):
    """A file that is not there is wrong use."""
    code, out, err = lite.call("--config", "nowhere.ini")
    assert (2, "") == (code, out)
    assert "there is no file 'nowhere.ini'" in err


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (None, "script_location"),
        ("%(here)s/nowhere", "nowhere"),
        ("%(nowhere)s", "nowhere"),
        ("nowhere_at_all:alembic", "nowhere_at_all"),
    ],
)
def test_a_folder_that_is_missing(lite, location, reason):
    """Without a folder it is an error that says what is wrong."""
    lite.alembic["script_location"] = location
    if location is None:
        del lite.alembic["script_location"]
    lite.write()
    code, out, err = lite.call()
    assert (1, "") == (code, out)
    assert reason in err
    assert err.startswith("pls-migration: ")
    assert "Traceback" not in err


def test_a_broken_revision_of_the_application(lite):
    """What is wrong in the folder is told, and nothing is written."""
    lite.revise("own")
    (path,) = lite.files()
    path.write_text("down_revision = nothing")
    code, out, err = lite.call()
    assert (1, "") == (code, out)
    assert "'nothing' is not defined" in err
    assert [path] == lite.files()


def test_variables(lite):
    """name=value reaches both, the application and Alembic."""
    lite.app["limitedsession.table_name"] = "%(table)s"
    lite.alembic["script_location"] = "%(here)s/%(folder)s"
    lite.write()
    lite.table = "visits"
    code, _, err = lite.call("table=visits", "folder=migrations")
    assert (0, "") == (code, err)
    assert "visits" in text_of(lite)


def test_a_section(lite):
    """#section chooses the application, [alembic] stays what it is."""
    text = lite.ini.read_text()
    shop = text.partition("[alembic]")[0].replace("[app:main]", "[app:shop]")
    lite.ini.write_text(text + shop.replace("= sessions", "= carts"))
    code, out, err = lite.call(ini=f"{lite.ini}#shop")
    assert (0, "") == (code, err)
    assert f"'carts'; run: alembic -c {lite.ini} upgrade head" in out


def test_where_it_is_shown(lite, monkeypatch):
    """The path is the one from the current folder, where that is shorter."""
    monkeypatch.chdir(lite.ini.parent)
    lite.alembic["script_location"] = "migrations"
    lite.write()
    code, out, _ = lite.call(ini="development.ini")
    assert 0 == code
    assert out.startswith("wrote migrations/versions/")
    assert " alembic -c development.ini upgrade head\n" in out
    assert Path(lite.facts()["path"]).is_absolute()


# -- options ---------------------------------------------------------------


def run(site, text):
    """Run what would be the body of a function in a revision."""
    with site.engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        exec(text, {"op": op, "sa": sa})  # noqa: S102 - what we have made
    site.engine.dispose()


@pytest.mark.parametrize("version", [0, *VERSIONS])
def test_dry_run(lite, version):
    """--dry-run prints what upgrade() would do, and writes nothing."""
    if version:
        put(lite, old_table(version, "sessions"))
    code, out, err = lite.call("--dry-run")
    assert (0, "") == (code, err)
    facts = lite.facts("--dry-run")
    assert out == f"{facts['imports']}\n\n{facts['upgrade']}\n"
    assert [] == lite.files()
    run(lite, out)
    assert [] == lite.differences(metadata(lite))
    run(lite, facts["downgrade"])
    assert bool(version) == exists(lite)


def test_json(lite):
    """--json tells the facts, the path among them."""
    facts = lite.facts()
    (path,) = lite.files()
    script = lite.scripts().get_revision("head")
    assert {
        "table": "sessions",
        "change": "make",
        "left": [],
        "path": str(path),
        "revision": script.revision,
    } == facts


def test_quiet(lite):
    """--quiet writes the revision and says nothing."""
    assert (0, "", "") == lite.call("--quiet")
    text_of(lite)


def test_message(lite):
    """--message names the revision."""
    lite.call("-m", "Web's own: 100 % größer ${x}")
    (path,) = lite.files()
    assert path.name.endswith("_web_s_own_100_größer_x.py")
    assert text_of(lite).startswith('"""Web\'s own: 100 % größer ${x}\n')


@pytest.mark.parametrize("text", ['"""', "a\nb", "C:\\new"])
def test_a_message_that_cannot_be(lite, text):
    """What would break the file is wrong use."""
    code, out, err = lite.call("--message", text)
    assert (2, "") == (code, out)
    assert repr(text) in err
    assert [] == lite.files()


def test_the_application_s_own_template_and_hooks(lite):
    """Its script.py.mako is used, its hooks are run; they say nothing."""
    template = lite.folder / "script.py.mako"
    own = "# ${config.get_main_option('sqlalchemy.url')}\n"
    template.write_text(own + template.read_text())
    lite.ini.write_text(
        lite.ini.read_text()
        + "\n[post_write_hooks]\nhooks = link\nlink.type = exec\n"
        "link.executable = ln\nlink.options = -s REVISION_SCRIPT_FILENAME "
        f"{lite.folder}/last.py\n"
    )
    code, out, err = lite.call()
    assert (0, "") == (code, err)
    assert re.fullmatch(WROTE, out)
    text = (lite.folder / "last.py").read_text()
    assert text.startswith(f"# {lite.url}\n")


def test_a_template_without_upgrades(lite):
    """A template for several databases leaves no empty revision behind."""
    template = lite.folder / "script.py.mako"
    text = template.read_text()
    template.write_text(text.replace("upgrades", "engine1_upgrades"))
    code, out, err = lite.call()
    assert (1, "") == (code, out)
    assert "--dry-run" in err
    assert [] == lite.files()


def test_a_file_that_alembic_does_not_find(lite):
    """A name that Alembic itself passes over is an error."""
    lite.alembic["file_template"] = ".#%(rev)s"
    lite.write()
    code, out, err = lite.call()
    assert (1, "") == (code, out)
    assert "does not find what it has written" in err


def test_without_alembic(lite, monkeypatch):
    """Without the extra, the sentence says what to install."""
    monkeypatch.setitem(sys.modules, "alembic.config", None)
    code, out, err = lite.call()
    assert (1, "") == (code, out)
    assert "pip install 'pyramid_limitedsession[migrations]'" in err


# -- autogenerate, and by hand ---------------------------------------------


@pytest.mark.parametrize("target", [metadata, mixed])
@pytest.mark.parametrize("version", [0, 2])
def test_autogenerate(lite, target, version, use):
    """An application's own revision makes or upgrades the table as well."""
    if version:
        put(lite, old_table(version, "sessions"))
    config = lite.config(metadata=target(lite))
    command.revision(config, "sessions", autogenerate=True)
    text_of(lite)
    lite.upgrade()
    assert [] == lite.differences(metadata(lite))
    assert None is lite.facts()["change"]
    assert [*USED, {"old": "1"} if version else {}] == use(lite)


def test_by_hand(site, database):
    """The statements in the docs bring an earlier table up to date."""
    put(site, old_table(2, "sessions"))
    page = DOCS.partition("By hand, on")[2]
    lite, server = page.split("On MariaDB and MySQL::")
    for text in (lite, server):
        assert 4 == len(STATEMENT.findall(text))
    found = STATEMENT.findall(server if database == "mariadb" else lite)
    site.run(*found)
    assert [] == site.differences(metadata(site))
    assert None is site.facts()["change"]


def test_the_line_in_the_docs(lite, monkeypatch):
    """What the docs show is what is printed."""
    monkeypatch.chdir(lite.ini.parent)
    _, out, _ = lite.call(ini="development.ini")
    shown = re.search(r"^    wrote .*\n    .*$", DOCS, re.M)[0]
    expected = re.sub(r"[0-9a-f]{12}", "ID", " ".join(shown.split()))
    expected = expected.replace("shop/alembic/", "migrations/")
    assert expected == re.sub(r"[0-9a-f]{12}", "ID", out.strip())


# -- who makes the table ---------------------------------------------------


@pytest.mark.parametrize("create", ["auto", "false"])
def test_separate_mode(lite, create):
    """An application that makes its table at the start leaves nothing."""
    del lite.app["app.url"]
    lite.app["limitedsession.sqlalchemy.url"] = lite.url
    lite.app["limitedsession.create_table"] = create
    lite.write()
    change = None if create == "auto" else "make"
    assert change == lite.facts()["change"]
    assert (create == "auto") == exists(lite)


def test_a_database_that_does_not_answer(lite):
    """It is told in a sentence, without a file."""
    lite.app["app.url"] = "sqlite:////nowhere/at/all.sqlite"
    lite.write()
    code, out, err = lite.call()
    assert (1, "") == (code, out)
    assert "unable to open database file" in err
    assert [] == lite.files()
