"""The expiry tween where it is hard: other code, older data, wrong wiring."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from textwrap import dedent

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISession, ISessionFactory
from pyramid.request import Request
from pyramid.scripting import prepare
from pyramid_retry import RetryableException
from zope.interface.verify import verifyObject

from pyramid_limitedsession.expiry import (
    FIRST,
    SEEN,
    TM_TWEEN,
    TWEEN,
    LimitedFactory,
)
from tests.apps import START
from tests.sites import (
    ABSOLUTE,
    DAY,
    EXPIRY,
    GRACE,
    HOUR,
    IDLE,
    Site,
    same,
    times,
)
from tests.threads import in_threads

EXCVIEW = "pyramid.tweens.excview_tween_factory"
OTHERS = pytest.mark.parametrize(
    "kind", ["cookie", "redis", "beaker"], indirect=True
)

# -- who else asks for the session -------------------------------------


def looking_tween_factory(handler, registry):
    """Make a tween that looks into the session before and after all."""

    def looking_tween(request):
        before = request.session.get("a")
        response = handler(request)
        response.headers["X-Saw"] = f"{before} {request.session.get('a')}"
        return response

    return looking_tween


def look_from_above(config):
    """Add the tween, above pyramid_tm."""
    config.include("pyramid_tm")
    name = f"{__name__}.looking_tween_factory"
    config.add_tween(name, over=TM_TWEEN)


def test_tween_above_the_transaction(make_site, clock):
    """Whoever asks first, also far above, sees nothing of a dead session."""
    site = make_site(idle=IDLE, configure=look_from_above)
    browser = site.visitor()
    assert browser.get("/nothing").headers["X-Saw"] == "1 1"
    clock.pass_(IDLE)
    # It is a use, and counts.
    browser.get("/nothing")
    clock.pass_(IDLE)
    assert browser.get("/nothing").headers["X-Saw"] == "1 1"
    clock.pass_(DAY)
    assert browser.get("/get").headers["X-Saw"] == "None None"
    assert len(site.events) == 1


def putting_tween_factory(handler, registry):
    """Make a tween that puts something in after the expiry tween."""

    def putting_tween(request):
        response = handler(request)
        if "put" in request.params:
            request.session["a"] = "above"
        return response

    return putting_tween


@OTHERS
def test_content_from_above_gets_its_times_later(make_site, clock):
    """Content put in above the tween has its times after the next request."""

    def configure(config):
        config.add_tween(f"{__name__}.putting_tween_factory")

    clock.now = int(time.time()) + 5
    site = make_site(idle=IDLE, absolute=ABSOLUTE, configure=configure)
    # The last tween added is the outermost.
    browser = site.browser()
    browser.get("/nothing?put=1")
    began = clock.now
    clock.pass_(100)
    browser.get("/get")
    first, seen = times(site, browser)
    assert began - 60 <= first <= began
    assert seen == began + 100


def test_cookie_refilled_from_above_is_a_new_session(make_backend, clock):
    """What is put in above the tween after an end is not as old as before."""

    def configure(config):
        config.add_tween(f"{__name__}.putting_tween_factory")

    clock.now = int(time.time()) + 5
    site = Site(
        make_backend("cookie"), clock, absolute=HOUR, configure=configure
    )
    browser = site.visitor()
    clock.pass_(DAY)
    browser.get("/get?put=1")
    assert browser.get("/get").json == "above"


def test_subrequest_without_tweens(site, clock):
    """A subrequest that no tween sees is limited too."""

    @site.on
    def outer(request):
        sub = Request.blank("/get", cookies=request.cookies)
        return request.invoke_subrequest(sub, use_tweens=False).json

    browser = site.visitor()
    clock.pass_(IDLE)
    assert browser.get("/outer").json == "1"
    clock.pass_(GRACE)
    assert browser.get("/outer").json is None


def test_subrequest_with_tweens(site, clock):
    """Request and subrequest find the same session over, each for itself."""

    @site.on
    def outer(request):
        own = request.session.get("a")
        sub = Request.blank("/get", cookies=request.cookies)
        inner = request.invoke_subrequest(sub, use_tweens=True).json
        return [own, inner]

    browser = site.visitor()
    clock.pass_(IDLE)
    assert browser.get("/outer").json == ["1", "1"]
    clock.pass_(DAY)
    assert browser.get("/outer").json == [None, None]


def test_script(site, clock):
    """A script's request has a limited session too."""
    browser = site.visitor()
    clock.pass_(DAY)
    ((name, value),) = browser.cookies.items()
    request = Request.blank("/", cookies={name: value.strip('"')})
    with prepare(request, registry=site.router.registry) as env:
        assert env["request"].session.get("a") is None
        assert env["request"].session_ended == "absolute"


