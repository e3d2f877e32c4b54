"""P6: no token, no full key and no session data in anything that is shown.

Everything is logged at DEBUG, with SQLAlchemy's echo on; then whatever a
session can do is done, and every statement fails once. Nothing of what was
logged, raised, answered or printed may hold a secret.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import socket
import traceback

import pytest
import sqlalchemy as sa
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response

from pyramid_limitedsession.store import Record
from pyramid_limitedsession.tokens import Secret, key_of, make_token
from tests.apps import START, count_dead, older_than, trim

CANARY = "canary-7f3a"
PASSWORD = "parrot-91c2"
RENDER = {"X-Render": "yes"}
LOUD = {"echo": "debug", "echo_pool": "debug"}
LOUD_SETTINGS = {
    f"limitedsession.sqlalchemy.{name}": value for name, value in LOUD.items()
}


@pytest.fixture(name="made")
def _made(monkeypatch):
    """Every secret that is made in this test, also those nobody is given."""
    made = []

    def recorded(make):
        def make_recorded(size):
            made.append(make(size))
            return made[-1]

        return make_recorded

    for name in ("token_urlsafe", "token_hex"):
        monkeypatch.setattr(secrets, name, recorded(getattr(secrets, name)))
    return made


class Sweep:
    """Collects what is shown, and looks for secrets in it."""

    def __init__(self, caplog, capsys, made):
        self._caplog = caplog
        self._capsys = capsys
        self._made = made
        self._shown = []

    def add(self, where, text):
        """Take a text that somebody may see."""
        self._shown.append((where, text))

    def raised(self, error):
        """Take the whole traceback of an error."""
        self.add("traceback", "".join(traceback.format_exception(error)))
        self.add("repr", repr(error))

    def run(self, work):
        """Call a function that may raise; take what it raises."""
        try:
            return work()
        except Exception as error:
            self.raised(error)
            return None

    def get(self, browser, path, **options):
        """Ask for a page, and take all of the answer but the new cookie."""
        response = self.run(
            lambda: browser.get(
                path, status="*", expect_errors=True, **options
            )
        )
        if response is None:
            return None
        token = browser.cookies.get("session") or "no token"
        self.add("body", response.text)
        for name, value in response.headerlist:
            if name == "Set-Cookie":
                value = value.replace(token, "")
            self.add(name, value)
        return response

    def is_told(self, text):
        """Say whether this was shown anywhere."""
        self._collect()
        return any(text in shown for _, shown in self._shown)

    def check(self):
        """Fail if anything that was shown holds a secret."""
        self._collect()
        leaks = [
            (where, text[-2000:])
            for where, text in self._shown
            if any(secret in text for secret in self._secrets())
            or re.search("2::[0-9a-f]", text)
        ]
        assert [] == leaks

    def _collect(self):
        form = logging.Formatter()
        for when in ("setup", "call"):
            for record in self._caplog.get_records(when):
                self.add(record.name, form.format(record))
                self.add(record.name, repr(record.args))
        out, err = self._capsys.readouterr()
        self.add("stdout", out)
        self.add("stderr", err)

    def _secrets(self):
        yield CANARY
        yield PASSWORD
        for secret in self._made:
            # Databases cut long values: their beginnings are enough. Eight
            # digits of the hash are what our own log lines show.
            yield secret[:12]
            yield hashlib.sha256(secret.encode()).hexdigest()[:12]


@pytest.fixture(name="sweep")
def _sweep(caplog, capsys, made):
    """Everything is logged from here on."""
    loud = logging.getLogger("sqlalchemy")
    handlers = list(loud.handlers)
    caplog.set_level(logging.DEBUG)
    for name in ("", ".engine", ".pool", ".orm"):
        caplog.set_level(logging.DEBUG, "sqlalchemy" + name)
    yield Sweep(caplog, capsys, made)
    # Echo adds a handler that would print for all tests to come.
    loud.handlers[:] = handlers


def _configure(config):
    """Show the traceback to whoever asks for it with a header."""

    def show(error, request):
        return Response("".join(traceback.format_exception(error)), 500)

    config.add_exception_view(show, Exception, header="X-Render")


def _add_views(world):
    @world.on("put")
    def _(request):
        request.session["c"] = CANARY
        request.session.update(request.params)
        return {}

    @world.on("read")
    def _(request):
        return [len(request.session), request.session.ended]

    @world.on("nested")
    def _(request):
        request.session.setdefault("n", {"l": []})["l"].append(CANARY)
        return {}

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    @world.on("out-abort")
    def _(request):
        request.session.invalidate()
        raise HTTPFound("/read")

    @world.on("abort")
    def _(request):
        request.session["d"] = CANARY
        raise HTTPFound("/read")

    @world.on("flash")
    def _(request):
        request.session.flash(CANARY)
        request.session.flash(CANARY, "errors")
        return {}

    @world.on("pop")
    def _(request):
        return len(request.session.pop_flash())

    @world.on("csrf")
    def _(request):
        request.session.new_csrf_token()
        return {}

    @world.on("wrong")
    def _(request):
        request.session["w"] = [CANARY, {CANARY}]
        return {}

    @world.on("wrong-key")
    def _(request):
        request.session["w"] = {5: CANARY}
        return {}

    @world.on("overflow")
    def _(request):
        request.session["w"] = CANARY * 10_000
        return {}

    return world


@pytest.fixture(autouse=True)
def _no_handlers_of_sqlalchemys_own():
    """Keep echo from logging to the standard output of one test for ever."""
    names = ("engine.Engine", "pool.impl.QueuePool", "pool.impl.NullPool")
    for name in names:
        logger = logging.getLogger(f"sqlalchemy.{name}")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


@pytest.fixture(name="make")
def _make(make_world, sweep):
    """Return a function that makes a world which logs everything."""

    def make(database, mode, **options):
        settings = {
            "pyramid.debug_all": "true",
            **(LOUD_SETTINGS if mode == "separate" else {}),
            **options.pop("settings", {}),
        }
        return _add_views(
            make_world(
                database,
                mode,
                engine=LOUD,
                settings=settings,
                configure=_configure,
                **options,
            )
        )

    return make


# -- while everything works --------------------------------------------


def _first_write(world, browser, sweep):
    sweep.get(world.browser(), "/put?x=1")


def _slowly(path):
    """Return a scenario with a second request in the middle of the first."""

    def scenario(world, browser, sweep):
        @world.on("slow")
        def _(request):
            request.session["mine"] = CANARY
            other = world.browser()
            other.set_cookie("session", browser.cookies["session"])
            sweep.get(other, path)
            return {}

        sweep.get(browser, "/slow")

    return scenario


def _pages(*paths, wait=0):
    """Return a scenario that asks for pages."""

    def scenario(world, browser, sweep):
        world.clock.pass_(wait)
        for path in paths:
            sweep.get(browser, path)

    return scenario


def _unreadable(world, browser, sweep):
    text = f'{{"c":"{CANARY}'
    world.execute(world.table.update().values(data=text))
    sweep.get(browser, "/read")
    sweep.get(browser, "/put")


def _garbage(world, browser, sweep):
    garbage = world.browser()
    for cookie in (CANARY, CANARY * 1000, (CANARY * 4)[:43], "2::" + "0" * 64):
        garbage.set_cookie("session", cookie)
        sweep.get(garbage, "/read")
        sweep.get(garbage, "/put")


def _store_work(world, browser, sweep):
    store = world.store
    world.clock.pass_(100_000)
    record = Record(
        id=0,
        key=key_of(make_token()),
        data=Secret(CANARY),
        version=1,
        created=START,
        seen=START,
        expires=START,
    )
    work = store.begin()
    work.insert(record)
    sweep.run(lambda: work.insert(record))
    work.rollback()
    now = int(world.clock())
    store.clean(cutoffs=older_than(now - 7200, now), most=10)
    count_dead(store, older_than(now - 7200, now))
    trim(store, older_than(now - 7200, now), most=10)


_SCENARIOS = {
    "first write": _first_write,
    "read": _pages("/read"),
    "change": _pages("/put?x=2"),
    "nested change": _pages("/nested", "/nested"),
    "rotate": _pages("/rotate", "/read"),
    "invalidate": _pages("/out", "/read"),
    "invalidate and abort": _pages("/out-abort"),
    "abort": _pages("/abort"),
    "flash": _pages("/flash", "/flash", "/pop"),
    "csrf": _pages("/csrf", "/csrf"),
    "touch": _pages("/read", wait=100),
    "expired": _pages("/read", "/put", wait=100_000),
    "wrong value": _pages("/wrong"),
    "wrong key": _pages("/wrong-key"),
    "overflow": _pages("/overflow"),
    "merge": _slowly("/put?theirs=1"),
    "merged flash": _slowly("/flash"),
    "lost": _slowly("/out"),
    "lost by rotation": _slowly("/rotate"),
    "unreadable": _unreadable,
    "garbage": _garbage,
    "store": _store_work,
}


@pytest.mark.parametrize("scenario", _SCENARIOS.values(), ids=_SCENARIOS)
def test_p6_nothing_is_shown(make, database, mode, sweep, scenario):
    """P6: whatever is done, nothing shown holds token, key or data."""
    world = make(database, mode)
    browser = world.browser()
    sweep.get(browser, "/put?x=1")
    scenario(world, browser, sweep)
    sweep.check()


def test_p6_the_sweep_would_find_it(make, sweep, made):
    """The sweep itself works: SQL is logged, and what is shown is found."""
    world = make("sqlite", "joined")
    sweep.get(world.browser(), "/put?x=1")
    assert sweep.is_told("INSERT INTO")
    assert sweep.is_told("'***'")
    for secret in (CANARY, made[-1], str(key_of(made[-1]))):
        probe = Sweep(sweep._caplog, sweep._capsys, made)
        probe.add("here", f"it is {secret}")
        with pytest.raises(AssertionError):
            probe.check()


def test_p6_the_reprs_of_a_request(make, database, mode, sweep):
    """P6: no object of a request shows what it holds."""
    world = make(database, mode)
    browser = world.browser()
    shown = []

    @world.on("objects")
    def _(request):
        session = request.session
        unit = request._limitedsession_unit
        session["d"] = CANARY
        session.rotate()
        plan = unit.plan()
        work = world.store.begin()
        result = plan.execute(work)
        work.rollback()
        stored = world.store.load(key_of(unit.stored.token))
        objects = [session, unit, plan, work, result, stored, result.record]
        objects += [unit._part, world.store, request.registry]
        shown.extend(f"{thing!r} {thing}" for thing in objects)
        shown.append(repr([unit.stored.token, stored.key, stored.data]))
        return {}

    sweep.get(browser, "/put?x=1")
    sweep.get(browser, "/objects")
    assert 11 == len(shown)
    for text in shown:
        sweep.add("repr", text)
    sweep.check()


# -- every statement fails ---------------------------------------------


class Fault:
    """Lets one statement fail with an error that quotes all its values."""

    def __init__(self, world, kind):
        self._table = world.table.name
        self._kind = kind
        self._skip = None
        self._word = ""
        self.happened = False
        for dialect in {world.engine.dialect, world.store.engine.dialect}:
            sa.event.listen(dialect, "do_execute", self._execute)

    def arm(self, skip, word=""):
        """Fail after so many statements on the table, or at this word."""
        self._skip, self._word = skip, word or self._table

    def _execute(self, cursor, statement, parameters, context):
        if self._skip is None or self._word not in statement:
            return
        if self._skip:
            self._skip -= 1
            return
        self._skip = None
        self.happened = True
        raise self._error(context.dialect, parameters)

    def _error(self, dialect, parameters):
        if isinstance(parameters, dict):
            parameters = parameters.values()
        values = ", ".join(map(str, parameters))
        kind = getattr(dialect.loaded_dbapi, self._kind)
        if dialect.name in ("mysql", "mariadb"):
            if self._kind == "IntegrityError":
                return kind(1062, f"Duplicate entry '{values}' for key 'x'")
            return kind(1105, f"refused\n{values}")
        if self._kind == "IntegrityError":
            return kind(f"refused: {values}\nDETAIL:  ({values}).")
        return kind(f"refused\nDETAIL:  Failing row contains ({values}).")


def _fail_in(path, skip, *, word="", wait=0):
    """Return a scenario in which a statement of a page's fails."""

    def scenario(world, browser, sweep, fault, headers):
        world.clock.pass_(wait)
        fault.arm(skip, word)
        sweep.get(browser, path, headers=headers)

    return scenario


