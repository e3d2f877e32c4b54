"""Self-cleaning: when a request deletes a batch of expired rows.

Every request that uses its session counts, and every so many of them owe
one batch. Counted, not drawn by lot, and a batch that could not be deleted
stays owed: so for every row that a request may have made, one that is due is
deleted, and at no time do more dead rows wait than there were live ones
before. docs/operations.rst says why.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import weakref
from collections.abc import Callable

from .factory import SessionFactory
from .store import Store

log = logging.getLogger(__name__)


class Cleaner:
    """Counts the requests of one process, and cleans when it is time."""

    def __init__(self, factory: SessionFactory) -> None:
        self._factory = factory
        self._requests: int | None = None
        self._skipped_at: int | None = None
        self._begin()
        # A thread of the parent may have been at it. Weak, because a fork
        # hook stays for the life of the process.
        ref = weakref.WeakMethod(self._begin)
        os.register_at_fork(after_in_child=lambda: _call(ref))

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._is_cleaning = False

    def count(self, store: Store) -> None:
        """Count a request; clean if a batch is owed. Never raises."""
        settings = self._factory.settings
        if not settings.self_clean:
            return
        now = int(self._factory.clock())
        if not self._is_due(settings.self_clean, now):
            return
        deleted = None
        try:
            deleted = store.clean(
                cutoffs=settings.policy.profiles.cutoffs(now),
                most=settings.self_clean_batch,
            )
        except Exception:
            # The visitor has nothing to do with it.
            log.warning("expired sessions were not deleted", exc_info=True)
        finally:
            # Also when it is interrupted. None: it stays owed.
            self._take(deleted, now)

    def _is_due(self, every: int, now: int) -> bool:
        """Count; say whether this request is the one that cleans."""
        with self._lock:
            if self._requests is None:
                # Drawn in the process that serves, which may be a child that
                # is to serve fewer requests than would make a batch.
                self._requests = random.randrange(every)  # noqa: S311
            self._requests += 1
            if self._requests < every or self._is_cleaning:
                return False
            self._is_cleaning = now != self._skipped_at
            return self._is_cleaning

    def _take(self, deleted: int | None, now: int) -> None:
        """Take what came of it: what is still owed, and from when on."""
        settings = self._factory.settings
        with self._lock:
            self._is_cleaning = False
            if deleted is None:
                # Somebody else is at it, or it failed: not at once again.
                self._skipped_at = now
                return
            left = (self._requests or 0) - settings.self_clean
            if deleted < settings.self_clean_batch:
                # No more is due, and nothing owed.
                left %= settings.self_clean
            self._requests = left


def _call(ref: weakref.WeakMethod[Callable[[], None]]) -> None:
    method = ref()
    if method is not None:
        method()