def test_it_is_still_an_isession(site):
    """What is hooked onto a session leaves it the session it was."""
    seen = []

    @site.on
    def look(request):
        seen.append(verifyObject(ISession, request.session))

    site.visitor().get("/look")
    assert seen == [True]


@OTHERS
def test_retry(make_site, clock):
    """With pyramid_retry, the attempt that counts is limited as any."""
    attempts = []

    def configure(config):
        config.include("pyramid_retry")

    site = make_site(
        idle=IDLE, settings={"retry.attempts": "3"}, configure=configure
    )

    @site.on
    def flaky(request):
        attempts.append(request.session.get("a"))
        if len(attempts) % 3:
            raise RetryableException
        request.session["b"] = "2"
        return request.session["b"]

    browser = site.visitor()
    clock.pass_(IDLE)
    assert browser.get("/flaky").json == "2"
    assert times(site, browser) == [START, START + IDLE]
    clock.pass_(DAY)
    assert browser.get("/flaky").json == "2"
    assert attempts == ["1"] * 3 + [None] * 3
    assert times(site, browser) == [clock.now, clock.now]


# -- at the same time --------------------------------------------------


def test_two_threads_share_nothing(site, clock):
    """One session is over while another, at the same moment, is not."""
    old = site.visitor(a="old")
    clock.pass_(IDLE + GRACE)
    young = site.visitor(a="young")
    site.events.clear()
    barrier = threading.Barrier(2, timeout=30)

    @site.on
    def meet(request):
        barrier.wait()
        before = request.session.get("a")
        barrier.wait()
        return [before, request.session_ended, request.session.get("a")]

    browsers = [same(site, old), same(site, young)]
    answers = [None, None]

    def work(n):
        answers[n] = browsers[n].get("/meet").json

    in_threads(work, 2)
    assert answers == [[None, "idle", None], ["young", None, "young"]]
    assert [event.reason for event in site.events] == ["idle"]


def test_two_threads_of_one_session(site, clock):
    """Two requests that find one session over are both told so or refused."""
    old = site.visitor()
    clock.pass_(DAY)
    answers = []

    def work(n):
        answers.append(same(site, old).get("/get").json)

    in_threads(work, 2)
    assert answers == [None, None]


# -- older and damaged data --------------------------------------------


@OTHERS
@pytest.mark.parametrize("age", [HOUR, ABSOLUTE - 10, ABSOLUTE + 10])
def test_sessions_older_than_the_deployment(backend, clock, age):
    """A session without times is as old as it says, and was used just now."""
    before = Site(backend, clock, is_limited=False)
    browser = before.visitor()
    clock.now = int(time.time()) + age
    site = Site(backend, clock, idle=IDLE, absolute=ABSOLUTE)
    browser = same(site, browser)
    stays = age < ABSOLUTE
    assert browser.get("/get").json == ("1" if stays else None)
    if stays:
        first, seen = times(site, browser)
        # pyramid_session_redis rounds up.
        assert clock.now - age - 60 <= first <= clock.now - age + 1
        assert seen == clock.now


def test_older_session_that_says_nothing_of_its_age(make_backend, clock):
    """A session that was made in the future begins now."""
    backend = make_backend("cookie")
    browser = Site(backend, clock, is_limited=False).visitor()
    clock.now = START - 30 * 365 * DAY
    site = Site(backend, clock, idle=IDLE, absolute=ABSOLUTE)
    browser = same(site, browser)
    browser.get("/get")
    assert times(site, browser) == [clock.now] * 2


def test_older_beaker_session_that_was_cleared(make_backend, clock):
    """Beaker has forgotten when a cleared session began: it begins now."""
    backend = make_backend("beaker")
    before = Site(backend, clock, is_limited=False)
    browser = before.visitor()
    browser.get("/clear")
    browser.get("/put", {"a": "2"})
    site = Site(backend, clock, idle=IDLE, absolute=ABSOLUTE)
    browser = same(site, browser)
    assert browser.get("/get").json == "2"
    assert times(site, browser) == [START] * 2


