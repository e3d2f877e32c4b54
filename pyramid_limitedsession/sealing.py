"""The serialized data as it is stored: as it is, or encrypted.

AES-256-GCM from the package cryptography. The key is made by HKDF-SHA256 of
the *token*, which only the browser has, salted with a key of the application
if there is one. What is stored is ASCII: a mark that says format and version,
then base64 of a random nonce of 96 bits, the ciphertext and its tag.

The row's key, the hash of the token, is the associated data: in another row
the data is unreadable. Nothing else of the row is, for these reasons:

*   ``updated_at`` and ``expires_at`` move without the data.
*   ``version`` would tell nothing: who puts old data back puts the old
    version back with it. A row that was rolled back as a whole is
    recognized only by somebody who remembers its next state.
*   ``created_at`` and ``user_id`` can be changed for good reasons, by a
    migration that corrects time zones or renames users, which would sign
    everybody out. Nobody is signed in by ``user_id``: the content says who.
    And a table of somebody else's may lack the column.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Literal, Protocol

from .errors import UnreadableDataError
from .tokens import Secret, key_of

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError:  # pragma: no cover - the extra "crypto" is missing
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = True

# No serializer of ours begins so: JSON is "{", a pickle in base64 "gA".
MARK = "$pls1$"
# Whoever changes what is derived, or how, changes both.
_INFO = b"pyramid_limitedsession data 1"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16


class Sealer(Protocol):
    """What stands between a serialized text and the data of a row.

    ``token`` is that of the row whose data it is.
    """

    def seal(self, text: str, token: str) -> str:
        """Return what is stored for a text."""

    def open(self, stored: str, token: str) -> str:
        """Return the text; raise UnreadableDataError if it cannot be."""

    def size(self, text: str) -> int:
        """Return how many bytes are stored for a text, without sealing it."""


class Plain:
    """Stores texts as they are, and reads what was encrypted before.

    Args:
        keys: the application's, of which each may have been used.
    """

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        # Without one: rows from before there were any.
        self._salts = (*(key.encode() for key in keys), b"")

    def seal(self, text: str, token: str) -> str:
        """See `Sealer`."""
        return text

    def open(self, stored: str, token: str) -> str:
        """See `Sealer`."""
        if not is_sealed(stored):
            return stored
        if not HAS_CRYPTOGRAPHY:
            raise UnreadableDataError(
                "it is encrypted, and the package cryptography, of the extra "
                "'crypto', is not installed"
            )
        text = _opened(stored, token, self._salts)
        if text is None:
            raise UnreadableDataError(
                "it is encrypted, with a key that is not known, or was "
                "changed since, or is another row's"
            )
        return text

    def size(self, text: str) -> int:
        """See `Sealer`."""
        return len(text.encode())


class Encrypting(Plain):
    """Encrypts each text for one token.

    Args:
        keys: the application's; the first one is used, all are tried.
        is_strict: nothing is read that is not encrypted, and nothing without
            one of the keys, if there are any.
    """

    def __init__(
        self, keys: tuple[str, ...] = (), *, is_strict: bool = False
    ) -> None:
        super().__init__(keys)
        if is_strict and keys:
            self._salts = self._salts[:-1]
        self._is_strict = is_strict

    def seal(self, text: str, token: str) -> str:
        """See `Sealer`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = AESGCM(_derived(token, self._salts[0]))
        sealed = cipher.encrypt(nonce, text.encode(), _bound_to(token))
        return MARK + base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, stored: str, token: str) -> str:
        """See `Sealer`."""
        if self._is_strict and not is_sealed(stored):
            raise UnreadableDataError("it is not encrypted")
        return super().open(stored, token)

    def size(self, text: str) -> int:
        """See `Sealer`."""
        sealed = _NONCE_BYTES + super().size(text) + _TAG_BYTES
        # Three bytes are four characters, the last ones filled up.
        return len(MARK) + (sealed + 2) // 3 * 4


def as_sealer(encrypt: bool | Literal["only"], keys: tuple[str, ...]) -> Plain:
    """Return what the settings ``encrypt`` and ``encryption_keys`` name."""
    if not encrypt:
        return Plain(keys)
    return Encrypting(keys, is_strict=encrypt == "only")


def is_sealed(stored: str) -> bool:
    """Say whether the data of a row is encrypted."""
    return stored.startswith(MARK)


def _derived(token: str, salt: bytes) -> bytes:
    hkdf = HKDF(SHA256(), _KEY_BYTES, salt=salt or None, info=_INFO)
    return hkdf.derive(token.encode())


def _bound_to(token: str) -> bytes:
    return (MARK + key_of(token)).encode()


def _opened(stored: str, token: str, salts: tuple[bytes, ...]) -> str | None:
    """Return the text, None if there is none.

    Not an error from in here, which would take secrets along in its frames.
    """
    raw = _raw(stored)
    if raw is None:
        return None
    nonce, sealed = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
    for salt in salts:
        cipher = AESGCM(_derived(token, salt))
        try:
            opened = cipher.decrypt(nonce, sealed, _bound_to(token))
        except InvalidTag:
            continue
        return Secret(opened.decode())
    return None


def _raw(stored: str) -> bytes | None:
    """Return the bytes behind the mark, None if we have not written them."""
    text = stored[len(MARK) :]
    try:
        raw = base64.urlsafe_b64decode(text)
    except (binascii.Error, ValueError):
        return None
    # Python ignores other characters, and bits behind the last byte.
    is_ours = base64.urlsafe_b64encode(raw).decode() == text
    return raw if is_ours and len(raw) >= _NONCE_BYTES + _TAG_BYTES else None
