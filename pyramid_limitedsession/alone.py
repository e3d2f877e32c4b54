"""What is written for a session outside the request's transaction.

On connections of the store's own, once the outcome is known.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from .limits import moved
from .loading import is_alive
from .saving import Plan, Result, revoke
from .settings import Policy
from .store import Record, Store

log = logging.getLogger(__name__)


def save(store: Store, plan: Plan) -> Result:
    """Execute a plan in a transaction of its own."""
    work = store.begin()
    try:
        result = plan.execute(work)
    except BaseException:
        work.rollback()
        raise
    work.commit()
    return result


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


def end_oldest(store: Store, policy: Policy, record: Record, now: int) -> None:
    """End what sessions the user of this one has too many of.

    Those that were not used for the longest time. Behind the commit that
    made this one: of two that are made at the same time, whichever comes
    second sees both. Raises nothing; the user's next session tries again.
    """
    if record.user is None or policy.max_sessions_per_user is None:
        return

    def age(other: Record) -> tuple[int, int]:
        return other.seen or 0, other.id

    try:
        work = store.begin()
        try:
            others = [
                other
                for other in work.of_user(record.user)
                if other.id != record.id and is_alive(policy, other, now)
            ]
            others.sort(key=age)
            most = policy.max_sessions_per_user - 1
            excess = max(len(others) - most, 0)
            ids = sorted(other.id for other in others[:excess])
            revoke(work, ids, "limit", now)
        except BaseException:
            work.rollback()
            raise
        work.commit()
    except Exception:
        log.exception("a user's oldest sessions were not ended")
