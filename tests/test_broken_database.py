"""The database is down, or broken: nobody is logged out, nothing is lost.

Servers are really not there (a port on which nobody listens), connections
are really killed by their server, rows are really damaged.
"""

from __future__ import annotations

import json
import logging
import os
import socket

import pytest
import sqlalchemy as sa
from pyramid.httpexceptions import HTTPFound
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pyramid_limitedsession import SessionError, SessionTableError
from tests.apps import World, cookie_of

SERVERS = ("postgresql", "mariadb")


def _show_503(config):
    """Give the application an exception view of its own."""

    def unavailable(error, request):
        request.response.status = 503
        return {"error": type(error).__name__}

    for context in (SQLAlchemyError, SessionError):
        config.add_exception_view(unavailable, context, renderer="json")


def _add_views(world):
    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    @world.on("untouched")
    def _(request):
        return {"ok": True}

    return world


@pytest.fixture(name="make")
def _make(make_world):
    """Return a function that makes a world with the common views."""

    def make(*arguments, **options):
        options.setdefault("configure", _show_503)
        return _add_views(make_world(*arguments, **options))

    return make


@pytest.fixture(name="dead_port")
def _dead_port():
    """A port on which nobody listens, and nobody can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(name="server", params=SERVERS)
def _server(request):
    return request.param


class Outage:
    """Between ``begin`` and ``end`` the world's server cannot be reached."""

    def __init__(self, world, port):
        self.tries = 0
        self._port = port
        self._is_on = False
        self._engines = {world.engine, world.store.engine}
        for dialect in {engine.dialect for engine in self._engines}:
            sa.event.listen(dialect, "do_connect", self._connect)

    def _connect(self, dialect, record, arguments, options):
        self.tries += self._is_on
        if self._is_on:
            options["port"] = self._port

    def begin(self):
        """Let every connection end, and none begin."""
        self._is_on = True
        for engine in self._engines:
            engine.dispose()

    def end(self):
        """Bring the server back."""
        self._is_on = False


# -- nobody answers ----------------------------------------------------


@pytest.fixture(name="dead")
def _dead(make, databases, server, dead_port):
    """An application whose sessions' server does not answer at its start."""
    url = sa.make_url(databases.url(server)).set(port=dead_port)
    url = url.update_query_dict({"connect_timeout": "2"})
    return make(
        "sqlite",
        "separate",
        settings={
            "limitedsession.sqlalchemy.url": url.render_as_string(
                hide_password=False
            )
        },
    )


def _stranger(world):
    """Return a browser whose token might be that of a session."""
    browser = world.browser()
    browser.set_cookie("session", "A" * 43)
    return browser


def test_the_app_starts_without_its_database(dead, caplog):
    """It starts, and a page that does not touch the session works."""
    assert {"ok": True} == dead.browser().get("/untouched").json
    told = [record.getMessage() for record in caplog.get_records("setup")]
    assert 1 == len([text for text in told if "does not answer" in text])


def test_a_page_that_reads_is_a_503(dead):
    """A page that reads the session gets the app's own error page."""
    response = _stranger(dead).get("/get", status=503)
    assert {"error": "OperationalError"} == response.json
    assert [] == cookie_of(response)


def test_without_a_token_nobody_is_asked(dead):
    """A visitor without a session can read while nobody answers."""
    assert {} == dead.browser().get("/get").json


def test_a_first_write_is_a_503(dead):
    """A new visitor's session cannot be stored: an error, no cookie."""

    @dead.on("both")
    def _(request):
        request.dbsession.add(dead.Item(name="x"))
        request.session["a"] = 1
        return {}

    response = dead.browser().get("/both", status=503)
    assert [] == cookie_of(response)
    assert [] == dead.items()


@pytest.fixture(name="outage")
def _outage(make, server, mode, dead_port):
    """A world, a browser with a session, and the power to cut it off."""
    world = make(server, mode)
    browser = world.browser()
    browser.get("/set?a=1")
    return world, browser, Outage(world, dead_port)


