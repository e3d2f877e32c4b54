"""The demo, through its front door."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from pyramid.paster import get_appsettings
from pyramid.router import Router
from webtest import TestApp

from pyramid_limitedsession.demo import LONGEST_NOTE, MOST_NOTES, main
from pyramid_limitedsession.events import Ended

COOKIE = "session"
INI = Path(__file__).parents[1] / "development.ini"
CHANGES = ("/login", "/logout", "/stay", "/end-others", "/increment/0")


@pytest.fixture
def make_demo(tmp_path: Path) -> Iterator[Callable[..., Router]]:
    """Make the demo with its sessions in a file, and with settings."""
    apps = []

    def make(**settings: str) -> Router:
        url = f"sqlite:///{tmp_path / 'demo.sqlite'}"
        given = {"sqlalchemy.url": url, "user_key": "name", **settings}
        app = main(
            {}, **{f"limitedsession.{key}": given[key] for key in given}
        )
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.registry["pyramid_limitedsession"].store.engine.dispose()


@pytest.fixture
def demo(make_demo: Callable[..., Router]) -> Router:
    """Return the demo with the settings of development.ini."""
    prefix = "limitedsession."
    return make_demo(
        **{
            key.removeprefix(prefix): value
            for key, value in get_appsettings(str(INI)).items()
            if key.startswith(prefix) and not key.endswith(".url")
        }
    )


@pytest.fixture
def wait(demo: Router) -> Callable[[int], None]:
    """Stop the clock; return what lets some seconds pass."""
    factory = demo.registry["pyramid_limitedsession"]
    now = factory.clock()

    def pass_by(seconds: int) -> None:
        nonlocal now
        now += seconds

    factory.clock = lambda: now
    return pass_by


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


def log_in(browser: TestApp, name: str, *, is_admin: bool = False) -> Any:
    """Log in as a visitor does; return the page that follows."""
    form = browser.get("/start").forms["login"]
    form["name"] = name
    form["is_admin"] = is_admin
    return form.submit().follow()


def add_note(browser: TestApp, note: str) -> Any:
    """Add a note as a visitor does; return the page that follows."""
    form = browser.get("/start").forms["notes"]
    form["note"] = note
    return form.submit().follow()


def left(browser: TestApp) -> dict[str, Any]:
    """Return what the page's JavaScript learns when it asks."""
    answer: dict[str, Any] = browser.get("/session-timeout").json
    return answer


def shown(page: Any) -> str:
    """Return the notices of a page as one line."""
    notices = page.html.find(attrs={"class": "notices"})
    return " ".join(notices.text.split())


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
    scripts = [script["src"] for script in page.html.find_all("script")]
    style = page.html.find("link", {"rel": "stylesheet"})["href"]
    assert len(scripts) == 2
    for script in scripts:
        assert browser.get(script).content_type.endswith("/javascript")
    assert browser.get(style).content_type == "text/css"


def test_pages_are_not_stored(browser: TestApp) -> None:
    """No cache keeps a page, so that "back" after a logout shows none."""
    for path in "/", "/start", "/totals", "/session-timeout":
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


def test_login_keeps_the_age(
    browser: TestApp, wait: Callable[[int], None]
) -> None:
    """A session is as old after the login as it was before."""
    browser.get("/start")
    wait(100)
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
        (600, "because your session was not used for so long"),
        (3600, "because your session was older than allowed"),
    ],
)
def test_the_page_says_why(
    browser: TestApp, wait: Callable[[int], None], seconds: int, sentence: str
) -> None:
    """Whoever comes back too late is told once why the session ended."""
    log_in(browser, "Ada")
    wait(seconds)
    page = browser.get("/")
    assert sentence in shown(page)
    assert "You were signed out" not in browser.get("/")


def test_an_unreadable_session_is_told(demo: Router, browser: TestApp) -> None:
    """A row that cannot be read gives a page, and a sentence on it."""
    log_in(browser, "Ada")
    engine = demo.registry["pyramid_limitedsession"].store.engine
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE sessions SET data = '{'"))
    assert "Your session could not be read." in shown(browser.get("/"))


def test_a_form_of_an_ended_session(
    browser: TestApp, wait: Callable[[int], None]
) -> None:
    """A form that is sent too late is refused with the reason."""
    form = log_in(browser, "Ada").forms["notes"]
    wait(600)
    form["note"] = "too late"
    page = form.submit(status=400)
    assert "That form was refused." in page
    assert "You were signed out because your" in shown(page)
    assert "notes" not in page.forms


def test_posts_need_a_csrf_token(browser: TestApp) -> None:
    """Nothing can be changed without the token."""
    browser.get("/start")
    for path in (*CHANGES, "/notes", "/clear"):
        browser.post(path, status=400)
    assert browser.get("/totals").json == {"total": 0}


@pytest.mark.parametrize("path", CHANGES)
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


def test_the_page_counts_both_limits_down(
    browser: TestApp, wait: Callable[[int], None]
) -> None:
    """The countdowns begin with what the limits leave to the session."""
    browser.get("/start")
    wait(100)
    page = browser.get("/")
    assert page.html.find(id="idle")["data-seconds"] == "300"
    assert page.html.find(id="absolute")["data-seconds"] == "3500"
    words = [strong.text for strong in page.html.select(".hint strong")]
    assert ["5 minutes", "1 hour"] == words[:2]


