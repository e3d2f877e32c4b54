"""What the unit of work needs of a store, and how two changes become one.

The docstrings of `Store` and `Work` are their specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from .limits import RESERVED, Cutoffs
from .sameness import json_same
from .tokens import Secret

# Of rows: whole numbers, or what else a table's primary key holds.
RowId: TypeAlias = Any
# Says whether two values of one key are the same, see `Serializer.is_same`.
Same: TypeAlias = Callable[[object, object], bool]
FLASH_PREFIX = "_f_"
CSRF_KEY = "_csrft_"


@dataclass(frozen=True)
class Record:
    """A row as read or as it is to be written. Times are seconds, UTC.

    A time is None only in a damaged row, whose session is unreadable.

    :ivar id: the row's identity; it survives rotation. 0: not stored yet.
    :ivar key: hash of the token, see `tokens.key_of`; the token itself in a
        row that is not hashed yet, see ``legacy_ids``.
    :ivar data: the serialized content; None if it is larger than
        ``max_data_size``, and was not fetched.
    :ivar version: grows with every change of the data (compare-and-swap).
    :ivar created: when the session began.
    :ivar seen: the last activity that was written.
    :ivar expires: when trimming may look at the row, None for never.
    :ivar user: whose session it is, None if that is not known.
    :ivar profile: the name of its limits, None for the default ones.
    :ivar ended: why it is over; such a row has no data any more.
    :ivar others: values for further columns, to be written; never read.
    """

    id: RowId = field(repr=False)
    key: Secret = field(repr=False)
    data: Secret | None = field(repr=False)
    version: int
    created: int | None
    seen: int | None
    expires: int | None
    user: Secret | None = field(default=None, repr=False)
    profile: str | None = None
    ended: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Work(Protocol):
    """Statements inside one open database transaction; one thread's.

    What was done is seen in it at once, by others once `commit` has
    returned, and by nobody after `rollback`. Behind either it is not used.

    Nothing here is an upsert: what is gone stays gone. A row is still *the
    record's* while it has its id and its key and is no tombstone (``ended``
    is None); of a record with a plain key, see `hash_id`, also while it has
    the hash of that.

    Any method may raise `SessionBusyError` (a lock, a deadlock: try again)
    and `SessionConnectionError`, with which requests are replayed; whatever
    else it raises means that the database is broken. No text of an error
    holds a key or data. Only `rollback` is called after one. An absent row
    is never an error.
    """

    def load(self, key: str) -> Record | None:
        """Return the row of exactly this key, or None if there is none.

        A tombstone, too. Of blanks and capital letters each counts.
        """

    def hash_id(self, record: Record) -> Record | None:
        """Hash the id of a row that has a plain one, by compare-and-swap.

        Version and times stay. Return the record, which keeps its plain
        key, because this transaction may abort: whatever is done with a
        record that has a plain key finds the row under either, and what is
        written is hashed. None if the row is gone or has another key, also
        its hash: somebody else was first. See `tokens.hashed`.
        """

    def lock(self, record: Record) -> Record | None:
        """Return the newest committed state of a row, locked until the end.

        Newer than what this transaction has read: with a snapshot, this is
        no plain read. Whoever writes the row meanwhile waits, or is busy.
        None if it is not the record's any more: the session was ended or
        rotated meanwhile.
        """

    def insert(self, record: Record) -> RowId:
        """Insert a new row and return its id.

        A row that has the key already stays as it is: that is an error.
        """

    def update(self, record: Record, *, old: Record) -> bool:
        """Write the record over the row, if that is as the old one was.

        Compare-and-swap: return False, and change nothing, when no row is
        the old record's and has its version. Of two that come at the same
        time one waits, then returns False. ``record.key`` becomes the row's
        key; its id, start and ``ended`` stay. The last activity moves back
        only from what it was in the old one, if that is further ahead of
        the record's than the clocks of two hosts differ (`CLOCK_SKEW`).
        """

    def replace(self, record: Record, *, old: Record) -> None:
        """Write the record over the old one, whose row is locked.

        As `update` does, without its conditions.
        """

    def delete(self, ids: Iterable[RowId]) -> None:
        """Delete these rows, under whatever key; absent ones are ignored.

        Who updates or locks one at the same time gets False, or None.
        """

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """Move the last activity forward, never back; the version stays.

        Return False if no row is the record's any more; True also if
        nothing moved. Back it moves only from what it is in the record, if
        that is further ahead than the clocks of two hosts differ.
        ``expires`` is written with it, unless the row has another profile
        by now than the record: it is by that one's limits.
        """

    def of_user(self, user: str) -> list[Record]:
        """Return the rows of exactly this user that are not revoked.

        By their ids, which can be sorted; without their data.
        """

    def lock_all(self, ids: Iterable[RowId]) -> list[Record]:
        """Return those of these rows that are not revoked, all locked.

        Newest state, as `lock`; without their data; locked in the order of
        their ids, so that two who do that do not wait for each other.
        """

    def revoke(self, ids: Iterable[RowId], *, reason: str, until: int) -> None:
        """Make tombstones of these rows: no data, and why they are over.

        The version changes: no update of who has loaded it before succeeds.
        Trimming may take them from ``until`` on, or earlier if the session
        would have expired earlier (``expires``). Absent and revoked ones
        are ignored: the first reason stays.
        """

    def commit(self) -> None:
        """Make it durable, unless the transaction is somebody else's."""

    def rollback(self) -> None:
        """Undo it, unless the transaction is somebody else's.

        Never raises: it is called while another error is on its way. After
        a `commit` that has failed it is called, too.
        """


