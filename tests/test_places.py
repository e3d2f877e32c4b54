"""Where the session is touched: every place of a request, and behind it.

Each place is tried with both kinds of transaction manager; what comes of it
is the same.
"""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response

from tests.apps import cookie_of
from tests.outcomes import observe
from tests.places import (
    ALL,
    BEFORE_THE_ANSWER,
    BEHIND_THE_ANSWER,
    HOUSES,
    THERE,
    Places,
    make_house,
)

CHANGED = "Where the session is changed"
BEGUN = "Where a session begins"
STREAM = "while streaming"
# What a request passes before it comes to the view, and behind one that
# raises what is rendered.
BEFORE_THE_VIEW = BEFORE_THE_ANSWER[: BEFORE_THE_ANSWER.index("in the view")]
BEHIND_THE_VIEW = BEFORE_THE_ANSWER[-4:]
BEHIND_IT_ALL = BEFORE_THE_ANSWER[-2:]


@pytest.fixture(scope="module", name="places")
def _places():
    return Places()


@pytest.fixture(scope="module", name="house", params=HOUSES, ids="-".join)
def _house(request, databases, places):
    """One application for all tests of a database, mode and manager."""
    world = make_house(
        databases,
        request.param,
        settings={
            "tm.activate_hook": lambda request: "no_tm" not in request.params
        },
        configure=places.configure,
    )
    yield world
    world.close()


@pytest.fixture(name="tell")
def _tell(request, outcomes):
    """Return ``tell(table, situation, outcome)`` for the page."""
    database, mode, _ = request.node.callspec.params["house"]

    def tell(table, situation, outcome):
        outcomes(table, situation, mode, database, outcome)

    return tell


@pytest.fixture(name="world")
def _world(house, places):
    """The application; no test may leave anything behind in it.

    No connection stays checked out, and the next request of the same thread
    is a stranger's.
    """
    yield house
    places.at.clear()
    assert 0 == house.checked_out()
    assert {} == house.browser().get("/get").json
    house.execute(house.table.delete())


def look(browser):
    """Return the content of a browser's session."""
    return browser.get("/get").json


def change(request):
    """Change a value."""
    request.session["a"] = "2"


def fail(request):
    """Raise what an exception view may render."""
    raise RuntimeError("boom")


def break_the_database(request):
    """Raise a database error; on PostgreSQL the transaction is broken."""
    request.dbsession.execute(sa.text("SELECT * FROM no_such_table"))


def redirect(request):
    """Raise a response: with pyramid_tm's defaults that aborts."""
    raise HTTPFound("/get")


def visitor(world, **values):
    """Return a browser that has a session, and its next page's content."""
    browser = world.browser()
    browser.get("/set", {"a": "1", **values})
    return browser


def called(place):
    """Return how the page of outcomes calls a place."""
    return place.replace("above everything", "above pyramid_tm")


def losses(caplog):
    """Return what was told about changes that are not kept."""
    return [
        record
        for record in caplog.records
        if "lost" in record.message or "discarded" in record.message
    ]


# -- every place -------------------------------------------------------


@pytest.mark.parametrize("place", ALL)
def test_reading_works_everywhere(world, places, place):
    """Whatever place looks first at the session, it sees the content."""
    browser = visitor(world)
    seen = []
    places.at[place] = lambda request: seen.append(dict(request.session))
    browser.get(THERE)
    # Pyramid and pyramid_tm each ask a policy.
    assert {"a": "1"} == seen[0]
    assert 1 == len(world.rows())


def test_reading_makes_no_session(world, places):
    """P5: looks by a visitor without a session store and send nothing."""
    for place in ALL:
        places.at[place] = lambda request: list(request.session)
    assert [] == cookie_of(world.browser().get(THERE))
    assert [] == world.rows()


@pytest.mark.parametrize("place", ALL)
def test_a_change(world, places, place, tell, caplog):
    """Until the answer is made a change is saved; later a log line tells."""
    browser = visitor(world)
    places.at[place] = change
    outcome = observe(world, browser, THERE, look)
    is_late = place in BEHIND_THE_ANSWER
    assert ("as before" if is_late else "changed") == outcome.row
    assert is_late == bool(losses(caplog))
    tell(CHANGED, called(place), outcome)


