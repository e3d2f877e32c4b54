"""Named sets of limits, through real applications."""

from __future__ import annotations

import logging

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPFound

from pyramid_limitedsession import SessionProfileError
from pyramid_limitedsession.settings import read_settings
from tests.apps import cookie_of, count_dead, trim
from tests.threads import same_session

PREFIX = "limitedsession."
HOUR, DAY = 3600, 86400
# Idle limits that end with the second: a touch interval of one.
SETTINGS = {
    f"{PREFIX}idle_timeout": "2h",
    f"{PREFIX}touch_interval": "1s",
    f"{PREFIX}profile.admin.idle_timeout": "15m",
    f"{PREFIX}profile.admin.absolute_timeout": "1h",
    f"{PREFIX}profile.remember-me.idle_timeout": "30d",
    f"{PREFIX}profile.remember-me.cookie_max_age": "30d",
}


def add_views(world):
    """Add the views that these tests use."""

    @world.on("use")
    def _(request):
        session = request.session
        session.update(
            {k: v for k, v in request.params.items() if k != "profile"}
        )
        session.use_profile(request.params["profile"] or None)
        return {}

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        session = request.session
        return {
            **session,
            "ended": session.ended,
            "left": session.time_left,
            "profile": session.profile,
            "expires_in": session.expires_in,
        }

    return world


@pytest.fixture(name="make_profiled")
def _make_profiled(make_world_with):
    """Return a function that makes worlds with profiles."""
    return make_world_with(SETTINGS, add_views)


@pytest.fixture(name="world")
def _world(make_profiled, database, mode):
    return make_profiled(database, mode)


# -- the limits hold ---------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "idle"),
    [("", 2 * HOUR), ("admin", 900), ("remember-me", 30 * DAY)],
)
def test_p7_each_profile_has_its_idle_limit(world, profile, idle):
    """P7: a second before its limit it is there, on the second it is not."""
    early, late = world.browser(), world.browser()
    for browser in (early, late):
        browser.get(f"/use?profile={profile}&a=1")
    world.clock.pass_(idle - 1)
    answer = early.get("/get").json
    assert (answer["a"], answer["ended"]) == ("1", None)
    assert idle == answer["left"][0]
    world.clock.pass_(1)
    assert late.get("/get").json["ended"] == "idle"


def test_p7_an_absolute_limit_of_a_profile_alone(make_profiled):
    """P7: only the profile has one; it holds however busy the session is."""
    world = make_profiled()
    admin, plain = world.browser(), world.browser()
    admin.get("/use?profile=admin&a=1")
    plain.get("/set?a=1")
    for _ in range(5):
        world.clock.pass_(719)
        assert admin.get("/get").json["ended"] is None
        plain.get("/get")
    assert [900, 5] == admin.get("/get").json["left"]
    world.clock.pass_(5)
    assert admin.get("/get").json["ended"] == "absolute"
    assert plain.get("/get").json["ended"] is None


def test_the_name_is_in_the_row(world):
    """The row says which profile it has; None again is no profile."""
    browser = world.browser()
    browser.get("/use?profile=admin&a=1")
    assert ["admin"] == [row.profile for row in world.rows()]
    browser.get("/set?b=2")
    assert ["admin"] == [row.profile for row in world.rows()]
    browser.get("/use?profile=")
    assert [None] == [row.profile for row in world.rows()]
    assert 2 * HOUR == browser.get("/get").json["left"][0]


