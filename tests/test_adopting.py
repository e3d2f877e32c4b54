"""Sessions that another factory had, brought along by ``adopt``.

The old application is a real one, with Pyramid's signed cookies,
pyramid_session_redis or pyramid_beaker; the browser then comes to the new
one, whose cookie has the same name as the old one's, or another.
"""

from __future__ import annotations

import datetime
import logging
import re
import time
from http.cookiejar import Cookie
from pathlib import Path
from textwrap import dedent

import pytest
import redis
import sqlalchemy as sa
from beaker.exceptions import BeakerWarning
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.httpexceptions import HTTPFound, HTTPServiceUnavailable
from pyramid.interfaces import ISessionFactory
from pyramid.paster import bootstrap
from pyramid.request import Request
from pyramid.security import remember
from pyramid.session import SignedCookieSessionFactory
from pyramid_beaker import (
    BeakerSessionFactoryConfig,
    session_factory_from_settings,
)
from pyramid_retry import RetryableException
from webtest import TestApp

from pyramid_limitedsession.expiry import FIRST, SEEN
from tests.apps import MODES, cookie_of
from tests.commands import COMMANDS
from tests.signed import add_views
from tests.sites import Backend, Site
from tests.threads import in_threads

KINDS = ("cookie", "redis", "beaker")
# What the option is called that names the cookie.
NAME = {"cookie": "cookie_name", "redis": "cookie_name", "beaker": "key"}
HOUR = 3600
SETTINGS = {
    "limitedsession.idle_timeout": "1h",
    "limitedsession.absolute_timeout": "10h",
    "limitedsession.touch_interval": "1s",
}
ONE = pytest.mark.parametrize("kind", ["cookie"], indirect=True)
REDIS = pytest.mark.parametrize("kind", ["redis"], indirect=True)
PICKLING = pytest.mark.parametrize("kind", ["redis", "beaker"], indirect=True)
APART = pytest.mark.parametrize("name", ["old"], indirect=True)
TOGETHER = pytest.mark.parametrize("name", ["session"], indirect=True)


@pytest.fixture(name="kind", params=KINDS)
def _kind(request):
    return request.param


@pytest.fixture(name="name", params=("session", "old"))
def _name(request):
    """The name of the old cookie; ours is always ``session``."""
    return request.param


@pytest.fixture(name="clock")
def _clock(clock):
    """A clock that says what the old factories' own one does."""
    clock.now = time.time() + 1
    return clock


@pytest.fixture(name="old")
def _old(backend, kind, name, clock):
    """The old application."""
    if kind == "cookie":
        # As Pyramid has it: each answer renews the cookie.
        backend.options.clear()
    backend.options[NAME[kind]] = name
    return Site(backend, clock, is_limited=False, configure=with_login)


@pytest.fixture(name="make_new")
def _make_new(old, make_world):
    """Return a function that makes new applications."""

    def make(*where, settings=None, **options):
        given = SETTINGS | {"limitedsession.adopt": factory_of(old)}
        options.setdefault("configure", with_login)
        return views(
            make_world(*where, settings=given | (settings or {}), **options)
        )

    return make


@pytest.fixture(name="new")
def _new(make_new):
    return make_new()


class Policy:
    """A security policy that keeps the user in the session."""

    def __init__(self):
        self._helper = SessionAuthenticationHelper()

    def identity(self, request):
        """Return who it is, or None."""
        return self._helper.authenticated_userid(request)

    authenticated_userid = identity

    def permits(self, request, context, permission):
        """Let nobody in who is nobody."""
        return self.identity(request) is not None

    def remember(self, request, userid, **options):
        """Sign in."""
        return self._helper.remember(request, userid, **options)

    def forget(self, request, **options):
        """Sign out."""
        return self._helper.forget(request, **options)


def with_login(config):
    """Give an application the policy, and a page for users only."""
    config.set_security_policy(Policy())
    config.add_route("secret", "/for/users")
    config.add_view(
        lambda request: request.authenticated_userid,
        route_name="secret",
        permission="see",
        renderer="json",
    )


def factory_of(site):
    """Return the session factory of an old application."""
    return site.router.registry.getUtility(ISessionFactory)


def views(world):
    """Add the views that these tests use."""
    add_views(world)

    @world.on("nothing")
    def _(request):
        return {}

    @world.on("fail")
    def _(request):
        request.session["b"] = "2"
        raise KeyError

    @world.on("invalidate")
    def _(request):
        request.session.invalidate()
        request.session.update(request.params)

    @world.on("about")
    def _(request):
        session = request.session
        return [session.new, session.ended, session.created]

    return world


def moved(world, browser):
    """Return the same browser, now at another application."""
    return TestApp(world.app, cookiejar=browser.cookiejar)


def copied(world, browser):
    """Return a browser with copies of another's cookies."""
    other = TestApp(world if isinstance(world, Site) else world.app)
    for cookie in browser.cookiejar:
        other.cookiejar.set_cookie(cookie)
    return other


def give(browser, name, value):
    """Give a browser a cookie, as if a response had set it."""
    browser.cookiejar.set_cookie(
        Cookie(
            version=0,
            name=name,
            value=value,
            port=None,
            port_specified=False,
            domain="localhost.local",
            domain_specified=False,
            domain_initial_dot=False,
            path="/",
            path_specified=True,
            secure=False,
            expires=None,
            discard=True,
            comment=None,
            comment_url=None,
            rest={},
        )
    )


def names(browser):
    """Return the names of the cookies that a browser has."""
    return sorted(cookie.name for cookie in browser.cookiejar)


def sent(response):
    """Return pairs of a cookie's name and whether it is deleted."""
    return [
        (header.partition("=")[0], "Max-Age=0" in header)
        for header in cookie_of(response)
    ]


