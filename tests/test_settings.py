"""The settings: what is accepted, what does not start, and how it says so."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from sqlalchemy.orm import declarative_base

from pyramid_limitedsession import SessionMixin
from pyramid_limitedsession.layout import COLUMNS, Layout
from pyramid_limitedsession.options import (
    EXPIRY_OPTIONS,
    OPTIONS,
    PROFILE_OPTIONS,
    settings_table,
)
from pyramid_limitedsession.sealing import Encrypting, Plain
from pyramid_limitedsession.serializers import (
    HybridSerializer,
    JSONSerializer,
)
from pyramid_limitedsession.settings import (
    PREFIX,
    CookieSettings,
    Settings,
    read_settings,
)

NAMES = [option.name for option in OPTIONS]
URL = "sqlite:////var/lib/app/x.sqlite"
DAY = 86400


def _read(**given: Any) -> Settings:
    """Read settings; two underscores are the dot of an engine's option."""
    return read_settings(
        {PREFIX + key.replace("__", "."): given[key] for key in given}
    )


def _problems(given: dict[str, Any]) -> list[str]:
    """Return the lines of the error, without its heading."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings({PREFIX + key: value for key, value in given.items()})
    heading, *problems = str(caught.value).splitlines()
    assert heading == (
        "pyramid_limitedsession cannot start with these settings:"
    )
    return [problem.strip() for problem in problems]


def _value(settings: Settings, name: str) -> Any:
    """Return what became of an option."""
    policy, cookie = settings.policy, settings.cookie
    places: dict[str, Any] = {
        "idle_timeout": policy.profiles.default.limits.idle,
        "absolute_timeout": policy.profiles.default.limits.absolute,
        "touch_interval": policy.profiles.default.limits.touch_interval,
        "self_clean": settings.self_clean,
        "self_clean_batch": settings.self_clean_batch,
        "sqlalchemy.url": settings.url,
        "dbsession": settings.dbsession,
        "create_table": settings.create_table,
        "lock_timeout": settings.lock_timeout,
        "table_name": settings.layout.name,
        "schema": settings.layout.schema,
        "columns": tuple(settings.layout.names),
        "model": settings.layout.table,
        "column_values": settings.column_values,
        "store": settings.store,
        "adopt": settings.adopt,
        "encrypt": type(policy.sealer),
        "encryption_keys": _keys(policy.sealer),
        "legacy_ids": (policy.legacy_ids, policy.accepts_any_token),
        "serializer": type(policy.serializer),
        "max_data_size": policy.max_data_size,
        "on_conflict": policy.on_conflict,
        "cookie_name": cookie.name,
        "cookie_path": cookie.path,
        "cookie_domain": cookie.domain,
        "cookie_secure": cookie.secure,
        "cookie_httponly": cookie.httponly,
        "cookie_samesite": cookie.samesite,
        "cookie_max_age": policy.profiles.default.cookie_max_age,
        "passive": settings.passive,
        "user_key": policy.user_key,
        "max_sessions_per_user": policy.max_sessions_per_user,
    }
    return places[name]


def _keys(sealer: Plain) -> int:
    """Return how many keys a sealer tries beside none."""
    return len(sealer._salts) - 1


# -- defaults ----------------------------------------------------------


def test_defaults():
    """Without any setting there are two idle hours and a safe cookie."""
    settings = read_settings({})
    limits = settings.policy.profiles.default.limits
    assert (7200, None, 60) == (
        limits.idle,
        limits.absolute,
        limits.touch_interval,
    )
    assert 65536 == settings.policy.max_data_size
    assert settings.policy.on_conflict == "merge"
    assert type(settings.policy.serializer) is JSONSerializer
    assert settings.policy.legacy_ids is False
    assert (1000, 1000) == (settings.self_clean, settings.self_clean_batch)
    assert settings.url is None
    assert {} == settings.engine
    assert settings.dbsession == "dbsession"
    assert settings.create_table is False
    assert 5 == settings.lock_timeout
    assert Layout() == settings.layout
    assert settings.layout.schema is None
    assert type(settings.policy.sealer) is Plain
    assert settings.cookie == CookieSettings(
        name="session",
        path="/",
        domain=None,
        secure=None,
        httponly=True,
        samesite="Lax",
    )
    assert settings.policy.profiles.default.cookie_max_age is None
    assert {} == settings.policy.profiles.named
    assert () == settings.passive
    assert settings.policy.user_key == "auth.userid"
    assert settings.policy.max_sessions_per_user is None


@pytest.mark.parametrize("name", NAMES)
def test_a_default_may_be_written_down(name):
    """Each default of the README's table is accepted, and changes nothing."""
    (option,) = [option for option in OPTIONS if option.name == name]
    settings = read_settings({PREFIX + name: option.default})
    assert _value(read_settings({}), name) == _value(settings, name)