def test_a_profile_alone_is_a_change(world):
    """A profile is stored also if nothing else of the session changed."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    browser.get("/use?profile=admin")
    assert ["SELECT", "UPDATE"] == world.count()
    browser.get("/use?profile=admin")
    assert ["SELECT"] == world.count()


def test_p5_a_profile_without_content_makes_no_row(make_profiled):
    """P5: a session that stays empty is not stored, whatever its profile."""
    world = make_profiled()
    answer = world.browser().get("/use?profile=admin")
    assert ([], []) == (world.rows(), cookie_of(answer))


def test_what_is_left_counts_from_the_new_profile(make_profiled):
    """In the request that chooses a profile its limits count already."""
    world = make_profiled()

    @world.on("choose")
    def _(request):
        request.session["a"] = 1
        before = request.session.expires_in
        request.session.use_profile("admin")
        return [before, request.session.expires_in]

    assert [2 * HOUR, 900] == world.browser().get("/choose").json


def test_rotation_keeps_the_profile_and_invalidate_does_not(make_profiled):
    """A rotated session is the same session; an invalidated one is over."""
    world = make_profiled()

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("out")
    def _(request):
        request.session.invalidate()
        request.session["a"] = 2
        return {}

    browser = world.browser()
    browser.get("/use?profile=admin&a=1")
    browser.get("/rotate")
    assert ["admin"] == [row.profile for row in world.rows()]
    browser.get("/out")
    assert [None] == [row.profile for row in world.rows()]


# -- names that do not exist -------------------------------------------


@pytest.mark.parametrize("name", ["boss", "", "Admin", "admin ", 7, b"admin"])
def test_an_unknown_name_is_an_error_at_once(make_profiled, name):
    """The call itself raises, and names what there is; nothing is stored."""
    world = make_profiled()

    @world.on("boss")
    def _(request):
        request.session["a"] = 1
        with pytest.raises(SessionProfileError) as caught:
            request.session.use_profile(name)
        assert name == caught.value.name
        return str(caught.value)

    text = world.browser().get("/boss").json
    assert text == (
        f"there is no profile {name!r}; configured are: 'admin', 'remember-me'"
    )
    assert [None] == [row.profile for row in world.rows()]


def test_an_unknown_name_says_so_where_there_are_none(make_world):
    """Without any profile the error says that there is none."""
    world = make_world()

    @world.on("boss")
    def _(request):
        with pytest.raises(SessionProfileError, match="configured are: none"):
            request.session.use_profile("admin")
        return {}

    world.browser().get("/boss")


def test_a_profile_that_is_gone_has_the_strictest_limits(world, caplog):
    """Whatever it stood for, none in force is stricter; the log warns."""
    idle, total = world.browser(), world.browser()
    for browser in (idle, total):
        browser.get("/use?profile=remember-me&a=1")
    world.execute(world.table.update().values(profile="gone"))
    with caplog.at_level(logging.WARNING, "pyramid_limitedsession"):
        assert [900, 3600] == idle.get("/get").json["left"]
    (record,) = caplog.records
    assert "has the profile 'gone', which is not configured any more" in (
        record.getMessage()
    )
    for _ in range(4):
        world.clock.pass_(899)
        assert total.get("/get").json["ended"] is None
    assert idle.get("/get").json["ended"] == "idle"
    world.clock.pass_(4)
    assert total.get("/get").json["ended"] == "absolute"


def test_who_is_gone_may_choose_another(world):
    """A session whose profile is not configured any more can change it."""
    browser = world.browser()
    browser.get("/use?profile=admin&a=1")
    world.execute(world.table.update().values(profile="gone"))
    browser.get("/use?profile=remember-me")
    answer = browser.get("/get").json
    assert (30 * DAY, "remember-me") == (answer["left"][0], answer["profile"])


# -- a changed setting -------------------------------------------------


def test_a_changed_setting_holds_at_once(make_profiled, database, mode):
    """Sessions that were made before have the new limits, shorter or not."""
    old = make_profiled(database, mode)
    browsers = [old.browser() for _ in range(3)]
    for browser in browsers:
        browser.get("/use?profile=admin&a=1")
    cookies = [browser.cookies["session"] for browser in browsers]
    for given, seconds in (("1m", 60), ("3h", 3 * HOUR)):
        new = make_profiled(
            database,
            mode,
            table=old.table.name,
            settings={
                f"{PREFIX}profile.admin.idle_timeout": given,
                f"{PREFIX}profile.admin.absolute_timeout": "none",
            },
        )
        browser = new.browser()
        browser.set_cookie("session", cookies.pop())
        assert [seconds, None] == browser.get("/get").json["left"]
        new.clock.pass_(seconds)
        assert browser.get("/get").json["ended"] == "idle"
        new.clock.pass_(-seconds)


# -- two requests at once ----------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("use?profile=admin", "set?b=2", "admin"),
        ("set?b=2", "use?profile=admin", "admin"),
        ("use?profile=remember-me", "use?profile=admin", "admin"),
        ("use?profile=", "set?b=2", None),
    ],
)
def test_p2_profiles_of_parallel_requests(
    make_profiled, first, second, expected
):
    """P2: who did not choose keeps what the other chose; else the later."""
    world = make_profiled()
    browser = world.browser()
    browser.get("/use?profile=remember-me&a=1")
    (other,) = same_session(world, browser, 1)
    name, query = second.split("?")

    @world.on("slow")
    def _(request):
        assert request.session["a"] == "1"
        other.get(f"/{first}")
        return world.views[name](request)

    browser.get(f"/slow?{query}")
    (row,) = world.rows()
    assert expected == row.profile
    assert '"a":"1"' in row.data


def test_a_late_touch_leaves_the_other_s_limits(world):
    """A request that only read knows nothing of the profile chosen meanwhile.

    When cleaning may look at the row follows from the new one.
    """
    browser = world.browser()
    browser.get("/use?profile=remember-me&a=1")
    (other,) = same_session(world, browser, 1)
    world.clock.pass_(60)

    @world.on("slow")
    def _(request):
        assert request.session["a"] == "1"
        world.clock.pass_(-1)
        other.get("/use?profile=admin")
        world.clock.pass_(1)
        return {}

    browser.get("/slow")
    (row,) = world.rows()
    assert row.profile == "admin"
    limits = world.factory.settings.policy.profiles.of("admin").limits
    expected = limits.coarse_expiry(row.created_at, row.updated_at - 1)
    assert expected == row.expires_at


def test_max_age_is_that_of_the_row(make_profiled):
    """Overwritten with ``on_conflict``, the content has the row's profile."""
    world = make_profiled(settings={f"{PREFIX}on_conflict": "overwrite"})
    browser = world.browser()
    browser.get("/set?a=1")
    (other,) = same_session(world, browser, 1)

    @world.on("slow")
    def _(request):
        assert request.session["a"] == "1"
        other.get("/use?profile=remember-me")
        request.session["b"] = "2"
        return {}

    (cookie,) = cookie_of(browser.get("/slow"))
    assert f"Max-Age={30 * DAY};" in cookie
    assert ["remember-me"] == [row.profile for row in world.rows()]


