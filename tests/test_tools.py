"""Pyramid's own tools: scripts, pshell and the debug toolbar."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyramid.paster import bootstrap
from pyramid.response import Response
from pyramid.scripting import prepare

from tests.apps import cookie_of
from tests.places import HOUSES, add_views, make_house

ROOT = Path(__file__).parent.parent
CANARY = "canary-3b1d"


# -- scripts -----------------------------------------------------------


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    return add_views(make_world(database, mode))


@pytest.fixture(name="small")
def _small(make_world, mode):
    """A world on SQLite, for what depends on no database."""
    return add_views(make_world(mode=mode))


@pytest.fixture(name="ini")
def _ini(tmp_path):
    """Return a function that writes an ini file for a world's table."""

    def write(world, *lines):
        joined = world.mode == "joined"
        key = "app.url" if joined else "limitedsession.sqlalchemy.url"
        path = tmp_path / "app.ini"
        text = [
            "[app:main]",
            "use = call:tests.ini_app:main",
            f"app.now = {world.clock.now}",
            "limitedsession.self_clean = 0",
            f"limitedsession.table_name = {world.table.name}",
            f"{key} = {world.url}",
            *lines,
        ]
        path.write_text("\n".join(text))
        return str(path)

    return write


def visitor(world):
    """Return a browser that has a session."""
    browser = world.browser()
    browser.get("/set?a=1")
    return browser


def look(browser):
    """Return the content of a browser's session."""
    return browser.get("/get").json


class Script:
    """A script that is started from an ini file, with a visitor's token."""

    def __init__(self, path, browser):
        self._env = bootstrap(path)
        self.request = self._env["request"]
        self.request.cookies["session"] = browser.cookies["session"]

    def __enter__(self):
        return self.request

    def __exit__(self, *error):
        self._env.__exit__(*error)
        factory = self._env["registry"]["pyramid_limitedsession"]
        engines = {factory.store_for(self.request).engine}
        if factory.store is None:
            engines.add(self.request.dbsession.get_bind(clause=None))
        for engine in engines:
            assert 0 == getattr(engine.pool, "checkedout", lambda: 0)()
            engine.dispose()


EXPLICIT = "tm.manager_hook = pyramid_tm.explicit_manager"
HOOKS = pytest.mark.parametrize("hook", ["", EXPLICIT])


@HOOKS
def test_a_script_reads_before_a_transaction(world, ini, hook):
    """With bootstrap a session is read though request.tm has not begun."""
    browser = visitor(world)
    with Script(ini(world, hook), browser) as request:
        assert {"a": "1"} == dict(request.session)
    assert 1 == len(world.rows())


def test_a_script_commits(world, ini):
    """A change inside ``with request.tm`` is saved with it."""
    browser = visitor(world)
    with Script(ini(world, EXPLICIT), browser) as request, request.tm:
        request.session["b"] = 2
    assert {"a": "1", "b": 2} == look(browser)


def test_a_script_without_a_transaction(world, ini):
    """A change without any transaction is saved when the script ends."""
    browser = visitor(world)
    with Script(ini(world, EXPLICIT), browser) as request:
        request.session["b"] = 2
    assert {"a": "1", "b": 2} == look(browser)


@HOOKS
def test_a_script_that_fails_in_its_transaction(small, ini, hook, caplog):
    """P4: nothing is kept, and a warning names the keys."""
    browser = visitor(small)

    def script():
        with Script(ini(small, hook), browser) as request, request.tm:
            request.session["b"] = 2
            raise RuntimeError("script")

    with pytest.raises(RuntimeError, match="script"):
        script()
    assert {"a": "1"} == look(browser)
    assert "('b') were discarded" in caplog.text


def unfinished(world, browser, act):
    """Do something in a transaction that nobody commits or aborts."""
    with prepare(registry=world.app.registry) as env:
        request = env["request"]
        request.cookies["session"] = browser.cookies["session"]
        request.tm.begin()
        act(request.session)


def test_a_script_that_forgets_to_commit_is_told(small, caplog):
    """P2: what is not saved for want of a commit is told."""
    browser = visitor(small)
    unfinished(small, browser, lambda session: session.update(b=2))
    assert {"a": "1"} == look(browser)
    assert "WARNING" in caplog.text


def test_a_script_that_forgets_to_commit_its_reading(small, caplog):
    """Who only read needs no commit, and is told nothing."""
    browser = visitor(small)
    unfinished(small, browser, dict)
    assert "WARNING" not in caplog.text


def test_a_script_inside_an_exception_handler(small, caplog):
    """A script that handles an error and succeeds is saved."""
    browser = visitor(small)
    try:
        raise LookupError
    except LookupError:
        with prepare(registry=small.app.registry) as env:
            request = env["request"]
            request.cookies["session"] = browser.cookies["session"]
            request.session["b"] = 2
    assert {"a": "1", "b": 2} == look(browser)


# -- pshell ------------------------------------------------------------


def setup_pshell(env):
    """Begin a transaction, as the official cookiecutter's pshell does."""
    env["request"].tm.begin()


