"""docs/seeds.rst: each option of the two seeds, and what it is here.

Each row has a test of its own, named after the option.
"""

from __future__ import annotations

import base64
import json
import pickle
import re
from pathlib import Path

import pytest
from sqlalchemy.orm import declarative_base

from pyramid_limitedsession.options import EXPIRY_OPTIONS, OPTIONS
from pyramid_limitedsession.schema import SessionMixin, typed_table
from pyramid_limitedsession.scripts import trim
from pyramid_limitedsession.serializers import as_serializer
from pyramid_limitedsession.settings import read_settings
from tests.apps import START, cookie_of
from tests.commands import main_of

PAGE = Path(__file__).parent.parent / "docs" / "seeds.rst"
DEFAULTS = {option.name: option.default for option in OPTIONS} | {
    f"expiry.{option.name}": option.default for option in EXPIRY_OPTIONS
}
HOUR = 3600
# Our own idle limit; the tween has one of its own.
OFF = {"idle_timeout": "none"}


def rows():
    """Return the table: seed's option to (its default, here, default)."""
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition(".. list-table::")[2]
    table = table.partition(".. end of the table")[0]
    found = [
        [" ".join(cell.split()) for cell in re.split(r"\n {5}- ", row)]
        for row in table.split("   * - ")[2:]
    ]
    return {row[0]: row[1:] for row in found}