# -- the transaction decides -------------------------------------------


def test_p4_an_abort_discards_the_profile(world, caplog):
    """P4: the profile goes with the request's other changes; the log says."""
    browser = world.browser()
    browser.get("/use?profile=admin&a=1")

    @world.on("fail")
    def _(request):
        request.session.use_profile("remember-me")
        raise HTTPFound("/")

    with caplog.at_level(logging.WARNING, "pyramid_limitedsession"):
        browser.get("/fail")
    assert ["admin"] == [row.profile for row in world.rows()]
    assert "(use_profile())" in caplog.text


def test_a_savepoint_restores_the_profile(world):
    """Rolled back to a savepoint, the session has the profile of then."""

    @world.on("savepoint")
    def _(request):
        session = request.session
        session["a"] = 1
        session.use_profile("admin")
        savepoint = request.tm.savepoint()
        session.use_profile("remember-me")
        savepoint.rollback()
        return {}

    # zope.sqlalchemy has no savepoints on SQLite; no dbsession is used.
    world.browser().get("/savepoint")
    assert ["admin"] == [row.profile for row in world.rows()]


# -- trimming ----------------------------------------------------------


def test_p8_trimming_knows_the_profiles(world):
    """P8: count, trim and self-cleaning take what the load refuses."""
    for profile in ("", "admin", "remember-me", "remember-me"):
        world.browser().get(f"/use?profile={profile}&a=1")
    gone = world.rows()[-1].id
    table = world.table
    world.execute(
        table.update().where(table.c.id == gone).values(profile="gone")
    )
    profiles = world.factory.settings.policy.profiles

    def dead():
        cutoffs = profiles.cutoffs(int(world.clock()))
        return count_dead(world.store, cutoffs)

    counts = []
    for seconds in (899, 1, 2 * HOUR - 901, 1, 30 * DAY - 2 * HOUR - 1, 1):
        world.clock.pass_(seconds)
        counts.append(dead())
    assert [0, 2, 2, 3, 3, 4] == counts
    cutoffs = profiles.cutoffs(int(world.clock()) - 1)
    assert 3 == trim(world.store, cutoffs, most=9)
    assert ["remember-me"] == [row.profile for row in world.rows()]
    cutoffs = profiles.cutoffs(int(world.clock()) + 9 * DAY)
    assert 1 == world.store.clean(cutoffs=cutoffs, most=9)


