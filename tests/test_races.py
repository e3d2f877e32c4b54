"""Races, with real threads and real requests, on every database."""

from __future__ import annotations

import json
import threading

import pytest
import sqlalchemy as sa

from tests.apps import cookie_of, trim
from tests.threads import in_threads, same_session

THREADS = 8
ROUNDS = 50
RACES = 200
FEW = 20


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    """A world for many threads."""
    return _make(make_world, database, mode, {})


def _make(make_world, database, mode, settings):
    # As many connections as threads, for the app and for the store, and a
    # SQLite that waits for its one writer.
    pool = {"pool_size": THREADS, "max_overflow": THREADS}
    own = {"limitedsession.lock_timeout": "60s", **settings}
    if mode == "separate":
        own |= {
            f"limitedsession.sqlalchemy.{name}": str(value)
            for name, value in pool.items()
        }
    query = {"timeout": "60"} if database == "sqlite" else {}
    return make_world(database, mode, engine=pool, settings=own, query=query)


def test_p2_no_increment_on_different_keys_is_lost(world):
    """P2: 8 threads count 50 times each, on keys of their own: 400 kept."""

    @world.on("count")
    def _(request):
        key = request.params["key"]
        request.session[key] = request.session.get(key, 0) + 1
        return {}

    @world.on("totals")
    def _(request):
        return dict(request.session)

    browser = world.browser()
    browser.get("/count?key=start")
    browsers = same_session(world, browser, THREADS)

    def work(n):
        for _ in range(ROUNDS):
            browsers[n].get(f"/count?key=k{n}")

    in_threads(work, THREADS)
    expected = {"start": 1, **{f"k{n}": ROUNDS for n in range(THREADS)}}
    assert expected == browser.get("/totals").json
    assert 0 == world.checked_out()


def test_p2_no_flash_message_is_lost(world):
    """P2: 8 threads flash 50 messages each into one queue: 400 kept."""

    @world.on("flash")
    def _(request):
        request.session.flash(request.params["message"])
        return {}

    @world.on("pop")
    def _(request):
        return request.session.pop_flash()

    browser = world.browser()
    browser.get("/flash?message=start")
    browsers = same_session(world, browser, THREADS)

    def work(n):
        for i in range(ROUNDS):
            browsers[n].get(f"/flash?message={n}.{i}")

    in_threads(work, THREADS)
    messages = browser.get("/pop").json
    expected = [f"{n}.{i}" for n in range(THREADS) for i in range(ROUNDS)]
    assert sorted(["start", *expected]) == sorted(messages)
    for n in range(THREADS):
        mine = [text for text in messages if text.startswith(f"{n}.")]
        assert [f"{n}.{i}" for i in range(ROUNDS)] == mine


def test_p3_a_logout_is_never_undone(world):
    """P3: in 200 races of a slow write with a logout the logout wins.

    Whichever comes first, no row is left; an answer to a write that came
    too late carries no Set-Cookie.
    """
    loaded = threading.Barrier(2)

    @world.on("login")
    def _(request):
        request.session["user"] = "ann"
        return {}

    @world.on("slow")
    def _(request):
        request.session["late"] = request.session.get("late", 0) + 1
        loaded.wait(timeout=30)
        return {}

    @world.on("out")
    def _(request):
        assert "user" in request.session
        loaded.wait(timeout=30)
        request.session.invalidate()
        return {}

    resurrected = 0
    cookies: list[str] = []
    for _ in range(RACES):
        browser = world.browser()
        browser.get("/login")
        slow, out = same_session(world, browser, 2)

        def work(n, slow=slow, out=out):
            if n == 0:
                cookies.extend(cookie_of(slow.get("/slow")))
            else:
                out.get("/out")

        in_threads(work, 2)
        resurrected += len(world.rows())
    assert 0 == resurrected
    assert [] == cookies


