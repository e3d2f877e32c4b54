"""The contract of stores is worth something: it finds what is wrong.

Each of these stores breaks one sentence of the specification, as a store
that somebody writes may do.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pyramid_limitedsession import SessionBusyError
from pyramid_limitedsession.memory import MemoryStore, MemoryWork
from pyramid_limitedsession.testing import SessionContract, StoreContract
from pyramid_limitedsession.testing.storekit import again


class Faulty(MemoryStore):
    """A store whose work, or itself, has one fault."""

    def __init__(self, fault):
        super().__init__()
        self._fault = fault

    def _begin(self, patience):
        work = super()._begin(patience)
        if issubclass(self._fault, MemoryWork):
            work.__class__ = self._fault
        return work


FAULTS = {}


def found_by(name):
    """Decorate a fault with the name of a test that has to find it."""

    def register(fault):
        FAULTS[fault.__name__] = fault, f"test_{name}"
        return fault

    return register


@found_by("nothing_brings_a_deleted_row_back")
class UpdateIsAnUpsert(MemoryWork):
    def update(self, record, *, old):
        self._rows.setdefault(old.id, old)
        return super().update(record, old=old)


@found_by("nothing_brings_a_deleted_row_back")
class TouchIsAnUpsert(MemoryWork):
    def touch(self, record, *, seen, expires):
        self._rows.setdefault(record.id, record)
        return super().touch(record, seen=seen, expires=expires)


@found_by("an_update_of_an_older_version_is_none")
class UpdateForgetsTheVersion(MemoryWork):
    def update(self, record, *, old):
        newest = self.lock(old) or old
        return super().update(record, old=replace(old, version=newest.version))


@found_by("nothing_is_written_under_a_key_that_was_rotated")
class LockForgetsTheKey(MemoryWork):
    def lock(self, record):
        row = self._rows.get(record.id)
        return None if row is None or row.ended else row


@found_by("nothing_is_written_over_a_tombstone")
class LockForgetsTombstones(MemoryWork):
    def lock(self, record):
        row = self._rows.get(record.id)
        return row if row and row.key == record.key else None


@found_by("who_has_read_a_plain_id_goes_on_with_it")
class LockForgetsPlainIds(MemoryWork):
    def lock(self, record):
        row = super().lock(record)
        return row if row and row.key == record.key else None


@found_by("an_update_moves_the_activity_never_back")
class UpdateMovesBack(MemoryWork):
    def update(self, record, *, old):
        is_done = super().update(record, old=old)
        if is_done:
            row = self._rows[old.id]
            self._rows[old.id] = replace(row, seen=record.seen)
        return is_done


@found_by("an_update_puts_a_wrong_activity_right")
class UpdateNeverMovesBack(MemoryWork):
    def update(self, record, *, old):
        seen = max(record.seen, old.seen)
        return super().update(replace(record, seen=seen), old=old)


@found_by("an_update_keeps_the_start")
class UpdateMovesTheStart(MemoryWork):
    def replace(self, record, *, old):
        super().replace(record, old=old)
        row = self._rows[old.id]
        self._rows[old.id] = replace(row, created=record.created)


@found_by("a_touch_moves_the_activity_never_back")
class TouchMovesBack(MemoryWork):
    def touch(self, record, *, seen, expires):
        row = self.lock(record)
        if row is not None:
            self._rows[row.id] = replace(row, seen=seen, expires=expires)
        return row is not None


@found_by("a_touch_moves_the_activity_never_back")
class TouchIsFalseIfNothingMoves(MemoryWork):
    def touch(self, record, *, seen, expires):
        row = self.lock(record)
        is_later = row is not None and seen > row.seen
        return super().touch(record, seen=seen, expires=expires) and is_later


@found_by("a_touch_moves_the_activity_forward")
class TouchChangesTheVersion(MemoryWork):
    def touch(self, record, *, seen, expires):
        is_there = super().touch(record, seen=seen, expires=expires)
        if is_there:
            row = self._rows[record.id]
            self._rows[row.id] = replace(row, version=row.version + 1)
        return is_there


@found_by("a_touch_by_the_limits_of_another_profile")
class TouchForgetsTheProfile(MemoryWork):
    def touch(self, record, *, seen, expires):
        is_there = super().touch(record, seen=seen, expires=expires)
        if is_there:
            row = self._rows[record.id]
            self._rows[row.id] = replace(row, expires=expires)
        return is_there


@found_by("nothing_is_deleted_twice")
class DeleteOfNothingFails(MemoryWork):
    def delete(self, ids):
        for row in ids:
            del self._rows[row]


@found_by("any_iterable_of_ids_will_do")
class IdsAreReadTwice(MemoryWork):
    def delete(self, ids):
        if any(row in self._rows for row in ids):
            super().delete(ids)


@found_by("a_key_is_inserted_once")
class InsertOverwrites(MemoryWork):
    def insert(self, record):
        there = self.load(record.key)
        if there is not None:
            del self._rows[there.id]
        return super().insert(record)


@found_by("a_key_is_taken_literally")
class KeysInAnyCase(MemoryWork):
    def load(self, key):
        return super().load(key.lower())

    class Store(Faulty):
        def load(self, key):
            return super().load(key.lower())


@found_by("a_user_is_taken_literally")
class UsersInAnyCase(MemoryWork):
    class Store(Faulty):
        def of_user(self, user):
            return super().of_user(user.strip()) or super().of_user(
                user.lower()
            )


@found_by("the_rows_of_a_user")
class TombstonesAreListed(MemoryWork):
    class Store(Faulty):
        def of_user(self, user):
            return [row for row in self._rows.values() if row.user == user]


@found_by("rows_are_locked_by_their_ids")
class LockedAsNamed(MemoryWork):
    def lock_all(self, ids):
        locked = {row.id: row for row in super().lock_all(ids)}
        return [locked[row] for row in ids if row in locked]


@found_by("a_tombstone_says_why")
class TombstonesKeepTheirData(MemoryWork):
    def revoke(self, ids, *, reason, until):
        before = dict(self._rows)
        super().revoke(ids, reason=reason, until=until)
        for row in ids:
            dead = self._rows[row]
            self._rows[row] = replace(dead, data=before[row].data)


@found_by("a_tombstone_says_why")
class TombstonesKeepTheirVersion(MemoryWork):
    def revoke(self, ids, *, reason, until):
        before = dict(self._rows)
        super().revoke(ids, reason=reason, until=until)
        for row in ids:
            dead = self._rows[row]
            self._rows[row] = replace(dead, version=before[row].version)


@found_by("a_tombstone_keeps_its_first_reason")
class TombstonesChangeTheirReason(MemoryWork):
    def revoke(self, ids, *, reason, until):
        super().revoke(ids, reason=reason, until=until)
        for row in ids:
            if row in self._rows:
                self._rows[row] = replace(self._rows[row], ended=reason)


@found_by("when_a_tombstone_may_go")
class TombstonesStay(MemoryWork):
    def revoke(self, ids, *, reason, until):
        super().revoke(ids, reason=reason, until=until)
        for row in ids:
            self._rows[row] = replace(self._rows[row], expires=until)


@found_by("a_plain_id_is_hashed_once")
class HashingIsNoCompareAndSwap(MemoryWork):
    def hash_id(self, record):
        return super().hash_id(record) or record


@found_by("a_plain_id_is_hashed")
class HashingChangesTheVersion(MemoryWork):
    def hash_id(self, record):
        done = super().hash_id(record)
        if done is not None:
            row = self._rows[record.id]
            self._rows[row.id] = replace(row, version=row.version + 1)
        return done


@found_by("a_rollback_undoes_everything")
class RollbackCommits(MemoryWork):
    def rollback(self):
        self.commit()


@found_by("a_rollback_never_raises")
class RollbackRaises(MemoryWork):
    def rollback(self):
        if not self._is_open:
            raise RuntimeError("it is over")
        super().rollback()


@found_by("others_see_what_is_committed")
class UncommittedRowsAreSeen(MemoryWork):
    class Store(Faulty):
        def _begin(self, patience):
            work = super()._begin(patience)
            self._rows = work._rows
            return work


@found_by("cleaning_is_bounded_and_the_oldest_go_first")
class CleaningHasNoBounds(MemoryWork):
    class Store(Faulty):
        def clean(self, *, cutoffs, most):
            return super().clean(cutoffs=cutoffs, most=1000)


@found_by("cleaning_is_bounded_and_the_oldest_go_first")
class CleaningHasNoOrder(MemoryWork):
    class Store(Faulty):
        def clean(self, *, cutoffs, most):
            expires = [row.expires for row in self._rows.values()]
            first = replace(cutoffs, now=max(filter(None, expires)))
            dead = [
                row.id for row in self._rows.values() if first.is_dead(row)
            ]
            work = self.begin()
            work.delete(dead[:most])
            work.commit()
            return len(dead[:most])


@found_by("expired_rows_are_deleted")
class CleaningAsksForTheExpiryOnly(MemoryWork):
    class Store(Faulty):
        def clean(self, *, cutoffs, most):
            dead = [
                row.id
                for row in self._rows.values()
                if row.expires and row.expires <= cutoffs.now
            ]
            work = self.begin()
            work.delete(dead)
            work.commit()
            return len(dead)


@found_by("what_is_secret_does_not_show_itself")
class SecretsAreTexts(MemoryWork):
    class Store(Faulty):
        def load(self, key):
            row = super().load(key)
            return row and replace(row, data=str(row.data))


@found_by("much_data_comes_back")
class DataIsCut(MemoryWork):
    def insert(self, record):
        return super().insert(replace(record, data=record.data[:65_000]))


def run(fault, name):
    """Run one test of the contract on a store with a fault."""
    make = getattr(fault, "Store", Faulty)

    class Contract(StoreContract):
        def make_store(self):
            return make(fault)

    getattr(Contract(), name)()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault):
    """By the test that says the sentence."""
    with pytest.raises((AssertionError, KeyError, RuntimeError)):
        run(*FAULTS[fault])


def test_without_a_fault_nothing_is_found():
    """The same tests pass on the store that the faults are made of."""
    for _, name in FAULTS.values():
        run(MemoryWork, name)


# -- through requests ---------------------------------------------------


class EndsNothing(MemoryWork):
    def delete(self, ids):
        """Forget to."""

    def revoke(self, ids, *, reason, until):
        """Forget to."""


class TouchesNothing(MemoryWork):
    def touch(self, record, *, seen, expires):
        return True


class Rounded:
    """A serializer that does not keep numbers as they are."""

    def dumps(self, data):
        """Return the data as text."""
        return json.dumps(data)

    def loads(self, text):
        """Return the data, nearly."""
        return json.loads(text, parse_float=lambda text: int(float(text)))


SESSION_FAULTS = [
    (UpdateForgetsTheVersion, "keys_of_parallel_requests_are_merged"),
    (UpdateIsAnUpsert, "an_ended_session_does_not_come_back"),
    (EndsNothing, "an_ended_session_is_gone"),
    (EndsNothing, "a_revoked_session_says_so"),
    (TouchesNothing, "activity_is_written_now_and_then"),
    (Rounded, "values_come_back"),
]


@pytest.mark.parametrize(("fault", "name"), SESSION_FAULTS)
def test_a_fault_is_found_by_requests(fault, name):
    """By the test that says what an application may expect."""

    class Contract(SessionContract):
        def make_settings(self):
            settings = {"limitedsession.store": lambda settings: Faulty(fault)}
            if fault is Rounded:
                settings["limitedsession.serializer"] = Rounded
            return settings

    with pytest.raises(AssertionError):
        getattr(Contract(), f"test_{name}")()


# -- the tools ----------------------------------------------------------


def test_what_has_to_be_overridden_is_told():
    """A contract without a store, or without settings, says what to do."""
    with pytest.raises(NotImplementedError, match="override make_store"):
        StoreContract().test_nobody_has_no_sessions()
    with pytest.raises(NotImplementedError, match="override make_settings"):
        SessionContract().test_values_come_back()


def test_an_error_in_a_thread_is_raised():
    """No test passes because its threads have died."""

    class Failed(Exception):
        """A thread."""

    def fail():
        raise Failed

    with pytest.raises(Failed):
        StoreContract().in_threads(fail, lambda: None)


def test_a_store_that_stays_busy_is_found():
    """It is tried again and again, and then that is the failure."""
    store = MemoryStore(lock_timeout=0)
    work = store.begin()
    with pytest.raises(SessionBusyError):
        again(store.begin)
    work.rollback()