@pytest.mark.parametrize("place", ALL)
def test_a_new_session(world, places, place, tell):
    """P4: a visitor gets a cookie exactly if he got a row."""
    browser = world.browser()
    places.at[place] = change
    outcome = observe(world, browser, THERE, look)
    is_late = place in BEHIND_THE_ANSWER
    expected = ("none", "none") if is_late else ("new", "set")
    assert expected == (outcome.row, outcome.cookie)
    tell(BEGUN, called(place), outcome)


@pytest.mark.parametrize("place", ALL)
def test_p3_an_end(world, places, place):
    """P3, P4: invalidate() ends the session at every place."""
    browser = visitor(world)
    places.at[place] = lambda request: request.session.invalidate()
    browser.get(THERE)
    assert [] == world.rows()


def test_changes_at_all_places_come_together(world, places):
    """P2: every place adds a key, and all of them are saved."""
    browser = visitor(world)

    def add(name):
        def act(request):
            request.session[name] = 1

        return act

    for place in BEFORE_THE_ANSWER:
        places.at[place] = add(place)
    browser.get(THERE)
    assert {"a", *BEFORE_THE_ANSWER} == set(look(browser))


@pytest.mark.parametrize("place", BEHIND_THE_ANSWER)
def test_a_late_change_is_told_with_its_place(world, places, place, caplog):
    """The error in the log holds the stack, so that it can be found."""
    browser = visitor(world)
    places.at[place] = change
    browser.get(THERE)
    (record,) = losses(caplog)
    assert logging.ERROR == record.levelno
    assert "in change" in record.stack_info


# -- a request that fails ----------------------------------------------


@pytest.mark.parametrize("place", BEFORE_THE_VIEW)
def test_a_failing_request(world, places, place, caplog):
    """P4: what an unhandled exception leaves behind is a warning."""
    browser = visitor(world)
    places.at |= {place: change, "in the view": fail}
    with pytest.raises(RuntimeError, match="boom"):
        browser.get(THERE)
    assert 1 == len(losses(caplog))
    assert {"a": "1"} == look(browser)


@pytest.mark.parametrize("place", BEFORE_THE_VIEW + BEHIND_THE_VIEW)
@pytest.mark.parametrize("how", [fail, redirect])
def test_a_failure_that_is_rendered(world, places, place, how, caplog):
    """P4: what stays unsaved is told; what comes behind it all is saved."""
    browser = visitor(world)
    places.at |= {place: change, "in the view": how}
    browser.get(THERE + "?render=1", status="*")
    is_behind_it_all = place in BEHIND_IT_ALL
    expected = {"a": "2" if is_behind_it_all else "1"}
    assert expected == look(browser)
    assert is_behind_it_all != bool(losses(caplog))


def test_a_callback_of_a_failed_request(world, places, tell, caplog):
    """P4: it saves its own change and nothing of what was discarded."""
    browser = visitor(world)

    def view(request):
        request.session["b"] = 1
        raise RuntimeError("boom")

    places.at |= {"in the view": view, "in a response callback": change}
    outcome = observe(world, browser, THERE + "?render=1", look)
    assert {"a": "2"} == look(browser)
    assert "('b') were discarded" in caplog.text
    situation = "in a response callback of a request that failed"
    tell(CHANGED, situation, outcome)


@pytest.mark.parametrize("how", [fail, break_the_database])
def test_reading_in_an_exception_view(world, places, how):
    """It can read the session, also on a broken transaction."""
    browser = visitor(world)
    places.at |= {
        "in the view": how,
        "in an exception view": lambda request: dict(request.session),
    }
    response = browser.get(THERE + "?render=1", status=500)
    assert {"told": {"a": "1"}} == response.json


@pytest.mark.parametrize("how", [fail, break_the_database])
def test_a_change_in_an_exception_view(world, places, how, tell, caplog):
    """P4: pyramid_tm aborts behind it: discarded, with a warning."""
    browser = visitor(world)
    places.at |= {"in the view": how, "in an exception view": change}
    outcome = observe(world, browser, THERE + "?render=1", look)
    assert "as before" == outcome.row
    assert "('a') were discarded" in caplog.text
    tell(CHANGED, "in an exception view", outcome)