@pytest.fixture(name="myapp")
def _myapp(monkeypatch):
    """The modules that errors and docs name as the application's."""

    class WebSession(SessionMixin, declarative_base()):
        __tablename__ = "sessions"

    names = {
        "models": {"WebSession": WebSession, "session_columns": dict},
        "sessions": {"make_store": dict, "old_session_factory": dict},
    }
    monkeypatch.setitem(sys.modules, "myapp", ModuleType("myapp"))
    for name, found in names.items():
        module = ModuleType(f"myapp.{name}")
        vars(module).update(found)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_an_example_is_accepted(option, myapp):
    """What an error proposes is accepted."""
    needed = {
        "column_values": {"model": "myapp.models.WebSession"},
        "encryption_keys": {"encrypt": "true"},
    }
    given = needed.get(option.name, {}) | {option.name: option.example}
    read_settings({PREFIX + name: value for name, value in given.items()})


def test_settings_are_frozen():
    """Nobody can change the settings of a running application."""
    settings = read_settings({})
    with pytest.raises(AttributeError):
        settings.layout.name = "x"
    with pytest.raises(AttributeError):
        settings.policy.profiles.default.limits.idle = 1


# -- accepted ----------------------------------------------------------

TIMES = [
    ("90", 90),
    ("90s", 90),
    ("30m", 1800),
    ("2h", 7200),
    ("30d", 30 * DAY),
    ("1w", 7 * DAY),
    (" 5 m ", 300),
    ("007", 7),
    ("36500d", 36500 * DAY),
    (3600, 3600),
]
OFF = [("none", None), ("None", None), ("NONE", None), (None, None)]
YES = [(text, True) for text in ("true", "True", "YES", "on", "1", True, 1)]
NO = [(text, False) for text in ("false", "No", "off", "0", False, 0)]
COUNTS = [("1", 1), ("10000", 10000), (" 7 ", 7), (7, 7)]
WORDS = [("x", "x"), ("with blank", "with blank"), (" x ", "x")]
ACCEPTED = {
    "idle_timeout": [*TIMES, *OFF],
    "absolute_timeout": [*TIMES, *OFF, ("1", 1)],
    "touch_interval": [
        ("0", 0),
        ("0s", 0),
        (0, 0),
        ("1", 1),
        ("30s", 30),
        ("7199", 7199),
        ("auto", 60),
        ("AUTO", 60),
    ],
    "self_clean": [("0", 0), (0, 0), *COUNTS],
    "self_clean_batch": [*COUNTS, ("auto", 1000), ("Auto", 1000)],
    "sqlalchemy.url": [
        (URL, URL),
        ("", None),
        (f" {URL} ", URL),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("mysql+pymysql://u@h/d?x=y", "mysql+pymysql://u@h/d?x=y"),
    ],
    "dbsession": WORDS,
    "lock_timeout": [("1", 1), ("1s", 1), ("5m", 300), ("1d", DAY)],
    "create_table": [*YES, *NO, ("auto", False), ("AUTO", False)],
    "table_name": WORDS,
    "schema": [*OFF, *WORDS],
    "columns": [
        ("all", COLUMNS),
        ("session_id data created_at updated_at", COLUMNS[1:3] + COLUMNS[4:6]),
        (" ".join(COLUMNS[::-1]), COLUMNS),
        (list(COLUMNS[::-1]), COLUMNS),
        (COLUMNS[1:6], COLUMNS[1:6]),
    ],
    "model": OFF,
    "column_values": OFF,
    "store": [*OFF, (dict, dict), ("builtins.dict", dict)],
    "adopt": [*OFF, (dict, dict), ("builtins:dict", dict)],
    "legacy_ids": [
        *((given, (value, value)) for given, value in [*YES, *NO]),
        ("hashed", (False, True)),
        ("Hashed", (False, True)),
    ],
    "encrypt": [
        *((given, Encrypting) for given, _ in YES),
        *((given, Plain) for given, _ in NO),
        ("only", Encrypting),
    ],
    "encryption_keys": [
        ("none", 0),
        ("k" * 32, 1),
        (f"{'k' * 32} {'l' * 40}\n{'m' * 32}", 3),
        (["k" * 32, "with blanks in it " * 2], 2),
    ],
    "serializer": [
        ("json", JSONSerializer),
        ("JSON", JSONSerializer),
        ("hybrid", HybridSerializer),
    ],
    "max_data_size": [
        *OFF,
        ("1", 1),
        ("4096", 4096),
        ("4096B", 4096),
        ("64KiB", 65536),
        ("64 KiB", 65536),
        ("1MiB", 2**20),
        ("1GiB", 2**30),
        (4096, 4096),
    ],
    "on_conflict": [
        ("merge", "merge"),
        ("retry", "retry"),
        ("overwrite", "overwrite"),
        ("Retry", "retry"),
    ],
    "cookie_name": [("sid", "sid"), ("a.b-c_d!", "a.b-c_d!")],
    "cookie_path": [("/", "/"), ("/app", "/app"), ("/a/b/", "/a/b/")],
    "cookie_domain": [*OFF, ("example.com", "example.com"), (".x", ".x")],
    "cookie_secure": [*YES, *NO, ("auto", None), ("Auto", None)],
    "cookie_httponly": [*YES, *NO],
    "cookie_samesite": [
        ("Lax", "Lax"),
        ("lax", "Lax"),
        ("STRICT", "Strict"),
        ("off", None),
    ],
    "cookie_max_age": [*TIMES, *OFF, ("auto", "auto"), ("AUTO", "auto")],
    "passive": [
        ("", ()),
        ("/poll", ("/poll",)),
        ("/poll/* */ping", ("/poll/*", "*/ping")),
        ("\n/a\n  /b\n", ("/a", "/b")),
    ],
    "user_key": [*OFF, ("auth.userid", "auth.userid"), ("uid", "uid")],
    "max_sessions_per_user": [*OFF, ("1", 1), (5, 5), ("1000", 1000)],
}


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [(name, *pair) for name in ACCEPTED for pair in ACCEPTED[name]],
)
def test_accepted(name, given, expected):
    """Each of these forms is accepted, as a text or as a Python value."""
    given_settings = {PREFIX + name: given}
    if name == "encryption_keys":
        given_settings[f"{PREFIX}encrypt"] = "true"
    value = _value(read_settings(given_settings), name)
    assert (expected, type(expected)) == (value, type(value))


