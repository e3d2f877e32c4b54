"""The contract of stores: many rows, those of a user and expired ones."""

from __future__ import annotations

from dataclasses import replace

from ..limits import Cutoffs
from ..store import Record, Work
from ..tokens import Secret, key_of, make_token
from .storekit import NOW, StoreKit, changed, too_old


class UserContract(StoreKit):
    """What becomes of many rows; see `StoreContract`."""

    # -- whose sessions ------------------------------------------------

    def test_nobody_has_no_sessions(self) -> None:
        """A user that the store does not know has none."""
        assert self.store.of_user(self.name()) == []
        assert self.do(lambda work: work.of_user(self.name())) == []

    def test_the_rows_of_a_user(self) -> None:
        """All of his, by their ids; nobody else's, and no tombstone."""
        user = self.name()
        rows = [self.stored(user=user) for _ in range(4)]
        self.stored(user=self.name())
        self.stored()
        self._revoke(rows[1])
        self.do(lambda work: work.delete([rows[2].id]))
        ids = sorted([rows[0].id, rows[3].id])
        assert [row.id for row in self.store.of_user(user)] == ids
        found = self.do(lambda work: work.of_user(user))
        assert [row.id for row in found] == ids

    def test_a_row_of_a_user_is_told_without_its_data(self) -> None:
        """All but what is in it; that may be much."""
        user = self.name()
        row = self.stored(user=user, profile="long", expires=NOW + 60)
        (found,) = self.store.of_user(user)
        assert replace(found, data=row.data) == row

    def test_a_user_is_taken_literally(self) -> None:
        """Capital letters, blanks and accents make another user."""
        user = Secret(f"zoé {self.name()}")
        row = self.stored(user=user)
        others = [user.upper(), f"{user} ", user.replace("é", "e"), "%"]
        assert [self.store.of_user(other) for other in others] == [[]] * 4
        assert [each.id for each in self.store.of_user(user)] == [row.id]

    def test_a_user_of_uncommitted_rows(self) -> None:
        """They are his in their transaction, and for others behind it."""
        user = self.name()

        def act(work: Work) -> None:
            work.insert(self.new(user=user))
            assert len(work.of_user(user)) == 1
            assert self.store.of_user(user) == []

        self.do(act)
        assert len(self.store.of_user(user)) == 1

    def test_rows_are_locked_by_their_ids(self) -> None:
        """In whatever order they are named; absent and revoked ones not."""
        rows = [self.stored() for _ in range(4)]
        self._revoke(rows[1])
        self.do(lambda work: work.delete([rows[2].id]))
        named = [row.id for row in reversed(rows)]
        locked = self.do(lambda work: work.lock_all(named))
        ids = sorted([rows[0].id, rows[3].id])
        assert [row.id for row in locked] == ids
        assert self.do(lambda work: work.lock_all([])) == []

    # -- tombstones ----------------------------------------------------

    def _revoke(self, *rows: Record, reason: str = "revoked") -> None:
        ids = [row.id for row in rows]
        self.do(lambda work: work.revoke(ids, reason=reason, until=NOW + 90))

    def test_a_tombstone_says_why(self) -> None:
        """It keeps its key, user and times, and has no data any more."""
        row = self.stored(user=self.name(), data=Secret('{"canary":1}'))
        self._revoke(row, reason="limit")
        dead = self.store.load(row.key)
        assert dead is not None
        assert dead.ended == "limit"
        assert dead.version != row.version
        assert "canary" not in (dead.data or "")
        told = (dead.id, dead.key, dead.user, dead.created, dead.seen)
        assert told == (row.id, row.key, row.user, row.created, row.seen)

    def test_when_a_tombstone_may_go(self) -> None:
        """At the time that is told, or when the session would have."""
        rows = [
            self.stored(expires=expires)
            for expires in (None, NOW + 10, NOW + 1000)
        ]
        self._revoke(*rows)
        found = [self.store.load(row.key) for row in rows]
        expected = [NOW + 90, NOW + 10, NOW + 90]
        assert [each and each.expires for each in found] == expected

    def test_a_tombstone_keeps_its_first_reason(self) -> None:
        """Who revokes it again changes nothing; absent rows are ignored."""
        row, gone = self.stored(), self.stored()
        self.do(lambda work: work.delete([gone.id]))
        self._revoke(row, gone)
        dead = self.store.load(row.key)
        self._revoke(row, gone, reason="limit")
        self._revoke()
        assert self.store.load(row.key) == dead
        assert self.store.load(gone.key) is None

    def test_a_tombstone_can_be_deleted(self) -> None:
        """As any other row."""
        row = self.stored()
        self._revoke(row)
        self.do(lambda work: work.delete([row.id]))
        assert self.store.load(row.key) is None

    def test_rows_are_revoked_under_whatever_key(self) -> None:
        """Also one that was rotated since it was read."""
        row = self.stored()
        new = changed(row, key=key_of(make_token()))
        assert self.do(lambda work: work.update(new, old=row))
        self._revoke(row)
        dead = self.store.load(new.key)
        assert dead is not None
        assert dead.ended == "revoked"

    # -- cleaning ------------------------------------------------------

    def _clean(self, cutoffs: Cutoffs, most: int = 100) -> int | None:
        return self.store.clean(cutoffs=cutoffs, most=most)

    def test_expired_rows_are_deleted(self) -> None:
        """By their last activity, or by their start; others stay."""
        profile = self.name()
        idle = self.stored(profile=profile, seen=NOW - 100, expires=NOW)
        old = self.stored(profile=profile, created=NOW - 200, expires=NOW)
        live = self.stored(profile=profile, expires=NOW)
        other = self.stored(seen=NOW - 100, expires=NOW)
        cutoffs = too_old(profile, seen=NOW - 100, created=NOW - 200)
        assert self._clean(cutoffs) == 2
        for row in (idle, old):
            assert self.store.load(row.key) is None
        for row in (live, other):
            assert self.store.load(row.key) == row

    def test_cleaning_twice(self) -> None:
        """The second time nothing is left to do: 0, not None."""
        profile = self.name()
        self.stored(profile=profile, seen=NOW - 100, expires=NOW)
        cutoffs = too_old(profile, seen=NOW - 100)
        assert self._clean(cutoffs) == 1
        assert self._clean(cutoffs) == 0

    def test_a_second_too_early(self) -> None:
        """Both borders: the activity that is too old, and the expiry."""
        profile = self.name()
        seen = self.stored(profile=profile, seen=NOW - 99, expires=NOW)
        told = self.stored(profile=profile, seen=NOW - 100, expires=NOW + 1)
        never = self.stored(profile=profile, seen=NOW - 100)
        assert self._clean(too_old(profile, seen=NOW - 100)) == 0
        for row in (seen, told, never):
            assert self.store.load(row.key) == row

    def test_cleaning_is_bounded_and_the_oldest_go_first(self) -> None:
        """Those that may be looked at for the longest time."""
        profile = self.name()
        rows = [
            self.stored(profile=profile, seen=NOW - 100, expires=NOW - expired)
            for expired in (3, 9, 1, 7, 5)
        ]
        cutoffs = too_old(profile, seen=NOW - 100)
        assert self._clean(cutoffs, 2) == 2
        left = [self.store.load(row.key) is not None for row in rows]
        assert left == [True, False, True, False, True]
        assert self._clean(cutoffs, 2) == 2
        assert self._clean(cutoffs, 2) == 1

    def test_a_live_row_does_not_stand_in_the_way(self) -> None:
        """One whose expiry was not moved yet is neither deleted nor
        counted."""
        profile = self.name()
        live = self.stored(profile=profile, expires=NOW - 50)
        dead = self.stored(profile=profile, seen=NOW - 100, expires=NOW - 5)
        assert self._clean(too_old(profile, seen=NOW - 100), 1) == 1
        assert self.store.load(live.key) == live
        assert self.store.load(dead.key) is None

    def test_tombstones_go_when_they_have_been_told_of(self) -> None:
        """Not before."""
        row, until = self.stored(), NOW - 10_000
        self.do(
            lambda work: work.revoke([row.id], reason="limit", until=until)
        )
        assert self._clean(Cutoffs(until - 1, (0, 0))) == 0
        assert self.store.load(row.key) is not None
        assert self._clean(Cutoffs(until, (0, 0))) == 1
        assert self.store.load(row.key) is None

    def test_profiles_that_are_not_configured_any_more(self) -> None:
        """Of these the strictest limits hold, which are told apart."""
        seen = NOW - 10_000
        row = self.stored(profile=self.name(), seen=seen, expires=NOW)
        kept = self.stored(seen=seen, expires=NOW)
        known = {"configured": (0, 0)}
        cutoffs = Cutoffs(NOW, (0, 0), known, unknown=(seen, 0))
        assert self._clean(cutoffs) == 1
        assert self.store.load(row.key) is None
        assert self.store.load(kept.key) == kept

    def test_a_touched_row_survives(self) -> None:
        """Its activity is newer than what is too old."""
        profile = self.name()
        row = self.stored(profile=profile, seen=NOW - 100, expires=NOW)
        assert self.store.touch(row, seen=NOW, expires=NOW + 100)
        assert self._clean(too_old(profile, seen=NOW - 100)) == 0
        assert self.store.load(row.key) is not None
