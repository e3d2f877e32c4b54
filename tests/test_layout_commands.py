"""The pls-* commands on tables of other shapes."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from pyramid_limitedsession.layout import Layout
from tests.alembic_site import differences
from tests.apps import START, add_views
from tests.commands import DAY
from tests.test_layout import SHAPES

# All on SQLite; on servers those in which there is most to go wrong.
PLACES = [
    *(("sqlite", shape) for shape in SHAPES),
    ("postgresql", "hostile names"),
    ("mariadb", "the least there can be"),
]


@pytest.fixture(name="place", params=PLACES, ids="-".join)
def _place(request):
    return request.param


@pytest.fixture(name="world")
def _world(make_world, place, run_name):
    """An application on a table of each shape, with three sessions.

    Ann's was used now, Bob's long ago, and one is nobody's.
    """
    database, shape = place
    hostile = " '\"; %s" if shape == "hostile names" else ""
    layout = Layout(f"pls_{run_name}_cmd{hostile}", None, SHAPES[shape])
    world = add_views(make_world(database, "separate", layout=layout))
    world.clock.now = START - 99 * DAY
    world.browser().get("/set?auth.userid=bob")
    world.clock.now = START
    world.ann = world.browser()
    world.ann.get("/set?auth.userid=ann")
    world.browser().get("/set?a=1")
    return world


@pytest.fixture(name="ini")
def _ini(world, make_ini):
    return make_ini(world)


def done(ini, name, *arguments):
    """Return what a command says in JSON; it must succeed."""
    code, out, err = ini.call(name, "--json", *arguments)
    assert (0, "") == (code, err)
    return json.loads(out)


def test_what_is_there(world, ini):
    """pls-stats, pls-list and pls-trim see the rows as they are."""
    stats = done(ini, "pls-stats")
    assert 3 == stats["sessions"]
    assert 1 == done(ini, "pls-trim", "--dry-run")["would_delete"]
    assert 1 == done(ini, "pls-trim")["deleted"]
    assert 2 == len(world.rows())
    assert {"auth.userid": "ann"} == world.ann.get("/get").json


def test_users(world, ini):
    """Whose sessions they are is known, or it is said that it is not."""
    if not world.layout.has("user_id"):
        revoking = ("pls-revoke", "--user", "ann")
        for arguments in (("pls-list", "ann"), revoking):
            code, out, err = ini.call(*arguments)
            assert (1, "") == (code, out)
            assert "no column 'user_id'" in err
        assert 3 == len(world.rows())
        return
    (found,) = done(ini, "pls-list", "ann")["sessions"]
    key = world.rows()[-1].session_id if not world.layout.has("id") else "2::"
    assert str(key) not in json.dumps(found)
    assert 1 == done(ini, "pls-revoke", "--user", "ann")["ended"]
    assert {} == world.ann.get("/get").json


def test_ids(world, ini):
    """A session is ended by its id, where there are any."""
    if not world.layout.has("id"):
        code, _, err = ini.call("pls-revoke", "--id", "1")
        assert 2 == code
        assert "no column for ids" in err
        return
    row = world.rows()[1].id
    assert 1 == done(ini, "pls-revoke", "--id", str(row))["ended"]
    assert {} == world.ann.get("/get").json


def test_the_table(world, ini):
    """pls-init makes it, and pls-doctor finds nothing but what is to be."""
    world.table.drop(world.engine)
    assert done(ini, "pls-init")["made"]
    assert not done(ini, "pls-init")["made"]
    world.browser().get("/set?a=1")
    _, out, _ = ini.call("pls-doctor", "--json")
    found = {
        (each["level"], each["name"], each["text"])
        for each in json.loads(out)["findings"]
        if each["level"] in ("error", "warning")
        # Of this test's own clock and settings.
        and each["name"] not in ("clock", "limits")
    }
    assert set() == found
    assert 1 == done(ini, "pls-clear", "--yes")["deleted"]


def test_its_ddl(world, ini):
    """What pls-init prints makes it, too."""
    world.table.drop(world.engine)
    statements = done(ini, "pls-init", "--sql")["statements"]
    with world.engine.begin() as connection:
        for statement in statements:
            connection.connection.cursor().execute(statement.rstrip(";"))
    world.browser().get("/set?a=1")
    assert 1 == len(world.rows())


# Of the others SQLAlchemy cannot read back what it has made itself.
@pytest.mark.parametrize(
    "place",
    [place for place in PLACES if place[1] != "hostile names"],
    ids="-".join,
)
def test_no_difference(world):
    """Alembic finds such a table as it was made."""
    name = world.table.name
    found = differences(
        world.engine,
        world.base.metadata,
        include_name=lambda each, kind, parents: (
            kind != "table" or each == name
        ),
    )
    assert [] == [each for each in found if name in str(each)]
    assert sa.inspect(world.engine).has_table(name)


def test_plain_ids(world, make_ini):
    """pls-upgrade hashes ids that are plain."""
    ini = make_ini(world, limited__legacy_ids="true")
    plain = "f" * 32
    table = world.table
    world.execute(
        table.update()
        .where(table.c.session_id == world.rows()[0].session_id)
        .values(session_id=plain)
    )
    assert 1 == done(ini, "pls-upgrade")["hashed"]
    assert all(row.session_id.startswith("2::") for row in world.rows())