def test_idle_limit_switched_on_later(backend, clock):
    """Where there was no idle limit before, the session was used now."""
    browser = Site(backend, clock, absolute=DAY).visitor()
    clock.pass_(HOUR)
    site = Site(backend, clock, idle=IDLE, absolute=DAY)
    browser = same(site, browser)
    assert browser.get("/get").json == "1"
    assert times(site, browser) == [START, START + HOUR]


@pytest.mark.parametrize("damage", ["canary", -1, True, 1.5, [START], {}])
def test_damaged_times(site, clock, caplog, damage):
    """Times that cannot be are no times, which the log says once."""

    # The stores say when it began by the clock on the wall.
    clock.now = int(time.time()) + 5
    browser = site.visitor()
    write_raw(site, browser, {FIRST: damage, SEEN: damage})
    clock.pass_(HOUR)
    assert browser.get("/get").json == "1"
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "canary" not in caplog.text
    first, seen = times(site, browser)
    assert isinstance(first, int)
    assert clock.now - HOUR - 60 <= first <= clock.now
    assert seen == clock.now
    caplog.clear()
    browser.get("/get")
    assert caplog.text == ""


def write_raw(site, browser, content):
    """Put something into a session past the tween."""
    limited = site.router.registry.getUtility(ISessionFactory)
    registry = site.router.registry
    registry.registerUtility(limited.inner, ISessionFactory)
    site.views["raw"] = lambda request: request.session.update(content)
    browser.get("/raw")
    registry.registerUtility(limited, ISessionFactory)


def test_one_damaged_time(site, clock):
    """If one time is damaged the other one holds."""
    browser = site.visitor()
    write_raw(site, browser, {SEEN: "x"})
    clock.pass_(ABSOLUTE - 1)
    assert browser.get("/get").json == "1"
    clock.pass_(1)
    assert browser.get("/ended").json == "absolute"


def test_one_damaged_start(make_site, clock):
    """An idle session is over also if its start is damaged."""
    site = make_site(idle=IDLE)
    browser = site.visitor()
    write_raw(site, browser, {FIRST: "x"})
    clock.pass_(IDLE + GRACE)
    assert browser.get("/ended").json == "idle"


@pytest.mark.parametrize(
    ("back", "stays"), [(1, True), (HOUR, True), (DAY, True), (DAY + 1, False)]
)
def test_clock_that_goes_back(site, clock, back, stays):
    """Times ahead of the clock count as now, up to a day; more is no time."""
    browser = site.visitor()
    clock.pass_(-back)
    assert browser.get("/get").json == ("1" if stays else None)


def test_clock_that_went_back_is_put_right(site, clock):
    """A last activity far ahead of the clock is corrected by the next one."""
    browser = site.visitor()
    clock.pass_(-HOUR)
    browser.get("/get")
    assert times(site, browser)[1] == clock.now


def test_beaker_sessions_in_cookies(make_backend, clock):
    """Beaker's cookie sessions, which cannot say if they are new, too."""
    backend = make_backend("beaker")
    backend.options = {
        "type": "cookie",
        "key": "session",
        "validate_key": "v" * 64,
        "data_serializer": "json",
    }
    site = Site(backend, clock, idle=IDLE)
    assert "Set-Cookie" not in site.browser().get("/get").headers
    browser = site.visitor()
    clock.pass_(IDLE)
    assert browser.get("/get").json == "1"
    clock.pass_(DAY)
    assert browser.get("/ended").json == "idle"
    assert browser.get("/get").json is None


# -- with the package's other part -------------------------------------


def both(backend, clock, settings):
    """Make an application with sessions of this package and the tween."""
    return Site(
        backend,
        clock,
        idle=IDLE,
        absolute=ABSOLUTE,
        settings={f"limitedsession.{k}": v for k, v in settings.items()},
    )


@pytest.mark.parametrize(
    ("settings", "seconds", "reason"),
    [
        ({"idle_timeout": "10m", "touch_interval": "1s"}, 600, "idle"),
        ({"absolute_timeout": "20m"}, 1200, "absolute"),
        ({}, IDLE + GRACE, "idle"),
        ({"idle_timeout": "40m", "touch_interval": "1s"}, 2099, "idle"),
    ],
)
def test_limits_of_both_parts(make_backend, clock, settings, seconds, reason):
    """Of the limits of both parts, the one that comes first counts."""
    site = both(make_backend("ours"), clock, settings)
    browser = site.visitor()
    clock.pass_(seconds - 1)
    passive = {"X-Session-Passive": "true"}
    assert browser.get("/get", headers=passive).json == "1"
    left = browser.get("/left").json
    assert left[reason] == 1
    clock.pass_(1)
    assert browser.get("/ended").json == reason
    assert [event.reason for event in site.events] == [reason]


