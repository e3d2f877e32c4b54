"""The contract: what a session does, on every database and in both modes."""

from __future__ import annotations

import pytest
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.interfaces import ISession
from zope.interface.verify import verifyObject

from tests.apps import START, cookie_of


@pytest.fixture(autouse=True)
def _common_views(world):
    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("untouched")
    def _(request):
        return {}


def test_it_is_an_isession(world):
    """The session provides ISession, verified by zope.interface."""

    @world.on("verify")
    def _(request):
        return verifyObject(ISession, request.session)

    assert world.browser().get("/verify").json is True


def test_what_is_put_in_comes_out(world):
    """The next request of the same browser sees what was put in."""
    browser = world.browser()
    browser.get("/set?a=1&b=%C3%BC")
    assert {"a": "1", "b": "ü"} == browser.get("/get").json
    assert {} == world.browser().get("/get").json


def test_p5_untouched_costs_nothing(world):
    """P5: a request that does not touch the session runs no SQL for it."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.statements.clear()
    response = browser.get("/untouched")
    assert [] == world.statements
    assert [] == cookie_of(response)
    assert "Vary" not in response.headers


def test_p5_reading_costs_one_select(world):
    """P5: reading is one SELECT, and an unchanged session is not written."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    browser.get("/get")
    assert ["SELECT"] == world.count()


def test_p5_reading_containers_writes_nothing(world):
    """P5: a nested value that was handed out and left alone is not written."""

    @world.on("fill")
    def _(request):
        request.session["cart"] = {"items": [1, 2], "note": None}
        return {}

    @world.on("look")
    def _(request):
        return request.session["cart"]

    browser = world.browser()
    browser.get("/fill")
    world.count()
    browser.get("/look")
    assert ["SELECT"] == world.count()


def test_p5_a_change_costs_select_and_update(world):
    """P5: a changed session is one SELECT and one UPDATE."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    browser.get("/set?a=2")
    assert ["SELECT", "UPDATE"] == world.count()


def test_p5_setting_the_same_value_writes_nothing(world):
    """P5: an assignment that changes nothing is not written."""
    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    browser.get("/set?a=1")
    assert ["SELECT"] == world.count()


def test_p5_first_write_is_one_insert(world):
    """P5: a new visitor's first write is one INSERT and nothing else."""
    world.browser().get("/set?a=1")
    assert ["INSERT"] == world.count()


def test_p5_reading_creates_no_row(world):
    """P5: a visitor who only reads gets no row and no cookie."""
    response = world.browser().get("/get")
    assert [] == world.count()
    assert [] == world.rows()
    assert [] == cookie_of(response)


@pytest.mark.parametrize(
    "cookie",
    [
        "x" * 43,
        "",
        "short",
        "2::" + "0" * 64,
        "x" * 20_000,
        "' OR 1=1 --",
        "%00" * 20,
        "ä" * 43,
    ],
)
def test_p9_garbage_cookies_are_new_sessions(world, cookie):
    """P9: whatever the cookie: 200, one SELECT at most, no row, no cookie."""
    header = f"session={cookie}".encode().decode("latin-1")
    response = world.browser(HTTP_COOKIE=header).get("/get")
    assert {} == response.json
    assert world.count() in ([], ["SELECT"])
    assert [] == world.rows()
    assert [] == cookie_of(response)


def test_p9_an_unknown_token_is_not_adopted(world):
    """P9: a well-formed token that we did not issue gets another one."""
    browser = world.browser()
    browser.set_cookie("session", "A" * 43)
    response = browser.get("/set?a=1")
    assert "A" * 43 not in cookie_of(response)[0]
    assert {"a": "1"} == browser.get("/get").json


def test_p6_the_table_holds_only_the_hash(world):
    """P6: the token is nowhere in the row, and the key is no token."""
    browser = world.browser()
    browser.get("/set?a=1")
    token = browser.cookies["session"]
    (row,) = world.rows()
    assert token not in str(tuple(map(str, row)))
    thief = world.browser()
    thief.set_cookie("session", str(row.session_id))
    assert {} == thief.get("/get").json


