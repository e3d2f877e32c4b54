"""pls-doctor, with real ini files, applications and databases.

A test makes a healthy set-up ill in one way. pls-doctor has to find that and
nothing else, and once its cure has been carried out, nothing at all.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import sqlalchemy as sa

from pyramid_limitedsession.doctor.sqlfacts import look_at_application
from tests.apps import World
from tests.commands import DAY, Ini, main_of, put

SERVERS = ("postgresql", "mariadb")
STATEMENT = re.compile(r"(?:ALTER|CREATE|DROP|PRAGMA|SET|VACUUM) [^;]*;")
COMMAND = re.compile(r"'(pls-[a-z]+) ([^']*)'")
SETTING = re.compile(r"\bset ((?:limitedsession|tm)\.[\w.]+) = ([\w.-]+)")
TAKEN_OUT = re.compile(r"\btake (limitedsession\.[\w.]+) out")


class Patient(Ini):
    """A set-up, and what pls-doctor says about it.

    :ivar settings: of its application, by their keys.
    :ivar is_alone: nobody else uses its database.
    :ivar server: of the ini file's ``[server:main]``.
    """

    def __init__(self, world: Any, path: Any, capsys: Any) -> None:
        super().__init__(path, capsys)
        self.world = world
        self.server: dict[str, str] = {}
        key = "limitedsession.sqlalchemy.url"
        self.last: Any = None
        self.is_alone = False
        self.url_key = "app.url" if world.mode == "joined" else key
        self.settings = {
            self.url_key: world.url,
            "limitedsession.table_name": world.table.name,
            "limitedsession.create_table": "false",
        }

    def doctor(self, *arguments: str) -> Any:
        """Call pls-doctor; return its exit code, stdout and stderr."""
        self.write_file()
        return self.call("pls-doctor", *arguments)

    def write_file(self) -> None:
        """Write the ini file."""
        sections = {"app:main": self.settings, "server:main": self.server}
        lines = []
        for name, values in sections.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {values[key]}" for key in values]
        lines.insert(1, "use = call:tests.doctor_app:main")
        self.path.write_text("\n".join(lines))

    def report(self, *arguments: str) -> Any:
        """Return the report as JSON."""
        code, out, err = self.doctor("--json", *arguments)
        self.last = json.loads(out)
        levels = {finding["level"] for finding in self.last["findings"]}
        assert ("error" in levels, "") == (code, err)
        return self.last

    def ills(self, *arguments: str) -> list[str]:
        """Return each finding's level and name."""
        return [
            f"{finding['level']} {finding['name']}"
            for finding in self.report(*arguments)["findings"]
        ]

    def sql(self, *statements: str) -> None:
        """Run statements, as a database's own shell does."""
        engine = sa.create_engine(self.world.url, isolation_level="AUTOCOMMIT")
        connection = engine.raw_connection()
        try:
            if engine.dialect.name == "postgresql":
                connection.dbapi_connection.autocommit = True
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.replace("{}", self.world.table.name))
            connection.commit()
        finally:
            connection.close()
            engine.dispose()

    def cure(self) -> None:
        """Do what the last findings say, in the order they were told."""
        for finding in self.last["findings"]:
            cure = finding["cure"]
            if not self.is_alone:
                # That waits for whoever else is in the database.
                cure = cure.replace(" INDEX CONCURRENTLY ", " INDEX ")
            statements = STATEMENT.findall(cure)
            commands = COMMAND.findall(cure)
            settings = SETTING.findall(cure)
            taken_out = TAKEN_OUT.findall(cure)
            assert statements or commands or settings or taken_out, cure
            self.settings |= dict(settings)
            for key in taken_out:
                del self.settings[key]
            self.sql(*statements)
            self.write_file()
            for name, path in commands:
                assert str(self.path) == path
                assert 0 == main_of(name)([path])
            self._capsys.readouterr()


@pytest.fixture(name="make_patient")
def _make_patient(make_world, tmp_path, capsys, clock):
    """Return a function that makes healthy set-ups."""
    files = []

    def make(database="sqlite", mode="separate"):
        if database != "sqlite":
            world = make_world(database, mode)
        else:
            # A file of its own: the journal is a property of the file.
            url = f"sqlite:///{tmp_path}/test.sqlite"
            world = World(url, mode, clock=clock, table="sessions")
            files.append(world)
        return Patient(world, tmp_path / "test.ini", capsys)

    yield make
    for world in files:
        world.close()


@pytest.fixture(name="patient")
def _patient(make_patient, database, mode):
    """A healthy set-up on each database, in each mode."""
    return make_patient(database, mode)


@pytest.fixture(name="lite")
def _lite(make_patient):
    """A healthy set-up where the database makes no difference."""
    return make_patient()


@pytest.fixture(name="alone")
def _alone(databases, run_name, tmp_path, capsys, clock):
    """A healthy set-up in a PostgreSQL database that nobody else uses."""
    url = sa.make_url(databases.url("postgresql"))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"pls_{run_name}_doctor"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        own = url.set(database=name).render_as_string(hide_password=False)
        world = World(own, "separate", clock=clock, table="sessions")
        patient = Patient(world, tmp_path / "test.ini", capsys)
        patient.is_alone = True
        yield patient
        world.close()
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