def test_subrequest_that_shares_the_session(make_backend, clock):
    """A subrequest that has its parent's session changes no times of it."""
    site = both(make_backend("ours"), clock, {})

    @site.on
    def outer(request):
        request.session.invalidate()
        request.session["a"] = "2"
        sub = request.copy()
        sub.path_info = "/get"
        return request.invoke_subrequest(sub, use_tweens=True).json

    browser = site.visitor()
    clock.pass_(100)
    assert browser.get("/outer").json == "2"
    assert times(site, browser) == [START + 100] * 2


@pytest.mark.parametrize("is_first", [True, False])
def test_wrong_settings_of_both_parts(is_first):
    """Wrong keys of both parts are in one message, in any order."""
    parts = ["pyramid_limitedsession.expiry", "pyramid_limitedsession"]
    keys = ("idle_timeout", "expiry.absolute_timeout", "expiry.what", "which")
    config = Configurator(
        settings={f"limitedsession.{key}": "x" for key in keys}
    )
    for part in parts if is_first else reversed(parts):
        config.include(part)
    with pytest.raises(ConfigurationError) as caught:
        config.make_wsgi_app()
    assert all(f"limitedsession.{key}" in str(caught.value) for key in keys)


# -- failures ----------------------------------------------------------


def break_times(site):
    """Let sessions accept anything but the times."""

    @site.on
    def refuse_times(request):
        kind = type(request.session)

        class Refusing(kind):
            def __setitem__(self, key, value):
                if key in (FIRST, SEEN):
                    raise OSError("canary")
                super().__setitem__(key, value)

        request.session.__class__ = Refusing
        request.session["a"] = "1"
        if "fail" in request.params:
            raise ZeroDivisionError("mine")


def test_times_that_cannot_be_written(make_backend, clock, caplog):
    """A failure to write is raised, unless it would mask another one."""
    site = Site(make_backend("cookie"), clock, idle=IDLE)
    break_times(site)
    with pytest.raises(OSError, match="canary"):
        site.browser().get("/refuse_times")
    with pytest.raises(ZeroDivisionError, match="mine"):
        site.browser().get("/refuse_times?fail=1")
    assert "a session's times were not written: OSError" in caplog.text
    assert "canary" not in caplog.text


def test_session_that_cannot_be_ended(make_backend, clock):
    """If ending a session fails nobody gets at its content."""
    backend = make_backend("redis")
    site = Site(backend, clock, idle=IDLE)
    seen = []

    @site.on
    def stubborn(request):
        for _ in range(2):
            try:
                seen.append(request.session.get("a"))
            except OSError:
                seen.append("failed")

    browser = site.visitor()
    clock.pass_(DAY)

    def delete(*names):
        raise OSError

    backend.client.delete = delete
    browser.get("/stubborn")
    del backend.client.delete
    assert seen == ["failed"] * 2


# -- docs/expiry.rst ----------------------------------------------------

DOCS = (Path(__file__).parent.parent / "docs" / "expiry.rst").read_text(
    encoding="utf-8"
)
EXAMPLES = [
    dedent(block)
    for block in re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", DOCS)
]


@pytest.mark.parametrize("example", EXAMPLES[1:])
def test_documented_examples(tmp_path, example):
    """The page's examples are what an application can have."""
    ini = re.search(r"code-block:: ini\n\n((?:    .*\n)+)", DOCS)[1]
    settings = dict(line.strip().split(" = ") for line in ini.splitlines())
    with Configurator(settings=settings) as config:
        names = {"config": config, "secret": "s" * 64, "data_dir": tmp_path}
        exec(example, names)  # noqa: S102 - our own page
        app = config.make_wsgi_app()
    used = app.registry.getUtility(ISessionFactory)
    assert isinstance(used, LimitedFactory)
    assert used.inner is names["factory"]


def test_every_kind_has_its_example():
    """There is an example for each of the three other stores."""
    assert len(EXAMPLES) == 4
    assert EXAMPLES[0].strip() in EXAMPLES[1]


# -- wiring ------------------------------------------------------------