@pytest.mark.parametrize(
    ("idle", "expected"),
    [
        ("1s", 1),
        ("19s", 1),
        ("20s", 1),
        ("39s", 1),
        ("40s", 2),
        ("1199s", 59),
        ("20m", 60),
        ("1w", 60),
        ("none", 60),
    ],
)
def test_touch_interval_auto(idle, expected):
    """Automatic is a twentieth of the idle limit, from 1 s to 60 s."""
    settings = _read(idle_timeout=idle)
    assert expected == settings.policy.profiles.default.limits.touch_interval


@pytest.mark.parametrize(
    ("self_clean", "expected"),
    [("0", 1000), ("1", 1000), ("1000", 1000), ("1001", 1001)],
)
def test_self_clean_batch_auto(self_clean, expected):
    """Automatic is a row per request, and 1000 at least: it keeps up."""
    assert expected == _read(self_clean=self_clean).self_clean_batch


@pytest.mark.parametrize(
    ("url", "expected"), [({}, False), ({"sqlalchemy__url": URL}, True)]
)
def test_create_table_auto(url, expected):
    """Automatic makes the table in separate mode only."""
    assert _read(**url).create_table is expected


@pytest.mark.parametrize(("text", "expected"), [("no", False), ("yes", True)])
@pytest.mark.parametrize("url", [{}, {"sqlalchemy__url": URL}])
def test_create_table_as_said(url, text, expected):
    """What is said explicitly holds in both modes."""
    assert _read(create_table=text, **url).create_table is expected