def test_a_session_begun_in_an_exception_view(world, places, tell):
    """P4: there is neither a row nor a cookie."""
    browser = world.browser()
    places.at |= {"in the view": fail, "in an exception view": change}
    outcome = observe(world, browser, THERE + "?render=1", look)
    assert ("none", "none") == (outcome.row, outcome.cookie)
    tell(BEGUN, "in an exception view", outcome)


# -- a tween that swallows an exception --------------------------------


def swallowed(place, places):
    """Let the view change and raise, and a tween answer 200."""

    def view(request):
        request.session["a"] = "2"
        raise RuntimeError("boom")

    places.at |= {
        "in the view": view,
        f"a tween {place} swallows": lambda request: Response("fine"),
    }


def test_an_error_swallowed_below_pyramid_tm(world, places, tell):
    """P4: pyramid_tm sees no error and commits: the change is kept."""
    browser = visitor(world)
    swallowed("below pyramid_tm", places)
    outcome = observe(world, browser, THERE, look)
    assert ("200", "changed") == (outcome.answer, outcome.row)
    situation = "in a view whose error a tween below pyramid_tm swallows"
    tell(CHANGED, situation, outcome)


@pytest.mark.parametrize("place", ["above pyramid_tm", "above everything"])
def test_an_error_swallowed_above_pyramid_tm(
    world, places, place, tell, caplog
):
    """P4: pyramid_tm has aborted: the change is discarded and told."""
    browser = visitor(world)
    swallowed(place, places)
    outcome = observe(world, browser, THERE, look)
    assert ("200", "as before") == (outcome.answer, outcome.row)
    assert "('a') were discarded" in caplog.text
    situation = "in a view whose error a tween above pyramid_tm swallows"
    tell(CHANGED, situation, outcome)


# -- without a transaction ---------------------------------------------


def test_without_a_transaction(world, places, tell):
    """With ``tm.activate_hook`` false a change is saved by itself."""
    browser = visitor(world)
    places.at["in the view"] = change
    outcome = observe(world, browser, THERE + "?no_tm=1", look)
    assert "changed" == outcome.row
    situation = "in the view, with ``tm.activate_hook`` false"
    tell(CHANGED, situation, outcome)


def test_a_failure_without_a_transaction(world, places, caplog):
    """P4: a failed request keeps nothing where there is no transaction."""
    browser = visitor(world)

    def view(request):
        request.session["a"] = "2"
        raise RuntimeError("boom")

    places.at["in the view"] = view
    browser.get(THERE + "?no_tm=1&render=1", status=500)
    assert {"a": "1"} == look(browser)
    assert "('a') were discarded" in caplog.text


# -- while streaming ---------------------------------------------------


def stream(world, browser):
    """Call the application as a server does; return its iterator."""
    request = browser.RequestClass.blank(THERE)
    request.cookies.update(browser.cookies)
    request.environ.update(browser.extra_environ)
    return world.app(request.environ, lambda *arguments: None)


def test_a_stream_holds_no_connection(world, places):
    """While the answer is sent, however slowly, no connection is taken."""
    browser = visitor(world)
    places.at[STREAM] = lambda request: dict(request.session)
    answer = stream(world, browser)
    parts = iter(answer)
    for part in (b"first", b"second"):
        assert part == next(parts)
        assert 0 == world.checked_out()
    answer.close()


def test_a_stream_that_is_closed_early(world, places):
    """The browser goes away in the middle: nothing is left behind."""
    browser = visitor(world)
    places.at[STREAM] = change
    answer = stream(world, browser)
    assert b"first" == next(iter(answer))
    answer.close()
    assert {"a": "1"} == look(browser)


def test_a_stream_sees_what_the_view_has_saved(world, places):
    """The content in the stream is the committed one."""
    browser = visitor(world)
    seen = []
    places.at |= {
        "in the view": change,
        STREAM: lambda request: seen.append(request.session["a"]),
    }
    browser.get(THERE)
    assert ["2"] == seen


def test_a_stream_writes_nothing_that_was_discarded(world, places, caplog):
    """P4: its change is lost, and what the view changed is kept."""
    browser = visitor(world)

    def late(request):
        request.session["late"] = 1

    places.at |= {"in the view": change, STREAM: late}
    browser.get(THERE)
    assert {"a": "2"} == look(browser)
    assert "changed after its response" in caplog.text
