"""A session's part in a transaction of the ``transaction`` package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import after_commit
from .saving import Plan, Result
from .store import Work
from .unitofwork import Unit


class DataManager:
    """A unit's part in one transaction.

    The statement runs in ``commit``, before any resource votes. In joined
    mode the application's own database transaction carries it. Otherwise
    its COMMIT comes in ``tpc_finish``, after every other resource: if the
    session cannot be saved, the application's work is not committed either.
    """

    def __init__(self, unit: Unit, transaction: Any) -> None:
        self._unit = unit
        self._store = unit.place.store
        self._enlist = unit.place.enlist
        self._transaction = transaction
        self._plan: Plan | None = None
        self._failure: Exception | None = None
        self._work: Work | None = None
        self._result = Result()
        self._done = False
        self._last = False
        transaction.join(self)
        transaction.addBeforeCommitHook(self.before_commit)

    def before_commit(self) -> None:
        """Plan, and enlist the dbsession while it may still be enlisted.

        While it may still be used, too: by ``column_values``.

        Raises nothing: an error in a hook would leave the application's
        database transaction open. ``commit`` raises it.
        """
        if self._done:
            return
        if not self._last:
            # Behind the hooks of the application: they may change it too.
            self._last = True
            self._transaction.addBeforeCommitHook(self.before_commit)
            return
        try:
            self._plan = self._unit.plan()
            if self._plan is None:
                return
            self._plan.ask_others()
            if self._enlist is not None:
                self._work = self._enlist()
        except Exception as error:
            self._failure = error

    def tpc_begin(self, transaction: Any) -> None:
        """Do nothing: the dbsession flushes the app's data here."""

    def commit(self, transaction: Any) -> None:
        """Execute the statement; it waits for everybody's vote.

        The content is looked at again: the dbsession has been flushed since
        `before_commit`, and an application can listen to that.
        """
        if self._failure is not None:
            raise self._failure
        self._plan = self._unit.plan()
        if self._plan is None:
            return
        if self._work is None:
            if self._store.commits_last:
                self._plan.check_conflict(self._store)
                return
            self._work = self._store.begin()
        self._result = self._plan.execute(self._work)

    def tpc_vote(self, transaction: Any) -> None:
        """Do nothing: the statement has been executed."""

    def tpc_finish(self, transaction: Any) -> None:
        """Commit, when all others have."""
        with after_commit():
            if self._plan is not None:
                if self._work is None:
                    self._work = self._store.begin()
                    self._result = self._plan.execute(self._work)
                self._work.commit()
        self._done = True
        self._unit.place.others.forget()
        self._unit.committed(self._plan, self._result)

    def tpc_abort(self, transaction: Any) -> None:
        """Undo the statement."""
        self.abort(transaction)

    def abort(self, transaction: Any) -> None:
        """Discard the change.

        Called when the transaction aborts, when a savepoint older than our
        joining is rolled back, and, by ``transaction`` itself, once more
        after a commit or in a later request of the same thread.
        """
        if self._done:
            return
        self._done = True
        if self._work is not None:
            self._work.rollback()
        self._unit.place.others.forget()
        self._unit.aborted()

    def give_up(self) -> None:
        """Abort the transaction, which was left behind unfinished.

        pyramid_tm does that when a before-commit hook of the application
        raises: its locks would be held until somebody collects them.
        """
        self._transaction.abort()

    def sortKey(self) -> str:
        """Sort behind everybody else, also behind zope.sqlalchemy."""
        return f"~~pyramid_limitedsession:{id(self)}"

    def savepoint(self) -> Savepoint:
        """Remember the content; without this the app's savepoints fail."""
        return Savepoint(self._unit.snapshot())


class Savepoint:
    """The content of a session at one moment of a transaction."""

    def __init__(self, restore: Callable[[], None]) -> None:
        self._restore = restore

    def rollback(self) -> None:
        """Bring the content back."""
        self._restore()