def test_engine_options_are_passed_on():
    """Further sqlalchemy.* keys are options of the engine, as texts."""
    settings = _read(
        sqlalchemy__url=URL,
        sqlalchemy__pool_size=5,
        sqlalchemy__pool_recycle=" 3600 ",
    )
    assert {"pool_size": "5", "pool_recycle": "3600"} == settings.engine


@pytest.mark.parametrize(
    "key",
    [
        "sqlalchemy.url",
        "session.secret",
        "limitedsession",
        "limitedsessions.idle_timeout",
        "my.limitedsession.idle_timeout",
        "redis.sessions.timeout",
        "LIMITEDSESSION.idle_timeout",
    ],
)
def test_keys_of_others_are_ignored(key):
    """What does not begin with our prefix is none of our business."""
    settings = read_settings({key: object()})
    assert read_settings({}).cookie == settings.cookie
    assert settings.url is None


# -- refused -----------------------------------------------------------

NO_TIMES = [
    "",
    "x",
    "-1",
    "+1",
    "1.5h",
    "1,5h",
    "2H",
    "2hours",
    "1h30m",
    "1y",
    "h",
    "1e3",
    "0x10",
    "1_000",
    "\u0663",
    "\uff11\uff12",
    "36501d",
    "9" * 18,
    "9" * 30,
    True,
    7200.0,
    (1, 2),
]
NO_LIMITS = [*NO_TIMES, "0", "0s", "0h", 0, "auto"]
NO_BOOLS = ["", "x", "2", "tru", "none", "y", 2, None]
NO_WORDS = ["", "  "]
REFUSED: dict[str, list[Any]] = {
    "idle_timeout": NO_LIMITS,
    "absolute_timeout": NO_LIMITS,
    "touch_interval": [*NO_TIMES, "none", None],
    "self_clean": ["", "x", "-1", "1.5", "1s", "none", "auto", True, None],
    "self_clean_batch": ["", "x", "-1", "0", "1k", "none", False],
    "dbsession": NO_WORDS,
    "lock_timeout": ["", "x", "0", "-1", "1ms", "none", "auto", "2d"],
    "create_table": NO_BOOLS,
    "table_name": [*NO_WORDS, "a%(b", "a\0b", "x" * 49],
    "schema": [*NO_WORDS, "a%(b", "a\0b", "x" * 64],
    "legacy_ids": NO_BOOLS,
    "columns": [
        *("", "none", "id", "session_id data", f"{COLUMNS[0]} x", None),
        *(
            f"{' '.join(COLUMNS)} x",
            [],
            ["id"],
            [*COLUMNS, "x"],
            [*COLUMNS, 1],
        ),
        *(dict.fromkeys(COLUMNS), b"id", 1),
    ],
    "model": ["", "no.such.module", "builtins.dict", dict],
    "column_values": ["", "no.such.module", "builtins.True", 1],
    "store": ["", "no.such.module", "builtins.True", 1],
    "adopt": ["", "no.such.module", "sys.no_such_name", 1],
    "encrypt": NO_BOOLS,
    "encryption_keys": [
        f"{'k' * 32},{'l' * 32}",
        *("", "short", "k" * 31, f"{'k' * 32} short", ["k"], [], 1, object),
        *(b"k" * 32, [b"k" * 32], {"k" * 32: 1}, {"k" * 32}, ["k" * 32, None]),
        *("\ud800" * 32, ["k" * 32, "k" * 32 + "\udfff"]),
    ],
    "serializer": ["", "marshal", "json.dumps", "no.such.module", None],
    "max_data_size": [
        "",
        "x",
        "0",
        "0KiB",
        "-1",
        "64KB",
        "64kib",
        "64K",
        "1.5MiB",
        "1h",
        "auto",
        True,
    ],
    "on_conflict": ["", "x", "merge retry", "none", None],
    "cookie_name": ["", "a b", "a;b", "a=b", "a,b", 'a"b', "ä", "a\nb", "a/b"],
    "cookie_path": [
        "",
        "app",
        "/a b",
        "/a;b",
        "/a,b",
        "/a\tb",
        "/\x7f",
        "/a\r\nSet-Cookie: x",
        "none",
    ],
    "cookie_domain": ["", "a b", "a;b", "a,b", "a\nb", "a\x00b"],
    "cookie_secure": NO_BOOLS,
    "cookie_httponly": [*NO_BOOLS, "auto"],
    "cookie_samesite": ["", "x", "true", "Lax Strict", False],
    "cookie_max_age": [*NO_TIMES, "0", "0s", "0h", 0, "session"],
    "passive": ["poll", "/a,b c", "none", "http://x/"],
    "user_key": [""],
    "max_sessions_per_user": ["0", "-1", "x", "", "5s", "1.5", True],
}


