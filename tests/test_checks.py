"""The checks of pls-doctor, as functions of facts: both sides of borders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import declarative_base

from pyramid_limitedsession import SessionMixin
from pyramid_limitedsession.doctor.checks import CHECKS, check, checks_table
from pyramid_limitedsession.doctor.facts import (
    DAY,
    ApplicationFacts,
    ColumnFacts,
    Facts,
    IndexFacts,
    Public,
    RowFacts,
    ServerFacts,
    TableFacts,
    VacuumFacts,
    Wiring,
)
from pyramid_limitedsession.schema import typed_table
from pyramid_limitedsession.settings import read_settings

DIALECTS = {
    "sqlite": sqlite.dialect,
    "postgresql": postgresql.dialect,
    "mariadb": mysql.dialect,
}
ROOT = Path(__file__).parent.parent


def facts(database="sqlite", settings=None, **known) -> Facts:
    """Return facts of which only some are known."""
    given = {"sqlalchemy.url": "sqlite:////db", **(settings or {})}
    read = read_settings(
        {f"limitedsession.{key}": given[key] for key in given}
    )
    return Facts(
        config_uri="app.ini",
        settings=read,
        expected=typed_table(read.layout),
        dialect=DIALECTS[database](),
        **known,
    )


def found(name: str, of: Facts) -> list[str]:
    """Return the levels of what a check finds; it has to be made."""
    report = check(of)
    levels = [each.level for each in report.findings if each.name == name]
    assert levels or name in report.fine, f"{name} was not made"
    return levels


def is_made(name: str, of: Facts) -> bool:
    """Say whether a check is made at all."""
    report = check(of)
    names = {finding.name for finding in report.findings}
    return name in names or name in report.fine


# -- settings ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("limits", {}, []),
        ("limits", {"idle_timeout": "none"}, ["warning"]),
        ("limits", {"idle_timeout": "none", "absolute_timeout": "1d"}, []),
        (
            "limits",
            {
                "profile.a.idle_timeout": "none",
                "profile.b.absolute_timeout": "1d",
            },
            ["warning"],
        ),
        # Told once, where it is set.
        (
            "limits",
            {"idle_timeout": "none", "profile.a.absolute_timeout": "none"},
            ["warning"],
        ),
        ("idle_timeout", {"absolute_timeout": "7201"}, []),
        ("idle_timeout", {"absolute_timeout": "7200"}, ["hint"]),
        ("idle_timeout", {"absolute_timeout": "7199"}, ["hint"]),
        (
            "idle_timeout",
            {"idle_timeout": "none", "absolute_timeout": "1d"},
            ["hint"],
        ),
        ("idle_timeout", {"profile.a.absolute_timeout": "1h"}, ["hint"]),
        ("touch_interval", {"touch_interval": "1440"}, []),
        ("touch_interval", {"touch_interval": "1441"}, ["hint"]),
        ("touch_interval", {"idle_timeout": "4"}, []),
        (
            "touch_interval",
            {"idle_timeout": "none", "touch_interval": "1d"},
            [],
        ),
        ("cookie_max_age", {"cookie_max_age": "7199"}, ["hint"]),
        ("cookie_max_age", {"cookie_max_age": "7200"}, []),
        ("cookie_max_age", {"cookie_max_age": "auto"}, []),
        ("cookie_max_age", {"profile.a.idle_timeout": "30d"}, []),
        (
            "cookie_max_age",
            {"cookie_max_age": "1d", "profile.a.idle_timeout": "30d"},
            ["hint"],
        ),
        ("self_clean", {"self_clean_batch": "999"}, ["warning"]),
        ("self_clean", {"self_clean_batch": "1000"}, []),
        ("self_clean", {"self_clean": "0", "self_clean_batch": "1"}, []),
        ("max_data_size", {"max_data_size": "none"}, ["hint"]),
        ("max_data_size", {"max_data_size": "1GiB"}, []),
        ("cookie_httponly", {"cookie_httponly": "false"}, ["warning"]),
        ("cookie_httponly", {}, []),
    ],
)
def test_settings(name, settings, expected):
    """What settings alone say, on both sides of each border."""
    assert expected == found(name, facts(settings=settings))


def test_a_profile_is_named():
    """The cure names the setting of the profile that it is about."""
    report = check(facts(settings={"profile.a.idle_timeout": "none"}))
    (finding,) = report.findings[-1:]
    assert "limits" == finding.name
    assert "limitedsession.profile.a.idle_timeout = 2h" in finding.cure


# -- the cookie --------------------------------------------------------


@pytest.mark.parametrize(
    ("secure", "scheme", "host", "is_seen", "expected"),
    [
        ("false", "https", "example.com", True, ["error"]),
        ("true", "https", "example.com", False, []),
        ("auto", "https", "example.com", True, []),
        ("auto", "https", "example.com", False, ["hint"]),
        ("false", "https", None, True, ["error"]),
        ("false", "http", "example.com", True, []),
        ("auto", "http", "example.com", True, []),
        ("true", "http", "example.com", True, ["error"]),
        ("true", "http", "localhost", True, []),
        ("true", "http", "shop.localhost", True, []),
        ("true", "http", "notlocalhost", True, ["error"]),
        ("true", "http", "127.0.0.9", True, []),
        ("true", "http", "::1", True, []),
        ("true", "http", "192.0.2.1", True, ["error"]),
    ],
)
def test_cookie_secure(secure, scheme, host, is_seen, expected):
    """Secure on https, and on http where browsers take it all the same."""
    public = Public(scheme, host, is_seen=is_seen)
    settings = {"cookie_secure": secure}
    of = facts(settings=settings, public=public)
    assert expected == found("cookie_secure", of)


@pytest.mark.parametrize(
    ("settings", "host", "path", "expected"),
    [
        ({}, "example.com", "/", []),
        ({"cookie_domain": "example.com"}, "example.com", "/", []),
        ({"cookie_domain": ".Example.com"}, "shop.example.com", "/", []),
        ({"cookie_domain": "example.com"}, "myexample.com", "/", ["error"]),
        ({"cookie_domain": "shop.example.com"}, "example.com", "/", ["error"]),
        ({"cookie_domain": "2.1"}, "192.0.2.1", "/", ["error"]),
        ({"cookie_domain": "192.0.2.1"}, "192.0.2.1", "/", []),
        ({"cookie_path": "/shop"}, "a", "/shop", []),
        ({"cookie_path": "/shop"}, "a", "/shop/", []),
        ({"cookie_path": "/shop/"}, "a", "/shop/cart", []),
        ({"cookie_path": "/shop"}, "a", "/shopping", ["error"]),
        ({"cookie_path": "/shop/"}, "a", "/shop", ["error"]),
        ({"cookie_path": "/shop"}, "a", "/", ["error"]),
    ],
)
def test_cookie_place(settings, host, path, expected):
    """Domain and path match as RFC 6265 says."""
    of = facts(settings=settings, public=Public("http", host, path))
    assert expected == found("cookie_place", of)


@pytest.mark.parametrize(
    ("public", "made"),
    [
        (None, [False, False]),
        (Public("https", is_seen=True), [True, False]),
        (Public("https", "a"), [True, True]),
    ],
)
def test_without_a_url(public, made):
    """What is not known of the public URL is not checked."""
    of = facts(public=public)
    names = ("cookie_secure", "cookie_place")
    assert made == [is_made(name, of) for name in names]


# -- how the application is put together -------------------------------

ORDER = ("sessions", "transaction", "exceptions")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (ORDER, []),
        (ORDER[:2], []),
        (("exceptions", "sessions", "transaction"), ["warning"]),
        (("transaction", "sessions", "exceptions"), ["error"]),
        (("sessions", "exceptions"), ["error"]),
        ((), ["error"]),
    ],
)
def test_order_of_tweens(order, expected):
    """Sessions above the transaction, and that above exception views."""
    of = facts(wiring=Wiring(order))
    assert expected == found("tweens", of)


@pytest.mark.parametrize(
    ("attempts", "expected"), [(1, ["error"]), (2, []), (None, [])]
)
def test_attempts(attempts, expected):
    """One attempt is none; what another policy does is not known."""
    settings = {"on_conflict": "retry"}
    of = facts(settings=settings, wiring=Wiring(ORDER, attempts))
    assert expected == found("retry", of)


# -- the database ------------------------------------------------------


def server(**known) -> ServerFacts:
    """Return facts of a server."""
    return ServerFacts("X 1", **known)


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (0.0, []),
        (4.99, []),
        (5.0, ["warning"]),
        (-5.0, ["warning"]),
        (299.9, ["warning"]),
        (300.0, ["error"]),
        (-300.0, ["error"]),
    ],
)
def test_clocks(ahead, expected):
    """From 5 seconds on a warning, from 300 on an error, either way."""
    of = facts("postgresql", server=server(ahead=ahead))
    assert expected == found("clock", of)


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ({"STRICT_TRANS_TABLES", "NO_ZERO_DATE"}, []),
        ({"STRICT_ALL_TABLES"}, []),
        ({"NO_ZERO_DATE"}, ["warning"]),
        ({""}, ["warning"]),
    ],
)
def test_strict(modes, expected):
    """One of the strict modes is enough."""
    of = facts("mariadb", server=server(modes=frozenset(modes)))
    assert expected == found("sql_mode", of)


@pytest.mark.parametrize(
    ("binlog", "expected"),
    [("STATEMENT", ["error"]), ("MIXED", []), ("ROW", []), (None, [])],
)
def test_binlog(binlog, expected):
    """STATEMENT refuses our writes, if a log is written at all."""
    of = facts("mariadb", server=server(binlog_format=binlog))
    assert expected == found("binlog", of)


@pytest.mark.parametrize(
    ("database", "application", "expected"),
    [
        ("postgresql", ApplicationFacts("READ COMMITTED"), []),
        ("postgresql", ApplicationFacts("REPEATABLE READ"), ["error"]),
        ("postgresql", ApplicationFacts("SERIALIZABLE"), ["error"]),
        ("mariadb", ApplicationFacts("REPEATABLE READ"), []),
        (
            "mariadb",
            ApplicationFacts("REPEATABLE READ", has_snapshot=True),
            ["error"],
        ),
        ("mariadb", ApplicationFacts("READ COMMITTED", has_snapshot=True), []),
        ("mariadb", ApplicationFacts("SERIALIZABLE"), ["error"]),
        ("sqlite", ApplicationFacts("SERIALIZABLE"), []),
        ("sqlite", ApplicationFacts("SERIALIZABLE", begin="BEGIN"), ["error"]),
        (
            "sqlite",
            ApplicationFacts("SERIALIZABLE", begin="BEGIN IMMEDIATE"),
            [],
        ),
        (
            "postgresql",
            ApplicationFacts("READ COMMITTED", is_autocommit=True),
            ["error"],
        ),
    ],
)
def test_isolation(database, application, expected):
    """Joined mode: what docs/outcomes.rst says is refused is found."""
    settings = {"sqlalchemy.url": ""}
    of = facts(database, settings, application=application)
    assert expected == found("isolation", of)
    replayed = replace(of, wiring=Wiring(ORDER, 3))
    is_autocommit = application.is_autocommit
    assert (["error"] if is_autocommit else []) == found("isolation", replayed)
    assert not is_made("isolation", facts(database, application=application))


@pytest.mark.parametrize(
    ("journal", "begin", "expected"),
    [
        ("wal", "BEGIN", []),
        ("delete", "BEGIN", ["warning"]),
        ("delete", "BEGIN DEFERRED", ["warning"]),
        ("delete", "BEGIN EXCLUSIVE", []),
        ("delete", None, []),
    ],
)
def test_journal(journal, begin, expected):
    """SQLite: only a BEGIN that locks late needs the WAL mode."""
    of = facts(
        server=server(journal=journal),
        application=ApplicationFacts("SERIALIZABLE", begin=begin),
    )
    assert expected == found("journal", of)


# -- rows --------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (RowFacts(0), []),
        (RowFacts(9, 5, DAY), ["warning"]),
        (RowFacts(9, 5, DAY - 1), []),
        (RowFacts(10, 5, DAY), []),
        (RowFacts(4, 4, DAY), []),
    ],
)
def test_dead_rows(rows, expected):
    """More than half, than self_clean, and for a day at least."""
    of = facts(settings={"self_clean": "4"}, rows=rows)
    assert expected == found("dead_rows", of)


@pytest.mark.parametrize(
    ("self_clean", "waited", "expected"),
    [
        ("0", 2 * DAY, ["warning"]),
        ("0", 2 * DAY - 1, []),
        ("1000", 9 * DAY, []),
    ],
)
def test_trim(self_clean, waited, expected):
    """Without self-cleaning, two days of waiting say that nobody trims."""
    of = facts(
        settings={"self_clean": self_clean}, rows=RowFacts(9, 1, waited)
    )
    assert expected == found("trim", of)


@pytest.mark.parametrize(
    ("live", "dead", "expected"),
    [
        (0, 9_999, []),
        (0, 10_000, ["warning"]),
        (10_000, 10_000, ["warning"]),
        (10_001, 10_000, []),
    ],
)
def test_vacuum(live, dead, expected):
    """As many dead tuples as live ones, and many."""
    of = facts("postgresql", vacuum=VacuumFacts(live, dead))
    assert expected == found("vacuum", of)


# -- the table ---------------------------------------------------------


def table(**columns: ColumnFacts) -> TableFacts:
    """Return facts of a table of which only some columns are known."""
    return TableFacts(
        columns={name: columns[name] for name in columns}, key=("id",)
    )


@pytest.mark.parametrize(
    ("last", "expected"),
    [(None, "warning"), (2**30 - 1, "warning"), (2**30, "error")],
)
def test_ids(last, expected):
    """Ids of 32 bits: an error once more than half of them are used."""
    id_ = ColumnFacts("id", "integer", "INTEGER", 2**31 - 1, is_filled=True)
    of = facts("postgresql", table=replace(table(id=id_), last_id=last))
    assert [expected] == found("ids", of)


@pytest.mark.parametrize(
    ("most", "limit", "expected"),
    [
        (65535, "64KiB", ["error"]),
        (65535, "65535", []),
        (65535, "none", ["error"]),
        (None, "none", []),
    ],
)
def test_size_of_data(most, limit, expected):
    """A TEXT of MariaDB is one byte too short for 64 KiB."""
    data = ColumnFacts("data", "text", "TEXT", most)
    of = facts(
        "mariadb",
        {"max_data_size": limit},
        table=table(data=data),
        server=server(),
    )
    assert expected == found("size", of)


@pytest.mark.parametrize(
    ("packet", "expected"), [(65536 + 4096, []), (65536 + 4095, ["error"])]
)
def test_size_of_statements(packet, expected):
    """The data and something more fit one statement."""
    data = ColumnFacts("data", "text", "LONGTEXT")
    of = facts(
        "mariadb", table=table(data=data), server=server(most_bytes=packet)
    )
    assert expected == found("size", of)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (IndexFacts("i", ("session_id",), is_unique=True), []),
        (IndexFacts("i", ("session_id",)), ["error"]),
        (IndexFacts("i", ("session_id", "id"), is_unique=True), ["error"]),
        (
            IndexFacts("i", ("session_id",), is_unique=True, is_partial=True),
            ["error"],
        ),
    ],
)
def test_unique(index, expected):
    """Only a whole unique index on nothing else is one on session_id."""
    key = ColumnFacts("session_id", "text", "VARCHAR(80)", 80)
    of = facts(table=replace(table(session_id=key), indexes=(index,)))
    assert expected == found("unique", of)


@pytest.mark.parametrize(
    ("index", "count"),
    [
        (IndexFacts("i", ("expires_at", "id")), 1),
        (IndexFacts("i", ("id", "expires_at")), 2),
        (IndexFacts("i", ("expires_at",), is_partial=True), 2),
        (IndexFacts("i", (None, "expires_at")), 2),
        (IndexFacts("i", ()), 2),
    ],
)
def test_indexes(index, count):
    """An index serves if the column is its first, and all rows are in it."""
    of = facts(table=replace(table(), indexes=(index,)))
    assert ["warning"] * count == found("indexes", of)


@pytest.mark.parametrize(
    ("collation", "expected"),
    [
        ("ascii_bin", []),
        ("utf8mb4_bin", []),
        ("binary", []),
        ("utf8mb4_general_ci", ["warning"]),
        (None, []),
    ],
)
def test_collation(collation, expected):
    """Any binary collation will do."""
    user = ColumnFacts(
        "user_id", "text", "VARCHAR(190)", 190, collation=collation
    )
    of = facts("mariadb", table=table(user_id=user))
    assert expected == found("collation", of)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (ColumnFacts("user_id", "text", "VARCHAR(190)", 190), []),
        (ColumnFacts("user_id", "text", "TEXT"), []),
        (ColumnFacts("user_id", "unknown", "citext"), []),
        (ColumnFacts("user_id", "integer", "BIGINT", 2**63 - 1), ["error"]),
        (ColumnFacts("data", "other", "BYTEA"), ["error"]),
        (ColumnFacts("created_at", "text", "TEXT"), ["error"]),
        (ColumnFacts("version", "text", "TEXT"), ["error"]),
    ],
)
def test_types(column, expected):
    """A column is of the right kind, and as long as it has to be."""
    of = facts("postgresql", table=table(**{column.name: column}))
    assert expected == found("types", of)
    assert not is_made("types", replace(of, dialect=sqlite.dialect()))


def own_class(**columns):
    """Return an application's own class, with columns of its own."""
    parents = (SessionMixin, declarative_base())
    return type("Own", parents, {"__tablename__": "sessions", **columns})


