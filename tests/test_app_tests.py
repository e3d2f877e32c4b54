"""What an application's own tests do: sessions without HTTP."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sqlalchemy as sa
import transaction
import zope.sqlalchemy
from pyramid import testing
from pyramid.interfaces import ISession, ISessionFactory
from pyramid.testing import DummyRequest
from sqlalchemy.orm import sessionmaker
from webtest import TestApp
from zope.interface.verify import verifyObject

from pyramid_limitedsession import SessionOverflowError, SessionValueError
from pyramid_limitedsession.memory import MemoryStore
from pyramid_limitedsession.testing import (
    SessionContract,
    Visitor,
    memory_store,
)
from tests.matrix import names_in

ROOT = Path(__file__).parent.parent
IN_MEMORY = {"limitedsession.store": memory_store}


def add_views(world):
    """Let the application show, change and end the session."""

    @world.on("look")
    def _(request):
        return dict(request.session)

    @world.on("put")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("logout")
    def _(request):
        request.session.invalidate()
        return {}

    @world.on("form")
    def _(request):
        request.session.get_csrf_token()
        return {}

    return world


PLACES = {
    "joined": {"mode": "joined"},
    "joined, with pyramid_tm's default manager": {
        "mode": "joined",
        "explicit": False,
    },
    "joined, on a database in memory": {
        "database": "memory",
        "mode": "joined",
        "engine": {
            "poolclass": sa.pool.StaticPool,
            "connect_args": {"check_same_thread": False},
        },
    },
    "separate": {"mode": "separate"},
    "memory": {"mode": "joined", "settings": IN_MEMORY},
}


@pytest.fixture(name="site", params=PLACES)
def _site(request, make_world):
    """An application in each mode, and with a store in memory."""
    return add_views(make_world(**PLACES[request.param]))


@pytest.fixture(name="visitor")
def _visitor(site):
    return Visitor(site.browser())


@pytest.fixture(name="testapp")
def _testapp(visitor):
    return visitor._testapp


# -- with a TestApp ----------------------------------------------------


def test_the_next_request_finds_what_a_test_has_put_in(visitor, testapp):
    """A new session, with a cookie in the TestApp's jar."""
    with visitor.session() as session:
        session["cart"] = [1]
    assert "session" in testapp.cookies
    assert {"cart": [1]} == testapp.get("/look").json


def test_a_test_finds_what_requests_have_stored(visitor, testapp):
    """And changes it, also in place; the token stays."""
    testapp.get("/put?a=1")
    token = testapp.cookies["session"]
    with visitor.session() as session:
        assert {"a": "1"} == dict(session)
        session["a"] = ["2"]
    with visitor.session() as session:
        session["a"].append("3")
    assert {"a": ["2", "3"]} == testapp.get("/look").json
    assert token == testapp.cookies["session"]


def test_reading_changes_nothing(visitor, testapp, site):
    """A visitor without a session still has none; nobody's activity moves."""
    with visitor.session() as session:
        assert {} == dict(session)
    assert "session" not in testapp.cookies
    testapp.get("/put?a=1")
    site.clock.pass_(7200)
    with visitor.session() as session:
        assert {"a": "1"} == dict(session)
    site.clock.pass_(60)
    assert {} == testapp.get("/look").json


def test_nothing_is_stored_if_the_block_fails(visitor, testapp):
    """What the test raises is raised, and there is no cookie."""

    class Failed(Exception):
        """The test."""

    def fail():
        with visitor.session() as session:
            session["a"] = 1
            raise Failed

    with pytest.raises(Failed):
        fail()
    assert "session" not in testapp.cookies
    with visitor.session() as session:
        assert {} == dict(session)


@pytest.mark.parametrize(
    ("value", "error"),
    [({1}, SessionValueError), ("x" * 70_000, SessionOverflowError)],
)
def test_what_cannot_be_stored_is_raised(visitor, testapp, value, error):
    """As in the application, and not only logged."""
    with pytest.raises(error), visitor.session() as session:
        session["a"] = value
    assert "session" not in testapp.cookies


def test_a_session_is_ended_and_rotated(visitor, testapp):
    """The jar follows: another token, and none."""
    testapp.get("/put?a=1")
    first = testapp.cookies["session"]
    with visitor.session() as session:
        session.rotate()
    assert first != testapp.cookies["session"]
    assert {"a": "1"} == testapp.get("/look").json
    with visitor.session() as session:
        session.invalidate()
    assert "session" not in testapp.cookies
    assert {} == testapp.get("/look").json


def test_why_a_session_is_over(visitor, testapp, site):
    """What was ended by a request, or by a limit."""
    testapp.get("/put?a=1")
    token = testapp.cookies["session"]
    site.clock.pass_(10_000)
    with visitor.session() as session:
        assert session.ended == "idle"
    testapp.get("/logout")
    testapp.set_cookie("session", token)
    with visitor.session() as session:
        assert {} == dict(session)


