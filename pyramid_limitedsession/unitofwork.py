"""One request's session: what was loaded, what it is now, what becomes of it.

`Unit` holds the content; it plans what is to be written, and learns what
came of it. How it takes part in a transaction is in `datamanager`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from . import alone
from .draft import Draft
from .ending import Ends, Revocation
from .events import Ended
from .limits import TimeLeft
from .loading import Found, find
from .place import Part, Place
from .saving import Plan, Result
from .settings import Policy
from .store import changed_keys
from .stored import Stored
from .tokens import Secret

log = logging.getLogger(__name__)


class Unit:
    """The pending change of one session in one request.

    :ivar policy: what the settings say.
    :ivar stored: what is stored of it, and what its browser needs.
    :ivar looked: the content was asked for (so the answer depends on it).
    :ivar failure: why it could not be loaded.

    ``was_found``: an earlier attempt at the same request has found it.
    ``is_passive``: asks, when it is needed, if the request is no activity.
    ``tell``: is called with the reason why the session is not accepted.
    ``adopt``: is asked, with the time, for an old session if there is none.
    """

    def __init__(
        self,
        policy: Policy,
        place: Place,
        token: Secret | None,
        clock: Callable[[], int],
        *,
        was_found: bool = False,
        is_passive: Callable[[], bool] = lambda: False,
        tell: Callable[[Ended], None] = lambda reason: None,
        adopt: Callable[[int], Found] | None = None,
    ) -> None:
        self.place = place
        self.stored = Stored(policy, token, clock())
        self.looked = False
        self.policy = policy
        self._draft = Draft()
        self._ends = Ends()
        self._ended = 0
        self._clock = clock
        self._was_found = was_found
        self._is_passive = is_passive
        self._tell = tell
        self._adopt = adopt
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

    def known(self) -> Stored:
        """Return what is stored, loaded at the first look."""
        self.look()
        return self.stored

    @property
    def forget_token(self) -> bool:
        """The browser's token is dead, and that is certain."""
        is_dead = self.stored.is_token_dead(is_passive=self._is_passive())
        return is_dead and not self._ends

    @property
    def is_joined(self) -> bool:
        """It takes part in a transaction whose outcome is not known yet."""
        return self._part is not None

    @property
    def profile_name(self) -> str | None:
        """The name of the limits that hold, None for the default ones."""
        self.look()
        return self._draft.profile

    @property
    def time_left(self) -> TimeLeft:
        """Seconds left if it is not used again."""
        profile = self.policy.profiles.of(self.profile_name)
        is_activity = not self._is_passive()
        return self.stored.time_left(profile, is_activity=is_activity)

    def use_profile(self, name: str | None) -> None:
        """Let the limits of this profile hold; None: the default ones."""
        self.policy.profiles.require(name)
        self.open()
        self._draft.profile = name
        self._draft.reprofiled = name != self.stored.profile

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
        if self.stored.row is not None:
            self._ends.rows += (self.stored.row,)
        self._ended += 1
        self.stored.end()
        self._draft = Draft()
        if self._closed:
            # Nobody comes after us to carry it out.
            self._save_alone()
        self.stored.end_old()

    def rotate(self) -> None:
        """Give the stored session a new token at the end of the request."""
        self.open()
        self._draft.rotating = True

    def revoke(self, revocation: Revocation) -> None:
        """End sessions of a user, at the end of the request."""
        self.look()
        self._ends.revocations += (revocation,)
        if self._closed:
            self._save_alone()

    # -- loading -------------------------------------------------------

    def _load(self) -> None:
        if self.failure is not None:
            # Each try may wait for a timeout; and it must not come true
            # that one half of a request sees a session, the other none.
            raise self.failure
        self.stored.now = now = self._clock()
        try:
            reader, token = self.place.to_read(), self.stored.token
            found = find(
                self.policy, reader.load, token, now, hash_id=reader.hash_id
            )
            if self._adopt and found.row is None and not self._was_found:
                found = self._adopt(now)
        except Exception as error:
            self.failure = error
            raise
        self.looked = True
        self.stored.take_found(found, was_found=self._was_found)
        self._draft = self.stored.first_draft(found)
        if found.ended is not None:
            self._tell(found.ended)

    def _reset(self) -> None:
        """Go back to what the row holds; nothing is pending then."""
        if self._draft.opened:
            self._draft = self.stored.draft()

    # -- saving --------------------------------------------------------

    def plan(self) -> Plan | None:
        """Return what is to be written, or None for nothing.

        Raises:
            SessionValueError: the content is not all JSON.
            SessionOverflowError: it is larger than max_data_size.
        """
        is_late = self.stored.is_lost or self._closed
        text = None if is_late else self.stored.to_write(self._draft)
        if text is None and not self._ends:
            return None
        draft, policy = self._draft, self.policy
        user, rotating = None, draft.rotating
        if text is not None:
            user = policy.user_of(draft.content)
            # OWASP ASVS 7.2.4: another user, another token.
            rotating |= self.stored.changes_user(user, draft.content)
        return Plan(
            ended=self._ended,
            policy=policy,
            now=self.stored.now,
            base=self.stored.base(),
            text=text,
            user=user,
            ends=self._ends.rows,
            revocations=self._ends.revocations,
            cleared=draft.cleared,
            popped=draft.popped,
            rotating=rotating,
            profile=(draft.profile, draft.reprofiled),
            passive=self._is_passive(),
            created=self.stored.created,
            others=self.place.others,
        )

    # -- outcome -------------------------------------------------------

    def committed(
        self, plan: Plan | None, result: Result, *, is_alone: bool = False
    ) -> None:
        """Take what a plan has written as the session's state.

        ``is_alone``: not in the request's own transaction.
        """
        self._part = None
        self._discarded.clear()
        if plan is not None:
            is_unsure = self.place.enlist is not None and not is_alone
            self._ends.carried_out(
                plan.ends, plan.revocations, is_unsure=is_unsure
            )
        if result.lost:
            self.stored.lose()
        if plan is not None and result.record is not None:
            # It was written with the activity, if the request is one.
            self._touch_tried = True
            if plan.ended == self._ended:
                self.stored.take_written(result.record, result)
                if result.merged is not None:
                    self._draft = Draft(result.merged)
                self._draft.profile = result.record.profile
            else:
                # Ended since then: that is what was wanted last.
                self._ends.rows += (result.record.id,)
        if plan is None or plan.ended == self._ended:
            self._draft.settle()

    def aborted(self) -> None:
        """Discard every change but the ends, which are carried out later."""
        self._part = None
        if self._draft.opened:
            stored, is_same = self.stored, self.policy.serializer.is_same
            self._discarded |= self._draft.changes(
                stored.content(), is_same, is_new=stored.record is None
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
        self._revoke_again()
        self._limit_user()
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
        draft, is_same = self._draft, self.policy.serializer.is_same
        if draft.exposed and changed_keys(
            self.stored.content(), draft.content, is_same
        ):
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
        if plan is not None:
            result = alone.save(self.place.store, plan)
            self.committed(plan, result, is_alone=True)

    def _revoke_again(self) -> None:
        unsure, self._ends.unsure = self._ends.unsure, ()
        if unsure:
            own = self.stored.record.id if self.stored.record else None
            alone.revoke_all(self.place.store, unsure, own, self.stored.now)

    def _touch(self) -> None:
        stored, record = self.stored, self.stored.record
        if record is None or record.seen is None or stored.is_lost:
            return
        limits = self.policy.profiles.of(record.profile).limits
        is_due = limits.touch_due(record.seen, stored.now)
        if self._touch_tried or not is_due or self._is_passive():
            return
        self._touch_tried = True
        touched = alone.touch(
            self.place.store, self.policy, record, self.stored.now
        )
        if touched is None:
            stored.resend = False
        else:
            stored.take_moved(touched)

    def _limit_user(self) -> None:
        stored, record = self.stored, self.stored.record
        if stored.has_signed_in and record is not None:
            stored.has_signed_in = False
            alone.end_oldest(self.place.store, self.policy, record, stored.now)

    # -- savepoints ----------------------------------------------------

    def snapshot(self) -> Callable[[], None]:
        """Return a function that restores the content as it is now.

        Raises SessionValueError if the content is not all JSON.
        """
        ended, draft = self._ended, self._draft
        serializer = self.policy.serializer
        copy = draft.copier(serializer) if draft.opened else None

        def restore() -> None:
            # An end stays an end: nothing of it may come back.
            self._reset()
            if copy is not None and self._ended == ended:
                self._draft = copy()

        return restore
