"""``legacy_ids``: rows whose id is still the plain token of their browser.

They are accepted, and hashed on first use; whoever does not have the token
gets nowhere, and nothing that is shown tells it.
"""

from __future__ import annotations

import logging
import threading

import pytest
import sqlalchemy as sa
import transaction
import zope.sqlalchemy
from pyramid.httpexceptions import HTTPFound
from repoze.tm import TM, default_commit_veto
from sqlalchemy.orm import sessionmaker
from transaction.interfaces import TransientError
from webtest import TestApp

from pyramid_limitedsession.store import Record
from pyramid_limitedsession.tokens import (
    Secret,
    fingerprint,
    is_plain,
    key_of,
    make_token,
    parse_token,
)
from tests.apps import START, World, cookie_of
from tests.threads import in_threads

ON = {"limitedsession.legacy_ids": "true"}
# As Rails makes them; no six characters of it are a hash's by chance.
RAILS = "feedfacecafebeef0123456789abcdef"
SHORT = "zZ_-" * 5 + "zZ"
OURS = "AZaz09_-" + "b" * 35
LONG = "a" * 80
THREADS = 4
ROUNDS = 10
SERVERS = ("postgresql", "mariadb")
LOUD = {"echo": "debug", "echo_pool": "debug"}


def add_views(world):
    """Add the views that these tests use."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("ended")
    def _(request):
        return [dict(request.session), request.session.ended]

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    return world


@pytest.fixture(name="make")
def _make(make_world_with):
    """Return a function that makes worlds where plain ids are accepted."""
    return make_world_with(ON, add_views)


@pytest.fixture(name="legacy")
def _legacy(make, database, mode):
    """Such a world on each database, in each mode."""
    return make(database, mode)


@pytest.fixture(name="small")
def _small(make):
    """One where database and mode make no difference."""
    return make()


def put(world, token=RAILS, **values):
    """Store a row with a plain id; return a browser that has the token."""
    row = {
        "session_id": token,
        "data": '{"a":"1"}',
        "version": 1,
        "created_at": START,
        "updated_at": START,
        "expires_at": START + 99_999,
    }
    world.execute(world.table.insert(), row | values)
    world.count()
    return having(world, token)


def having(world, token, **environ):
    """Return a browser with this token."""
    browser = world.browser(**environ)
    browser.set_cookie("session", token)
    return browser


def is_hashed(world, token=RAILS):
    """Say whether the only row has the hash of this token."""
    (row,) = world.rows()
    assert row.session_id in (token, key_of(token))
    return row.session_id == key_of(token)


def before(world, is_it, act):
    """Call a function once, just before the next statement of a kind."""
    acts = [act]

    def run(connection, cursor, statement, *rest):
        if acts and is_it(statement):
            acts.pop()()

    for engine in {world.engine, world.store.engine}:
        sa.event.listen(engine, "before_cursor_execute", run)


def is_hashing(statement):
    """Say whether a statement does nothing but hash an id."""
    return statement.startswith("UPDATE") and "version" not in statement


def nth_look(number):
    """Return a function that knows the n-th SELECT of a row."""
    left = iter(range(number, 0, -1))

    def is_it(statement):
        is_look = (
            statement.startswith("SELECT") and "session_id =" in statement
        )
        return is_look and next(left, 0) == 1

    return is_it


# -- first use ---------------------------------------------------------


def test_the_first_use_hashes(legacy):
    """A reading request finds the session, and hashes its row's id."""
    browser = put(legacy)
    (before,) = legacy.rows()
    legacy.count()
    answer = browser.get("/get")
    assert {"a": "1"} == answer.json
    assert ["SELECT", "SELECT", "UPDATE"] == legacy.count()
    assert [] == cookie_of(answer)
    (row,) = legacy.rows()
    assert key_of(RAILS) == row.session_id
    assert before[2:] == row[2:]


def test_p5_the_next_use_costs_what_it_costs_anyway(legacy):
    """P5: once it is hashed, reading is one SELECT, a change one UPDATE."""
    browser = put(legacy)
    browser.get("/get")
    legacy.count()
    assert {"a": "1"} == browser.get("/get").json
    assert ["SELECT"] == legacy.count()
    browser.get("/set?b=2")
    assert ["SELECT", "UPDATE"] == legacy.count()
    assert {"a": "1", "b": "2"} == browser.get("/get").json


