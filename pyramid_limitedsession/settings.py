"""The settings: one table, from which everything else is made.

The frozen `Settings`, the error texts and the README's table come from
`OPTIONS`. Types are never guessed; all wrong settings are told at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyramid.exceptions import ConfigurationError

from .limits import Limits
from .readers import (
    choice,
    or_word,
    positive,
    read_bool,
    read_cookie_name,
    read_cookie_path,
    read_cookie_text,
    read_count,
    read_duration,
    read_size,
    read_text,
    read_url,
)
from .serializers import SERIALIZERS, Serializer

PREFIX = "limitedsession."
ENGINE_PREFIX = "sqlalchemy."


@dataclass(frozen=True)
class Option:
    """One setting.

    :ivar name: the key without the prefix.
    :ivar read: turns the text into the value, or raises ValueError.
    :ivar default: as one would write it in an ini file.
    :ivar example: an accepted form, for error texts.
    :ivar meaning: one sentence for the README.
    """

    name: str
    read: Callable[[str], Any]
    default: str
    example: str
    meaning: str


@dataclass(frozen=True)
class Policy:
    """What the settings say about every session."""

    limits: Limits
    serializer: Serializer
    max_data_size: int | None
    on_conflict: Literal["merge", "retry", "overwrite"]


@dataclass(frozen=True)
class Settings:
    """The settings in force. See the README's table for their meanings."""

    policy: Policy
    self_clean: int
    self_clean_batch: int
    url: str | None
    engine: dict[str, str]
    dbsession: str
    create_table: bool
    table_name: str
    schema: str | None
    cookie: CookieSettings


@dataclass(frozen=True)
class CookieSettings:
    """How the cookie is sent. ``secure`` None: on https only."""

    name: str
    path: str
    domain: str | None
    secure: bool | None
    httponly: bool
    samesite: Literal["Lax", "Strict", "None"] | None
    max_age: int | None


_time = positive(read_duration)