@pytest.mark.parametrize(
    ("name", "given"),
    [(name, given) for name in REFUSED for given in REFUSED[name]],
)
def test_p10_refused(name, given):
    """P10: the one error names the key, the value, and an accepted form."""
    (option,) = [option for option in OPTIONS if option.name == name]
    text = repr(str(given).strip())
    if name == "encryption_keys":
        text = "these keys (of at least 32 characters each, separated by "
        text += "blanks or lines)"
    (problem,) = _problems({name: given})
    before, _, after = problem.rpartition("; ")
    assert f"say it like {option.example!r}{or_none(option)}" == after
    if option.is_object and name != "encryption_keys":
        # And why: what keeps it from being imported, for instance.
        before, _, reason = before.partition(" (")
        assert reason.endswith(")")
    assert f"limitedsession.{name} cannot be {text}" == before


def test_every_option_is_tried():
    """The lists above have each option; a URL has tests of its own."""
    assert set(NAMES) == set(ACCEPTED)
    assert set(NAMES) == {*REFUSED, "sqlalchemy.url"}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite://",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file:x?mode=memory&cache=shared&uri=true",
    ],
)
def test_p10_a_database_in_memory_is_refused(url):
    """P10: in memory each connection would be a database of its own."""
    (problem,) = _problems({"sqlalchemy.url": url})
    assert problem.startswith("limitedsession.sqlalchemy.url cannot be that")
    assert "say it like 'sqlite:////" in problem


@pytest.mark.parametrize(
    "url",
    [
        "canary",
        "postgresql:/scott:canary@host/db",
        "postgresql//scott:canary@host/db",
        "://scott:canary@host/db",
        "scott:canary@host:5432",
        "postgresql://scott:canary@host:port/db",
        "sqlite://scott:canary@",
    ],
)
def test_p6_a_password_is_not_in_the_error(url):
    """P6: what is no URL is refused without being shown, causes included."""
    with pytest.raises(ConfigurationError) as caught:
        _read(sqlalchemy__url=url, idle_timeout="x")
    error: BaseException | None = caught.value
    assert "limitedsession.sqlalchemy.url cannot be that URL" in str(error)
    while error is not None:
        assert "canary" not in str(error)
        error = error.__cause__ or error.__context__


