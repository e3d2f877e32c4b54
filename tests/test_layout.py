"""Tables of other shapes: names, columns that are missing, JSON, classes."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from pyramid_limitedsession import SessionError
from pyramid_limitedsession.jsonforms import NullSerializer
from pyramid_limitedsession.layout import COLUMNS, Layout, names_of
from pyramid_limitedsession.limits import Cutoffs
from pyramid_limitedsession.migrations import plan_for
from pyramid_limitedsession.schema import plain_table
from pyramid_limitedsession.tokens import key_of
from tests.apps import add_views, count_dead, older_than, trim

HOSTILE = {
    "id": 'id"; DROP TABLE x; --',
    "session_id": "select",
    "data": "the data; of 'it'",
    "version": "ver%sion",
    "created_at": "created:at",
    "updated_at": "updated-at?",
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


# Each database, and each mode: a shape is the same to both.
PLACES = (
    ("sqlite", "separate"),
    ("postgresql", "joined"),
    ("mariadb", "separate"),
)


@pytest.fixture(name="world", params=PLACES, ids=lambda place: place[0])
def _world(make_world, request, shape, run_name):
    """An application on a table of each shape."""
    database, mode = request.param
    hostile = " '\"; %s" if shape["session_id"] == "select" else ""
    layout = Layout(f"pls_{run_name}_shape{hostile}", None, shape)
    return add_views(make_world(database, mode, layout=layout))


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
    meanwhile(world, other.get)
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


def test_what_is_switched_off_is_said(world, shape, caplog):
    """At start, once for each column that is missing, and what for."""
    told = [
        record.getMessage()
        for record in caplog.get_records("setup")
        if "there is no column" in record.getMessage()
    ]
    missing = [name for name in COLUMNS if name not in shape]
    assert len(missing) == len(told)
    for name, text in zip(missing, told, strict=True):
        assert f"no column {name!r}" in text


def test_revoked(world):
    """Who is revoked is out, told why where the table can keep it."""
    browser, other = world.browser(), world.browser()

    @world.on("ended")
    def _(request):
        return request.session.ended

    @world.on("revoke")
    def _(request):
        request.user_sessions.end_all("ann")
        return {}

    browser.get("/set?auth.userid=ann")
    if not world.layout.has("user_id"):
        with pytest.raises(SessionError, match="no column 'user_id'"):
            other.get("/revoke")
        return
    other.get("/revoke")
    kept = {"ended", "expires_at"} <= set(world.layout.names)
    assert ("revoked" if kept else None) == browser.get("/ended").json
    assert kept == bool(world.rows())


# Of the others SQLAlchemy cannot read back what it has made itself.
@pytest.mark.parametrize("shape", [*SHAPES.values()][1:], ids=[*SHAPES][1:])
def test_migrations(world):
    """pls-migration finds nothing to do, or makes the table."""
    target = plain_table(world.layout, sa.MetaData())
    with world.engine.connect() as connection:
        assert plan_for(connection, target).change is None
    world.table.drop(world.engine)
    with world.engine.connect() as connection:
        plan = plan_for(connection, target)
    assert "make" == plan.change
    assert () == plan.lacks


# -- what is too large ---------------------------------------------------


@pytest.mark.parametrize("size", [1000, 1001])
def test_a_row_that_is_too_large_is_not_fetched(
    make_world, database, mode, size, caplog
):
    """Of max_data_size it is read; a byte more, and it stays where it is."""
    world = make_world(
        database, mode, settings={"limitedsession.max_data_size": "1000"}
    )

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return [request.session.ended, *request.session.values()]

    browser = world.browser()
    browser.get("/set?a=1")
    # Bytes, not characters.
    text = '{"a":"é' + "x" * (size - 10) + '"}'
    assert size == len(text.encode())
    world.execute(world.table.update().values(data=text))
    (row,) = world.rows()
    found = world.store.load(row.session_id)
    caplog.clear()
    if size == 1000:
        assert text == found.data
        assert [None, "é" + "x" * 990] == browser.get("/get").json
        return
    assert found.data is None
    assert ["unreadable"] == browser.get("/get").json
    (record,) = [r for r in caplog.records if "unreadable" in r.getMessage()]
    assert "max_data_size" in record.getMessage()
    assert [text] == [row.data for row in world.rows()]


# -- a column of JSON ----------------------------------------------------


@pytest.fixture(name="native")
def _native(make_world, database, mode):
    """An application whose data is a column of JSON."""
    world = make_world(
        database,
        mode,
        is_native=True,
        settings={"limitedsession.serializer": "null"},
    )

    @world.on("set")
    def _(request):
        request.session.update(request.json_body)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    return world


def test_json_in_the_database(native):
    """What is put in comes out, and the database can look inside."""
    content = {
        "cart": [{"sku": "é-1", "n": 2}, None, True, 1.5],
        "b": 'quotes " and \\ and :colons %s',
        "name": "ann",
    }
    browser = native.browser()
    browser.post_json("/set", content)
    native.browser().post_json("/set", {"name": "bob"})
    assert content == browser.get("/get").json
    name = native.engine.dialect.name
    inside = {
        "postgresql": "data->>'name' = 'ann'",
        "mysql": "JSON_VALUE(data, '$.name') = 'ann'",
        "sqlite": "json_extract(data, '$.name') = 'ann'",
    }
    query = sa.select(sa.func.count()).select_from(native.table)
    with native.engine.connect() as connection:
        found = connection.execute(query.where(sa.text(inside[name])))
        assert 1 == found.scalar()


def test_json_that_is_only_read_is_not_written(native):
    """P5: however the database writes it, reading is one SELECT."""
    browser = native.browser()
    browser.post_json("/set", {"z": {"y": 1, "x": [1.0, 2]}, "a": 1})
    native.count()
    browser.get("/get")
    assert ["SELECT"] == native.count()
    browser.post_json("/set", {"b": 1})
    assert ["SELECT", "UPDATE"] == native.count()


def test_json_of_revoked_sessions(native):
    """A tombstone has an empty content, which a column of JSON takes."""
    browser = native.browser()
    browser.post_json("/set", {"auth.userid": "ann"})

    @native.on("revoke")
    def _(request):
        request.user_sessions.end_all("ann")
        return {}

    @native.on("ended")
    def _(request):
        return request.session.ended

    native.browser().get("/revoke")
    assert "revoked" == browser.get("/ended").json


# -- the key as the primary key --------------------------------------------


@pytest.fixture(name="keyed")
def _keyed(make_world, database, mode, run_name):
    """An application without ids, on rows with plain ids, and its browser."""
    layout = Layout(f"pls_{run_name}_keyed", None, SHAPES["no id"])
    world = make_world(
        database,
        mode,
        layout=layout,
        settings={"limitedsession.legacy_ids": "true"},
    )

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("out")
    def _(request):
        # Loaded by now, with the plain id.
        assert request.session["a"] == "1"
        if "other" in request.params:
            world.other.get("/set?b=2")
        request.session.invalidate()
        return {}

    @world.on("sessions")
    def _(request):
        found = request.user_sessions.list("ann")
        if "end" in request.params:
            request.user_sessions.end("ann", found[0].id)
        return [each.id for each in found]

    world.clients = world.browser(), world.browser()
    world.other = world.clients[1]
    for client in world.clients:
        client.set_cookie("session", PLAIN)
    world.execute(
        world.table.insert().values(
            session_id=PLAIN,
            data='{"a":"1"}',
            version=1,
            created_at=int(world.clock()),
            updated_at=int(world.clock()),
        )
    )
    return world


PLAIN = "0123456789abcdef" * 2


def test_plain_ids_without_ids(keyed):
    """The row is hashed on first use, under which it is found from then on."""
    browser = keyed.clients[0]
    browser.get("/set?c=3")
    (row,) = keyed.rows()
    assert key_of(PLAIN) == row.session_id
    assert '{"a":"1","c":"3"}' == row.data
    browser.get("/set?d=4")
    assert 1 == len(keyed.rows())


@pytest.mark.parametrize("path", ["/out", "/out?other=1"])
def test_p3_a_logout_without_ids(keyed, path):
    """P3: it ends the session, also if another request changed it since."""
    keyed.clients[0].get(path)
    assert [] == keyed.rows()


def test_summaries_without_ids(keyed):
    """What names a session is not its key, and ends it all the same."""
    keyed.clients[0].get("/set?auth.userid=ann")
    (row,) = keyed.rows()
    (shown,) = keyed.clients[1].get("/sessions").json
    assert shown not in row.session_id
    keyed.browser().get("/sessions?end=1")
    assert ["revoked"] == [row.ended for row in keyed.rows()]


def test_json_of_as_many_bytes_as_are_allowed(native):
    """What max_data_size allows to be written is fetched, too."""
    limit = 64 * 1024
    content = {f"k{number}": [number, 1.5] for number in range(3000)}
    rest = limit - len(NullSerializer().dumps(content | {"z": ""}))
    content["z"] = "x" * rest

    @native.on("fill")
    def _(request):
        request.session.update(content)
        return {}

    browser = native.browser()
    browser.get("/fill")
    assert content == browser.get("/get").json