def test_polling_is_not_activity(
    browser: TestApp, wait: Callable[[int], None]
) -> None:
    """Who asks every few seconds is signed out as if he did not."""
    page = log_in(browser, "Ada")
    url = page.html.find(id="life")["data-timeout"]
    for passed in range(0, 300, 5):
        answer = {"active": True, "ended": None, "idle": 300 - passed}
        assert answer | {"absolute": 3600 - passed} == browser.get(url).json
        wait(5)
    assert browser.get(url).json["ended"] == "idle"
    assert not browser.get(url).json["active"]
    assert "was not used for so long" in shown(browser.get("/"))


def test_staying_is_activity(
    browser: TestApp, wait: Callable[[int], None]
) -> None:
    """Who wants to stay signed in has the whole idle limit again."""
    page = log_in(browser, "Ada")
    wait(299)
    assert left(browser)["idle"] == 1
    headers = {"X-CSRF-Token": csrf_token(page)}
    url = page.html.find(id="stay")["data-stay"]
    browser.post(url, headers=headers, status=204)
    assert (300, 3301) == (left(browser)["idle"], left(browser)["absolute"])


@pytest.mark.parametrize(
    ("idle", "warn_at"),
    [("none", 60), ("2h", 60), ("5m", 60), ("295s", 59), ("3s", 1)],
)
def test_the_page_knows_when_to_warn(
    make_demo: Callable[..., Router], idle: str, warn_at: int
) -> None:
    """The warning is due at a minute or a fifth of the idle limit."""
    browser = TestApp(make_demo(idle_timeout=idle, touch_interval="1s"))
    life = browser.get("/start").html.find(id="life")
    assert str(warn_at) == life["data-warn-at"]


def test_the_page_can_tell_every_end(browser: TestApp) -> None:
    """The sentences that JavaScript may show are there, and hidden."""
    over = browser.get("/start").html.find(id="over")
    told = {each["data-reason"] for each in over.find_all("p", hidden=True)}
    assert {"", *get_args(Ended)} == told
    assert over.has_attr("hidden")


def test_a_page_without_a_session_counts_nothing(browser: TestApp) -> None:
    """Who has no session is not warned of its end."""
    page = browser.get("/")
    assert page.html.find(id="life") is None
    assert page.html.find("dialog") is None


def test_administrators_have_shorter_limits(
    browser: TestApp, wait: Callable[[int], None]
) -> None:
    """The idle limit is shorter at once for who ticks the box."""
    page = log_in(browser, "Ada", is_admin=True)
    assert page.html.find(id="idle")["data-seconds"] == "60"
    assert page.html.find(id="life")["data-warn-at"] == "12"
    assert ", with the profile admin" in page
    wait(60)
    assert left(browser)["ended"] == "idle"


def test_others_keep_the_default_limits(browser: TestApp) -> None:
    """Without the tick there is no profile."""
    page = log_in(browser, "Ada")
    assert page.html.find(id="idle")["data-seconds"] == "300"
    assert "with the profile" not in page


def test_no_box_without_the_profile(make_demo: Callable[..., Router]) -> None:
    """What is not configured is not offered."""
    page = TestApp(make_demo()).get("/start")
    assert "is_admin" not in page.forms["login"].fields


def test_others_are_signed_out(demo: Router, browser: TestApp) -> None:
    """Who signs out everywhere else stays, and the others are told."""
    log_in(browser, "Ada")
    other, stranger = TestApp(demo), TestApp(demo)
    log_in(other, "Ada")
    log_in(stranger, "Grace")
    page = browser.get("/")
    assert page.html.find(id="own-sessions").text == "2"
    page = page.forms["end-others"].submit().follow()
    assert "You are signed out everywhere else." in shown(page)
    assert page.html.find(id="own-sessions").text == "1"
    assert left(other)["ended"] == "revoked"
    assert "your session was ended elsewhere" in shown(other.get("/"))
    assert left(stranger)["active"]


def test_only_who_has_a_name_ends_others(
    demo: Router, browser: TestApp
) -> None:
    """A visitor without a name has nothing to end."""
    log_in(other := TestApp(demo), "Ada")
    page = browser.get("/start")
    assert "end-others" not in page.forms
    headers = {"X-CSRF-Token": csrf_token(page)}
    page = browser.post("/end-others", headers=headers).follow()
    assert "signed out everywhere" not in shown(page)
    assert left(other)["active"]


def test_names_are_what_a_column_can_keep(browser: TestApp) -> None:
    """Control characters are taken out of a name."""
    assert "Hello, Ada." in log_in(browser, "A\0d\x1ba")


def test_limits_can_be_off(make_demo: Callable[..., Router]) -> None:
    """Without limits the page says that the session never ends."""
    demo = make_demo(idle_timeout="none")
    page = TestApp(demo).get("/start")
    assert page.text.count("never: this limit is off") == 2
    assert page.html.find(id="idle") is None
    assert page.html.find(id="absolute") is None


def test_the_file_is_named(browser: TestApp, tmp_path: Path) -> None:
    """The page shows how to look at the row, but neither token nor key."""
    page = log_in(browser, "Ada")
    assert f"sqlite3 -line {tmp_path / 'demo.sqlite'} " in page.html.text
    assert browser.cookies[COOKIE] not in page