def test_a_first_use_that_changes(legacy):
    """What the first request puts in is stored, under the hash."""
    browser = put(legacy)
    browser.get("/set?b=2")
    assert is_hashed(legacy)
    assert {"a": "1", "b": "2"} == browser.get("/get").json


def test_a_first_use_that_rotates(small):
    """A new token is one of ours; the old one opens nothing any more."""
    browser = put(small)
    browser.get("/rotate")
    token = browser.cookies["session"]
    assert 43 == len(token)
    assert {"a": "1"} == browser.get("/get").json
    assert {} == having(small, RAILS).get("/get").json


def test_a_first_use_that_logs_out(small):
    """The row is gone, and does not come back."""
    browser = put(small)
    assert "Max-Age=0" in cookie_of(browser.get("/out"))[0]
    assert [] == small.rows()
    assert {} == having(small, RAILS).get("/get").json


def test_a_first_use_that_aborts(legacy):
    """Its change is discarded, its activity is written, the session lives."""

    @legacy.on("abort")
    def _(request):
        request.session["b"] = "2"
        raise HTTPFound("/get")

    browser = put(legacy)
    legacy.clock.pass_(100)
    browser.get("/abort")
    (row,) = legacy.rows()
    assert START + 100 == row.updated_at
    assert {"a": "1"} == browser.get("/get").json
    assert is_hashed(legacy)


def test_a_touch_hashes_nothing_else(small):
    """A first use that is due writes the activity too."""
    browser = put(small)
    small.clock.pass_(100)
    browser.get("/get")
    (row,) = small.rows()
    assert (key_of(RAILS), 1) == (row.session_id, row.version)
    assert START + 100 == row.updated_at


@pytest.mark.parametrize("token", [SHORT, RAILS, OURS, LONG])
def test_tokens_of_22_to_80_characters(small, token):
    """Whoever made it, from 128 bits to what fits the column."""
    browser = put(small, token)
    assert {"a": "1"} == browser.get("/get").json
    assert is_hashed(small, token)
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json


@pytest.mark.parametrize(
    "token", [SHORT[1:], LONG + "a", RAILS[1:] + "=", "ä" * 32]
)
def test_p9_other_cookies_are_not_asked_for(small, token):
    """P9: what no plain id is opens nothing and costs no statement."""
    put(small, token[:80])
    header = f"session={token}".encode().decode("latin-1")
    assert {} == small.browser(HTTP_COOKIE=header).get("/get").json
    assert [] == small.count()


def test_an_unknown_token_is_not_adopted(small):
    """It costs three SELECTs: it may be hashed between the first two."""
    browser = having(small, RAILS)
    assert {} == browser.get("/get").json
    assert ["SELECT"] * 3 == small.count()
    browser.get("/set?a=1")
    assert 43 == len(browser.cookies["session"])


# -- switched off ------------------------------------------------------


def test_off_by_default(world):
    """Without the setting a plain id opens nothing and stays as it is."""
    add_views(world)
    browser = put(world, OURS)
    assert {} == browser.get("/get").json
    assert ["SELECT"] == world.count()
    assert not is_hashed(world, OURS)


def test_switched_off_again(small, make_world):
    """Then only tokens of our own length are asked for, hashed or not."""
    put(small, RAILS).get("/get")
    off = add_views(make_world(table=small.table.name))
    assert {} == having(off, RAILS).get("/get").json
    assert [] == off.count()


# -- whoever has no token ----------------------------------------------


@pytest.mark.parametrize("is_used", [False, True])
def test_p6_nothing_in_the_table_is_a_cookie_but_a_plain_id(small, is_used):
    """P6: a stolen key, with its prefix or without, opens nothing."""
    browser = put(small)
    if is_used:
        browser.get("/get")
    key = str(key_of(RAILS))
    for cookie in (key, key[3:], key[3:].upper(), "2::" + RAILS):
        assert {} == having(small, cookie).get("/get").json
    assert is_used == is_hashed(small)


