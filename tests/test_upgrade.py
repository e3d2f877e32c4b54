"""pls-upgrade, with real ini files and databases, while requests run."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import re
import sqlite3
import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from pyramid_limitedsession.tokens import key_of
from tests.apps import START, cookie_of
from tests.conftest import SERVERS

ON = {
    "limitedsession.legacy_ids": "true",
    "limitedsession.serializer": "hybrid",
}
# No six characters of these are a hash's by chance.
TOKENS = [f"feedfacecafebeef0123456789abcd{n:02}" for n in range(7)]
OURS = "AZaz09_-" + "b" * 35
ODD = ["short", "a" * 21, "with blank" * 4, "ä" * 30, TOKENS[0][:-1] + " "]
IDS = r"hashed {} in [0-9.]+ s"
BOTH = r"hashed {} and rewrote {} as JSON in [0-9.]+ s"
HYBRID = {"limited__serializer": "hybrid"}
CANARY = "canary-5d1f"


def pickled(data):
    """Return data as somebody else has stored it."""
    return base64.b64encode(pickle.dumps(data)).decode()


@pytest.fixture(name="make")
def _make(make_world_with):
    """Return a function that makes worlds that accept legacy rows."""

    def add_views(world):
        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return {}

        @world.on("get")
        def _(request):
            return dict(request.session)

        @world.on("count")
        def _(request):
            request.session["n"] = request.session.get("n", 0) + 1
            return {}

        @world.on("rotate")
        def _(request):
            request.session.rotate()
            return {}

        @world.on("out")
        def _(request):
            request.session.invalidate()
            return {}

        return world

    return make_world_with(ON, add_views)


@pytest.fixture(name="legacy")
def _legacy(make, database, mode):
    """Such a world on each database, in each mode."""
    return make(database, mode)


@pytest.fixture(name="small")
def _small(make):
    """One where database and mode make no difference."""
    return make()


def put(world, *ids, **values):
    """Store rows with these ids."""
    row = {
        "data": '{"a":"1"}',
        "version": 3,
        "created_at": START - 50,
        "updated_at": START - 10,
        "expires_at": START + 99_999,
        "user_id": None,
        "ended": None,
    }
    rows = [row | values | {"session_id": each} for each in ids]
    world.execute(world.table.insert(), rows)


def having(world, token):
    """Return a browser with this token."""
    browser = world.browser()
    browser.set_cookie("session", token)
    return browser


def ids(world):
    """Return the ids in the table, as plain texts."""
    return [str(row.session_id) for row in world.rows()]


def hashes(*tokens):
    """Return the keys of tokens."""
    return [str(key_of(token)) for token in tokens]


def upgrade(ini, *arguments):
    """Call pls-upgrade; return its exit code, stdout and stderr."""
    return ini.call("pls-upgrade", *arguments)


@contextmanager
def before(is_it, act):
    """Call a function once, before a statement of any engine."""
    acts = [act]

    def run(connection, cursor, statement, *rest):
        if acts and is_it(statement):
            acts.pop()()

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", run)
    try:
        yield
        assert [] == acts
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", run)


def begins(statement):
    """Say whether a transaction begins."""
    return statement.startswith("BEGIN")


def nth_update(number):
    """Return a function that knows the n-th UPDATE."""
    left = iter(range(number, 0, -1))

    def is_it(statement):
        return statement.startswith("UPDATE") and next(left, 0) == 1

    return is_it


# -- ids ---------------------------------------------------------------


def test_plain_ids_are_hashed(legacy, make_ini):
    """Each row gets its hash; nothing else in it changes."""
    put(legacy, TOKENS[0], *hashes(TOKENS[1]), OURS)
    before_ = [row[2:] for row in legacy.rows()]
    code, out, err = upgrade(make_ini(legacy))
    assert (0, "") == (code, err)
    assert re.fullmatch(IDS.format("2 ids") + "\n", out)
    assert hashes(TOKENS[0], TOKENS[1], OURS) == ids(legacy)
    assert before_ == [row[2:] for row in legacy.rows()]


def test_browsers_go_on_with_their_cookies(small, make_ini):
    """What was hashed opens with the same cookie as before."""
    put(small, TOKENS[0])
    upgrade(make_ini(small))
    browser = having(small, TOKENS[0])
    assert {"a": "1"} == browser.get("/get").json
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json


def test_twice_is_harmless(small, make_ini):
    """A second run finds nothing to do."""
    put(small, *TOKENS)
    ini = make_ini(small)
    upgrade(ini)
    after = small.rows()
    code, out, _ = upgrade(ini)
    assert 0 == code
    assert re.fullmatch(IDS.format("0 ids") + "\n", out)
    assert after == small.rows()


def test_an_empty_table(small, make_ini):
    """There is nothing to do, and nothing wrong."""
    code, out, err = upgrade(make_ini(small, **HYBRID), "--data")
    assert (0, "") == (code, err)
    assert re.fullmatch(BOTH.format("0 ids", "0 rows") + "\n", out)


@pytest.mark.parametrize("batch", ["1", "3", "7", "8"])
def test_in_batches(small, make_ini, batch):
    """Whatever their size, each row gets its turn, once."""
    put(small, *TOKENS)
    code, out, _ = upgrade(make_ini(small), "--batch", batch)
    assert 0 == code
    assert re.fullmatch(IDS.format("7 ids") + "\n", out)
    assert hashes(*TOKENS) == ids(small)


def test_a_batch_is_a_transaction(small, make_ini):
    """Locks are held for one batch, not for all."""
    put(small, *TOKENS)
    ran = []

    def run(connection, cursor, statement, *rest):
        ran.append(statement)

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", run)
    upgrade(make_ini(small), "--batch", "3")
    sa.event.remove(sa.engine.Engine, "before_cursor_execute", run)
    words = [statement.split()[0] for statement in ran]
    writes = [word for word in words if word in ("BEGIN", "UPDATE", "COMMIT")]
    three = ["BEGIN", *["UPDATE"] * 3, "COMMIT"]
    assert [*three, *three, "BEGIN", "UPDATE", "COMMIT"] == writes


def test_tombstones_are_hashed_too(small, make_ini):
    """Who has the cookie of an ended session is still told why."""
    put(small, TOKENS[0], ended="revoked", data="")
    upgrade(make_ini(small, **HYBRID), "--data")
    assert hashes(TOKENS[0]) == ids(small)


def test_ids_that_no_cookie_can_have(make, make_ini, database):
    """They are left alone, and said to be."""
    world = make(database, "separate")
    # MariaDB's keys are ASCII.
    odd = [each for each in ODD if each.isascii() or database != "mariadb"]
    put(world, *odd, TOKENS[0], "2::odd")
    code, out, _ = upgrade(make_ini(world))
    assert 0 == code
    expected = IDS.format("1 id") + (
        f"; {len(odd)} ids that no cookie can have were left alone\n"
    )
    assert re.fullmatch(expected, out)
    assert [*odd, *hashes(TOKENS[0]), "2::odd"] == ids(world)


def test_an_id_whose_hash_is_there(small, make_ini):
    """A row that somebody has made anew under its plain id is left alone."""
    put(small, TOKENS[0], *hashes(TOKENS[0]), TOKENS[1])
    code, out, _ = upgrade(make_ini(small))
    assert 0 == code
    expected = IDS.format("1 id") + "; 1 id is there hashed already\n"
    assert re.fullmatch(expected, out)
    assert [TOKENS[0], *hashes(TOKENS[0], TOKENS[1])] == ids(small)


# -- data --------------------------------------------------------------


def test_pickles_become_json(legacy, make_ini):
    """Data only; a row with a plain id is hashed as well."""
    put(legacy, TOKENS[0], data=pickled({"a": (1, "ä"), "b": None}))
    put(legacy, *hashes(TOKENS[1]), data=pickled({}))
    put(legacy, *hashes(TOKENS[2]), TOKENS[3])
    before_ = [row[3:] for row in legacy.rows()]
    code, out, err = upgrade(make_ini(legacy, **HYBRID), "--data")
    assert (0, "") == (code, err)
    assert re.fullmatch(BOTH.format("2 ids", "2 rows") + "\n", out)
    assert hashes(*TOKENS[:4]) == ids(legacy)
    expected = [{"a": [1, "ä"], "b": None}, {}, {"a": "1"}, {"a": "1"}]
    assert expected == [json.loads(row.data) for row in legacy.rows()]
    assert before_ == [row[3:] for row in legacy.rows()]


def test_without_data_pickles_stay(small, make_ini):
    """Then only ids are hashed, whatever the serializer."""
    text = pickled({"a": 1})
    put(small, TOKENS[0], data=text)
    upgrade(make_ini(small))
    assert [text] == [row.data for row in small.rows()]
    assert hashes(TOKENS[0]) == ids(small)


def test_rows_that_cannot_be_read(small, make_ini):
    """They are counted and left alone; that is no failure."""
    texts = [pickled([1]), pickled({1: 2}), "", "no pickle"]
    for number, text in enumerate(texts):
        put(small, TOKENS[number], data=text)
    put(small, TOKENS[4], data=pickled({"a": 1}))
    code, out, _ = upgrade(make_ini(small, **HYBRID), "--data")
    assert 0 == code
    expected = BOTH.format("5 ids", "1 row") + "; 4 rows cannot be read\n"
    assert re.fullmatch(expected, out)
    assert [*texts, '{"a":1}'] == [row.data for row in small.rows()]
    code, out, _ = upgrade(make_ini(small, **HYBRID), "--data")
    assert "; 4 rows cannot be read\n" in out


def test_a_row_that_is_no_text(small, make_ini):
    """On SQLite a text column may hold bytes that are no text."""
    put(small, TOKENS[0], TOKENS[1], data=pickled({"a": 1}))
    small.execute(
        sa.text(
            f"UPDATE {small.table.name} SET data = CAST(x'ff00ff' AS TEXT) "
            "WHERE id = 1"
        )
    )
    code, out, _ = upgrade(make_ini(small, **HYBRID), "--data")
    assert 0 == code
    expected = BOTH.format("2 ids", "1 row") + "; 1 row cannot be read\n"
    assert re.fullmatch(expected, out)


def test_rows_that_are_too_large_as_json(small, make_ini):
    """max_data_size holds here too; to the byte."""
    for number, size in enumerate((91, 92, 93)):
        put(small, TOKENS[number], data=pickled({"a": "x" * size}))
    settings = HYBRID | {"limited__max_data_size": "100"}
    code, out, _ = upgrade(make_ini(small, **settings), "--data")
    assert 0 == code
    rest = "; 1 row is larger than max_data_size as JSON\n"
    assert re.fullmatch(BOTH.format("3 ids", "2 rows") + rest, out)
    sizes = [len(row.data) for row in small.rows()]
    assert [99, 100] == sizes[:2]
    none = HYBRID | {"limited__max_data_size": "none"}
    _, out, _ = upgrade(make_ini(small, **none), "--data")
    assert re.fullmatch(BOTH.format("0 ids", "1 row") + "\n", out)


def test_data_needs_the_serializer(small, make_ini):
    """--data without hybrid is wrong use, and nothing is done."""
    put(small, TOKENS[0])
    code, out, err = upgrade(make_ini(small), "--data")
    assert (2, "") == (code, out)
    assert "--data needs limitedsession.serializer = hybrid" in err
    assert [TOKENS[0]] == ids(small)


# -- what it says ------------------------------------------------------


def test_a_dry_run_changes_nothing(small, make_ini):
    """It counts what a run would do."""
    put(small, *TOKENS[:2], "odd", data=pickled({"a": 1}))
    put(small, TOKENS[2], data="no pickle")
    before_ = small.rows()
    ini = make_ini(small, **HYBRID)
    code, out, _ = upgrade(ini, "--data", "--dry-run")
    assert 0 == code
    assert out == (
        "would hash 3 ids and rewrite 3 rows as JSON; 1 id that no cookie can "
        "have was left alone; 1 row cannot be read\n"
    )
    assert before_ == small.rows()
    _, out, _ = upgrade(ini, "--dry-run", "--batch", "1")
    assert out.startswith("would hash 3 ids; 1 id that")


def test_as_json(small, make_ini):
    """--json prints the facts as one object."""
    put(small, TOKENS[0], "odd", data=pickled({"a": 1}))
    put(small, TOKENS[1], data="no pickle")
    _, out, _ = upgrade(make_ini(small, **HYBRID), "--data", "--json")
    facts = json.loads(out)
    assert facts.pop("seconds") >= 0
    assert facts == {
        "hashed": 2,
        "rewritten": 2,
        "odd": 1,
        "taken": 0,
        "unreadable": 1,
        "sealed": 0,
        "too_large": 0,
        "dry_run": False,
    }


def test_quietly(small, make_ini):
    """--quiet prints nothing."""
    put(small, TOKENS[0])
    assert (0, "", "") == upgrade(make_ini(small), "--quiet")
    assert hashes(TOKENS[0]) == ids(small)


@pytest.mark.parametrize("batch", ["0", "-1", "x"])
def test_wrong_batches(small, make_ini, batch):
    """They are wrong use."""
    code, _, err = upgrade(make_ini(small), "--batch", batch)
    assert 2 == code
    assert "is not a positive number" in err


def test_without_a_table(small, make_ini):
    """A missing table is told in a sentence."""
    small.table.drop(small.engine)
    code, out, err = upgrade(make_ini(small))
    assert (1, "") == (code, out)
    assert "pls-init" in err


def test_p6_nothing_is_told_of_a_row(small, make_ini, caplog, capsys):
    """P6: no id, no key, no data, with echo on and in a traceback."""
    logger = logging.getLogger("sqlalchemy")
    handlers = list(logger.handlers)
    caplog.set_level(logging.DEBUG)
    put(small, TOKENS[0], data=pickled({CANARY: CANARY}))
    put(small, TOKENS[1], data=pickled({CANARY: {CANARY}}))
    capsys.readouterr()
    caplog.clear()
    ini = make_ini(small, **HYBRID, limited__sqlalchemy__echo="debug")
    told = "".join(upgrade(ini, "--data")[1:])

    def fail():
        error = sqlite3.IntegrityError(f"{TOKENS[2]} {CANARY}")
        raise sa.exc.IntegrityError("UPDATE", None, error)

    put(small, TOKENS[2], data=pickled({CANARY: 1}))
    with (
        before(nth_update(1), fail),
        pytest.raises(sa.exc.IntegrityError) as caught,
    ):
        upgrade(ini, "--data", "-v")
    told += str(caught.getrepr(style="long")) + caplog.text
    told += "".join(capsys.readouterr())
    assert "UPDATE" in told
    pieces = [TOKENS[0][start : start + 6] for start in range(26)]
    logger.handlers[:] = handlers
    secrets = (CANARY, *pieces)
    lines = told.splitlines()
    assert [] == [
        line for line in lines if any(each in line for each in secrets)
    ]


# -- while the application runs ----------------------------------------


def test_p2_a_request_is_first(legacy, make_ini):
    """P2: a row that a request changes between look and write is spared."""
    put(legacy, *TOKENS[:3], data=pickled({"a": (1,)}))

    def request():
        having(legacy, TOKENS[1]).get("/set?b=2")

    with before(begins, request):
        _, out, _ = upgrade(make_ini(legacy, **HYBRID), "--data")
    assert re.fullmatch(BOTH.format("2 ids", "2 rows") + "\n", out)
    assert hashes(*TOKENS[:3]) == ids(legacy)
    found = having(legacy, TOKENS[1]).get("/get").json
    assert {"a": [1], "b": "2"} == found


@pytest.mark.parametrize("path", ["/out", "/rotate"])
def test_p3_a_session_ends_meanwhile(make, make_ini, database, path):
    """P3: what is ended or rotated between look and write stays so."""
    world = make(database)
    put(world, *TOKENS[:3], data=pickled({"a": 1}))
    browser = having(world, TOKENS[1])
    with before(begins, lambda: browser.get(path)):
        upgrade(make_ini(world, **HYBRID), "--data")
    assert {*hashes(TOKENS[1])}.isdisjoint(ids(world))
    assert {} == having(world, TOKENS[1]).get("/get").json
    assert ("/rotate" == path) + 2 == len(ids(world))


def test_p3_a_session_ends_before_its_data_is_read(small, make_ini):
    """P3: a row that is gone by then is passed over."""
    put(small, *TOKENS[:2], data=pickled({"a": 1}))

    def reads_data(statement):
        return statement.startswith("SELECT") and "data" in statement

    browser = having(small, TOKENS[0])
    with before(reads_data, lambda: browser.get("/out")):
        _, out, _ = upgrade(make_ini(small, **HYBRID), "--data")
    assert re.fullmatch(BOTH.format("1 id", "1 row") + "\n", out)
    assert hashes(TOKENS[1]) == ids(small)


@pytest.mark.parametrize("server", SERVERS)
def test_p2_a_request_in_the_middle_of_a_batch(make, make_ini, server):
    """P2: also a row behind one that the batch has locked already."""
    world = make(server)
    put(world, *TOKENS[:3])

    def request():
        having(world, TOKENS[2]).get("/set?b=2")

    with before(nth_update(2), request):
        _, out, _ = upgrade(make_ini(world))
    assert re.fullmatch(IDS.format("2 ids") + "\n", out)
    assert hashes(*TOKENS[:3]) == ids(world)
    expected = {"a": "1", "b": "2"}
    assert expected == having(world, TOKENS[2]).get("/get").json


def test_p2_a_request_that_began_before(legacy, make_ini):
    """P2: a request that loaded the row before keeps its change."""
    put(legacy, TOKENS[0], data=pickled({"a": (1,)}))
    ini = make_ini(legacy, **HYBRID)

    @legacy.on("slow")
    def _(request):
        request.session["b"] = "2"
        upgrade(ini, "--data")
        return {}

    having(legacy, TOKENS[0]).get("/slow")
    found = having(legacy, TOKENS[0]).get("/get").json
    assert {"a": [1], "b": "2"} == found


def test_p3_a_logout_during_an_upgrade(legacy, make_ini):
    """P3: a request that loaded the row before the upgrade ends it."""
    put(legacy, TOKENS[0])
    ini = make_ini(legacy)

    @legacy.on("leave")
    def _(request):
        assert "a" in request.session
        upgrade(ini)
        request.session.invalidate()
        return {}

    answer = having(legacy, TOKENS[0]).get("/leave")
    assert "Max-Age=0" in cookie_of(answer)[0]
    assert [] == ids(legacy)


def test_p2_while_threads_count(make, make_ini, database):
    """P2: counts of all sessions are right after an upgrade under load."""
    query = {"timeout": "60"} if database == "sqlite" else {}
    patient = {"limitedsession.lock_timeout": "60s"}
    world = make(database, "separate", query=query, settings=patient)
    put(world, *TOKENS, data=pickled({"n": 0}))
    errors: list[BaseException] = []
    half = threading.Barrier(2)

    def work():
        try:
            for number in range(4):
                if number == 2:
                    half.wait(timeout=30)
                for token in TOKENS:
                    having(world, token).get("/count")
        except BaseException as error:
            errors.append(error)

    # The second half of the requests comes beside the upgrade.
    thread = threading.Thread(target=work)
    thread.start()
    half.wait(timeout=30)
    ini = make_ini(world, **HYBRID, limited__lock_timeout="60s")
    code, _, err = upgrade(ini, "--data", "--batch", "2")
    thread.join(timeout=60)
    assert (0, "", []) == (code, err, errors)
    assert [{"n": 4}] * 7 == [
        having(world, token).get("/get").json for token in TOKENS
    ]
    assert all(each.startswith("2::") for each in ids(world))


# -- when it cannot ----------------------------------------------------


def busy():
    """Raise what SQLite's driver raises while somebody writes."""
    error = sqlite3.OperationalError("database is locked")
    raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, error)