def test_nested_changes_are_noticed(world):
    """P2: a change inside a nested value is saved without changed()."""

    @world.on("deep")
    def _(request):
        request.session.setdefault("a", {"b": []})["b"].append(1)
        return {}

    @world.on("deeper")
    def _(request):
        for value in request.session.values():
            value["b"].append(2)
        return {}

    browser = world.browser()
    browser.get("/deep")
    browser.get("/deep")
    browser.get("/deeper")
    assert {"a": {"b": [1, 1, 2]}} == browser.get("/get").json


def test_times_and_newness(world):
    """created is when the first request came; new until it is stored."""

    @world.on("facts")
    def _(request):
        session = request.session
        return [session.created, session.new, session.expires_in]

    browser = world.browser()
    assert [START, True, 7200] == browser.get("/facts").json
    browser.get("/set?a=1")
    world.clock.pass_(100)
    assert [START, False, 7200] == browser.get("/facts").json


def test_invalidate_ends_the_session(world):
    """After invalidate() the row is gone, the cookie too, the token dead."""
    browser = world.browser()
    browser.get("/set?a=1")
    token = browser.cookies["session"]
    response = browser.get("/out")
    assert [] == world.rows()
    assert "Max-Age=0" in cookie_of(response)[0]
    thief = world.browser()
    thief.set_cookie("session", token)
    assert {} == thief.get("/get").json


def test_invalidate_without_a_session_does_nothing(world):
    """Logging out without being logged in makes no row and no cookie."""
    response = world.browser().get("/out")
    assert [] == world.count()
    assert [] == cookie_of(response)


def test_invalidate_then_reuse_is_a_new_session(world):
    """What is put in after invalidate() is a new session, in one request."""

    @world.on("again")
    def _(request):
        session = request.session
        session["old"] = True
        session.invalidate()
        assert session.new
        assert len(session) == 0
        session["fresh"] = True
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(50)
    old = browser.cookies["session"]
    browser.get("/again")
    assert browser.cookies["session"] != old
    assert {"fresh": True} == browser.get("/get").json
    (row,) = world.rows()
    assert START + 50 == row.created_at


def test_invalidate_twice_is_once(world):
    """A second invalidate() in one request changes nothing."""

    @world.on("twice")
    def _(request):
        request.session.invalidate()
        request.session["a"] = 2
        request.session.invalidate()
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/twice")
    assert [] == world.rows()


def test_rotate_keeps_the_session(world):
    """rotate() changes the token; content, row and age stay."""
    browser = world.browser()
    browser.get("/set?a=1")
    (before,) = world.rows()
    old = browser.cookies["session"]
    world.clock.pass_(10)
    browser.get("/rotate")
    (after,) = world.rows()
    assert old != browser.cookies["session"]
    assert (before.id, before.data, before.created_at) == (
        after.id,
        after.data,
        after.created_at,
    )
    assert {"a": "1"} == browser.get("/get").json
    thief = world.browser()
    thief.set_cookie("session", old)
    assert {} == thief.get("/get").json


def test_rotate_with_a_change_is_one_update(world):
    """Login, a change and a new token, is one UPDATE."""

    @world.on("login")
    def _(request):
        request.session["user"] = "ann"
        request.session.rotate()
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    browser.get("/login")
    assert ["SELECT", "UPDATE"] == world.count()
    assert {"a": "1", "user": "ann"} == browser.get("/get").json


def test_rotate_of_a_new_session_makes_no_row(world):
    """rotate() alone stores nothing for a visitor without a session."""
    response = world.browser().get("/rotate")
    assert [] == world.rows()
    assert [] == cookie_of(response)


