"""Whose session it is, as far as its content says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SessionValueError
from .tokens import Secret

# In utf8mb4 an index on it fits every MySQL.
USER_LENGTH = 190


@dataclass(frozen=True)
class UserColumn:
    """What the column of the users can keep.

    :ivar length: the most characters of a name.
    :ivar numbers: the whole numbers that it keeps; None: it keeps texts.
    """

    length: int = USER_LENGTH
    numbers: range | None = None

    def problem(self, name: str) -> str | None:
        """Return why it cannot keep a name, None if it can."""
        if len(name) > self.length:
            return f"has more than {self.length} characters"
        if "\0" in name or any("\ud800" <= each <= "\udfff" for each in name):
            return "has characters that no database keeps"
        if self.numbers is None:
            return None
        # Not by another name than the one that it will be read as: "007" is
        # nobody, or whoever revokes him would not revoke 7.
        if not (is_number(name) and int(name) in self.numbers):
            return "is no whole number that the column for it keeps"
        return None


def is_number(name: str) -> bool:
    """Say whether a name is a whole number, written as Python writes it."""
    try:
        return str(int(name)) == name
    except ValueError:
        return False


def user_of(
    key: str | None, content: Mapping[str, Any], column: UserColumn
) -> Secret | None:
    """Return the name of the user under a key of the content.

    A text or an integer, as a text; None if it is neither, or empty.

    Raises SessionValueError if the column could not hold it: a session that
    nobody could find would be one that nobody could revoke.
    """
    value = None if key is None else content.get(key)
    if not _is_name(value):
        return None
    problem = column.problem(str(value))
    if problem is not None:
        raise SessionValueError(
            f"session[{key!r}]", f"names the user, but {problem}"
        )
    return Secret(value)


def name_of(user_id: str | int) -> Secret:
    """Return the name under which a user's sessions are found.

    Raises ValueError if no session can have it, whatever column there is.
    """
    if user_id == "":
        raise ValueError("the name of the user is empty")
    if not _is_name(user_id):
        kind = type(user_id).__name__
        raise ValueError(f"a {kind} cannot name a user; say it like 'ann'")
    problem = UserColumn().problem(str(user_id))
    if problem is not None:
        raise ValueError(f"the name of the user {problem}")
    return Secret(user_id)


def _is_name(value: object) -> bool:
    is_name = isinstance(value, (str, int)) and not isinstance(value, bool)
    return is_name and value != ""
