"""Races, with real threads and real requests, on every database."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.apps import cookie_of

THREADS = 8
ROUNDS = 50
RACES = 200


def in_threads(work: Callable[[int], None], number: int = THREADS) -> None:
    """Run ``work(n)`` in threads that start at the same moment.

    What a thread raises is raised here.
    """
    barrier = threading.Barrier(number)
    errors: list[BaseException] = []

    def run(n: int) -> None:
        try:
            barrier.wait(timeout=30)
            work(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        raise errors[0]


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    # As many connections as threads, for the app and for the store, and a
    # SQLite that waits for its one writer.
    pool = {"pool_size": THREADS, "max_overflow": THREADS}
    own = {"limitedsession.lock_timeout": "60s"}
    if mode == "separate":
        own |= {
            f"limitedsession.sqlalchemy.{name}": str(value)
            for name, value in pool.items()
        }
    query = {"timeout": "60"} if database == "sqlite" else {}
    return make_world(database, mode, engine=pool, settings=own, query=query)


def _same_session(world, browser, number):
    browsers = []
    for _ in range(number):
        other = world.browser()
        other.set_cookie("session", browser.cookies["session"])
        browsers.append(other)
    return browsers


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
    browsers = _same_session(world, browser, THREADS)

    def work(n):
        for _ in range(ROUNDS):
            browsers[n].get(f"/count?key=k{n}")

    in_threads(work)
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
    browsers = _same_session(world, browser, THREADS)

    def work(n):
        for i in range(ROUNDS):
            browsers[n].get(f"/flash?message={n}.{i}")

    in_threads(work)
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
        slow, out = _same_session(world, browser, 2)

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
        slow, login = _same_session(world, browser, 2)
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
    browsers = _same_session(world, browser, THREADS)

    def work(n):
        browsers[n].get("/write?a=1" if n == 0 else "/read")

    in_threads(work)
    (row,) = world.rows()
    assert world.clock.now == row.updated_at
    assert 2 == row.version
    assert {"a": "1"} == browser.get("/read").json