def lines(caplog, level=logging.INFO):
    """Return what the module has logged."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "pyramid_limitedsession.adopting"
        and record.levelno == level
    ]


# -- its content moves -------------------------------------------------


def test_content_moves(old, new, name):
    """A visitor keeps his content; one row, one cookie, and it is ours."""
    browser = moved(new, old.visitor(a="1"))
    response = browser.get("/get")
    assert response.json == [{"a": "1"}, None]
    assert len(new.rows()) == 1
    deletions = [] if name == "session" else [("old", True)]
    assert sent(response) == [*deletions, ("session", False)]
    assert names(browser) == ["session"]
    assert response.headers["Cache-Control"] == "no-store"
    new.count()
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert new.count() == ["SELECT"]
    assert len(new.rows()) == 1


@ONE
@TOGETHER
def test_on_each_database(old, make_new, database, mode):
    """It is one INSERT, in the request's own transaction."""
    new = make_new(database, mode)
    browser = moved(new, old.visitor(a="1"))
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert new.count() == ["INSERT"]
    assert browser.get("/get").json == [{"a": "1"}, None]


@PICKLING
@TOGETHER
def test_pickled_and_encrypted(old, make_new):
    """Where any value can be stored, any moves; encrypted like others."""
    new = make_new(
        settings={
            "limitedsession.serializer": "pickle",
            "limitedsession.encrypt": "true",
        }
    )

    @old.on
    def put(request):
        request.session["born"] = datetime.date(1984, 5, 23)

    @new.on("born")
    def _(request):
        return request.session["born"].year

    browser = old.browser()
    browser.get("/put")
    browser = moved(new, browser)
    assert browser.get("/born").json == 1984
    assert browser.get("/born").json == 1984
    assert len(new.rows()) == 1


def test_factory_from_an_ini_file(make_world):
    """What pyramid_beaker makes of the settings may be the setting."""
    settings = {"session.type": "memory", "session.secret": "s" * 64}
    factory = session_factory_from_settings(settings)
    request = Request.blank("/")
    factory(request)["a"] = "1"
    answer = request.ResponseClass()
    request._process_response_callbacks(answer)
    cookie = {"Cookie": cookie_of(answer)[0].split(";")[0]}
    settings["limitedsession.adopt"] = factory
    new = views(make_world(settings=settings))
    assert new.browser().get("/get", headers=cookie).json[0] == {"a": "1"}


def test_the_old_one_is_gone(old, new, kind):
    """Who has a copy of the old cookie finds nothing on the server.

    (A signed cookie cannot be taken back.)
    """
    browser = old.visitor(a="1")
    thief = copied(old, browser)
    moved(new, browser).get("/get")
    assert thief.get("/get").json == ("1" if kind == "cookie" else None)
    if kind == "redis":
        assert not list(
            old.backend.client.scan_iter(f"{old.backend._prefix}*")
        )
    again = copied(new, thief).get("/get").json
    assert again == [{"a": "1"} if kind == "cookie" else {}, None]


def test_no_second_login(old, new):
    """Who was signed in is signed in, and is known as a user."""

    @old.on
    def login(request):
        request.response.headers.extend(remember(request, "ann"))

    browser = old.browser()
    browser.get("/login")
    browser = moved(new, browser)
    assert browser.get("/for/users").json == "ann"
    assert browser.get("/for/users").json == "ann"
    assert [row.user_id for row in new.rows()] == ["ann"]


def test_flash_and_csrf_go_on(old, new):
    """Messages wait for their reader; a form that is open is accepted."""

    @old.on
    def before(request):
        request.session.flash("hello")
        request.session.flash("careful", "warning")
        return request.session.get_csrf_token()

    @new.on("after")
    def _(request):
        session = request.session
        warnings = session.peek_flash("warning")
        return [session.get_csrf_token(), session.pop_flash(), warnings]

    browser = old.browser()
    token = browser.get("/before").json
    browser = moved(new, browser)
    assert browser.get("/after").json == [token, ["hello"], ["careful"]]
    assert browser.get("/after").json == [token, [], ["careful"]]


@ONE
def test_changes_are_saved_with_it(old, new):
    """What the first request does to the content is kept."""

    @new.on("change")
    def _(request):
        del request.session["a"]
        request.session["c"] = [request.session["b"]]

    browser = moved(new, old.visitor(a="1", b="2"))
    browser.get("/change")
    assert browser.get("/get").json == [{"b": "2", "c": ["2"]}, None]


def test_it_is_not_new(old, new):
    """It is not new, not over, and has begun when the old one did."""
    began = time.time()
    browser = moved(new, old.visitor())
    new.clock.pass_(60)
    for _ in range(2):
        is_new, ended, created = browser.get("/about").json
        assert (is_new, ended) == (False, None)
        assert int(began) <= created <= began + 30


def test_beaker_after_clear(make_backend, make_world, clock):
    """Beaker calls a session new that was cleared before; it is none."""
    old = Site(make_backend("beaker"), clock, is_limited=False)

    @old.on
    def anew(request):
        request.session.clear()
        request.session["a"] = "2"

    browser = old.visitor()
    browser.get("/anew")
    settings = {"limitedsession.adopt": factory_of(old)}
    new = views(make_world(settings=settings))
    assert moved(new, browser).get("/get").json == [{"a": "2"}, None]


class BeakerCookies(Backend):
    """pyramid_beaker with sessions that are cookies."""

    def __init__(self, folder):
        super().__init__()
        self.options = {"type": "cookie", "validate_key": "s" * 64}

    def configure(self, config):
        """Set the session factory."""
        config.set_session_factory(BeakerSessionFactoryConfig(**self.options))