def test_p9_nobody_sees_an_empty_session(outage):
    """P9: whatever the view looks at, it raises; never an empty session."""
    world, browser, power = outage
    seen = []

    @world.on("look")
    def _(request):
        session = request.session
        for look in (
            lambda: dict(session),
            lambda: len(session),
            lambda: "a" in session,
            lambda: session.get("a"),
            lambda: session.new,
            lambda: session.created,
            lambda: session.ended,
            lambda: session.expires_in,
            lambda: session.peek_flash(),
            lambda: session.get_csrf_token(),
            lambda: session == {},
            lambda: session.clear(),
            lambda: session.update(b=1),
            lambda: session.rotate(),
            lambda: session.invalidate(),
            lambda: session.changed(),
        ):
            try:
                seen.append(look())
            except OperationalError:
                continue
        return {}

    power.begin()
    response = browser.get("/look")
    power.end()
    assert [] == seen
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json


def test_the_second_look_asks_nobody(outage):
    """The second look raises the same error without another connection."""
    world, browser, power = outage
    errors = []

    @world.on("look")
    def _(request):
        for _ in range(3):
            with pytest.raises(OperationalError) as info:
                request.session.get("a")
            errors.append(info.value)
        return {}

    power.begin()
    browser.get("/look")
    power.end()
    assert 1 == len(set(map(id, errors)))
    assert 1 == power.tries


def test_the_next_request_works(outage):
    """An outage is a 503, and its end needs no restart."""
    world, browser, power = outage
    power.begin()
    assert 503 == browser.get("/get", status="*").status_int
    assert 503 == browser.get("/set?a=2", status="*").status_int
    power.end()
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_logout_during_an_outage_is_an_error(outage):
    """Who could not be logged out is not told so: 503, cookie untouched."""
    _, browser, power = outage
    power.begin()
    response = browser.get("/out", status=503)
    power.end()
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json


@pytest.mark.parametrize("how", ["return", "redirect", "error"])
def test_logout_when_the_database_goes_away(outage, how):
    """The database goes after the look: no answer says "logged out"."""
    world, browser, power = outage

    @world.on("leave")
    def _(request):
        request.session.invalidate()
        power.begin()
        if how == "return":
            return {}
        if how == "redirect":
            raise HTTPFound("/get")
        raise SessionError("of the application's own")

    response = browser.get("/leave", status="*")
    power.end()
    assert 503 == response.status_int
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json


def test_an_activity_that_cannot_be_written_is_a_log_line(outage, caplog):
    """The page is shown; one warning says what was not written."""
    world, browser, power = outage

    @world.on("read")
    def _(request):
        content = dict(request.session)
        power.begin()
        return content

    world.clock.pass_(100)
    response = browser.get("/read")
    power.end()
    assert {"a": "1"} == response.json
    warnings = [
        record
        for record in caplog.records
        if record.name.startswith("pyramid_limitedsession")
    ]
    assert ["a session's activity was not written"] == [
        record.getMessage() for record in warnings
    ]


# -- connections are killed --------------------------------------------


class Killer:
    """Knows the backends of some engines, and kills them."""

    def __init__(self, *engines):
        self._name = engines[0].dialect.name
        self._admin = sa.create_engine(engines[0].url)
        self._ids = set()
        for engine in engines:
            sa.event.listen(engine, "connect", self._connected)
            engine.dispose()

    def _connected(self, connection, record):
        if self._name == "postgresql":
            self._ids.add(connection.info.backend_pid)
        else:
            self._ids.add(connection.thread_id())

    def kill(self):
        """Kill every connection that was made, and wait till it is gone."""
        with self._admin.connect() as admin:
            for number in self._ids:
                self._kill(admin, number)
        self._ids.clear()
        self._admin.dispose()

    def _kill(self, admin, number):
        if self._name == "postgresql":
            query = sa.text("SELECT pg_terminate_backend(:number, 5000)")
            admin.execute(query, {"number": number})
            return
        alive = sa.text(
            "SELECT count(*) FROM information_schema.processlist "
            "WHERE id = :number"
        )
        if admin.execute(alive, {"number": number}).scalar():
            admin.exec_driver_sql(f"KILL {number}")
        while admin.execute(alive, {"number": number}).scalar():
            continue


