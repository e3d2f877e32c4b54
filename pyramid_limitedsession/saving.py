"""What saving a session does: one statement, or a merge under a lock."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .errors import SessionConflict, UnreadableDataError
from .limits import moved
from .serializers import check_size
from .settings import Policy
from .statements import MAX_VERSION
from .store import Record, Store, Work, merge
from .tokens import Secret, fingerprint, key_of, make_token
from .users import user_of

log = logging.getLogger(__name__)

# A tombstone tells its browser why for at most so long; seconds.
_TOMBSTONE = 30 * 24 * 60 * 60


@dataclass(frozen=True)
class Result:
    """What a plan has written; it counts once its transaction commits.

    :ivar record: the row as it is now, None if none was written.
    :ivar token: the token the browser needs for it, None if it has it.
    :ivar merged: the content, if it is not what the plan had.
    :ivar lost: the row was gone; nothing may bring the session back.
    """

    record: Record | None = None
    token: Secret | None = None
    merged: dict[str, Any] | None = field(default=None, repr=False)
    lost: bool = False


@dataclass(frozen=True)
class Revocation:
    """Sessions of a user that somebody ends.

    :ivar only: the id of a row; None: all of the user's.
    :ivar spares_current: not the request's own session.
    """

    user: str = field(repr=False)
    only: int | None
    spares_current: bool


@dataclass(frozen=True)
class Plan:
    """A change that is ready to be written.

    :ivar base: the row that was loaded, None for a new session.
    :ivar text: the serialized content to write, None to write none.
    :ivar ends: ids of rows that end.
    :ivar revocations: sessions that somebody ends.
    :ivar cleared: ``clear()`` was called: keys added by others go too.
    :ivar popped: flash queues that were emptied before what is in them now.
    :ivar rotating: the row gets a new token.
    :ivar profile: the name of its limits, and whether that is new.
    :ivar passive: the request is no activity.
    :ivar ended: how often the session had been ended in this request.
    """

    policy: Policy
    now: int
    base: Record | None
    text: str | None = field(repr=False)
    user: Secret | None
    ends: tuple[int, ...]
    revocations: tuple[Revocation, ...]
    cleared: bool
    popped: frozenset[str]
    rotating: bool
    profile: tuple[str | None, bool]
    passive: bool
    ended: int

    def execute(self, work: Work) -> Result:
        """Run the statements inside an open transaction.

        Raises:
            SessionConflict: ``on_conflict = retry``, and another request
                changed the same key.
            SessionOverflowError: the merged data is too large.
        """
        if self.ends:
            work.delete(self.ends)
        for revocation in self.revocations:
            self._revoke(work, revocation)
        if self.text is None:
            return Result()
        if self.base is None:
            return self._insert(work, self.text)
        return self._update(work, self.text, self.base)

    def check_conflict(self, store: Store) -> None:
        """Raise SessionConflict now if executing would raise it later."""
        if self.policy.on_conflict != "retry":
            return
        if self.base is None or self.text is None:
            return
        newest = store.load(self.base.key)
        if newest is not None and newest.version != self.base.version:
            self._merged(self.base, newest, self.text)

    def _revoke(self, work: Work, revocation: Revocation) -> None:
        own = self.base.id if self.base is not None else None
        ids = [
            record.id
            for record in work.of_user(revocation.user)
            if revocation.only in (None, record.id)
            and not (revocation.spares_current and record.id == own)
        ]
        revoke(work, ids, "revoked", self.now)

    def _insert(self, work: Work, text: str) -> Result:
        token = make_token()
        profile = self.profile[0]
        record = Record(
            id=0,
            key=key_of(token),
            data=Secret(text),
            version=1,
            created=self.now,
            seen=self.now,
            expires=self._expires(profile, self.now, self.now),
            user=self.user,
            profile=profile,
        )
        return Result(replace(record, id=work.insert(record)), token)

    def _update(self, work: Work, text: str, base: Record) -> Result:
        token = make_token() if self.rotating else None
        key = key_of(token) if token else base.key
        record = self._next(base, key, text, self.user)
        if work.update(record, old=base):
            return Result(record, token)
        newest = work.lock(base)
        if newest is None:
            log.info(
                "session %s was ended meanwhile; a change is dropped",
                fingerprint(base.key),
            )
            return Result(lost=True)
        merged = self._merged(base, newest, text)
        user = self.user
        if merged is not None:
            text = self._checked(merged)
            user = user_of(self.policy.user_key, merged)
        record = self._next(newest, key, text, user)
        work.replace(record)
        return Result(record, token, merged)

    def _next(
        self, record: Record, key: Secret, text: str, user: Secret | None
    ) -> Record:
        created = record.created or self.now
        seen = record.seen or self.now
        if not self.passive:
            seen = moved(seen, self.now)
        name, is_new = self.profile
        profile = name if is_new else record.profile
        return replace(
            record,
            key=key,
            data=Secret(text),
            version=(record.version or 0) % MAX_VERSION + 1,
            seen=seen,
            expires=self._expires(profile, created, seen),
            user=user,
            profile=profile,
        )

    def _expires(
        self, profile: str | None, created: int, seen: int
    ) -> int | None:
        limits = self.policy.profiles.of(profile).limits
        return limits.coarse_expiry(created, seen)

    def _merged(
        self, base: Record, newest: Record, text: str
    ) -> dict[str, Any] | None:
        """Return the merged content, None if ours stands as it is."""
        serializer = self.policy.serializer
        if self.policy.on_conflict == "overwrite":
            return None
        try:
            theirs = serializer.loads(newest.data)
        except UnreadableDataError:
            return None
        merged, both = merge(
            serializer.loads(base.data),
            serializer.loads(text),
            theirs,
            cleared=self.cleared,
            popped=self.popped,
        )
        if both and self.policy.on_conflict == "retry":
            raise SessionConflict(both)
        return merged

    def _checked(self, merged: dict[str, Any]) -> str:
        policy = self.policy
        text = policy.serializer.dumps(merged)
        check_size(text, merged, policy.serializer, policy.max_data_size)
        return text


def revoke(
    work: Work, ids: list[int], reason: Literal["revoked", "limit"], now: int
) -> None:
    """Make tombstones of rows, which keep their places until they expire."""
    if ids:
        work.revoke(ids, reason=reason, until=now + _TOMBSTONE)