def test_p10_all_wrong_keys_in_one_error():
    """P10: every wrong key is told at once, in one error."""
    problems = _problems(
        {
            "idle_timout": "1h",
            "idle_timeout": "1 hour",
            "self_clean": "often",
            "cookie_secure": "maybe",
            "sqlalchemy.url": "sqlite://",
            "cookie_samesite": "None",
            "nonsense": "1",
        }
    )
    keys = [re.split(r" (?:cannot|is|=) ", line)[0] for line in problems]
    assert {
        "limitedsession.idle_timout",
        "limitedsession.nonsense",
        "limitedsession.idle_timeout",
        "limitedsession.self_clean",
        "limitedsession.sqlalchemy.url",
        "limitedsession.cookie_secure",
        "limitedsession.cookie_samesite",
    } == set(keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("idle_timout", "idle_timeout"),
        ("idle-timeout", "idle_timeout"),
        ("Idle_Timeout", "idle_timeout"),
        ("timeout", "idle_timeout"),
        ("lock_wait", "lock_timeout"),
        ("size", "max_data_size"),
        ("absolut_timeout", "absolute_timeout"),
        ("touch", "touch_interval"),
        ("selfclean", "self_clean"),
        ("secure", "cookie_secure"),
        ("cookie_same_site", "cookie_samesite"),
        ("tablename", "table_name"),
        ("sqlalchemy_url", "sqlalchemy.url"),
        ("sqlalchemyurl", "sqlalchemy.url"),
        ("max_size", "max_data_size"),
        ("dbsesion", "dbsession"),
    ],
)
def test_p10_an_unknown_key_names_the_nearest(key, nearest):
    """P10: a typo in a limit does not start, and is told its right name."""
    assert [
        f"limitedsession.{key} is not a setting; "
        f"did you mean limitedsession.{nearest}?"
    ] == _problems({key: "1h"})


@pytest.mark.parametrize("key", ["", "1", "€", "x" * 1000])
def test_p10_any_unknown_key_is_refused(key):
    """P10: a key that is like none is refused as well, with a proposal."""
    (problem,) = _problems({key: "x"})
    assert f"limitedsession.{key} is not a setting; did you mean" in problem


def test_p6_an_unknown_keys_value_is_not_shown():
    """P6: what was meant as a URL under a wrong key stays secret."""
    (problem,) = _problems({"sqlalchemyurl": "postgresql://u:canary@h/d"})
    assert "canary" not in problem


# -- contradictions ----------------------------------------------------


@pytest.mark.parametrize(
    ("idle", "touch", "is_refused"),
    [
        ("60", "59", False),
        ("60", "60", True),
        ("60", "61", True),
        ("1m", "1m", True),
        ("2h", "119m", False),
        ("1", "0", False),
        ("1", "1", True),
        ("1", "auto", False),
        ("none", "1d", False),
    ],
)
def test_p10_touch_interval_is_below_idle_timeout(idle, touch, is_refused):
    """P10: activity must be written more often than the idle limit ends."""
    given = {"idle_timeout": idle, "touch_interval": touch}
    if not is_refused:
        _read(**given)
        return
    (problem,) = _problems(given)
    assert problem.startswith("limitedsession.touch_interval is ")
    assert "not less than idle_timeout" in problem
    assert problem.endswith("say it like 'auto'")


@pytest.mark.parametrize("key", ["sqlalchemy.pool_size", "sqlalchemy.ulr"])
def test_p10_engine_options_need_an_engine(key):
    """P10: options of an engine that no URL names do not start.

    One of them may be the URL itself, misspelt: it is not shown.
    """
    (problem,) = _problems({key: "canary"})
    assert f"limitedsession.{key} is an option of an engine" in problem
    assert "canary" not in problem


