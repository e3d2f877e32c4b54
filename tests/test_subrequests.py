"""Subrequests: whose session they see, and what becomes of a change there.

A *blank* subrequest is a request of its own: what it changes is saved when
it ends. A *copy* of its parent has the parent's environ, and with it the
parent's transaction and session.
"""

from __future__ import annotations

import pytest
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request

from tests.apps import cookie_of
from tests.outcomes import observe
from tests.places import HOUSES, make_house

CHANGED = "Where the session is changed"
BEGUN = "Where a session begins"
TWEENS = {True: "with tweens", False: "without tweens"}


@pytest.fixture(scope="module", name="house", params=HOUSES, ids="-".join)
def _house(request, databases):
    """One application for all tests of a database, mode and manager."""
    world = make_house(databases, request.param)
    yield world
    world.close()


@pytest.fixture(name="world")
def _world(house):
    """The application; no test may leave anything behind in it."""
    yield house
    assert 0 == house.checked_out()
    assert {} == house.browser().get("/get").json
    house.execute(house.table.delete())
    house.execute(house.Item.__table__.delete())


@pytest.fixture(name="tell")
def _tell(request, outcomes):
    """Return ``tell(table, situation, outcome)`` for the page."""
    database, mode, _ = request.node.callspec.params["house"]

    def tell(table, situation, outcome):
        outcomes(table, situation, mode, database, outcome)

    return tell


@pytest.fixture(name="tweens", params=TWEENS, ids=TWEENS.get)
def _tweens(request):
    """Whether the subrequest passes the tweens."""
    return request.param


@pytest.fixture(name="is_lost")
def _is_lost(request, tweens):
    """Say whether pyramid_tm aborts the parent's transaction.

    It does where a blank subrequest begins one with the same manager.
    """
    manager = request.node.callspec.params["house"][2]
    return tweens and manager == "thread-local"


def blank(request):
    """Return a subrequest that has its parent's cookies."""
    return Request.blank("/child", cookies=request.cookies)


def stranger(request):
    """Return a subrequest that has no cookies."""
    return Request.blank("/child")


def copy(request):
    """Return a copy of the parent."""
    child = request.copy()
    child.path_info = "/child"
    return child


KIN = pytest.mark.parametrize("make", [blank, copy])


class Family:
    """A request for ``/parent`` that sends a subrequest to ``/child``.

    :ivar before, child, after: what is done with the session, in order.
    :ivar answer: the child's.
    """

    def __init__(self, world, make, tweens):
        self.before = self.child = self.after = lambda request: None
        self.answer = None
        self._make = make
        self._tweens = tweens
        world.views["child"] = lambda request: self.child(request) or {}
        world.views["parent"] = self._parent

    def _parent(self, request):
        self.before(request)
        self.answer = request.invoke_subrequest(
            self._make(request), use_tweens=self._tweens
        )
        return self.after(request) or {}


def put(**values):
    """Return a function that puts values into a request's session."""

    def act(request):
        request.session.update(values)

    return act


def end(request):
    """End the session."""
    request.session.invalidate()


def look(browser):
    """Return the content of a browser's session."""
    return browser.get("/get").json


def visitor(world):
    """Return a browser that has a session."""
    browser = world.browser()
    browser.get("/set?a=1")
    return browser


# -- reading -----------------------------------------------------------


@KIN
def test_it_reads_its_parents_session(world, make, tweens):
    """With the parent's cookies it sees what the browser's session holds."""
    family = Family(world, make, tweens)
    family.child = lambda request: dict(request.session)
    visitor(world).get("/parent")
    assert {"a": "1"} == family.answer.json


def test_without_cookies_it_is_a_stranger(world, tweens):
    """Without cookies it has no session, and makes none by looking."""
    family = Family(world, stranger, tweens)
    family.child = lambda request: dict(request.session)
    visitor(world).get("/parent")
    assert {} == family.answer.json
    assert 1 == len(world.rows())


