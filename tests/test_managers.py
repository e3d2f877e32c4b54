"""Whose transaction it is: pyramid_tm's, wherever it came from, or a WSGI
middleware's, as that of repoze.tm2.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import transaction
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from repoze.tm import TM, default_commit_veto
from sqlalchemy.exc import DBAPIError, IntegrityError
from webtest import TestApp

from pyramid_limitedsession import SessionError
from tests.apps import MODES
from tests.conftest import DATABASES
from tests.outcomes import observe
from tests.places import add_views, make_house

OURS = "pyramid_limitedsession"
PLACES = [(database, mode) for database in DATABASES for mode in MODES]


# -- how pyramid_tm came into the application --------------------------


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    "includes", [("pyramid_tm", OURS), (OURS, "pyramid_tm"), (OURS,)]
)
def test_where_pyramid_tm_is_included(make_world, mode, includes, explicit):
    """P4: before us, behind us or not at all: its transaction decides."""
    world = make_world(mode=mode)
    settings = {
        key: value
        for key, value in world.app.registry.settings.items()
        if key.startswith("limitedsession.")
    }
    if explicit:
        settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
    with Configurator(settings=settings) as config:
        for name in includes:
            config.include(name)
        config.set_session_clock(world.clock)
        config.add_request_method(world._dbsession, "dbsession", reify=True)
        config.add_route("view", "/{name}")
        config.add_view(world._view, route_name="view", renderer="json")
        browser = TestApp(config.make_wsgi_app())
    add_views(world)

    @world.on("redirect")
    def _(request):
        request.session["a"] = "2"
        raise HTTPFound("/get")

    browser.get("/set?a=1")
    browser.get("/redirect")
    assert {"a": "1"} == browser.get("/get").json
    world.factory = browser.app.registry["pyramid_limitedsession"]
    assert 0 == world.checked_out()


# -- a middleware's transaction ----------------------------------------


class Under:
    """An application under repoze.tm2's middleware.

    :ivar world: the application.
    :ivar app: the middleware around it.
    """

    def __init__(self, world):
        self.world = add_views(world)
        self.app = TM(world.app, default_commit_veto)
        world.on("change")(self._change)
        world.on("order")(self._order)
        world.on("leave")(self._leave)

    def browser(self):
        """Return a browser without a session."""
        return TestApp(self.app)

    def signed_in(self):
        """Return a browser that has a session, and its token."""
        browser = self.browser()
        browser.get("/set?a=1")
        return browser, browser.cookies["session"]

    def content(self, token):
        """Return what a browser with this token finds."""
        browser = self.browser()
        browser.set_cookie("session", token)
        return browser.get("/get").json

    def _change(self, request):
        request.session["a"] = "2"
        return self._end(request)

    def _order(self, request):
        request.dbsession.add(self.world.Item(name="order"))
        request.session["a"] = "2"
        return self._end(request)

    def _leave(self, request):
        request.session.invalidate()
        return self._end(request)

    def _end(self, request):
        how = request.params.get("how")
        if how == "raise":
            raise RuntimeError("boom")
        if how == "redirect":
            raise HTTPFound("/get")
        if how == "doom":
            transaction.doom()
        if how in ("clash", "flush"):
            names = ("same", "same")
            request.dbsession.add_all(self.world.Item(name=n) for n in names)
        if how == "flush":
            request.dbsession.flush()
        return Response("no", 404) if how == "veto" else {}


@pytest.fixture(scope="module", name="house", params=PLACES, ids="-".join)
def _house(request, databases):
    """One application for all tests of a database and a mode."""
    under = Under(
        make_house(
            databases,
            (*request.param, "thread-local"),
            configure=lambda config: config.add_exception_view(
                lambda error, request: Response(json=dict(request.session)),
                context=DBAPIError,
                path_info="/(broken|leave)",
            ),
        )
    )
    yield under
    under.world.close()


@pytest.fixture(name="under")
def _under(house):
    """The application; no test may leave anything behind in it."""
    yield house
    world = house.world
    assert 0 == world.checked_out()
    world.execute(world.table.delete())
    world.execute(world.Item.__table__.delete())


def look(browser):
    """Return the content of a browser's session."""
    return browser.get("/get").json


def test_repoze_commits(under):
    """P4: what it commits is kept, the application's data and ours."""
    browser, _ = under.signed_in()
    browser.get("/order")
    assert {"a": "2"} == look(browser)
    assert ["order"] == under.world.items()


def test_repoze_commit_fails(under):
    """P4: joined, a session is not changed if its COMMIT fails."""
    browser, token = under.signed_in()
    browser.get("/order")
    browser.get("/set?a=3")
    with pytest.raises(IntegrityError):
        browser.get("/order")
    # The middleware leaves its transaction to the next request.
    transaction.abort()
    joined = under.world.mode == "joined"
    assert {"a": "3" if joined else "2"} == under.content(token)