@pytest.mark.parametrize("secure", ["auto", "false"])
def test_p10_samesite_none_needs_secure(secure):
    """P10: browsers drop a SameSite=None cookie that is not Secure."""
    (problem,) = _problems(
        {"cookie_samesite": "none", "cookie_secure": secure}
    )
    assert "cookie_samesite = None needs cookie_secure = true" in problem


def test_samesite_none_with_secure():
    """With Secure it is accepted, and sent as None."""
    settings = _read(cookie_samesite="none", cookie_secure="true")
    assert settings.cookie.samesite == "None"


@pytest.mark.parametrize("secure", ["auto", "false"])
@pytest.mark.parametrize("name", ["__Host-sid", "__Secure-sid"])
def test_p10_name_prefixes_need_secure(name, secure):
    """P10: browsers refuse these names without Secure."""
    (problem,) = _problems({"cookie_name": name, "cookie_secure": secure})
    assert f"cookie_name {name!r} needs cookie_secure = true" in problem


@pytest.mark.parametrize(
    "more", [{"cookie_path": "/app"}, {"cookie_domain": "example.com"}]
)
def test_p10_host_prefix_needs_the_whole_host(more):
    """P10: __Host- allows no other path, and no domain."""
    (problem,) = _problems(
        {"cookie_name": "__Host-sid", "cookie_secure": "true", **more}
    )
    assert "needs cookie_path = / and cookie_domain = none" in problem


@pytest.mark.parametrize(
    "given",
    [
        {"cookie_name": "__Host-sid"},
        {"cookie_name": "__Secure-sid"},
        {"cookie_name": "__Secure-sid", "cookie_path": "/app"},
        {"cookie_name": "__Secure-sid", "cookie_domain": "example.com"},
    ],
)
def test_name_prefixes_with_all_they_need(given):
    """With what the browsers want, these names are accepted."""
    settings = _read(cookie_secure="true", **given)
    assert given["cookie_name"] == settings.cookie.name


def test_p10_contradictions_are_told_with_the_rest():
    """P10: contradictions come in the same error as wrong values."""
    problems = _problems(
        {
            "cookie_name": "__Host-sid",
            "cookie_path": "/app",
            "idle_timeout": "1m",
            "touch_interval": "1m",
            "cookie_samesite": "None",
            "self_clean": "x",
        }
    )
    assert 5 == len(problems)


# -- in an application -------------------------------------------------


def or_none(option: Any) -> str:
    """Return what the error adds for a setting that can be switched off."""
    off = {"idle_timeout", "absolute_timeout", "schema", "max_data_size"}
    off |= {"cookie_domain", "cookie_max_age", "user_key"}
    off |= {"max_sessions_per_user"}
    off |= {"model", "column_values", "store", "adopt"}
    return " or 'none'" if option.name in off else ""


def _start(
    settings: dict[str, Any], configure: Any = lambda config: None
) -> Settings:
    """Start an application and return the settings in force."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_limitedsession")
        configure(config)
        config.make_wsgi_app()
    factory = config.registry["pyramid_limitedsession"]
    if factory.store is not None:
        factory.store.engine.dispose()
    result: Settings = factory.settings
    return result


def test_p1_two_lines_to_start(tmp_path):
    """P1: include it and give it a database, and the application starts."""
    url = f"sqlite:///{tmp_path}/x.sqlite"
    settings = _start({"limitedsession.sqlalchemy.url": url})
    assert url == settings.url


@pytest.mark.parametrize(
    "given",
    [{}, {"limitedsession.dbsession": "db"}],
)
def test_p10_without_a_database_it_does_not_start(given):
    """P10: nowhere to keep sessions: the error names both cures."""
    with pytest.raises(ConfigurationError) as caught:
        _start(given)
    name = given.get("limitedsession.dbsession", "dbsession")
    text = str(caught.value)
    assert f"there is no request.{name} of" in text
    assert "set limitedsession.sqlalchemy.url = sqlite:////" in text
    assert "limitedsession.dbsession" in text


@pytest.mark.parametrize("is_property", [True, False])
def test_p1_a_dbsession_is_enough(is_property):
    """P1: an application that has request.dbsession starts as it is."""

    def configure(config: Configurator) -> None:
        config.add_request_method(
            lambda request: None, "dbsession", property=is_property
        )

    assert _start({}, configure).url is None


def test_p1_a_dbsession_of_another_name():
    """P1: the request's attribute may have another name."""

    def configure(config: Configurator) -> None:
        config.add_request_method(lambda request: None, "db", reify=True)

    settings = _start({"limitedsession.dbsession": "db"}, configure)
    assert settings.dbsession == "db"


