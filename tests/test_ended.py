"""Why a session is over: the reason, its event and its predicate."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPFound

from pyramid_limitedsession import (
    SessionExpired,
    SessionRefused,
    SessionRevoked,
    SessionUnreadable,
)
from tests.apps import START, cookie_of
from tests.threads import in_threads, same_session

DAY = 86400
SETTINGS = {
    "limitedsession.idle_timeout": "1h",
    "limitedsession.absolute_timeout": "10h",
    "limitedsession.touch_interval": "1s",
    "limitedsession.user_key": "user",
}
REASONS = ("idle", "absolute", "revoked", "limit", "unreadable")


def add_views(world):
    """Add the views that these tests use."""

    @world.on("in")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return [dict(request.session), request.session.ended]

    @world.on("others")
    def _(request):
        request.user_sessions.end_all(request.session["user"])
        return {}

    @world.on("all")
    def _(request):
        request.user_sessions.end_all(
            request.params["user"], except_current=False
        )
        return {}

    @world.on("list")
    def _(request):
        return [
            [each.id, each.created, each.seen, each.profile, each.is_current]
            for each in request.user_sessions.list(request.params["user"])
        ]

    return world


@pytest.fixture(name="make_ended")
def _make_ended(make_world):
    """Return a function that makes worlds whose sessions have users."""

    def make(database="sqlite", mode="separate", **options):
        settings = SETTINGS | options.pop("settings", {})
        return add_views(
            make_world(database, mode, settings=settings, **options)
        )

    return make


@pytest.fixture(name="world")
def _world(make_ended, database, mode):
    return make_ended(database, mode)


def signed_in(world, user="ann", number=1):
    """Return browsers of so many sessions of a user."""
    browsers = [world.browser() for _ in range(number)]
    for browser in browsers:
        browser.get(f"/in?user={user}")
    return browsers


def make_end(world, reason):
    """Return a browser whose session is over for this reason."""
    (browser,) = signed_in(world)
    values = {"limit": {"ended": "limit", "data": ""}}
    values["unreadable"] = {"data": "{"}
    if reason in values:
        world.execute(world.table.update().values(**values[reason]))
    elif reason == "revoked":
        world.browser().get("/all?user=ann")
    else:
        for _ in range(10 if reason == "absolute" else 0):
            world.clock.pass_(3599)
            browser.get("/get")
        world.clock.pass_(3600)
    return browser


# -- the reason --------------------------------------------------------


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_is_told_once(world, reason):
    """The next request knows why; then the browser has forgotten it."""
    browser = make_end(world, reason)
    answer = browser.get("/get")
    assert [{}, reason] == answer.json
    (cookie,) = cookie_of(answer) or [""]
    # What is unreadable may be readable again: the cookie stays.
    assert ("Max-Age=0" in cookie) is (reason != "unreadable")
    if reason != "unreadable":
        assert [{}, None] == browser.get("/get").json
        assert [] == cookie_of(browser.get("/get"))


@pytest.mark.parametrize("reason", REASONS)
def test_who_goes_on_has_a_new_session(world, reason):
    """What is put in after the end is another session, with its own row."""
    browser = make_end(world, reason)
    (old,) = world.rows()
    browser.get("/in?user=bob")
    rows = world.rows()
    assert [old] == rows[:1]
    assert [{"user": "bob"}, None] == browser.get("/get").json
    assert "bob" == rows[1].user_id


@pytest.mark.parametrize("reason", REASONS)
def test_signing_out_of_what_is_over_deletes_the_row(world, reason):
    """``invalidate`` needs no session that is still valid."""

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    browser = make_end(world, reason)
    assert "Max-Age=0" in cookie_of(browser.get("/out"))[0]
    assert [] == world.rows()


def test_nothing_is_told_without_an_end(world):
    """No cookie, a garbled one, an unknown one, a live session: None."""
    (browser,) = signed_in(world)
    assert [{"user": "ann"}, None] == browser.get("/get").json
    for cookie in (None, "x", 43 * "A"):
        other = world.browser()
        if cookie:
            other.set_cookie("session", cookie)
        assert [{}, None] == other.get("/get").json


def test_a_reason_that_nobody_knows_is_a_revocation(world):
    """Whatever another release wrote there, the session is over."""
    (browser,) = signed_in(world)
    world.execute(world.table.update().values(ended="by decree"))
    assert [{}, "revoked"] == browser.get("/get").json


# -- the event ---------------------------------------------------------

EVENTS = {
    "idle": SessionExpired,
    "absolute": SessionExpired,
    "revoked": SessionRevoked,
    "limit": SessionRevoked,
    "unreadable": SessionUnreadable,
}


def test_a_poll_is_no_event(make_ended):
    """What the next request will find too is notified there."""
    told = []

    def subscribe(config):
        config.add_subscriber(told.append, SessionRefused)

    world = make_ended(configure=subscribe)
    browser = make_end(world, "idle")
    for _ in range(2):
        browser.get("/get", headers={"X-Session-Passive": "1"})
    assert [] == told
    browser.get("/get")
    assert 1 == len(told)


@pytest.mark.parametrize("reason", REASONS)
def test_the_event_tells_the_reason_once_per_request(make_ended, reason):
    """A subscriber gets the request and the reason, and may look inside."""
    told = []

    def subscribe(config):
        def tell(event):
            assert {} == dict(event.request.session)
            told.append((type(event), event.reason))

        config.add_subscriber(tell, SessionRefused)
        config.add_subscriber(tell, EVENTS[reason])

    world = make_ended(configure=subscribe)
    browser = make_end(world, reason)

    @world.on("twice")
    def _(request):
        return [dict(request.session), len(request.session)]

    assert [] == told
    browser.get("/twice")
    assert 2 * [(EVENTS[reason], reason)] == told


def test_p6_an_event_shows_no_secret(make_ended):
    """P6: neither its attributes nor its repr hold a token, key or data."""
    told = []

    def subscribe(config):
        config.add_subscriber(told.append, SessionRefused)

    world = make_ended(configure=subscribe)
    browser = make_end(world, "idle")
    token = browser.cookies["session"]
    browser.get("/get")
    (event,) = told
    assert {"request", "reason"} == set(vars(event))
    for secret in (token, world.rows()[0].session_id[3:]):
        assert secret not in repr(event)


# -- the predicate -----------------------------------------------------


@pytest.fixture(name="pages")
def _pages(make_ended):
    def configure(config):
        config.add_route("page", "/pages/page")
        for ended in ("idle", ("revoked", "limit"), None):
            options = {} if ended is None else {"session_ended": ended}
            config.add_view(
                lambda request, ended=ended: [ended, request.session_ended],
                route_name="page",
                renderer="json",
                **options,
            )

    return make_ended(configure=configure)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("idle", ["idle", "idle"]),
        ("revoked", [["revoked", "limit"], "revoked"]),
        ("limit", [["revoked", "limit"], "limit"]),
        ("absolute", [None, "absolute"]),
    ],
)
def test_a_view_for_each_reason(pages, reason, expected):
    """``session_ended="idle"`` finds the page for "you were signed out"."""
    assert expected == make_end(pages, reason).get("/pages/page").json


def test_the_page_of_who_was_not_signed_out(pages):
    """Without an end the predicate is not true."""
    assert [None, None] == pages.browser().get("/pages/page").json
    (browser,) = signed_in(pages)
    assert [None, None] == browser.get("/pages/page").json


@pytest.mark.parametrize("wrong", ["ended", "", ("idle", "x"), "Idle"])
def test_p10_a_reason_that_does_not_exist(make_ended, wrong):
    """P10: a predicate that could never be true does not start."""

    def configure(config):
        config.add_view(lambda request: {}, session_ended=wrong)

    with pytest.raises(ConfigurationError, match="it is one of 'idle'"):
        make_ended(configure=configure)


# -- revoking ----------------------------------------------------------


def test_the_others_are_signed_out(world):
    """All sessions of the user but this one, and of nobody else."""
    here, there, phone = signed_in(world, number=3)
    (bob,) = signed_in(world, "bob")
    here.get("/others")
    assert [{"user": "ann"}, None] == here.get("/get").json
    assert [{"user": "bob"}, None] == bob.get("/get").json
    for browser in (there, phone):
        assert [{}, "revoked"] == browser.get("/get").json


def test_a_tombstone_has_no_data(world):
    """What is left of a revoked session is its key, its times, the reason."""
    signed_in(world)
    (before,) = world.rows()
    world.browser().get("/all?user=ann")
    (after,) = world.rows()
    assert ("", "revoked") == (after.data, after.ended)
    assert before.session_id == after.session_id
    assert before.expires_at == after.expires_at


@pytest.mark.parametrize("reason", ["idle", "revoked"])
def test_cleaning_leaves_time_to_tell_why(world, reason):
    """A row is kept for as long again as the limit that ended it.

    A visitor who comes back to his desk is told why he is signed out.
    """
    browser = make_end(world, reason)
    profiles = world.factory.settings.policy.profiles

    def clean():
        cutoffs = profiles.cutoffs(int(world.clock()))
        return world.store.clean(cutoffs=cutoffs, most=9)

    world.clock.pass_(3599 if reason == "idle" else 7199)
    assert 0 == clean()
    assert [{}, reason] == browser.get("/get").json
    # Rounded up to an eighth of the limit.
    world.clock.pass_(451)
    assert 1 == clean()


def test_a_tombstone_goes_when_its_session_would_have(world):
    """Trimming takes it as it would have taken the session."""
    signed_in(world)
    world.browser().get("/all?user=ann")
    profiles = world.factory.settings.policy.profiles
    counts = []
    for seconds in (3599, 1):
        world.clock.pass_(seconds)
        cutoffs = profiles.cutoffs(int(world.clock()))
        counts.append(world.store.count_dead(cutoffs=cutoffs))
    assert [0, 1] == counts


def test_a_tombstone_without_limits_goes_after_thirty_days(
    make_ended, database, mode
):
    """A session that no limit ends leaves no row for ever either."""
    world = make_ended(
        database,
        mode,
        settings={
            "limitedsession.idle_timeout": "none",
            "limitedsession.absolute_timeout": "none",
        },
    )
    signed_in(world)
    (live,) = signed_in(world, "bob")
    world.browser().get("/all?user=ann")
    profiles = world.factory.settings.policy.profiles
    counts = []
    for seconds in (30 * DAY - 1, 1):
        world.clock.pass_(seconds)
        cutoffs = profiles.cutoffs(int(world.clock()))
        counts.append(world.store.clean(cutoffs=cutoffs, most=9))
    assert [0, 1] == counts
    assert [{"user": "bob"}, None] == live.get("/get").json


def test_p4_a_revocation_is_durable(world):
    """P4: also if the request that made it raises and is rolled back."""
    here, there = signed_in(world, number=2)

    @world.on("fail")
    def _(request):
        request.session["a"] = 1
        request.user_sessions.end_all("ann")
        raise HTTPFound("/")

    here.get("/fail")
    assert [{"user": "ann"}, None] == here.get("/get").json
    assert [{}, "revoked"] == there.get("/get").json


def test_a_revocation_is_part_of_the_transaction(world):
    """Until the request commits, the other sessions are there."""
    here, there = signed_in(world, number=2)
    during = []

    @world.on("slow")
    def _(request):
        request.user_sessions.end_all("ann")
        during.extend(there.get("/get").json)
        return {}

    here.get("/slow")
    assert [{"user": "ann"}, None] == during
    assert [{}, "revoked"] == there.get("/get").json


def test_p3_a_request_under_way_brings_nothing_back(world):
    """P3: a revoked session is not written again, and sends no cookie."""
    here, there = signed_in(world, number=2)

    @world.on("slow")
    def _(request):
        assert "ann" == request.session["user"]
        here.get("/others")
        request.session["late"] = 1
        return {}

    world.clock.pass_(10)
    answer = there.get("/slow")
    assert [] == cookie_of(answer)
    ended = [row for row in world.rows() if row.ended]
    assert [("", "revoked")] == [(row.data, row.ended) for row in ended]
    assert START == ended[0].updated_at
    assert [{}, "revoked"] == there.get("/get").json


def test_p3_a_touch_brings_nothing_back(world):
    """P3: a reading request under way moves no tombstone."""
    here, there = signed_in(world, number=2)

    @world.on("slow")
    def _(request):
        assert "ann" == request.session["user"]
        here.get("/others")
        return {}

    world.clock.pass_(10)
    there.get("/slow")
    assert [START] == [row.updated_at for row in world.rows() if row.ended]


def test_p3_a_rotated_session_is_still_found(world):
    """P3: a rotation in between does not save a session from its end."""
    here, there = signed_in(world, number=2)

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("slow")
    def _(request):
        request.user_sessions.end_all("ann")
        there.get("/rotate")
        return {}

    here.get("/slow")
    assert [{}, "revoked"] == there.get("/get").json


def test_one_session_of_the_user_is_ended(world):
    """By the id of its summary, and only if it is that user's."""
    here, there = signed_in(world, number=2)
    (bob,) = signed_in(world, "bob")

    @world.on("end")
    def _(request):
        request.user_sessions.end("ann", int(request.params["id"]))
        return {}

    ids = {row.user_id: row.id for row in world.rows()}
    here.get(f"/end?id={ids['bob']}")
    assert [{"user": "bob"}, None] == bob.get("/get").json
    here.get("/end?id=123456789")
    here.get(f"/end?id={ids['ann']}")
    assert [{"user": "ann"}, None] == here.get("/get").json
    assert [{}, "revoked"] == there.get("/get").json


