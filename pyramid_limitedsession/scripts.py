"""The pls-* commands: parse, find the application's store, one call, a line.

Exit codes: 0 done, 1 failed, 2 wrong use. What failed is told in sentences;
``-v`` shows the traceback. Nothing printed holds a token, a key or data.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyramid.paster import bootstrap
from pyramid.scripts.common import parse_vars
from sqlalchemy.exc import DBAPIError

from .factory import SessionFactory
from .sqlstore import SqlStore
from .tweens import REGISTRY_KEY

DAYS_VARIABLE = "SESSION_DAYS_TRIM_THRESHOLD"
_DAY = 86400
_MOST_DAYS = 36500


def init(argv: list[str] | None = None) -> int:
    """Run pls-init: make the table, or print its DDL."""
    parser = _parser(
        "pls-init",
        "Make the sessions table of a Pyramid application.",
        "pls-init production.ini\n  pls-init production.ini --sql",
    )
    parser.add_argument(
        "--sql",
        action="store_true",
        help="print the statements instead of running them (with "
        "create_table on, the application itself makes its table when it "
        "starts, as it does here)",
    )
    return _run(parser, argv, _init)


def _init(
    arguments: argparse.Namespace, store: SqlStore, factory: SessionFactory
) -> None:
    name = store.table.fullname
    if arguments.sql:
        print("\n".join(store.ddl()))
    elif store.create():
        print(f"made the table {name!r}")
    else:
        store.check()
        print(f"the table {name!r} exists already")


def trim(argv: list[str] | None = None) -> int:
    """Run pls-trim: delete expired sessions and long unused ones."""
    parser = _parser(
        "pls-trim",
        "Delete sessions that have expired, and sessions that were not "
        "used for a number of days, in batches.",
        "pls-trim production.ini\n  pls-trim production.ini --days 7 "
        "--dry-run",
    )
    parser.add_argument(
        "--days",
        type=_days,
        default=os.environ.get(DAYS_VARIABLE, "30"),
        metavar="N",
        help="delete what was not used for N days, whatever the limits are "
        f"(default: the environment variable {DAYS_VARIABLE}, or 30)",
    )
    parser.add_argument(
        "--batch",
        type=_batch,
        default=1000,
        metavar="N",
        help="delete at most N rows in one statement (default: 1000)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="count what would be deleted, delete nothing",
    )
    return _run(parser, argv, _trim)


def _trim(
    arguments: argparse.Namespace, store: SqlStore, factory: SessionFactory
) -> None:
    now = int(factory.clock())
    cutoffs = factory.settings.policy.profiles.cutoffs(now)
    cutoffs = cutoffs.not_before(now - int(arguments.days * _DAY))
    what = f"expired, or not used for {arguments.days:g} days"
    if arguments.dry_run:
        count = store.count_dead(cutoffs=cutoffs)
        print(f"would delete {_sessions(count)} ({what})")
        return
    started = time.monotonic()
    deleted = 0
    after: int | None = -1
    with _progress(lambda: store.count_dead(cutoffs=cutoffs)) as advance:
        while after is not None:
            count, after = store.trim(
                cutoffs=cutoffs, after=after, most=arguments.batch
            )
            deleted += count
            advance(count)
    seconds = time.monotonic() - started
    print(f"deleted {_sessions(deleted)} ({what}) in {seconds:.1f} s")


def _sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"


@contextmanager
def _progress(total: Callable[[], int]) -> Iterator[Callable[[int], object]]:
    """Yield what to call with each batch: a bar, if it is a terminal."""
    try:
        from rich import progress
    except ImportError:
        progress = None  # type: ignore[assignment]
    if progress is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console

    with progress.Progress(
        progress.TextColumn("trimming"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        # Not where the summary goes, so that it can be piped.
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("trimming", total=total())
        yield lambda count: bar.advance(task, count)


# -- what all commands share -------------------------------------------


def _parser(name: str, what: str, examples: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=what,
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config_uri",
        metavar="INI",
        help="the application's ini file, with #section if it is not main",
    )
    parser.add_argument(
        "config_vars",
        metavar="name=value",
        nargs="*",
        help="variables for the ini file",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show the traceback of an error",
    )
    return parser


def _run(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    command: Callable[[argparse.Namespace, SqlStore, SessionFactory], None],
) -> int:
    arguments = parser.parse_args(argv)
    path = arguments.config_uri.partition("#")[0]
    if "://" not in path and not os.path.exists(path):
        parser.error(f"there is no file {path!r}")
    try:
        options = parse_vars(arguments.config_vars)
    except ValueError as error:
        parser.error(str(error))
    try:
        with _store(arguments.config_uri, options) as (store, factory):
            command(arguments, store, factory)
    except Exception as error:
        if arguments.verbose:
            raise
        print(f"{parser.prog}: {_sentences(error)}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _store(
    config_uri: str, options: dict[str, str]
) -> Iterator[tuple[SqlStore, SessionFactory]]:
    """Start the application and yield its store."""
    with _without_start_errors():
        env = bootstrap(config_uri, options=options)
    with env:
        factory = env["registry"].get(REGISTRY_KEY)
        if factory is None:
            raise LookupError(
                "this application does not include pyramid_limitedsession"
            )
        store = factory.store_for(env["request"])
        try:
            yield store, factory
        finally:
            store.engine.dispose()


@contextmanager
def _without_start_errors() -> Iterator[None]:
    """Keep quiet about a missing table: the command itself tells it."""
    log = logging.getLogger("pyramid_limitedsession")

    def is_told(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    log.addFilter(is_told)
    try:
        yield
    finally:
        log.removeFilter(is_told)


def _sentences(error: BaseException | None) -> str:
    causes = []
    while error is not None:
        # SQLAlchemy adds the statement, and a link.
        told = error.orig if isinstance(error, DBAPIError) else error
        causes.append(str(told).strip() or type(error).__name__)
        error = error.__cause__
    return "\n  because: ".join(causes)


def _days(text: str) -> float:
    # Never zero by accident: that would delete every session there is.
    try:
        days = float(text)
    except ValueError:
        days = 0
    if not 0 < days <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a positive number of days (from --days, or "
            f"from the environment variable {DAYS_VARIABLE})"
        )
    return days


def _batch(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
