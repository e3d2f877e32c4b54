"""What saving a session does: one statement, or a merge under a lock."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from .ending import Revocation, revoke, to_revoke
from .errors import SessionConflict, UnreadableDataError
from .limits import moved
from .loading import opened
from .place import Content, Others
from .settings import Policy
from .statements import MAX_VERSION
from .store import Record, RowId, Store, Work, is_changed, merge
from .tokens import Secret, fingerprint, hashed, key_of, make_token

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a plan has written; it counts once its transaction commits.

    :ivar record: the row as it is now, None if none was written.
    :ivar text: its data, before it was encrypted.
    :ivar token: the token the browser needs for it, None if it has it.
    :ivar merged: the content, if it is not what the plan had.
    :ivar lost: the row was gone; nothing may bring the session back.
    """

    record: Record | None = None
    token: Secret | None = None
    merged: dict[str, Any] | None = field(default=None, repr=False)
    lost: bool = False
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Base:
    """The row that a change starts from.

    :ivar record: as it was loaded, or written before in this request.
    :ivar text: its data, decrypted.
    :ivar token: its token.
    """

    record: Record
    text: str = field(repr=False)
    token: Secret = field(repr=False)


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
    :ivar created: when the session began.
    :ivar others: values for further columns of the application's.
    """

    policy: Policy
    now: int
    base: Base | None
    text: str | None = field(repr=False)
    user: Secret | None
    ends: tuple[RowId, ...]
    revocations: tuple[Revocation, ...]
    cleared: bool
    popped: frozenset[str]
    rotating: bool
    profile: tuple[str | None, bool]
    passive: bool
    ended: int
    created: int
    others: Others

    def ask_others(self) -> None:
        """Ask for the values for further columns now, to have them later."""
        if self.text is not None:
            self._others_of(self.text)

    def _others_of(self, text: str) -> Content:
        return self.others.of(text, self.policy.serializer.loads)

    def execute(self, work: Work) -> Result:
        """Run the statements inside an open transaction.

        Raises:
            SessionConflict: ``on_conflict = retry``, and another request
                changed the same key, or what cannot be read here.
            SessionOverflowError: the merged data is too large.
        """
        if self.ends:
            work.delete(self.ends)
        if not self.revocations:
            return self._write(work)
        own = self.base.record.id if self.base is not None else None
        found = to_revoke(work, self.revocations, own)
        # In the order of the ids, with our own row: see `revoke`.
        first = [each for each in found if own is None or each.id <= own]
        revoke(work, first, "revoked", self.now)
        result = self._write(work)
        revoke(work, found[len(first) :], "revoked", self.now)
        return result

    def _write(self, work: Work) -> Result:
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
        record = self.base.record
        newest = store.load(record.key)
        if newest is not None and is_changed(newest, record):
            self._merged(self.base, newest, self.text)

    def _insert(self, work: Work, text: str) -> Result:
        token = make_token()
        profile = self.profile[0]
        record = Record(
            id=0,
            key=key_of(token),
            data=self._sealed(text, token),
            version=1,
            created=self.created,
            seen=self.now,
            expires=self._expires(profile, self.created, self.now),
            user=self.user,
            profile=profile,
            others=self._others_of(text),
        )
        record = replace(record, id=work.insert(record))
        return Result(record, token, text=text)

    def _update(self, work: Work, text: str, base: Base) -> Result:
        token = make_token() if self.rotating else None
        old = base.record
        record = self._next(old, base, token, text, self.user)
        if work.update(record, old=old):
            return Result(record, token, text=text)
        newest = work.lock(old)
        if newest is None:
            log.info(
                "session %s was ended meanwhile; a change is dropped",
                fingerprint(old.key),
            )
            return Result(lost=True)
        try:
            merged = self._merged(base, newest, text)
        except UnreadableDataError as error:
            log.warning(
                "session %s was changed meanwhile, and is unreadable now: "
                "%s; it stays as it is, and a change is dropped",
                fingerprint(old.key),
                error,
            )
            return Result(lost=True)
        user = self.user
        if merged is not None:
            text = self._checked(merged)
            user = self.policy.user_of(merged)
        record = self._next(newest, base, token, text, user)
        work.replace(record, old=newest)
        return Result(record, token, merged, text=text)

    def _seen(self, base: Record, newest: Record) -> int:
        """Return the last activity that is stored with the change."""
        seen = newest.seen or self.now
        if self.passive and seen <= self.now:
            return seen
        # What somebody has written since we began is not ahead of its time.
        is_ours = newest.seen == base.seen
        return moved(seen, self.now) if is_ours else max(seen, self.now)

    def _next(
        self,
        record: Record,
        base: Base,
        token: Secret | None,
        text: str,
        user: Secret | None,
    ) -> Record:
        """Return what the row ``record`` becomes, with a new token or none."""
        key = key_of(token) if token else base.record.key
        seen = self._seen(base.record, record)
        created = record.created or self.now
        name, is_new = self.profile
        profile = name if is_new else record.profile
        return replace(
            record,
            # The key may be the primary key.
            id=record.id if record.id != record.key else hashed(key),
            key=key,
            data=self._sealed(text, token or base.token),
            version=(record.version or 0) % MAX_VERSION + 1,
            seen=seen,
            expires=self._expires(profile, created, seen),
            user=user,
            profile=profile,
            others=self._others_of(text),
        )

    def _sealed(self, text: str, token: Secret) -> Secret:
        return Secret(self.policy.sealer.seal(text, token))

    def _expires(
        self, profile: str | None, created: int, seen: int
    ) -> int | None:
        limits = self.policy.profiles.of(profile).limits
        return limits.coarse_expiry(created, seen)

    def _merged(
        self, base: Base, newest: Record, text: str
    ) -> dict[str, Any] | None:
        """Return the merged content, None if ours stands as it is.

        Raises:
            SessionConflict: see `execute`.
            UnreadableDataError: nothing can be merged, and what is stored
                must not be lost: a newer release may be able to read it.
        """
        serializer, policy = self.policy.serializer, self.policy.on_conflict
        if policy == "overwrite":
            return None
        try:
            _, theirs = opened(self.policy, newest, base.token)
            started, mine = map(serializer.loads, (base.text, text))
        except UnreadableDataError as error:
            if policy == "retry":
                raise SessionConflict([]) from error
            if self.cleared:
                return None
            raise
        merged, both = merge(
            started,
            mine,
            theirs,
            cleared=self.cleared,
            popped=self.popped,
            is_same=serializer.is_same,
        )
        if both and policy == "retry":
            raise SessionConflict(both)
        return merged

    def _checked(self, merged: dict[str, Any]) -> str:
        text = self.policy.serializer.dumps(merged)
        self.policy.require_size(text, merged)
        return text