@pytest.mark.parametrize("key", ["session", "old"])
def test_beakers_cookies(make_world, clock, tmp_path, key):
    """What Beaker keeps in the cookie alone moves, too."""
    backend = BeakerCookies(tmp_path)
    backend.options["key"] = key
    old = Site(backend, clock, is_limited=False)
    settings = {"limitedsession.adopt": factory_of(old)}
    new = views(make_world(settings=settings))
    browser = moved(new, old.visitor())
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert names(browser) == ["session"]
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert len(new.rows()) == 1


# -- who has none ------------------------------------------------------


class Counting:
    """A session factory that counts who asks it."""

    def __init__(self, factory):
        self.factory = factory
        self.calls = 0

    def __call__(self, request):
        """Ask the real one."""
        self.calls += 1
        return self.factory(request)


@ONE
def test_asked_once_and_only_if_needed(old, make_new):
    """A request that looks at no session asks nobody; one that does, once.

    Nobody is asked when there is a session of ours.
    """
    counting = Counting(factory_of(old))
    new = make_new(
        settings={"limitedsession.adopt": counting},
        # pyramid_tm asks a security policy in each request.
        configure=lambda config: None,
    )
    browser = moved(new, old.visitor())
    response = browser.get("/nothing")
    assert (counting.calls, cookie_of(response)) == (0, [])
    assert "Vary" not in response.headers
    browser.get("/get")
    assert counting.calls == 1
    browser.get("/get")
    assert counting.calls == 1


def test_visitor_without_any(new):
    """A visitor without a session gets none by looking."""
    browser = new.browser()
    response = browser.get("/get")
    assert (response.json, cookie_of(response)) == ([{}, None], [])
    assert new.rows() == []
    browser.get("/in?a=1")
    assert browser.get("/get").json == [{"a": "1"}, None]


@APART
@pytest.mark.parametrize("value", ["garbage", "A" * 43, "é", ""])
def test_unknown_token_beside_it(old, new, value):
    """A cookie that stands for no session of ours is no obstacle."""
    browser = moved(new, old.visitor())
    give(browser, "session", value)
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert names(browser) == ["session"]


@pytest.mark.parametrize("value", ["garbage", "A" * 43, "A" * 200, "é", ""])
def test_garbage_in_its_cookie(old, new, name, value):
    """Garbage in the old cookie is a new session, never an error."""
    browser = new.browser()
    give(browser, name, value)
    assert browser.get("/get").json == [{}, None]
    browser.get("/in?a=1")
    assert browser.get("/get").json == [{"a": "1"}, None]


@ONE
@TOGETHER
def test_what_it_let_expire(old, make_new):
    """What the old factory's own timeout has ended is not adopted."""
    factory = SignedCookieSessionFactory("s" * 64, timeout=-1)
    new = make_new(settings={"limitedsession.adopt": factory})
    response = moved(new, old.visitor()).get("/get")
    assert (response.json, sent(response)) == ([{}, None], [])


def no_session(request):
    """Return no session: the visitor has none."""
    return


def new_with_content(request):
    """Return a session that is new, and not empty."""
    session = SignedCookieSessionFactory("s")(request)
    session["theme"] = "light"
    return session


@pytest.mark.parametrize("name", ["no_session", "new_with_content"])
def test_function_by_its_name(make_world, name):
    """A function of the application, by its dotted name, may say no."""
    dotted = f"{__name__}.{name}"
    new = views(make_world(settings={"limitedsession.adopt": dotted}))
    response = new.browser().get("/get")
    assert (response.json, cookie_of(response)) == ([{}, None], [])


@ONE
@TOGETHER
def test_setting_taken_out(old, make_new):
    """Without the setting nobody is adopted; who was, stays."""
    new = make_new()
    browser = moved(new, old.visitor())
    browser.get("/get")
    late = old.visitor()
    without = make_new(
        table=new.table.name, settings={"limitedsession.adopt": "none"}
    )
    assert moved(without, browser).get("/get").json == [{"a": "1"}, None]
    assert moved(without, late).get("/get").json == [{}, None]


def test_what_has_to_be_told_to_beaker(make_world, clock, tmp_path):
    """With invalidate_corrupt our own token is garbage like any other."""
    backend = BeakerCookies(tmp_path)
    backend.options |= {"key": "session", "invalidate_corrupt": True}
    old = Site(backend, clock, is_limited=False)
    settings = {"limitedsession.adopt": factory_of(old)}
    new = views(make_world(settings=settings))
    for value in ("A" * 43, "garbage"):
        browser = new.browser()
        give(browser, "session", value)
        with pytest.warns(BeakerWarning, match="Invalidating corrupt session"):
            response = browser.get("/get")
        assert (response.json, sent(response)) == ([{}, None], [])


@TOGETHER
@REDIS
def test_what_has_to_be_told_to_redis(old, make_new):
    """With deserialized_fails_new data that it cannot read is no session."""
    old.backend.options["deserialized_fails_new"] = True
    again = Site(old.backend, old.clock, is_limited=False)
    new = make_new(settings={"limitedsession.adopt": factory_of(again)})
    browser = moved(new, old.visitor())
    (key,) = old.backend.client.scan_iter(f"{old.backend._prefix}*")
    old.backend.client.set(key, b"garbage")
    assert browser.get("/get").json == [{}, None]


# -- limits ------------------------------------------------------------


@ONE
@pytest.mark.parametrize("left", [1, 0])
def test_total_length_counts_from_its_start(old, new, left):
    """The total limit counts from the old start, to the second."""
    browser = moved(new, old.visitor())
    factory = factory_of(old)
    request = Request.blank("/", cookies=dict(browser.cookies))
    created = int(factory(request).created)
    new.clock.now = created + 10 * HOUR - left
    content = {"a": "1"} if left else {}
    reason = None if left else "absolute"
    assert browser.get("/get").json == [content, reason]
    assert len(new.rows()) == left
    new.clock.pass_(1)
    again = [{}, "absolute" if left else None]
    assert browser.get("/get").json == again


