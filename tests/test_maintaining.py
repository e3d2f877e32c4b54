"""pls-clear, pls-list, pls-revoke and pls-stats."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from tests.apps import START, cookie_of
from tests.commands import DAY, VARIABLE, count, put

HOUR = 3600


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(name="mode")
def _mode(database):
    """One mode on each database: a command uses the store, in any mode."""
    return "joined" if database == "postgresql" else "separate"


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    """A real application whose browsers sign in."""
    world = make_world(
        database, mode, settings={"limitedsession.user_key": "user"}
    )
    return views(world)


def views(world: Any) -> Any:
    """Give a world the views of these tests."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return dict(request.session)

    @world.on("get")
    def _(request):
        return [dict(request.session), request.session.ended]

    return world


@pytest.fixture(name="ini")
def _ini(world, make_ini):
    """The ini file of that application."""
    return make_ini(
        world, limited__user_key="user", limited__idle_timeout="2h"
    )


def browsers(world: Any, *users: str) -> list[Any]:
    """Return a browser for each user, signed in; each a second later."""
    made = []
    for user in users:
        browser = world.browser()
        browser.get(f"/set?user={user}")
        made.append(browser)
        world.clock.pass_(1)
    world.clock.now = START
    return made


def state(browser: Any) -> Any:
    """Return what the application sees of a browser's session."""
    return browser.get("/get").json


def ids(world: Any) -> list[int]:
    """Return the ids of the rows that are there."""
    return [row.id for row in world.rows()]


# -- pls-clear -------------------------------------------------------------


def test_clear_deletes_everything(world, ini):
    """Live, dead and ended: all rows go, and everybody is signed out."""
    put(world, (START - 99 * DAY, START - 99 * DAY), ended="revoked")
    ann, bob = browsers(world, "ann", "bob")
    code, out, err = ini.call("pls-clear", "--yes")
    assert (0, "") == (code, err)
    name = world.table.name
    assert f"deleted all 3 sessions of the table '{name}'\n" == out
    assert [] == ids(world)
    assert ([{}, None], [{}, None]) == (state(ann), state(bob))


def test_clear_gives_no_id_out_again(world, ini):
    """What begins afterwards has a new id: late logouts go by ids."""
    browsers(world, "ann", "bob")
    before = max(ids(world))
    ini.call("pls-clear", "--yes")
    browsers(world, "eve")
    assert ids(world)[0] > before


def test_clear_brings_nothing_back(world, ini):
    """P3: a request under way stores nothing, and sends no cookie."""
    (ann,) = browsers(world, "ann")

    @world.on("slow")
    def _(request):
        request.session["late"] = 1
        ini.call("pls-clear", "--yes")
        return {}

    assert [] == cookie_of(ann.get("/slow"))
    assert [] == ids(world)


def test_clear_twice(world, ini):
    """An empty table is cleared too; the JSON tells how many there were."""
    put(world, (START, START))
    assert (
        1 == json.loads(ini.call("pls-clear", "--yes", "--json")[1])["deleted"]
    )
    code, out, _ = ini.call("pls-clear", "--yes")
    assert 0 == code
    assert out.startswith("deleted all 0 sessions")


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("mode", ["separate"])
def test_clear_wants_to_be_asked(world, ini, monkeypatch):
    """Without --yes, where nobody can be asked: wrong use, nothing goes."""
    put(world, (START, START))
    with ini.process("pls-clear", stdin=-3) as process:
        out, err = process.communicate(timeout=60)
    assert (2, "") == (process.returncode, out)
    assert "--yes" in err
    assert 1 == count(world)


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("mode", ["separate"])
@pytest.mark.parametrize("is_right", [True, False])
def test_clear_asks_on_a_terminal(world, ini, is_right):
    """On a terminal it asks for the table's name; another word stops it."""
    put(world, (START, START))
    typed = world.table.name if is_right else "yes"
    code, shown = ini.on_terminal("pls-clear", typed=f"{typed}\n")
    assert (
        f"This will delete the only session of the table '{typed}'" in shown
        or (not is_right)
    )
    assert (0 if is_right else 1) == code
    assert (0 if is_right else 1) == count(world)
    assert is_right or "nothing was done" in shown