def _fail_insert(world, browser, sweep, fault, headers):
    fault.arm(0)
    sweep.get(world.browser(), "/put?x=1", headers=headers)


def _fail_merge(skip):
    def scenario(world, browser, sweep, fault, headers):
        @world.on("slow")
        def _(request):
            request.session["mine"] = CANARY
            other = world.browser()
            other.set_cookie("session", browser.cookies["session"])
            other.get("/put?theirs=1")
            fault.arm(skip)
            return {}

        sweep.get(browser, "/slow", headers=headers)

    return scenario


def _fail_clean(skip):
    def scenario(world, browser, sweep, fault, headers):
        world.clock.pass_(100_000)
        fault.arm(skip)
        sweep.get(world.browser(), "/read", headers=headers)

    return scenario


def _fail_trim(skip):
    def scenario(world, browser, sweep, fault, headers):
        fault.arm(skip)
        cutoffs = older_than(START)
        store = world.store
        sweep.run(lambda: trim(store, cutoffs, most=9, by_id=True))

    return scenario


_FAULTS = {
    "load": _fail_in("/read", 0),
    "insert": _fail_insert,
    "update": _fail_in("/put?x=2", 1),
    "rotate": _fail_in("/rotate", 1),
    "compare": _fail_merge(0),
    "lock": _fail_merge(1),
    "merge": _fail_merge(2),
    "delete": _fail_in("/out", 1),
    "late delete": _fail_in("/out-abort", 1),
    "touch": _fail_in("/read", 1, wait=100),
    "clean": _fail_clean(0),
    "clean's delete": _fail_clean(1),
    "trim": _fail_trim(0),
    "trim's delete": _fail_trim(2),
}
_SEPARATE_FAULTS = {
    "begin": _fail_in("/put?x=2", 0, word="BEGIN"),
    "commit": _fail_in("/put?x=2", 0, word="COMMIT"),
}