@pytest.mark.parametrize("is_it", [begins, nth_update(2)])
def test_a_busy_batch_is_tried_again(small, make_ini, is_it):
    """What was rolled back is done again, and counted once."""
    put(small, *TOKENS)
    with before(is_it, busy):
        code, out, err = upgrade(make_ini(small))
    assert (0, "") == (code, err)
    assert re.fullmatch(IDS.format("7 ids") + "\n", out)
    assert hashes(*TOKENS) == ids(small)


def test_a_locked_row_is_waited_for(make, make_ini):
    """On a server a batch that ran into a lock goes on when it is free."""
    world = make("postgresql")
    put(world, *TOKENS[:3])
    ini = make_ini(world, limited__lock_timeout="1s")
    with world.engine.connect() as connection:
        connection.execute(sa.select(world.table).with_for_update())

        def waits(statement):
            # Its second try.
            return begins(statement) and next(tries, 0) == 1

        tries = iter((2, 1))
        with before(waits, connection.rollback):
            code, out, err = upgrade(ini)
    assert (0, "") == (code, err)
    assert re.fullmatch(IDS.format("3 ids") + "\n", out)
    assert hashes(*TOKENS[:3]) == ids(world)


def test_a_table_that_stays_busy(small, make_ini):
    """After some tries it gives up with a sentence; a later run goes on."""
    put(small, *TOKENS)

    def run(connection, cursor, statement, *rest):
        if begins(statement):
            busy()

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", run)
    code, out, err = upgrade(make_ini(small))
    sa.event.remove(sa.engine.Engine, "before_cursor_execute", run)
    assert (1, "") == (code, out)
    assert err.startswith("pls-upgrade: the database asks to try again")
    assert TOKENS == ids(small)
    upgrade(make_ini(small))
    assert hashes(*TOKENS) == ids(small)


def test_it_may_be_stopped(small, make_ini):
    """What is done stays done, and is told; the next run goes on."""
    put(small, *TOKENS)

    def stop():
        raise KeyboardInterrupt

    ini = make_ini(small)
    with before(nth_update(4), stop):
        code, out, err = upgrade(ini, "--batch", "2")
    assert (1, "") == (code, out)
    assert "stopped: hashed 2 ids so far; call it again to go on" in err
    assert [*hashes(*TOKENS[:2]), *TOKENS[2:]] == ids(small)
    upgrade(ini)
    assert hashes(*TOKENS) == ids(small)
