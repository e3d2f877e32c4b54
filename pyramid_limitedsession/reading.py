"""From given settings to values, by a table of options.

Types are never guessed. Problems are collected, so that all wrong settings
are told at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError
from sqlalchemy.engine import URL

from .options import Option

PREFIX = "limitedsession."
# In the registry: the parts of this package that are included.
PARTS = "pyramid_limitedsession.parts"


def settings_below(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings whose keys have a prefix, without it."""
    return {
        key[len(prefix) :]: value
        for key, value in given.items()
        if key.startswith(prefix)
    }


def refuse_if(problems: list[str]) -> None:
    """Raise ConfigurationError with all problems if there is one."""
    if problems:
        raise ConfigurationError(
            "pyramid_limitedsession cannot start with these settings:\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )


def read_options(
    options: Iterable[Option],
    given: Mapping[str, Any],
    prefix: str,
    problems: list[str],
) -> dict[str, Any]:
    """Return the values of options; wrong ones are added to the problems.

    ``prefix`` is what stands before their names, behind our own prefix.
    """
    values = {}
    for option in options:
        value = given.get(option.name, option.default)
        try:
            values[option.name] = option.read(_as_given(option, value))
        except Exception as error:
            problems.append(_wrong(PREFIX + prefix, option, value, error))
            values[option.name] = _default(option)
    return values


def _default(option: Option) -> Any:
    try:
        return option.read(option.default)
    except ValueError:
        # Of a profile: what is not set there is as it is without one.
        return None


def nearest(name: str, options: Iterable[Option]) -> str:
    """Return the name of the option that was probably meant."""
    names = [option.name for option in options]
    ends = f".{name}", f"_{name}"
    near = [known for known in names if known.endswith(ends)]
    near += difflib.get_close_matches(name, names, 1, cutoff=0.0)
    return near[0] if near else names[0]


def unknown(name: str, options: Iterable[Option], start: str = "") -> str:
    """Return what is told of a key that is no option below ``start``."""
    near = start + nearest(name[len(start) :], options)
    return f"{PREFIX}{name} is not a setting; did you mean {PREFIX}{near}?"


def _as_given(option: Option, given: Any) -> Any:
    """Return an object as it is, anything else as a text."""
    is_itself = option.is_object and not isinstance(given, str | None)
    return given if is_itself else _as_text(option, given)


def _as_text(option: Option, given: Any) -> str:
    """Return what an ini file would say.

    Python's None stands for ``none``, and for no URL; elsewhere it is wrong.
    """
    if given is not None:
        return plain(given)
    word = "" if option.name == "sqlalchemy.url" else "none"
    if option.read(word) is not None:
        raise ValueError
    return word


def plain(given: Any) -> str:
    """Return the text of a setting."""
    if isinstance(given, URL):
        return given.render_as_string(hide_password=False)
    return str(given).strip()


# What is not shown: a URL holds a password.
_SECRET = {
    "sqlalchemy.url": "that URL (it must be one that SQLAlchemy knows, and "
    "not of a database in memory)",
    "encryption_keys": "these keys (of at least 32 characters each, "
    "separated by blanks or lines)",
}


def _wrong(prefix: str, option: Option, given: Any, error: Exception) -> str:
    shown = _SECRET.get(option.name, repr(plain(given)))
    if option.is_object and option.name not in _SECRET and str(error):
        # What keeps it from being imported, for instance.
        shown += f" ({error})"
    text = f"{prefix}{option.name} cannot be {shown}; "
    text += f"say it like {option.example!r}"
    return text + (" or 'none'" if _can_be_off(option) else "")


def _can_be_off(option: Option) -> bool:
    try:
        return option.read("none") is None
    except Exception:
        return False


def parts_of(registry: Any) -> set[str]:
    """Return which parts of this package an application includes."""
    parts: set[str] = registry.setdefault(PARTS, set())
    return parts