@pytest.mark.parametrize(
    ("kind", "headers"),
    [("IntegrityError", {}), ("OperationalError", RENDER)],
    ids=["integrity, raised", "operational, rendered"],
)
@pytest.mark.parametrize("scenario", _FAULTS.values(), ids=_FAULTS)
def test_p6_no_error_shows_it(
    make, database, mode, sweep, scenario, kind, headers
):
    """P6: whichever statement fails, nothing shown holds a secret."""
    world = make(database, mode, settings={"limitedsession.self_clean": "1"})
    browser = world.browser()
    sweep.get(browser, "/put?x=1")
    world.clock.pass_(1)
    fault = Fault(world, kind)
    scenario(world, browser, sweep, fault, headers)
    assert fault.happened
    sweep.check()


@pytest.mark.parametrize("kind", ["IntegrityError", "OperationalError"])
@pytest.mark.parametrize(
    "scenario", _SEPARATE_FAULTS.values(), ids=_SEPARATE_FAULTS
)
def test_p6_no_error_of_a_transaction_shows_it(
    make, database, sweep, scenario, kind
):
    """P6: if BEGIN or COMMIT fails, nothing shown holds a secret."""
    world = make(database, "separate")
    browser = world.browser()
    sweep.get(browser, "/put?x=1")
    fault = Fault(world, kind)
    scenario(world, browser, sweep, fault, RENDER)
    assert fault.happened
    sweep.check()