def pshell(path, code):
    """Type code into a real pshell; return what it shows."""
    done = subprocess.run(
        [sys.executable, "-m", "pyramid.scripts.pshell", path, "-p", "python"],
        input=code,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""},
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("database", "mode"), [("sqlite", "separate"), ("postgresql", "joined")]
)
def test_pshell(world, ini):
    """A session can be read and changed in a real pshell."""
    browser = visitor(world)
    shown = pshell(
        ini(world),
        f"request.cookies['session'] = '{browser.cookies['session']}'\n"
        "print('found', dict(request.session))\n"
        "request.session['b'] = 2\n",
    )
    assert "found {'a': '1'}" in shown
    assert {"a": "1", "b": 2} == look(browser)


@pytest.mark.parametrize("mode", ["joined"])
def test_pshell_with_a_transaction(small, ini):
    """Where its setup begins a transaction, a commit saves the change."""
    browser = visitor(small)
    setup = ("[pshell]", "setup = tests.test_tools.setup_pshell")
    shown = pshell(
        ini(small, EXPLICIT, *setup),
        f"request.cookies['session'] = '{browser.cookies['session']}'\n"
        "print('found', dict(request.session))\n"
        "request.session['b'] = 2\n"
        "request.tm.commit()\n",
    )
    assert "found {'a': '1'}" in shown
    assert {"a": "1", "b": 2} == look(browser)


# -- the debug toolbar -------------------------------------------------


@pytest.fixture(scope="module", name="house", params=HOUSES, ids="-".join)
def _house(request, databases):
    """One application with the toolbar for all its tests."""
    world = make_house(
        databases,
        request.param,
        settings={"pyramid.includes": "pyramid_debugtoolbar"},
    )
    world.views |= {
        "page": page,
        "look": lambda request: page(request, dict(request.session)),
        "change": change,
        "fail": fail,
    }
    yield world
    world.close()


@pytest.fixture(name="site")
def _site(house):
    """The application; no test may leave anything behind in it."""
    yield house
    assert 0 == house.checked_out()
    house.execute(house.table.delete())


@pytest.fixture(name="is_on", params=[True, False], ids=["on", "off"])
def _is_on(request):
    """Whether the developer has switched the session panel on."""
    return request.param


@pytest.fixture(name="browser")
def _browser(site, is_on):
    """The browser of a developer, without a session."""
    browser = site.browser(REMOTE_ADDR="127.0.0.1")
    if is_on:
        browser.set_cookie("pdtb_active", "session")
    return browser


def page(request, content=""):
    """Return a page that the toolbar puts its button on."""
    return Response(f"<html><body>{content}</body></html>")


def change(request):
    """Put something into the session."""
    request.session["c"] = CANARY
    return page(request)


def fail(request):
    """Change and fail; the toolbar shows the error."""
    change(request)
    raise RuntimeError("boom")


def panels(site, browser, *names):
    """Return what panels show of the last request."""
    identifier = site.app.registry.pdtb_history[0][0]
    shown = browser.get(f"/_debug_toolbar/{identifier}").html
    return [
        str(shown.select_one(f"#pDebugPanel-{name}-content")) for name in names
    ]


def test_pages_with_the_toolbar_work(site, browser):
    """Twenty pages and a logout are as ever, and leave no connection."""
    for number in range(10):
        browser.get(f"/set?n={number}")
        assert f"{{'n': '{number}'}}" in browser.get("/look").text
    assert 0 == site.checked_out()
    site.views["out"] = lambda request: request.session.invalidate()
    browser.get("/out")
    assert [] == site.rows()


def test_p5_the_panel_begins_no_session(site, browser):
    """P5: a visitor without a session gets none from being watched."""
    for _ in range(3):
        assert [] == cookie_of(browser.get("/page"))
    assert [] == site.rows()


def test_what_the_panel_counts_as_a_look(site, browser, is_on):
    """Switched off it looks at nothing; switched on at every page.

    Its look is one through request.session before and behind the page,
    which nobody can tell from one of the application's own tweens.
    """
    browser.get("/set?a=1")
    site.clock.pass_(4000)
    site.count()
    response = browser.get("/page")
    verbs = ["SELECT", "UPDATE"] if is_on else []
    assert verbs == site.count()
    assert ("Cookie" if is_on else None) == response.headers.get("Vary")


def test_p4_an_error_that_the_toolbar_shows(site, browser):
    """P4: its page for an error saves nothing and sends no cookie."""
    assert [] == cookie_of(browser.get("/fail", status=500))
    assert [] == site.rows()
    browser.get("/set?a=1")
    browser.get("/fail", status=500)
    assert {"a": "1"} == look(browser)


@pytest.mark.parametrize("is_on", [True])
def test_p6_what_panels_show_of_ours(site, browser):
    """P6: no token and no key, and in the SQL no content.

    What the browser itself sent, its cookie, the toolbar shows elsewhere.
    """
    browser.get("/change")
    browser.get("/look")
    token = browser.cookies["session"]
    key = hashlib.sha256(token.encode()).hexdigest()
    content, sql = panels(site, browser, "session", "sqlalchemy")
    assert CANARY in content
    assert "SELECT" in sql
    assert CANARY not in sql
    for shown in (content, sql):
        assert token not in shown
        assert key[:12] not in shown
