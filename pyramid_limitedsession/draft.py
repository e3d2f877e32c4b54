"""What a request makes of a session's content, until it is saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import shown
from .limits import RESERVED
from .serializers import Serializer
from .settings import Policy
from .store import CSRF_KEY, Record, Same, changed_keys


@dataclass
class Draft:
    """The content during one request, and what was done to it as a whole.

    :ivar content: what the application sees.
    :ivar opened: it may have been changed: compare it at the end.
    :ivar exposed: somebody holds a value that he can change at any time.
    :ivar cleared: ``clear()`` was called: keys added by others go too.
    :ivar rotating: the session gets a new token.
    :ivar popped: flash queues that were emptied: what is in them now was
        pushed since, also if it is equal to what was popped.
    :ivar profile: the name of the session's limits.
    :ivar reprofiled: they are not those that are stored.
    :ivar adopted: it comes from an old session: empty, it is stored too.
    """

    content: dict[str, Any] = field(default_factory=dict, repr=False)
    opened: bool = False
    exposed: bool = False
    cleared: bool = False
    rotating: bool = False
    popped: frozenset[str] = frozenset()
    profile: str | None = None
    reprofiled: bool = False
    adopted: bool = False

    def settle(self) -> None:
        """Forget what was done: it is stored."""
        self.opened = self.cleared = self.rotating = False
        self.reprofiled = False
        self.popped = frozenset()

    @property
    def is_more_than_its_content(self) -> bool:
        """It is to be written even if its content is what is stored.

        What was cleared and put in again must survive nobody else's
        addition, what was popped and pushed again another's pop.
        """
        return (
            self.rotating
            or self.cleared
            or self.reprofiled
            or any(queue in self.content for queue in self.popped)
        )

    def text(
        self,
        policy: Policy,
        record: Record | None = None,
        stored: str | None = None,
    ) -> str | None:
        """Return what is to be stored, None if that is what is stored.

        Neither is encrypted. ``stored`` is the text of the record.

        Raises SessionValueError or SessionOverflowError, as saving does.
        """
        is_nothing = record is None and not (self.content or self.adopted)
        if not self.opened or is_nothing:
            return None
        text = policy.serializer.dumps(self.content)
        # Of the same objects a pickle is the same, of equal ones it may not.
        is_same = stored is not None and (
            text == stored or text == policy.serializer.as_written(stored)
        )
        if is_same and not self.is_more_than_its_content:
            user = policy.user_of(self.content)
            # The column may be younger than the row, or not there.
            known = record.user if record and policy.keeps_users else user
            if user == known:
                return None
        policy.require_size(text, self.content)
        return text

    def changes(
        self, base: dict[str, Any], is_same: Same, *, is_new: bool
    ) -> set[str]:
        """Return what was done to ``base``, as a log may show it.

        The CSRF token of a new session does not count: Pyramid's check makes
        one for a visitor without a session, and refuses him. Neither do the
        times that the expiry tween keeps.
        """
        changed = changed_keys(base, self.content, is_same)
        # One that is no text has not been refused yet.
        keys = {
            key
            for key in changed
            if not (isinstance(key, str) and key.startswith(RESERVED))
        }
        if is_new:
            keys.discard(CSRF_KEY)
        done = {*map(shown, keys)}
        if self.rotating:
            done.add("rotate()")
        if self.reprofiled:
            done.add("use_profile()")
        return done

    def copier(self, serializer: Serializer) -> Callable[[], Draft]:
        """Return a function that returns the draft as it is now.

        Raises SessionValueError if the content is not all JSON.
        """
        text = serializer.dumps(self.content)
        kept = replace(self, content={}, exposed=False)
        return lambda: replace(kept, content=serializer.loads(text))