def test_one_that_is_too_old_ends(old, new, name, kind):
    """One that our limits forbid is over, there too; he is told once."""
    browser = old.visitor()
    thief = copied(old, browser)
    browser = moved(new, browser)
    new.clock.pass_(10 * HOUR + 1)
    response = browser.get("/get")
    assert response.json == [{}, "absolute"]
    assert not names(browser)
    assert new.rows() == []
    assert browser.get("/get").json == [{}, None]
    assert thief.get("/get").json == ("1" if kind == "cookie" else None)


@ONE
@TOGETHER
def test_times_that_the_expiry_tween_has_kept(old, new, clock):
    """What another part of this package knows of its times counts."""
    now = int(clock())
    idle = old.visitor(a="1")
    old.on(times)
    idle.get(f"/times?{FIRST}={now - 2 * HOUR}&{SEEN}={now - HOUR}")
    assert moved(new, idle).get("/get").json == [{}, "idle"]
    active = old.visitor()
    active.get(f"/times?{FIRST}={now - 2 * HOUR}&{SEEN}={now - HOUR + 1}")
    browser = moved(new, active)
    assert browser.get("/about").json == [False, None, now - 2 * HOUR]


def times(request):
    """Put numbers into the session."""
    for key, value in request.params.items():
        request.session[key] = int(value)


@ONE
@TOGETHER
@pytest.mark.parametrize("created", [-1, 10**12, float("nan"), "then", None])
def test_start_that_cannot_be(old, make_new, clock, created):
    """A start that cannot be is no start: it begins now."""
    factory = factory_of(old)

    def with_start(request):
        session = factory(request)
        session.created = created
        return session

    new = make_new(settings={"limitedsession.adopt": with_start})
    browser = moved(new, old.visitor())
    assert browser.get("/about").json == [False, None, int(clock())]


@ONE
@TOGETHER
def test_it_counts_among_the_users_sessions(old, make_new):
    """An adopted session is one of as many as its user may have."""
    new = make_new(
        settings={
            "limitedsession.user_key": "user",
            "limitedsession.max_sessions_per_user": "1",
        }
    )
    first, second = (old.visitor(user="ann") for _ in range(2))
    moved(new, first).get("/get")
    assert moved(new, second).get("/get").json[0] == {"user": "ann"}
    assert moved(new, first).get("/get").json == [{}, "limit"]


# -- the transaction decides -------------------------------------------


@TOGETHER
@pytest.mark.parametrize("mode", MODES)
def test_abort_loses_nothing(old, make_new, mode, caplog):
    """A request that fails adopts nothing; the next one does."""
    new = make_new("sqlite", mode)
    browser = moved(new, old.visitor())
    before = dict(browser.cookies)
    with pytest.raises(KeyError):
        browser.get("/fail")
    assert (new.rows(), dict(browser.cookies)) == ([], before)
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert len(new.rows()) == 1
    discarded = [t for t in caplog.messages if "discarded" in t]
    assert len(discarded) <= 1
    assert "'a'" not in "".join(discarded)


@ONE
def test_aborted_without_a_change(old, new, caplog):
    """A failed request that only looked has discarded nothing."""

    @new.on("look")
    def _(request):
        request.tm.doom()
        return request.session["a"]

    browser = moved(new, old.visitor())
    response = browser.get("/look")
    assert (response.json, cookie_of(response)) == ("1", [])
    assert new.rows() == []
    assert "discarded" not in caplog.text
    assert browser.get("/get").json == [{"a": "1"}, None]


@ONE
def test_savepoint(old, new):
    """Back at a savepoint it is as it came, and is still adopted."""

    @new.on("back")
    def _(request):
        request.session["b"] = "2"
        savepoint = request.tm.savepoint()
        request.session.clear()
        request.session["c"] = "3"
        savepoint.rollback()

    browser = moved(new, old.visitor())
    browser.get("/back")
    assert browser.get("/get").json == [{"a": "1", "b": "2"}, None]


@ONE
def test_savepoint_before_the_first_look(old, new):
    """The same if the savepoint is older than the first look."""

    @new.on("back")
    def _(request):
        savepoint = request.tm.savepoint()
        request.session["b"] = "2"
        savepoint.rollback()
        return dict(request.session)

    browser = moved(new, old.visitor())
    assert browser.get("/back").json == {"a": "1"}
    assert browser.get("/get").json == [{"a": "1"}, None]


@TOGETHER
def test_replayed(old, make_new):
    """Of a request that is tried again only the last attempt adopts."""

    def retry(config):
        config.include("pyramid_retry")
        with_login(config)

    new = make_new(configure=retry, settings={"retry.attempts": 3})
    attempts = []

    @new.on("again")
    def _(request):
        attempts.append(dict(request.session))
        if len(attempts) < 3:
            raise RetryableException

    browser = moved(new, old.visitor())
    browser.get("/again")
    assert attempts == [{"a": "1"}] * 3
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert len(new.rows()) == 1


@ONE
@TOGETHER
def test_without_a_transaction(old, make_new):
    """A response callback that looks first adopts it as well."""

    new = make_new()

    @new.on("late")
    def _(request):
        request.add_response_callback(
            lambda request, response: request.session["a"]
        )

    browser = moved(new, old.visitor())
    browser.get("/late")
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert len(new.rows()) == 1