# -- pls-list --------------------------------------------------------------


def test_list_shows_the_sessions_of_a_user(world, ini):
    """The last used first, others' not, and nothing of what is in them."""
    browsers(world, "ann", "bob", "ann")
    first, _, second = ids(world)
    code, out, err = ini.call("pls-list", "ann")
    assert (0, "") == (code, err)
    assert [
        "id state created last used profile",
        f"{second} live 2027-01-15 08:00:02 2027-01-15 08:00:02",
        f"{first} live 2027-01-15 08:00:00 2027-01-15 08:00:00",
        "2 sessions, 2 of them live",
    ] == [re.sub(" +", " ", line).strip() for line in out.splitlines()]


def test_list_json(world, make_ini):
    """As JSON: ids, times in seconds, states and profiles."""
    settings = {
        "limited__idle_timeout": "1h",
        "limited__touch_interval": "1s",
        "limited__absolute_timeout": "1d",
        "limited__profile__long__absolute_timeout": "none",
    }
    put(world, (START - DAY, START), user_id="ann")
    put(world, (START - DAY, START), user_id="ann", profile="long")
    put(world, (START, START - HOUR), user_id="ann")
    put(world, (START, START), user_id="ann", ended="revoked")
    code, out, _ = make_ini(world, **settings).call(
        "pls-list", "ann", "--json"
    )
    told = json.loads(out)["sessions"]
    assert 0 == code
    assert ["live", "absolute", "idle"] == [each["state"] for each in told]
    assert {
        "id": ids(world)[1],
        "state": "live",
        "created": START - DAY,
        "last_used": START,
        "profile": "long",
    } == told[0]


def test_list_of_nobody(world, ini):
    """A user without sessions is no failure."""
    assert (0, "0 sessions, 0 of them live\n", "") == ini.call(
        "pls-list", "eve"
    )


@pytest.mark.parametrize("user", ["", "x" * 191])
def test_list_of_an_impossible_user(world, ini, user):
    """A name that no session can have is a wrong use."""
    code, out, err = ini.call("pls-list", user)
    assert (2, "") == (code, out)
    assert "the name of the user" in err


def test_list_of_almost_the_same_user(world, ini):
    """Another case, and blanks at the end, are another user."""
    put(world, (START, START), user_id="Ann")
    put(world, (START, START), user_id="ann ")
    assert "0 sessions" in ini.call("pls-list", "ann")[1]
    assert "1 session," in ini.call("pls-list", "ann ")[1]


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("mode", ["separate"])
def test_list_on_a_terminal(world, ini):
    """On a terminal it is a table."""
    browsers(world, "ann")
    code, shown = ini.on_terminal("pls-list", "ann")
    assert 0 == code
    assert "┃" in shown
    assert "2027-01-15 08:00:00" in shown


# -- pls-revoke ------------------------------------------------------------


def test_revoke_a_user(world, ini):
    """--user ends all of a user's sessions, and the browsers are told why."""
    ann, bob, also = browsers(world, "ann", "bob", "ann")
    code, out, err = ini.call("pls-revoke", "--user", "ann")
    assert (0, "ended 2 sessions\n", "") == (code, out, err)
    assert [{}, "revoked"] == state(ann) == state(also)
    assert [{"user": "bob"}, None] == state(bob)


def test_revoke_by_id(world, ini):
    """--id ends one, or several; --except-id spares one."""
    ann, bob, eve, joe = browsers(world, "ann", "bob", "eve", "joe")
    first, second, third, _ = map(str, ids(world))
    assert "ended 1 session\n" == ini.call("pls-revoke", "--id", first)[1]
    given = ("--id", second, "--id", third, "--except-id", third)
    assert "ended 1 session\n" == ini.call("pls-revoke", *given)[1]
    ends = [state(browser)[1] for browser in (ann, bob, eve, joe)]
    assert ["revoked", "revoked", None, None] == ends


