"""From the text of a setting to its value; ValueError if it makes no sense."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import URL, make_url

from .layout import COLUMNS, REQUIRED, Layout, layout_of

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
# A hundred years; more is a mistake, and does not fit every date column.
_LONGEST = 100 * 365 * 86400
# PostgreSQL's protocol takes at most 65,535 values in one statement.
LARGEST_BATCH = 10_000
# A day; what waits longer hangs. SQLite takes milliseconds in 32 bits.
LONGEST_WAIT = 86400
_LONGEST_NAME = 48
# PostgreSQL cuts what is longer.
_LONGEST_COLUMN = 63
# Characters: as many as hex digits of 128 bits.
_SHORTEST_KEY = 32
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
# RFC 6265: a cookie name is an HTTP token.
_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PROFILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
# WebOb refuses the names of a cookie's attributes as names of a cookie.
_COOKIE_ATTRIBUTES = (
    *("path", "comment", "domain", "max-age", "version"),
    *("secure", "httponly", "samesite", "expires"),
)


def read_duration(text: str) -> int:
    """Return the seconds of ``90``, ``90s``, ``30m``, ``2h``, ``30d``."""
    seconds = _read_quantity(text, _SECONDS)
    if seconds > _LONGEST:
        raise ValueError
    return seconds


def read_size(text: str) -> int:
    """Return the bytes of ``4096``, ``64KiB``, ``1MiB``."""
    return _read_quantity(text, _BYTES)


def is_memory_url(url: str | URL) -> bool:
    """Say whether the URL names a SQLite database in memory."""
    url = make_url(url)
    if url.get_backend_name() != "sqlite":
        return False
    database = url.database or ""
    return (
        not database
        or ":memory:" in database
        or "memory" in (url.query.get("mode"), url.query.get("vfs"))
    )


def _read_quantity(text: str, units: dict[str, int]) -> int:
    match = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", text, re.ASCII)
    if match is None or match[2] not in units:
        raise ValueError
    return int(match[1]) * units[match[2]]


def positive(read: Callable[[str], int]) -> Callable[[str], int]:
    """Return a reader of numbers that refuses zero."""

    def read_positive(text: str) -> int:
        value = read(text)
        if value <= 0:
            raise ValueError
        return value

    return read_positive


def at_most(most: int, read: Callable[[str], int]) -> Callable[[str], int]:
    """Return a reader of numbers that refuses larger ones."""

    def read_at_most(text: str) -> int:
        value = read(text)
        if value > most:
            raise ValueError
        return value

    return read_at_most


def or_word(word: str, read: Callable[[str], Any], value: Any = None) -> Any:
    """Return a reader that takes one word for a special value."""

    def read_or_word(text: Any) -> Any:
        is_word = isinstance(text, str) and text.lower() == word
        return value if is_word else read(text)

    return read_or_word


def choice(*words: str) -> Callable[[str], str]:
    """Return a reader of one of these words, in any case."""

    def read_choice(text: str) -> str:
        for word in words:
            if text.lower() == word.lower():
                return word
        raise ValueError

    return read_choice


def read_bool(text: str) -> bool:
    """Return True or False."""
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise ValueError


def read_count(text: str) -> int:
    """Return a number without a unit."""
    return _read_quantity(text, {"": 1})


def read_text(text: str) -> str:
    """Return the text, which must not be empty."""
    if not text:
        raise ValueError
    return text


def read_name(text: str) -> str:
    """Return the name of a table.

    Indexes are named after it, and names have at most 63 characters on
    PostgreSQL, 64 on MySQL.
    """
    if len(text) > _LONGEST_NAME:
        raise ValueError
    return read_column(text)


def read_column(text: str) -> str:
    """Return the name of a column, or of a schema.

    Any but what no database, or not SQLAlchemy, can quote.
    """
    if not 0 < len(text) <= _LONGEST_COLUMN or "\0" in text or "%(" in text:
        raise ValueError
    return text


def read_cookie_name(text: str) -> str:
    """Return the name of a cookie."""
    reserved = text.startswith("$") or text.lower() in _COOKIE_ATTRIBUTES
    if reserved or not _COOKIE_NAME.fullmatch(text):
        raise ValueError
    return text


def read_cookie_text(text: str) -> str:
    """Return the value of a cookie attribute."""
    # What would end the attribute or the header.
    if not text or re.search(r"[\x00-\x20;,\x7f]", text):
        raise ValueError
    return text


def read_cookie_path(text: str) -> str:
    """Return the path of a cookie."""
    if not text.startswith("/"):
        raise ValueError
    return read_cookie_text(text)


def read_profile_name(text: str) -> str:
    """Return the name of a profile, as it stands in a key and in a row."""
    if not _PROFILE_NAME.fullmatch(text):
        raise ValueError
    return text


def read_paths(text: str) -> tuple[str, ...]:
    """Return the patterns of paths, which blanks or lines separate."""
    patterns = tuple(text.split())
    # One that begins otherwise matches nothing.
    if not all(pattern.startswith(("/", "*")) for pattern in patterns):
        raise ValueError
    return patterns


def read_url(text: str) -> str:
    """Return a database URL."""
    # In memory every connection would be a database of its own.
    if is_memory_url(text):
        raise ValueError
    return text


def read_columns(given: Any) -> tuple[str, ...]:
    """Return the columns that a table has, in our order."""
    names = _texts(given)
    for name in names:
        if name not in COLUMNS:
            raise ValueError(f"there is no column {name!r}")
    for name in REQUIRED:
        if name not in names:
            raise ValueError(f"it lacks {name}")
    return tuple(name for name in COLUMNS if name in names)


def _texts(given: Any) -> tuple[str, ...]:
    """Return a list of texts, or the words of a text."""
    if isinstance(given, str):
        return tuple(given.split())
    is_list = isinstance(given, (list, tuple))
    if not is_list or not all(isinstance(each, str) for each in given):
        raise ValueError("it is neither a text nor a list of texts")
    return tuple(given)


def read_object(given: Any) -> Any:
    """Return what a dotted name names; an object stands for itself.

    Raises whatever importing it does.
    """
    if not isinstance(given, str):
        return given
    return pkgutil.resolve_name(given)


def read_function(given: Any) -> Callable[..., Any]:
    """Return the function that a dotted name names."""
    found = read_object(given)
    if not callable(found):
        raise ValueError("it cannot be called")
    function: Callable[..., Any] = found
    return function


def read_model(given: Any) -> Layout:
    """Return the layout of the mapped class that a dotted name names."""
    return layout_of(read_object(given))


def read_keys(given: Any) -> tuple[str, ...]:
    """Return secret keys: a list of them, or a text with blanks between."""
    keys = _texts(given)
    # Other lists are separated so: one long key would be taken for good.
    is_list = isinstance(given, str) and set(",;") & set(given)
    if not keys or is_list:
        raise ValueError
    for key in keys:
        # Half a surrogate pair cannot be encoded: a ValueError, too.
        if len(key) < _SHORTEST_KEY or not key.encode():
            raise ValueError
    return keys
