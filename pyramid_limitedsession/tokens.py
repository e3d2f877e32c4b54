"""The token in the cookie and the key in the table.

The browser holds a *token*: 256 random bits. The table holds only its
*key*, ``2::`` and the SHA-256 of the token in hex, which is the private-id
format of Rack and of activerecord-session_store. Whoever reads the table
cannot make a cookie from it (OWASP ASVS 7.2.3; CVE-2019-25025 is what
happens otherwise).
"""

from __future__ import annotations

import hashlib
import re
import secrets

TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
# At least 128 bits in the same alphabet; Rails' are 32 hex digits. At most
# what fits the column. No colon: a key never opens anything.
_LEGACY_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,80}", re.ASCII)
_KEY_PREFIX = "2::"


class Secret(str):
    """A string that does not show itself in a repr.

    Log lines, tracebacks and SQLAlchemy's echo print parameters and rows
    with ``repr``: tokens, keys and session data travel as ``Secret``, so
    that none of these can tell them, whatever engine runs the statement.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def make_token() -> Secret:
    """Return a new token: 32 random bytes as 43 URL-safe characters."""
    return Secret(secrets.token_urlsafe(TOKEN_BYTES))


def parse_token(cookie: str | None, *, legacy: bool = False) -> Secret | None:
    """Return the cookie's token, or None if it cannot be one of ours.

    Length and alphabet are checked before anything is hashed or sent to a
    database: a cookie is untrusted input.

    ``legacy``: it may also be one that somebody else has made, of another
    length; also when its row was hashed long ago.
    """
    shape = _LEGACY_TOKEN if legacy else _TOKEN
    if cookie is None or not shape.fullmatch(cookie):
        return None
    return Secret(cookie)


def key_of(token: str) -> Secret:
    """Return the key under which the token's row is stored."""
    # A column of somebody else's may hold anything.
    text = token.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(text).hexdigest()
    return Secret(_KEY_PREFIX + digest)


def is_plain(key: str) -> bool:
    """Say whether what stands in the table is a token, not its hash."""
    return not key.startswith(_KEY_PREFIX)


def hashed(key: str) -> Secret:
    """Return a key; of a plain one, what it is once it is hashed."""
    return key_of(key) if is_plain(key) else Secret(key)


def shown_id(row: object) -> int | str:
    """Return what may be shown of a row's id.

    The id itself, unless it is the key: then 32 hex digits that find no row.
    """
    if isinstance(row, Secret):
        return str(key_of(row)[len(_KEY_PREFIX) :][:32])
    return row if isinstance(row, int) else str(row)


def fingerprint(key: str) -> str:
    """Return the few characters of a key that a log line may show.

    Eight hex characters tell two sessions apart in a log, and are of no
    use to somebody who wants to find the row or guess the token. A plain
    key is a token: its hash is shown, as when it is stored hashed.
    """
    return hashed(key)[len(_KEY_PREFIX) :][:8]
