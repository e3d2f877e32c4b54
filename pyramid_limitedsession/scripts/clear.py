"""pls-clear: delete all sessions."""

from __future__ import annotations

import argparse
import time

import sqlalchemy as sa

from ..sqlupkeep import Upkeep
from ..trimming import Timer, Trimmer
from .console import (
    CommandError,
    Output,
    Site,
    add_yes,
    all_sessions,
    confirm,
    parser_of,
    progress,
    run,
    sessions,
)
from .trim import pace_of

_BATCH = 5000


def main(argv: list[str] | None = None) -> int:
    """Run pls-clear."""
    parser = parser_of(
        "pls-clear",
        "Delete all sessions that there are when it begins, in batches. "
        "Everybody is signed out; a request under way does not bring its "
        "session back. Ids are not given out again.",
        "pls-clear production.ini",
        "pls-clear production.ini --yes",
    )
    add_yes(parser)
    return run(parser, argv, _clear)


def _clear(arguments: argparse.Namespace, site: Site, output: Output) -> int:
    upkeep, name = Upkeep(site.store), site.store.table.fullname
    everything = sa.true()
    count = upkeep.count(everything)
    confirm(
        arguments,
        f"delete {all_sessions(count)} of the table {name!r}",
        name,
    )
    with progress("clearing", output) as advance:
        trimmer = Trimmer(
            upkeep,
            everything,
            pace=pace_of(site, _BATCH, None),
            timer=Timer(time.monotonic, time.sleep),
            advance=advance,
        )
        # By id: on any other way a session in use might be passed over.
        done = trimmer.walk(upkeep.way_by_id())
    if done.failed:
        raise CommandError(
            f"deleted {sessions(done.deleted)}, but not all: {done.failed[0]}"
        )
    output.done(
        f"deleted {all_sessions(done.deleted)} of the table {name!r}",
        {"table": name, "deleted": done.deleted},
    )
    return 0
