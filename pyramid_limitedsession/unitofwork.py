"""One request's session: what was loaded, what it is now, what becomes of it.

`Unit` holds the content; it plans what is to be written, and learns what
came of it. How it takes part in a transaction is in `datamanager`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .draft import Draft
from .loading import Ended, find
from .place import Part, Place
from .saving import Plan, Result
from .serializers import check_size
from .settings import Policy
from .store import Record, changed_keys
from .tokens import Secret

log = logging.getLogger(__name__)


class Unit:
    """The pending change of one session in one request.

    :ivar ended: why the presented session was refused, or None.
    :ivar looked: the content was asked for (so the answer depends on it).
    :ivar new_token: what the browser is to be given, once it is certain.
    :ivar touched: the session's activity was written.
    :ivar failure: why it could not be loaded.

    ``was_found``: an earlier attempt at the same request has found it.
    """

    def __init__(
        self,
        policy: Policy,
        place: Place,
        token: Secret | None,
        now: int,
        *,
        was_found: bool = False,
    ) -> None:
        self.place = place
        self.now = now
        self.ended: Ended | None = None
        self.looked = False
        self.touched = False
        self.new_token: Secret | None = None
        self._forget_token = False
        self._policy = policy
        self._token = token
        # The row of the presented token, also if it is unreadable or over.
        self._row: int | None = None
        self._record: Record | None = None
        self._draft = Draft()
        self._ends: list[int] = []
        self._ended = 0
        # Row gone while we had it: nothing of this request may bring it back.
        self._lost = False
        self._was_found = was_found
        self._closed = False
        self._discarded: set[str] = set()
        self._touch_tried = False
        self.failure: Exception | None = None
        self._part: Part | None = None

    # -- for the session -----------------------------------------------

    def look(self) -> dict[str, Any]:
        """Return the content, loaded at the first look; not to be changed.

        Raises what the store raises: a broken system is no empty session.
        """
        if self._part is None:
            self._part = self.place.join(self)
        if not self.looked:
            self._load()
        return self._draft.content

    def expose(self) -> None:
        """Note that somebody holds a value that can be changed in place."""
        self._draft.opened = self._draft.exposed = True

    def open(self) -> dict[str, Any]:
        """Return the content, which the caller is about to change."""
        content = self.look()
        if self._closed:
            # The stack tells where: such a change is a mistake in the app.
            log.error(
                "a session was changed after its response was finished; "
                "the change is lost",
                stack_info=True,
            )
        else:
            self._draft.opened = True
        return content

    @property
    def is_new(self) -> bool:
        """No row is stored for this session."""
        self.look()
        return self._record is None

    @property
    def created(self) -> int:
        """When the session began, in seconds since the epoch."""
        self.look()
        begun = self._record.created if self._record else None
        return self.now if begun is None else begun

    @property
    def token(self) -> Secret | None:
        """The token of the stored session."""
        return self._token if self._record else None

    @property
    def forget_token(self) -> bool:
        """The browser's token is dead, and that is certain."""
        return self._forget_token and not self._ends

    @property
    def is_joined(self) -> bool:
        """It takes part in a transaction whose outcome is not known yet."""
        return self._part is not None

    @property
    def expires_in(self) -> int | None:
        """Seconds left if it is not used again; None without limits."""
        return self._policy.limits.expires_in(self.created, self.now)

    def clear(self) -> None:
        """Empty the content, also of keys that others add meanwhile."""
        self.open().clear()
        self._draft.cleared = True

    def pop_queue(self, key: str) -> list[Any]:
        """Empty a flash queue and return its messages."""
        if key not in self.look():
            return []
        messages: list[Any] = self.open().pop(key)
        self._draft.popped |= {key}
        return messages

    def end(self) -> None:
        """End the session; what is put in afterwards is a new one."""
        self.look()
        if self._row is not None:
            self._ends.append(self._row)
        self._ended += 1
        self._lost = False
        self._forget_token |= self._token is not None
        self._row = self._record = self._token = self.new_token = None
        self._draft = Draft()
        if self._closed:
            # Nobody comes after us to carry it out.
            self._save_alone()

    def rotate(self) -> None:
        """Give the stored session a new token at the end of the request."""
        self.open()
        self._draft.rotating = True

    # -- loading -------------------------------------------------------

    def _load(self) -> None:
        if self.failure is not None:
            # Each try may wait for a timeout; and it must not come true
            # that one half of a request sees a session, the other none.
            raise self.failure
        try:
            read = (self.place.reader() or self.place.store).load
            found = find(self._policy, read, self._token, self.now)
        except Exception as error:
            self.failure = error
            raise
        self.looked = True
        self.ended = found.ended
        self._row = found.row
        self._record = found.record
        self._draft = Draft(found.content)
        self._forget_token = found.ended in ("idle", "absolute")
        self._lost = self._was_found and found.row is None

    def _reset(self) -> None:
        """Go back to what the row holds; nothing is pending then."""
        if self._draft.opened:
            self._draft = Draft(self._base())

    def _base(self) -> dict[str, Any]:
        if self._record is None:
            return {}
        return self._policy.serializer.loads(self._record.data)

    # -- saving --------------------------------------------------------

    def plan(self) -> Plan | None:
        """Return what is to be written, or None for nothing.

        Raises:
            SessionValueError: the content is not all JSON.
            SessionOverflowError: it is larger than max_data_size.
        """
        text = None if self._lost else self._text()
        if text is None and not self._ends:
            return None
        return Plan(
            ended=self._ended,
            policy=self._policy,
            now=self.now,
            base=self._record,
            text=text,
            ends=tuple(self._ends),
            cleared=self._draft.cleared,
            popped=self._draft.popped,
            rotating=self._draft.rotating,
        )

    def _text(self) -> str | None:
        draft, policy = self._draft, self._policy
        if not draft.opened or (self._record is None and not draft.content):
            return None
        text = policy.serializer.dumps(draft.content)
        is_same = self._record is not None and text == self._record.data
        if is_same and not draft.is_more_than_its_content:
            return None
        check_size(
            text, draft.content, policy.serializer, policy.max_data_size
        )
        return text

    # -- outcome -------------------------------------------------------

    def committed(self, plan: Plan | None, result: Result) -> None:
        """Take what a plan has written as the session's state."""
        self._part = None
        self._discarded.clear()
        if plan is not None:
            self._ends = [row for row in self._ends if row not in plan.ends]
        if result.lost:
            # It may have been stored earlier in this very request.
            self._lost, self.touched, self.new_token = True, False, None
        if plan is not None and result.record is not None:
            if plan.ended == self._ended:
                self._take_written(result.record, result)
            else:
                # Ended since then: that is what was wanted last.
                self._ends.append(result.record.id)
        if plan is None or plan.ended == self._ended:
            self._draft.settle()

    def _take_written(self, record: Record, result: Result) -> None:
        before = self._record
        if before is not None and before.seen != record.seen:
            self.touched = True
        self._record, self._row = record, record.id
        self._token = result.token or self._token
        self.new_token = result.token or self.new_token
        if result.merged is not None:
            self._draft = Draft(result.merged)

    def aborted(self) -> None:
        """Discard every change but the ends, which are carried out later."""
        self._part = None
        if self._draft.opened:
            self._discarded |= self._draft.changes(
                self._base(), is_new=self._record is None
            )
        self._reset()

    def settle(
        self, *, keep: bool, is_last: bool = False, why: str = ""
    ) -> None:
        """Do what is left to do once the transaction's outcome is known.

        Saves what was changed outside any transaction (or discards it,
        ``keep=False``), carries out the ends of an aborted request, and
        writes the activity when that is due. Uses connections of its own.

        Args:
            keep: the request has not failed.
            is_last: look once more at values that somebody still holds.
            why: what may have caused the loss of discarded changes.
        """
        if not self.looked or self._closed:
            return
        if not keep:
            self.aborted()
        self._draft.opened |= is_last and self._draft.exposed
        try:
            self._save_alone()
        except Exception:
            self._closed = True
            raise
        self._tell_discarded(why)
        self._touch()

    def give_up(self) -> None:
        """Abort the transaction if it was left behind unfinished."""
        if self._part is not None:
            self._part.give_up()

    def close(self) -> None:
        """Accept no more changes: the answer is on its way."""
        self._closed = True

    def report_late(self) -> None:
        """Log an error if a value was changed after `close`, in place."""
        draft = self._draft
        if draft.exposed and changed_keys(self._base(), draft.content):
            log.error(
                "a value in a session was changed after its response was "
                "finished; the change is lost"
            )

    def _tell_discarded(self, why: str) -> None:
        if self._discarded:
            log.warning(
                "changes of the session (%s) were discarded, because the "
                "request or its transaction failed%s",
                ", ".join(sorted(self._discarded)),
                why,
            )
            self._discarded.clear()

    def _save_alone(self) -> None:
        plan = self.plan()
        if plan is None:
            return
        work = self.place.store.begin()
        try:
            result = plan.execute(work)
        except BaseException:
            work.rollback()
            raise
        work.commit()
        self.committed(plan, result)

    def _touch(self) -> None:
        record = self._record
        limits = self._policy.limits
        if record is None or record.seen is None or self._lost:
            return
        if self._touch_tried or not limits.touch_due(record.seen, self.now):
            return
        self._touch_tried = True
        expires = limits.coarse_expiry(record.created or 0, self.now)
        try:
            alive = self.place.store.touch(
                record, seen=self.now, expires=expires
            )
        except Exception:
            # The visitor has his page; the next request tries again.
            log.warning("a session's activity was not written", exc_info=True)
            return
        self.touched = alive
        self._record = replace(record, seen=self.now, expires=expires)

    # -- savepoints ----------------------------------------------------

    def snapshot(self) -> Callable[[], None]:
        """Return a function that restores the content as it is now.

        Raises SessionValueError if the content is not all JSON.
        """
        ended, draft = self._ended, self._draft
        serializer = self._policy.serializer
        copy = draft.copier(serializer) if draft.opened else None

        def restore() -> None:
            # An end stays an end: nothing of it may come back.
            self._reset()
            if copy is not None and self._ended == ended:
                self._draft = copy()

        return restore
