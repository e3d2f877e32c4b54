"""Deleting very many rows, and hurting nobody: the pace, and what fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError

from .deadrows import Condition
from .errors import SessionError
from .sqlupkeep import Batch, Upkeep, Way

# A batch that fails is tried so often, with so many seconds in between.
_TRIES = 3
_BETWEEN_TRIES = 0.5
# After so many that failed one behind the other nothing is left to hope.
_MOST_FAILED = 3


@dataclass
class Pace:
    """How many rows at a time, and how long a rest: by the last batch.

    :ivar least: rows of a batch at least, unless ``most`` is less: smaller
        ones cost as much, and take longer in all.
    :ivar most: rows of a batch at most.
    :ivar longest: seconds that others may have to wait for a batch.
    :ivar share: so much of what the last batch took is the rest before the
        next one, so that those who wait get their turn.
    :ivar rest: seconds to rest instead, None: as ``share`` says.
    :ivar size: rows of the next batch.
    """

    least: int
    most: int
    longest: float
    share: float
    rest: float | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = min(self.most, 1000)

    def after(self, seconds: float) -> float:
        """Take what a batch took; return how long to rest."""
        # A single one says little: it may have met with something rare.
        change = min(max(self.longest / max(seconds, 1e-6), 0.5), 2.0)
        least = min(self.least, self.most)
        self.size = min(max(int(self.size * change), least), self.most)
        return self.share * seconds if self.rest is None else self.rest


@dataclass(frozen=True)
class Timer:
    """The clock and the rest of a command, seconds."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass
class Trimmed:
    """What has been done so far.

    :ivar deleted: rows.
    :ivar retried: batches that failed and were tried again.
    :ivar failed: why batches were given up, one text for each.
    :ivar is_finished: the walk has come to its end.
    """

    deleted: int = 0
    retried: int = 0
    failed: list[str] = field(default_factory=list)
    is_finished: bool = False


class Trimmer:
    """One walk through the table that deletes the rows of a condition.

    :ivar done: what has been done so far, also when it is interrupted.
    """

    def __init__(
        self,
        upkeep: Upkeep,
        which: Condition,
        *,
        pace: Pace,
        timer: Timer,
        advance: Callable[[int, float], object] = lambda count, share: None,
    ) -> None:
        self.done = Trimmed()
        self._upkeep = upkeep
        self._which = which
        self._pace = pace
        self._timer = timer
        self._advance = advance
        self._failed_in_a_row = 0

    def walk(self, way: Way, *, seconds: float | None = None) -> Trimmed:
        """Delete batch after batch; stop between two of them.

        Args:
            way: the way through the table.
            seconds: what it may take in all.

        Raises what the store raises when nothing succeeds any more.
        """
        end = None if seconds is None else self._timer.now() + seconds
        after = way.start
        while end is None or self._timer.now() < end:
            after = self._step(way, after)
            if after is None:
                self.done.is_finished = True
                break
        return self.done

    def _step(self, way: Way, after: Any) -> Any:
        """Deal with one batch; return where to go on, None at the end."""
        batch = self._tried(way, after, self._pace.size)
        self.done.deleted += batch.deleted
        share = 1.0 if batch.last is None else way.share(batch.last)
        self._advance(self.done.deleted, share)
        if batch.last is not None:
            self._timer.sleep(self._pace.after(batch.seconds))
        return batch.last

    def _tried(self, way: Way, after: Any, size: int) -> Batch:
        for tries in range(1, _TRIES + 1):
            try:
                batch = self._upkeep.delete(
                    way,
                    self._which,
                    after=after,
                    most=size,
                    clock=self._timer.now,
                    one_by_one=tries == _TRIES,
                )
            except (SessionError, DBAPIError) as error:
                if tries == _TRIES:
                    return self._skipped(way, after, size, error)
                self.done.retried += tries == 1
                self._timer.sleep(_BETWEEN_TRIES * tries)
            else:
                self._failed_in_a_row = 0
                return batch
        raise AssertionError  # pragma: no cover - the loop returns

    def _skipped(
        self, way: Way, after: Any, size: int, error: Exception
    ) -> Batch:
        """Give a batch up and go on behind it, unless all of them fail."""
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _MOST_FAILED:
            raise error
        last = self._upkeep.skip(way, self._which, after=after, most=size)
        told = error.orig if isinstance(error, DBAPIError) else error
        self.done.failed.append(str(told))
        return Batch(0, last)
