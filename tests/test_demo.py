"""The demo, through its front door."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pyramid.router import Router
from webtest import TestApp

from pyramid_limitedsession.demo import LONGEST_NOTE, MOST_NOTES, main

COOKIE = "session"


@pytest.fixture
def make_demo(tmp_path: Path) -> Iterator[Callable[..., Router]]:
    """Make the demo with its sessions in a file, and with settings."""
    apps = []

    def make(**settings: str) -> Router:
        given = {f"limitedsession.{key}": settings[key] for key in settings}
        url = f"sqlite:///{tmp_path / 'demo.sqlite'}"
        app = main({}, **{"limitedsession.sqlalchemy.url": url, **given})
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.registry["pyramid_limitedsession"].store.engine.dispose()


@pytest.fixture
def demo(make_demo: Callable[..., Router]) -> Router:
    """Return the demo with short limits."""
    return make_demo(idle_timeout="5m", absolute_timeout="1h")


@pytest.fixture
def browser(demo: Router) -> TestApp:
    """Return a visitor who has not been there before."""
    return TestApp(demo)


def rows(demo: Router) -> int:
    """Return how many sessions are stored."""
    engine = demo.registry["pyramid_limitedsession"].store.engine
    with engine.connect() as connection:
        query = sa.text("SELECT count(*) FROM sessions")
        return int(connection.execute(query).scalar_one())


def log_in(browser: TestApp, name: str) -> Any:
    """Log in as a visitor does; return the page that follows."""
    form = browser.get("/start").forms["login"]
    form["name"] = name
    return form.submit().follow()


def add_note(browser: TestApp, note: str) -> Any:
    """Add a note as a visitor does; return the page that follows."""
    form = browser.get("/start").forms["notes"]
    form["note"] = note
    return form.submit().follow()


def csrf_token(page: Any) -> str:
    """Return what the page's JavaScript sends."""
    return str(page.html.find("meta", {"name": "csrf-token"})["content"])


def test_reading_makes_no_session(demo: Router, browser: TestApp) -> None:
    """The home page makes no row and sets no cookie."""
    page = browser.get("/")
    assert "You have none." in page
    assert "Set-Cookie" not in page.headers
    assert rows(demo) == 0


def test_forms_make_a_session(demo: Router, browser: TestApp) -> None:
    """Showing the forms makes one row, which later pages use."""
    assert "its row is written with this answer" in browser.get("/start")
    assert "its row was there before" in browser.get("/")
    assert rows(demo) == 1


def test_the_page_has_its_style_and_script(browser: TestApp) -> None:
    """What the page links to is there, and comes from nowhere else."""
    page = browser.get("/start")
    script = page.html.find("script")["src"]
    style = page.html.find("link", {"rel": "stylesheet"})["href"]
    assert browser.get(script).content_type.endswith("/javascript")
    assert browser.get(style).content_type == "text/css"


def test_pages_are_not_stored(browser: TestApp) -> None:
    """No cache keeps a page, so that "back" after a logout shows none."""
    for path in "/", "/start", "/totals":
        assert "no-store" in browser.get(path).headers["Cache-Control"]


def test_login_sets_a_cookie(browser: TestApp) -> None:
    """Who logs in is greeted by name, and has a cookie."""
    page = log_in(browser, "Ada")
    assert "Hello, Ada." in page
    assert COOKIE in browser.cookies
    assert "logout" in page.forms


def test_login_changes_the_token(demo: Router, browser: TestApp) -> None:
    """The cookie from before the login is not logged in by it."""
    browser.get("/start")
    before = browser.cookies[COOKIE]
    log_in(browser, "Ada")
    assert browser.cookies[COOKIE] != before
    thief = TestApp(demo)
    thief.set_cookie(COOKIE, before)
    assert "Ada" not in thief.get("/")
    assert rows(demo) == 1


def test_login_changes_the_csrf_token(browser: TestApp) -> None:
    """The CSRF token from before the login is refused after it."""
    before = csrf_token(browser.get("/start"))
    page = log_in(browser, "Ada")
    assert csrf_token(page) != before
    headers = {"X-CSRF-Token": before}
    page = browser.post("/clear", headers=headers, status=400)
    assert "That form was refused." in page


def test_login_keeps_the_age(demo: Router, browser: TestApp) -> None:
    """A session is as old after the login as it was before."""
    factory = demo.registry["pyramid_limitedsession"]
    begun = factory.clock()
    factory.clock = lambda: begun
    browser.get("/start")
    factory.clock = lambda: begun + 100
    page = log_in(browser, "Ada")
    assert page.html.find(id="age")["data-seconds"] == "100"


def test_login_wants_a_name(browser: TestApp) -> None:
    """A login without a name is none, and the page says so."""
    page = log_in(browser, "  ")
    assert "Please give a name." in page
    assert "login" in page.forms


def test_names_are_escaped(browser: TestApp) -> None:
    """A name is shown as text, whatever it contains."""
    page = log_in(browser, "<script>alert(1)</script>")
    assert "<script>alert" not in page.text
    assert "Hello, &lt;script&gt;alert(1)&lt;/script&gt;." in page.text


def test_notes_are_kept_and_escaped(browser: TestApp) -> None:
    """All notes are shown, in order and as text."""
    add_note(browser, "first")
    page = add_note(browser, "<script>alert(1)</script>")
    notes = [item.text for item in page.html.find(id="list").find_all("li")]
    assert notes == ["first", "<script>alert(1)</script>"]
    assert "<script>alert" not in page.text