def test_two_first_requests(old, new, kind):
    """Of two first requests at once each has a signed cookie's content.

    What is kept on a server is there for one. The other gets no cookie by
    looking, which would take away the first one's.
    """
    browser = old.visitor()
    other, late = copied(new, browser), copied(new, browser)
    first = moved(new, browser)
    first.get("/get")
    response = other.get("/get")
    is_cookie = kind == "cookie"
    assert response.json == [{"a": "1"} if is_cookie else {}, None]
    assert len(new.rows()) == (2 if is_cookie else 1)
    assert bool(cookie_of(response)) is is_cookie
    assert first.get("/get").json == [{"a": "1"}, None]
    # What the docs warn of.
    assert sent(late.get("/in?b=1"))[-1] == ("session", False)


@TOGETHER
def test_two_at_the_same_time(old, new):
    """Two that have both found it both keep it."""
    browser = old.visitor()
    first, second = copied(new, browser), copied(new, browser)

    @new.on("wait")
    def _(request):
        found = [dict(request.session)]
        if request.params:
            in_threads(
                lambda number: found.extend(second.get("/wait").json), 1
            )
        return found

    assert first.get("/wait?x=1").json == [{"a": "1"}] * 2
    assert first.get("/get").json == [{"a": "1"}, None]
    assert second.get("/get").json == [{"a": "1"}, None]


# -- ends --------------------------------------------------------------


def test_logout_at_once(old, new, kind):
    """A logout in the first request ends the old session."""
    browser = old.visitor()
    thief = copied(old, browser)
    browser = moved(new, browser)
    browser.get("/invalidate")
    assert (names(browser), new.rows()) == ([], [])
    assert browser.get("/get").json == [{}, None]
    assert thief.get("/get").json == ("1" if kind == "cookie" else None)


def test_logout_and_a_new_one(old, new):
    """What is put in behind a logout is a new session."""
    browser = moved(new, old.visitor())
    browser.get("/invalidate?b=2")
    assert names(browser) == ["session"]
    assert browser.get("/get").json == [{"b": "2"}, None]


@PICKLING
def test_logout_of_a_request_that_fails(old, new):
    """A logout is a logout, also if the request fails."""

    @new.on("fail")
    def _(request):
        request.session.invalidate()
        raise KeyError

    browser = moved(new, old.visitor())
    with pytest.raises(KeyError):
        browser.get("/fail")
    assert browser.get("/get").json == [{}, None]


@pytest.mark.parametrize("how", ["clear", "del"])
def test_emptied(old, new, how):
    """Emptied in the first request it is empty, and the old one is over."""

    @new.on("empty")
    def _(request):
        if how == "clear":
            request.session.clear()
        else:
            del request.session["a"]

    browser = moved(new, old.visitor())
    browser.get("/empty")
    assert browser.get("/get").json == [{}, None]
    assert names(browser) == ["session"]


def after_revoking(new, browser):
    """Somebody ends the session."""
    new.browser().get("/all?user=ann")


def after_an_hour(new, browser):
    """It is not used."""
    new.clock.pass_(HOUR + 1)


def after_ten_hours(new, browser):
    """It is used all the time."""
    other = new.browser()
    give(other, "session", browser.cookies["session"])
    for _ in range(12):
        new.clock.pass_(HOUR - 600)
        other.get("/get")


OVER = (after_revoking, after_an_hour, after_ten_hours)


def with_twin(old, new):
    """Return a browser with a session of ours and its old one."""
    browser = old.visitor(user="ann")
    twin = copied(new, browser)
    moved(new, browser).get("/get")
    give(twin, "session", browser.cookies["session"])
    assert twin.get("/get").json == [{"user": "ann"}, None]
    assert names(twin) == ["old", "session"]
    return twin


@ONE
@APART
@pytest.mark.parametrize("ending", OVER)
def test_nothing_comes_back_through_its_twin(old, make_new, ending):
    """The old cookie of a session of ours that is over is over, too."""
    new = make_new(settings={"limitedsession.user_key": "user"})
    twin = with_twin(old, new)
    ending(new, twin)
    assert twin.get("/get").json[0] == {}
    assert names(twin) == []
    assert twin.get("/get").json == [{}, None]


@ONE
@APART
def test_twin_of_a_request_that_fails(old, make_new):
    """The same where the old factory sends no cookie if a view raises."""
    old.backend.options["set_on_exception"] = False
    silent = Site(old.backend, old.clock, is_limited=False)
    new = make_new(
        settings={
            "limitedsession.adopt": factory_of(silent),
            "limitedsession.user_key": "user",
        }
    )

    @new.on("elsewhere")
    def _(request):
        assert request.session.ended == "revoked"
        raise HTTPFound("/get")

    twin = with_twin(old, new)
    after_revoking(new, twin)
    twin.get("/elsewhere", status=302)
    assert names(twin) == []


@ONE
@APART
def test_passive_request_leaves_the_twin(old, make_new):
    """A passive request takes neither cookie; the next one takes both."""
    new = make_new(settings={"limitedsession.user_key": "user"})
    twin = with_twin(old, new)
    after_revoking(new, twin)
    headers = {"X-Session-Passive": "true"}
    answer = twin.get("/get", headers=headers)
    assert (answer.json, sent(answer)) == ([{}, "revoked"], [])
    assert twin.get("/get").json == [{}, "revoked"]
    assert names(twin) == []


@ONE
@APART
def test_logout_takes_the_twin_along(old, new):
    """Who signs out while he still has the old cookie loses that, too."""
    twin = with_twin(old, new)
    twin.get("/invalidate")
    assert names(twin) == []


@ONE
@APART
def test_ended_between_two_attempts(old, make_new):
    """What one attempt has found the next one does not find in its twin."""

    def retry(config):
        config.include("pyramid_retry")

    new = make_new(configure=retry, settings={"retry.attempts": 2})
    twin = with_twin(old, new)
    attempts = []

    @new.on("again")
    def _(request):
        attempts.append(dict(request.session))
        if len(attempts) == 1:
            elsewhere = new.browser()
            give(elsewhere, "session", twin.cookies["session"])
            elsewhere.get("/invalidate")
            raise RetryableException

    twin.get("/again")
    assert attempts == [{"user": "ann"}, {}]
    assert new.rows() == []