def test_flash_messages(world):
    """Queues are kept apart, in order, and emptied by pop_flash."""

    @world.on("flash")
    def _(request):
        session = request.session
        session.flash("one")
        session.flash("two")
        session.flash("two", allow_duplicate=False)
        session.flash("bad", "errors")
        return {}

    @world.on("peek")
    def _(request):
        return request.session.peek_flash()

    @world.on("pop")
    def _(request):
        session = request.session
        return [session.pop_flash(), session.pop_flash("errors")]

    browser = world.browser()
    browser.get("/flash")
    assert ["one", "two"] == browser.get("/peek").json
    assert [["one", "two"], ["bad"]] == browser.get("/pop").json
    assert [[], []] == browser.get("/pop").json


def test_p4_commit_keeps_app_data_and_session(world):
    """P4: in one request both the app's row and the session are kept."""

    @world.on("both")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.session["a"] = 1
        return {}

    browser = world.browser()
    browser.get("/both")
    assert ["x"] == world.items()
    assert {"a": 1} == browser.get("/get").json


@pytest.mark.parametrize("how", ["raise", "redirect", "doom"])
def test_p4_abort_discards_the_change(world, how, caplog):
    """P4: an aborted request changes neither row nor cookie, and is told."""

    @world.on("abort")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.dbsession.flush()
        request.session["a"] = "2"
        if how == "doom":
            request.tm.doom()
            return {}
        raise HTTPNotFound if how == "raise" else HTTPFound("/get")

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/abort", status="*")
    assert [] == world.items()
    assert {"a": "1"} == browser.get("/get").json
    assert "'a'" in caplog.text
    newcomer = world.browser()
    response = newcomer.get("/abort", status="*")
    assert [] == cookie_of(response)
    assert 1 == len(world.rows())


@pytest.mark.parametrize("how", ["redirect", "error", "unhandled", "doom"])
def test_p4_ending_survives_an_abort(world, how):
    """P4: invalidate() holds although the transaction aborts."""

    @world.on("leave")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.dbsession.flush()
        request.session.invalidate()
        request.session["after"] = 1
        if how == "doom":
            request.tm.doom()
            return {}
        if how == "unhandled":
            raise RuntimeError("boom")
        raise HTTPFound("/get") if how == "redirect" else HTTPNotFound

    browser = world.browser()
    browser.get("/set?a=1")
    token = browser.cookies["session"]
    if how == "unhandled":
        with pytest.raises(RuntimeError, match="boom"):
            browser.get("/leave")
    else:
        response = browser.get("/leave", status="*")
        assert "Max-Age=0" in cookie_of(response)[0]
    assert [] == world.rows()
    assert [] == world.items()
    thief = world.browser()
    thief.set_cookie("session", token)
    assert {} == thief.get("/get").json


def test_p4_rotation_and_abort(world):
    """P4: after an aborted rotation the old token is valid, no new sent."""

    @world.on("half")
    def _(request):
        request.session.rotate()
        raise HTTPFound("/get")

    browser = world.browser()
    browser.get("/set?a=1")
    response = browser.get("/half")
    assert [] == cookie_of(response)
    assert {"a": "1"} == browser.get("/get").json


def test_savepoints_restore_the_content(world):
    """A savepoint's rollback brings the session's content back."""
    if world.url.startswith("sqlite"):
        # zope.sqlalchemy has no savepoints on SQLite: only ours takes part.
        world.views["touch_db"] = lambda request: None
    else:
        world.views["touch_db"] = lambda request: request.dbsession.add(
            world.Item(name="x")
        )

    @world.on("points")
    def _(request):
        session = request.session
        session["kept"] = [1]
        savepoint = request.tm.savepoint()
        world.views["touch_db"](request)
        session["kept"].append(2)
        session["dropped"] = True
        session.flash("dropped")
        savepoint.rollback()
        assert {"a": "1", "kept": [1]} == dict(session)
        session["later"] = True
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/points")
    expected = {"a": "1", "kept": [1], "later": True}
    assert expected == browser.get("/get").json


