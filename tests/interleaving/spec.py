"""What sessions promise, as a specification that runs: dicts and rules.

It shares no code with the package. The rules are those of the pages
"Sessions" and "Transactions" of the documentation; where these leave a
choice the comment says which one a user would expect.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

IDLE, ABSOLUTE, TOUCH = 100, 300, 10
# What is stored may be this much older than the last activity.
GRACE = TOUCH - 1
CSRF = "_csrft_"
QUEUE = "_f_"


def exactly(value: Any) -> str:
    """Tell apart what Python finds equal: True, 1 and 1.0."""
    return json.dumps(value, sort_keys=True)


def bend(value: Any, number: int) -> bool:
    """Change a list or a dict where it is; return whether it is one."""
    if isinstance(value, list):
        value.append(number)
    elif isinstance(value, dict):
        value["n"] = number
    else:
        return False
    return True


class Message:
    """A flash message; two of the same text are two messages."""

    def __init__(self, text: str) -> None:
        self.text = text


@dataclass
class Content:
    """What is in a session: values by key, messages by queue."""

    values: dict[str, Any] = field(default_factory=dict)
    queues: dict[str, list[Message]] = field(default_factory=dict)

    def copy(self) -> Content:
        """Return a copy; messages keep their identity."""
        queues = {name: list(queue) for name, queue in self.queues.items()}
        return Content(copy.deepcopy(self.values), queues)

    def as_dict(self) -> dict[str, Any]:
        """Return what the application finds, and what is stored."""
        queues = {
            QUEUE + name: _texts(queue)
            for name, queue in self.queues.items()
            if queue
        }
        return copy.deepcopy(self.values) | queues


class Row:
    """A stored session.

    :ivar token: None until a browser has got it.
    :ivar turns: how often the token was rotated.
    :ivar maybe_seen: another time that ``seen`` may be; see `Visit.maybe`.
    :ivar id: the row's id, once it was seen in the database.
    """

    def __init__(self, name: str, content: Content, now: int) -> None:
        self.content = content
        self.created = self.seen = now
        self.token: str | None = None
        self.turns = 0
        self.maybe_seen: int | None = None
        self.id: int | None = None
        self._name = name

    def __repr__(self) -> str:
        return self._name

    @property
    def end(self) -> int:
        """The second at which it reaches a limit."""
        return min(self.created + ABSOLUTE, self.seen + IDLE + GRACE)

    def is_dead(self, now: int) -> str | None:
        """Return which limit it has reached, None if it may be used."""
        if now >= self.created + ABSOLUTE:
            return "absolute"
        return "idle" if now >= self.seen + IDLE + GRACE else None


class Visit:
    """One attempt of one request: what it loaded, what it did.

    :ivar row: the session it works on, None for a new one.
    :ivar dead: the presented session, if that has reached a limit.
    :ivar was_found: an earlier attempt has found the presented session.
    :ivar ends: sessions it has ended.
    :ivar lost: its session went while it had it: nothing is stored any more.
    :ivar maybe: it wrote what changes nothing (the same value again). A
        store may write that or not; only the time of activity tells.
    """

    def __init__(self, token: str | None, *, was_found: bool = False) -> None:
        self.token = token
        self.was_found = was_found
        self.now = 0
        self.is_loaded = False
        self.row: Row | None = None
        self.dead: Row | None = None
        self.turns = 0
        self.seen = 0
        self.ended: str | None = None
        self.base = Content()
        self.mine = Content()
        self.cleared = self.rotating = self.maybe = False
        self.ends: list[Row] = []
        self.times_ended = 0
        self.items: list[str] = []
        self.saved: tuple[Any, ...] | None = None
        self.taken: Any = None
        self.lost = self.forget = self.gets_token = False

    # -- what the application does; each returns what it must see -------

    def look(self) -> list[Any]:
        """Everything that can be seen of a session."""
        created = self.row.created if self.row else self.now
        is_new = self.row is None
        return [self.mine.as_dict(), self.ended, is_new, created]

    def get(self, key: str) -> Any:
        """``session.get(key)``."""
        return self.mine.values.get(key)

    def put(self, key: str, value: Any) -> None:
        """``session[key] = value``."""
        self.maybe = True
        self.mine.values[key] = copy.deepcopy(value)

    def delete(self, key: str) -> Any:
        """``session.pop(key, None)``."""
        self.maybe = True
        return self.mine.values.pop(key, None)

    def nest(self, key: str, number: int) -> None:
        """Change a list or a dict where it is; make a list if it is none."""
        self.maybe = True
        if not bend(self.mine.values.get(key), number):
            self.mine.values[key] = [number]

    def take(self, key: str) -> None:
        """Hold a value, to change it later."""
        self.taken = self.mine.values.get(key)

    def bend(self, number: int) -> None:
        """Change the value that is held; it may be out of the session."""
        self.maybe = True
        bend(self.taken, number)

    def clear(self) -> None:
        """``session.clear()``: also of what others put in meanwhile."""
        self.mine = Content()
        self.cleared = self.maybe = True

    def flash(self, queue: str, text: str, twice: bool) -> None:
        """``session.flash(text, queue, allow_duplicate=twice)``."""
        self.maybe = True
        messages = self.mine.queues.setdefault(queue, [])
        if twice or text not in _texts(messages):
            messages.append(Message(text))

    def pop_flash(self, queue: str) -> list[str]:
        """``session.pop_flash(queue)``."""
        self.maybe = True
        return _texts(self.mine.queues.pop(queue, []))

    def peek_flash(self, queue: str) -> list[str]:
        """``session.peek_flash(queue)``."""
        return _texts(self.mine.queues.get(queue, []))

    def csrf(self, token: str) -> str:
        """``session.get_csrf_token()``, which has returned this token."""
        return str(self.mine.values.setdefault(CSRF, token))

    def new_csrf(self, token: str) -> str:
        """``session.new_csrf_token()``, which has returned this token."""
        self.mine.values[CSRF] = token
        return token

    def rotate(self) -> None:
        """``session.rotate()``."""
        self.maybe = self.rotating = True

    def invalidate(self) -> None:
        """``session.invalidate()``; what follows is a new session.

        The cookie of whoever asks for it goes too, whatever became of the
        session that it stood for.
        """
        self.ends += [row for row in (self.row, self.dead) if row]
        self.forget |= self.token is not None or self.gets_token
        self.gets_token = self.lost = False
        self.token = self.row = self.dead = None
        self.base = Content()
        self.times_ended += 1
        self.drop()

    def item(self, name: str) -> None:
        """Put a row of the application's own into the transaction."""
        self.items.append(name)

    def savepoint(self) -> None:
        """``tm.savepoint()``."""
        content = self.mine.copy() if self.is_loaded else None
        flags = self.cleared, self.rotating, self.maybe
        self.saved = content, flags, self.times_ended

    def rollback(self) -> None:
        """``savepoint.rollback()``: only an end stays an end."""
        assert self.saved is not None
        content, flags, times_ended = self.saved
        self.drop()
        if content is not None and times_ended == self.times_ended:
            self.mine = content.copy()
            self.cleared, self.rotating, self.maybe = flags

    def can(self, verb: str) -> bool:
        """Say whether it works on every database.

        On SQLite the application's own rows and savepoints exclude each
        other.
        """
        if self.lost and self.row:
            # What it sees of a session that is gone is nobody's business.
            return verb == "invalidate"
        if verb == "rollback":
            return self.saved is not None
        if verb == "savepoint":
            return not self.items
        if verb == "bend":
            return self.taken is not None
        return verb != "item" or self.saved is None

    # -- what becomes of it --------------------------------------------

    def drop(self) -> None:
        """Forget every change but the ends."""
        self.mine = self.base.copy()
        self.cleared = self.rotating = self.maybe = False

    @property
    def is_changed(self) -> bool:
        """A commit has to write the session's row."""
        if self.row is None:
            return bool(self.mine.as_dict())
        return (
            self.rotating
            or exactly(self.mine.values) != exactly(self.base.values)
            or _filled(self.mine.queues) != _filled(self.base.queues)
        )

    @property
    def may_write(self) -> bool:
        """A commit may write the session's row."""
        return self.is_changed or (self.row is not None and self.maybe)

    @property
    def is_touch_due(self) -> bool:
        """Its activity is to be written if nothing else is."""
        is_late = self.now - self.seen >= TOUCH
        return self.row is not None and not self.lost and is_late

    def merged_into(self, theirs: Content) -> Content:
        """Return the content after my change of what is stored now."""
        base, mine = self.base, self.mine
        if self.cleared:
            return mine.copy()
        result = theirs.copy()
        for key in base.values | mine.values:
            if not _differ(key, base, mine):
                continue
            if key == CSRF and _differ(key, base, theirs):
                # The first one is in a page by now. Is none left, because
                # they have cleared the session, mine is better than none.
                if key in theirs.values:
                    continue
            if key in mine.values:
                result.values[key] = copy.deepcopy(mine.values[key])
            else:
                result.values.pop(key, None)
        for name in base.queues | mine.queues:
            result.queues[name] = _queue(
                *(content.queues.get(name, []) for content in (base, mine)),
                result.queues.get(name, []),
            )
        return result