@pytest.mark.parametrize("database", ["mariadb", "sqlite"])
def test_p6_ids_are_compared_byte_by_byte(make, database):
    """P6: other case and blanks at the end open nothing.

    Also in a table whose collation ignores them, as MariaDB's default does.
    """
    world = make(database)
    if database == "mariadb":
        world.execute(
            sa.text(
                f"ALTER TABLE {world.table.name} MODIFY session_id "
                "VARCHAR(80) CHARACTER SET utf8mb4 "
                "COLLATE utf8mb4_general_ci NOT NULL"
            )
        )
    put(world)
    put(world, SHORT + " ")
    put(world, "á" * 30)
    for cookie in (RAILS.upper(), SHORT, SHORT.lower(), "a" * 30):
        assert {} == having(world, cookie).get("/get").json
    assert {} == having(world, f'"{SHORT} "').get("/get").json
    assert not [row for row in world.rows() if not is_plain(row.session_id)]
    assert {"a": "1"} == having(world, RAILS).get("/get").json


# -- refused as others are ---------------------------------------------


def test_p7_an_expired_one_is_refused(small):
    """P7: on its second, and the browser is told why."""
    browser = put(small)
    small.clock.pass_(7259)
    assert [{}, "idle"] == browser.get("/ended").json


def test_an_ended_one_is_refused(small):
    """A tombstone with a plain id says why, and gets its hash."""
    browser = put(small, ended="revoked", data="")
    assert [{}, "revoked"] == browser.get("/ended").json
    assert is_hashed(small)


def test_an_unreadable_one_is_refused(small, caplog):
    """It is a new session, and one log line."""
    browser = put(small, data="{")
    assert [{}, "unreadable"] == browser.get("/ended").json
    assert 1 == caplog.text.count("is unreadable")


# -- at the same time --------------------------------------------------


def crowd(make, database, mode):
    """Return a world for many threads."""
    pool = {"pool_size": THREADS, "max_overflow": THREADS}
    own = {"limitedsession.lock_timeout": "60s"}
    if mode == "separate":
        own |= {
            f"limitedsession.sqlalchemy.{name}": str(value)
            for name, value in pool.items()
        }
    query = {"timeout": "60"} if database == "sqlite" else {}
    return make(database, mode, engine=pool, settings=own, query=query)


def test_p2_first_uses_at_the_same_time(make, database, mode):
    """P2: of first requests that come at once each keeps its change."""
    world = crowd(make, database, mode)
    expected = {"a": "1", **{f"k{n}": str(n) for n in range(THREADS)}}
    for number in range(ROUNDS):
        token = f"{RAILS}{number}"
        put(world, token)

        def work(n, token=token):
            having(world, token).get(f"/set?k{n}={n}")

        in_threads(work, THREADS)
        assert expected == having(world, token).get("/get").json
    keys = {key_of(f"{RAILS}{number}") for number in range(ROUNDS)}
    assert keys == {row.session_id for row in world.rows()}
    assert 0 == world.checked_out()


def test_p3_a_logout_at_the_first_use(make, database, mode):
    """P3: a logout wins over a write that has begun, whoever hashes."""
    world = crowd(make, database, mode)
    loaded = threading.Barrier(2)

    @world.on("slow")
    def _(request):
        request.session["late"] = "1"
        loaded.wait(timeout=30)
        return {}

    @world.on("leave")
    def _(request):
        assert "a" in request.session
        loaded.wait(timeout=30)
        request.session.invalidate()
        return {}

    cookies = []

    def work(n):
        answer = having(world, RAILS).get(("/slow", "/leave")[n])
        if n == 0:
            cookies.extend(cookie_of(answer))

    for _ in range(ROUNDS):
        put(world)
        in_threads(work, 2)
        assert [] == world.rows()
    assert [] == cookies


def test_p2_somebody_else_hashes_in_between(legacy):
    """P2: who comes second goes on with the row as it is then."""
    browser = put(legacy)
    before(legacy, is_hashing, lambda: having(legacy, RAILS).get("/set?b=2"))
    browser.get("/set?c=3")
    expected = {"a": "1", "b": "2", "c": "3"}
    assert expected == browser.get("/get").json
    assert is_hashed(legacy)


def test_p2_somebody_else_hashes_between_two_looks(legacy):
    """P2: the row is found if it is hashed between SELECT and SELECT."""
    browser = put(legacy)
    other = having(legacy, RAILS)
    before(legacy, nth_look(2), lambda: other.get("/set?b=2"))
    browser.get("/set?c=3")
    expected = {"a": "1", "b": "2", "c": "3"}
    assert expected == browser.get("/get").json
    assert 1 == len(legacy.rows())


