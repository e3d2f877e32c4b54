"""The settings in force, read by the table in `options`.

Types are never guessed; all wrong settings are told at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pyramid.exceptions import ConfigurationError
from sqlalchemy.engine import URL

from .limits import Limits
from .options import OPTIONS, Option
from .serializers import SERIALIZERS, Serializer

PREFIX = "limitedsession."
ENGINE_PREFIX = "sqlalchemy."


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
    # Both may hold a password.
    url: str | None = field(repr=False)
    engine: dict[str, str] = field(repr=False)
    dbsession: str
    create_table: bool
    lock_timeout: int
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
        given = ours.get(option.name, option.default)
        try:
            values[option.name] = option.read(_as_text(option, given))
        except Exception:
            problems.append(_wrong(option, given))
            values[option.name] = option.read(option.default)
    engine = {
        name[len(ENGINE_PREFIX) :]: _plain(value)
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


def _as_text(option: Option, given: Any) -> str:
    """Return what an ini file would say.

    Python's None stands for ``none``, and for no URL; elsewhere it is wrong.
    """
    if given is not None:
        return _plain(given)
    word = "none" if option.default else ""
    if option.read(word) is not None:
        raise ValueError
    return word


def _plain(given: Any) -> str:
    if isinstance(given, URL):
        return given.render_as_string(hide_password=False)
    return str(given).strip()


def _wrong(option: Option, given: Any) -> str:
    is_url = option.name == "sqlalchemy.url"
    # A URL holds a password.
    shown = (
        "that URL (it must be one that SQLAlchemy knows, and not of a "
        "database in memory)"
        if is_url
        else repr(_plain(given))
    )
    text = f"{PREFIX}{option.name} cannot be {shown}; "
    text += f"say it like {option.example!r}"
    return text + (" or 'none'" if _can_be_off(option) else "")


def _can_be_off(option: Option) -> bool:
    try:
        return option.read("none") is None
    except Exception:
        return False


def _unknown(ours: Mapping[str, Any]) -> list[str]:
    names = [option.name for option in OPTIONS]
    problems = []
    for name in ours:
        if name in names or name.startswith(ENGINE_PREFIX):
            continue
        ends = f".{name}", f"_{name}"
        near = [known for known in names if known.endswith(ends)]
        near += difflib.get_close_matches(name, names, 1, cutoff=0.0)
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
    # Browsers compare the prefixes in any case.
    prefix = name.lower()
    if values["cookie_samesite"] == "None" and secure is not True:
        problems.append(
            f"{PREFIX}cookie_samesite = None needs cookie_secure = true: "
            "browsers drop the cookie otherwise"
        )
    if prefix.startswith(("__host-", "__secure-")) and secure is not True:
        problems.append(
            f"{PREFIX}cookie_name {name!r} needs cookie_secure = true: "
            "browsers refuse that prefix otherwise"
        )
    if prefix.startswith("__host-") and (
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
        lock_timeout=values["lock_timeout"],
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
