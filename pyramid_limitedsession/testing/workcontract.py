"""The contract of stores: one row, one transaction after another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ..limits import CLOCK_SKEW
from ..store import Record, Work
from ..tokens import Secret, hashed, key_of, make_token
from .storekit import NOW, StoreKit, changed

_FAR = NOW + 10 * CLOCK_SKEW


class WorkContract(StoreKit):
    """What becomes of one row; see `StoreContract`."""

    # -- load and insert -----------------------------------------------

    def test_an_absent_key_is_none(self) -> None:
        """Nothing has a key that nobody has stored; asking twice too."""
        key = self.new().key
        assert self.store.load(key) is None
        assert self.store.load(key) is None
        assert self.do(lambda work: work.load(key)) is None

    def test_what_was_inserted_is_loaded(self) -> None:
        """Each value of a record comes back as it was."""
        record = self.stored(
            data=Secret('{"a":[1,"\\u00fc"],"b":{"c":null}}'),
            version=7,
            created=NOW - 100,
            seen=NOW - 50,
            expires=NOW + 1000,
            user=self.name(),
            profile="remember-me",
        )
        assert self.store.load(record.key) == record
        assert self.do(lambda work: work.load(record.key)) == record

    def test_nothing_is_a_value_too(self) -> None:
        """No expiry, user and profile are None when they are loaded."""
        record = self.stored()
        loaded = self.store.load(record.key)
        assert loaded == record

    def test_what_is_secret_does_not_show_itself(self) -> None:
        """Key, data and user of a loaded record are `Secret`."""
        record = self.stored(user=self.name())
        loaded = self.store.load(record.key)
        assert loaded is not None
        secrets = (loaded.key, loaded.data, loaded.user)
        assert [type(each) for each in secrets] == [Secret] * 3

    def test_much_data_comes_back(self) -> None:
        """64 KiB are stored as they are: nothing cuts them."""
        data = Secret('{"a":"' + "x" * 65_000 + '"}')
        loaded = self.store.load(self.stored(data=data).key)
        assert loaded is not None
        assert loaded.data == data

    def test_each_row_has_an_id_of_its_own(self) -> None:
        """Two rows of one transaction, and of two, differ by their ids."""
        records = [self.new() for _ in range(2)]
        ids = self.do(lambda work: [work.insert(each) for each in records])
        assert len({*ids, self.stored().id}) == 3

    def test_a_key_is_taken_literally(self) -> None:
        """Capital letters and blanks at the end make another key."""
        key = self.stored().key
        assert self.store.load(key.upper()) is None
        assert self.store.load(key + " ") is None
        assert self.store.load("%") is None

    def test_a_key_is_inserted_once(self) -> None:
        """A second row of one key is an error; the first one stays."""
        record = self.stored()
        again = replace(record, data=Secret('{"b":2}'))
        is_inserted = False
        with suppress(Exception):
            self.do(lambda work: work.insert(again))
            is_inserted = True
        assert not is_inserted
        assert self.store.load(record.key) == record

    # -- commit and rollback -------------------------------------------

    def test_others_see_what_is_committed(self) -> None:
        """A row is seen in its transaction at once, by others behind it."""
        record = self.new()
        work = self.store.begin()
        try:
            work.insert(record)
            assert work.load(record.key) is not None
            assert self.store.load(record.key) is None
        finally:
            work.commit()
        assert self.store.load(record.key) is not None

    def test_a_rollback_undoes_everything(self) -> None:
        """What was written in a transaction is as it was before."""
        rows = [self.stored(user=self.name()) for _ in range(6)]
        new = self.new()
        plain = self.stored(key=make_token())
        first = changed(rows[0], data=Secret('{"b":2}'))

        def act(work: Work) -> None:
            work.insert(new)
            assert work.update(first, old=rows[0])
            assert work.lock(rows[1]) is not None
            work.replace(changed(rows[1]), old=rows[1])
            work.delete([rows[2].id])
            assert work.touch(rows[3], seen=NOW + 60, expires=NOW + 90)
            work.revoke([rows[4].id], reason="revoked", until=NOW)
            assert work.hash_id(plain) is not None

        self.undo(act)
        assert self.store.load(new.key) is None
        for record in (*rows, plain):
            assert self.store.load(record.key) == record

    def test_a_rollback_never_raises(self) -> None:
        """It may come twice, behind a commit, and behind an error."""
        work = self.store.begin()
        work.rollback()
        work.rollback()
        work = self.store.begin()
        record = self.new()
        work.insert(record)
        work.commit()
        work.rollback()
        assert self.store.load(record.key) is not None
        work = self.store.begin()
        with suppress(Exception):
            work.insert(record)
        work.rollback()

    def test_a_transaction_is_over_behind_its_end(self) -> None:
        """The next one can write the same row: nothing is left locked."""
        record = self.stored()
        self.undo(lambda work: work.lock(record))
        assert self.do(lambda work: work.lock(record)) == record
        assert self.do(lambda work: work.update(changed(record), old=record))

    # -- update --------------------------------------------------------

    def test_an_update_writes_the_record(self) -> None:
        """Key, data, version, activity, expiry, user and profile."""
        old = self.stored()
        new = changed(
            old,
            key=key_of(make_token()),
            data=Secret('{"b":2}'),
            seen=NOW + 60,
            expires=NOW + 1000,
            user=self.name(),
            profile="short",
        )
        assert self.do(lambda work: work.update(new, old=old))
        assert self.store.load(new.key) == new
        assert self.store.load(old.key) is None

    def test_an_update_keeps_the_start(self) -> None:
        """When the session began never moves."""
        old = self.stored()
        new = changed(old, created=NOW + 5)
        assert self.do(lambda work: work.update(new, old=old))
        loaded = self.store.load(old.key)
        assert loaded == replace(new, created=NOW)

    def test_an_update_of_an_older_version_is_none(self) -> None:
        """Somebody else was first: False, and nothing is changed."""
        old = self.stored()
        first = changed(old, data=Secret('{"b":2}'))
        assert self.do(lambda work: work.update(first, old=old))
        second = changed(old, data=Secret('{"c":3}'))
        assert not self.do(lambda work: work.update(second, old=old))
        assert self.store.load(old.key) == first

    def test_nothing_brings_a_deleted_row_back(self) -> None:
        """Neither an update nor a touch is an upsert; nor is it locked."""
        record = self.stored()
        self.do(lambda work: work.delete([record.id]))
        self._assert_refused(record)
        assert self.store.load(record.key) is None

    def test_nothing_is_written_under_a_key_that_was_rotated(self) -> None:
        """Who knows only the old key writes nothing, and locks nothing."""
        old = self.stored()
        new = changed(old, key=key_of(make_token()))
        assert self.do(lambda work: work.update(new, old=old))
        # The version alone does not betray it.
        self._assert_refused(replace(old, version=new.version))
        assert self.store.load(new.key) == new
        assert self.store.load(old.key) is None

    def test_nothing_is_written_over_a_tombstone(self) -> None:
        """A revoked session is not changed, touched or locked."""
        record = self.stored()
        self.do(
            lambda work: work.revoke(
                [record.id], reason="revoked", until=NOW + 5
            )
        )
        dead = self.store.load(record.key)
        assert dead is not None
        self._assert_refused(record)
        self._assert_refused(replace(record, version=dead.version))
        assert self.store.load(record.key) == dead

    def _assert_refused(self, record: Record) -> None:
        new = changed(record, data=Secret('{"b":2}'))
        assert not self.do(lambda work: work.update(new, old=record))
        assert self.do(lambda work: work.lock(record)) is None
        later = NOW + 60
        assert not self.do(
            lambda work: work.touch(record, seen=later, expires=None)
        )
        assert not self.store.touch(record, seen=later, expires=None)

    def test_a_locked_row_is_replaced(self) -> None:
        """What `lock` returns is the newest state, and what is replaced."""
        old = self.stored()
        first = changed(old, data=Secret('{"b":2}'))
        assert self.do(lambda work: work.update(first, old=old))

        def act(work: Work) -> Record:
            newest = work.lock(old)
            assert newest == first
            new = changed(first, data=Secret('{"c":3}'), seen=NOW + 9)
            work.replace(new, old=first)
            return new

        new = self.do(act)
        assert self.store.load(old.key) == new

    def test_an_update_moves_the_activity_never_back(self) -> None:
        """What a later request has written stays, the rest is written."""
        old = self.stored()
        assert self.store.touch(old, seen=NOW + 60, expires=None)
        new = changed(old, seen=NOW + 5)
        assert self.do(lambda work: work.update(new, old=old))
        assert self.store.load(old.key) == replace(new, seen=NOW + 60)

    def test_an_update_puts_a_wrong_activity_right(self) -> None:
        """One that is further ahead than clocks differ moves back."""
        old = self.stored(seen=_FAR)
        new = changed(old, seen=NOW)
        assert self.do(lambda work: work.update(new, old=old))
        assert self.store.load(old.key) == new

    # -- delete --------------------------------------------------------

    def test_rows_are_deleted(self) -> None:
        """Those that are named, and no other; under whatever key."""
        old, other = self.stored(), self.stored()
        new = changed(old, key=key_of(make_token()))
        assert self.do(lambda work: work.update(new, old=old))
        self.do(lambda work: work.delete([old.id]))
        assert self.store.load(new.key) is None
        assert self.store.load(other.key) == other

    def test_nothing_is_deleted_twice(self) -> None:
        """Absent rows are ignored, and so is a list without any."""
        gone, other = self.stored(), self.stored()
        self.do(lambda work: work.delete([gone.id]))
        self.do(lambda work: work.delete([gone.id, other.id, gone.id]))
        self.do(lambda work: work.delete([]))
        assert self.store.load(other.key) is None

    def test_any_iterable_of_ids_will_do(self) -> None:
        """An iterator can be read once only."""
        rows = [self.stored() for _ in range(3)]
        self.do(lambda work: work.delete(row.id for row in rows))
        assert [self.store.load(row.key) for row in rows] == [None] * 3

    # -- touch ---------------------------------------------------------

    def test_a_touch_moves_the_activity_forward(self) -> None:
        """With the expiry; version and data stay."""
        record = self.stored()
        assert self.store.touch(record, seen=NOW + 60, expires=NOW + 90)
        touched = replace(record, seen=NOW + 60, expires=NOW + 90)
        assert self.store.load(record.key) == touched
        assert self.do(
            lambda work: work.touch(touched, seen=NOW + 70, expires=NOW + 99)
        )
        touched = replace(record, seen=NOW + 70, expires=NOW + 99)
        assert self.store.load(record.key) == touched

    def test_a_touch_moves_the_activity_never_back(self) -> None:
        """It is True all the same: the session is there."""
        record = self.stored(expires=NOW + 90)
        for seen in (NOW, NOW - 1, NOW - CLOCK_SKEW):
            assert self.store.touch(record, seen=seen, expires=NOW)
        assert self.store.load(record.key) == record

    def test_a_touch_puts_a_wrong_activity_right(self) -> None:
        """Back it moves only from what the toucher has seen."""
        record = self.stored(seen=_FAR)
        unaware = replace(record, seen=NOW)
        assert self.store.touch(unaware, seen=NOW, expires=None)
        assert self.store.load(record.key) == record
        assert self.store.touch(record, seen=NOW, expires=None)
        assert self.store.load(record.key) == replace(record, seen=NOW)

    def test_clocks_of_two_hosts_may_differ(self) -> None:
        """An activity that is a little ahead is left alone."""
        record = self.stored(seen=NOW + CLOCK_SKEW)
        assert self.store.touch(record, seen=NOW, expires=None)
        assert self.store.load(record.key) == record

    def test_a_touch_by_the_limits_of_another_profile(self) -> None:
        """The expiry is left as the row's own profile has it."""
        record = self.stored(profile="long", expires=NOW + 1000)
        other = replace(record, profile=None)
        assert self.store.touch(other, seen=NOW + 60, expires=NOW + 90)
        expected = replace(record, seen=NOW + 60)
        assert self.store.load(record.key) == expected

    # -- plain ids -----------------------------------------------------

    def test_a_plain_id_is_hashed(self) -> None:
        """Version and times stay; the row is found under its hash only."""
        plain = self.stored(key=make_token())
        done = self.store.hash_id(plain)
        assert done is not None
        assert done.key == key_of(plain.key)
        assert self.store.load(done.key) == replace(plain, key=done.key)
        assert self.store.load(plain.key) is None

    def test_a_plain_id_is_hashed_once(self) -> None:
        """The second one finds nothing; nor is an absent row made."""
        plain, gone = self.stored(key=make_token()), self.new(key=make_token())
        assert self.store.hash_id(plain) is not None
        assert self.store.hash_id(plain) is None
        assert self.do(lambda work: work.hash_id(plain)) is None
        assert self.store.hash_id(gone) is None
        assert self.store.load(key_of(gone.key)) is None

    def test_who_has_read_a_plain_id_goes_on_with_it(self) -> None:
        """The row is found under both, and what is written is hashed."""
        plain = self.stored(key=make_token())
        kept = self.do(lambda work: work.hash_id(plain))
        assert kept == plain
        assert self.store.touch(plain, seen=NOW + 60, expires=None)
        assert self.do(lambda work: work.lock(plain)) is not None
        assert self.do(lambda work: work.update(changed(plain), old=plain))
        other = self.stored(key=make_token())
        assert self.do(lambda work: work.update(changed(other), old=other))
        for record in (plain, other):
            assert self.store.load(record.key) is None
            assert self.store.load(hashed(record.key)) is not None