def test_a_copy_sees_what_its_parent_has_changed(world, tweens):
    """A copy shares the session: one sees at once what the other does."""
    family = Family(world, copy, tweens)
    family.before = put(b=2)
    family.child = lambda request: dict(request.session)
    visitor(world).get("/parent")
    assert {"a": "1", "b": 2} == family.answer.json


def test_a_parent_sees_what_its_copy_has_changed(world, tweens):
    """A copy shares the session, in the other direction too."""
    family = Family(world, copy, tweens)
    family.child = put(b=2)
    family.after = lambda request: dict(request.session)
    answer = visitor(world).get("/parent")
    assert {"a": "1", "b": 2} == answer.json


# -- a change ----------------------------------------------------------


@KIN
def test_a_change_in_a_subrequest(world, make, tweens, tell):
    """P2: the child's change is saved."""
    family = Family(world, make, tweens)
    family.child = put(a="2")
    outcome = observe(world, visitor(world), "/parent", look)
    assert ("200", "changed") == (outcome.answer, outcome.row)
    kind = "copied" if make is copy else "blank"
    situation = f"in a {kind} subrequest {TWEENS[tweens]}"
    tell(CHANGED, situation, outcome)


@KIN
@pytest.mark.parametrize("when", ["before", "after"])
def test_p2_parent_and_child_change(
    world, make, tweens, when, is_lost, caplog
):
    """P2: different keys are both kept, whoever comes first; none is lost
    silently."""
    family = Family(world, make, tweens)
    setattr(family, when, put(parent=1))
    family.child = put(child=1)
    browser = visitor(world)
    browser.get("/parent")
    expected = {"a": "1", "parent": 1, "child": 1}
    if is_lost and make is blank and when == "before":
        del expected["parent"]
        assert "('parent') were discarded" in caplog.text
    assert expected == look(browser)


@KIN
def test_p2_parent_and_child_change_the_same_key(world, make, tweens):
    """P2: what was put in last is there."""
    family = Family(world, make, tweens)
    family.child = put(a="child")
    family.after = put(a="parent")
    browser = visitor(world)
    browser.get("/parent")
    assert {"a": "parent"} == look(browser)


def test_a_parent_that_fails(world, tweens, caplog):
    """P4: a blank child's change is saved, its parent's is not."""
    family = Family(world, blank, tweens)

    def fail(request):
        request.session["parent"] = 1
        raise HTTPFound("/get")

    family.child = put(child=1)
    family.after = fail
    browser = visitor(world)
    browser.get("/parent")
    assert {"a": "1", "child": 1} == look(browser)
    assert "('parent') were discarded" in caplog.text


def test_a_parent_of_a_copy_that_fails(world, tweens, caplog):
    """P4: a copy's change is discarded with its parent's transaction."""
    family = Family(world, copy, tweens)

    def fail(request):
        raise HTTPFound("/get")

    family.child = put(child=1)
    family.after = fail
    browser = visitor(world)
    browser.get("/parent")
    assert {"a": "1"} == look(browser)
    assert "('child') were discarded" in caplog.text


def test_a_child_that_fails(world, tweens, caplog):
    """P4: of a blank child that raises nothing is kept; a warning says so."""
    family = Family(world, blank, tweens)

    def child(request):
        request.session["child"] = 1
        raise RuntimeError("child")

    family.child = child

    def parent(request):
        with pytest.raises(RuntimeError, match="child"):
            family._parent(request)
        request.session["parent"] = 1
        return {}

    world.views["parent"] = parent
    browser = visitor(world)
    browser.get("/parent")
    assert {"a": "1", "parent": 1} == look(browser)
    assert "('child') were discarded" in caplog.text


# -- ends and new tokens -----------------------------------------------