# -- settings ----------------------------------------------------------


def profiles_of(**given):
    """Return the profiles that these settings make."""
    settings = read_settings({PREFIX + k: v for k, v in given.items()})
    return settings.policy.profiles


def test_what_a_profile_does_not_say_is_as_without_it():
    """Each of its settings that is not there is the application's own."""
    profiles = profiles_of(
        absolute_timeout="12h",
        cookie_max_age="1h",
        **{"profile.admin.idle_timeout": "15m"},
    )
    admin = profiles.of("admin")
    assert (900, 12 * HOUR, 45, 3600) == (
        admin.limits.idle,
        admin.limits.absolute,
        admin.limits.touch_interval,
        admin.cookie_max_age,
    )


@pytest.mark.parametrize("off", ["none", None])
def test_a_profile_can_switch_a_limit_off(off):
    """``none`` in a profile is off, not as without it."""
    profiles = profiles_of(**{"profile.bot.idle_timeout": off})
    assert profiles.of("bot").limits.idle is None
    assert 7200 == profiles.default.limits.idle


def test_the_strictest_limits_are_those_of_all():
    """Each limit is the shortest anywhere, and the cookie a short one."""
    profiles = profiles_of(
        idle_timeout="none",
        **{
            "profile.a.idle_timeout": "1h",
            "profile.b.absolute_timeout": "2h",
            "profile.b.cookie_max_age": "30d",
        },
    )
    strict = profiles.of("gone")
    assert (3600, 7200) == (strict.limits.idle, strict.limits.absolute)
    assert strict.cookie_max_age is None


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (
            "profile.admin.idle_timeot",
            "15m",
            "limitedsession.profile.admin.idle_timeot is not a setting; did "
            "you mean limitedsession.profile.admin.idle_timeout?",
        ),
        (
            "profile.admin",
            "15m",
            "limitedsession.profile.admin is not a setting; did you mean "
            "limitedsession.profile.admin.idle_timeout?",
        ),
        (
            "profile.idle_timeout",
            "15m",
            "limitedsession.profile.idle_timeout is not a setting; did you "
            "mean limitedsession.profile.NAME.idle_timeout?",
        ),
        (
            "profile.admin.idle_timeout",
            "soon",
            "limitedsession.profile.admin.idle_timeout cannot be 'soon'; say "
            "it like '15m' or 'none'",
        ),
        (
            "profile.admin.absolute_timeout",
            "",
            "limitedsession.profile.admin.absolute_timeout cannot be ''; say "
            "it like '12h' or 'none'",
        ),
        (
            "profile.a b.idle_timeout",
            "1h",
            "limitedsession.profile.a b.idle_timeout is of a profile that "
            "cannot have this name, 'a b'; say it like 'remember-me'",
        ),
        (
            "profile.a.b.idle_timeout",
            "1h",
            "limitedsession.profile.a.b.idle_timeout is of a profile that "
            "cannot have this name, 'a.b'; say it like 'remember-me'",
        ),
        (
            "profile." + 41 * "x" + ".idle_timeout",
            "1h",
            f"limitedsession.profile.{41 * 'x'}.idle_timeout is of a profile "
            f"that cannot have this name, {41 * 'x'!r}; say it like "
            "'remember-me'",
        ),
    ],
)
def test_p10_wrong_settings_of_a_profile(key, value, problem):
    """P10: the error names the key, what is wrong, and an accepted form."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings({PREFIX + key: value})
    assert [problem] == [
        line.strip() for line in str(caught.value).splitlines()[1:]
    ]


def test_p10_a_touch_interval_that_is_too_long_for_a_profile():
    """P10: activity must be written more often than any profile's limit."""
    with pytest.raises(ConfigurationError) as caught:
        profiles_of(
            touch_interval="1m", **{"profile.admin.idle_timeout": "1m"}
        )
    assert "touch_interval is 60 seconds, which is not less than " in (
        str(caught.value)
    )
    assert "profile.admin.idle_timeout, 60 seconds" in str(caught.value)