def test_revoke_of_a_user_but_one(world, ini):
    """--user with --except-id leaves the one in which he sits."""
    ann, also = browsers(world, "ann", "ann")
    keep = str(ids(world)[1])
    ini.call("pls-revoke", "--user", "ann", "--except-id", keep)
    assert "revoked" == state(ann)[1]
    assert [{"user": "ann"}, None] == state(also)


def test_revoke_needs_both_to_be_true(world, ini):
    """An id of somebody else's session is not ended with a user's name."""
    browsers(world, "ann", "bob")
    given = ("--user", "ann", "--id", str(ids(world)[1]))
    assert "ended 0 sessions\n" == ini.call("pls-revoke", *given)[1]


@pytest.mark.parametrize(
    "when", ["2027-01-15T08:00:01", "2027-01-15T09:00:01+01:00"]
)
def test_revoke_what_began_before(world, ini, when):
    """--created-before ends what began earlier, not at that very second."""
    early, late = browsers(world, "ann", "ann")
    given = ("--created-before", when, "--yes")
    assert "ended 1 session\n" == ini.call("pls-revoke", *given)[1]
    assert ("revoked", None) == (state(early)[1], state(late)[1])


def test_revoke_what_began_so_long_ago(world, ini):
    """--created-before 2h is counted from now, by the application's clock."""
    put(world, (START - 2 * HOUR - 1, START), (START - 2 * HOUR, START))
    ini.call("pls-revoke", "--created-before", "2h", "--yes")
    assert ["revoked", None] == [row.ended for row in world.rows()]


@pytest.mark.parametrize("when", ["soon", "", "2027-13-01", "-1h", "2027"])
def test_revoke_at_no_time(world, ini, when):
    """What is no time is a wrong use, and accepted forms are told."""
    code, out, err = ini.call("pls-revoke", f"--created-before={when}")
    assert (2, "") == (code, out)
    assert "2026-11-25T14:30" in err


def test_revoke_all_in_batches(world, ini):
    """--all ends everybody's sessions, whatever their number."""
    put(world, *[(START, START)] * 1203)
    put(world, (START, START), ended="limit")
    code, out, _ = ini.call("pls-revoke", "--all", "--yes", "--json")
    assert (0, {"ended": 1203}) == (code, json.loads(out))
    ends = [row.ended for row in world.rows()]
    assert (1203, 1) == (ends.count("revoked"), ends.count("limit"))
    assert {""} == {str(row.data) for row in world.rows()[:1203]}


def test_revoke_dry_run(world, ini):
    """--dry-run counts, asks nothing, and ends nothing."""
    browsers(world, "ann", "bob")
    code, out, _ = ini.call("pls-revoke", "--all", "--dry-run")
    assert (0, "would end 2 sessions\n") == (code, out)
    assert [None, None] == [row.ended for row in world.rows()]


def test_revoke_brings_nothing_back(world, ini):
    """P3: a request of the user that is under way stores nothing."""
    (ann,) = browsers(world, "ann")

    @world.on("slow")
    def _(request):
        request.session["late"] = 1
        ini.call("pls-revoke", "--user", "ann")
        return {}

    assert [] == cookie_of(ann.get("/slow"))
    (row,) = world.rows()
    assert ("revoked", "") == (row.ended, str(row.data))


@contextmanager
def signing_in_meanwhile(browser):
    """Let a user sign in as another one when a transaction begins."""
    changed = []

    def sign_in(connection, cursor, statement, *arguments):
        if statement.startswith("BEGIN") and not changed:
            changed.append(None)
            changed[0] = browser.get("/set?user=bob").json

    # The engine of the command's own application.
    sa.event.listen(Engine, "before_cursor_execute", sign_in)
    try:
        yield
    finally:
        sa.event.remove(Engine, "before_cursor_execute", sign_in)
    assert [{"user": "bob"}] == changed


