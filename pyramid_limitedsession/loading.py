"""What a presented token stands for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import SessionBusyError, UnreadableDataError, shown
from .events import Ended
from .limits import FARTHEST_AHEAD, Verdict
from .settings import Policy
from .store import Record, RowId
from .tokens import Secret, fingerprint, key_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adopted:
    """A session of another factory that becomes ours, see `adopting`.

    :ivar created: when it began.
    :ivar content: returns what is in it, each time anew.
    """

    created: int
    content: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """The session of a token; empty and new unless it has a record.

    :ivar record: the row of an active session.
    :ivar text: its data, decrypted.
    :ivar content: what is in it.
    :ivar row: the row's id, also of a session that was not accepted.
    :ivar ended: why it was not accepted.
    :ivar may_return: its times are too far ahead: it is accepted again once
        the clock is right.
    :ivar adopted: where the content comes from, if not from a row.
    """

    record: Record | None = None
    text: str | None = field(default=None, repr=False)
    content: dict[str, Any] = field(default_factory=dict, repr=False)
    row: RowId | None = None
    ended: Ended | None = None
    may_return: bool = False
    adopted: Adopted | None = None

    @property
    def is_gone(self) -> bool:
        """Somebody has ended it: it must not come back."""
        return self.row is None or self.ended in ("revoked", "limit")


def find(
    policy: Policy,
    read: Callable[[str], Record | None],
    token: Secret | None,
    now: int,
    *,
    hash_id: Callable[[Record], Record | None],
) -> Found:
    """Return the session of a token, as the limits see it at ``now``.

    What came from a browser or stands in a damaged row is no error: it is
    a new session. What ``read`` raises is. A row whose id is still plain is
    hashed by ``hash_id``, and accepted, if the policy says so.
    """
    if token is None:
        return Found()
    key = key_of(token)
    row = None
    try:
        record = read(key)
        if record is None and policy.legacy_ids:
            record = _read_plain(read, hash_id, token, key)
        if record is None:
            log.info("no session has this token (key %s)", fingerprint(key))
            return Found()
        row = record.id
        if record.ended is not None:
            is_limit = record.ended == "limit"
            return Found(row=row, ended="limit" if is_limit else "revoked")
        verdict = verdict_of(policy, record, now)
        if verdict != "active":
            times = record.created or 0, record.seen or 0
            is_ahead = max(times) > now + FARTHEST_AHEAD
            return Found(row=row, ended=verdict, may_return=is_ahead)
        text, content = opened(policy, record, token)
        return Found(record, text, content, row)
    except UnreadableDataError as error:
        # Left in place: a newer release may be able to read it.
        log.warning("session %s is unreadable: %s", fingerprint(key), error)
        return Found(row=row, ended="unreadable")


def opened(
    policy: Policy, record: Record, token: Secret
) -> tuple[str, dict[str, Any]]:
    """Return the data of a row, decrypted, and its content.

    Raises UnreadableDataError, which says why.
    """
    if record.data is None:
        raise UnreadableDataError("it is NULL, or over max_data_size")
    text = policy.sealer.open(record.data, token)
    return text, policy.serializer.loads(text)


def _read_plain(
    read: Callable[[str], Record | None],
    hash_id: Callable[[Record], Record | None],
    token: Secret,
    key: Secret,
) -> Record | None:
    """Return the row whose id is the plain token, and hash it.

    Reading must not depend on writing: if the row cannot be hashed now
    (somebody has locked it; the database is read-only), the session goes on
    with its plain key, and a later request tries again. That is safe, see
    `Work.hash_id`.
    """
    record = read(token)
    if record is None:
        # Most often there is none; but it may have been hashed just now.
        return read(key)
    try:
        done = hash_id(record)
    except SessionBusyError:
        log.info("session %s is hashed later: it is busy", fingerprint(key))
        return record
    except Exception:
        log.warning(
            "the plain id of session %s was not hashed",
            fingerprint(key),
            exc_info=True,
        )
        return record
    # Somebody else was first: the row is hashed, or it is gone.
    return read(key) if done is None else done


def is_alive(policy: Policy, record: Record, now: int) -> bool:
    """Say whether a row is of a session that may be used at ``now``."""
    try:
        return verdict_of(policy, record, now) == "active"
    except UnreadableDataError:
        return False


def verdict_of(policy: Policy, record: Record, now: int) -> Verdict:
    """Say what the limits of its profile say about a row at ``now``.

    Raises UnreadableDataError if the row has no times.
    """
    if record.created is None or record.seen is None:
        raise UnreadableDataError("the row has no times")
    if not policy.profiles.is_known(record.profile):
        log.warning(
            "session %s has the profile %s, which is not configured any "
            "more; the strictest limits hold for it",
            fingerprint(record.key),
            shown(record.profile),
        )
    limits = policy.profiles.of(record.profile).limits
    return limits.verdict(record.created, record.seen, now)