# -- nothing to be found -----------------------------------------------

# How many checks there are for each.
CHECKS = {
    ("sqlite", "separate"): 26,
    ("sqlite", "joined"): 28,
    ("postgresql", "separate"): 29,
    ("postgresql", "joined"): 30,
    ("mariadb", "separate"): 32,
    ("mariadb", "joined"): 33,
}


def test_healthy(patient, database, mode):
    """A good set-up gives one line and the code 0, on each database."""
    put(patient.world, (int(time.time()), int(time.time())))
    text = f"no findings ({CHECKS[database, mode]} checks)\n"
    assert (0, text, "") == patient.doctor()


@pytest.mark.parametrize("mode", ["joined"])
def test_healthy_with_a_url(patient, database, mode):
    """With --url there are two checks more."""
    text = f"no findings ({CHECKS[database, mode] + 2} checks)\n"
    patient.server["url_scheme"] = "https"
    assert (0, text, "") == patient.doctor("--url", "https://example.com")


@pytest.mark.parametrize("mode", ["joined"])
def test_nothing_is_changed(patient):
    """pls-doctor leaves rows and table as they are."""
    now = int(time.time())
    put(patient.world, (now, now), (now - 9 * DAY, now - 9 * DAY))
    before = patient.world.rows()
    patient.doctor()
    assert before == patient.world.rows()


# -- the table ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["joined"])
def test_no_table(patient):
    """A missing table is an error; the other checks are made all the same."""
    patient.world.table.drop(patient.world.engine)
    patient.settings["limitedsession.cookie_httponly"] = "false"
    assert ["error table", "warning cookie_httponly"] == patient.ills()
    assert 1 == patient.doctor()[0]
    patient.cure()
    assert [] == patient.ills()


# What makes the table ill, on which database, and what is found then.
PG, MARIADB = "postgresql", "mariadb"
ASCII = "CHARACTER SET ascii COLLATE ascii_bin"
BYTES = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
ILLS = {
    "no column that has an index": (
        {
            PG: "ALTER TABLE {} DROP COLUMN user_id",
            MARIADB: "ALTER TABLE {} DROP COLUMN user_id",
            "sqlite": "DROP INDEX ix_{}_user_id; "
            "ALTER TABLE {} DROP COLUMN user_id",
        },
        ["error columns", "warning indexes"],
    ),
    "a time with a zone": (
        {
            PG: "ALTER TABLE {} ALTER created_at TYPE timestamptz",
            MARIADB: "ALTER TABLE {} MODIFY created_at TIMESTAMP NOT NULL",
        },
        ["warning types"],
    ),
    "padded keys": (
        {PG: "ALTER TABLE {} ALTER session_id TYPE CHAR(80)"},
        ["error types"],
    ),
    "short keys": (
        {
            PG: "ALTER TABLE {} ALTER session_id TYPE VARCHAR(79)",
            MARIADB: f"ALTER TABLE {{}} MODIFY session_id VARCHAR(79) {ASCII} "
            "NOT NULL",
        },
        ["error types"],
    ),
    "short users": (
        {
            PG: "ALTER TABLE {} ALTER user_id TYPE VARCHAR(189)",
            MARIADB: f"ALTER TABLE {{}} MODIFY user_id VARCHAR(189) {BYTES}",
        },
        ["error types"],
    ),
    "no NULL": (
        {
            PG: "ALTER TABLE {} ALTER expires_at SET NOT NULL",
            MARIADB: "ALTER TABLE {} MODIFY expires_at DATETIME NOT NULL",
        },
        ["error nulls"],
    ),
    "another column": (
        {
            # SQLAlchemy does not know this type.
            PG: 'ALTER TABLE {} ADD "the Shop" BOX NOT NULL',
            MARIADB: "ALTER TABLE {} ADD `the Shop` VARCHAR(9) NOT NULL",
        },
        ["error nulls"],
    ),
    "ids of 32 bits": (
        {
            PG: "ALTER TABLE {} ALTER id TYPE INTEGER; "
            "ALTER SEQUENCE {}_id_seq AS INTEGER",
            MARIADB: "ALTER TABLE {} MODIFY id INTEGER NOT NULL "
            "AUTO_INCREMENT",
        },
        ["warning ids"],
    ),
    "a sequence of 32 bits": (
        {PG: "ALTER SEQUENCE {}_id_seq AS INTEGER"},
        ["warning ids"],
    ),
    "ids that nobody gives": (
        {
            PG: "ALTER TABLE {} ALTER id DROP DEFAULT",
            MARIADB: "ALTER TABLE {} MODIFY id BIGINT NOT NULL",
        },
        ["error ids"],
    ),
    "ids that are no key": (
        {PG: "ALTER TABLE {} DROP CONSTRAINT {}_pkey"},
        ["error ids"],
    ),
    "data of some length": (
        {
            PG: "ALTER TABLE {} ALTER data TYPE VARCHAR(65535)",
            MARIADB: f"ALTER TABLE {{}} MODIFY data TEXT {BYTES} NOT NULL",
        },
        ["error size"],
    ),
    "keys that are not unique": (
        {
            PG: "ALTER TABLE {} DROP CONSTRAINT uq_{}_session_id",
            MARIADB: "ALTER TABLE {} DROP INDEX uq_{}_session_id",
        },
        ["error unique"],
    ),
    "keys of which some are unique": (
        {
            PG: "ALTER TABLE {} DROP CONSTRAINT uq_{}_session_id; CREATE "
            "UNIQUE INDEX x_{} ON {} (session_id) WHERE ended IS NULL",
        },
        ["error unique"],
    ),
    "no index at all": (
        {
            PG: "DROP INDEX ix_{}_expires_at, ix_{}_user_id",
            MARIADB: "ALTER TABLE {} DROP INDEX ix_{}_expires_at, "
            "DROP INDEX ix_{}_user_id",
            "sqlite": "DROP INDEX ix_{}_expires_at; DROP INDEX ix_{}_user_id",
        },
        ["warning indexes", "warning indexes"],
    ),
    "an index on what moves": (
        dict.fromkeys(
            (PG, MARIADB, "sqlite"),
            "CREATE INDEX ix_{}_moves ON {} (created_at, updated_at)",
        ),
        ["warning updated_at"],
    ),
    "an index that keeps what moves": (
        {
            PG: 'CREATE INDEX "The {}" ON {} (created_at) '
            "INCLUDE (updated_at)",
        },
        ["warning updated_at"],
    ),
    "keys that are compared as words": (
        {
            MARIADB: "ALTER TABLE {} MODIFY session_id VARCHAR(255) "
            "CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL",
        },
        ["warning collation"],
    ),
    "users by the table's own collation": (
        {MARIADB: "ALTER TABLE {} MODIFY user_id VARCHAR(190)"},
        ["warning collation"],
    ),
    "no transactions": (
        {MARIADB: "ALTER TABLE {} ENGINE = Aria"},
        ["error engine"],
    ),
}


