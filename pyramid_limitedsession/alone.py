"""What is written for a session outside the request's transaction.

On connections of the store's own, once the outcome is known.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from .ending import Revocation, revoke, to_revoke
from .limits import moved
from .loading import is_alive
from .saving import Plan, Result
from .settings import Policy
from .store import Record, RowId, Store, Work, transaction_of

log = logging.getLogger(__name__)


def save(store: Store, plan: Plan) -> Result:
    """Execute a plan in a transaction of its own."""
    with transaction_of(store) as work:
        return plan.execute(work)


def touch(
    store: Store, policy: Policy, record: Record, now: int
) -> Record | None:
    """Write the activity at ``now``; return the row as it is then.

    None if the session has been ended. Raises nothing: the visitor has his
    page, and the next request tries again.
    """
    limits = policy.profiles.of(record.profile).limits
    seen = moved(record.seen or 0, now)
    expires = limits.coarse_expiry(record.created or 0, seen)
    try:
        if not store.touch(record, seen=seen, expires=expires):
            return None
    except Exception:
        log.warning("a session's activity was not written", exc_info=True)
        return record
    return replace(record, seen=seen, expires=expires)


def revoke_all(
    store: Store,
    revocations: tuple[Revocation, ...],
    own: RowId | None,
    now: int,
) -> None:
    """Revoke what is there now; ``own`` is the request's own row."""
    with transaction_of(store) as work:
        found = to_revoke(work, revocations, own)
        revoke(work, found, "revoked", now)


def end_oldest(store: Store, policy: Policy, record: Record, now: int) -> None:
    """End what sessions the user of this one has too many of.

    Those that were not used for the longest time. Behind the commit that
    made this one: of two that are made at the same time, whichever comes
    second sees both. Raises nothing; the user's next session tries again.
    """
    if record.user is None or policy.max_sessions_per_user is None:
        return
    try:
        with transaction_of(store) as work:
            found = _too_many(work, policy, record, now)
            revoke(work, found, "limit", now)
    except Exception:
        log.exception("a user's oldest sessions were not ended")


def _too_many(
    work: Work, policy: Policy, record: Record, now: int
) -> list[Record]:
    """Return the sessions that are to be ended."""
    most = policy.max_sessions_per_user or 0
    found = [each.id for each in work.of_user(record.user or "")]
    if len(found) <= most:
        return []
    # Locked: nobody may count those that somebody else is ending.
    alive = [
        each
        for each in work.lock_all(found)
        if each.user == record.user and is_alive(policy, each, now)
    ]
    if record.id not in [each.id for each in alive]:
        return []
    others = [each for each in alive if each.id != record.id]
    others.sort(key=lambda each: (each.seen, each.id))
    excess = others[: max(len(alive) - most, 0)]
    return sorted(excess, key=lambda each: each.id)