def test_a_savepoint_older_than_the_first_look(world):
    """Rolled back behind the first look, the session is as loaded."""

    @world.on("late")
    def _(request):
        savepoint = request.tm.savepoint()
        request.session["dropped"] = True
        savepoint.rollback()
        assert "dropped" not in request.session
        request.session["later"] = True
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/late")
    assert {"a": "1", "later": True} == browser.get("/get").json


def test_an_end_survives_a_savepoint(world):
    """Rolling back to a savepoint does not bring an ended session back."""

    @world.on("leave")
    def _(request):
        request.session["x"] = 1
        savepoint = request.tm.savepoint()
        request.session.invalidate()
        savepoint.rollback()
        assert {} == dict(request.session)
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/leave")
    assert [] == world.rows()


def test_p2_different_keys_are_merged(world):
    """P2: of two overlapping requests each keeps its keys and its deletes."""

    @world.on("slow")
    def _(request):
        session = request.session
        session["mine"] = "m"
        del session["gone"]
        session["both"] = "mine"
        # Another request of the same browser comes and goes meanwhile.
        other = world.browser()
        other.set_cookie("session", browser.cookies["session"])
        other.get("/set?theirs=t&both=theirs")
        return {}

    browser = world.browser()
    browser.get("/set?gone=1&stays=1")
    browser.get("/slow")
    expected = {"stays": "1", "theirs": "t", "mine": "m", "both": "mine"}
    assert expected == browser.get("/get").json


def test_p3_a_late_change_does_not_bring_it_back(world, caplog):
    """P3: a change to a session that was ended meanwhile is dropped.

    The late answer is a normal one, without any Set-Cookie.
    """
    caplog.set_level("INFO")

    @world.on("slow")
    def _(request):
        request.session["late"] = 1
        other = world.browser()
        other.set_cookie("session", browser.cookies["session"])
        other.get("/out")
        return {"ok": True}

    browser = world.browser()
    browser.get("/set?a=1")
    response = browser.get("/slow")
    assert {"ok": True} == response.json
    assert [] == cookie_of(response)
    assert [] == world.rows()
    assert "ended meanwhile" in caplog.text


def test_p3_a_late_change_after_rotation(world):
    """P3: a slow request with the old token writes nothing, sends nothing."""

    @world.on("slow")
    def _(request):
        request.session["late"] = 1
        other.set_cookie("session", browser.cookies["session"])
        other.get("/rotate")
        return {}

    browser = world.browser()
    other = world.browser()
    browser.get("/set?a=1")
    response = browser.get("/slow")
    assert [] == cookie_of(response)
    assert {"a": "1"} == other.get("/get").json


def test_p3_logout_ends_a_session_rotated_meanwhile(world):
    """P3: a logout ends the session also if its token changed meanwhile."""

    @world.on("slow-out")
    def _(request):
        request.session.invalidate()
        other.set_cookie("session", browser.cookies["session"])
        other.get("/rotate")
        return {}

    browser = world.browser()
    other = world.browser()
    browser.get("/set?a=1")
    browser.get("/slow-out")
    assert [] == world.rows()
    assert {} == other.get("/get").json


def test_no_connection_is_left_out(world):
    """After any of these requests every connection is back in its pool."""

    @world.on("error")
    def _(request):
        request.session["a"] = object()
        return {}

    browser = world.browser()
    for path in ("/set?a=1", "/get", "/rotate", "/out", "/set?a=2"):
        browser.get(path)
    with pytest.raises(ValueError, match=r"session\['a'\]"):
        browser.get("/error")
    assert 0 == world.checked_out()


def test_wrong_values_commit_nothing(world):
    """A value that is not JSON: an error that names it, nothing committed."""

    @world.on("wrong")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.session["a"] = {"deep": [{"when": {1, 2}}]}
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    with pytest.raises(
        ValueError, match=r"session\['a'\]\['deep'\]\[0\]\['when'\] .* set"
    ):
        browser.get("/wrong")
    assert [] == world.items()
    assert {"a": "1"} == browser.get("/get").json