# Those that do not meet: found, and cured, together.
WAVES = {
    "columns": (
        *("a time with a zone", "padded keys", "short users", "no NULL"),
        *("another column", "ids of 32 bits", "data of some length"),
        "keys that are compared as words",
    ),
    "more columns": (
        *("no column that has an index", "short keys"),
        *("a sequence of 32 bits", "an index on what moves"),
        "keys of which some are unique",
    ),
    "indexes": (
        *("keys that are not unique", "no index at all"),
        *("an index that keeps what moves", "no transactions"),
        "users by the table's own collation",
    ),
    "ids": ("ids that nobody gives",),
    "keys": ("ids that are no key",),
}


@pytest.mark.parametrize("mode", ["separate"])
@pytest.mark.parametrize(
    ("database", "wave"),
    [
        (database, wave)
        for wave, names in WAVES.items()
        for database in (PG, MARIADB, "sqlite")
        if any(database in ILLS[name][0] for name in names)
    ],
)
def test_ill_and_cured(patient, database, wave):
    """What is wrong with the table is found; its cure makes it well."""
    ills = [ILLS[name] for name in WAVES[wave] if database in ILLS[name][0]]
    for statements, _ in ills:
        patient.sql(*statements[database].split("; "))
    expected = sorted(found for _, each in ills for found in each)
    assert expected == sorted(patient.ills())
    patient.cure()
    assert [] == patient.ills()


def test_every_ill_is_in_a_wave():
    """No case of the table above is left out."""
    assert sorted(ILLS) == sorted(
        name for wave in WAVES.values() for name in wave
    )


# A table that somebody has made by hand, with all our columns.
BY_HAND = """CREATE TABLE {{}} (
    id {id}, session_id VARCHAR(80) NOT NULL{unique}, data TEXT NOT NULL,
    version INTEGER NOT NULL, created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL, expires_at DATETIME{null},
    user_id VARCHAR(190), profile VARCHAR(40), ended VARCHAR(20){more})"""
KEPT = "INTEGER PRIMARY KEY AUTOINCREMENT"
HAND_MADE = [
    ({}, []),
    ({"unique": ""}, ["error unique"]),
    ({"null": " NOT NULL"}, ["error nulls"]),
    ({"more": ", shop TEXT NOT NULL"}, ["error nulls"]),
    ({"more": ", shop TEXT NOT NULL DEFAULT ''"}, []),
    ({"more": ", shop WHATEVER"}, []),
    ({"id": "INTEGER PRIMARY KEY"}, ["warning ids"]),
    ({"id": "BIGINT NOT NULL PRIMARY KEY"}, ["error ids"]),
    ({"id": "INTEGER NOT NULL"}, ["error ids"]),
    ({"id": "TEXT PRIMARY KEY"}, ["error ids"]),
    ({"more": ", UNIQUE (updated_at)"}, ["warning updated_at"]),
]


def make_by_hand(patient: Patient, **parts: str) -> None:
    """Make the table anew, with parts that are not as usual."""
    usual = {"id": KEPT, "unique": " UNIQUE", "null": "", "more": ""}
    patient.sql(
        "DROP TABLE {}",
        BY_HAND.format(**{**usual, **parts}),
        "CREATE INDEX e{} ON {} (expires_at)",
        "CREATE INDEX u{} ON {} (user_id)",
    )


@pytest.mark.parametrize(("parts", "expected"), HAND_MADE)
def test_a_table_made_by_hand(lite, parts, expected):
    """SQLite: what matters of a table that somebody else has made."""
    make_by_hand(lite, **parts)
    assert expected == lite.ills()


