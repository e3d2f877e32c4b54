"""The table of settings: name, reader, default, example, meaning.

The frozen `Settings`, the error texts and the README's table are made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .layout import COLUMNS
from .readers import (
    LARGEST_BATCH,
    LONGEST_WAIT,
    at_most,
    choice,
    or_word,
    positive,
    read_bool,
    read_column,
    read_columns,
    read_cookie_name,
    read_cookie_path,
    read_cookie_text,
    read_count,
    read_duration,
    read_function,
    read_keys,
    read_model,
    read_name,
    read_paths,
    read_size,
    read_text,
    read_url,
)
from .serializers import as_serializer


@dataclass(frozen=True)
class Option:
    """One setting.

    :ivar name: the key without the prefix.
    :ivar read: turns the text into the value, or raises ValueError.
    :ivar default: as one would write it in an ini file.
    :ivar example: an accepted form, for error texts.
    :ivar meaning: one sentence for the README.
    :ivar is_object: an object of Python's own stands for itself, and a text
        is a dotted name of one; what is wrong with it is told.
    """

    name: str
    read: Callable[[Any], Any]
    default: str
    example: str
    meaning: str
    is_object: bool = False


_time = positive(read_duration)
_max_age = or_word("none", or_word("auto", _time, "auto"))

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
        "passive",
        read_paths,
        "",
        "/poll/* /health",
        "Paths whose requests read their session without counting as "
        "activity, separated by blanks or lines; ``*`` stands for anything.",
    ),
    Option(
        "user_key",
        or_word("none", read_text),
        "auth.userid",
        "auth.userid",
        "The key of the session whose value, a text or an integer, names its "
        "user (Pyramid's ``SessionAuthenticationHelper`` keeps it there); a "
        "session whose user changes gets a new token; ``none`` = off.",
    ),
    Option(
        "max_sessions_per_user",
        or_word("none", positive(read_count)),
        "none",
        "5",
        "A user who signs in once more than this loses the session that was "
        "not used for the longest time; ``none`` = off.",
    ),
    Option(
        "self_clean",
        at_most(LARGEST_BATCH, read_count),
        "1000",
        "1000",
        "One in so many requests that use their session deletes a batch of "
        "expired rows after its outcome; at most 10000; ``0`` = never.",
    ),
    Option(
        "self_clean_batch",
        or_word("auto", at_most(LARGEST_BATCH, positive(read_count)), "auto"),
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
        "lock_timeout",
        at_most(LONGEST_WAIT, _time),
        "5s",
        "5s",
        "A connection of ours waits at most so long for a row that somebody "
        "else has locked (SQLite: for the file), then it raises "
        "``SessionBusyError``; 1 s to 1 d.",
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
    Option("table_name", read_name, "sessions", "sessions", "The table."),
    Option(
        "schema",
        or_word("none", read_column),
        "none",
        "web",
        "The table's schema; ``none`` = the connection's default.",
    ),
    Option(
        "columns",
        or_word("all", read_columns, COLUMNS),
        "all",
        "id session_id data created_at updated_at",
        "The columns that the table has, if it is not made by this package: "
        "``session_id``, ``data``, ``created_at``, ``updated_at`` at least.",
        is_object=True,
    ),
    Option(
        "model",
        or_word("none", read_model),
        "none",
        "myapp.models.WebSession",
        "The application's own mapped class of the table, as a dotted name; "
        "its attributes name the columns.",
        is_object=True,
    ),
    Option(
        "column_values",
        or_word("none", read_function),
        "none",
        "myapp.models.session_columns",
        "A function of the request and the content that returns values for "
        "further columns of ``model``, as a dict.",
        is_object=True,
    ),
    Option(
        "store",
        or_word("none", read_function),
        "none",
        "myapp.sessions.make_store",
        "A function of the application's settings that returns a ``Store`` "
        "of your own; nothing of ours is kept in SQL then.",
        is_object=True,
    ),
    Option(
        "legacy_ids",
        or_word("hashed", read_bool, "hashed"),
        "false",
        "true",
        "Accepts also rows whose ``session_id`` is still the plain token, "
        "of 22 to 80 URL-safe characters, and hashes them on first use; "
        "``hashed`` = such tokens only of rows that are hashed.",
    ),
    Option(
        "adopt",
        or_word("none", read_function),
        "none",
        "myapp.sessions.old_session_factory",
        "The session factory that you had before, as a dotted name: a "
        "visitor who has only a session of that one keeps its content.",
        is_object=True,
    ),
    Option(
        "serializer",
        as_serializer,
        "json",
        "json",
        "How the content is stored: ``json``; ``hybrid`` = reads "
        "base64-encoded pickles too, without running anything in them, and "
        "writes JSON; ``pickle`` = any Python object, for tables that nobody "
        "else can write; ``null`` = JSON in a JSON column; ``rails`` = JSON "
        "as activerecord-session_store writes it; or a dotted name of an "
        "object with ``dumps`` and ``loads``.",
        is_object=True,
    ),
    Option(
        "encrypt",
        or_word("only", read_bool, "only"),
        "false",
        "true",
        "Encrypts the content with a key that only the browser has (extra "
        "``crypto``); rows that are not encrypted are still read; ``only`` = "
        "they are not.",
    ),
    Option(
        "encryption_keys",
        or_word("none", read_keys, ()),
        "none",
        "ThirtyTwoCharactersOrMoreOfRandomness",
        "Keys of the application, of at least 32 characters each, separated "
        "by blanks or lines, of which one is needed too: the newest first; "
        "the others only read.",
        is_object=True,
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
        _max_age,
        "none",
        "30d",
        "Its ``Max-Age``, sent anew with every write of activity; ``auto`` = "
        "what remains of the limits, sent anew when that has moved by "
        "``touch_interval``; ``none`` = until the browser is closed.",
    ),
)

# Of each profile, under its name. Not set: as without a profile.
PROFILE_OPTIONS = (
    Option(
        "idle_timeout",
        or_word("none", _time),
        "",
        "15m",
        "``idle_timeout`` of sessions with the profile ``NAME``.",
    ),
    Option(
        "absolute_timeout",
        or_word("none", _time),
        "",
        "12h",
        "Their ``absolute_timeout``.",
    ),
    Option("cookie_max_age", _max_age, "", "30d", "Their ``cookie_max_age``."),
)

# Of each column. Not set: as it is called here.
COLUMN_OPTIONS = tuple(
    Option(name, read_column, name, f"the_{name}", f"The column ``{name}``.")
    for name in COLUMNS
)

_COLUMN = Option(
    "NAME",
    read_column,
    "",
    "the_name",
    "What the column ``NAME`` is called in the database; not set: ``NAME``.",
)

# Of pyramid_limitedsession.expiry, which needs nothing of the above.
EXPIRY_OPTIONS = (
    Option(
        "idle_timeout",
        or_word("none", _time),
        "none",
        "30m",
        "Ends a session of any kind that was not used for so long.",
    ),
    Option(
        "absolute_timeout",
        or_word("none", _time),
        "none",
        "12h",
        "Ends a session of any kind so long after its start, used or not.",
    ),
)
PROFILE = "profile."
COLUMN = "column."
EXPIRY = "expiry."


def settings_table() -> str:
    """Return the README's table of settings as reStructuredText."""
    options = [
        *((option.name, option) for option in OPTIONS),
        *((f"{PROFILE}NAME.{each.name}", each) for each in PROFILE_OPTIONS),
        *((f"{EXPIRY}{each.name}", each) for each in EXPIRY_OPTIONS),
        (f"{COLUMN}NAME", _COLUMN),
    ]
    rows = [
        "   * - setting\n     - default\n     - meaning",
        *(
            f"   * - ``{name}``\n"
            f"     - {f'``{option.default}``' if option.default else '–'}\n"
            f"     - {option.meaning}"
            for name, option in options
        ),
    ]
    return (
        ".. list-table::\n   :header-rows: 1\n   :widths: 20 12 68\n\n"
        + "\n".join(rows)
        + "\n"
    )