@pytest.fixture(name="killing")
def _killing(make, server, mode):
    """A world, its browser, a killer of the connections it writes with.

    In joined mode those are the application's own; the connections that
    sessions are read with stay.
    """
    world = make(server, mode)
    engines = [world.engine]
    if mode == "separate":
        engines.append(world.store.engine)
    killer = Killer(*engines)
    browser = world.browser()
    browser.get("/set?a=1")
    return world, browser, killer


def test_killed_between_load_and_save(killing):
    """The request fails once, nothing is half-written, the next one works."""
    world, browser, killer = killing

    @world.on("slow")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.dbsession.flush()
        request.session["a"] = "2"
        killer.kill()
        return {}

    response = browser.get("/slow", status=503)
    assert [] == cookie_of(response)
    assert [] == world.items()
    assert 0 == world.checked_out()
    assert {"a": "1"} == browser.get("/get").json
    browser.get("/set?a=3")
    assert {"a": "3"} == browser.get("/get").json


def test_p9_killed_while_idle_in_separate_mode(make, server):
    """P9: a restart of the server between two requests costs none of them."""
    world = make(server, "separate")
    killer = Killer(world.store.engine)
    browser = world.browser()
    browser.get("/set?a=1")
    killer.kill()
    browser.get("/set?a=2")
    assert {"a": "2"} == browser.get("/get").json


def test_killed_while_idle(make, server):
    """In joined mode it costs what the app's own pool makes it cost.

    Without ``pool_pre_ping`` that is one request for each of the two pools.
    """
    world = make(server, "joined")
    killer = Killer(world.engine, world.store.engine)
    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/get")
    killer.kill()
    codes = [browser.get("/set?a=2", status="*").status_int for _ in range(3)]
    assert [503, 503, 200] == codes
    assert {"a": "2"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_killed_while_idle_with_pre_ping(make, server):
    """In joined mode with ``pool_pre_ping`` it costs no request either."""
    world = make(server, "joined", engine={"pool_pre_ping": True})
    killer = Killer(world.engine, world.store.engine)
    browser = world.browser()
    browser.get("/set?a=1")
    killer.kill()
    browser.get("/set?a=2")
    assert {"a": "2"} == browser.get("/get").json


def _kill_at_commit(world, killer):
    """Let the next COMMIT of a session's write find no connection."""
    used = []

    def before(*arguments):
        statement = arguments[2] if len(arguments) > 1 else "COMMIT"
        if statement == "COMMIT" and not used:
            used.append(True)
            killer.kill()

    if world.mode == "separate":
        sa.event.listen(world.store.engine, "before_cursor_execute", before)
    else:
        sa.event.listen(world.engine, "commit", before)
    return used


def test_killed_during_commit(killing):
    """The COMMIT fails: an error, the row as it was, the next one works."""
    world, browser, killer = killing
    used = _kill_at_commit(world, killer)
    response = browser.get("/set?a=2", status=503)
    assert [True] == used
    assert [] == cookie_of(response)
    assert 0 == world.checked_out()
    assert {"a": "1"} == browser.get("/get").json


def test_killed_during_the_commit_of_a_logout(killing):
    """The row is gone in the end, since an end is tried once more."""
    world, browser, killer = killing
    used = _kill_at_commit(world, killer)
    browser.get("/out", status=503)
    assert [True] == used
    assert [] == world.rows()
    assert 0 == world.checked_out()


def test_killed_during_the_commit_of_a_new_session(killing):
    """The COMMIT of a first write fails: no row, and so no cookie."""
    world, _, killer = killing
    used = _kill_at_commit(world, killer)
    response = world.browser().get("/set?a=1", status=503)
    assert [True] == used
    assert [] == cookie_of(response)
    assert 1 == len(world.rows())


def test_killed_during_commit_is_cleaned_up_without_errors(killing, caplog):
    """A failed COMMIT is told once; cleaning up after it does not fail."""
    world, browser, killer = killing
    _kill_at_commit(world, killer)
    browser.get("/set?a=2", status="*")
    assert "Error in tpc_abort" not in caplog.text
    assert "Error in abort" not in caplog.text


def test_a_rollback_that_fails_is_a_log_line(make, server, caplog):
    """Killed while another error is on its way: that error is what is seen."""
    world = make(server, "separate")
    killer = Killer(world.store.engine)
    work = world.store.begin()
    killer.kill()
    work.rollback()
    assert "a rollback failed" in caplog.text
    assert 0 == world.checked_out()


# -- no connection is left ---------------------------------------------

_SMALL = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.2}
_SMALL_SETTINGS = {
    "limitedsession.sqlalchemy.pool_size": "1",
    "limitedsession.sqlalchemy.max_overflow": "0",
    "limitedsession.sqlalchemy.pool_timeout": "0",
}