def test_a_table_made_by_hand_is_made_anew(lite):
    """What SQLite cannot change is cured by pls-init."""
    make_by_hand(lite, id="INTEGER PRIMARY KEY")
    lite.ills()
    lite.cure()
    assert [] == lite.ills()


@pytest.mark.parametrize("mode", ["separate"])
def test_somebody_elses_table(patient):
    """A table without our columns is left alone: take another name."""
    patient.sql("ALTER TABLE {} RENAME COLUMN version TO edition")
    assert ["error columns", "error nulls"] == sorted(patient.ills())
    assert "DROP" not in patient.last["findings"][0]["cure"]
    patient.settings["limitedsession.table_name"] += "_more"
    assert ["error table"] == patient.ills()
    patient.cure()
    assert [] == patient.ills()
    patient.sql("DROP TABLE {}_more")


@pytest.mark.parametrize(
    ("used", "expected"),
    [(2**30 - 1, "warning ids"), (2**30, "error ids")],
)
def test_ids_of_32_bits(make_patient, used, expected):
    """From half of the range on it is an error."""
    patient = make_patient("postgresql")
    put(patient.world, (1, int(time.time())), id=used)
    patient.sql("ALTER TABLE {} ALTER id TYPE INTEGER")
    assert [expected] == patient.ills()


def test_an_identity(make_patient):
    """PostgreSQL's identity is as good as a sequence, and widened too."""
    patient = make_patient("postgresql")
    patient.sql(
        "ALTER TABLE {} ALTER id DROP DEFAULT",
        "DROP SEQUENCE {}_id_seq",
        "ALTER TABLE {} ALTER id TYPE INTEGER",
        "ALTER TABLE {} ALTER id ADD GENERATED ALWAYS AS IDENTITY",
    )
    assert ["warning ids"] == patient.ills()
    patient.cure()
    assert [] == patient.ills()


def test_a_name_that_is_quoted(make_patient):
    """Names are quoted in cures as the database wants it."""
    patient = make_patient("postgresql")
    name = f'The "{patient.world.table.name}" %s'
    patient.settings["limitedsession.table_name"] = name.replace("%", "%%")
    try:
        for _ in range(2):
            patient.ills()
            patient.cure()
            quoted = name.replace('"', '""')
            patient.sql(f'DROP INDEX IF EXISTS "ix_{quoted}_user_id"')
        assert ["warning indexes"] == patient.ills()
    finally:
        patient.sql(f'DROP TABLE "{quoted}"')


def test_a_schema_that_is_translated(make_patient, run_name):
    """The table is looked for where the application's engine puts it."""
    patient = make_patient("postgresql", "joined")
    schema = f"pls_{run_name}_doctor"
    patient.settings |= {"limitedsession.schema": "s", "app.schema": schema}
    patient.sql(
        f"CREATE SCHEMA {schema}", f"ALTER TABLE {{}} SET SCHEMA {schema}"
    )
    try:
        assert [] == patient.ills()
        patient.sql(f"DROP INDEX {schema}.ix_{{}}_user_id")
        assert ["warning indexes"] == patient.ills()
        patient.cure()
        assert [] == patient.ills()
    finally:
        patient.sql(f"ALTER TABLE {schema}.{{}} SET SCHEMA public")
        patient.sql(f"DROP SCHEMA {schema}")


# -- rights ------------------------------------------------------------


READ_ONLY = {
    "sqlite": {"mode": "ro", "uri": "true"},
    "postgresql": {"options": "-c default_transaction_read_only=on"},
    "mariadb": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
}


def with_query(url: str, **query: str) -> str:
    """Return a URL with more in its query, as an ini file takes it."""
    made = sa.make_url(url).update_query_dict(query)
    if "uri" in query:
        made = made.set(database=f"file:{made.database}")
    return made.render_as_string(hide_password=False).replace("%", "%%")


@pytest.mark.parametrize("mode", ["separate"])
def test_read_only(patient, database):
    """A database that takes no writes is an error, in one finding."""
    url = with_query(patient.world.url, **READ_ONLY[database])
    patient.settings[patient.url_key] = url
    assert ["error rights"] == patient.ills()
    (finding,) = patient.last["findings"]
    assert "refuses INSERT, UPDATE, DELETE (" in finding["text"]


def test_a_right_is_missing(make_patient, run_name):
    """So is a single right that the database user does not have."""
    patient = make_patient("postgresql")
    role = f"pls_{run_name}_doctor"
    patient.sql(
        f"CREATE ROLE {role}",
        f"GRANT SELECT, INSERT, UPDATE ON {{}} TO {role}",
    )
    try:
        patient.settings[patient.url_key] = with_query(
            patient.world.url, options=f"-c role={role}"
        )
        assert ["error rights"] == patient.ills()
        (finding,) = patient.last["findings"]
        assert "refuses DELETE (" in finding["text"]
        patient.sql(f"GRANT DELETE ON {{}} TO {role}")
        assert [] == patient.ills()
    finally:
        patient.sql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_busy_file_can_be_written_to(lite):
    """While somebody writes nothing is said of the rights to write."""
    lite.settings["limitedsession.lock_timeout"] = "1s"
    with lite.world.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert [] == lite.ills()