def test_revoke_leaves_who_signs_in_as_another_meanwhile(world, ini):
    """A session that is another user's by then is left alone."""
    (ann,) = browsers(world, "ann")
    with signing_in_meanwhile(ann):
        ini.call("pls-revoke", "--user", "ann")
    assert [{"user": "bob"}, None] == state(ann)


def test_revoke_all_spares_nobody_who_signs_in_meanwhile(world, ini):
    """Of everybody's sessions, one that becomes another user's is ended."""
    (ann,) = browsers(world, "ann")
    with signing_in_meanwhile(ann):
        ini.call("pls-revoke", "--all", "--yes")
    assert [{}, "revoked"] == state(ann)


def test_revoke_tells_what_it_has_ended_when_it_fails(
    make_world, make_ini, database
):
    """A row that somebody has locked: a sentence with the number, code 1."""
    lock = {"limitedsession.lock_timeout": "1s"}
    world = make_world(database, settings=lock)
    put(world, (START, START))
    holder = world.engine.connect()
    if database == "sqlite":
        holder.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        holder.execute(sa.select(world.table).with_for_update())
    ini = make_ini(world, limited__lock_timeout="1s")
    code, out, err = ini.call("pls-revoke", "--all", "--yes")
    holder.close()
    assert (1, "") == (code, out)
    assert "ended 0 sessions, but not all; call it again" in err


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((), "say which sessions"),
        (("--all", "--user", "ann"), "--all is all"),
        (("--id", "0"), "not a positive number"),
        (("--id", "9" * 30), "not a positive number"),
        (("--id", "x"), "not a positive number"),
        (("--user", ""), "the name of the user is empty"),
        (("--except-id", "7"), "say which sessions"),
        (("--all",), "say --yes"),
        (("--created-before", "2h"), "say --yes"),
    ],
)
def test_revoke_wrong_use(lite, make_ini, given, text):
    """Nothing is ended unless it is clear what."""
    put(lite, (START, START))
    code, out, err = make_ini(lite).call("pls-revoke", *given)
    assert (2, "") == (code, out)
    assert text in err
    assert [None] == [row.ended for row in lite.rows()]


# -- pls-stats -------------------------------------------------------------


def fill(world: Any) -> None:
    """Store rows of every kind."""
    put(world, *[(START - DAY, START)] * 3, user_id="ann")
    put(world, (START, START), user_id="bob", data='"' + "ü" * 200 + '"')
    put(world, *[(START - 8 * DAY, START - 2 * DAY)] * 2, profile="long")
    put(world, *[(START - DAY, START - DAY)] * 4)
    put(world, *[(START - 31 * DAY, START)] * 5)
    put(world, *[(START, START)] * 6, ended="revoked", data="")
    put(world, (START, START + 2 * DAY))


STATS = {
    "limited__idle_timeout": "2h",
    "limited__absolute_timeout": "30d",
    "limited__profile__long__idle_timeout": "90d",
}


def test_stats_json(world, make_ini):
    """Each row is counted once for its state, live ones in more detail."""
    fill(world)
    code, out, err = make_ini(world, **STATS).call("pls-stats", "--json")
    told = json.loads(out)
    assert (0, "") == (code, err)
    assert 22 == told["sessions"]
    assert {
        "live": 6,
        "idle": 4,
        "absolute": 5,
        "ended": 6,
        "ahead": 1,
    } == told["states"]
    live = told["live"]
    assert (4, 2) == (live["signed_in"], live["anonymous"])
    # In bytes: two for each "ü".
    assert 402 + 2 * 15 == told["bytes"]
    assert [5, 1, 0, 0, 0, 0] == [each["sessions"] for each in live["sizes"]]
    assert [1, 0, 3, 2, 0, 0] == [each["sessions"] for each in live["ages"]]
    assert [4, 0, 2, 0, 0, 0] == [each["sessions"] for each in live["unused"]]
    assert [256, 1024, 4096, 16384, 65536, None] == [
        each["below"] for each in live["sizes"]
    ]
    assert [{"sessions": 3}, {"sessions": 1}] == told["largest_users"]