@pytest.fixture(name="small")
def _small(make, database, mode):
    """A world whose sessions have one connection, and a session."""
    if mode == "joined":
        world = make(database, mode, engine=_SMALL)
    else:
        world = make(database, mode, settings=_SMALL_SETTINGS)
    browser = world.browser()
    browser.get("/set?a=1")
    return world, browser


def test_an_exhausted_pool_is_a_503(small):
    """No connection to read with: an error page, not an empty session."""
    world, browser = small
    with world.store.engine.connect():
        response = browser.get("/get", status=503)
        assert {"error": "TimeoutError"} == response.json
        assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_an_exhausted_pool_at_save_writes_nothing(small):
    """No connection to write with: neither session nor app data changes."""
    world, browser = small
    engine = world.engine if world.mode == "joined" else world.store.engine
    held = []

    @world.on("slow")
    def _(request):
        request.session["a"] = "2"
        if world.mode == "separate":
            request.dbsession.add(world.Item(name="x"))
        held.append(engine.connect())
        return {}

    response = browser.get("/slow", status=503)
    held[0].close()
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json
    assert 0 == world.checked_out()
    # SQLite in separate mode writes after the application's own commit.
    is_late = world.mode == "separate" and world.url.startswith("sqlite")
    assert (["x"] if is_late else []) == world.items()


def test_one_connection_is_enough(small):
    """A pool of one serves a request that reads, writes, rotates, touches."""
    world, browser = small

    @world.on("all")
    def _(request):
        if world.mode == "joined":
            request.dbsession.add(world.Item(name="x"))
        request.session["a"] = "2"
        request.session.rotate()
        return {}

    world.clock.pass_(100)
    browser.get("/all")
    world.clock.pass_(100)
    assert {"a": "2"} == browser.get("/get").json


# -- the table is missing ----------------------------------------------


@pytest.mark.parametrize("path", ["/get", "/set?a=2"])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_missing_table_names_pls_init(
    make_world, database, mode, path, is_known
):
    """SessionTableError tells how to make the table; no new session loop."""
    world = _add_views(make_world(database, mode))
    browser = world.browser()
    if is_known:
        browser.get("/set?a=1")
    world.table.drop(world.engine)
    if path == "/get" and not is_known:
        assert {} == browser.get(path).json
        return
    with pytest.raises(SessionTableError, match="pls-init") as info:
        browser.get(path)
    assert world.table.name == info.value.table
    assert 0 == world.checked_out()


def test_a_missing_table_is_not_made_in_requests(make, database, mode):
    """A table that vanished is not silently made again, empty."""
    world = make(database, mode)
    browser = world.browser()
    browser.get("/set?a=1")
    world.table.drop(world.engine)
    browser.get("/set?a=2", status=503)
    assert not sa.inspect(world.engine).has_table(world.table.name)


# -- read only ---------------------------------------------------------


