"""Tables of other shapes: names, columns that are missing, JSON, classes."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from pyramid_limitedsession import SessionTableError
from pyramid_limitedsession.layout import COLUMNS, Layout, names_of
from pyramid_limitedsession.limits import Cutoffs
from tests.apps import START, count_dead, older_than, trim

HOSTILE = {
    "id": 'id"; DROP TABLE x; --',
    "session_id": "select",
    "data": "the data; of 'it'",
    "version": "ver%sion",
    "created_at": "created:at",
    "updated_at": "`updated`",
    "expires_at": "ORDER",
    "user_id": "benutzer_ü",
    "profile": "(profile)",
    "ended": "%s ended",
}
RAILS = ("id", "session_id", "data", "created_at", "updated_at")
KEYED = tuple(name for name in COLUMNS if name != "id")
LEAST = RAILS[1:]
SHAPES = {
    "hostile names": names_of(COLUMNS, HOSTILE),
    "as Rails has it": names_of(RAILS, {}),
    "no id": names_of(KEYED, {"session_id": "key"}),
    "the least there can be": names_of(LEAST, {"data": "payload"}),
    "no version": names_of([c for c in COLUMNS if c != "version"], {}),
    "no tombstones": names_of([c for c in COLUMNS if c != "ended"], {}),
}


@pytest.fixture(name="shape", params=SHAPES)
def _shape(request):
    return SHAPES[request.param]


@pytest.fixture(name="world")
def _world(make_world, database, mode, shape, run_name):
    """An application on a table of each shape."""
    hostile = " '\"; %s" if "version" in shape else ""
    layout = Layout(f"pls_{run_name}_shape{hostile}", None, shape)
    world = make_world(database, mode, layout=layout)

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    return world


def meanwhile(world, other):
    """Return a view that changes ``mine`` while ``other`` asks for a path."""

    @world.on("slow")
    def _(request):
        request.session["mine"] = "1"
        other(request.params["path"])
        return {}


def test_a_life(world):
    """Stored, read, changed, used, rotated, idle, cleaned: as ever."""
    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/set?b=2")
    token = browser.cookies["session"]
    browser.get("/rotate")
    assert token != browser.cookies["session"]
    world.clock.pass_(3600)
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    world.clock.pass_(7199)
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    assert 1 == len(world.rows())
    world.clock.pass_(2 * 7200)
    assert {} == browser.get("/get").json
    now = int(world.clock())
    assert 1 == count_dead(world.store, older_than(now - 7200, now))


def test_p2_p3_parallel_requests(world):
    """P2, P3: keys of both are kept; what ended meanwhile stays ended."""
    browser, other = world.browser(), world.browser()
    browser.get("/set?a=1")
    other.set_cookie("session", browser.cookies["session"])
    # A request on SQLite cannot wait for one inside it.
    before = other.get if world.mode == "separate" else None
    if before is None and world.engine.dialect.name == "sqlite":
        before = other.get
    meanwhile(world, before or other.get)
    browser.get("/slow?path=/set?b=2")
    assert {"a": "1", "b": "2", "mine": "1"} == browser.get("/get").json
    browser.get("/slow?path=/out")
    assert [] == world.rows()
    assert {} == browser.get("/get").json


def test_cleaning(world):
    """Self-cleaning and pls-trim delete what is idle, and nothing else."""
    for _ in range(3):
        world.browser().get("/set?a=1")
    world.clock.pass_(4 * 86400)
    world.browser().get("/set?a=1")
    now = int(world.clock())
    cutoffs = Cutoffs(now, (now - 7200, 0))
    assert 2 == world.store.clean(cutoffs=cutoffs, most=2)
    assert 1 == trim(world.store, cutoffs)
    assert 1 == len(world.rows())


def test_the_table_is_made(world):
    """pls-init makes such a table, and finds it."""
    world.table.drop(world.engine)
    assert world.store.create()
    assert not world.store.create()
    world.store.check()
    world.browser().get("/set?a=1")
    assert 1 == len(world.rows())
