"""How long visitors waited: percentiles of what `load` has noted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# When a request was due, the seconds it took from then on, its error or "".
Request = tuple[float, float, str]


@dataclass(frozen=True)
class Latencies:
    """Of the requests that were due within a while; seconds.

    One that ended with an error counts too: its visitor waited for it.
    """

    count: int
    p50: float
    p99: float
    most: float
    errors: Counter[str] = field(default_factory=Counter)

    @classmethod
    def within(
        cls, requests: Iterable[Request], begin: float, end: float
    ) -> Latencies:
        """Return those of the requests that were due from begin to end."""
        due = [each for each in requests if begin <= each[0] < end]
        waits = sorted(seconds for _, seconds, _ in due)
        return cls(
            len(due),
            percentile(waits, 50),
            percentile(waits, 99),
            percentile(waits, 100),
            Counter(error for *_, error in due if error),
        )


def percentile(waits: Sequence[float], percent: float) -> float:
    """Return the least value that so many percent do not exceed."""
    if not waits:
        return math.nan
    return waits[max(math.ceil(len(waits) * percent / 100), 1) - 1]
