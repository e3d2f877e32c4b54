"""``request.user_sessions``: whose a session is, and who ends it."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
import transaction
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from repoze.tm import TM, default_commit_veto
from transaction.interfaces import TransientError

from pyramid_limitedsession.ending import revoke
from tests.apps import START, cookie_of, count_dead
from tests.signed import SETTINGS, add_views, signed_in
from tests.threads import in_threads, same_session

DAY = 86400


@pytest.fixture(name="make_ended")
def _make_ended(make_world_with):
    """Return a function that makes worlds whose sessions have users."""
    return make_world_with(SETTINGS, add_views)


@pytest.fixture(name="world")
def _world(make_ended, database, mode):
    return make_ended(database, mode)


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


def test_a_tombstone_goes_when_its_session_would_have(world):
    """Trimming takes it as it would have taken the session."""
    signed_in(world)
    world.browser().get("/all?user=ann")
    profiles = world.factory.settings.policy.profiles
    counts = []
    for seconds in (3599, 1):
        world.clock.pass_(seconds)
        cutoffs = profiles.cutoffs(int(world.clock()))
        counts.append(count_dead(world.store, cutoffs))
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
def test_who_is_a_user(make_ended, database, value, name):
    """A text or an integer names one; byte by byte, on every database."""
    world = make_ended(database)

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


# -- what others do meanwhile ------------------------------------------


@pytest.mark.parametrize("level", [None, "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_a_snapshot_hides_nobody(make_ended, database, mode, level):
    """Who signs in while the password is changed is signed out too.

    Also where the transaction that changes it cannot see him, as on MariaDB
    by default.
    """
    engine = {"isolation_level": level} if level else {}
    world = make_ended(database, mode, engine=engine)
    (ann,) = signed_in(world)
    thief = world.browser()

    @world.on("change-password")
    def _(request):
        request.dbsession.execute(sa.select(world.Item)).all()
        thief.get("/in?user=ann")
        request.user_sessions.end_all("ann")
        return {}

    ann.get("/change-password")
    assert [{}, "revoked"] == thief.get("/get").json
    assert [{"user": "ann"}, None] == ann.get("/get").json


@pytest.mark.parametrize("number", range(3))
def test_two_sessions_that_end_each_other(world, number):
    """No deadlock: one is first, and the other one is over."""
    browsers = signed_in(world, number=2)

    @world.on("both")
    def _(request):
        request.session["n"] = 1
        request.user_sessions.end_all("ann")
        return {}

    in_threads(lambda n: browsers[n].get("/both"), 2)
    # Whoever comes second may find himself signed out already.
    told = [browser.get("/get").json for browser in browsers]
    assert [{}, "revoked"] in told or [{"n": 1}, None] in told


def test_who_became_somebody_else_is_spared(make_ended, database):
    """A session that is another user's by the time it is locked stays."""
    world = make_ended(database)
    ann, shared = signed_in(world, number=2)
    rows = world.rows()
    work = world.store.begin()
    found = work.of_user("ann")
    assert [row.id for row in rows] == [record.id for record in found]
    work.rollback()
    shared.get("/in?user=bob")
    work = world.store.begin()
    revoke(work, found, "revoked", START)
    work.commit()
    assert [{"user": "bob"}, None] == shared.get("/get").json
    assert [{}, "revoked"] == ann.get("/get").json


@pytest.mark.parametrize("how", ["", "raise", "redirect", "doom", "veto"])
def test_p4_a_revocation_under_a_middleware(make_ended, database, mode, how):
    """P4: with repoze.tm too it holds, whatever the request ends with."""
    world = make_ended(database, mode, explicit=False)
    app = TM(world.app, default_commit_veto)

    @world.on("kick")
    def _(request):
        request.user_sessions.end_all("ann")
        if how == "raise":
            raise RuntimeError
        if how == "redirect":
            raise HTTPFound("/get")
        if how == "doom":
            transaction.doom()
        return Response("no", 404) if how == "veto" else {}

    try:
        here, there = signed_in(world, number=2, app=app)
        if how == "raise":
            with pytest.raises(RuntimeError):
                here.get("/kick")
        else:
            here.get("/kick", status="*")
        assert [{}, "revoked"] == there.get("/get").json
    finally:
        transaction.abort()


def test_p3_a_replay_takes_no_cookie(make_ended, database, mode):
    """P3: a request that is replayed after its session was revoked.

    It had found the session; its browser may have a better one by now.
    """
    world = make_ended(
        database, mode, configure=lambda c: c.include("pyramid_retry")
    )
    here, there = signed_in(world, number=2)
    attempts = []

    @world.on("twice")
    def _(request):
        attempts.append(request.session.get("user"))
        if len(attempts) == 1:
            here.get("/others")
            raise TransientError
        return {}

    assert [] == cookie_of(there.get("/twice"))
    assert ["ann", None] == attempts


def test_a_revocation_behind_the_answer(make_ended, caplog):
    """In a finished callback too, and if a late change could not be saved."""
    world = make_ended()
    here, there = signed_in(world, number=2)

    @world.on("late")
    def _(request):
        session = request.session
        session["box"] = box = []

        def finish(request):
            request.user_sessions.end_all("ann")

        def spoil(request, response):
            box.append(object())

        request.add_response_callback(spoil)
        request.add_finished_callback(finish)
        return {}

    here.get("/late")
    assert "could not be saved" in caplog.text
    assert [{}, "revoked"] == there.get("/get").json


def test_more_sessions_than_are_ended_at_once(make_ended):
    """A user with very many sessions, as a load test makes them."""
    world = make_ended("postgresql", "separate")
    (ann,) = signed_in(world)
    many = 10_500
    world.execute(
        sa.text(
            f"INSERT INTO {world.table.name} (session_id, data, version, "
            "created_at, updated_at, expires_at, user_id) "
            "SELECT '2::' || n, '{}', 1, created_at, updated_at, "
            "expires_at, user_id "
            f"FROM {world.table.name}, generate_series(1, {many}) AS n"
        )
    )
    ann.get("/others")
    with world.engine.connect() as connection:
        query = sa.select(sa.func.count()).where(
            world.table.c.ended == "revoked"
        )
        assert many == connection.execute(query).scalar_one()


def test_a_user_that_no_column_held_before(world):
    """A row from before, with a name that is too long, may sign in anew."""
    (browser,) = signed_in(world)
    data = '{"user":"' + 200 * "x" + '"}'
    world.execute(world.table.update().values(data=data, user_id=None))
    browser.get("/in?user=ann")
    assert [{"user": "ann"}, None] == browser.get("/get").json
