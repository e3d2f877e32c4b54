"""pls-list: the sessions of a user."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import UnreadableDataError
from ..loading import verdict_of
from ..settings import Policy
from ..store import Record
from ..tokens import shown_id
from .console import Output, Site, parser_of, run, sessions, user_named
from .times import moment

_COLUMNS = ("id", "state", "created", "last used", "profile")


def main(argv: list[str] | None = None) -> int:
    """Run pls-list."""
    parser = parser_of(
        "pls-list",
        "List the sessions of a user that are in the table, the last used "
        "first, without what is in them. Their ids are what pls-revoke takes.",
        "pls-list production.ini ann",
        "pls-list production.ini 42 --json",
    )
    parser.add_argument(
        "user", metavar="USER", help="as the session's user_key has it"
    )
    return run(parser, argv, _list)


def _list(arguments: argparse.Namespace, site: Site, output: Output) -> None:
    user = user_named(arguments.user, site)
    found = sorted(
        site.store.of_user(user),
        key=lambda record: (record.seen or 0, record.id),
        reverse=True,
    )
    policy = site.factory.settings.policy
    states = [_state(policy, record, site.now) for record in found]
    rows = list(zip(found, states, strict=True))
    live = states.count("live")
    line = f"{sessions(len(found))}, {live} of them live"
    if not output.is_json:
        _show([_row(*pair) for pair in rows], output)
    output.done(line, {"sessions": [_facts(*pair) for pair in rows]})


def _state(policy: Policy, record: Record, now: int) -> str:
    try:
        verdict = verdict_of(policy, record, now)
    except UnreadableDataError:
        return "damaged"
    return "live" if verdict == "active" else verdict


def _row(record: Record, state: str) -> tuple[str, ...]:
    times = moment(record.created), moment(record.seen)
    return str(shown_id(record.id)), state, *times, record.profile or ""


def _facts(record: Record, state: str) -> dict[str, Any]:
    return {
        "id": shown_id(record.id),
        "state": state,
        "created": record.created,
        "last_used": record.seen,
        "profile": record.profile,
    }


def _show(rows: list[tuple[str, ...]], output: Output) -> None:
    if not rows:
        return
    terminal = output.terminal
    if terminal is None:
        lines = [_COLUMNS, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = map(str.ljust, line, widths)
            output.tell("  ".join(cells).rstrip())
        return
    from rich.table import Table

    table = Table(*_COLUMNS)
    for row in rows:
        table.add_row(*row)
    terminal.print(table)
