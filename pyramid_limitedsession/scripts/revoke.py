"""pls-revoke: end sessions, of a user or of everybody."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..ending import revoke
from ..errors import SessionError
from ..sqlupkeep import Selection, Upkeep
from ..store import RowId, transaction_of
from .console import (
    CommandError,
    Output,
    Site,
    WrongUse,
    add_yes,
    confirm,
    parser_of,
    positive,
    progress,
    run,
    sessions,
    user_named,
)
from .times import When

_BATCH = 500


def main(argv: list[str] | None = None) -> int:
    """Run pls-revoke."""
    parser = parser_of(
        "pls-revoke",
        "End sessions: those that meet every condition given. Their browsers "
        "are told so (session.ended is 'revoked'); a request under way does "
        "not bring its session back.",
        "pls-revoke production.ini --user ann",
        "pls-revoke production.ini --user ann --except-id 4711",
        "pls-revoke production.ini --created-before 2026-11-25T14:30 --yes",
        "pls-revoke production.ini --all --dry-run",
    )
    _add_which(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="count them, end none"
    )
    add_yes(parser)
    return run(parser, argv, _revoke)


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--user", metavar="USER", help="the sessions of a user"
    )
    parser.add_argument(
        "--id",
        action="append",
        metavar="ID",
        help="the session with this id, see pls-list; may be repeated",
    )
    parser.add_argument(
        "--created-before",
        type=When,
        metavar="TIME",
        help="sessions that began before a time: 2026-11-25T14:30 (UTC), or "
        "2h for two hours ago",
    )
    parser.add_argument(
        "--all", action="store_true", help="all sessions, of everybody"
    )
    parser.add_argument(
        "--except-id",
        action="append",
        default=[],
        metavar="ID",
        help="but not the session with this id; may be repeated",
    )


def _revoke(arguments: argparse.Namespace, site: Site, output: Output) -> None:
    upkeep, selection = Upkeep(site.store), _selection(arguments, site)
    count = upkeep.count_selected(selection)
    if arguments.dry_run:
        output.done(f"would end {sessions(count)}", {"would_end": count})
        return
    if selection.user is None and not selection.ids:
        name = site.store.table.fullname
        confirm(arguments, f"end {sessions(count)} of everybody", name)
    ended = 0
    try:
        with progress("ending", output) as advance:
            for number in _batches(site, upkeep, selection):
                ended += number
                advance(ended, ended / max(count, ended, 1))
    except (SessionError, KeyboardInterrupt) as error:
        raise CommandError(
            f"ended {sessions(ended)}, but not all; call it again to go on"
        ) from (error if isinstance(error, SessionError) else None)
    output.done(f"ended {sessions(ended)}", {"ended": ended})


def _batches(
    site: Site, upkeep: Upkeep, selection: Selection
) -> Iterator[int]:
    """End batch after batch; yield how many each has ended."""
    after = None
    # Whose it is matters only if that was asked for: who signs in meanwhile
    # would get away otherwise.
    whoever = selection.user is None
    while found := upkeep.select(selection, after=after, most=_BATCH):
        with transaction_of(site.store) as work:
            yield revoke(work, found, "revoked", site.now, whoever=whoever)
        after = found[-1].id


def _selection(arguments: argparse.Namespace, site: Site) -> Selection:
    before = arguments.created_before
    given = (arguments.user, arguments.id, before)
    if arguments.all and given != (None, None, None):
        raise WrongUse("--all is all; take it out, or the other conditions")
    if not arguments.all and given == (None, None, None):
        raise WrongUse(
            "say which sessions: --user, --id, --created-before or --all"
        )
    user = arguments.user
    return Selection(
        user=None if user is None else user_named(user, site),
        ids=_ids(arguments.id or [], site),
        created_before=None if before is None else before.at(site.now),
        spared=_ids(arguments.except_id, site),
    )


def _ids(texts: list[str], site: Site) -> tuple[RowId, ...]:
    """Return what the table has as ids."""
    if not texts:
        return ()
    if site.store.statements.is_keyed:
        raise WrongUse(
            "the table has no column for ids; say which sessions with --user "
            "or --created-before"
        )
    kind = site.store.table.c.id.type.python_type
    try:
        return tuple(map(positive if kind is int else kind, texts))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise WrongUse(f"an id of a session: {error}") from None