def test_p1_a_dbsession_of_the_request_factory():
    """P1: the attribute may be one of the application's request class."""

    class OwnRequest(Request):
        dbsession = None

    def configure(config: Configurator) -> None:
        config.set_request_factory(OwnRequest)

    assert _start({}, configure).url is None


def test_settings_added_after_the_include_count(tmp_path):
    """What the application adds later with add_settings is in force."""

    def configure(config: Configurator) -> None:
        config.add_settings(
            {
                "limitedsession.sqlalchemy.url": (
                    f"sqlite:///{tmp_path}/x.sqlite"
                ),
                "limitedsession.idle_timeout": "5m",
            }
        )

    settings = _start({"limitedsession.idle_timeout": "1h"}, configure)
    assert 300 == settings.policy.profiles.default.limits.idle
    assert settings.url is not None


def test_p10_wrong_settings_added_after_the_include_do_not_start():
    """P10: what is added later is checked as well."""

    def configure(config: Configurator) -> None:
        config.add_settings({"limitedsession.idle_timeout": "soon"})

    with pytest.raises(
        ConfigurationError, match=r"idle_timeout cannot be 'soon'"
    ):
        _start({}, configure)


def test_two_applications_have_their_own_settings(tmp_path):
    """Two applications in one process share no settings."""
    url = f"sqlite:///{tmp_path}/x.sqlite"
    given = {"limitedsession.sqlalchemy.url": url}
    one = _start({**given, "limitedsession.cookie_name": "one"})
    other = _start({**given, "limitedsession.table_name": "others"})
    assert ("one", "sessions") == (one.cookie.name, one.layout.name)
    assert ("session", "others") == (other.cookie.name, other.layout.name)


# -- the table ---------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_the_table_has_every_option(option):
    """The README's table has a row for each option: name, default, words."""
    default = f"``{option.default}``" if option.default else "–"
    assert (
        f"   * - ``{option.name}``\n"
        f"     - {default}\n"
        f"     - {option.meaning}\n"
    ) in settings_table()


def test_the_table_is_a_list_table():
    """It is reStructuredText with a heading and one row per option.

    All columns are one.
    """
    table = settings_table()
    assert table.startswith(".. list-table::\n   :header-rows: 1\n")
    options = [*OPTIONS, *PROFILE_OPTIONS, *EXPIRY_OPTIONS]
    assert len(options) + 2 == table.count("   * - ")
    assert "``column.NAME``" in table


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_meanings_are_sentences(option):
    """Each meaning is a sentence in one line."""
    assert option.meaning.endswith(".")
    assert "\n" not in option.meaning


def test_p10_limits_of_the_expiry_tween_need_the_tween(tmp_path):
    """P10: limits that nobody enforces do not start; with it they do."""
    given = {
        "limitedsession.sqlalchemy.url": f"sqlite:///{tmp_path}/x.sqlite",
        "limitedsession.expiry.idle_timeout": "30m",
    }
    with pytest.raises(ConfigurationError) as caught:
        _start(given)
    assert str(caught.value) == (
        "limitedsession.expiry.idle_timeout has no effect, because this "
        "application does not include pyramid_limitedsession.expiry; "
        "sessions of this package are limited by limitedsession.idle_timeout"
    )
    _start(given, lambda c: c.include("pyramid_limitedsession.expiry"))
