"""pls-trim: delete expired sessions and long unused ones."""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import asdict, replace

from ..limits import Cutoffs
from ..reserving import reserved
from ..sqlupkeep import Upkeep, Way
from ..trimming import Pace, Timer, Trimmed, Trimmer
from .console import (
    CommandError,
    Output,
    Site,
    WrongUse,
    parser_of,
    positive,
    progress,
    run,
    sessions,
)

DAYS_VARIABLE = "SESSION_DAYS_TRIM_THRESHOLD"
_DAY = 86400
_MOST_DAYS = 36500
# A minute: less would be a mistake, and the end of all sessions.
_LEAST_DAYS = 60 / _DAY
# Seconds that pls-trim waits for a request that cleans.
PATIENCE = 3
# Of each reason, in the order in which it is looked for.
WHY = {
    "ended": "ended",
    "damaged": "damaged",
    "absolute": "past absolute_timeout",
    "idle": "past idle_timeout",
    "unused": "not used for {days:g} days",
    "anonymous": "without a user and not used for {anonymous_days:g} days",
}


def main(argv: list[str] | None = None) -> int:
    """Run pls-trim."""
    parser = parser_of(
        "pls-trim",
        "Delete sessions that have expired, and sessions that were not "
        "used for a number of days, in batches. It may be stopped at any "
        "moment; the next run goes on.",
        "pls-trim production.ini",
        "pls-trim production.ini --days 7 --dry-run",
        "pls-trim production.ini --anonymous-days 1 --max-seconds 600",
    )
    add_which(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="count what would be deleted, by reason; delete nothing",
    )
    _add_how(parser)
    return run(parser, argv, _trim)


def add_which(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which sessions are too old."""
    parser.add_argument(
        "--days",
        type=days,
        default=os.environ.get(DAYS_VARIABLE, "30"),
        metavar="N",
        help="delete what was not used for N days, whatever the limits are "
        f"(default: the environment variable {DAYS_VARIABLE}, or 30)",
    )
    parser.add_argument(
        "--anonymous-days",
        type=days,
        metavar="N",
        help="delete sessions without a user that were not used for N days",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch",
        type=positive,
        default=5000,
        metavar="N",
        help="delete at most N rows in one statement (default: 5000); fewer "
        "where they take long",
    )
    parser.add_argument(
        "--sleep",
        type=_seconds,
        metavar="SECONDS",
        help="rest so long between two batches (default: a part of what the "
        "last one took; on SQLite three times that)",
    )
    parser.add_argument(
        "--max-seconds",
        type=_seconds,
        metavar="SECONDS",
        help="stop after so long; the next run goes on",
    )


def _trim(arguments: argparse.Namespace, site: Site, output: Output) -> int:
    cutoffs = cutoffs_of(arguments, site)
    upkeep = Upkeep(site.store)
    if arguments.dry_run:
        _tell_count(arguments, upkeep.count_dead(cutoffs), output)
        return 0
    engine, table = site.store.engine, site.store.table.fullname
    with reserved(engine, table, patience=PATIENCE) as is_alone:
        if not is_alone:
            output.done(
                "nothing was done: another pls-trim is at work on the table "
                f"{table!r}",
                {"deleted": 0, "finished": False, "busy": True},
            )
            return 0
        started = time.monotonic()
        with progress("trimming", output) as advance:
            trimmer = Trimmer(
                upkeep,
                upkeep.dead(cutoffs),
                pace=pace_of(site, arguments.batch, arguments.sleep),
                timer=Timer(time.monotonic, time.sleep),
                advance=advance,
            )
            _walk(trimmer, upkeep.shortest_way(), arguments.max_seconds)
        seconds = time.monotonic() - started
        _tell(arguments, trimmer.done, seconds, output)
        return 0


def _walk(trimmer: Trimmer, way: Way, seconds: float | None) -> None:
    try:
        trimmer.walk(way, seconds=seconds)
    except KeyboardInterrupt:
        raise CommandError(
            f"stopped: deleted {sessions(trimmer.done.deleted)} so far; call "
            "it again to go on"
        ) from None


def _tell(
    arguments: argparse.Namespace,
    done: Trimmed,
    seconds: float,
    output: Output,
) -> None:
    """Tell what was done; raise CommandError if a part of it failed."""
    line = f"deleted {sessions(done.deleted)} ({_what(arguments)})"
    if not done.is_finished:
        line += ", and stopped before the end,"
    line += f" in {seconds:.1f} s"
    if output.is_json or not done.failed:
        facts = asdict(done) | {"busy": False, "seconds": round(seconds, 3)}
        facts["finished"] = facts.pop("is_finished")
        output.done(line, facts)
    if done.failed:
        number = len(done.failed)
        batches = f"{number} batch{'' if number == 1 else 'es'}"
        causes = "; ".join(sorted(set(done.failed)))
        raise CommandError(
            f"{line}; {batches} failed and left to the next run: {causes}"
        )


def _tell_count(
    arguments: argparse.Namespace, counts: dict[str, int], output: Output
) -> None:
    total = sum(counts.values())
    line = f"would delete {sessions(total)} ({_what(arguments)})"
    reasons = ", ".join(
        f"{counts[name]} {why.format(**vars(arguments))}"
        for name, why in WHY.items()
        if name in counts
    )
    output.done(
        f"{line}: {reasons}" if reasons else line,
        {"would_delete": total, "reasons": counts},
    )


def _what(arguments: argparse.Namespace) -> str:
    text = f"expired, or not used for {arguments.days:g} days"
    if arguments.anonymous_days is not None:
        text += f", {arguments.anonymous_days:g} if without a user"
    return text


def cutoffs_of(arguments: argparse.Namespace, site: Site) -> Cutoffs:
    """Return the times that are too old, by the limits and the options."""
    policy = site.factory.settings.policy
    cutoffs = policy.profiles.cutoffs(site.now)
    cutoffs = replace(cutoffs, unused=_ago(site, arguments.days))
    if arguments.anonymous_days is None:
        return cutoffs
    if policy.user_key is None:
        raise WrongUse(
            "--anonymous-days needs limitedsession.user_key: without one "
            "every session is without a user"
        )
    anonymous = _ago(site, arguments.anonymous_days)
    return replace(cutoffs, anonymous=anonymous)


def _ago(site: Site, number: float) -> int:
    return site.now - math.ceil(number * _DAY)


def pace_of(site: Site, batch: int, sleep: float | None) -> Pace:
    """Return the pace at which rows of this database are deleted.

    As measured, see docs/benchmarks.rst. SQLite has one writer at a time:
    others wait as long as a batch takes, and may then be unlucky again. On
    MariaDB they wait for the disk, which takes longer after a large batch.
    """
    least, longest, share = {
        "sqlite": (100, 0.01, 3.0),
        "postgresql": (1000, 0.01, 0.15),
    }.get(site.store.engine.dialect.name, (400, 0.005, 0.25))
    return Pace(least, batch, longest, share, sleep)


def days(text: str) -> float:
    """Return a number of days, which may have a fraction.

    Never zero by accident: that would delete every session there is.
    """
    number = _number(text)
    if not _LEAST_DAYS <= number <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a positive number of days (from --days, or "
            f"from the environment variable {DAYS_VARIABLE})"
        )
    return number


def _seconds(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= _MOST_DAYS * _DAY:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds"
        )
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