def test_repoze_in_a_request_that_fails(under, caplog):
    """P4: nothing is kept, no cookie is sent, and a warning says so."""
    browser = under.browser()
    with pytest.raises(RuntimeError, match="boom"):
        browser.get("/order?how=raise")
    assert ([], []) == (under.world.items(), under.world.rows())
    assert {} == dict(browser.cookies)
    assert "('a') were discarded" in caplog.text


def test_repoze_and_a_raised_redirect(under, caplog):
    """pyramid_tm's rule holds: a raised response discards the change."""
    browser, _ = under.signed_in()
    browser.get("/change?how=redirect")
    assert {"a": "1"} == look(browser)
    assert "('a') were discarded" in caplog.text


@pytest.mark.parametrize("how", ["veto", "doom"])
def test_repoze_aborts_behind_the_answer(under, how):
    """P4: joined, what it aborts is not kept."""
    browser, _ = under.signed_in()
    browser.get(f"/order?how={how}", status="*")
    assert [] == under.world.items()
    joined = under.world.mode == "joined"
    assert {"a": "1" if joined else "2"} == look(browser)


@pytest.mark.parametrize("how", ["veto", "doom"])
def test_repoze_aborts_a_new_session(under, how):
    """A cookie without a row may be left: it is nobody's session."""
    browser = under.browser()
    browser.get(f"/change?how={how}", status="*")
    joined = under.world.mode == "joined"
    assert (0 if joined else 1) == len(under.world.rows())
    assert ({} if joined else {"a": "2"}) == look(browser)
    browser.get("/set?a=3")
    assert {"a": "3"} == look(browser)


@pytest.mark.parametrize(
    "how", ["", "redirect", "raise", "veto", "doom", "clash", "flush"]
)
def test_p4_a_logout_under_repoze(under, how):
    """P4: a logout is a logout, whatever the middleware does behind it."""
    browser, token = under.signed_in()
    errors = {"raise": RuntimeError, "clash": IntegrityError}
    if how in errors:
        with pytest.raises(errors[how]):
            browser.get(f"/leave?how={how}")
    else:
        browser.get(f"/leave?how={how}", status="*")
    assert [] == under.world.rows()
    transaction.abort()
    assert {} == under.content(token)


def test_activity_under_repoze(under):
    """Reading counts as activity: the limit moves."""
    browser, _ = under.signed_in()
    for _ in range(3):
        under.world.clock.pass_(5000)
        assert {"a": "1"} == look(browser)


def test_the_page_about_repoze(under, outcomes, request):
    """A change and a new session, told on the page of outcomes."""
    database, mode = request.node.callspec.params["house"]
    situation = "in the view, under repoze.tm"
    browser = under.browser()
    begun = observe(under.world, browser, "/change", look)
    assert ("new", "set") == (begun.row, begun.cookie)
    outcomes("Where a session begins", situation, mode, database, begun)
    browser.get("/set?a=1")
    changed = observe(under.world, browser, "/change", look)
    assert "changed" == changed.row
    situations = "Where the session is changed", situation
    outcomes(*situations, mode, database, changed)


def test_an_explicit_manager_under_repoze(make_world, mode):
    """request.tm is not the middleware's manager: sessions still work."""
    world = make_world("postgresql", mode, explicit=True)
    under = Under(world)
    browser, token = under.signed_in()
    assert {"a": "1"} == look(browser)
    browser.get("/leave")
    assert {} == under.content(token)
    assert 0 == world.checked_out()


def test_an_exception_view_under_repoze(under):
    """After a database error the application's own page has its session."""

    @under.world.on("broken")
    def _(request):
        request.dbsession.execute(sa.text("SELECT * FROM no_such_table"))

    browser, _ = under.signed_in()
    assert {"a": "1"} == browser.get("/broken").json


def order_and_flush(under):
    """Let a view write to the application's table before the session."""

    @under.world.on("flush")
    def _(request):
        request.dbsession.add(under.world.Item(name="order"))
        request.dbsession.flush()
        request.session["a"] = "2"
        return {}


# Two connections cannot write to it at the same time.
ONE_FILE = ("sqlite", "separate")


@pytest.mark.parametrize(
    "house",
    [place for place in PLACES if place != ONE_FILE],
    indirect=True,
    ids="-".join,
)
def test_a_session_behind_the_apps_own_write(under):
    """The application has flushed its data: nobody waits for a lock.

    But for one SQLite file, see the next test.
    """
    order_and_flush(under)
    browser, _ = under.signed_in()
    browser.get("/flush")
    assert {"a": "2"} == look(browser)
    assert ["order"] == under.world.items()


def test_one_file_and_two_engines(make_world):
    """Separate mode on the application's own SQLite file: a clear error."""
    settings = {"limitedsession.lock_timeout": "1s"}
    world = make_world(mode="separate", explicit=False, settings=settings)
    under = Under(world)
    order_and_flush(under)
    browser, _ = under.signed_in()
    with pytest.raises(SessionError, match="try again"):
        browser.get("/flush")
    assert {"a": "1"} == look(browser)
    assert [] == world.items()