# -- the database itself refuses ---------------------------------------


def _alter(world, **changes):
    """Change the table; False if there is nothing to do here."""
    name = world.engine.dialect.name
    if name not in changes:
        return False
    text = changes[name].format(
        table=world.table.name, check=f"ck_{world.table.name}"
    )
    with world.engine.begin() as connection:
        for statement in text.split(";;"):
            connection.exec_driver_sql(statement)
    return True


_CHECK = (
    "ALTER TABLE {table} ADD CONSTRAINT {check} "
    "CHECK (data NOT LIKE '%%refuse%%')"
)
_SQLITE_TRIGGER = (
    "CREATE TRIGGER {check}_i BEFORE INSERT ON {table} "
    "WHEN NEW.data LIKE '%refuse%' BEGIN SELECT RAISE(ABORT, 'no'); END;;"
    "CREATE TRIGGER {check}_u BEFORE UPDATE ON {table} "
    "WHEN NEW.data LIKE '%refuse%' BEGIN SELECT RAISE(ABORT, 'no'); END"
)


@pytest.mark.parametrize("headers", [{}, RENDER], ids=["raised", "rendered"])
@pytest.mark.parametrize("how", ["insert", "update", "merge"])
def test_p6_a_constraint_refuses(make, driver, mode, sweep, how, headers):
    """P6: a driver's DETAIL line, which quotes the row, is not shown."""
    world = make(driver, mode)
    check = _CHECK.replace("%%", "%" if "sqlite" in driver else "%%")
    _alter(world, sqlite=_SQLITE_TRIGGER, postgresql=check, mysql=check)
    browser = world.browser()
    if how != "insert":
        sweep.get(browser, "/put?x=1")

    @world.on("slow")
    def _(request):
        request.session["mine"] = CANARY + "refuse"
        other = world.browser()
        other.set_cookie("session", browser.cookies["session"])
        sweep.get(other, "/put?theirs=1")
        return {}

    path = "/slow" if how == "merge" else "/put?x=refuse"
    response = sweep.get(browser, path, headers=headers)
    assert response is None or response.status_int == 500
    sweep.check()