@pytest.mark.parametrize(
    ("declared", "column", "expected"),
    [
        (
            sa.Column("session_id", sa.String(67), unique=True),
            ColumnFacts("session_id", "text", "VARCHAR(67)", 67),
            [],
        ),
        (
            sa.Column("session_id", sa.String(67), unique=True),
            ColumnFacts("session_id", "text", "VARCHAR(66)", 66),
            ["error"],
        ),
        (
            sa.Column("session_id", sa.String(200), unique=True),
            ColumnFacts("session_id", "text", "VARCHAR(80)", 80),
            [],
        ),
        (
            sa.Column("user_id", sa.String(50)),
            ColumnFacts("user_id", "text", "VARCHAR(50)", 50),
            [],
        ),
        (
            sa.Column("user_id", sa.String(50)),
            ColumnFacts("user_id", "text", "VARCHAR(49)", 49),
            ["error"],
        ),
        (
            sa.Column("user_id", sa.Text()),
            ColumnFacts("user_id", "text", "VARCHAR(50)", 50),
            ["error"],
        ),
    ],
)
def test_lengths_of_an_own_class(declared, column, expected):
    """What the class says is enough: what is longer is not written."""
    model = own_class(**{declared.name: declared})
    of = facts(
        "postgresql", {"model": model}, table=table(**{column.name: column})
    )
    assert expected == found("types", of)


