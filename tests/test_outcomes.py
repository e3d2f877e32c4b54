"""P4, the whole table: each way a request can end, for each kind of change.

What is asserted here is the promise; what was observed is compared with the
page of the documentation that is made of it, see `tests.outcomes`.
"""

from __future__ import annotations

import logging
import re

import pytest
import sqlalchemy as sa
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.response import Response

from tests.apps import Clock, World
from tests.outcomes import (
    ENDINGS,
    PAGE,
    PLACES,
    TABLES,
    Outcome,
    make_page,
    observe,
    read_results,
)

VETO = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}
KEPT = {
    "returns 200",
    "returns 404",
    "returns ``HTTPFound``",
    "returns ``HTTPFound``, with a commit veto",
    "raises ``HTTPFound``, with a commit veto",
}
# Of these the likely cause is known.
HINTED = {"raises ``HTTPFound``"}


class Refuses:
    """A resource of the application that votes against the commit."""

    def __init__(self, manager):
        self.transaction_manager = manager

    def tpc_vote(self, transaction):
        raise RuntimeError("refused")

    def _nothing(self, transaction):
        pass

    abort = tpc_begin = commit = tpc_finish = tpc_abort = _nothing

    def sortKey(self):
        return "refuses"


def _end(world, request, how):
    """End a view in one of the ways of `ENDINGS`."""
    if how == "returns 404":
        return HTTPNotFound()
    if how == "raises 404":
        raise HTTPNotFound
    if how == "returns ``HTTPFound``":
        return HTTPFound("/look")
    if how == "raises ``HTTPFound``":
        raise HTTPFound("/look")
    if how == "raises":
        raise RuntimeError("a mistake of the application")
    if how == "dooms the transaction":
        request.tm.doom()
    elif how == "is refused by a vote":
        request.tm.get().join(Refuses(request.tm))
    elif how == "fails in the application's flush":
        # Its name is unique.
        request.dbsession.add(world.Item(name="x"))
    elif how == "fails in a before-commit hook":
        request.tm.get().addBeforeCommitHook(_fail)
    return {}


def _fail():
    raise RuntimeError("a hook of the application")


def _set(session):
    session["a"] = "new"


def _rotate(session):
    session["a"] = "new"
    session.rotate()


CHANGES = {
    "A new session": _set,
    "A changed session": _set,
    "A flash message": lambda session: session.flash("hello"),
    "A new token": _rotate,
    "A logout": lambda session: session.invalidate(),
}


def _configure(config):
    config.add_exception_view(
        lambda error, request: Response("sorry", status=500),
        context=Exception,
        request_param="shown",
    )


@pytest.fixture(scope="module", name="worlds")
def _worlds(databases, run_name):
    """Return worlds that are made once: making one takes much longer than
    what is tested here."""
    made = {}

    def get(database, mode, veto, *, explicit=True):
        key = database, mode, veto, explicit
        if key not in made:
            made[key] = World(
                databases.url(database),
                mode,
                clock=Clock(),
                table=f"pls_{run_name}_o{len(made)}_sessions",
                settings=VETO if veto else {},
                explicit=explicit,
                configure=_configure,
            )
            _add_views(made[key])
        world = made[key]
        world.execute(sa.delete(world.table))
        world.execute(sa.delete(world.Item))
        return world

    yield get
    for world in made.values():
        world.close()


def _add_views(world):
    @world.on("start")
    def _(request):
        request.session["a"] = "old"
        return {}

    @world.on("look")
    def _(request):
        return dict(request.session)

    @world.on("change")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        CHANGES[request.params["what"]](request.session)
        return _end(world, request, request.params["how"])


def _look(browser):
    return browser.get("/look").json


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("what", CHANGES)
def test_p4_the_transaction_decides(
    worlds, database, mode, what, how, outcomes, caplog
):
    """P4: what commits is kept, with its cookie; what does not is not.

    A logout is done in any case. A discarded change is one warning, which
    names its keys and not its values.
    """
    world = worlds(database, mode, "with a commit veto" in how)
    outcome = _try(world, what, how)
    assert _warned(what, how) == _warnings(caplog)
    outcomes(what, how, mode, database, outcome)


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("what", ["A changed session", "A logout"])
def test_p4_with_pyramid_tms_default_manager(worlds, mode, what, how, caplog):
    """P4: the same holds with the thread-local manager."""
    veto = "with a commit veto" in how
    _try(worlds("sqlite", mode, veto, explicit=False), what, how)
    assert _warned(what, how) == _warnings(caplog)


def _try(world, what, how):
    browser = world.browser()
    if what != "A new session":
        browser.get("/start")
    token = browser.cookies.get("session")
    path = f"/change?what={what}&how={_verb(how)}"
    if "an exception view answers" in how:
        path += "&shown=1"
    outcome = observe(world, browser, path, _look)
    assert _expected(what, how, outcome.answer) == outcome
    assert _status(how) == outcome.answer
    assert (["x"] if how in KEPT else []) == world.items()
    if what in ("A new token", "A logout") and outcome.row != "as before":
        thief = world.browser()
        thief.set_cookie("session", token)
        assert {} == _look(thief)
    assert 0 == world.checked_out()
    return outcome


def _verb(how):
    return re.sub(r", (with|an|nobody) .*", "", how)


def _status(how):
    if "nobody answers" in how:
        return "error"
    if "an exception view answers" in how:
        return "500"
    statuses = [s for s in ("404", "200") if s in how]
    return statuses[0] if statuses else "302" if "Found" in how else "200"


def _expected(what, how, answer):
    if what == "A logout":
        cookie = "none" if answer == "error" else "deleted"
        return Outcome(answer, "deleted", cookie, "a new session")
    if how not in KEPT:
        row = "none" if what == "A new session" else "as before"
        return Outcome(answer, row, "none", "as before")
    row, cookie = {
        "A new session": ("new", "set"),
        "A new token": ("new key", "set"),
    }.get(what, ("changed", "none"))
    return Outcome(answer, row, cookie, "the change")


def _warned(what, how):
    if how in KEPT or what == "A logout":
        return []
    names = {"A flash message": "'_f_'", "A new token": "'a', rotate()"}
    text = (
        f"changes of the session ({names.get(what, repr('a'))}) were "
        "discarded, because the request or its transaction failed"
    )
    if how in HINTED:
        text += "; 'raise HTTPFound' does that unless tm.commit_veto is set"
    return [text]


def _warnings(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("pyramid_limitedsession")
        and record.levelno >= logging.WARNING
    ]


# -- the page ----------------------------------------------------------


def test_the_page_is_made_of_the_results():
    """docs/outcomes.rst is what its results say, and nothing else."""
    assert make_page(read_results()) == PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_situation():
    """Every situation that the tests know stands on the page, and no other."""
    results = read_results()
    expected = {name: list(table.situations) for name, table in TABLES.items()}
    assert expected == {name: list(rows) for name, rows in results.items()}


@pytest.mark.parametrize("what", CHANGES)
def test_the_page_has_every_place(what):
    """What every application meets was tried in every mode, everywhere."""
    for situation, cells in read_results()[what].items():
        assert set(PLACES) == set(cells), situation