OPTIONS = (
    Option(
        "idle_timeout",
        or_word("none", _time),
        "2h",
        "30m",
        "Ends a session that was not used for so long; ``none`` = off.",
    ),
    Option(
        "absolute_timeout",
        or_word("none", _time),
        "none",
        "12h",
        "Ends a session so long after its start, used or not; ``none`` = off.",
    ),
    Option(
        "touch_interval",
        or_word("auto", read_duration, "auto"),
        "auto",
        "30s",
        "Activity is written at most this often, and an idle session ends "
        "at most this much later than ``idle_timeout``, never earlier; "
        "``auto`` = a twentieth of ``idle_timeout``, 1 s to 60 s.",
    ),
    Option(
        "self_clean",
        read_count,
        "1000",
        "1000",
        "One in so many requests that use their session deletes a batch of "
        "expired rows after its outcome; ``0`` = never.",
    ),
    Option(
        "self_clean_batch",
        or_word("auto", positive(read_count), "auto"),
        "auto",
        "1000",
        "Rows deleted at most per self-cleaning; ``auto`` = "
        "``self_clean``, at least 1000.",
    ),
    Option(
        "sqlalchemy.url",
        or_word("", read_url),
        "",
        "sqlite:////var/lib/app/sessions.sqlite",
        "Keeps sessions on an engine of their own (separate mode). Further "
        "``sqlalchemy.*`` keys are options of that engine. Not set: they "
        "are kept where ``request.dbsession`` is (joined mode).",
    ),
    Option(
        "dbsession",
        read_text,
        "dbsession",
        "dbsession",
        "The request attribute that joined mode uses.",
    ),
    Option(
        "create_table",
        or_word("auto", read_bool, "auto"),
        "auto",
        "true",
        "Makes the table when it is missing; ``auto`` = in separate mode "
        "only (in joined mode your migrations own the schema).",
    ),
    Option("table_name", read_text, "sessions", "sessions", "The table."),
    Option(
        "schema",
        or_word("none", read_text),
        "none",
        "web",
        "The table's schema; ``none`` = the connection's default.",
    ),
    Option(
        "serializer",
        choice(*SERIALIZERS),
        "json",
        "json",
        "How the content is stored: ``json``.",
    ),
    Option(
        "max_data_size",
        or_word("none", positive(read_size)),
        "64KiB",
        "64KiB",
        "Larger content raises ``SessionOverflowError`` before anything is "
        "committed; ``none`` = off.",
    ),
    Option(
        "on_conflict",
        choice("merge", "retry", "overwrite"),
        "merge",
        "merge",
        "When two requests changed the same key: ``merge`` = the later one "
        "wins that key; ``retry`` = ``SessionConflict``, which pyramid_retry "
        "replays; ``overwrite`` = the later one wins the whole content.",
    ),
    Option(
        "cookie_name",
        read_cookie_name,
        "session",
        "session",
        "The cookie's name.",
    ),
    Option("cookie_path", read_cookie_path, "/", "/", "Its ``Path``."),
    Option(
        "cookie_domain",
        or_word("none", read_cookie_text),
        "none",
        "example.com",
        "Its ``Domain``; ``none`` = this host only.",
    ),
    Option(
        "cookie_secure",
        or_word("auto", read_bool),
        "auto",
        "true",
        "Its ``Secure`` flag; ``auto`` = on https.",
    ),
    Option(
        "cookie_httponly", read_bool, "true", "true", "Its ``HttpOnly`` flag."
    ),
    Option(
        "cookie_samesite",
        choice("Lax", "Strict", "None", "off"),
        "Lax",
        "Lax",
        "Its ``SameSite``: ``Lax``, ``Strict``, ``None`` (needs "
        "``cookie_secure = true``); ``off`` = not sent.",
    ),
    Option(
        "cookie_max_age",
        or_word("none", _time),
        "none",
        "30d",
        "Its ``Max-Age``, sent anew with every write of activity; "
        "``none`` = until the browser is closed.",
    ),
)


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Read the settings of an application.

    Args:
        given: the application's settings; keys without our prefix are
            ignored. Values may be texts, as from an ini file, or the
            Python values those stand for.

    Raises:
        ConfigurationError: names every wrong or unknown key, the value
            given and an accepted form.
    """
    ours = {
        key[len(PREFIX) :]: value
        for key, value in given.items()
        if key.startswith(PREFIX)
    }
    problems = _unknown(ours)
    values: dict[str, Any] = {}
    for option in OPTIONS:
        text = _as_text(ours.get(option.name, option.default))
        try:
            values[option.name] = option.read(text)
        except Exception:
            problems.append(_wrong(option, text))
            values[option.name] = option.read(option.default)
    engine = {
        name[len(ENGINE_PREFIX) :]: _as_text(value)
        for name, value in ours.items()
        if name.startswith(ENGINE_PREFIX) and name != "sqlalchemy.url"
    }
    problems += _contradictions(values, engine)
    if problems:
        raise ConfigurationError(
            "pyramid_limitedsession cannot start with these settings:\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )
    return _make(values, engine)


def _as_text(value: Any) -> str:
    return str(value).strip()


def _wrong(option: Option, text: str) -> str:
    # A URL holds a password.
    shown = "that URL" if option.name == "sqlalchemy.url" else repr(text)
    return (
        f"{PREFIX}{option.name} cannot be {shown}; "
        f"say it like {option.example!r}"
    )


def _unknown(ours: Mapping[str, Any]) -> list[str]:
    names = [option.name for option in OPTIONS]
    problems = []
    for name in ours:
        if name in names or name.startswith(ENGINE_PREFIX):
            continue
        near = difflib.get_close_matches(name, names, 1, cutoff=0.0)
        problems.append(
            f"{PREFIX}{name} is not a setting; "
            f"did you mean {PREFIX}{near[0] if near else names[0]}?"
        )
    return problems


def _contradictions(
    values: dict[str, Any], engine: dict[str, str]
) -> list[str]:
    problems = []
    if engine and values["sqlalchemy.url"] is None:
        problems.append(
            f"{PREFIX}{ENGINE_PREFIX}{min(engine)} is an option of an engine "
            f"that {PREFIX}sqlalchemy.url does not name; say it like "
            "'sqlite:////var/lib/app/sessions.sqlite'"
        )
    idle, touch = values["idle_timeout"], values["touch_interval"]
    if idle is not None and touch != "auto" and touch >= idle:
        problems.append(
            f"{PREFIX}touch_interval is {touch} seconds, which is not less "
            f"than idle_timeout, {idle} seconds; say it like 'auto'"
        )
    name, secure = values["cookie_name"], values["cookie_secure"]
    if values["cookie_samesite"] == "None" and secure is not True:
        problems.append(
            f"{PREFIX}cookie_samesite = None needs cookie_secure = true: "
            "browsers drop the cookie otherwise"
        )
    if name.startswith(("__Host-", "__Secure-")) and secure is not True:
        problems.append(
            f"{PREFIX}cookie_name {name!r} needs cookie_secure = true: "
            "browsers refuse that prefix otherwise"
        )
    if name.startswith("__Host-") and (
        values["cookie_domain"] is not None or values["cookie_path"] != "/"
    ):
        problems.append(
            f"{PREFIX}cookie_name {name!r} needs cookie_path = / and "
            "cookie_domain = none: browsers refuse that prefix otherwise"
        )
    return problems


def _make(values: dict[str, Any], engine: dict[str, str]) -> Settings:
    idle = values["idle_timeout"]
    touch = values["touch_interval"]
    if touch == "auto":
        touch = 60 if idle is None else min(max(idle // 20, 1), 60)
    batch = values["self_clean_batch"]
    if batch == "auto":
        # At least one row a request on average: cleaning keeps up.
        batch = max(values["self_clean"], 1000)
    url = values["sqlalchemy.url"]
    create = values["create_table"]
    samesite = values["cookie_samesite"]
    return Settings(
        policy=Policy(
            limits=Limits(idle, values["absolute_timeout"], touch),
            serializer=SERIALIZERS[values["serializer"]](),
            max_data_size=values["max_data_size"],
            on_conflict=values["on_conflict"],
        ),
        self_clean=values["self_clean"],
        self_clean_batch=batch,
        url=url,
        engine=engine,
        dbsession=values["dbsession"],
        create_table=url is not None if create == "auto" else create,
        table_name=values["table_name"],
        schema=values["schema"],
        cookie=CookieSettings(
            name=values["cookie_name"],
            path=values["cookie_path"],
            domain=values["cookie_domain"],
            secure=values["cookie_secure"],
            httponly=values["cookie_httponly"],
            samesite=None if samesite == "off" else samesite,
            max_age=values["cookie_max_age"],
        ),
    )


def settings_table() -> str:
    """Return the README's table of settings as reStructuredText."""
    rows = [
        "   * - setting\n     - default\n     - meaning",
        *(
            f"   * - ``{option.name}``\n"
            f"     - {f'``{option.default}``' if option.default else '–'}\n"
            f"     - {option.meaning}"
            for option in OPTIONS
        ),
    ]
    return (
        ".. list-table::\n   :header-rows: 1\n   :widths: 20 12 68\n\n"
        + "\n".join(rows)
        + "\n"
    )
