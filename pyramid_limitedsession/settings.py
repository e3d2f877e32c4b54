"""The settings in force, read by the table in `options`.

Types are never guessed; all wrong settings are told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .layout import Layout
from .limits import Limits
from .modeltypes import user_column
from .options import (
    COLUMN,
    COLUMN_OPTIONS,
    EXPIRY,
    EXPIRY_OPTIONS,
    OPTIONS,
    PROFILE,
    PROFILE_OPTIONS,
)
from .profiles import Profile, Profiles
from .readers import read_profile_name
from .reading import (
    PREFIX,
    plain,
    read_options,
    refuse_if,
    settings_below,
    unknown,
)
from .sealing import HAS_CRYPTOGRAPHY, Plain, Sealer, as_sealer
from .serializers import Serializer, check_size
from .tablesettings import (
    ENGINE_PREFIX,
    as_layout,
    contradictions_of_store,
    contradictions_of_table,
)
from .tokens import Secret
from .users import UserColumn, user_of

_FIRST = PROFILE_OPTIONS[0].name
# A request and its session's content; values of columns.
ColumnValues = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Policy:
    """What the settings say about every session.

    :ivar legacy_ids: rows with plain ids are accepted.
    :ivar accepts_any_token: tokens that somebody else has made, too.
    :ivar sealer: encrypts what is stored, if that is wanted.
    :ivar keeps_users: it is stored, beside the content, whose session it is.
    :ivar users: which users can be stored so.
    """

    profiles: Profiles
    serializer: Serializer
    max_data_size: int | None
    on_conflict: Literal["merge", "retry", "overwrite"]
    user_key: str | None
    max_sessions_per_user: int | None
    legacy_ids: bool = False
    accepts_any_token: bool = False
    # It may hold the application's keys.
    sealer: Sealer = field(default_factory=Plain, repr=False)
    keeps_users: bool = True
    users: UserColumn = field(default_factory=UserColumn)

    def require_size(self, text: str, content: dict[str, Any]) -> None:
        """Raise SessionOverflowError if too much would be stored for it."""
        check_size(
            text,
            content,
            self.serializer,
            self.max_data_size,
            stored_size=self.sealer.size,
        )

    def user_of(self, content: Mapping[str, Any]) -> Secret | None:
        """Return the user of a session, None if it is nobody's.

        Raises SessionValueError if he could not be stored.
        """
        return user_of(self.user_key, content, self.users)


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
    layout: Layout
    column_values: ColumnValues | None
    store: Callable[[Mapping[str, Any]], Any] | None
    adopt: Callable[[Any], Any] | None
    passive: tuple[str, ...]
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
    ours = settings_below(PREFIX, given)
    problems = _unknown(ours)
    values = read_options(OPTIONS, ours, "", problems)
    read_options(
        EXPIRY_OPTIONS, settings_below(EXPIRY, ours), EXPIRY, problems
    )
    named = _read_profiles(settings_below(PROFILE, ours), problems)
    columns = settings_below(COLUMN, ours)
    names = read_options(COLUMN_OPTIONS, columns, COLUMN, problems)
    engine = {
        name: plain(value)
        for name, value in settings_below(ENGINE_PREFIX, ours).items()
        if name != "url"
    }
    problems += _contradictions(values, engine, named)
    problems += contradictions_of_table(ours, values, names, named)
    problems += _contradictions_of_encryption(ours, values)
    problems += contradictions_of_store(ours, values)
    refuse_if(problems)
    return _make(values, engine, named, as_layout(values, names))


def _read_profiles(
    given: Mapping[str, Any], problems: list[str]
) -> dict[str, dict[str, Any]]:
    """Return what is set for each profile, by its name."""
    profiles: dict[str, dict[str, Any]] = {}
    known = {option.name: option for option in PROFILE_OPTIONS}
    for key, value in given.items():
        name, _, last = key.rpartition(".")
        try:
            read_profile_name(name or last)
        except ValueError:
            problems.append(
                f"{PREFIX}{PROFILE}{key} is of a profile that cannot have "
                f"this name, {name or last!r}; say it like 'remember-me'"
            )
            continue
        start = f"{PROFILE}{name}."
        if name and last not in known:
            problems.append(unknown(PROFILE + key, PROFILE_OPTIONS, start))
            continue
        if not name:
            meant = f"NAME.{last}" if last in known else f"{last}.{_FIRST}"
            problems.append(
                f"{PREFIX}{PROFILE}{key} is not a setting; did you mean "
                f"{PREFIX}{PROFILE}{meant}?"
            )
            continue
        profile = profiles.setdefault(name, {})
        profile |= read_options([known[last]], {last: value}, start, problems)
    return profiles


def _unknown(ours: Mapping[str, Any]) -> list[str]:
    """Return a problem for each unknown key, but for those of profiles."""
    known = {
        *(option.name for option in OPTIONS),
        *(f"{EXPIRY}{option.name}" for option in EXPIRY_OPTIONS),
        *(f"{COLUMN}{option.name}" for option in COLUMN_OPTIONS),
    }
    problems = []
    for name in ours:
        if name in known or name.startswith((ENGINE_PREFIX, PROFILE)):
            continue
        if name.startswith(COLUMN):
            problems.append(unknown(name, COLUMN_OPTIONS, COLUMN))
        elif name.startswith(EXPIRY):
            problems.append(unknown(name, EXPIRY_OPTIONS, EXPIRY))
        else:
            problems.append(unknown(name, OPTIONS))
    return problems


def _contradictions(
    values: dict[str, Any],
    engine: dict[str, str],
    named: dict[str, dict[str, Any]],
) -> list[str]:
    problems = []
    if engine and values["sqlalchemy.url"] is None:
        problems.append(
            f"{PREFIX}{ENGINE_PREFIX}{min(engine)} is an option of an engine "
            f"that {PREFIX}sqlalchemy.url does not name; say it like "
            "'sqlite:////var/lib/app/sessions.sqlite'"
        )
    touch = values["touch_interval"]
    idles = {"": values["idle_timeout"]} | {
        f"{PROFILE}{name}.": profile.get("idle_timeout")
        for name, profile in named.items()
    }
    problems += [
        f"{PREFIX}touch_interval is {touch} seconds, which is not less "
        f"than {start}idle_timeout, {idle} seconds; say it like 'auto'"
        for start, idle in idles.items()
        if idle is not None and touch != "auto" and touch >= idle
    ]
    if values["max_sessions_per_user"] and values["user_key"] is None:
        problems.append(
            f"{PREFIX}max_sessions_per_user needs a user_key: without one no "
            "session is known to be a user's; say it like 'auth.userid'"
        )
    return problems + _contradictions_of_cookie(values)


def _contradictions_of_cookie(values: dict[str, Any]) -> list[str]:
    problems = []
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


def _contradictions_of_encryption(
    ours: Mapping[str, Any], values: dict[str, Any]
) -> list[str]:
    if not values["encrypt"]:
        # To think that it is on is worse than to say that it is off.
        if values["encryption_keys"] and "encrypt" not in ours:
            return [
                f"{PREFIX}encryption_keys encrypts nothing unless "
                f"{PREFIX}encrypt is on; say it like 'true', or 'false' if "
                "it was on before, and rows are still to be read"
            ]
        return []
    problems = []
    if not HAS_CRYPTOGRAPHY:
        problems.append(
            f"{PREFIX}encrypt needs the package cryptography; install it "
            "with 'pip install \"pyramid_limitedsession[crypto]\"'"
        )
    if values["serializer"].is_native:
        problems.append(
            f"{PREFIX}encrypt cannot be on with {PREFIX}serializer = null: "
            "what is encrypted is no JSON; say it like 'json'"
        )
    return problems


def _profile(values: dict[str, Any]) -> Profile:
    idle, touch = values["idle_timeout"], values["touch_interval"]
    if touch == "auto":
        touch = 60 if idle is None else min(max(idle // 20, 1), 60)
    limits = Limits(idle, values["absolute_timeout"], touch)
    return Profile(limits, values["cookie_max_age"])


def _policy(
    values: dict[str, Any], named: dict[str, dict[str, Any]], layout: Layout
) -> Policy:
    profiles = {
        name: _profile(values | profile) for name, profile in named.items()
    }
    return Policy(
        profiles=Profiles(_profile(values), profiles),
        serializer=values["serializer"],
        max_data_size=values["max_data_size"],
        on_conflict=values["on_conflict"],
        user_key=values["user_key"],
        max_sessions_per_user=values["max_sessions_per_user"],
        legacy_ids=values["legacy_ids"] is True,
        accepts_any_token=bool(values["legacy_ids"]),
        sealer=as_sealer(values["encrypt"], values["encryption_keys"]),
        keeps_users=layout.has("user_id"),
        users=user_column(layout.types.get("user_id")),
    )


def _make(
    values: dict[str, Any],
    engine: dict[str, str],
    named: dict[str, dict[str, Any]],
    layout: Layout,
) -> Settings:
    batch = values["self_clean_batch"]
    if batch == "auto":
        # At least one row a request on average: cleaning keeps up.
        batch = max(values["self_clean"], 1000)
    url = values["sqlalchemy.url"]
    create = values["create_table"]
    samesite = values["cookie_samesite"]
    return Settings(
        policy=_policy(values, named, layout),
        self_clean=values["self_clean"],
        self_clean_batch=batch,
        url=url,
        engine=engine,
        dbsession=values["dbsession"],
        create_table=url is not None if create == "auto" else create,
        lock_timeout=values["lock_timeout"],
        layout=layout,
        column_values=values["column_values"],
        store=values["store"],
        adopt=values["adopt"],
        passive=values["passive"],
        cookie=CookieSettings(
            name=values["cookie_name"],
            path=values["cookie_path"],
            domain=values["cookie_domain"],
            secure=values["cookie_secure"],
            httponly=values["cookie_httponly"],
            samesite=None if samesite == "off" else samesite,
        ),
    )
