"""What the contract of stores is written with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import SessionBusyError
from ..limits import Cutoffs
from ..store import Record, Store, Work, transaction_of
from ..tokens import Secret, key_of, make_token

T = TypeVar("T")
NOW = 1_800_000_000
DATA = Secret('{"a":1}')
# Whoever is told to try again does so; then something is wrong.
_TRIES = 100
_REST = 0.01
# Seconds: a thread that takes longer hangs.
_LONGEST = 60


class StoreKit:
    """A store, and what tests do with it.

    Rows of other tests may be in it: each test has keys, users and profiles
    of its own.
    """

    _made: Store | None = None

    def make_store(self) -> Store:
        """Return the store that is tested; called once for each test."""
        raise NotImplementedError("override make_store()")

    def close_store(self, store: Store) -> None:
        """Put away what `make_store` has made."""

    @property
    def store(self) -> Store:
        """The store of this test."""
        if self._made is None:
            self._made = self.make_store()
        return self._made

    def teardown_method(self) -> None:
        """Put the store away; pytest calls this after each test."""
        if self._made is not None:
            self.close_store(self._made)
            self._made = None

    # -- rows ----------------------------------------------------------

    def new(self, **given: Any) -> Record:
        """Return a record that is not stored yet."""
        values: dict[str, Any] = {
            "id": 0,
            "key": key_of(make_token()),
            "data": DATA,
            "version": 1,
            "created": NOW,
            "seen": NOW,
            "expires": None,
        }
        return Record(**values | given)

    def stored(self, **given: Any) -> Record:
        """Return a record that is committed."""
        record = self.new(**given)
        row = self.do(lambda work: work.insert(record))
        return replace(record, id=row)

    def name(self) -> Secret:
        """Return a name that no other test has."""
        return Secret(make_token()[:16])

    # -- transactions --------------------------------------------------

    def do(self, act: Callable[[Work], T]) -> T:
        """Act in a transaction that is committed."""

        def run() -> T:
            with transaction_of(self.store) as work:
                return act(work)

        return again(run)

    def undo(self, act: Callable[[Work], object]) -> None:
        """Act in a transaction that is rolled back."""
        work = again(self.store.begin)
        try:
            act(work)
        finally:
            work.rollback()

    def in_threads(self, *acts: Callable[[], T]) -> list[T]:
        """Run acts at the same moment; return what they return.

        What one of them raises is raised here.
        """
        barrier = threading.Barrier(len(acts))
        results: dict[int, T] = {}
        errors: list[BaseException] = []

        def run(number: int) -> None:
            try:
                barrier.wait(timeout=_LONGEST)
                results[number] = acts[number]()
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=run, args=(number,), daemon=True)
            for number in range(len(acts))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=_LONGEST)
        if errors:
            raise errors[0]
        assert len(results) == len(acts), "a thread hangs"
        return [results[number] for number in range(len(acts))]


def again(act: Callable[[], T]) -> T:
    """Act until the store is not busy, as those who replay requests do."""
    for _ in range(_TRIES):
        try:
            return act()
        except SessionBusyError:
            time.sleep(_REST)
    return act()


def changed(record: Record, **given: Any) -> Record:
    """Return a record as it is to be written: with the next version."""
    return replace(record, version=record.version + 1, **given)


def too_old(
    profile: str, *, seen: int = 0, created: int = 0, now: int = NOW
) -> Cutoffs:
    """Return cutoffs at which only sessions of one profile may be dead."""
    return Cutoffs(now, (0, 0), {profile: (seen, created)})