def test_a_user_may_end_his_own_session_too(world):
    """With ``except_current=False`` nothing of the user's is left."""
    here, there = signed_in(world, number=2)
    assert [] == cookie_of(here.get("/all?user=ann"))
    for browser in (here, there):
        assert [{}, "revoked"] == browser.get("/get").json


def test_a_session_that_begins_in_the_request_is_spared(world):
    """Sign in, and end all others: the new session is none of them."""
    (old,) = signed_in(world)

    @world.on("fresh")
    def _(request):
        request.session["user"] = "ann"
        request.user_sessions.end_all("ann")
        return {}

    browser = world.browser()
    browser.get("/fresh")
    assert [{"user": "ann"}, None] == browser.get("/get").json
    assert [{}, "revoked"] == old.get("/get").json


# -- the list ----------------------------------------------------------


def test_the_list_is_of_live_sessions_the_last_used_first(world):
    """It shows what a user may know, and nothing of a dead session."""
    _, old, ended = signed_in(world, number=3)
    ids = [row.id for row in world.rows()]
    world.clock.pass_(3000)
    for browser in (old, ended):
        browser.get("/get")
    table = world.table
    world.execute(
        table.update().where(table.c.id == ids[2]).values(ended="revoked")
    )
    world.clock.pass_(1000)
    (new,) = signed_in(world)
    listed = new.get("/list?user=ann").json
    new_id = world.rows()[-1].id
    assert [
        [new_id, START + 4000, START + 4000, None, True],
        [ids[1], START, START + 3000, None, False],
    ] == listed
    assert [] == new.get("/list?user=bob").json


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("ann", "ann"),
        ("Ann", "Ann"),
        ("ann ", "ann "),
        ("änn 😀", "änn 😀"),
        (7, "7"),
        (190 * "x", 190 * "x"),
        (190 * "😀", 190 * "😀"),
        ("", None),
        (None, None),
        (True, None),
        (1.5, None),
        (["ann"], None),
    ],
)
def test_who_is_a_user(world, value, name):
    """A text or an integer names one; byte by byte, on every database."""

    @world.on("put")
    def _(request):
        request.session["user"] = value
        return {}

    browser = world.browser()
    browser.get("/put")
    signed_in(world)
    assert [name, "ann"] == [row.user_id for row in world.rows()]
    if name not in (None, "ann"):
        world.browser().get("/all", {"user": name})
        assert ["revoked", None] == [row.ended for row in world.rows()]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (None, "a NoneType cannot name a user"),
        (True, "a bool cannot name a user"),
        (1.5, "a float cannot name a user"),
        ("", "is empty"),
        (191 * "x", "has more than 190 characters"),
        ("a\0", "has characters that no database keeps"),
        ("\udc80", "has characters that no database keeps"),
    ],
)
def test_whom_nobody_can_be(make_ended, name, problem):
    """Asked for a user that no session can have, it says so at once.

    ``end_all(user.id)`` of a user that is not stored yet must not do nothing.
    """
    world = make_ended()

    @world.on("wrong")
    def _(request):
        sessions = request.user_sessions
        for act in (
            lambda: sessions.list(name),
            lambda: sessions.end(name, 1),
            lambda: sessions.end_all(name),
        ):
            with pytest.raises(ValueError, match=problem):
                act()
        return {}

    world.browser().get("/wrong")