_OTHER_CHANGES = {
    "not null": {
        "postgresql": "ALTER TABLE {table} ADD COLUMN extra INT NOT NULL",
        "mysql": "ALTER TABLE {table} ADD COLUMN extra INT NOT NULL",
    },
    "too short": {
        "postgresql": "ALTER TABLE {table} ALTER COLUMN session_id "
        "TYPE VARCHAR(10)",
        "mysql": "ALTER TABLE {table} MODIFY session_id VARCHAR(10)",
    },
    "other type of data": {
        "postgresql": "ALTER TABLE {table} ALTER COLUMN data "
        "TYPE INTEGER USING 0",
        "mysql": "ALTER TABLE {table} MODIFY data INTEGER",
    },
    "other type of key": {
        "postgresql": "ALTER TABLE {table} ALTER COLUMN session_id "
        "TYPE INTEGER USING 0",
        "mysql": "ALTER TABLE {table} MODIFY session_id INTEGER",
    },
    "no data": {
        "sqlite": "ALTER TABLE {table} DROP COLUMN data",
        "postgresql": "ALTER TABLE {table} DROP COLUMN data",
        "mysql": "ALTER TABLE {table} DROP COLUMN data",
    },
    "no table": {
        "sqlite": "DROP TABLE {table}",
        "postgresql": "DROP TABLE {table}",
        "mysql": "DROP TABLE {table}",
    },
}


@pytest.mark.parametrize("how", _OTHER_CHANGES)
@pytest.mark.parametrize(
    "driver", ["postgresql", "psycopg2", "mariadb", "mysqlclient"]
)
def test_p6_the_table_is_another(make, driver, mode, sweep, how):
    """P6: if the table does not fit, no error quotes what did not fit."""
    world = make(driver, mode)
    _alter(world, **_OTHER_CHANGES[how])
    assert sweep.get(world.browser(), "/put?x=1") is None
    sweep.get(world.browser(), "/put?x=1", headers=RENDER)
    sweep.check()


_QUOTING = {
    "postgresql": "CREATE FUNCTION {check}() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE EXCEPTION 'refused: %%', NEW.data; END $$;;"
    "CREATE TRIGGER {check} BEFORE INSERT ON {table} "
    "FOR EACH ROW EXECUTE FUNCTION {check}()",
    "mysql": "CREATE TRIGGER {check} BEFORE INSERT ON {table} FOR EACH ROW "
    "BEGIN DECLARE m VARCHAR(100); SET m = LEFT(NEW.data, 90); "
    "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = m; END",
}


@pytest.mark.parametrize(
    "driver", ["postgresql", "psycopg2", "mariadb", "mysqlclient"]
)
def test_p6_a_trigger_quotes_the_row(make, driver, mode, sweep):
    """P6: what a trigger says of the row it refuses is not shown."""
    world = make(driver, mode)
    _alter(world, **_QUOTING)
    try:
        assert sweep.get(world.browser(), "/put?x=1") is None
    finally:
        _alter(world, postgresql="DROP FUNCTION {check}() CASCADE")
    sweep.check()