def start(settings=None, configure=lambda config: None, has_sessions=True):
    """Start an application with signed cookies."""
    given = {f"{EXPIRY}idle_timeout": "30m", **(settings or {})}
    with Configurator(settings=given) as config:
        config.include("pyramid_limitedsession.expiry")
        if has_sessions:
            config.set_session_factory(lambda request: {})
        configure(config)
        return config.make_wsgi_app(), config


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("expiry.idle_timeout", "soon", "say it like '30m'"),
        ("expiry.idle_timeout", "0", "say it like '30m'"),
        ("expiry.absolute_timeout", "-1", "say it like '12h'"),
        ("expiry.idle_timout", "1h", "did you mean limitedsession.expiry.id"),
        ("idle_timeout", "1h", "mean limitedsession.expiry.idle_timeout?"),
        ("max_session", "1h", "does not include pyramid_limitedsession"),
        ("passive", "poll", "limitedsession.passive"),
    ],
)
def test_wrong_settings(key, value, text):
    """A wrong or unknown key does not start, and its text helps."""
    with pytest.raises(ConfigurationError) as caught:
        start({f"limitedsession.{key}": value})
    assert f"limitedsession.{key}" in str(caught.value)
    assert text in str(caught.value)


def test_all_wrong_settings_at_once():
    """One message names every wrong key."""
    keys = ("idle_timeout", "expiry.absolute_timeout", "expiry.what")
    with pytest.raises(ConfigurationError) as caught:
        start({f"limitedsession.{key}": "x" for key in keys})
    assert all(f"limitedsession.{key}" in str(caught.value) for key in keys)


def test_settings_may_be_python_values():
    """Settings given in Python may be numbers and None."""
    app, _ = start(
        {f"{EXPIRY}idle_timeout": 90, f"{EXPIRY}absolute_timeout": None}
    )
    limits = app.registry["pyramid_limitedsession.expiry"].limits
    assert (limits.idle, limits.absolute, limits.touch_interval) == (
        90,
        None,
        10,
    )


def test_without_session_factory():
    """An application without sessions does not start."""
    with pytest.raises(ConfigurationError, match="set_session_factory"):
        start(has_sessions=False)


def test_off_it_asks_for_nothing():
    """With neither limit set, no session factory is asked for."""
    start({f"{EXPIRY}idle_timeout": "none"}, has_sessions=False)


def test_factory_set_before_or_after():
    """The factory is wrapped whenever it was set, once, however often."""
    app, config = start()
    factory = app.registry.getUtility(ISessionFactory)
    assert isinstance(factory, LimitedFactory)
    assert not isinstance(factory.inner, LimitedFactory)
    config.make_wsgi_app()
    assert app.registry.getUtility(ISessionFactory) is factory


@pytest.mark.parametrize(
    ("tweens", "starts"),
    [
        (f"{TWEEN}", True),
        (f"{TWEEN} {EXCVIEW}", True),
        (f"{TM_TWEEN} {TWEEN} {EXCVIEW}", True),
        (f"{EXCVIEW}", False),
        (f"{EXCVIEW} {TWEEN}", False),
        (f"{TWEEN} {TM_TWEEN} {EXCVIEW}", False),
    ],
)
def test_explicit_tweens(tweens, starts):
    """An explicit list of tweens must have ours, in its place."""
    settings = {"pyramid.tweens": tweens}

    def configure(config):
        config.include("pyramid_tm")

    if starts:
        start(settings, configure)
        return
    with pytest.raises(ConfigurationError, match="must name"):
        start(settings, configure)


def test_tween_alone(make_backend, clock):
    """The tween without the rest, in an explicit list, does nothing."""
    site = Site(
        make_backend("cookie"),
        clock,
        is_limited=False,
        settings={"pyramid.tweens": TWEEN},
    )
    assert site.visitor().get("/get").json == "1"


def test_session_that_takes_no_attributes(clock):
    """A session that cannot be hooked is limited all the same."""

    class Slots(dict):
        __slots__ = ()

        def invalidate(self):
            self.clear()

    stored = Slots(a="1")
    with Configurator(settings={f"{EXPIRY}absolute_timeout": "1h"}) as config:
        config.set_session_factory(lambda request: stored)
        config.include("pyramid_limitedsession.expiry")
        config.set_expiry_clock(clock)
        config.add_route("get", "/")
        config.add_view(
            lambda request: request.session.get("a"),
            route_name="get",
            renderer="json",
        )
        app = config.make_wsgi_app()
    assert Request.blank("/").get_response(app).json == "1"
    clock.pass_(HOUR)
    assert Request.blank("/").get_response(app).json is None
    assert dict(stored) == {}
