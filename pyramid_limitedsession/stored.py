"""What is stored of one request's session, and what its browser needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .draft import Draft
from .events import Ended
from .limits import TimeLeft
from .loading import Adopted, Found
from .profiles import Profile
from .saving import Base, Result
from .settings import Policy
from .store import Record, RowId
from .tokens import Secret


class Stored:
    """The row of a session as one request knows it.

    :ivar record: the row, None if the session has none.
    :ivar text: its data, decrypted: that costs time.
    :ivar row: its id, also if the session is unreadable or over.
    :ivar ended: why the presented session was refused, or None.
    :ivar is_lost: the row went while we had it: nothing of this request may
        bring it back.
    :ivar new_token: what the browser is to be given, once it is certain.
    :ivar resend: it needs its token anew, with another ``Max-Age``.
    :ivar now: the time of the first look: by an earlier one, what others do
        until then would be ahead.
    :ivar ends_token: this request has ended what the token stood for.
    :ivar has_signed_in: it became a user's session in this request.
    :ivar adopted: the old session that it was until this request.
    :ivar end_old: ends the old session that the browser presents, if it
        does. Raises what that raises. To be called at once: a request that
        fails later has ended it, too.
    """

    def __init__(self, policy: Policy, token: Secret | None, now: int) -> None:
        self._policy = policy
        self.now = now
        self.token = token
        self.record: Record | None = None
        self.text: str | None = None
        self.row: RowId | None = None
        self.ended: Ended | None = None
        self.is_lost = False
        self.new_token: Secret | None = None
        self.resend = False
        self.has_signed_in = False
        self.ends_token = False
        self.adopted: Adopted | None = None
        self.end_old: Callable[[], None] = lambda: None
        self._may_return = False

    def take_found(self, found: Found, *, was_found: bool) -> None:
        """Take what was loaded; an earlier attempt may have found it too."""
        self.ended, self.row = found.ended, found.row
        self.record, self.text = found.record, found.text
        self.is_lost = was_found and found.is_gone
        self._may_return = found.may_return
        self.adopted = found.adopted

    def take_written(self, record: Record, result: Result) -> None:
        """Take what was written as what is stored."""
        before = self.record
        if before is None or before.user != record.user:
            self.has_signed_in = record.user is not None
        self.take_moved(record)
        self.row, self.text = record.id, result.text
        self.token = result.token or self.token
        self.new_token = result.token or self.new_token

    def take_moved(self, record: Record) -> None:
        """Take the row with its activity; the browser may have to know."""
        before, self.record = self.record, record
        if before is None:
            return
        profile = self._policy.profiles.of(record.profile)
        self.resend |= before.profile != record.profile
        self.resend |= profile.cookie_moves(
            record.created or 0, before.seen or 0, record.seen or 0
        )

    def lose(self) -> None:
        """Note that it is gone, also if this very request had stored it."""
        self.is_lost, self.resend, self.new_token = True, False, None

    def end(self) -> None:
        """Forget it: what comes now is a new session."""
        self.adopted = None
        self.is_lost = False
        self.ends_token |= self.token is not None
        self.row = self.record = self.text = None
        self.token = self.new_token = None

    # -- what its browser needs ----------------------------------------

    def is_token_dead(self, *, is_passive: bool) -> bool:
        """Say whether the browser is to forget its token.

        A passive request leaves it to the next one, which can tell the
        visitor why his session is over. So does the replay of a request
        that had found it: the browser may have a better one by now. And one
        whose clock may be wrong.
        """
        if self.ended in (None, "unreadable") or self._may_return:
            return self.ends_token
        return self.ends_token or not (is_passive or self.is_lost)

    @property
    def max_age(self) -> int | None:
        """``Max-Age`` of a cookie that is sent now."""
        profile = self._policy.profiles.of(self.profile)
        return profile.max_age(self.created, self.seen, self.now)

    # -- what it says --------------------------------------------------

    def first_draft(self, found: Found) -> Draft:
        """Return the content as it was found; an old session's is to save."""
        is_old = found.adopted is not None
        return Draft(
            found.content, is_old, profile=self.profile, adopted=is_old
        )

    def draft(self) -> Draft:
        """Return the content as it is stored, for changes."""
        adopted = self.adopted is not None
        return Draft(self.content(), profile=self.profile, adopted=adopted)

    def content(self) -> dict[str, Any]:
        """Return the content as it is stored."""
        if self.text is None:
            return self.adopted.content() if self.adopted else {}
        return self._policy.serializer.loads(self.text)

    def to_write(self, draft: Draft) -> str | None:
        """Return the text to be stored, see `Draft.text`."""
        return draft.text(self._policy, self.record, self.text)

    def base(self) -> Base | None:
        """Return what a change starts from, None if there is no row."""
        record, text, token = self.record, self.text, self.token
        if record is None or text is None or token is None:
            return None
        return Base(record, text, token)

    @property
    def is_new(self) -> bool:
        """It begins with this request."""
        return self.record is None and self.adopted is None

    @property
    def profile(self) -> str | None:
        """The name of the limits that are stored, None for the default."""
        return self.record.profile if self.record else None

    @property
    def created(self) -> int:
        """When the session began, in seconds since the epoch."""
        begins = self.record or self.adopted
        begun = begins.created if begins else None
        return self.now if begun is None else begun

    @property
    def seen(self) -> int:
        """The last activity that is stored; now if there is none."""
        seen = self.record.seen if self.record else None
        return self.now if seen is None else seen

    def time_left(self, profile: Profile, *, is_activity: bool) -> TimeLeft:
        """Return the seconds left if it is not used again."""
        limits = profile.limits
        if is_activity or self.record is None:
            return limits.left_if_used(self.created, self.now)
        return limits.left(self.created, self.seen, self.now)

    def changes_user(
        self, user: Secret | None, content: dict[str, Any]
    ) -> bool:
        """Say whether it would be another user's than it was.

        The column is empty in a row that was written before it was there,
        or under another ``user_key``.
        """
        if self.record is None or user == self.record.user:
            return False
        key = self._policy.user_key or ""
        return bool(self.content().get(key) != content.get(key))