@KIN
@pytest.mark.parametrize("when", ["before", "after"])
def test_p3_a_child_that_ends_the_session(world, make, tweens, when):
    """P3: a parent's change does not bring it back."""
    family = Family(world, make, tweens)
    setattr(family, when, put(parent=1))
    family.child = end
    browser = visitor(world)
    token = browser.cookies["session"]
    browser.get("/parent")
    thief = world.browser()
    thief.set_cookie("session", token)
    assert {} == look(thief)


def test_a_copy_that_ends_the_session_answers_for_it(world, tweens):
    """The parent's answer deletes the cookie of a session its copy ended."""
    Family(world, copy, tweens).child = end
    answer = visitor(world).get("/parent")
    assert "Max-Age=0" in cookie_of(answer)[0]


def test_a_copy_that_ends_and_begins(world, tweens):
    """P4: what is put in behind the end is a new session, with a cookie."""
    family = Family(world, copy, tweens)
    family.child = end
    family.after = put(b=2)
    browser = visitor(world)
    browser.get("/parent")
    assert {"b": 2} == look(browser)
    assert 1 == len(world.rows())


def log_in(request):
    """Do what a login does."""
    request.session["user"] = "ann"
    request.session.rotate()


def test_a_login_in_a_copy(world, tweens):
    """P4: the browser gets the token that a copy's rotate() has made."""
    Family(world, copy, tweens).child = log_in
    browser = visitor(world)
    browser.get("/parent")
    assert {"a": "1", "user": "ann"} == look(browser)


def test_a_login_in_a_blank_child(world, tweens):
    """The child's answer has the cookie: who returns it logs in."""
    family = Family(world, blank, tweens)
    family.child = log_in
    family.after = lambda request: family.answer
    browser = visitor(world)
    browser.get("/parent")
    assert {"a": "1", "user": "ann"} == look(browser)


# -- a new visitor -----------------------------------------------------


def test_a_session_that_a_blank_child_begins(world, tweens, tell):
    """The cookie is on the child's answer, and only there."""
    family = Family(world, blank, tweens)
    family.child = put(a="2")
    browser = world.browser()
    outcome = observe(world, browser, "/parent", look)
    assert ("new", "none") == (outcome.row, outcome.cookie)
    assert 1 == len(cookie_of(family.answer))
    tell(BEGUN, f"in a blank subrequest {TWEENS[tweens]}", outcome)


def test_a_session_that_a_copy_begins(world, tweens, tell):
    """P4: it is the parent's: one row, and the browser gets its cookie."""
    family = Family(world, copy, tweens)
    family.child = put(a="2")
    outcome = observe(world, world.browser(), "/parent", look)
    assert ("new", "set") == (outcome.row, outcome.cookie)
    assert [] == cookie_of(family.answer)
    tell(BEGUN, f"in a copied subrequest {TWEENS[tweens]}", outcome)


def test_a_session_that_parent_and_copy_begin(world, tweens):
    """P2: there is one session, with what both put in."""
    family = Family(world, copy, tweens)
    family.before = put(parent=1)
    family.child = put(child=1)
    browser = world.browser()
    browser.get("/parent")
    assert {"parent": 1, "child": 1} == look(browser)
    assert 1 == len(world.rows())


# -- beside the application's data -------------------------------------


def test_a_copy_behind_the_apps_own_write(world, tweens):
    """A copy waits for no lock that its parent holds."""
    family = Family(world, copy, tweens)

    def order(request):
        request.dbsession.add(world.Item(name="order"))
        request.dbsession.flush()
        request.session["parent"] = 1

    family.before = order
    family.child = put(child=1)
    browser = visitor(world)
    browser.get("/parent")
    assert {"a": "1", "parent": 1, "child": 1} == look(browser)
    assert ["order"] == world.items()


def test_a_copy_with_cookies_of_its_own(world, tweens):
    """A copy that is given other cookies is not its parent's session."""

    def other(request):
        child = copy(request)
        child.cookies.clear()
        return child

    family = Family(world, other, tweens)
    family.child = lambda request: dict(request.session)
    visitor(world).get("/parent")
    assert {} == family.answer.json
