"""What the benchmark shows: tables, for a terminal and for the docs."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from .latencies import Latencies
from .runs import CONTENDERS, DELETE, KINDS, TRIM, Measured, Run

_MEBI = 1024 * 1024
# The goals: of the speed of one DELETE, of the undisturbed p99, and the
# seconds that a writer waits on SQLite.
LEAST_SPEED = 0.5
MOST_SLOWER = 2.0
MOST_WAIT = 0.1


@dataclass(frozen=True)
class Table:
    """A table of texts. Its first column has the names of the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


# -- what is in them ---------------------------------------------------


def tables(measured: Sequence[Measured]) -> list[Table]:
    """Return the tables, what holds on any machine first."""
    return [_ratios(measured), _deletions(measured), _waits(measured)]


def _ratios(measured: Iterable[Measured]) -> Table:
    rows = []
    for each in measured:
        waits = [
            f"{_slower(each, contender, kind):.1f}"
            for contender in CONTENDERS
            for kind in KINDS
        ]
        speed, memory = f"{_speed(each):.2f}", f"{_memory(each):.2f}"
        rows.append([each.name, speed, *waits, memory])
    header = [
        "",
        f"{TRIM}: rows/s ÷ {DELETE}'s",
        *(
            f"{contender}: {kind}'s p99 ÷ alone"
            for contender in CONTENDERS
            for kind in KINDS
        ),
        f"{TRIM}: memory ÷ that for a tenth of the rows",
    ]
    return Table("Ratios", header, rows)


def _deletions(measured: Iterable[Measured]) -> Table:
    rows = []
    for each in measured:
        for contender in CONTENDERS:
            runs = each.of(contender)
            peaks = [run.deletion.peak for run in runs]
            rows.append(
                [
                    f"{each.name}, {contender}",
                    f"{median(run.rate for run in runs):,.0f}",
                    _all(f"{run.deletion.seconds:.2f}" for run in runs),
                    _mebi(max(peaks)),
                    _mebi(each.small.peak) if contender == TRIM else "",
                ]
            )
    header = (
        "",
        "rows/s",
        "seconds",
        "memory, MiB",
        "for a tenth of the rows",
    )
    return Table("Deleting", header, rows)


def _waits(measured: Iterable[Measured]) -> Table:
    rows = []
    for each in measured:
        for kind in KINDS:
            alone = [run.alone[kind] for run in each.runs]
            rows.append([f"{each.name}, {kind}, alone", *_wait(alone)])
            for contender in CONTENDERS:
                during = [run.during[kind] for run in each.of(contender)]
                name = f"{each.name}, {kind}, {contender}"
                rows.append([name, *_wait(during)])
    header = ("", "p50", "p99", "p99 of each run", "max", "errors")
    return Table("Waits of visitors, milliseconds", header, rows)


def _wait(runs: Sequence[Latencies]) -> list[str]:
    errors: Counter[str] = Counter()
    for run in runs:
        errors += run.errors
    return [
        _ms(median(run.p50 for run in runs)),
        _ms(median(run.p99 for run in runs)),
        _all(_ms(run.p99) for run in runs),
        _ms(max(run.most for run in runs)),
        ", ".join(f"{count} {name}" for name, count in sorted(errors.items()))
        or "0",
    ]


# -- goals -------------------------------------------------------------


def goals(measured: Iterable[Measured]) -> list[tuple[str, bool]]:
    """Return what pls-trim is to reach, and whether it does."""
    found = []
    for each in measured:
        if each.name == "sqlite":
            wait = _p99(each.of(TRIM), "writer")
            text = f"a writer's p99 is {_ms(wait)} ms, at most 100"
            found.append((f"{each.name}: {text}", wait <= MOST_WAIT))
            continue
        speed = _speed(each)
        text = f"rows/s are {speed:.2f} of {DELETE}'s, at least {LEAST_SPEED}"
        found.append((f"{each.name}: {text}", speed >= LEAST_SPEED))
        for kind in KINDS:
            slower = _slower(each, TRIM, kind)
            text = f"a {kind}'s p99 is {slower:.1f} of that alone, at most 2"
            found.append((f"{each.name}: {text}", slower <= MOST_SLOWER))
    return found


def _speed(measured: Measured) -> float:
    """Return the ratio of the speeds in one round, the median of rounds."""
    pairs = zip(measured.of(TRIM), measured.of(DELETE), strict=True)
    return median(trim.rate / delete.rate for trim, delete in pairs)


def _slower(measured: Measured, contender: str, kind: str) -> float:
    """Return by how much p99 grows in a run, the median of runs."""
    return median(
        run.during[kind].p99 / run.alone[kind].p99
        for run in measured.of(contender)
    )


def _p99(runs: Iterable[Run], kind: str) -> float:
    return median(run.during[kind].p99 for run in runs)


def _memory(measured: Measured) -> float:
    peaks = [run.deletion.peak for run in measured.of(TRIM)]
    return max(peaks) / measured.small.peak


def _ms(seconds: float) -> str:
    if math.isnan(seconds):
        return "none"
    digits = 0 if seconds >= 0.0995 else 1
    return f"{seconds * 1000:,.{digits}f}"


def _mebi(size: int) -> str:
    return f"{size / _MEBI:.0f}"


def _all(values: Iterable[str]) -> str:
    return "; ".join(values)


# -- on a terminal -----------------------------------------------------


def show(shown: Iterable[Table]) -> None:
    """Print the tables: drawn where rich is there, else in columns."""
    try:
        from rich.console import Console
        from rich.table import Table as Drawn
    except ImportError:
        for table in shown:
            print("\n" + plain(table))
        return
    # A file has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in shown:
        drawn = Drawn(title=table.title, title_justify="left")
        for number, name in enumerate(table.header):
            drawn.add_column(name, justify="right" if number else "left")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def plain(table: Table) -> str:
    """Return a table as aligned columns."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        [
            table.title,
            *(
                "  ".join(
                    text.rjust(width) if number else text.ljust(width)
                    for number, (text, width) in enumerate(
                        zip(line, widths, strict=True)
                    )
                ).rstrip()
                for line in lines
            ),
        ]
    )