@pytest.mark.parametrize("value", [191 * "x", "a\0b", "\ud800"])
def test_a_user_that_no_column_holds_is_an_error(world, value):
    """Before anything is committed: nobody could revoke that session."""

    @world.on("put")
    def _(request):
        request.dbsession.add(world.Item(name="a"))
        request.session["user"] = value
        return {}

    with pytest.raises(ValueError, match=r"session\['user'\] names the user"):
        world.browser().get("/put")
    assert ([], []) == (world.rows(), world.items())


def test_without_a_user_key_nobody_has_sessions(make_ended):
    """``user_key = none``: no row knows its user."""
    world = make_ended(settings={"limitedsession.user_key": "none"})
    signed_in(world)
    assert [None] == [row.user_id for row in world.rows()]


def test_pyramids_own_helper_names_the_user(make_ended, database, mode):
    """By default the user is whom SessionAuthenticationHelper remembers."""
    from pyramid.authentication import SessionAuthenticationHelper

    world = make_ended(
        database, mode, settings={"limitedsession.user_key": "auth.userid"}
    )

    @world.on("remember")
    def _(request):
        SessionAuthenticationHelper().remember(request, "ann")
        return {}

    world.browser().get("/remember")
    assert ["ann"] == [row.user_id for row in world.rows()]


