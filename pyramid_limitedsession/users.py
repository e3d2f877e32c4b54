"""Whose session it is, as far as its content says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import SessionValueError
from .tokens import Secret

# In utf8mb4 an index on it fits every MySQL.
USER_LENGTH = 190


def user_of(key: str | None, content: Mapping[str, Any]) -> Secret | None:
    """Return the name of the user under a key of the content.

    A text or an integer, as a text; None if it is neither, or empty.

    Raises SessionValueError if no column could hold it: a session that
    nobody could find would be one that nobody could revoke.
    """
    value = None if key is None else content.get(key)
    if not _is_name(value):
        return None
    problem = _problem(str(value))
    if problem is not None:
        raise SessionValueError(
            f"session[{key!r}]", f"names the user, but {problem}"
        )
    return Secret(value)


def name_of(user_id: str | int) -> Secret:
    """Return the name under which a user's sessions are found.

    Raises ValueError if no session can have it.
    """
    if user_id == "":
        raise ValueError("the name of the user is empty")
    if not _is_name(user_id):
        kind = type(user_id).__name__
        raise ValueError(f"a {kind} cannot name a user; say it like 'ann'")
    problem = _problem(str(user_id))
    if problem is not None:
        raise ValueError(f"the name of the user {problem}")
    return Secret(user_id)


def _is_name(value: object) -> bool:
    is_name = isinstance(value, (str, int)) and not isinstance(value, bool)
    return is_name and value != ""


def _problem(name: str) -> str | None:
    if len(name) > USER_LENGTH:
        return f"has more than {USER_LENGTH} characters"
    if "\0" in name or any("\ud800" <= each <= "\udfff" for each in name):
        return "has characters that no database keeps"
    return None