@pytest.mark.parametrize("path", ["/out", "/rotate"])
def test_p3_somebody_else_ends_it_in_between(legacy, path):
    """P3: who comes second has no session, and brings none back."""
    browser = put(legacy)
    before(legacy, is_hashing, lambda: having(legacy, RAILS).get(path))
    assert {} == browser.get("/get").json
    assert RAILS not in [row.session_id for row in legacy.rows()]


# -- where it cannot be hashed -----------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_a_locked_row_is_read_all_the_same(make, server, caplog):
    """Who has locked the row makes nobody's reading fail, only wait."""
    caplog.set_level(logging.INFO)
    world = make(server, settings={"limitedsession.lock_timeout": "1s"})
    browser = put(world)
    with world.engine.begin() as connection:
        connection.execute(sa.select(world.table).with_for_update())
        assert {"a": "1"} == browser.get("/get").json
    assert not is_hashed(world)
    assert "is hashed later" in caplog.text
    assert [] == [r for r in caplog.records if r.levelno > logging.INFO]
    assert {"a": "1"} == browser.get("/get").json
    assert is_hashed(world)


@pytest.fixture(name="held")
def _held(make):
    """A SQLite in separate mode whose file a request locks at its look."""
    world = make("sqlite", "separate")

    @world.on("locked")
    def _(request):
        raw = world.engine.raw_connection()
        raw.cursor().execute("BEGIN IMMEDIATE")
        found = dict(request.session)
        raw.rollback()
        raw.close()
        meanwhile = request.params.get("meanwhile")
        if meanwhile:
            having(world, RAILS).get(meanwhile)
        request.session["b"] = "2"
        return found

    return world


def test_p2_a_change_of_what_could_not_be_hashed(held):
    """P2: it is stored, and the row is hashed with it."""
    assert {"a": "1"} == put(held).get("/locked").json
    assert is_hashed(held)
    expected = {"a": "1", "b": "2"}
    assert expected == having(held, RAILS).get("/get").json


def test_p2_who_could_not_hash_it_finds_it_hashed(held):
    """P2: if somebody else does meanwhile, both keep their changes."""
    put(held).get("/locked", {"meanwhile": "/set?c=3"})
    expected = {"a": "1", "b": "2", "c": "3"}
    assert expected == having(held, RAILS).get("/get").json
    assert is_hashed(held)


@pytest.mark.parametrize("meanwhile", ["/out", "/rotate"])
def test_p3_who_could_not_hash_it_finds_it_gone(held, meanwhile):
    """P3: if somebody else ends or rotates it, the change is dropped."""
    answer = put(held).get("/locked", {"meanwhile": meanwhile})
    assert [] == cookie_of(answer)
    assert {} == having(held, RAILS).get("/get").json
    assert [] == [row for row in held.rows() if '"b"' in row.data]


@pytest.fixture(name="read_only")
def _read_only(clock, tmp_path, mode):
    """A browser of a plain id, whose SQLite file can only be read."""
    path = tmp_path / "only.sqlite"
    options = {"clock": clock, "table": "t", "settings": ON}
    writer = World(f"sqlite:///{path}", mode, **options)
    put(writer)
    writer.store.engine.dispose()
    writer.engine.dispose()
    url = f"sqlite:///file:{path}?mode=ro&uri=true"
    world = add_views(World(url, mode, **options))
    yield world
    world.store.engine.dispose()
    world.engine.dispose()


def test_p9_a_read_only_database_is_read(read_only, caplog):
    """P9: nobody is logged out by it; that it cannot be hashed is told."""
    assert {"a": "1"} == having(read_only, RAILS).get("/get").json
    told = [r for r in caplog.records if r.levelno > logging.INFO]
    shown = fingerprint(key_of(RAILS))
    expected = f"the plain id of session {shown} was not hashed"
    assert [expected] == [record.getMessage() for record in told]
    assert 0 == read_only.checked_out()


@pytest.mark.parametrize("server", SERVERS)
def test_p9_a_server_that_refuses_the_update(make, server, caplog):
    """P9: the same where the server says that nobody may write."""
    world = make(server)
    browser = put(world)
    statement = {
        "postgresql": "SET default_transaction_read_only = on",
        "mariadb": "SET SESSION TRANSACTION READ ONLY",
    }[server]

    def connected(connection, record):
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()

    world.store.engine.dispose()
    sa.event.listen(world.store.engine, "connect", connected)
    assert {"a": "1"} == browser.get("/get").json
    assert "was not hashed" in caplog.text
    assert RAILS not in caplog.text
    assert not is_hashed(world)