def test_p6_text_that_is_no_text(make, mode, sweep):
    """P6: SQLite's error about bytes that are no UTF-8 is not shown."""
    world = make("sqlite", mode)
    browser = world.browser()
    sweep.get(browser, "/put?x=1")
    damaged = f'{{"c":"{CANARY}'.encode() + b'\xff"}'
    text = sa.cast(sa.literal(damaged, sa.LargeBinary), sa.Text)
    world.execute(world.table.update().values(data=text))
    sweep.get(browser, "/read")
    sweep.check()


@pytest.mark.parametrize("driver", ["postgresql", "mariadb"])
def test_p6_the_backend_is_killed(make, driver, sweep):
    """P6: the error of a lost connection tells nothing of the statement."""
    world = make(driver, "joined")
    asking, killing = {
        "postgresql": ("pg_backend_pid()", "SELECT pg_terminate_backend(%s)"),
        "mariadb": ("connection_id()", "KILL %s"),
    }[driver]

    @world.on("killed")
    def _(request):
        request.session["c"] = CANARY
        number = request.dbsession.scalar(sa.text(f"SELECT {asking}"))
        with world.store.engine.connect() as connection:
            connection.exec_driver_sql(killing % number)
        return {}

    assert sweep.get(world.browser(), "/killed") is None
    sweep.check()


# -- the URL's password ------------------------------------------------


@pytest.fixture(name="dead_port")
def _dead_port():
    """A port on which nobody listens, and nobody can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def _with_password(databases, driver, **changes):
    url = sa.make_url(databases.url(driver)).set(password=PASSWORD, **changes)
    return {
        "limitedsession.sqlalchemy.url": url.render_as_string(
            hide_password=False
        )
    }


@pytest.mark.parametrize("driver", ["postgresql", "psycopg2"])
def test_p6_the_password_of_a_working_url(make, databases, driver, sweep):
    """P6: with a password in the URL, none is shown while all works."""
    settings = _with_password(databases, driver)
    world = make(driver, "separate", settings=settings)
    browser = world.browser()
    sweep.get(browser, "/put?x=1")
    sweep.get(browser, "/put?x=2")
    sweep.add("repr", repr([world.store.engine, world.store.engine.pool]))
    sweep.check()


@pytest.mark.parametrize(
    "driver", ["postgresql", "psycopg2", "mariadb", "mysqlclient"]
)
@pytest.mark.parametrize("what", ["nobody listens", "refused"])
def test_p6_the_password_of_a_url_that_fails(
    make, databases, driver, sweep, dead_port, what
):
    """P6: if nobody answers, or refuses, no password is shown."""
    changes = {"port": dead_port}
    if what == "refused":
        changes = {"username": "nobody_of_this_name", "database": "nowhere"}
    settings = _with_password(databases, driver, **changes)
    world = make("sqlite", "separate", settings=settings)
    for headers in ({}, RENDER):
        sweep.get(world.browser(), "/put?x=1", headers=headers)
    assert sweep.is_told("does not answer")
    sweep.check()


@pytest.mark.parametrize(
    "settings",
    [
        {"limitedsession.sqlalchemy.url": f"nothing://root:{PASSWORD}@h/d"},
        {"limitedsession.sqlalchemy.url": f"root:{PASSWORD}@h/d"},
        {
            "limitedsession.sqlalchemy.url": f"sqlite://root:{PASSWORD}@h/d",
        },
        {
            "limitedsession.sqlalchemy.url": f"mysql://root:{PASSWORD}@h:x/d",
        },
        {
            "limitedsession.sqlalchemy.url": (
                f"postgresql+psycopg://root:{PASSWORD}@127.0.0.1:1/d"
            ),
            "limitedsession.sqlalchemy.pool_size": "many",
        },
        {
            "limitedsession.sqlalchemy.url": (
                f"postgresql+psycopg://root:{PASSWORD}@127.0.0.1:1/d"
            ),
            "limitedsession.idle_timout": "1h",
        },
    ],
    ids=["scheme", "no scheme", "host", "port", "option", "setting"],
)
def test_p6_the_password_of_a_wrong_url(make, sweep, settings):
    """P6: an application that does not start does not tell the password."""
    sweep.run(lambda: make("sqlite", "separate", settings=settings))
    assert sweep.is_told("Traceback")
    sweep.check()
