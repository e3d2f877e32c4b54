"""pls-upgrade: hash plain ids, and rewrite pickles as JSON."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..errors import SessionBusyError, SessionConnectionError
from ..serializers import HybridSerializer
from ..sqlupgrade import Batch, Upgrade
from ..sqlupkeep import Upkeep, Way
from ..store import RowId
from .console import (
    CommandError,
    Output,
    Site,
    WrongUse,
    parser_of,
    positive,
    progress,
    run,
)

_BATCH = 200
# A busy batch is tried so often, with so many seconds in between.
_TRIES = 5
_BETWEEN_TRIES = 0.1
# Why rows were left alone: said of one, and of several.
_LEFT = {
    "odd": (
        "1 id that no cookie can have was left alone",
        "{} ids that no cookie can have were left alone",
    ),
    "taken": (
        "1 id is there hashed already",
        "{} ids are there hashed already",
    ),
    "sealed": ("1 row is encrypted", "{} rows are encrypted"),
    "unreadable": ("1 row cannot be read", "{} rows cannot be read"),
    "too_large": (
        "1 row is larger than max_data_size as JSON",
        "{} rows are larger than max_data_size as JSON",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run pls-upgrade."""
    parser = parser_of(
        "pls-upgrade",
        "Hash the ids of sessions that are still plain, while the "
        "application runs with legacy_ids = true. It may be stopped at any "
        "moment, and called again. Rows that cannot be changed are counted "
        "and left alone.",
        "pls-upgrade production.ini",
        "pls-upgrade production.ini --data --dry-run",
    )
    parser.add_argument(
        "--data",
        action="store_true",
        help="rewrite pickled rows as JSON, too (with serializer = hybrid)",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=_BATCH,
        metavar="N",
        help=f"change at most N rows in one transaction (default: {_BATCH})",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="count what would be changed, change nothing",
    )
    return run(parser, argv, _upgrade)


def _upgrade(
    arguments: argparse.Namespace, site: Site, output: Output
) -> None:
    policy = site.factory.settings.policy
    serializer = policy.serializer if arguments.data else None
    if not isinstance(serializer, HybridSerializer | None):
        raise WrongUse(
            "--data needs limitedsession.serializer = hybrid in the ini file"
        )
    upgrade = Upgrade(
        site.store,
        serializer=serializer,
        limit=policy.max_data_size,
        is_dry=arguments.dry_run,
    )
    counts: Counter[str] = Counter()
    started = time.monotonic()
    try:
        with progress("upgrading", output) as advance:
            # On SQLite others can write only while this rests.
            is_resting = site.store.commits_last and not arguments.dry_run
            way = Upkeep(site.store).way_by_id()
            _walk(upgrade, way, arguments.batch, counts, advance, is_resting)
    except KeyboardInterrupt:
        raise CommandError(
            f"stopped: {_done(arguments, counts)} so far; call it again to "
            "go on"
        ) from None
    seconds = time.monotonic() - started
    line = "; ".join([_done(arguments, counts, seconds), *_left(counts)])
    output.done(line, _facts(arguments, counts, seconds))


def _walk(
    upgrade: Upgrade,
    way: Way,
    most: int,
    counts: Counter[str],
    advance: Callable[..., None],
    is_resting: bool,
) -> None:
    """Deal with batch after batch; count what came of them."""
    after = way.start
    while True:
        started = time.monotonic()
        batch = _tried(upgrade, after, most)
        counts.update(batch.counts)
        if batch.last is None:
            return
        after = batch.last
        advance(counts.total(), way.share(after))
        if is_resting:
            time.sleep(time.monotonic() - started)


def _tried(upgrade: Upgrade, after: RowId | None, most: int) -> Batch:
    for tries in range(1, _TRIES):
        try:
            return upgrade.batch(after=after, most=most)
        except (SessionBusyError, SessionConnectionError):
            time.sleep(_BETWEEN_TRIES * tries)
    return upgrade.batch(after=after, most=most)


def _done(
    arguments: argparse.Namespace,
    counts: Counter[str],
    seconds: float | None = None,
) -> str:
    hash_, rewrite = "hashed", "rewrote"
    if arguments.dry_run:
        hash_, rewrite = "would hash", "rewrite"
    line = f"{hash_} {_number(counts['hashed'], 'id')}"
    if arguments.data:
        rows = _number(counts["rewritten"], "row")
        line += f" and {rewrite} {rows} as JSON"
    if seconds is not None and not arguments.dry_run:
        line += f" in {seconds:.1f} s"
    return line


def _left(counts: Counter[str]) -> list[str]:
    return [
        one if counts[name] == 1 else several.format(counts[name])
        for name, (one, several) in _LEFT.items()
        if counts[name]
    ]


def _facts(
    arguments: argparse.Namespace, counts: Counter[str], seconds: float
) -> dict[str, Any]:
    return {
        "hashed": counts["hashed"],
        "rewritten": counts["rewritten"],
        **{name: counts[name] for name in _LEFT},
        "dry_run": arguments.dry_run,
        "seconds": round(seconds, 1),
    }


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