@pytest.fixture(name="read_only")
def _read_only(make, clock, tmp_path, mode):
    """The world of a SQLite file that can only be read; its browser."""
    path = tmp_path / "only.sqlite"
    options = {"clock": clock, "table": "t", "configure": _show_503}
    writer = _add_views(World(f"sqlite:///{path}", mode, **options))
    browser = writer.browser()
    browser.get("/set?a=1")
    token = browser.cookies["session"]
    writer.store.engine.dispose()
    writer.engine.dispose()
    url = f"sqlite:///file:{path}?mode=ro&uri=true"
    options["settings"] = {"limitedsession.self_clean": "1"}
    world = _add_views(World(url, mode, **options))
    browser = world.browser()
    browser.set_cookie("session", token)
    yield world, browser
    world.store.engine.dispose()
    world.engine.dispose()


def test_reading_of_a_read_only_file_works(read_only, caplog):
    """A session is read, and nothing is logged above INFO."""
    _, browser = read_only
    assert {"a": "1"} == browser.get("/get").json
    assert [] == [r for r in caplog.records if r.levelno > logging.INFO]


@pytest.mark.parametrize("path", ["/set?a=2", "/out"])
def test_writing_to_a_read_only_file_raises(read_only, path):
    """A change, or a logout, is an error; no cookie, the row as it was."""
    world, browser = read_only
    response = browser.get(path, status=503)
    assert [] == cookie_of(response)
    assert ['{"a":"1"}'] == [row.data for row in world.rows()]
    assert 0 == world.checked_out()


def test_touching_a_read_only_file_is_one_warning(read_only, caplog):
    """Activity that cannot be written is a log line, the page is shown."""
    world, browser = read_only
    world.clock.pass_(100)
    assert {"a": "1"} == browser.get("/get").json
    assert ["a session's activity was not written"] == [
        r.getMessage() for r in caplog.records if r.levelno > logging.INFO
    ]


def test_cleaning_a_read_only_file_is_one_warning(read_only, caplog):
    """Expired rows that cannot be deleted are a log line."""
    world, browser = read_only
    world.clock.pass_(100_000)
    assert {} == browser.get("/get").json
    assert ["expired sessions were not deleted"] == [
        r.getMessage() for r in caplog.records if r.levelno > logging.INFO
    ]
    assert 1 == len(world.rows())


# -- rows are damaged --------------------------------------------------


def _loosen(world):
    """Let the table take anything."""
    name = world.table.name
    kind = world.engine.dialect.name
    if kind == "sqlite":
        with world.engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA writable_schema = ON")
            connection.exec_driver_sql(
                "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')"
                f" WHERE name = '{name}'"
            )
            connection.exec_driver_sql("PRAGMA writable_schema = OFF")
        world.engine.dispose()
        world.store.engine.dispose()
        return
    kinds = {
        "postgresql": "ALTER COLUMN {0} DROP NOT NULL",
        "mysql": "MODIFY {0} {1} NULL",
    }
    for column, type_ in (
        ("data", "LONGTEXT"),
        ("version", "INT"),
        ("created_at", "DATETIME"),
        ("updated_at", "DATETIME"),
    ):
        change = kinds[kind].format(column, type_)
        world.execute(sa.text(f"ALTER TABLE {name} {change}"))


def _damage(world, change):
    world.execute(sa.text(f"UPDATE {world.table.name} SET {change}"))


def _state_of(world):
    """Return the raw table as text, for comparing."""
    with world.engine.connect() as connection:
        query = sa.text(f"SELECT id, version FROM {world.table.name}")
        return connection.execute(query).all()


_DAMAGES = [
    "data = 'no json'",
    "data = ''",
    """data = '{"a": '""",
    "data = 'null'",
    "data = '[]'",
    """data = '"x"'""",
    "data = '1'",
    "data = NULL",
    "updated_at = NULL",
    "created_at = NULL",
]
_SQLITE_DAMAGES = [
    "updated_at = 'garbage'",
    "created_at = 'garbage'",
    "created_at = ''",
    "created_at = 17",
    "updated_at = X'00FF'",
    "data = X'00FF'",
    "data = 17",
    "data = CAST(X'7B2261223A22FF227D' AS TEXT)",
]