# -- the database ------------------------------------------------------


DOWN = {
    "sqlite": "sqlite:////nowhere/at/all/sessions.sqlite",
    "postgresql": "postgresql+psycopg://ann:hunter2@127.0.0.1:1/test",
    "mariadb": "mysql+pymysql://ann:hunter2@127.0.0.1:1/test",
}


def test_a_database_that_is_down(patient, database):
    """It is an error; what does not need it is checked all the same."""
    patient.settings |= {
        patient.url_key: DOWN[database],
        "limitedsession.cookie_httponly": "false",
        "limitedsession.self_clean": "0",
    }
    code, out, err = patient.doctor()
    assert (1, "") == (code, err)
    lines = out.splitlines()
    assert lines[0].startswith("error [database] the database cannot")
    assert lines[2].startswith("warning [cookie_httponly] ")
    assert re.fullmatch(
        r"2 findings: 1 error, 1 warning \(\d+ checks; \d+ could not be "
        r"made\)",
        lines[4],
    )
    assert "hunter2" not in out


def test_a_schema_that_is_not_there(make_patient, database):
    """It is one error, also where the application makes its table itself."""
    patient = make_patient(database)
    patient.settings |= {
        "limitedsession.schema": "pls_no_such_schema",
        "limitedsession.create_table": "true",
    }
    code, out, err = patient.doctor()
    assert (1, "") == (code, err)
    assert out.startswith("error [")
    assert "pls_no_such_schema" in out


def test_a_column_of_another_type(make_patient):
    """A column of JSON, and a serializer that wants a text."""
    patient = make_patient("postgresql")
    name = patient.world.table.name
    patient.world.execute(
        sa.text(f"ALTER TABLE {name} ALTER data TYPE jsonb USING data::jsonb")
    )
    code, out, err = patient.doctor()
    assert (1, "") == (code, err)
    assert "error [types] the column 'data' is JSONB" in out


def test_a_database_in_memory(lite):
    """Nothing is said of a table that only another process can see."""
    del lite.settings[lite.url_key]
    lite.settings["app.url"] = "sqlite://"
    assert ["warning database"] == lite.ills()


def test_a_server_that_is_not_strict(make_patient):
    """MariaDB: sql_mode is read from a connection as ours."""
    patient = make_patient("mariadb")
    url = with_query(patient.world.url, sql_mode="NO_ENGINE_SUBSTITUTION")
    patient.settings[patient.url_key] = url
    assert ["warning sql_mode"] == patient.ills()
    added = re.search(r"sql_mode=(\w+)", patient.last["findings"][0]["cure"])
    url = with_query(patient.world.url, sql_mode=added[1])
    patient.settings[patient.url_key] = url
    assert [] == patient.ills()


def test_a_log_of_statements(
    private_server, monkeypatch, tmp_path, capsys, clock
):
    """MariaDB: a format of the log that refuses our writes is found."""
    server = private_server("mariadb")
    options = [*server._command(), "--log-bin", "--binlog-format=STATEMENT"]
    server.stop()
    with monkeypatch.context() as patch:
        patch.setattr(server, "_command", lambda: options)
        server.start()
    try:
        world = World(server.url, "separate", clock=clock, table="sessions")
        patient = Patient(world, tmp_path / "test.ini", capsys)
        assert ["error rights", "error binlog"] == patient.ills()
        (cure,) = STATEMENT.findall(patient.last["findings"][1]["cure"])
        server.administer(cure)
        assert [] == patient.ills()
        world.close()
    finally:
        server.stop()


def test_a_statement_that_is_too_large(make_patient):
    """MariaDB: max_data_size fits max_allowed_packet, by the cure at least."""
    patient = make_patient("mariadb")
    patient.settings["limitedsession.max_data_size"] = "1GiB"
    assert ["error size"] == patient.ills()
    patient.cure()
    assert [] == patient.ills()


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(-3, []), (-8, ["warning clock"]), (310, ["error clock"])],
)
def test_clocks(make_patient, ahead, expected):
    """A clock that differs from the server's is found, either way."""
    patient = make_patient("postgresql")
    patient.settings["app.ahead"] = str(ahead)
    assert expected == patient.ills()


@pytest.mark.parametrize("ahead", [-310, 0])
def test_clocks_on_mariadb(make_patient, ahead):
    """MariaDB's clock is read as well, in whatever zone it is told."""
    patient = make_patient("mariadb")
    url = with_query(
        patient.world.url, init_command="SET time_zone = '+05:00'"
    )
    patient.settings |= {patient.url_key: url, "app.ahead": str(ahead)}
    assert (["error clock"] if ahead else []) == patient.ills()


# -- isolation ---------------------------------------------------------