def _stored(content: Content) -> str:
    return exactly(content.as_dict())


def _queue(
    base: list[Message], mine: list[Message], theirs: list[Message]
) -> list[Message]:
    """Return theirs, minus what I popped, plus what I pushed."""
    pushed = [message for message in mine if message not in base]
    if [*base, *pushed] != mine:
        # A text is all that is stored: what they popped and pushed again
        # cannot be told from what I popped.
        number = len(base)
        if _texts(base) == _texts(theirs[:number]):
            theirs = theirs[number:]
    return theirs + pushed


def _texts(queue: list[Message]) -> list[str]:
    return [message.text for message in queue]


def _filled(queues: dict[str, list[Message]]) -> dict[str, list[Message]]:
    return {name: queue for name, queue in queues.items() if queue}


def _differ(key: str, one: Content, other: Content) -> bool:
    if key not in one.values or key not in other.values:
        return (key in one.values) != (key in other.values)
    return exactly(one.values[key]) != exactly(other.values[key])


class Spec:
    """What is stored, and what happens to it.

    :ivar dead_tokens: tokens that browsers had and that open nothing now.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.items: list[str] = []
        self.dead_tokens: list[str] = []
        self._count = 0

    def load(self, visit: Visit, now: int) -> None:
        """The first look of a request into its session."""
        visit.is_loaded = True
        visit.now = now
        # Of a session that was ended or rotated between two attempts a
        # later attempt knows as little as one that was under way meanwhile.
        visit.lost = visit.was_found
        for row in self.rows:
            if visit.token is None or row.token != visit.token:
                continue
            visit.lost = False
            visit.ended = row.is_dead(now)
            if visit.ended:
                visit.dead, visit.forget = row, True
                return
            visit.row, visit.turns, visit.seen = row, row.turns, row.seen
            visit.base, visit.mine = row.content.copy(), row.content.copy()

    def commit_items(self, visit: Visit) -> None:
        """The application's own rows are committed."""
        self.items += visit.items
        visit.items = []

    def commit(self, visit: Visit) -> None:
        """The session's part in the transaction is committed."""
        self._remove(visit)
        row = visit.row
        if row is None:
            if visit.is_changed and not visit.lost:
                self._insert(visit)
        elif not visit.may_write:
            pass
        elif not self._is_mine(visit, row):
            # Who writes nothing does not learn of it, and may send the
            # token of an earlier commit: as if it had gone a moment later.
            visit.lost |= visit.is_changed or visit.cleared
        elif visit.is_changed or visit.cleared:
            row.content = visit.merged_into(row.content)
            seen = max(row.seen, visit.now)
            if visit.is_changed:
                row.seen = visit.seen = seen
            else:
                row.maybe_seen = seen
            if visit.rotating:
                self._bury(row)
                row.turns += 1
                visit.turns += 1
                visit.gets_token = True
        else:
            row.maybe_seen = max(row.seen, visit.now)

    def go_on(self, visit: Visit, found: dict[str, Any] | None) -> None:
        """The request goes on after a commit.

        ``found`` is what it sees, if that tells whether it wrote; see
        `Visit.maybe`.
        """
        visit.saved, row = None, visit.row
        if row is None or visit.lost:
            return
        if (
            visit.is_changed
            or visit.cleared
            or (found is not None and exactly(found) == _stored(row.content))
        ):
            visit.base = row.content.copy()
        if _stored(visit.base) == _stored(visit.mine):
            # What is held is part of it still.
            visit.mine.queues = visit.base.copy().queues
            visit.cleared = visit.rotating = visit.maybe = False
        else:
            visit.taken = None
            visit.drop()

    def settle(self, visit: Visit) -> None:
        """What happens whatever the outcome: ends, and the activity."""
        self._remove(visit)
        row = visit.row
        if row is None or not self._is_mine(visit, row):
            return
        if visit.is_touch_due and row.seen < visit.now:
            row.seen = visit.now

    def cookie(self, visit: Visit) -> str:
        """Return what the answer does: "set", "deleted" or "none"."""
        if visit.gets_token and not visit.lost:
            return "set"
        return "deleted" if visit.forget else "none"

    def give(self, visit: Visit, token: str) -> None:
        """A browser got the token of the session that a visit has stored."""
        assert visit.row is not None
        if visit.row in self.rows and visit.row.turns == visit.turns:
            visit.row.token = token
        else:
            self.dead_tokens.append(token)

    def dead(self, now: int) -> list[Row]:
        """Return the rows that have reached a limit, oldest first."""
        rows = [row for row in self.rows if row.is_dead(now)]
        return sorted(rows, key=lambda row: row.id or 0)

    def remove(self, row: Row) -> None:
        """The row is deleted: trimmed, or revoked by somebody else."""
        self.rows.remove(row)
        self._bury(row)

    def _is_mine(self, visit: Visit, row: Row) -> bool:
        # Gone, or somebody else's by now: rotated by another request.
        return row in self.rows and row.turns == visit.turns

    def _remove(self, visit: Visit) -> None:
        for row in visit.ends:
            if row in self.rows:
                self.remove(row)
        visit.ends.clear()

    def _insert(self, visit: Visit) -> None:
        name = f"row{self._count}"
        self._count += 1
        visit.row = Row(name, visit.mine.copy(), visit.now)
        # A session that has reached a limit is left to trimming.
        visit.dead = None
        visit.turns, visit.seen = 0, visit.now
        visit.gets_token = True
        self.rows.append(visit.row)

    def _bury(self, row: Row) -> None:
        if row.token is not None:
            self.dead_tokens.append(row.token)
        row.token = None