# -- in the request's own transaction ----------------------------------


@pytest.fixture(name="inside")
def _inside(make):
    """Joined mode on SQLite: its requests read in their transaction."""
    world = make("sqlite", "joined")

    @world.on("inside")
    def _(request):
        request.dbsession.query(world.Item).count()
        found = dict(request.session)
        request.session.update(request.params)
        if "abort" in request.params:
            raise HTTPFound("/get")
        return found

    return world


def test_it_is_hashed_in_the_request_s_transaction(inside):
    """A request that only reads commits the hash."""
    browser = put(inside)
    assert {"a": "1"} == browser.get("/inside").json
    assert is_hashed(inside)
    assert {"a": "1"} == browser.get("/inside").json


def test_it_is_plain_again_when_the_transaction_aborts(inside):
    """What follows the abort finds the row all the same."""
    browser = put(inside)
    inside.clock.pass_(100)
    browser.get("/inside?abort=1")
    assert not is_hashed(inside)
    (row,) = inside.rows()
    assert START + 100 == row.updated_at
    browser.get("/inside?b=2")
    assert is_hashed(inside)
    assert {"a": "1", "b": "2"} == browser.get("/get").json


def test_a_late_change_behind_an_abort(inside):
    """P2: a change behind an abort that took the hash back is stored."""

    @inside.on("late")
    def _(request):
        request.dbsession.query(inside.Item).count()
        assert {"a": "1"} == dict(request.session)

        def late(request, response):
            request.session["b"] = "2"

        request.add_response_callback(late)
        raise HTTPFound("/get")

    browser = put(inside)
    browser.get("/late")
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    assert is_hashed(inside)


def test_a_first_use_behind_the_transaction(make, caplog):
    """Where there is none any more it is left to the next request."""
    world = make("sqlite", "joined", explicit=False)

    @world.on("late")
    def _(request):
        def late(request, response):
            request.dbsession.query(world.Item).count()
            response.json = dict(request.session)

        request.add_response_callback(late)
        return {}

    browser = put(world)
    assert {"a": "1"} == browser.get("/late").json
    transaction.abort()
    assert [] == [r for r in caplog.records if r.levelno > logging.INFO]
    assert not is_hashed(world)
    browser.get("/get")
    assert is_hashed(world)


def test_in_somebody_else_s_transaction(make, database):
    """In tests' fixtures the row is hashed in their transaction."""
    world = make(database, "joined")
    put(world)
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    dbsession = world.session_factory()
    zope.sqlalchemy.register(dbsession, transaction_manager=tm)
    environ = {
        "tm.active": True,
        "tm.manager": tm,
        "app.dbsession": dbsession,
    }
    browser = having(world, RAILS, **environ)
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    keys = dbsession.scalars(sa.select(world.table.c.session_id)).all()
    assert [key_of(RAILS)] == keys
    tm.abort()
    assert not is_hashed(world)


def test_on_a_connection_of_the_application(make, database):
    """A dbsession bound to a connection without a transaction of its own."""
    world = make(database, "joined")
    browser = put(world)
    plain = world.session_factory
    with world.engine.connect() as connection:
        world.session_factory = sessionmaker(connection)
        assert {"a": "1"} == browser.get("/get").json
        connection.rollback()
        assert is_hashed(world)
        browser.get("/set?b=2")
    world.session_factory = plain
    assert {"a": "1", "b": "2"} == browser.get("/get").json


@pytest.mark.parametrize("path", ["/get", "/inside"])
def test_under_a_middleware_s_transaction(make, database, path):
    """Under repoze.tm2 the first use hashes, and the next goes on."""
    world = make(database, "joined", explicit=False)

    @world.on("inside")
    def _(request):
        request.dbsession.query(world.Item).count()
        return dict(request.session)

    put(world)
    browser = TestApp(TM(world.app, default_commit_veto))
    browser.set_cookie("session", RAILS)
    assert {"a": "1"} == browser.get(path).json
    assert is_hashed(world)
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get(path).json