def test_flash_messages_and_the_csrf_token(visitor, testapp):
    """A test reads what a page would show, and what a form would send."""
    testapp.get("/form")
    with visitor.session() as session:
        token = session.get_csrf_token()
        session.flash("hello")
    found = testapp.get("/look").json
    assert {"_csrft_": token, "_f_": ["hello"]} == found


def test_who_signs_in(visitor, testapp, site):
    """The user's sessions are listed and revoked, as he had signed in."""
    with visitor.session() as session:
        session["auth.userid"] = "ann"

    @site.on("others")
    def _(request):
        return len(request.user_sessions.list("ann"))

    assert 1 == testapp.get("/others").json


def test_two_visitors(site):
    """Each has his own session."""
    ann, bob = (Visitor(site.browser()) for _ in range(2))
    for visitor, name in ((ann, "ann"), (bob, "bob")):
        with visitor.session() as session:
            session["name"] = name
    with ann.session() as session:
        assert session["name"] == "ann"


def test_a_request_inside_of_the_block(visitor, testapp):
    """What it stores meanwhile is merged, as of two requests at once."""
    testapp.get("/put?a=1")
    with visitor.session() as session:
        session["b"] = "2"
        testapp.get("/put?c=3")
    assert {"a": "1", "b": "2", "c": "3"} == testapp.get("/look").json


def test_no_connection_is_left_open(visitor, site):
    """Neither of ours nor of the application's."""
    for _ in range(3):
        with visitor.session() as session:
            session["a"] = len(session)
    assert 0 == site.checked_out()


# -- without a TestApp -------------------------------------------------


def test_an_application_without_webtest(site):
    """The visitor keeps the cookie; a request of any kind can have it."""
    visitor = Visitor(site.app)
    assert {} == visitor.headers
    with visitor.session() as session:
        session["a"] = 1
    browser = TestApp(site.app)
    assert {"a": 1} == browser.get("/look", headers=visitor.headers).json
    with visitor.session() as session:
        assert {"a": 1} == dict(session)
        session.invalidate()
    assert {} == visitor.cookies


def test_a_cookie_of_another_path_and_scheme(make_world):
    """A jar gives a cookie only to whom it belongs."""
    world = make_world(
        settings={
            "limitedsession.cookie_path": "/shop",
            "limitedsession.cookie_secure": "true",
        }
    )
    testapp = world.browser(**{"wsgi.url_scheme": "https"})
    visitor = Visitor(testapp)
    for expected in ({}, {"a": 1}):
        with visitor.session() as session:
            assert expected == dict(session)
            session["a"] = 1
    assert [("/shop", True)] == [
        (cookie.path, cookie.secure) for cookie in testapp.cookiejar
    ]


class Middleware:
    """What stands in front of an application."""

    def __init__(self, application):
        self.application = application

    def __call__(self, environ, start_response):
        return self.application(environ, start_response)


def test_an_application_in_a_middleware(site):
    """It is found inside."""
    testapp = TestApp(Middleware(Middleware(site.app)))
    with Visitor(testapp).session() as session:
        session["a"] = 1
    assert {"a": 1} == testapp.get("/look").json


def test_what_is_no_application_is_told():
    """Not an AttributeError somewhere inside."""
    with pytest.raises(TypeError, match="no application that includes"):
        Visitor(object())


# -- in a transaction of the tests' own --------------------------------


@pytest.fixture(name="doomed", params=["joined", "separate", "memory"])
def _doomed(request, make_world):
    """A TestApp as the cookiecutter's fixtures make it, and its world.

    All requests are in one transaction, which is never committed.
    """
    mode = request.param
    world = make_world(
        "postgresql" if mode == "joined" else "sqlite",
        "separate" if mode == "separate" else "joined",
        settings=IN_MEMORY if mode == "memory" else {},
    )
    add_views(world)
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    dbsession = sessionmaker(world.engine)()
    zope.sqlalchemy.register(dbsession, transaction_manager=tm)
    yield (
        world,
        world.browser(
            **{
                "HTTP_HOST": "example.com",
                "tm.active": True,
                "tm.manager": tm,
                "app.dbsession": dbsession,
            }
        ),
    )
    tm.abort()
    dbsession.close()


def test_sessions_of_a_doomed_transaction(doomed):
    """Requests and the test see each other's changes in it."""
    _, testapp = doomed
    visitor = Visitor(testapp)
    with visitor.session() as session:
        session["a"] = 1
    assert {"a": 1} == testapp.get("/look").json
    testapp.get("/put?b=2")
    with visitor.session() as session:
        assert {"a": 1, "b": "2"} == dict(session)
        session.rotate()
    assert {"a": 1, "b": "2"} == testapp.get("/look").json
    testapp.get("/logout")
    with visitor.session() as session:
        assert {} == dict(session)


def test_what_is_left_of_a_doomed_transaction(doomed):
    """Joined, nothing is committed; otherwise sessions are stored."""
    world, testapp = doomed
    with Visitor(testapp).session() as session:
        session["a"] = 1
    if isinstance(world.store, MemoryStore):
        assert 1 == len(world.store)
    elif world.mode == "joined":
        assert [] == world.rows()
    else:
        assert 1 == len(world.rows())