class Store(Protocol):
    """Where sessions are kept; called by many threads at once.

    Each call is a transaction of its own, outside the application's, and
    leaves none open. It raises what those of `Work` raise.

    :ivar commits_last: True if `begin` must wait until the application's
        own resources have committed (SQLite: one writer at a time). Then
        the session is written behind them; otherwise before they vote.
    """

    commits_last: bool

    def load(self, key: str) -> Record | None:
        """Return the committed row of this key, or None; one statement.

        It waits for nobody who writes; see `Work.load`.
        """

    def hash_id(self, record: Record) -> Record | None:
        """Do as `Work.hash_id` does, durably; return it with its new key.

        It does not wait where the request itself may be in the way: then it
        raises `SessionBusyError` at once.
        """

    def begin(self) -> Work:
        """Open a transaction of its own.

        It waits at most a given time for others, and is busy then.
        """

    def touch(self, record: Record, *, seen: int, expires: int | None) -> bool:
        """Do as `Work.touch` does, durably."""

    def of_user(self, user: str) -> list[Record]:
        """Return the committed rows of a user, see `Work.of_user`."""

    def clean(self, *, cutoffs: Cutoffs, most: int) -> int | None:
        """Delete at most so many expired rows; return how many.

        Those whose ``expires`` is over and that `Cutoffs.is_dead` says are
        dead; the rows that may be looked at for the longest time go first.
        Rows that were touched meanwhile survive. None: nothing was done,
        without waiting, because somebody else cleans, or has locked what
        would go.
        """


@contextmanager
def transaction_of(store: Store) -> Iterator[Work]:
    """Yield a work that is committed at the end, rolled back on errors."""
    work = store.begin()
    try:
        yield work
    except BaseException:
        work.rollback()
        raise
    work.commit()


def is_changed(newest: Record, base: Record) -> bool:
    """Say whether the data of a row was changed since it was read."""
    # A table without versions has only the data to tell it by.
    return newest.version != base.version or newest.data != base.data


def merge(
    base: dict[str, Any],
    mine: dict[str, Any],
    theirs: dict[str, Any],
    *,
    cleared: bool,
    popped: frozenset[str] = frozenset(),
    is_same: Same = json_same,
) -> tuple[dict[str, Any], list[str]]:
    """Merge two changes of one session, top-level key by key.

    Unchanged by me: theirs. Changed by me: mine. Deleted by me: deleted.
    After ``clear()``: mine only. A flash queue is theirs plus what I
    pushed, minus what I popped. A CSRF token that both made is theirs. Of
    two times that the expiry tween keeps, the later one.

    Args:
        base: what both started from.
        mine, theirs: my content now; what is stored now.
        cleared: I called ``clear()``; what others added goes too.
        popped: flash queues that I emptied before I pushed what is there.
        is_same: tells whether a value was changed.

    Returns:
        The merged content, and the keys that both changed (equal values
        count: two increments from 1 to 2 are a conflict).
    """
    if cleared:
        gone = changed_keys(base, theirs, is_same)
        return mine, sorted(gone - _merged_by_kind(gone))
    i_changed = changed_keys(base, mine, is_same) | popped
    both = i_changed & changed_keys(base, theirs, is_same)
    merged = dict(theirs)
    for key in [key for key in mine | base if key in i_changed]:
        if key == CSRF_KEY and key in both and key in theirs:
            continue
        if _is_time(key, mine, theirs):
            merged[key] = max(mine[key], theirs[key])
        elif key.startswith(FLASH_PREFIX):
            queues = [c.get(key, []) for c in (base, mine, theirs)]
            _put(merged, key, _merge_queue(queues, key in popped, is_same))
        elif key in mine:
            merged[key] = mine[key]
        else:
            merged.pop(key, None)
    return merged, sorted(both - _merged_by_kind(both))


def changed_keys(
    base: dict[str, Any], now: dict[str, Any], is_same: Same = json_same
) -> set[str]:
    """Return the top-level keys that were added, changed or deleted."""
    return {
        key
        for key in base.keys() | now.keys()
        if key not in base
        or key not in now
        or not is_same(base[key], now[key])
    }


def _merged_by_kind(keys: Iterable[str]) -> set[str]:
    return {
        key
        for key in keys
        if key == CSRF_KEY or key.startswith((FLASH_PREFIX, RESERVED))
    }


def _is_time(key: str, *contents: dict[str, Any]) -> bool:
    return key.startswith(RESERVED) and all(
        type(content.get(key)) is int for content in contents
    )


def _merge_queue(queues: list[object], popped: bool, is_same: Same) -> object:
    base, mine, theirs = queues
    # An application may have put something else under a queue's name.
    if not (
        isinstance(base, list)
        and isinstance(mine, list)
        and isinstance(theirs, list)
    ):
        return mine
    if not popped and is_same(mine[: len(base)], base):
        return theirs + mine[len(base) :]
    # I popped what I had loaded; what came in meanwhile stays.
    if is_same(theirs[: len(base)], base):
        theirs = theirs[len(base) :]
    return theirs + mine


def _put(content: dict[str, Any], key: str, queue: object) -> None:
    if isinstance(queue, list) and not queue:
        content.pop(key, None)
    else:
        content[key] = queue
