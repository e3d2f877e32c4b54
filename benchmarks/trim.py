"""How fast pls-trim deletes, in how much memory, and who notices.

Of many rows nine in ten have expired. They are deleted by one plain DELETE
and by pls-trim in turn, each time from a fresh copy of the same table, while
a reader and a writer use live sessions at a fixed rate.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from pyramid_limitedsession.scripts.console import positive

from . import report, rst
from .databases import Database, MariaDB, PostgreSQL, SQLite
from .processes import BenchmarkError
from .runs import Bench, Measured, Plan

URLS = {
    "postgresql": (
        "TEST_POSTGRESQL",
        "postgresql+psycopg://root@127.0.0.1:5432/test",
    ),
    "mariadb": (
        "TEST_MARIADB",
        "mysql+pymysql://root@127.0.0.1:3306/test?ssl_disabled=1",
    ),
}
DATABASES = ("sqlite", *URLS)
COMMAND = "bench-trim"
# With fewer nothing can be measured.
_LEAST_ROWS = 1000


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 1 if something was found that must not be."""
    arguments = _parser().parse_args(argv)
    plan = Plan(
        arguments.rows,
        arguments.rounds,
        arguments.rate,
        arguments.alone,
        tuple(shlex.split(arguments.trimmer_options)),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measured, failed = _measure(arguments.databases, plan)
    except KeyboardInterrupt:
        print("stopped; everything was removed", file=sys.stderr)
        return 1
    is_good = _tell(measured, plan) and not failed
    if arguments.rst is not None and is_good:
        text = rst.page_of(report.tables(measured), _facts(measured, plan))
        rst.write(arguments.rst, text, COMMAND)
    return 0 if is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trim",
        description=__doc__,
        epilog="The servers are those of the tests: "
        + ", ".join(name for name, _ in URLS.values())
        + ". SQLite's files are in TMPDIR.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--rows",
        type=_rows,
        default=1_000_000,
        metavar="N",
        help="of the table (default: 1000000)",
    )
    add(
        "--rounds",
        type=positive,
        default=2,
        metavar="N",
        help="runs of each contender (default: 2)",
    )
    add(
        "--databases",
        type=_databases,
        default=DATABASES,
        metavar="NAMES",
        help=f"(default: {','.join(DATABASES)})",
    )
    add(
        "--rate",
        type=_above_zero,
        default=100,
        metavar="N",
        help="requests a second of the reader, and of the writer "
        "(default: 100)",
    )
    add(
        "--alone",
        type=_above_zero,
        default=5,
        metavar="SECONDS",
        help="of these without a deletion, before each run (default: 5)",
    )
    add(
        "--trimmer-options",
        default="",
        metavar="TEXT",
        help='further ones, like "--batch 1000 --sleep 0.01"',
    )
    add(
        "--rst",
        type=rst.argument(COMMAND),
        metavar="FILE",
        help="write the tables into this page, between its markers",
    )
    return parser


def _rows(text: str) -> int:
    number = int(text)
    if number < _LEAST_ROWS:
        raise argparse.ArgumentTypeError(f"at least {_LEAST_ROWS}")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("more than 0")
    return number


def _databases(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(DATABASES):
        raise argparse.ArgumentTypeError(f"some of {', '.join(DATABASES)}")
    return names


def _measure(
    names: Sequence[str], plan: Plan
) -> tuple[list[Measured], list[str]]:
    """Return what was measured, and the databases on which that failed."""
    measured, failed = [], []
    with tempfile.TemporaryDirectory(prefix="pls_bench_") as text:
        folder = Path(text)
        for name in names:
            tell, database = _teller(name), _make(name, folder)
            try:
                tell(database.version())
            except DBAPIError as error:
                tell(f"left out, it does not answer: {error.orig}")
                continue
            bench = Bench(database, plan, folder=folder, tell=tell)
            try:
                measured.append(bench.measure())
            except (BenchmarkError, DBAPIError) as error:
                tell(f"FAILED: {error}")
                failed.append(name)
            finally:
                _close(database)
    return measured, failed


def _make(name: str, folder: Path) -> Database:
    if name == "sqlite":
        return SQLite(folder)
    variable, default = URLS[name]
    url = os.environ.get(variable, default)
    return PostgreSQL(url) if name == "postgresql" else MariaDB(url)


def _close(database: Database) -> None:
    """Remove the tables, undisturbed: a second Ctrl-C would leave them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        database.close()
    finally:
        signal.signal(signal.SIGINT, before)


def _teller(name: str) -> Callable[[str], None]:
    started = time.monotonic()

    def tell(text: str) -> None:
        seconds = time.monotonic() - started
        print(f"{name:>10} {seconds:6.1f} s  {text}", file=sys.stderr)

    return tell


def _tell(measured: list[Measured], plan: Plan) -> bool:
    """Print what was measured; return whether all is as it must be."""
    if not measured:
        print("there was nothing to measure", file=sys.stderr)
        return False
    report.show(report.tables(measured))
    for fact in _facts(measured, plan):
        print(f"* {fact}")
    for text, is_met in report.goals(measured):
        print(f"{'reached' if is_met else 'MISSED '}  {text}")
    problems = [text for each in measured for text in each.problems]
    for text in problems:
        print(f"WRONG    {text}")
    return not problems


def _facts(measured: list[Measured], plan: Plan) -> Iterator[str]:
    dead = measured[0].runs[0].deletion.deleted
    yield (
        f"{plan.rows:,} rows, {dead:,} of them dead; runs of each contender: "
        f"{plan.rounds}; a second {plan.rate:g} reads, {plan.rate:g} writes"
    )
    if plan.options:
        yield f"pls-trim {shlex.join(plan.options)}"
    yield (
        f"Python {platform.python_version()}, "
        f"SQLAlchemy {version('SQLAlchemy')}, {os.cpu_count()} CPUs"
    )
    for each in measured:
        yield f"{each.version} ({each.durability})"


if __name__ == "__main__":
    sys.exit(main())