# -- DummyRequest ------------------------------------------------------


@pytest.fixture(name="dummy_config")
def _dummy_config():
    """What many applications' unit tests of views begin with."""
    settings = {"limitedsession.store": memory_store}
    with testing.testConfig(settings=settings) as config:
        config.include("pyramid_limitedsession")
        yield config


def session_of(config, request):
    """Return the session of a dummy request, as the application's."""
    return config.registry.getUtility(ISessionFactory)(request)


def test_a_dummy_request_has_a_session(dummy_config):
    """All of it works: content, flash, CSRF, and its life."""
    session = session_of(dummy_config, DummyRequest())
    assert verifyObject(ISession, session)
    assert session.new
    session["a"] = [1]
    session["a"].append(2)
    session.flash("hello")
    assert ["hello"] == session.pop_flash()
    assert session.get_csrf_token() == session.get_csrf_token()
    session.rotate()
    assert 7200 == session.time_left.idle
    session.invalidate()
    session.use_profile(None)
    assert {} == dict(session)


def test_the_session_of_a_dummy_request_is_one(dummy_config):
    """Asked for twice it is the same content."""
    request = DummyRequest()
    session_of(dummy_config, request)["a"] = 1
    assert {"a": 1} == dict(session_of(dummy_config, request))


@pytest.mark.parametrize("mode", ["joined", "separate"])
def test_a_dummy_request_with_a_dbsession(make_world, mode):
    """As the cookiecutter's ``dummy_request`` has one, and a ``tm``."""
    world = make_world(mode=mode)
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    dbsession = world.session_factory()
    zope.sqlalchemy.register(dbsession, transaction_manager=tm)
    request = DummyRequest(dbsession=dbsession, tm=tm)
    request.host = "example.com"
    request.registry = world.app.registry
    session = session_of(world.app, request)
    session["a"] = 1
    assert {"a": 1} == dict(session)
    tm.abort()
    dbsession.close()
    assert [] == world.rows()


def test_a_dummy_request_presents_a_token(site):
    """It finds the session of a visitor, by its cookie."""
    visitor = Visitor(site.app)
    with visitor.session() as session:
        session["a"] = 1
    request = DummyRequest(cookies=visitor.cookies)
    request.registry = site.app.registry
    if site.mode == "joined":
        request.dbsession = site.session_factory()
    assert {"a": 1} == dict(session_of(site.app, request))


def test_a_dummy_request_is_saved_by_its_callbacks(dummy_config):
    """With a response for them, as a router would."""
    request = DummyRequest()
    session_of(dummy_config, request)["a"] = 1
    response = request.response
    request._process_response_callbacks(response)
    request._process_finished_callbacks()
    (cookie,) = response.headers.getall("Set-Cookie")
    token = re.match("session=([^;]+)", cookie)[1]
    later = DummyRequest(cookies={"session": token})
    assert {"a": 1} == dict(session_of(dummy_config, later))


# -- the documentation -------------------------------------------------

MYAPP = """
from pyramid.config import Configurator
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.response import Response
from pyramid_limitedsession.testing import memory_store


def cart(request):
    if request.method == "POST":
        request.session.setdefault("cart", []).append(request.POST["add"])
    return Response(", ".join(request.session.get("cart", [])))


def account(request):
    return Response(request.session["auth.userid"])


def main(global_config, **settings):
    settings.setdefault("limitedsession.store", memory_store)
    with Configurator(settings=settings) as config:
        config.include("pyramid_limitedsession")
        config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
        config.add_route("cart", "/cart")
        config.add_view(cart, route_name="cart")
        config.add_route("account", "/account")
        config.add_view(account, route_name="account", require_csrf=True)
        return config.make_wsgi_app()
"""
FIXTURES = """
import webtest

from myapp import main


@pytest.fixture(scope="session")
def app():
    return main({})


@pytest.fixture
def testapp(app):
    return webtest.TestApp(app)
"""


def test_what_the_documentation_shows(tmp_path):
    """Each block of Python of both pages is in a file, and its tests pass."""
    files = {"myapp.py": MYAPP}
    for page in ("testing", "stores"):
        text = (ROOT / "docs" / f"{page}.rst").read_text(encoding="utf-8")
        found = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", text)
        for block in map(textwrap.dedent, found):
            name = re.match(r"# (\S+\.py)\n", block)[1]
            files[name] = files.get(name, "") + block
    files["conftest.py"] += FIXTURES
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "pytest", "-q"),
            *("-p", "no:cacheprovider", "-p", "no:xdist", "."),
            # All of them are run elsewhere.
            *("-k", "not TestStore or test_an_absent_key"),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'docs' / 'examples'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    expected = 1 + len(names_in(SessionContract)) + 5
    assert f"{expected} passed" in done.stdout


def test_nothing_is_needed_to_import_it():
    """A wheel in an environment without pytest and WebTest has it too."""
    code = (
        "import sys; sys.modules.update(pytest=None, webtest=None); "
        "import pyramid_limitedsession.testing"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        cwd=ROOT,
        timeout=60,
    )