def test_stats_say_what_trimming_would_take(world, make_ini):
    """With the same options, the same rows by the same reasons."""
    fill(world)
    ini = make_ini(world, **STATS)
    given = ("--json", "--anonymous-days", "2")
    stats = json.loads(ini.call("pls-stats", *given)[1])
    trim = json.loads(ini.trim("--dry-run", *given)[1])
    assert {"idle": 4, "absolute": 5, "anonymous": 2} == trim["reasons"]
    assert trim["reasons"] == stats["would_trim"]


def test_stats_plain(lite, make_ini):
    """In words: blocks of lines, each with its bar, and one line at last."""
    fill(lite)
    code, out, err = make_ini(lite, **STATS).call("pls-stats")
    assert (0, "") == (code, err)
    lines = [re.sub(" +", " ", line).strip() for line in out.splitlines()]
    assert "live 6 " + "#" * 40 in lines
    assert "idle: past idle_timeout 4 " + "#" * 27 in lines
    assert "< 256 B 5 " + "#" * 40 in lines
    assert "number 1 3 " + "#" * 40 in lines
    assert "ann" not in out
    assert "22 sessions, 6 of them live; pls-trim would delete 9" == lines[-1]


def test_stats_name_users_if_told(world, make_ini):
    """--users names so many, those with the most sessions first."""
    fill(world)
    ini = make_ini(world, **STATS)
    told = json.loads(ini.call("pls-stats", "--json", "--users", "1")[1])
    assert [{"user": "ann", "sessions": 3}] == told["largest_users"]
    assert re.search(r"ann +3", ini.call("pls-stats", "--users", "2")[1])


def test_stats_names_can_do_nothing_to_a_terminal(lite, make_ini):
    """A user's name is shown without what a terminal would obey."""
    put(lite, (START, START), user_id="ann\x1b[2J\nbob")
    out = make_ini(lite).call("pls-stats", "--users", "1")[1]
    assert "\x1b" not in out
    assert "ann\\x1b[2J\\nbob" in out


def test_stats_of_an_empty_table(world, ini):
    """Nothing is not a failure."""
    assert (
        "0 sessions, 0 of them live; pls-trim would delete 0\n"
        == ini.call("pls-stats")[1].splitlines(keepends=True)[-1]
    )


def test_stats_count_each_damaged_row(world, ini, database):
    """A row without times is told as damaged."""
    name = world.table.name
    free = {
        "sqlite": [],
        "postgresql": [
            f"ALTER TABLE {name} ALTER COLUMN updated_at DROP NOT NULL"
        ],
        "mariadb": [f"ALTER TABLE {name} MODIFY updated_at DATETIME NULL"],
    }
    if database == "sqlite":
        world.execute(sa.text(f"DROP TABLE {name}"))
        text = " ".join(world.store.ddl()[0].split())
        text = text.replace(
            "updated_at DATETIME NOT NULL", "updated_at DATETIME"
        )
        world.execute(sa.text(text.rstrip(";")))
    for statement in free[database]:
        world.execute(sa.text(statement))
    put(world, (START, START), updated_at=None)
    told = json.loads(ini.call("pls-stats", "--json")[1])
    assert {"damaged": 1} == told["states"] == told["would_trim"]
    assert "deleted 1 session" in ini.trim()[1]


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("mode", ["separate"])
def test_stats_on_a_terminal(world, ini):
    """On a terminal the bars are blocks, in colour."""
    put(world, (START, START))
    code, shown = ini.on_terminal("pls-stats")
    assert 0 == code
    assert "█" * 40 in shown
    assert "\x1b[36m" in shown