@ONE
@APART
def test_unreadable_is_not_replaced(old, new):
    """A row that cannot be read stays, and nothing is adopted instead."""
    twin = with_twin(old, new)
    new.execute(sa.update(new.table).values(data="{"))
    for _ in range(2):
        assert twin.get("/get").json == [{}, "unreadable"]
    assert len(new.rows()) == 1
    assert names(twin) == ["old", "session"]


# -- what cannot be kept -----------------------------------------------


@PICKLING
@TOGETHER
def test_values_that_cannot_be_kept(old, new, caplog):
    """They are left out; one line names their keys, and no value."""

    @old.on
    def put(request):
        request.session["born"] = datetime.date(1984, 5, 23)
        request.session["rights"] = {"read"}
        request.session["pair"] = [("hidden", 1)]
        request.session["a"] = "1"

    browser = old.browser()
    browser.get("/put")
    browser = moved(new, browser)
    for _ in range(2):
        assert browser.get("/get").json == [{"a": "1"}, None]
    (line,) = lines(caplog, logging.ERROR)
    for key in ("'born'", "'rights'", "'pair'"):
        assert key in line
    for value in ("1984", "read", "hidden"):
        assert value not in caplog.text


@REDIS
@TOGETHER
def test_nothing_that_can_be_kept(old, new, caplog):
    """If nothing can be kept, nothing is adopted, and nothing ends."""

    @old.on
    def put(request):
        request.session["born"] = datetime.date(1984, 5, 23)

    browser = old.browser()
    browser.get("/put")
    browser = moved(new, browser)
    assert browser.get("/get").json == [{}, None]
    assert new.rows() == []
    assert len(lines(caplog, logging.ERROR)) == 1
    assert list(old.backend.client.scan_iter(f"{old.backend._prefix}*"))


@ONE
@TOGETHER
def test_name_of_a_user_that_cannot_be(old, make_new, caplog):
    """A name that no row can have does not make each request fail."""
    new = make_new(settings={"limitedsession.user_key": "user"})
    browser = moved(new, old.visitor(user="x" * 191, a="1"))
    assert browser.get("/get").json == [{"a": "1"}, None]
    (line,) = lines(caplog, logging.ERROR)
    assert "'user'" in line
    assert "xxx" not in caplog.text


@REDIS
@TOGETHER
def test_too_large(old, make_new, caplog):
    """Content that is too large is not adopted; it waits where it is."""
    small = {"limitedsession.max_data_size": "1000"}
    new = make_new(settings=small)
    browser = moved(new, old.visitor(a="x" * 1000))
    response = browser.get("/get")
    assert (response.json, cookie_of(response)) == ([{}, None], [])
    (line,) = lines(caplog, logging.ERROR)
    assert "max_data_size" in line
    assert "xxx" not in caplog.text
    larger = make_new(table=new.table.name)
    assert moved(larger, browser).get("/get").json[0] == {"a": "x" * 1000}


# -- its cookies -------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"path": "/get"},
        {"domain": "localhost"},
        {"path": "/get", "domain": ""},
    ],
)
def test_the_same_name_elsewhere(make_world, options):
    """A cookie of our name with another path or domain is deleted there."""
    factory = SignedCookieSessionFactory("s" * 64, **options)
    new = views(make_world(settings={"limitedsession.adopt": factory}))
    request = Request.blank("/get")
    session = factory(request)
    session["a"] = "1"
    answer = request.ResponseClass()
    request._process_response_callbacks(answer)
    name, value = cookie_of(answer)[0].split(";")[0].split("=", 1)
    browser = new.browser()
    response = browser.get("/get", headers={"Cookie": f"{name}={value}"})
    deletion, ours = cookie_of(response)
    assert "Max-Age=0" in deletion
    assert "Max-Age" not in ours
    for key, wanted in options.items():
        assert f"{key.title()}={wanted}" in deletion or not wanted


@ONE
@APART
def test_a_prefix_that_browsers_check(old, make_new):
    """A deletion has what the cookie had: __Host- needs Secure."""
    factory = SignedCookieSessionFactory(
        "s" * 64, cookie_name="__Host-old", secure=True, httponly=True
    )
    new = make_new(settings={"limitedsession.adopt": factory})
    request = Request.blank("https://localhost/")
    factory(request)["a"] = "1"
    answer = request.ResponseClass()
    request._process_response_callbacks(answer)
    cookie = cookie_of(answer)[0].split(";")[0]
    response = new.browser().get("/get", headers={"Cookie": cookie})
    deletion = cookie_of(response)[0]
    assert deletion.startswith("__Host-old=;")
    for attribute in ("Max-Age=0", "Path=/", "secure", "HttpOnly", "SameSite"):
        assert attribute in deletion


@ONE
@TOGETHER
def test_it_renews_nothing(old, make_new):
    """What it would have sent at a look is never sent."""
    new = make_new(settings={"limitedsession.max_data_size": "10"})
    browser = moved(new, old.visitor(a="x" * 20))
    assert sent(browser.get("/get")) == []
    with pytest.raises(KeyError):
        browser.get("/fail")
    assert sent(browser.get("/about")) == []


# -- passive requests --------------------------------------------------


def test_passive_request(old, make_new):
    """A poll may be the first to come; it tells that there is a session."""

    def with_timeouts(config):
        with_login(config)
        config.add_session_timeout_view("/left/of/it")

    new = make_new(configure=with_timeouts)
    browser = moved(new, old.visitor())
    left = browser.get("/left/of/it").json
    assert (left["active"], left["ended"]) == (True, None)
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert len(new.rows()) == 1


