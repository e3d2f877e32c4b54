"""``column_values``: when it is asked, for what, and what may go wrong."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from pyramid_limitedsession import SessionError, SessionMixin
from tests.test_layout import meanwhile
from tests.threads import same_session


def number_of_keys(request, content):
    """Values for the column of the class that `make` makes."""
    return {"items": len(content)}


class Empty:
    """JSON without its braces: nothing for an empty session."""

    dumps = staticmethod(lambda content: json.dumps(content)[1:-1])
    loads = staticmethod(lambda text: json.loads(f"{{{text}}}"))


class Refusing:
    """A resource that does not commit."""

    def sortKey(self):
        """Sort behind the sessions."""
        return "~~~"

    def tpc_vote(self, transaction):
        """Vote against it."""
        raise LookupError

    def nothing(self, transaction):
        """Do nothing."""

    abort = tpc_begin = commit = tpc_finish = tpc_abort = nothing


@pytest.fixture(name="make")
def _make(make_world, run_name):
    """Return a function that makes a world with a class, and a function."""

    def declare(base):
        columns = {
            "__tablename__": f"pls_{run_name}_values",
            "items": sa.Column(sa.Integer, nullable=False),
        }
        return type("WebSession", (SessionMixin, base), columns)

    def make(values, *places, **given):
        given["column_values"] = values
        world = make_world(
            *places,
            declare=declare,
            settings={f"limitedsession.{k}": v for k, v in given.items()},
        )

        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return {}

        @world.on("get")
        def _(request):
            return dict(request.session)

        return world

    return make


def items(world):
    """Return what stands in the column of the application's."""
    return [row.items for row in world.rows()]


def test_what_is_merged(make, database, mode):
    """The values are those of the merged content: of what is stored."""
    world = make(number_of_keys, database, mode)
    browser = world.browser()
    browser.get("/set?a=1")
    (other,) = same_session(world, browser, 1)
    meanwhile(world, other.get)
    browser.get("/slow?path=/set?b=2")
    assert {"a": "1", "b": "2", "mine": "1"} == browser.get("/get").json
    assert [3] == items(world)


def test_an_empty_text(make):
    """What is stored for an empty session may be an empty text."""
    world = make(number_of_keys, serializer=Empty)

    @world.on("clear")
    def _(request):
        request.session.clear()
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/clear")
    assert [("", 0)] == [(row.data, row.items) for row in world.rows()]


def test_it_is_asked_once(make, mode):
    """Before the application commits: it is no error to ask the database."""
    asked = []

    def values(request, content):
        asked.append(dict(content))
        count = sa.select(sa.func.count()).select_from(world.Item)
        return {"items": request.dbsession.scalar(count)}

    world = make(values, "sqlite", mode)

    @world.on("buy")
    def _(request):
        if "pen" in request.params:
            request.dbsession.add(world.Item(name="pen"))
        request.session["bought"] = 1
        return {}

    world.browser().get("/buy?pen=1")
    world.browser().get("/buy")
    assert [{"bought": 1}, {"bought": 1}] == asked
    assert [1, 1] == items(world)
    assert 0 == world.checked_out()


def test_what_a_flush_adds(make, mode):
    """What is put in while the application commits counts, too."""
    world = make(number_of_keys, "sqlite", mode)

    @world.on("buy")
    def _(request):
        def put(*given):
            request.session["flushed"] = 1

        sa.event.listen(request.dbsession, "after_flush", put)
        request.dbsession.add(world.Item(name="pen"))
        request.session["bought"] = 1
        return {}

    browser = world.browser()
    browser.get("/buy")
    assert {"bought": 1, "flushed": 1} == browser.get("/get").json
    assert [2] == items(world)


def test_what_a_hook_of_the_application_adds(make, mode):
    """It is asked behind the application's own before-commit hooks."""
    asked = []

    def values(request, content):
        asked.append(dict(content))
        return {"items": len(content)}

    world = make(values, "sqlite", mode)

    @world.on("hook")
    def _(request):
        request.session["a"] = 1
        request.tm.get().addBeforeCommitHook(
            lambda: request.session.update(b=2)
        )
        return {}

    world.browser().get("/hook")
    assert [{"a": 1, "b": 2}] == asked
    assert [2] == items(world)


def test_it_is_given_a_copy(make):
    """What it does to a value in there is not stored."""

    def values(request, content):
        content["list"].append("odd")
        return {"items": len(content["list"])}

    world = make(values)

    @world.on("list")
    def _(request):
        request.session["list"] = []
        request.add_response_callback(
            lambda request, response: seen.append(request.session["list"])
        )
        return {}

    seen = []
    browser = world.browser()
    browser.get("/list")
    assert ([[]], [1]) == (seen, items(world))
    assert {"list": []} == browser.get("/get").json


def test_it_is_asked_anew_in_the_next_transaction(make):
    """What it has said in one that failed is forgotten."""
    asked = []

    def values(request, content):
        asked.append(dict(content))
        return {"items": len(asked)}

    world = make(values)

    @world.on("twice")
    def _(request):
        request.session["a"] = 1
        request.tm.get().join(Refusing())
        with pytest.raises(LookupError):
            request.tm.commit()
        request.tm.abort()
        request.tm.begin()
        request.session["a"] = 1
        return {}

    world.browser().get("/twice")
    assert [{"a": 1}, {"a": 1}] == asked
    assert [2] == items(world)


@pytest.mark.parametrize("given", [None, [("items", 1)], "items"])
def test_it_returns_no_dict(make, given):
    """It is told what it has to return; nothing is committed."""
    world = make(lambda request, content: given)

    @world.on("buy")
    def _(request):
        request.dbsession.add(world.Item(name="pen"))
        request.session["bought"] = 1
        return {}

    words = f"of type {type(given).__name__}; it has to return a dict"
    with pytest.raises(SessionError, match=words):
        world.browser().get("/buy")
    assert ([], []) == (world.rows(), world.items())


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_it_fails_for_what_is_merged(make, database, mode):
    """The request fails then, and nothing of it is committed."""

    def values(request, content):
        if {"b", "mine"} <= set(content):
            raise LookupError
        return {"items": len(content)}

    world = make(values, database, mode)
    browser = world.browser()
    browser.get("/set?a=1")
    (other,) = same_session(world, browser, 1)
    meanwhile(world, other.get)
    with pytest.raises(LookupError):
        browser.get("/slow?path=/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    assert ([2], 0) == (items(world), world.checked_out())


def test_it_fails_behind_the_transaction(make, mode, caplog):
    """A response callback's change is lost then, with an error in the log."""

    def values(request, content):
        if "late" in content:
            # There is no transaction any more.
            request.tm.get()
        return {"items": len(content)}

    world = make(values, "sqlite", mode)

    @world.on("late")
    def _(request):
        request.session["a"] = 1
        request.add_response_callback(
            lambda request, response: request.session.update(late=1)
        )
        return {}

    browser = world.browser()
    browser.get("/late")
    (line,) = [each for each in caplog.records if "late" in each.getMessage()]
    assert "ERROR" == line.levelname
    assert "could not be saved" in line.getMessage()
    assert ({"a": 1}, [1]) == (browser.get("/get").json, items(world))
