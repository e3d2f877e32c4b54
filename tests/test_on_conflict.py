"""The settings ``on_conflict = retry`` and ``overwrite``, key by key.

The *late* request loads the session, then a *quick* one of the same session
comes and goes, and only then the late one changes it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from pyramid.response import Response
from transaction.interfaces import TransientError

from pyramid_limitedsession import SessionConflict, SessionError
from tests.apps import Clock, World, cookie_of
from tests.threads import same_session

START = {"n": 1, "m": 1, "nested": {"a": 1}, "_f_": ["old"]}
Doing = Callable[[Any], object]


@pytest.fixture(scope="module", name="worlds")
def _worlds(databases, run_name):
    """Return worlds that are made once for all tests here."""
    made: dict[Any, World] = {}

    def get(policy, database, mode):
        key = policy, database, mode
        if key not in made:
            table = f"pls_{run_name}_c{len(made)}_sessions"
            url = databases.url(database)
            made[key] = _make_world(policy, url, mode, table)
        world = made[key]
        world.execute(sa.delete(world.table))
        world.execute(sa.delete(world.Item))
        return world

    yield get
    for world in made.values():
        world.close()


def _make_world(policy, url, mode, table):
    def configure(config):
        config.include("pyramid_retry")
        config.add_exception_view(
            lambda error, request: Response(str(error), status=409),
            context=SessionConflict,
        )

    world = World(
        url,
        mode,
        clock=Clock(),
        table=table,
        settings={
            "limitedsession.on_conflict": policy,
            # Nothing is replayed unless the browser says so.
            "retry.activate_hook": lambda request: request.environ.get(
                "test.attempts", 1
            ),
        },
        configure=configure,
    )

    @world.on("start")
    def _(request):
        request.session.update(copy.deepcopy(START))
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("quick")
    def _(request):
        return world.quick(request.session)

    @world.on("late")
    def _(request):
        dict(request.session)
        world.quick_answers.append(world.other.get("/quick"))
        world.rows_between = world.rows()
        request.dbsession.add(world.Item(name="of the late one"))
        return world.late(request.session)

    return world


@pytest.fixture(name="retry")
def _retry(worlds, database, mode):
    """A world with ``on_conflict = retry``."""
    return worlds("retry", database, mode)


@pytest.fixture(name="overwrite")
def _overwrite(worlds, database, mode):
    """A world with ``on_conflict = overwrite``."""
    return worlds("overwrite", database, mode)


def send(world, late: Doing, quick: Doing, *, attempts=1):
    """Send both requests; return the late one's answer and its browser."""
    first = world.browser()
    first.get("/start")
    (browser,) = same_session(world, first, 1, **{"test.attempts": attempts})
    (world.other,) = same_session(world, first, 1)
    world.late, world.quick = late, quick
    world.quick_answers = []
    answer = browser.get("/late", status="*")
    assert 0 == world.checked_out()
    return answer, browser


# -- what is a conflict ------------------------------------------------


def put(**values: Any) -> Doing:
    """Return what puts values into a session."""
    return lambda session: session.update(copy.deepcopy(values))


def drop(*keys: str) -> Doing:
    """Return what deletes keys of a session."""
    return lambda session: [session.pop(key) for key in keys] and None


def nest(**values: Any) -> Doing:
    """Return what puts values into a value of a session."""
    return lambda session: session["nested"].update(values)


def flash(message: str) -> Doing:
    """Return what flashes a message."""
    return lambda session: session.flash(message)


def clear(session: Any) -> None:
    """Empty a session."""
    session.clear()


def pop(session: Any) -> None:
    """Pop the flash messages of a session."""
    session.pop_flash()


def start_with(**values: Any) -> dict[str, Any]:
    """Return the content at the start, changed; None is a deleted key."""
    content = {**START, **values}
    return {key: v for key, v in content.items() if v is not None}