@pytest.mark.parametrize(
    ("database", "is_declared", "expected"),
    [
        ("postgresql", True, []),
        ("postgresql", False, ["warning"]),
        # No zone is kept there, whatever is declared.
        ("mariadb", True, ["warning"]),
    ],
)
def test_times_with_a_zone(database, is_declared, expected):
    """They are read right where the class says that they have one."""
    kind = sa.DateTime(timezone=is_declared)
    names = ("created_at", "updated_at", "expires_at")
    model = own_class(**{name: sa.Column(name, kind) for name in names})
    column = ColumnFacts("created_at", "time", "TIMESTAMP", is_zoned=True)
    of = facts(database, {"model": model}, table=table(created_at=column))
    assert expected == found("types", of)


@pytest.mark.parametrize(
    ("kind", "family", "expected"),
    [(sa.Uuid(), "text", []), (sa.Integer(), "integer", ["warning"])],
)
def test_ids_of_an_own_class(kind, family, expected):
    """Only numbers can be given out again."""
    model = own_class(id=sa.Column("id", kind, primary_key=True))
    id_ = ColumnFacts("id", family, "ID")
    of = facts(
        settings={"model": model},
        table=replace(table(id=id_), gives_ids_again=True),
    )
    assert expected == found("ids", of)


# -- all of them -------------------------------------------------------


def test_what_is_not_known_is_not_checked():
    """Without a database its checks are skipped, and the others made."""
    report = check(facts("mariadb", problem="it is down"))
    assert ["database"] == [each.name for each in report.findings]
    assert 1 + len(report.fine) == report.made
    assert {"table", "ids", "clock", "dead_rows"} <= set(report.skipped)
    assert {"limits", "tweens"} <= set(report.fine)
    assert not set(report.fine) & set(report.skipped)


def test_names_are_unique():
    """Each check has a name and a sentence of its own."""
    assert len(CHECKS) == len({each.name for each in CHECKS})
    assert len(CHECKS) == len({each.sentence for each in CHECKS})


def test_every_check_is_in_the_docs():
    """docs/doctor.rst has the table that is made from the checks."""
    page = (ROOT / "docs" / "doctor.rst").read_text(encoding="utf-8")
    assert checks_table() in page