SNAPSHOT = {"init_command": "SET innodb_snapshot_isolation = ON"}
FOUND = ["error isolation"]
LEVELS = [
    (PG, {"app.isolation": "READ COMMITTED"}, {}, []),
    (PG, {"app.isolation": "REPEATABLE READ"}, {}, FOUND),
    (PG, {"app.isolation": "SERIALIZABLE"}, {}, FOUND),
    (
        PG,
        {},
        {"options": "-c default_transaction_isolation=serializable"},
        FOUND,
    ),
    (MARIADB, {"app.isolation": "READ COMMITTED"}, SNAPSHOT, []),
    (MARIADB, {"app.isolation": "REPEATABLE READ"}, {}, []),
    (MARIADB, {"app.isolation": "REPEATABLE READ"}, SNAPSHOT, FOUND),
    (MARIADB, {"app.isolation": "SERIALIZABLE"}, {}, FOUND),
    ("sqlite", {"app.begin": "BEGIN"}, {}, [*FOUND, "warning journal"]),
    ("sqlite", {"app.begin": "begin  immediate"}, {}, []),
    ("sqlite", {"app.begin": "BEGIN EXCLUSIVE"}, {}, []),
    ("sqlite", {"app.begin": "nothing"}, {}, FOUND),
]


@pytest.mark.parametrize(("database", "settings", "query", "expected"), LEVELS)
def test_isolation(make_patient, database, settings, query, expected):
    """Joined mode at a level that refuses writes is found."""
    patient = make_patient(database, "joined")
    url = with_query(patient.world.url, **query)
    patient.settings |= {patient.url_key: url, **settings}
    assert expected == patient.ills()


def test_autocommit(make_patient, driver):
    """Whatever the driver, an engine that commits each statement is found."""
    patient = make_patient(driver, "joined")
    assert [] == patient.ills()
    patient.settings["app.isolation"] = "AUTOCOMMIT"
    assert FOUND == patient.ills()


RETRY = [
    ({"pyramid.includes": "pyramid_retry"}, []),
    ({"pyramid.includes": "pyramid_retry", "retry.attempts": "2"}, []),
    ({"pyramid.includes": "pyramid_retry", "retry.attempts": "1"}, FOUND),
    (
        {
            "pyramid.includes": "pyramid_retry",
            "retry.attempts": "1",
            "retry.activate_hook": "tests.doctor_app.attempts",
        },
        [],
    ),
    ({"pyramid.includes": "tests.doctor_app.own_policy"}, []),
]


@pytest.mark.parametrize(("settings", "expected"), RETRY)
def test_isolation_with_pyramid_retry(make_patient, settings, expected):
    """With somebody who replays requests such a level is no finding."""
    patient = make_patient("postgresql", "joined")
    patient.settings |= {"app.isolation": "SERIALIZABLE", **settings}
    assert expected == patient.ills()


def test_isolation_of_a_connection(make_world):
    """A dbsession bound to a connection has that one's level."""
    engine = make_world("postgresql").engine
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ"
    ) as connection:
        assert "REPEATABLE READ" == look_at_application(connection).level
        assert not connection.closed


@pytest.mark.parametrize("database", SERVERS)
def test_isolation_does_not_matter_in_separate_mode(make_patient, database):
    """In separate mode the application may do as it likes."""
    patient = make_patient(database)
    patient.settings |= {
        "app.url": patient.world.url.replace("%", "%%"),
        "app.isolation": "SERIALIZABLE",
    }
    assert [] == patient.ills()


@pytest.mark.parametrize("mode", ["joined", "separate"])
def test_a_journal(make_patient, mode):
    """SQLite: an own BEGIN on the file of the sessions wants WAL mode."""
    patient = make_patient(mode=mode)
    patient.settings |= {
        "app.url": patient.world.url,
        "app.begin": "BEGIN",
        "pyramid.includes": "pyramid_retry",
    }
    assert ["warning journal"] == patient.ills()
    patient.cure()
    assert [] == patient.ills()


def test_a_journal_of_another_file(lite, tmp_path):
    """What an application does in a file of its own does not matter."""
    lite.settings |= {
        "app.url": f"sqlite:///{tmp_path}/other.sqlite",
        "app.begin": "BEGIN",
    }
    assert [] == lite.ills()


# -- rows --------------------------------------------------------------


def old(patient: Patient, days: float, count: int = 1, **columns: Any) -> None:
    """Store sessions that were last seen so long ago."""
    now = int(time.time())
    seen = now - int(days * DAY)
    columns.setdefault("expires_at", seen + 3600)
    put(patient.world, *[(seen, seen)] * count, **columns)


def fresh(patient: Patient, count: int = 1) -> None:
    """Store sessions that are in use."""
    old(patient, 0, count, expires_at=int(time.time()) + 7200)


@pytest.mark.parametrize("mode", ["joined"])
def test_dead_rows(patient):
    """Many rows that have been dead for days are found, and trimmed."""
    patient.settings["limitedsession.self_clean"] = "1"
    old(patient, 1.1, 2)
    fresh(patient)
    assert ["warning dead_rows"] == patient.ills()
    text = patient.last["findings"][0]["text"]
    assert text.startswith("2 of 3 rows are dead, and the oldest")
    assert text.endswith("has waited for 1 d")
    patient.cure()
    assert [] == patient.ills()


@pytest.mark.parametrize(
    ("days", "dead", "alive"), [(1.1, 2, 2), (1.0, 2, 1), (0.5, 9, 1)]
)
def test_few_dead_rows(lite, days, dead, alive):
    """Half of the rows, or a day, is no finding."""
    lite.settings["limitedsession.self_clean"] = "1"
    old(lite, days, dead)
    fresh(lite, alive)
    assert [] == lite.ills()