@dataclass(frozen=True)
class Case:
    """What two requests do, and what comes of it.

    :ivar retry: the keys of the conflict, or the merged content.
    :ivar overwrite: the content if the later one wins.
    """

    late: Doing
    quick: Doing
    retry: list[str] | dict[str, Any]
    overwrite: dict[str, Any]


CASES = {
    "equal values": Case(
        put(n=2, m=2),
        put(n=2, m=2),
        retry=["m", "n"],
        overwrite=start_with(n=2, m=2),
    ),
    "one of two keys": Case(
        put(n=2, x=1),
        put(n=3, y=1),
        retry=["n"],
        overwrite=start_with(n=2, x=1),
    ),
    "different keys": Case(
        put(n=2, x=1),
        put(m=2, y=1),
        retry=start_with(n=2, x=1, m=2, y=1),
        overwrite=start_with(n=2, x=1),
    ),
    "deleted by both": Case(
        drop("n"), drop("n"), retry=["n"], overwrite=start_with(n=None)
    ),
    "deleted by one each": Case(
        drop("n"),
        drop("m"),
        retry=start_with(n=None, m=None),
        overwrite=start_with(n=None),
    ),
    "deleted and changed": Case(
        drop("n"), put(n=2), retry=["n"], overwrite=start_with(n=None)
    ),
    "changed and deleted": Case(
        put(n=2), drop("n"), retry=["n"], overwrite=start_with(n=2)
    ),
    "nested, different keys inside": Case(
        nest(x=1),
        nest(y=1),
        retry=["nested"],
        overwrite=start_with(nested={"a": 1, "x": 1}),
    ),
    "nested, and another key": Case(
        nest(x=1),
        put(n=2),
        retry=start_with(n=2, nested={"a": 1, "x": 1}),
        overwrite=start_with(nested={"a": 1, "x": 1}),
    ),
    "flashed by both": Case(
        flash("late"),
        flash("quick"),
        retry=start_with(_f_=["old", "quick", "late"]),
        overwrite=start_with(_f_=["old", "late"]),
    ),
    "popped and flashed": Case(
        pop,
        flash("quick"),
        retry=start_with(_f_=["quick"]),
        overwrite=start_with(_f_=None),
    ),
    "cleared behind a change": Case(
        clear, put(n=2, x=1), retry=["n", "x"], overwrite={}
    ),
    "cleared behind a message": Case(
        clear, flash("quick"), retry={}, overwrite={}
    ),
    "cleared before a change": Case(
        put(x=1), clear, retry={"x": 1}, overwrite=start_with(x=1)
    ),
}
with_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@with_cases
def test_retry(retry, case):
    """What both changed is a conflict: it is named, and nothing is kept.

    What only one of them changed is merged, without another attempt.
    """
    answer, browser = send(retry, case.late, case.quick)
    if isinstance(case.retry, dict):
        assert 200 == answer.status_int
        assert case.retry == browser.get("/get").json
        assert ["of the late one"] == retry.items()
        return
    assert 409 == answer.status_int
    assert answer.text.endswith(": " + ", ".join(map(repr, case.retry)))
    assert retry.rows_between == retry.rows()
    assert [] == retry.items()


@with_cases
def test_overwrite(overwrite, case):
    """The content of the later request replaces the other's, whole."""
    answer, browser = send(overwrite, case.late, case.quick)
    assert 200 == answer.status_int
    assert case.overwrite == browser.get("/get").json
    assert ["of the late one"] == overwrite.items()


def new_token(session):
    """Make a CSRF token, and answer with it."""
    return session.new_csrf_token()


def test_retry_and_a_csrf_token(retry):
    """A token that both made is no conflict: the quick one's stays."""
    _, browser = send(retry, new_token, new_token)
    (quick,) = retry.quick_answers
    assert quick.json == browser.get("/get").json["_csrft_"]


def test_overwrite_and_a_csrf_token(overwrite):
    """A token that both made is the later one's, as all is."""
    answer, browser = send(overwrite, new_token, new_token)
    assert answer.json == browser.get("/get").json["_csrft_"]