def test_p3_a_rotated_token_is_never_written(world):
    """P3: in races of a slow write with a login the old token stays dead."""
    loaded = threading.Barrier(2)

    @world.on("start")
    def _(request):
        request.session["basket"] = 1
        return {}

    @world.on("slow")
    def _(request):
        request.session["late"] = 1
        loaded.wait(timeout=30)
        return {}

    @world.on("login")
    def _(request):
        request.session["user"] = "ann"
        loaded.wait(timeout=30)
        request.session.rotate()
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    for _ in range(RACES // 4):
        browser = world.browser()
        browser.get("/start")
        slow, login = same_session(world, browser, 2)
        answers = {}

        def work(n, slow=slow, login=login, answers=answers):
            if n == 0:
                answers["slow"] = slow.get("/slow")
            else:
                answers["login"] = login.get("/login")

        in_threads(work, 2)
        assert [] == cookie_of(answers["slow"])
        assert {} == browser.get("/get").json
        content = login.get("/get").json
        assert {"basket": 1, "user": "ann"} == {
            key: content[key] for key in ("basket", "user")
        }


def test_two_first_requests_make_two_sessions(world):
    """Two first requests of one visitor at once: two whole sessions."""
    ready = threading.Barrier(2)

    @world.on("first")
    def _(request):
        request.session["n"] = request.params["n"]
        ready.wait(timeout=30)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    browsers = [world.browser(), world.browser()]
    in_threads(lambda n: browsers[n].get(f"/first?n={n}"), 2)
    assert 2 == len(world.rows())
    for n in (0, 1):
        assert {"n": str(n)} == browsers[n].get("/get").json


def test_touches_of_many_requests_do_not_disturb(world):
    """Reading requests that touch leave a slow write's version alone."""

    @world.on("write")
    def _(request):
        request.session["a"] = request.params.get("a", "0")
        return {}

    @world.on("read")
    def _(request):
        return dict(request.session)

    browser = world.browser()
    browser.get("/write")
    world.clock.pass_(3600)
    browsers = same_session(world, browser, THREADS)

    def work(n):
        browsers[n].get("/write?a=1" if n == 0 else "/read")

    in_threads(work, THREADS)
    (row,) = world.rows()
    assert world.clock.now == row.updated_at
    assert 2 == row.version
    assert {"a": "1"} == browser.get("/read").json


# -- pairs of requests -------------------------------------------------


@pytest.fixture(name="pairs")
def _pairs(world):
    """Return a function that lets two requests of one session race.

    ``pairs(*views)`` yields, some times over, a browser that has a session
    and the answers to the views. Both have loaded the session before either
    changes it; who saves first is chance.
    """

    @world.on("start")
    def _(request):
        request.session.update(start=1)
        request.session.flash("old")
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    def run(*views):
        loaded = threading.Barrier(len(views))
        for n, view in enumerate(views):
            world.views[f"race{n}"] = _after(loaded, view)
        for _ in range(FEW):
            world.execute(world.table.delete())
            browser = world.browser()
            browser.get("/start")
            browsers = same_session(world, browser, len(views))
            answers = [None] * len(views)

            def work(n, browsers=browsers, answers=answers):
                answers[n] = browsers[n].get(f"/race{n}")

            in_threads(work, len(views))
            yield browser, answers
        assert 0 == world.checked_out()

    return run


def _after(loaded, view):
    def waiting(request):
        dict(request.session)
        loaded.wait(timeout=30)
        return view(request.session)

    return waiting


def _add(session):
    session["added"] = 1
    return {}


def _look(session):
    return dict(session)


def _out(session):
    session.invalidate()
    return {}


def _log_in(user):
    def log_in(session):
        session.update(user=user, rights=f"of {user}")
        session.rotate()
        return {}

    return log_in


def _token(answer):
    """Return the token that an answer sets, or an empty string."""
    values = [text.partition(";")[0] for text in cookie_of(answer)]
    return "".join(values).removeprefix("session=")


def test_clear_against_an_added_key(pairs):
    """Nothing from before a clear() survives it, nor a key added meanwhile.

    A key that is saved behind the clear() is what the session has then.
    """

    def clear(session):
        session.clear()
        return {}

    for browser, _ in pairs(clear, _add):
        assert browser.get("/get").json in ({}, {"added": 1})


def _pop(session):
    return session.pop_flash()


def _push(session):
    session.flash("new")
    return {}


def test_p2_a_popped_and_a_pushed_message(pairs):
    """P2: while one request pops, what another pushes is kept, once."""
    for browser, (popped, _) in pairs(_pop, _push):
        assert ["old"] == popped.json
        assert ["new"] == browser.get("/get").json["_f_"]


@pytest.mark.parametrize(
    ("late", "quick"), [(_pop, _push), (_push, _pop), (_pop, _pop)]
)
def test_p2_popped_and_pushed_in_each_order(world, late, quick):
    """P2: the same in each order; a message that two pop is seen by both."""

    @world.on("start")
    def _(request):
        return request.session.flash("old")

    @world.on("quick")
    def _(request):
        return quick(request.session)

    @world.on("late")
    def _(request):
        dict(request.session)
        (other,) = same_session(world, browser, 1)
        seen.append(other.get("/quick").json)
        return late(request.session)

    seen = []
    browser = world.browser()
    browser.get("/start")
    seen.append(browser.get("/late").json)
    (row,) = world.rows()
    is_pushed = _push in (late, quick)
    assert ({"_f_": ["new"]} if is_pushed else {}) == json.loads(row.data)
    assert [["old"] if it is _pop else {} for it in (quick, late)] == seen


def test_two_logouts_and_readers(world, pairs):
    """Two logouts at once, while others read: all answered, nothing left."""
    views = _out, _out, _look, _look
    for _, answers in pairs(*views):
        assert [] == world.rows()
        assert [True, True, False, False] == [
            "Max-Age=0" in "".join(cookie_of(answer)) for answer in answers
        ]


def test_p3_two_tabs_log_in_at_once(world, pairs):
    """P3: one token lives then, with the content of one of the users."""
    for browser, answers in pairs(_log_in("ann"), _log_in("bob")):
        (token,) = [t for t in map(_token, answers) if t]
        (winner,) = [
            user
            for user, answer in zip(("ann", "bob"), answers, strict=True)
            if _token(answer)
        ]
        assert {} == browser.get("/get").json
        browser.set_cookie("session", token)
        content = browser.get("/get").json
        assert (winner, f"of {winner}") == (content["user"], content["rights"])
        assert 1 == len(world.rows())


def test_p3_another_user_logs_in(world, pairs):
    """P3: of a session in use nothing gets into that of the next user."""

    def switch(session):
        session.invalidate()
        session.update(user="bob")
        session.rotate()
        return {}

    for browser, (added, switched) in pairs(_add, switch):
        assert [] == cookie_of(added)
        assert {} == browser.get("/get").json
        browser.set_cookie("session", _token(switched))
        assert {"user": "bob"} == browser.get("/get").json
        assert 1 == len(world.rows())


def test_p3_a_revoked_session_is_never_written(world, pairs):
    """P3: if somebody deletes the row, no save brings it back."""

    def revoke(session):
        world.execute(world.table.delete())
        return {}

    for _, (added, _) in pairs(_add, revoke):
        assert [] == cookie_of(added)
        assert [] == world.rows()


# -- trimming ----------------------------------------------------------


def test_p8_trimming_against_touches(make_world, database, mode):
    """P8: whoever is told that his session goes on has his row.

    At the last second of their sessions browsers come back, while somebody
    whose clock is ahead trims.
    """
    world = _make(
        make_world, database, mode, {"limitedsession.cookie_max_age": "30d"}
    )

    @world.on("start")
    def _(request):
        request.session["a"] = 1
        return {}

    @world.on("look")
    def _(request):
        return dict(request.session)

    profiles = world.factory.settings.policy.profiles
    limits = profiles.default.limits
    last = limits.idle + limits.touch_interval - 2
    for _ in range(FEW):
        browsers = [world.browser() for _ in range(3)]
        for browser in browsers:
            browser.get("/start")
        world.clock.pass_(last)
        cutoffs = profiles.cutoffs(world.clock.now + 1)
        answers = []

        def work(n, browsers=browsers, cutoffs=cutoffs, answers=answers):
            if n < len(browsers):
                answers.append(browsers[n].get("/look"))
            else:
                trim(world.store, cutoffs, most=100)

        in_threads(work, len(browsers) + 1)
        told = [answer for answer in answers if cookie_of(answer)]
        assert len(told) == len(world.rows())
        world.execute(sa.delete(world.table))
    assert 0 == world.checked_out()