# -- another user, another token ---------------------------------------


def test_a_change_of_the_user_rotates_the_token(world):
    """Signing in and out each give a new token; the old one is worthless."""

    @world.on("out")
    def _(request):
        del request.session["user"]
        return {}

    browser = world.browser()
    browser.get("/in?a=1")
    tokens = [browser.cookies["session"]]
    for path in ("/in?user=ann", "/in?user=bob", "/out"):
        browser.get(path)
        tokens.append(browser.cookies["session"])
    assert 4 == len(set(tokens))
    assert 1 == len(world.rows())
    for token in tokens[:-1]:
        other = world.browser()
        other.set_cookie("session", token)
        assert [{}, None] == other.get("/get").json
    assert [{"a": "1"}, None] == browser.get("/get").json


def test_the_same_user_keeps_the_token(world):
    """Other changes of a signed-in session, and the same name again."""
    (browser,) = signed_in(world)
    for path in ("/in?a=1", "/in?user=ann", "/in?a=2&user=ann"):
        assert [] == cookie_of(browser.get(path))


def test_a_row_from_before_keeps_its_token(world):
    """A row that was written without its user learns it with a change."""
    (browser,) = signed_in(world)
    world.execute(world.table.update().values(user_id=None))
    assert [] == cookie_of(browser.get("/in?a=1"))
    assert ["ann"] == [row.user_id for row in world.rows()]


