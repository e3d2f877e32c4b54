"""The contract of stores: what happens at the same time, in real threads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace

from ..store import Record, Work, transaction_of
from ..tokens import Secret, key_of, make_token
from .storekit import NOW, StoreKit, again, changed, too_old

_THREADS = 4
_ROUNDS = 5


class RaceContract(StoreKit):
    """What becomes of a row that many write; see `StoreContract`."""

    def _at_once(self, *acts: Callable[[Work], object]) -> list[object]:
        """Act in transactions of several threads; return what they do."""

        def in_transaction(
            act: Callable[[Work], object],
        ) -> Callable[[], object]:
            return lambda: self.do(act)

        return self.in_threads(*map(in_transaction, acts))

    def _set(self, old: Record, number: int) -> Callable[[Work], object]:
        text = json.dumps({"n": number})
        return self._write(old, changed(old, data=Secret(text)))

    def _write(self, old: Record, new: Record) -> Callable[[Work], object]:
        return lambda work: work.update(new, old=old)

    def _delete(self, old: Record) -> Callable[[Work], object]:
        return lambda work: work.delete([old.id])

    def _revoking(self, old: Record) -> Callable[[Work], object]:
        return lambda work: work.revoke(
            [old.id], reason="revoked", until=NOW + 90
        )

    def _touch(self, old: Record) -> Callable[[Work], object]:
        return lambda work: work.touch(old, seen=NOW + 60, expires=None)

    def _hash(self, old: Record) -> Callable[[], object]:
        return lambda: again(lambda: self.store.hash_id(old))

    def test_one_update_of_a_version_succeeds(self) -> None:
        """Of many that start from the same, exactly one."""
        for _ in range(_ROUNDS):
            old = self.stored()
            won = self._at_once(*(self._set(old, n) for n in range(_THREADS)))
            assert won.count(True) == 1
            assert won.count(False) == _THREADS - 1
            loaded = self.store.load(old.key)
            assert loaded is not None
            assert loaded.data == json.dumps({"n": won.index(True)})
            assert loaded.version == old.version + 1

    def test_nobody_loses_an_increment(self) -> None:
        """Who does not succeed locks the row, reads it again, and does."""
        first = self.stored(data=Secret("0"))

        def increment(work: Work) -> None:
            base = work.load(first.key)
            assert base is not None
            new = changed(base, data=_next(base))
            if work.update(new, old=base):
                return
            newest = work.lock(base)
            assert newest is not None
            work.replace(changed(newest, data=_next(newest)), old=newest)

        def many() -> None:
            for _ in range(_ROUNDS):
                self.do(increment)

        self.in_threads(*[many] * _THREADS)
        loaded = self.store.load(first.key)
        assert loaded is not None
        assert loaded.data == str(_THREADS * _ROUNDS)
        assert loaded.version == 1 + _THREADS * _ROUNDS

    def test_a_lock_keeps_others_out(self) -> None:
        """What is replaced under a lock is not what somebody else wrote."""
        old = self.stored()
        is_locked = threading.Event()
        locked = changed(old, data=Secret('{"locked":1}'))

        def holder() -> bool:
            with transaction_of(self.store) as work:
                newest = work.lock(old)
                is_locked.set()
                assert newest == old
                work.replace(locked, old=old)
            return True

        def other() -> bool:
            is_locked.wait(timeout=30)
            return bool(self.do(self._set(old, 1)))

        assert self.in_threads(holder, other) == [True, False]
        assert self.store.load(old.key) == locked

    def test_reading_waits_for_nobody(self) -> None:
        """While a transaction writes a row, others read what was there."""
        old = self.stored(user=self.name())
        work = again(self.store.begin)
        try:
            assert work.update(changed(old, seen=NOW + 9), old=old)
            assert self.in_threads(
                lambda: self.store.load(old.key),
                lambda: self.store.load(old.key),
            ) == [old, old]
            assert old.user is not None
            assert len(self.store.of_user(old.user)) == 1
        finally:
            work.rollback()

    def test_a_deleted_row_does_not_come_back(self) -> None:
        """Whatever is written while it is deleted."""
        for _ in range(_ROUNDS):
            old = self.stored()
            self._at_once(
                self._delete(old),
                self._set(old, 1),
                self._touch(old),
                self._set(old, 2),
            )
            assert self.store.load(old.key) is None

    def test_a_revoked_row_stays_revoked(self) -> None:
        """An update comes before, or not at all: no data is left."""
        for _ in range(_ROUNDS):
            old = self.stored()
            self._at_once(
                self._set(old, 1), self._revoking(old), self._set(old, 2)
            )
            dead = self.store.load(old.key)
            assert dead is not None
            assert dead.ended == "revoked"
            assert '"n"' not in (dead.data or "")

    def test_of_two_rotations_one_succeeds(self) -> None:
        """Two tokens of one session would be two visitors."""
        for _ in range(_ROUNDS):
            old = self.stored()
            new = [changed(old, key=key_of(make_token())) for _ in range(2)]
            won = self._at_once(*(self._write(old, each) for each in new))
            assert sorted(map(bool, won)) == [False, True]
            found = [self.store.load(each.key) is not None for each in new]
            assert found == won
            assert self.store.load(old.key) is None

    def test_the_latest_activity_stays(self) -> None:
        """In whatever order touches and updates come."""
        record = self.stored()
        touches = [
            lambda seen=NOW + n: again(
                lambda: self.store.touch(record, seen=seen, expires=None)
            )
            for n in (30, 60, 10, 45)
        ]
        assert self.in_threads(*touches) == [True] * 4
        assert self.store.load(record.key) == replace(record, seen=NOW + 60)

    def test_rows_are_locked_in_one_order(self) -> None:
        """Who names the same ones in other orders waits, and is done."""
        rows = [self.stored(user=self.name()) for _ in range(3)]
        ids = [row.id for row in rows]

        def act(named: list[object]) -> Callable[[Work], object]:
            def lock_and_change(work: Work) -> int:
                for row in work.lock_all(named):
                    full = replace(row, data=Secret("{}"))
                    work.replace(changed(full), old=row)
                return 1

            return lock_and_change

        orders = [ids, ids[::-1], [ids[1], ids[2], ids[0]]]
        assert self._at_once(*map(act, orders)) == [1, 1, 1]
        for row in rows:
            loaded = self.store.load(row.key)
            assert loaded is not None
            assert loaded.version == row.version + 3

    def test_a_plain_id_is_hashed_by_one(self) -> None:
        """Of two, one hashes the row; it is there once."""
        for _ in range(_ROUNDS):
            plain = self.stored(key=make_token())
            done = self.in_threads(self._hash(plain), self._hash(plain))
            assert sum(each is not None for each in done) == 1
            assert self.store.load(key_of(plain.key)) is not None

    def test_no_row_is_cleaned_twice(self) -> None:
        """Of two cleaners one may do nothing; each row is counted once."""
        profile = self.name()
        rows = [
            self.stored(profile=profile, seen=NOW - 100, expires=NOW - 1)
            for _ in range(6)
        ]
        cutoffs = too_old(profile, seen=NOW - 100)

        def clean() -> int:
            return self.store.clean(cutoffs=cutoffs, most=4) or 0

        deleted = sum(self.in_threads(clean, clean))
        left = [row for row in rows if self.store.load(row.key) is not None]
        assert deleted == len(rows) - len(left)


def _next(record: Record) -> Secret:
    return Secret(str(int(record.data or "0") + 1))
