"""pyramid_retry: every attempt starts from the row; only the last counts."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from pyramid.response import Response
from transaction.interfaces import TransientError

from tests.apps import MODES, Clock, World
from tests.outcomes import Outcome, observe

ATTEMPTS = 3
# Who asks for another attempt: the view, or a resource at the commit.
CAUSES = ("view", "vote")
# Waits of the application's own connections end soon, too.
IMPATIENT = {
    "sqlite": {"timeout": "0.2"},
    "postgresql": {"options": "-c lock_timeout=200ms"},
    "mariadb": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"},
}
LOCKS = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT 1 FROM {} FOR UPDATE",
    "mariadb": "SELECT 1 FROM {} FOR UPDATE",
}


class Refuses:
    """A resource of the application that asks to try again at the commit."""

    def __init__(self, manager):
        self.transaction_manager = manager

    def tpc_vote(self, transaction):
        raise TransientError

    def _nothing(self, transaction):
        pass

    abort = tpc_begin = commit = tpc_finish = tpc_abort = _nothing

    def sortKey(self):
        return "refuses"


def _configure(rendered):
    def configure(config):
        config.include("pyramid_retry")
        if rendered:
            config.add_exception_view(
                lambda error, request: Response("busy", status=503),
                context=TransientError,
            )

    return configure


@pytest.fixture(scope="module", name="worlds")
def _worlds(databases, run_name):
    """Return worlds that are made once for all tests here."""
    made = {}

    def get(database, mode, rendered):
        key = database, mode, rendered
        if key not in made:
            url = sa.make_url(databases.url(database))
            url = url.update_query_dict(IMPATIENT[database])
            made[key] = _make_world(
                url.render_as_string(hide_password=False),
                mode,
                f"pls_{run_name}_r{len(made)}_sessions",
                rendered,
            )
        world = made[key]
        world.execute(sa.delete(world.table))
        world.execute(sa.delete(world.Item))
        return world

    yield get
    for world in made.values():
        world.close()


def _make_world(url, mode, table, rendered):
    world = World(
        url,
        mode,
        clock=Clock(),
        table=table,
        settings={
            "retry.attempts": str(ATTEMPTS),
            "limitedsession.on_conflict": "retry",
            "limitedsession.lock_timeout": "1s",
        },
        configure=_configure(rendered),
    )

    @world.on("count")
    def _(request):
        session = request.session
        session["n"] = session.get("n", 0) + 1
        session.flash("once")
        request.dbsession.add(world.Item(name=f"item {session['n']}"))
        return _try(request)

    @world.on("out")
    def _(request):
        is_first = request.environ["retry.attempt"] == 0
        if is_first or "once" not in request.params:
            request.session.invalidate()
        return _try(request)

    @world.on("look")
    def _(request):
        return dict(request.session)

    return world


def _try(request):
    """Fail as often as the request says."""
    if request.environ["retry.attempt"] < int(request.params["fails"]):
        if request.params["cause"] == "view":
            raise TransientError
        request.tm.get().join(Refuses(request.tm))
    return {}


def _look(browser):
    return browser.get("/look").json


# Situation, failing attempts, path; then what is expected.
SITUATIONS = [
    (
        *("starts a session, the third attempt succeeds", 2, "count"),
        *("new", "set", "the change"),
    ),
    (
        *("changes one, the third attempt succeeds", 2, "count"),
        *("changed", "none", "the change"),
    ),
    (
        *("logs out, the third attempt succeeds", 2, "out"),
        *("deleted", "deleted", "a new session"),
    ),
    (
        "logs out in the first attempt only, the third succeeds",
        *(2, "out?once"),
        *("as before", "none", "as before"),
    ),
    (
        *("starts a session, every attempt fails", 3, "count"),
        *("none", "none", "as before"),
    ),
    (
        *("changes one, every attempt fails", 3, "count"),
        *("as before", "none", "as before"),
    ),
    (
        *("logs out, every attempt fails", 3, "out"),
        *("deleted", "deleted", "a new session"),
    ),
]


@pytest.mark.parametrize("rendered", [True, False])
@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize(
    ("situation", "fails", "path", "row", "cookie", "then"), SITUATIONS
)
def test_p4_only_the_last_attempt_counts(
    worlds, database, mode, rendered, cause, situation, fails, path, row,
    cookie, then, outcomes,
):  # fmt: skip
    """P4: three attempts are one increment, one message, one row, one end."""
    world = worlds(database, mode, rendered)
    browser = world.browser()
    if "starts" not in situation:
        browser.get("/count?fails=0&cause=view")
    mark = "&" if "?" in path else "?"
    outcome = observe(
        world, browser, f"/{path}{mark}fails={fails}&cause={cause}", _look
    )
    answer = "200" if fails < ATTEMPTS else "503" if rendered else "error"
    if answer == "error":
        # Without an answer the browser keeps its cookie, which is dead.
        cookie = "none"
    assert Outcome(answer, row, cookie, then) == outcome
    if then != "a new session":
        times = len(world.rows()) + (row == "changed")
        expected = {"n": times, "_f_": ["once"] * times} if times else {}
        assert expected == _look(browser)
        assert [f"item {n + 1}" for n in range(times)] == world.items()
    assert 0 == world.checked_out()
    if rendered:
        outcomes("Replayed requests", situation, mode, database, outcome)


@pytest.mark.parametrize("rendered", [True, False])
def test_a_conflict_of_ours_is_replayed(worlds, database, mode, rendered):
    """on_conflict = retry: each attempt counts from the newest row."""
    world = worlds(database, mode, rendered)
    browser = world.browser()

    @world.on("meanwhile")
    def _(request):
        request.session["n"] = request.session.get("n", 0) + 1
        request.session.flash("once")
        if request.environ["retry.attempt"] < 2:
            other = world.browser()
            other.set_cookie("session", request.cookies["session"])
            other.get("/count?fails=0&cause=view")
        return {}

    browser.get("/count?fails=0&cause=view")
    browser.get("/meanwhile")
    assert {"n": 4, "_f_": ["once"] * 4} == _look(browser)
    assert 0 == world.checked_out()


@pytest.mark.parametrize(
    ("database", "mode"),
    [
        ("sqlite", "joined"),
        *(
            (name, mode)
            for name in ("postgresql", "mariadb")
            for mode in MODES
        ),
    ],
)
def test_a_lock_of_somebody_else_is_replayed(worlds, database, mode):
    """A lock that the database does not give is a reason to try again.

    (Not on SQLite in separate mode: the session is saved there when the
    application has committed, see
    `test_corners.test_a_request_is_not_replayed_after_its_commit`.)
    """
    world = worlds(database, mode, rendered=False)
    locker = sa.create_engine(world.url, isolation_level="AUTOCOMMIT")
    browser = world.browser()
    browser.get("/count?fails=0&cause=view")
    attempts = []

    @world.on("locked")
    def _(request):
        request.session["n"] += 1
        request.session.flash("once")
        attempts.append(request.environ["retry.attempt"])
        if len(attempts) == 1:
            connection.exec_driver_sql("BEGIN") if database != "sqlite" else 0
            lock = LOCKS[database].format(world.table.name)
            connection.exec_driver_sql(lock)
        else:
            connection.exec_driver_sql("ROLLBACK")
        return {}

    with locker.connect() as connection:
        browser.get("/locked")
    locker.dispose()
    assert [0, 1] == attempts
    assert {"n": 2, "_f_": ["once"] * 2} == _look(browser)
    assert 0 == world.checked_out()
