"""Tables of an application's own whose collations or columns are odd."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, declarative_base, mapped_column

from pyramid_limitedsession import SessionMixin
from pyramid_limitedsession.layout import COLUMNS, Layout, names_of
from pyramid_limitedsession.schema import typed_table
from pyramid_limitedsession.statements import BIND, Statements
from tests.apps import START, add_views


def add_all_views(world):
    """Return the world with the usual views, and one that revokes."""

    @world.on("revoke")
    def _(request):
        request.user_sessions.end_all(request.params["user"])
        return {}

    return add_views(world)


# -- collations ----------------------------------------------------------

# Which take upper and lower case for the same.
COLLATIONS = {
    "sqlite": "NOCASE",
    "postgresql": "pls_no_case",
    "mysql": "utf8mb4_general_ci",
}


@pytest.fixture(name="careless")
def _careless(make_world, database, run_name):
    """An application without versions, on texts compared without case."""
    names = names_of([name for name in COLUMNS if name != "version"], {})
    layout = Layout(f"pls_{run_name}_careless", None, names)

    def listen(engine):
        if engine.dialect.name == "postgresql":
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    "CREATE COLLATION IF NOT EXISTS pls_no_case (provider = "
                    "icu, locale = 'und-u-ks-level2', deterministic = false)"
                )

    world = add_all_views(make_world(database, layout=layout, listen=listen))
    world.table.drop(world.engine)
    made = world.base.metadata.tables[layout.name]
    name = COLLATIONS[world.engine.dialect.name]
    made.c.data.type = sa.Text(collation=name)
    made.c.user_id.type = sa.String(190, collation=name)
    made.create(world.engine)
    return world


def test_p2_a_change_of_case_is_a_change(careless):
    """P2: what another request has changed meanwhile is kept."""
    browser, other = careless.browser(), careless.browser()

    @careless.on("slow")
    def _(request):
        request.session["mine"] = "1"
        other.get("/set?a=X")
        return {}

    browser.get("/set?a=x")
    other.set_cookie("session", browser.cookies["session"])
    browser.get("/slow")
    assert {"a": "X", "mine": "1"} == browser.get("/get").json


@pytest.mark.parametrize("way", ["pls-revoke", "end_all"])
def test_only_that_user_is_revoked(careless, make_ini, way):
    """Ann, ANN and "Ann " are three users, whatever the collation says."""
    names = ("Ann", "ANN", "Ann ")
    browsers = [careless.browser() for _ in names]
    for browser, name in zip(browsers, names, strict=True):
        browser.get("/set", {"auth.userid": name})
    if way == "end_all":
        careless.browser().get("/revoke?user=Ann")
    else:
        ini = make_ini(careless)
        code, out, _ = ini.call("pls-revoke", "--user", "Ann", "--json")
        assert (0, 1) == (code, json.loads(out)["ended"])
    ended = [browser.get("/ended").json for browser in browsers]
    assert ["revoked", None, None] == ended


# -- columns -------------------------------------------------------------


def numbered(base, table):
    """Return a class whose users are numbers."""

    class WebSession(SessionMixin, base):
        __tablename__ = table
        user_id: Mapped[int | None] = mapped_column()

    return WebSession


Numbered = numbered(declarative_base(), "pls_numbered")


def test_users_that_are_numbers(make_world, database, make_ini):
    """pls-list and pls-revoke find them as the application does."""
    table = Numbered.__table__
    world = add_all_views(
        make_world(
            database,
            listen=lambda engine: table.create(engine, checkfirst=True),
            declare=lambda base: Numbered,
        )
    )
    world.execute(table.delete())
    browsers = [world.browser() for _ in "ab"]
    for browser, user in zip(browsers, "78", strict=True):
        browser.get(f"/set?auth.userid={user}")
    ini = make_ini(world).write(
        limited__sqlalchemy__url=world.url,
        limited__model="tests.test_odd_tables.Numbered",
        app__now=START,
    )
    code, out, _ = ini.call("pls-list", "7", "--json")
    assert (0, 1) == (code, len(json.loads(out)["sessions"]))
    code, out, _ = ini.call("pls-revoke", "--user", "7", "--json")
    assert (0, 1) == (code, json.loads(out)["ended"])
    ended = [browser.get("/ended").json for browser in browsers]
    assert ["revoked", None] == ended
    table.drop(world.engine)


# What statements call their values, without our prefix.
BINDS = (
    *("key", "hashed_key", "row", "seen", "ahead", "new_key", "new_data"),
    *("new_version", "new_expires", "new_user", "new_profile", "plain"),
    *("ids", "user", "until", "reason", "no_data", "old_version"),
    *("old_data", "old_profile", "after", "last", "one", "most", "text"),
    *("old", "keys", "other_key"),
)


def crowded(base, table):
    """Return a class with columns that are called as our values are."""

    class WebSession(SessionMixin, base):
        __tablename__ = table

    for name in BINDS:
        setattr(WebSession, name, mapped_column(sa.String(20)))
    return WebSession


def test_columns_that_are_called_as_our_values(
    make_world, mode, make_ini, run_name
):
    """They are neither filled nor in the way, or have their own values."""
    filled = {name: f"of {name}" for name in BINDS}
    world = add_all_views(
        make_world(
            "sqlite",
            mode,
            declare=lambda base: crowded(base, f"pls_{run_name}_crowded"),
            settings={
                "limitedsession.column_values": lambda request, content: filled
            },
        )
    )
    browser = world.browser()
    browser.get("/set?auth.userid=ann")
    browser.get("/set?a=1")
    world.clock.pass_(100)
    assert {"auth.userid": "ann", "a": "1"} == browser.get("/get").json
    (row,) = world.rows()
    assert START + 100 == row.updated_at
    assert filled == {name: getattr(row, name) for name in BINDS}
    world.browser().get("/revoke?user=ann")
    assert "revoked" == browser.get("/ended").json


def test_every_value_is_tried():
    """The list above has each value of each statement."""
    statements = Statements(typed_table(Layout()), dialect="sqlite")
    found = {
        name.removeprefix(BIND)
        for statement in vars(statements).values()
        if hasattr(statement, "compile")
        for name in statement.compile().binds
        if name.startswith(BIND)
    }
    assert found
    assert set() == found - set(BINDS)