@pytest.mark.parametrize(
    ("days", "expected"), [(2.1, ["warning trim"]), (1.9, [])]
)
def test_nobody_cleans(lite, days, expected):
    """Without self-cleaning, a row that waited for two days is found."""
    lite.settings["limitedsession.self_clean"] = "0"
    old(lite, days)
    fresh(lite)
    assert expected == lite.ills()
    lite.cure()
    assert not expected or [] == lite.ills()


@pytest.mark.parametrize("mode", ["joined"])
def test_rows_that_cleaning_does_not_see(patient):
    """Dead rows that are not due for long are found, and trimmed."""
    old(patient, 9, expires_at=None)
    old(patient, 9, expires_at=int(time.time()) + 3 * DAY)
    old(patient, 0.1, expires_at=int(time.time()) + DAY)
    fresh(patient, 9)
    assert ["hint unseen_rows"] == patient.ills()
    assert patient.last["findings"][0]["text"].startswith("2 dead rows")
    patient.cure()
    assert [] == patient.ills()


@pytest.mark.parametrize("mode", ["joined"])
def test_plain_ids(patient):
    """Plain ids are found, and hashed by the cure; then it can go."""
    now = int(time.time())
    plain = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4"
    put(patient.world, (now, now), session_id=plain, expires_at=now + 7200)
    assert ["warning legacy_ids"] == patient.ills()
    assert plain not in json.dumps(patient.last)
    patient.cure()
    assert "true" == patient.settings["limitedsession.legacy_ids"]
    assert ["hint legacy_ids"] == patient.ills()
    patient.cure()
    assert [] == patient.ills()


@pytest.mark.parametrize("mode", ["joined"])
def test_pickled_contents(patient):
    """Content that is no JSON is found; so is a way to read it in vain."""
    now = int(time.time())
    put(patient.world, (now, now), data="gASVCQAAAAAAAAB9lIwBYZRLAXMu")
    assert ["warning serializer"] == patient.ills()
    patient.cure()
    assert [] == patient.ills()
    put_right = sa.update(patient.world.table).values(data="{}")
    patient.world.execute(put_right)
    assert ["hint serializer"] == patient.ills()
    patient.cure()
    assert [] == patient.ills()


def test_dead_tuples(alone):
    """PostgreSQL: space that nobody frees is found, and freed."""
    alone.sql(
        "ALTER TABLE {} SET (autovacuum_enabled = false)",
        "INSERT INTO {} (session_id, data, version, created_at, updated_at) "
        "SELECT '2::' || n, '', 1, now(), now() "
        "FROM generate_series(1, 10000) n",
        "DELETE FROM {}",
        "SELECT pg_stat_force_next_flush()",
    )
    assert ["warning vacuum"] == alone.ills()
    alone.cure()
    assert [] == alone.ills()


def test_indexes_while_others_write(alone):
    """PostgreSQL: indexes are made and dropped without a lock."""
    alone.sql(
        "DROP INDEX ix_{}_expires_at, ix_{}_user_id",
        "CREATE INDEX moves ON {} (updated_at)",
    )
    expected = ["warning indexes", "warning indexes", "warning updated_at"]
    assert expected == alone.ills()
    cures = [finding["cure"] for finding in alone.last["findings"]]
    assert all(" INDEX CONCURRENTLY " in cure for cure in cures)
    alone.cure()
    assert [] == alone.ills()


# -- how the application is put together -------------------------------

OURS = "pyramid_limitedsession.tweens.lifecycle_tween_factory"
TM = "pyramid_tm.tm_tween_factory"
EXCVIEW = "pyramid.tweens.excview_tween_factory"


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((OURS, TM, EXCVIEW), []),
        ((OURS, TM), []),
        ((OURS, EXCVIEW, TM), ["warning tweens"]),
        ((EXCVIEW, OURS, TM), ["warning tweens"]),
    ],
)
def test_tweens(lite, order, expected):
    """Exception views belong below pyramid_tm's tween."""
    lite.settings["pyramid.tweens"] = " ".join(order)
    assert expected == lite.ills()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["error retry"]),
        ({"pyramid.includes": "pyramid_retry"}, []),
        (
            {"pyramid.includes": "pyramid_retry", "retry.attempts": "1"},
            ["error retry"],
        ),
    ],
)
def test_on_conflict_retry(lite, settings, expected):
    """on_conflict = retry needs somebody who replays the request."""
    lite.settings |= {"limitedsession.on_conflict": "retry", **settings}
    assert expected == lite.ills()
    lite.cure()
    assert not expected or [] == lite.ills()


def test_expiry(lite):
    """The expiry tween beside our own sessions is a hint."""
    lite.settings["pyramid.includes"] = "pyramid_limitedsession.expiry"
    assert ["hint expiry"] == lite.ills()
    assert 0 == lite.doctor()[0]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("Helper", ["hint policy"]),
        ("Counting", ["hint policy"]),
        ("Failing", ["hint policy"]),
        ("Header", []),
    ],
)
def test_annotate_user(lite, policy, expected, caplog):
    """A policy that looks into the session is found; nothing is stored."""
    lite.settings["app.policy"] = policy
    assert expected == lite.ills()
    assert [] == lite.world.rows()
    assert [] == caplog.messages
    lite.cure()
    assert [] == lite.ills()