def test_a_merge_knows_the_user(world):
    """The column says what the merged content says."""
    (browser,) = signed_in(world)
    (other,) = same_session(world, browser, 1)

    @world.on("slow")
    def _(request):
        assert "ann" == request.session["user"]
        other.get("/in?a=1")
        request.session["b"] = "2"
        return {}

    browser.get("/slow")
    (row,) = world.rows()
    assert row.user_id == "ann"
    assert [{"user": "ann", "a": "1", "b": "2"}, None] == (
        browser.get("/get").json
    )


# -- so many sessions per user -----------------------------------------

TWO = {"limitedsession.max_sessions_per_user": "2"}


def test_one_session_more_ends_the_one_least_used(make_ended, database, mode):
    """It is told ``limit``; the others, and those of others, stay."""
    world = make_ended(database, mode, settings=TWO)
    first, second = signed_in(world, number=2)
    (bob,) = signed_in(world, "bob")
    world.clock.pass_(10)
    first.get("/get")
    world.clock.pass_(10)
    (third,) = signed_in(world)
    assert [{}, "limit"] == second.get("/get").json
    for browser, user in ((first, "ann"), (third, "ann"), (bob, "bob")):
        assert [{"user": user}, None] == browser.get("/get").json


def test_dead_sessions_do_not_count(make_ended):
    """What is expired or revoked takes nobody's place."""
    world = make_ended(settings=TWO)
    signed_in(world, number=2)
    world.clock.pass_(3600)
    browsers = signed_in(world, number=2)
    assert [None] * 4 == [row.ended for row in world.rows()]
    for browser in browsers:
        assert [{"user": "ann"}, None] == browser.get("/get").json