# -- rotated and ended rows --------------------------------------------


def rotate(session):
    """Give a session another token."""
    session.rotate()


def rotate_and_count(session):
    """Give a session another token and change it."""
    session.rotate()
    session["n"] += 1


def end(session):
    """End a session."""
    session.invalidate()


@pytest.mark.parametrize("policy", ["retry", "overwrite"])
@pytest.mark.parametrize("quick", [rotate_and_count, end])
def test_p3_a_row_that_is_gone(worlds, database, mode, policy, quick):
    """P3: no setting writes to a rotated or ended session: no conflict."""
    world = worlds(policy, database, mode)
    answer, browser = send(world, put(n=5), quick, attempts=3)
    assert 200 == answer.status_int
    assert [] == cookie_of(answer)
    assert 1 == len(world.quick_answers)
    assert world.rows_between == world.rows()
    assert {} == browser.get("/get").json


def test_retry_and_a_rotation_behind_a_conflict(retry):
    """A rotation that meets a conflict is not done: the old token stays."""
    answer, browser = send(retry, rotate_and_count, put(n=2))
    assert 409 == answer.status_int
    assert [] == cookie_of(answer)
    assert retry.rows_between == retry.rows()
    assert start_with(n=2) == browser.get("/get").json


@pytest.mark.parametrize("policy", ["retry", "overwrite"])
def test_a_rotation_alone_is_no_conflict(worlds, database, mode, policy):
    """A rotation behind a change gives a new token and keeps the change.

    Only ``overwrite`` replaces it.
    """
    world = worlds(policy, database, mode)
    answer, browser = send(world, rotate, put(n=2))
    assert 1 == len(cookie_of(answer))
    assert start_with(n=2 if policy == "retry" else 1) == (
        browser.get("/get").json
    )
    assert {} == world.other.get("/get").json


# -- pyramid_retry -----------------------------------------------------


def count(session):
    """Count in a session."""
    session["n"] += 1


def test_retry_until_attempts_are_exhausted(retry):
    """If each attempt meets a conflict, the app's exception view answers.

    Nothing of any attempt is kept, in the session or in the app's data.
    """
    answer, browser = send(retry, count, count, attempts=3)
    assert 409 == answer.status_int
    assert 3 == len(retry.quick_answers)
    assert [] == cookie_of(answer)
    assert start_with(n=4) == browser.get("/get").json
    assert [] == retry.items()


def test_retry_replays_until_nobody_is_in_the_way(retry):
    """An attempt that meets no conflict is kept, with the other's changes."""

    def count_twice(session):
        if len(retry.quick_answers) < 2:
            session["n"] += 1

    answer, browser = send(retry, count, count_twice, attempts=5)
    assert 200 == answer.status_int
    assert 3 == len(retry.quick_answers)
    assert start_with(n=4) == browser.get("/get").json
    assert ["of the late one"] == retry.items()


def test_a_conflict_behind_the_commit_is_not_replayed(worlds):
    """SQLite, separate: what conflicts while the app commits is an error.

    The application's work is done, so nobody may do it again.
    """
    world = worlds("retry", "sqlite", "separate")
    engine, sent = world.store.engine, []

    def before(*arguments):
        if arguments[2] == "BEGIN IMMEDIATE" and not sent:
            sent.append("quick")
            world.other.get("/quick")

    def count_behind(session):
        session["n"] += 1
        world.quick = count
        sa.event.listen(engine, "before_cursor_execute", before)

    try:
        with pytest.raises(SessionError, match=r"had ended.*'n'") as info:
            send(world, count_behind, lambda session: None, attempts=3)
    finally:
        sa.event.remove(engine, "before_cursor_execute", before)
    assert ["quick"] == sent
    assert 1 == len(world.quick_answers)
    assert not isinstance(info.value, TransientError)
    assert ["of the late one"] == world.items()
    assert start_with(n=2) == world.other.get("/get").json
    assert 0 == world.checked_out()