def _check_unreadable(world, change, caplog):
    reasons = []

    @world.on("why")
    def _(request):
        reasons.append((dict(request.session), request.session.ended))
        return {}

    _loosen(world)
    browser = world.browser()
    browser.get("/set?a=1")
    _damage(world, change)
    before = _state_of(world)
    caplog.clear()
    response = browser.get("/why")
    assert [({}, "unreadable")] == reasons
    assert [] == cookie_of(response)
    assert before == _state_of(world)
    warnings = [r for r in caplog.records if r.levelno > logging.INFO]
    assert [logging.WARNING] == [r.levelno for r in warnings]
    assert "is unreadable" in warnings[0].getMessage()


@pytest.mark.parametrize("change", _DAMAGES)
def test_a_damaged_row_is_a_new_session(make, database, mode, change, caplog):
    """New session, one warning, no 500; the row is left where it is."""
    _check_unreadable(make(database, mode), change, caplog)


@pytest.mark.parametrize("change", _SQLITE_DAMAGES)
def test_a_row_of_wrong_types_is_a_new_session(make, mode, change, caplog):
    """SQLite keeps anything in any column: new session, one warning."""
    _check_unreadable(make("sqlite", mode), change, caplog)


@pytest.mark.parametrize("version", ["NULL", "2147483647", "-5"])
def test_a_damaged_version_does_no_harm(make, database, mode, version):
    """Whatever the version: no 500, and the next change is saved."""
    world = make(database, mode)
    _loosen(world)
    browser = world.browser()
    browser.get("/set?a=1")
    _damage(world, f"version = {version}")
    assert {"a": "1"} == browser.get("/get").json
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json


def test_a_new_session_beside_a_damaged_row(make, database, mode):
    """What is put in after a damaged row is a new row under a new token."""
    world = make(database, mode)
    browser = world.browser()
    browser.get("/set?a=1")
    old = browser.cookies["session"]
    _damage(world, "data = 'no json'")
    browser.get("/set?b=2")
    assert old != browser.cookies["session"]
    assert {"b": "2"} == browser.get("/get").json
    assert ["no json", '{"b":"2"}'] == [row.data for row in world.rows()]


def test_p2_a_row_damaged_meanwhile_stays(make, database, mode, caplog):
    """P2: between load and save: it may be another host that can read it."""
    world = make(database, mode)
    browser = world.browser()
    browser.get("/set?a=1")

    @world.on("slow")
    def _(request):
        request.session["b"] = "2"
        _damage(world, "data = 'no json', version = version + 1")
        return {}

    caplog.clear()
    browser.get("/slow")
    (told,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "a change is dropped" in told.getMessage()
    assert ["no json"] == [row.data for row in world.rows()]
    assert {} == browser.get("/get").json


# -- processes ---------------------------------------------------------


def _in_child(work):
    """Run a function in a forked process; return what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work()
        except BaseException as error:
            answer = repr(error)
        os.write(writer, json.dumps(answer).encode())
        # Nothing of the parent's: no teardown, no buffers.
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = json.load(pipe)
    os.waitpid(child, 0)
    return answer


def _backend(world):
    """Return the number of the store's own backend."""
    query = {
        "postgresql": "SELECT pg_backend_pid()",
        "mysql": "SELECT connection_id()",
        "sqlite": "SELECT 0",
    }[world.engine.dialect.name]
    with world.store.engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_its_own_connections(make, database, mode):
    """Forked after connecting, child and parent use different backends."""
    world = make(database, mode)
    browser = world.browser()
    browser.get("/set?a=1")
    mine = _backend(world)

    def work():
        # The application's own engine is the application's own business.
        world.engine.dispose(close=False)
        content = browser.get("/get").json
        browser.get("/set?child=1")
        return [content, _backend(world)]

    content, theirs = _in_child(work)
    assert {"a": "1"} == content
    assert mine == _backend(world)
    if database != "sqlite":
        assert mine != theirs
    browser.get("/set?parent=1")
    expected = {"a": "1", "child": "1", "parent": "1"}
    assert expected == browser.get("/get").json