def test_annotate_user_asks_no_database(make_patient):
    """The policy is asked without SQL: it works while the database is down."""
    patient = make_patient("postgresql", "joined")
    patient.settings |= {
        patient.url_key: DOWN["postgresql"],
        "app.policy": "Helper",
    }
    assert ["error database", "hint policy"] == patient.ills()


# -- the cookie --------------------------------------------------------


@pytest.mark.parametrize(
    ("secure", "url", "server", "expected"),
    [
        ("auto", "https://example.com", {}, ["hint cookie_secure"]),
        ("auto", "https://example.com", {"url_scheme": "https"}, []),
        ("auto", "https://example.com", {"trusted_proxy": "*"}, []),
        ("auto", "http://example.com", {}, []),
        ("true", "http://example.com", {}, ["error cookie_secure"]),
        ("true", "http://[::1]:6543/", {}, []),
        ("false", None, {}, []),
        ("false", None, {"url_scheme": "HTTPS"}, ["error cookie_secure"]),
        ("true", None, {"url_scheme": "http"}, []),
    ],
)
def test_secure(lite, secure, url, server, expected):
    """The flag Secure fits the scheme, as far as that is known."""
    lite.settings["limitedsession.cookie_secure"] = secure
    lite.server |= server
    arguments = ("--url", url) if url else ()
    assert expected == lite.ills(*arguments)
    lite.cure()
    assert not expected or [] == lite.ills(*arguments)


def test_the_place_of_a_cookie(lite):
    """The cookie's domain and path have to hold the application."""
    lite.settings |= {
        "limitedsession.cookie_domain": "example.org",
        "limitedsession.cookie_path": "/shop",
    }
    arguments = ("--url", "https://example.com/cart")
    lite.server["url_scheme"] = "https"
    assert ["error cookie_place"] * 2 == lite.ills(*arguments)
    lite.cure()
    assert [] == lite.ills(*arguments)


@pytest.mark.parametrize(
    "url",
    ["", "example.com", "ftp://example.com", "https://", "http://a:b", "//a"],
)
def test_a_url_that_is_none(lite, url):
    """What is no URL of an application is a wrong use, and not repeated."""
    code, out, err = lite.doctor("--url", url + ("/hunter2" if url else ""))
    assert (2, "") == (code, out)
    assert "say it like https://example.com" in err
    assert "hunter2" not in err


def test_a_url_with_a_password(lite):
    """A password in the URL is not told."""
    lite.settings["limitedsession.cookie_domain"] = "example.org"
    url = "https://ann:hunter2@example.com/"
    lite.server["url_scheme"] = "https"
    _, out, _ = lite.doctor("--url", url)
    assert "example.com is not within" in out
    assert "hunter2" not in out


def test_a_file_that_cannot_be_read_twice(lite):
    """A server's section that makes no sense is as none."""
    lite.server["url_scheme"] = "%(nowhere)s"
    assert [] == lite.ills()


# -- how it is told ----------------------------------------------------


def test_told(lite):
    """A line for a finding, one for its cure, and one for all."""
    lite.settings |= {
        "limitedsession.cookie_httponly": "false",
        "limitedsession.max_data_size": "none",
    }
    expected = (
        "warning [cookie_httponly] every script in a page can read the "
        "token: limitedsession.cookie_httponly is false\n"
        "  cure: set limitedsession.cookie_httponly = true\n"
        "hint [max_data_size] limitedsession.max_data_size is off: nothing "
        "ends the growth of a session, which each request reads and writes "
        "as a whole\n"
        "  cure: set limitedsession.max_data_size = 64KiB\n"
        "2 findings: 1 warning, 1 hint (26 checks)\n"
    )
    assert (0, expected, "") == lite.doctor()
    assert (0, "", "") == lite.doctor("--quiet")


def test_quiet_errors(lite):
    """With --quiet only the exit code tells."""
    lite.world.table.drop(lite.world.engine)
    assert (1, "", "") == lite.doctor("-q")


def test_json(lite):
    """--json has the findings, and what was checked."""
    lite.settings["limitedsession.cookie_httponly"] = "false"
    report = lite.report()
    assert ["checks", "findings", "ok", "skipped", "database"] == list(report)
    (finding,) = report["findings"]
    assert ["level", "name", "text", "cure"] == list(finding)
    assert report["checks"] == 1 + len(report["ok"])
    assert report["database"].startswith("SQLite 3.")
    assert [] == report["skipped"]


def test_on_a_terminal(lite):
    """On a terminal there are colours, and what is fine is told too."""
    lite.settings["limitedsession.cookie_httponly"] = "false"
    lite.write_file()
    code, shown = lite.on_terminal("pls-doctor")
    assert 0 == code
    assert "\x1b[33mwarning\x1b[0m [cookie_httponly] every" in shown
    assert "ok [table] The table is there." in shown
    assert "1 finding: 1 warning (26 checks)" in shown


def test_p6_nothing_secret_is_told(lite):
    """P6: no key and no content, whatever is found."""
    lite.settings["limitedsession.self_clean"] = "1"
    old(lite, 9, 5, data='{"a":"canary"}')
    _, out, err = lite.doctor("-v")
    assert "dead_rows" in out
    assert [] == [text for text in ("2::", "canary") if text in out + err]
