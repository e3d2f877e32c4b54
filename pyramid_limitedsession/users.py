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
    is_name = isinstance(value, (str, int)) and not isinstance(value, bool)
    if not is_name or value == "":
        return None
    user = Secret(value)
    problem = None
    if len(user) > USER_LENGTH:
        problem = f"has more than {USER_LENGTH} characters"
    elif "\0" in user or not _is_text(user):
        problem = "has characters that no database keeps"
    if problem is not None:
        raise SessionValueError(
            f"session[{key!r}]", f"names the user, but {problem}"
        )
    return user


def _is_text(user: str) -> bool:
    try:
        user.encode()
    except UnicodeEncodeError:
        return False
    return True