def test_notes_are_bounded(browser: TestApp) -> None:
    """The session cannot grow for ever: the oldest notes go."""
    for number in range(MOST_NOTES + 1):
        page = add_note(browser, f"{number} " + "x" * 2 * LONGEST_NOTE)
    notes = [item.text for item in page.html.find(id="list").find_all("li")]
    assert len(notes) == MOST_NOTES
    assert notes[0].startswith("1 ")
    assert {len(note) for note in notes} == {LONGEST_NOTE}


def test_an_empty_note_is_not_added(browser: TestApp) -> None:
    """A note of blanks is refused, and the page says so."""
    page = add_note(browser, " ")
    assert "Please write something." in page
    assert page.html.find(id="list") is None


def test_notes_can_be_cleared(browser: TestApp) -> None:
    """Clearing removes the notes and nothing else."""
    log_in(browser, "Ada")
    page = add_note(browser, "first").forms["clear"].submit().follow()
    assert page.html.find(id="list") is None
    assert "logout" in page.forms


def test_messages_are_shown_once(browser: TestApp) -> None:
    """A flash message is on one page only."""
    assert "Your note is in the session." in add_note(browser, "first")
    assert "Your note is in the session." not in browser.get("/")


def test_logout_ends_the_session(demo: Router, browser: TestApp) -> None:
    """After a logout, which raises, the old cookie opens nothing."""
    page = log_in(browser, "Ada")
    old = browser.cookies[COOKIE]
    page = page.forms["logout"].submit().follow()
    assert "You are logged out." in page
    assert COOKIE not in browser.cookies
    assert rows(demo) == 0
    thief = TestApp(demo)
    thief.set_cookie(COOKIE, old)
    assert "Ada" not in thief.get("/")


def test_logged_out_is_not_said_to_others(browser: TestApp) -> None:
    """Who has a session is not told to be logged out by an address."""
    log_in(browser, "Ada")
    assert "You are logged out." not in browser.get("/?out=1")


@pytest.mark.parametrize(
    ("seconds", "sentence"),
    [
        (600, "not used for 5 minutes"),
        (3600, "was 1 hour old"),
    ],
)
def test_the_page_says_why(
    demo: Router, browser: TestApp, seconds: int, sentence: str
) -> None:
    """Whoever comes back too late is told once why the session ended."""
    log_in(browser, "Ada")
    factory = demo.registry["pyramid_limitedsession"]
    later = factory.clock() + seconds
    factory.clock = lambda: later
    page = browser.get("/")
    assert sentence in " ".join(page.html.text.split())
    assert "You were signed out" not in browser.get("/")


def test_an_unreadable_session_is_told(demo: Router, browser: TestApp) -> None:
    """A row that cannot be read gives a page, and a sentence on it."""
    log_in(browser, "Ada")
    engine = demo.registry["pyramid_limitedsession"].store.engine
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE sessions SET data = '{'"))
    assert "Your session could not be read." in browser.get("/")


def test_a_form_of_an_ended_session(demo: Router, browser: TestApp) -> None:
    """A form that is sent too late is refused with the reason."""
    form = log_in(browser, "Ada").forms["notes"]
    factory = demo.registry["pyramid_limitedsession"]
    later = factory.clock() + 600
    factory.clock = lambda: later
    form["note"] = "too late"
    page = form.submit(status=400)
    assert "That form was refused." in page
    assert "You were signed out because you were" in page
    assert "notes" not in page.forms


def test_posts_need_a_csrf_token(browser: TestApp) -> None:
    """Nothing can be changed without the token."""
    browser.get("/start")
    for path in "/login", "/logout", "/notes", "/clear", "/increment/0":
        browser.post(path, status=400)
    assert browser.get("/totals").json["total"] == 0


@pytest.mark.parametrize("path", ["/login", "/logout", "/increment/0"])
def test_changes_are_posts(browser: TestApp, path: str) -> None:
    """A link changes nothing."""
    browser.get("/start")
    browser.get(path, status=404)


def test_there_are_eight_chains(browser: TestApp) -> None:
    """A ninth counter cannot be made up."""
    headers = {"X-CSRF-Token": csrf_token(browser.get("/start"))}
    browser.post("/increment/7", headers=headers)
    browser.post("/increment/8", headers=headers, status=404)


def test_parallel_increments_are_all_kept(
    demo: Router, browser: TestApp
) -> None:
    """Eight threads with five increments each make forty."""
    headers = {"X-CSRF-Token": csrf_token(browser.get("/start"))}
    token = browser.cookies[COOKIE]
    ready = threading.Barrier(8)

    def count(chain: int) -> None:
        own = TestApp(demo)
        own.set_cookie(COOKIE, token)
        ready.wait()
        for _ in range(5):
            own.post(f"/increment/{chain}", headers=headers)

    threads = [threading.Thread(target=count, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert browser.get("/totals").json["total"] == 40


def test_totals_say_what_is_left(browser: TestApp) -> None:
    """The page's countdown can be set anew from the totals."""
    browser.get("/start")
    assert browser.get("/totals").json == {"total": 0, "expires_in": 300}


def test_limits_can_be_off(make_demo: Callable[..., Router]) -> None:
    """Without limits the page says that the session never ends."""
    demo = make_demo(idle_timeout="none")
    page = TestApp(demo).get("/start")
    assert "never: both limits are off" in page
    assert page.html.find(id="left") is None


def test_the_file_is_named(browser: TestApp, tmp_path: Path) -> None:
    """The page shows how to look at the row, but neither token nor key."""
    page = log_in(browser, "Ada")
    assert f"sqlite3 -line {tmp_path / 'demo.sqlite'} " in page.html.text
    assert browser.cookies[COOKIE] not in page