# -- what breaks -------------------------------------------------------


@REDIS
@TOGETHER
def test_broken_backend(old, make_new):
    """If the old sessions cannot be read nobody is signed out: it raises.

    Who has a session of ours does not notice.
    """
    new = make_new()
    adopted = moved(new, old.visitor())
    adopted.get("/get")
    waiting = old.visitor()
    broken = breaking(old)
    down = make_new(
        table=new.table.name, settings={"limitedsession.adopt": broken}
    )
    with pytest.raises(redis.ConnectionError):
        moved(down, waiting).get("/get")
    assert broken.calls == 1
    assert len(new.rows()) == 1
    assert moved(down, adopted).get("/get").json == [{"a": "1"}, None]
    assert moved(new, waiting).get("/get").json == [{"a": "1"}, None]


def breaking(old, *, at_the_end=False):
    """Return a factory of old sessions whose server is down.

    Or cannot be written, ``at_the_end``, like a replica that was left over.
    """
    factory = factory_of(old)

    def down(*words):
        raise redis.ConnectionError("secret words")

    def broken(request):
        if not at_the_end:
            down()
        session = factory(request)
        # What writes in pyramid_session_redis and in Beaker.
        vars(session).update(invalidate=down, persist=down)
        return session

    return Counting(broken)


def unclear(factory):
    """Return a factory that reads a second cookie, called ``flag``."""

    def two(request):
        request.cookies.get("flag")
        return factory(request)

    return two


@pytest.fixture(name="stuck")
def _stuck(old, make_new):
    """The new application while no old session can be ended.

    Its error page is answered with 503.
    """

    def with_page(config):
        with_login(config)
        config.add_exception_view(
            lambda error, request: HTTPServiceUnavailable(),
            context=redis.ConnectionError,
        )

    return make_new(
        settings={
            "limitedsession.adopt": breaking(old, at_the_end=True),
            "limitedsession.user_key": "user",
        },
        configure=with_page,
    )


@REDIS
@TOGETHER
def test_broken_when_it_is_to_end(old, make_new, caplog):
    """If the old one cannot be ended, the visitor has ours all the same."""
    new = make_new(
        settings={"limitedsession.adopt": breaking(old, at_the_end=True)}
    )
    browser = moved(new, old.visitor())
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert browser.get("/get").json == [{"a": "1"}, None]
    (line,) = lines(caplog, logging.ERROR)
    assert "ConnectionError" in line
    assert "secret words" not in caplog.text


@REDIS
@TOGETHER
def test_logout_that_fails(old, make_new):
    """A logout that could not be carried out says so."""
    new = make_new(
        settings={"limitedsession.adopt": breaking(old, at_the_end=True)}
    )
    with pytest.raises(redis.ConnectionError):
        moved(new, old.visitor()).get("/invalidate")


@PICKLING
@APART
def test_later_logout_that_fails(old, stuck):
    """Neither does one of a later request, which ends ours all the same.

    A browser that sees the error page has none of the two cookies then.
    """
    new, browser = stuck, old.visitor(user="ann")
    twin = copied(new, browser)
    moved(new, browser).get("/get")
    give(twin, "session", browser.cookies["session"])
    assert len(new.rows()) == 1
    twin.get("/invalidate", status=503)
    assert (names(twin), new.rows()) == ([], [])
    assert twin.get("/get").json == [{}, None]


@REDIS
@APART
def test_logout_without_an_error_page(old, make_new):
    """Without one it keeps both: the logout has failed, and can be tried
    again."""
    settings = {"limitedsession.adopt": breaking(old, at_the_end=True)}
    readonly = make_new(settings=settings)
    new = make_new(table=readonly.table.name)
    twin = with_twin(old, readonly)
    with pytest.raises(redis.ConnectionError):
        twin.get("/invalidate")
    assert names(twin) == ["old", "session"]
    twin = moved(new, twin)
    twin.get("/invalidate")
    assert names(twin) == []
    assert twin.get("/get").json == [{}, None]


@pytest.mark.parametrize("kind", ["beaker"], indirect=True)
@APART
def test_logout_while_nothing_can_be_read(old, stuck, make_new):
    """The same if nobody can tell whether there is an old session."""
    twin = with_twin(old, stuck)
    reads = []

    class Down(old.backend.options["namespace_class"]):
        def __getitem__(self, key):
            reads.append(key)
            raise ConnectionError

    old.backend.options["namespace_class"] = Down
    down = Site(old.backend, old.clock, is_limited=False)
    new = make_new(
        table=stuck.table.name,
        settings={"limitedsession.adopt": factory_of(down)},
    )
    twin = moved(new, twin)
    assert twin.get("/get").json == [{"user": "ann"}, None]
    with pytest.raises(ConnectionError):
        twin.get("/invalidate")
    assert len(reads) == 1
    assert new.rows() == []


@PICKLING
@APART
def test_browser_loses_one_that_cannot_be_ended(old, stuck, caplog):
    """Its cookie is deleted all the same, so the browser has ours alone."""
    browser = moved(stuck, old.visitor())
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert names(browser) == ["session"]
    assert len(lines(caplog, logging.ERROR)) == 1
    browser.get("/invalidate")
    assert (names(browser), stuck.rows()) == ([], [])


@REDIS
@APART
def test_deletion_on_https(old, stuck):
    """A cookie that only goes over https is deleted as one."""
    cookie = old.visitor().cookies["old"]
    response = TestApp(stuck.app).get(
        "https://localhost/get", headers={"Cookie": f"old={cookie}"}
    )
    assert "old=; Max-Age=0; Path=/" in cookie_of(response)[0]
    assert "secure" in cookie_of(response)[0]