def test_a_session_that_becomes_a_users_counts(make_ended):
    """Whether it begins with its user or gets one later."""
    world = make_ended(settings=TWO)
    first, _ = signed_in(world, number=2)
    browser = world.browser()
    browser.get("/in?a=1")
    assert [None] * 3 == [row.ended for row in world.rows()]
    world.clock.pass_(1)
    browser.get("/in?user=ann")
    assert [{}, "limit"] == first.get("/get").json
    # Only a change of the user looks at the others.
    world.count()
    browser.get("/in?b=1")
    assert ["SELECT", "UPDATE"] == world.count()


def test_users_who_sign_in_at_the_same_time(make_ended, database, mode):
    """However many arrive at once, no more than so many are left."""
    world = make_ended(
        database,
        mode,
        settings={"limitedsession.max_sessions_per_user": "3"},
        engine={} if database == "sqlite" else {"pool_size": 10},
    )
    browsers = [world.browser() for _ in range(8)]
    in_threads(lambda n: browsers[n].get("/in?user=ann"), 8)
    ended = [row.ended for row in world.rows()]
    assert (5, 3) == (ended.count("limit"), ended.count(None))


def test_p10_a_number_of_sessions_needs_users(make_ended):
    """P10: a limit that could never hold does not start."""
    with pytest.raises(ConfigurationError, match="needs a user_key"):
        make_ended(settings=TWO | {"limitedsession.user_key": "none"})


def test_a_limit_that_fails_is_logged(make_ended, caplog):
    """The visitor is signed in; what could not be ended is tried again."""
    world = make_ended(settings=TWO)
    signed_in(world, number=2)
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TRIGGER stop BEFORE UPDATE ON {world.table.name} "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with caplog.at_level(logging.ERROR, "pyramid_limitedsession"):
        (browser,) = signed_in(world)
    assert "a user's oldest sessions were not ended" in caplog.text
    assert [{"user": "ann"}, None] == browser.get("/get").json
    with world.engine.begin() as connection:
        connection.execute(sa.text("DROP TRIGGER stop"))
    signed_in(world)
    ended = [row.ended for row in world.rows()]
    assert 2 == ended.count("limit")