SETTINGS = {
    name: here.strip("`")
    for name, (_, here, _) in rows().items()
    if here.strip("`") in DEFAULTS
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_default_is_the_setting_s(name):
    """A row that names a setting names its default too."""
    default = rows()[name][2].partition(",")[0].strip("`")
    assert DEFAULTS[SETTINGS[name]] == default


def test_every_row_has_a_test():
    """What is in the table is a setting below, or a test of its own."""
    rest = set(rows()) - set(SETTINGS)
    assert set(TESTED) == rest
    assert set(BY_SETTING) == set(SETTINGS)


# -- the rows that are settings: what each does ------------------------


@pytest.fixture(name="make_rails")
def _make_rails(make_world, clock):
    """Return a function that makes a world with these settings."""

    def configure(config):
        config.include("pyramid_limitedsession.expiry")
        config.set_expiry_clock(clock)

    def make(**given):
        world = make_world(
            settings={f"limitedsession.{k}": v for k, v in given.items()},
            configure=configure,
        )

        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return {}

        @world.on("get")
        def _(request):
            return [dict(request.session), request.session_ended]

        return world

    return make


def cookie_with(make_rails, **given):
    """Return the header of a first cookie under these settings."""
    (header,) = cookie_of(make_rails(**given).browser().get("/set?a=1"))
    return header


def over_after(make_rails, seconds, **given):
    """Return why a session is over after so long without a request."""
    world = make_rails(**given)
    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(seconds)
    return browser.get("/get").json[1]


def tween_recent_activity(make_rails):
    """Off by default; ends a session of any kind, with its grace."""
    assert over_after(make_rails, 99 * HOUR, **OFF) is None
    given = OFF | {"expiry.idle_timeout": "30m"}
    assert over_after(make_rails, 1800 + 298, **given) is None
    assert over_after(make_rails, 1800 + 299, **given) == "idle"


def tween_max_session(make_rails):
    """Off by default; ends a session of any kind on its second."""
    given = OFF | {"expiry.absolute_timeout": "30m"}
    assert over_after(make_rails, 1799, **given) is None
    assert over_after(make_rails, 1800, **given) == "absolute"


def recent_activity(make_rails):
    """Two hours by default, with the grace of a touch interval."""
    assert over_after(make_rails, 2 * HOUR + 58) is None
    assert over_after(make_rails, 2 * HOUR + 59) == "idle"


def max_session(make_rails):
    """Off by default; ends a session however busy it is."""
    given = {"idle_timeout": "none"}
    assert over_after(make_rails, 999 * HOUR, **given) is None
    given["absolute_timeout"] = "1h"
    assert over_after(make_rails, HOUR, **given) == "absolute"


def self_clean_sessions(make_rails):
    """One request in so many deletes what has expired; 0 is never."""
    for given, left in (("1", 1), ("0", 2)):
        world = make_rails(self_clean=given)
        world.browser().get("/set?a=1")
        world.clock.pass_(9 * HOUR)
        world.browser().get("/set?a=1")
        assert left == len(world.rows())


def key(make_rails):
    """The name of the cookie."""
    assert cookie_with(make_rails).startswith("session=")
    assert cookie_with(make_rails, cookie_name="id").startswith("id=")


def path(make_rails):
    """The cookie's Path."""
    assert "; Path=/;" in cookie_with(make_rails)
    assert "; Path=/app;" in cookie_with(make_rails, cookie_path="/app")


def domain(make_rails):
    """The cookie's Domain."""
    assert "Domain" not in cookie_with(make_rails)
    header = cookie_with(make_rails, cookie_domain="localhost")
    assert "; Domain=localhost" in header


def secure(make_rails):
    """The cookie's Secure flag; by default where the request is secure."""
    assert "secure" not in cookie_with(make_rails).lower()
    header = cookie_with(make_rails, cookie_secure="true")
    assert "; secure" in header.lower()


def httponly(make_rails):
    """The cookie's HttpOnly flag, on by default as there."""
    assert "HttpOnly" in cookie_with(make_rails)
    assert "HttpOnly" not in cookie_with(make_rails, cookie_httponly="no")


def same_site(make_rails):
    """The cookie's SameSite; ``off`` leaves it out, as an explicit nil."""
    assert "SameSite=Lax" in cookie_with(make_rails)
    assert "SameSite" not in cookie_with(make_rails, cookie_samesite="off")


def expire_after(make_rails):
    """The cookie's Max-Age, in seconds."""
    assert "Max-Age" not in cookie_with(make_rails)
    assert "Max-Age=90;" in cookie_with(make_rails, cookie_max_age="90s")


def table_name(make_rails):
    """The table is called so."""
    assert read_settings({}).layout.name == "sessions"
    world = make_rails()
    world.browser().get("/set?a=1")
    assert world.count() != []


def serializer(make_rails):
    """JSON: nothing that is read can run code, as marshal's could.

    Hybrid reads pickles too: what is in this one is no class.
    """
    assert '{"a":"1"}' == stored(make_rails).data
    for name, read in (("json", {}), ("hybrid", {"a": [1]})):
        world = make_rails(serializer=name)
        browser = world.browser()
        browser.get("/set?a=1")
        pickled = base64.b64encode(pickle.dumps({"a": (1,)})).decode()
        world.execute(world.table.update().values(data=pickled))
        assert read == browser.get("/get").json[0]


def secure_session_only(make_rails):
    """A row whose id is plain, as old releases of Rails wrote it.

    It opens nothing; with the setting it does, and is hashed.
    """
    for legacy_ids, read in (("false", {}), ("true", {"a": "1"})):
        world = make_rails(legacy_ids=legacy_ids)
        browser = world.browser()
        browser.get("/set?a=1")
        (hashed,) = [row.session_id for row in world.rows()]
        token = browser.cookies["session"]
        world.execute(world.table.update().values(session_id=token))
        assert [read, None] == browser.get("/get").json
        (now,) = [row.session_id for row in world.rows()]
        assert now == (hashed if read else token)


BY_SETTING = {
    "LS Expiry ``recent_activity``": tween_recent_activity,
    "LS Expiry ``max_session``": tween_max_session,
    "LS ``recent_activity``": recent_activity,
    "LS ``max_session``": max_session,
    "LS ``self_clean_sessions``": self_clean_sessions,
    "ARS ``key``": key,
    "ARS ``path``": path,
    "ARS ``domain``": domain,
    "ARS ``secure``": secure,
    "ARS ``httponly``": httponly,
    "ARS ``same_site``": same_site,
    "ARS ``expire_after``": expire_after,
    "ARS ``table_name``": table_name,
    "ARS ``secure_session_only``": secure_session_only,
    "ARS ``serializer``": serializer,
}


@pytest.mark.parametrize("name", BY_SETTING)
def test_setting(make_rails, name):
    """The setting does here what the seed's option does there."""
    BY_SETTING[name](make_rails)


# -- the other rows ----------------------------------------------------


def stored(make_rails):
    """Return the row of a session."""
    world = make_rails()
    world.browser().get("/set?a=1")
    (row,) = world.rows()
    return row


def new_token(make_rails, act):
    """Return rows and content before and after an act, and the tokens."""
    world = make_rails()

    @world.on("act")
    def _(request):
        act(request.session)
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    before, token = world.rows(), browser.cookies["session"]
    answer = browser.get("/act")
    return world, before, token, answer


def renew(make_rails):
    """A new token for the same row and the same content."""
    world, before, token, answer = new_token(
        make_rails, lambda session: session.rotate()
    )
    (row,) = world.rows()
    assert (before[0].id, before[0].data) == (row.id, row.data)
    assert before[0].session_id != row.session_id
    assert token not in cookie_of(answer)[0]


def drop(make_rails):
    """No row, no content, and the browser forgets the token."""
    world, _, _, answer = new_token(
        make_rails, lambda session: session.invalidate()
    )
    assert [] == world.rows()
    assert "Max-Age=0" in cookie_of(answer)[0]


def defer_and_skip(make_rails):
    """A request that does not use its session costs and sends nothing."""
    world = make_rails()

    @world.on("idle")
    def _(request):
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    world.count()
    answer = browser.get("/idle")
    assert ([], []) == (world.count(), cookie_of(answer))


def sidbits(make_rails):
    """43 URL-safe characters, that is 256 bits."""
    header = cookie_with(make_rails)
    assert re.match(r"session=[A-Za-z0-9_-]{43};", header)


def cookie_only(make_rails):
    """A token in a parameter or another header opens nothing."""
    world = make_rails()
    browser = world.browser()
    browser.get("/set?a=1")
    token = browser.cookies["session"]
    answer = world.browser().get(
        f"/get?session={token}", headers={"X-Session": token}
    )
    assert {} == answer.json[0]


def columns(make_rails):
    """The columns that Rails has too are called as there, or otherwise.

    The key may be the primary key.
    """
    row = stored(make_rails)
    names = {"id", "session_id", "data", "created_at", "updated_at"}
    assert names <= set(row._fields)
    assert re.fullmatch(r"2::[0-9a-f]{64}", row.session_id)
    assert START == row.created_at
    for name in ("id", "session_id", "data"):
        settings = read_settings({f"limitedsession.column.{name}": "x"})
        assert typed_table(settings.layout).c[name].name == "x"
    without = "session_id data created_at updated_at"
    settings = read_settings({"limitedsession.columns": without})
    (primary,) = typed_table(settings.layout).primary_key
    assert "session_id" == primary.name


def rails_json(make_rails):
    """What Rails has written is read, and written in its form."""
    world = make_rails(serializer="rails")
    browser = world.browser()
    browser.get("/set?a=1")
    assert ['{"value":{"a":"1"}}'] == [row.data for row in world.rows()]
    # With blanks, and not in ASCII.
    world.execute(world.table.update().values(data='{"value": {"b": "é"}}'))
    assert {"b": "é"} == browser.get("/get").json[0]


def other_serializers(make_rails):
    """Each kind has its counterpart, an object that two functions."""
    found = {
        name: as_serializer(name)
        for name in ("pickle", "hybrid", "null", "rails")
    }
    assert found["null"].is_native
    assert found["pickle"].warning
    assert as_serializer(json).loads('{"a":1}') == {"a": 1}


def connection(make_rails):
    """An engine of its own, or the application's dbsession."""
    settings = read_settings({})
    assert (None, "dbsession") == (settings.url, settings.dbsession)


def session_class(make_rails):
    """A mapped class of the application's, or a store of its own."""

    class Web(SessionMixin, declarative_base()):
        __tablename__ = "web_sessions"

    settings = read_settings({"limitedsession.model": Web})
    assert "web_sessions" == settings.layout.name

    def make_store(given):
        return given

    settings = read_settings({"limitedsession.store": make_store})
    assert make_store is settings.store


def trimming(make_rails):
    """The same variable, with the same default, in days."""
    assert trim.DAYS_VARIABLE == "SESSION_DAYS_TRIM_THRESHOLD"
    assert 30.0 == trim.days("30")


def commands(make_rails):
    """Each command is the function of a module."""
    for name in ("clear", "init", "trim", "upgrade"):
        assert callable(main_of(f"pls-{name}"))


TESTED = {
    "ARS ``renew``": renew,
    "ARS ``drop``": drop,
    "ARS ``defer``, ``skip``": defer_and_skip,
    "ARS ``sidbits``, ``secure_random``": sidbits,
    "ARS ``cookie_only``": cookie_only,
    "ARS ``primary_key``": columns,
    "ARS ``data_column_name``": columns,
    "ARS ``session_id_column``": columns,
    "ARS ``connection``, ``connection_pool``": connection,
    "ARS ``serializer = :json``": rails_json,
    "ARS ``serializer = :marshal``, ``:hybrid``, ``:null``, an object": (
        other_serializers
    ),
    "ARS ``session_class``": session_class,
    "``SESSION_DAYS_TRIM_THRESHOLD``": trimming,
    "``rake db:sessions:trim``": commands,
    "``rake db:sessions:create``": commands,
    "``rake db:sessions:clear``": commands,
    "``rake db:sessions:upgrade``": commands,
}


@pytest.mark.parametrize("name", TESTED)
def test_row(make_rails, name):
    """What the row says is so."""
    TESTED[name](make_rails)