@REDIS
@APART
@pytest.mark.parametrize("ending", OVER)
def test_nothing_comes_back_while_it_is_stuck(old, stuck, make_new, ending):
    """Where ours is over, the old one does not come back, even if it cannot
    be ended, and its cookie is not known.

    The browser keeps both: beside a dead token nothing is adopted. Once the
    old one can be ended, both go.
    """
    new, settings = stuck, {"limitedsession.user_key": "user"}
    factory = unclear(breaking(old, at_the_end=True))
    both = make_new(
        table=new.table.name,
        settings=settings | {"limitedsession.adopt": factory},
    )
    twin = moved(both, with_twin(old, new))
    give(twin, "flag", "1")
    ending(new, twin)
    for _ in range(2):
        assert twin.get("/get").json[0] == {}
        assert names(twin) == ["flag", "old", "session"]
    good = make_new(table=new.table.name, settings=settings)
    assert moved(good, twin).get("/get").json[0] == {}
    assert names(twin) == ["flag"]


@REDIS
@APART
def test_known_cookie_of_one_that_is_stuck(old, stuck):
    """Where it is known the old cookie goes at once, and ours after it."""
    twin = with_twin(old, stuck)
    after_revoking(stuck, twin)
    assert twin.get("/get").json == [{}, "revoked"]
    assert names(twin) == ["session"]
    assert twin.get("/get").json == [{}, "revoked"]
    assert names(twin) == []


# -- requests without a browser ----------------------------------------


def inner(request, path, **options):
    """Let the application answer a request that is no copy of this one."""
    cookie = {"Cookie": request.headers.get("Cookie", "")}
    subrequest = Request.blank(path, headers=cookie)
    return request.invoke_subrequest(subrequest, **options).json


@PICKLING
@APART
@pytest.mark.parametrize("use_tweens", [True, False])
@pytest.mark.parametrize("looks", [True, False])
def test_request_inside_another(old, make_new, use_tweens, looks):
    """It adopts nothing: the cookie of its answer reaches no browser."""
    # pyramid_tm asks a security policy in each request.
    new = make_new(configure=lambda config: None)

    @new.on("sub")
    def _(request):
        found = dict(request.session) if looks else None
        return [found, inner(request, "/get", use_tweens=use_tweens)]

    browser = moved(new, old.visitor())
    found = [{"a": "1"} if looks else None, [{}, None]]
    assert browser.get("/sub").json == found
    assert browser.get("/get").json == [{"a": "1"}, None]
    assert len(new.rows()) == 1


@PICKLING
@APART
def test_logout_inside_another_request(old, make_new):
    """A logout there is a logout: it ends the old session."""
    new = make_new(configure=lambda config: None)

    @new.on("sub")
    def _(request):
        return inner(request, "/invalidate", use_tweens=True)

    browser = moved(new, old.visitor())
    browser.get("/sub")
    assert browser.get("/get").json == [{}, None]


calls = []


def never(request):
    """Return no session, and note that somebody has asked."""
    calls.append(request)


def test_scripts_ask_nobody(lite, make_ini):
    """A request of a script has no cookies, so it has no old session.

    The commands do not even look.
    """
    calls.clear()
    ini = make_ini(lite, limited__adopt=f"{__name__}.never")
    for name in COMMANDS:
        code, _, told = ini.work(name)
        # That one needs Alembic's folder, which is looked for last.
        assert code == 0 or name == "pls-migration", told
    with bootstrap(str(ini.path)) as env:
        assert dict(env["request"].session) == {}
        env["registry"]["pyramid_limitedsession"].store.engine.dispose()
    assert calls == []


# -- what operators see ------------------------------------------------


def test_one_line_for_each(old, new, caplog):
    """Each adoption is one line at INFO, which names no token."""
    caplog.set_level(logging.INFO, "pyramid_limitedsession.adopting")
    browser = moved(new, old.visitor())
    browser.get("/get")
    browser.get("/get")
    (line,) = lines(caplog)
    assert line.startswith("an old session was adopted; it is session ")
    assert new.rows()[0].session_id[3:11] in line
    assert browser.cookies["session"] not in caplog.text


@ONE
@TOGETHER
def test_threads(old, new):
    """Many visitors at once all keep their own."""
    browsers = [old.visitor(a=str(number)) for number in range(4)]
    found = {}

    def visit(number):
        browser = moved(new, browsers[number])
        found[number] = browser.get("/get").json[0]["a"]

    in_threads(visit, 4)
    assert found == {number: str(number) for number in range(4)}


# -- docs/adopting.rst -------------------------------------------------

DOCS = (Path(__file__).parent.parent / "docs" / "adopting.rst").read_text(
    encoding="utf-8"
)
EXAMPLES = [
    dedent(block)
    for block in re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", DOCS)
]


@pytest.mark.parametrize("number", [1, 2])
def test_documented_examples(make_world, number):
    """The page's examples are what an application can have."""
    names = {"secret": "s" * 64}
    for example in EXAMPLES[:number]:
        exec(example, names)  # noqa: S102 - our own page
    adopt = names["old_session" if number == 2 else "old_session_factory"]
    request = Request.blank("/")
    names["old_session_factory"](request)["a"] = "1"
    answer = request.ResponseClass()
    request._process_response_callbacks(answer)
    cookie = {"Cookie": cookie_of(answer)[0].split(";")[0]}
    new = views(make_world(settings={"limitedsession.adopt": adopt}))
    host = {"Host": "admin.example.com"}
    found = new.browser().get("/get", headers=cookie | host).json[0]
    assert found == ({} if number == 2 else {"a": "1"})
    assert new.browser().get("/get", headers=cookie).json[0] == {"a": "1"}