def test_with_pyramid_retry(make, database, mode):
    """Each attempt finds the session; only the last one's change counts."""
    world = make(
        database,
        mode,
        settings={"retry.attempts": "3"},
        configure=lambda config: config.include("pyramid_retry"),
    )

    @world.on("try")
    def _(request):
        request.dbsession.query(world.Item).count()
        session = request.session
        session["n"] = session.get("n", 0) + 1
        if request.environ["retry.attempt"] < 2:
            raise TransientError
        return dict(session)

    browser = put(world)
    expected = {"a": "1", "n": 1}
    assert expected == browser.get("/try").json
    assert expected == browser.get("/get").json
    assert is_hashed(world)


def test_on_conflict_retry(make, mode):
    """A conflict at a first use is one for pyramid_retry, as any other."""
    world = make(
        "sqlite",
        mode,
        settings={"limitedsession.on_conflict": "retry"},
        configure=lambda config: config.include("pyramid_retry"),
    )

    @world.on("conflict")
    def _(request):
        session = request.session
        session["a"] += "!"
        if not request.environ["retry.attempt"]:
            having(world, RAILS).get("/set?a=2")
        return dict(session)

    browser = put(world)
    assert {"a": "2!"} == browser.get("/conflict").json
    assert {"a": "2!"} == browser.get("/get").json


def test_sessions_of_a_user(small):
    """A session with a plain id is listed and ended like any other."""

    @small.on("end")
    def _(request):
        sessions = request.user_sessions
        found = len(sessions.list("ann"))
        sessions.end_all("ann")
        return found

    browser = put(small, user_id="ann")
    assert 1 == small.browser().get("/end").json
    assert [{}, "revoked"] == browser.get("/ended").json


# -- what is shown -----------------------------------------------------


def test_p6_a_fingerprint_shows_nothing_of_a_plain_id():
    """P6: it is that of the hash, before it is hashed and afterwards."""
    for token in (SHORT, RAILS, OURS, LONG, "ä\ud800"):
        shown = fingerprint(token)
        assert fingerprint(key_of(token)) == shown
        assert shown not in token


def test_p6_a_record_shows_nothing_of_a_plain_id(small):
    """P6: its key is a secret, plain or not."""
    put(small)
    record = small.store.load(RAILS)
    assert isinstance(record, Record)
    assert isinstance(record.key, Secret)
    assert RAILS not in repr(record)


def test_a_legacy_token_is_parsed_only_when_told():
    """Ours are taken in any case, others if they may be legacy ones."""
    token = make_token()
    assert token == parse_token(token) == parse_token(token, legacy=True)
    assert parse_token(RAILS) is None
    assert isinstance(parse_token(RAILS, legacy=True), Secret)
    assert parse_token(key_of(RAILS), legacy=True) is None
    assert parse_token(None, legacy=True) is None


@pytest.fixture(name="loud")
def _loud(make, database, mode, caplog):
    """A world that logs all it can."""
    logger = logging.getLogger("sqlalchemy")
    handlers = list(logger.handlers)
    caplog.set_level(logging.DEBUG)
    for name in ("", ".engine", ".pool", ".orm"):
        caplog.set_level(logging.DEBUG, "sqlalchemy" + name)
    settings = {
        f"limitedsession.sqlalchemy.{name}": value
        for name, value in LOUD.items()
    }
    own = settings if mode == "separate" else {}
    yield make(database, mode, engine=LOUD, settings=own)
    logger.handlers[:] = handlers


def test_p6_no_plain_id_in_any_log(loud, caplog, capsys):
    """P6: not with echo on, not when the hashing fails, in no traceback."""

    def break_it():
        # As a driver's message may: with what was being written.
        raise sa.exc.IntegrityError(
            "UPDATE", {"plain": RAILS}, ValueError(f"key {RAILS}")
        )

    put(loud, SHORT)
    caplog.clear()
    capsys.readouterr()
    token = RAILS + "x"
    loud.execute(
        loud.table.update().values(session_id=Secret(token), profile="gone")
    )
    browser = having(loud, token)
    before(loud, is_hashing, break_it)
    for path in ("/get", "/get", "/set?b=2", "/rotate", "/out"):
        browser.get(path)
    shown = [*capsys.readouterr()]
    for record in caplog.get_records("call"):
        shown.append(logging.Formatter().format(record))
        shown.append(repr(record.args))
    text = "\n".join(shown)
    assert "UPDATE" in text
    assert "was not hashed" in text
    pieces = [token[start : start + 6] for start in range(len(token) - 5)]
    assert [] == [piece for piece in pieces if piece in text]
