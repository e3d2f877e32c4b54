"""pls-stats: how many sessions there are, of which kind, how large and old."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..sqlstats import AGES, SIZES, Census, Group, total
from .console import (
    Output,
    Site,
    parser_of,
    positive,
    printable,
    run,
    sessions,
)
from .trim import WHY, add_which, cutoffs_of

_BAR = 40
_SIZE_NAMES = ("< 256 B", "< 1 KiB", "< 4 KiB", "< 16 KiB", "< 64 KiB", "more")
_AGE_NAMES = ("< 1 h", "< 1 d", "< 7 d", "< 30 d", "< 90 d", "more")
_STATE_NAMES = {
    "live": "live",
    "idle": "idle: past idle_timeout",
    "absolute": "expired: past absolute_timeout",
    "ended": "ended: revoked, kept to tell its browser why",
    "ahead": "refused: its times lie more than a day ahead",
    "damaged": "damaged: without times",
}


def main(argv: list[str] | None = None) -> int:
    """Run pls-stats."""
    parser = parser_of(
        "pls-stats",
        "Count the sessions: by state, with and without a user, by size and "
        "age, and what pls-trim would delete with the same options. Reads "
        "the whole table once, and the index of users.",
        "pls-stats production.ini",
        "pls-stats production.ini --users 10",
        "pls-stats production.ini --json",
    )
    add_which(parser)
    parser.add_argument(
        "--users",
        type=positive,
        metavar="N",
        help="name the N users with the most sessions (without it, only how "
        "many sessions the five largest have)",
    )
    return run(parser, argv, _stats)


@dataclass(frozen=True)
class _Block:
    """A part of the report: a title, and lines of a name and a number."""

    title: str
    lines: list[tuple[str, int]]


def _stats(arguments: argparse.Namespace, site: Site, output: Output) -> None:
    census = Census(site.store)
    groups = census.groups(cutoffs_of(arguments, site))
    users = census.largest_users(arguments.users or 5)
    facts = _facts(groups, users, is_named=arguments.users is not None)
    if not output.is_json:
        for block in _blocks(arguments, groups, facts):
            _show(block, output)
    states = facts["states"]
    output.done(
        f"{sessions(facts['sessions'])}, {states.get('live', 0)} of them "
        f"live; pls-trim would delete {sum(facts['would_trim'].values())}",
        facts,
    )


def _facts(
    groups: list[Group], users: list[tuple[str, int]], *, is_named: bool
) -> dict[str, Any]:
    live = [group for group in groups if group.state == "live"]
    trimmed = [group for group in groups if group.trimmed is not None]
    by_user = total(live, lambda group: group.is_signed_in)
    return {
        "sessions": sum(group.count for group in groups),
        "bytes": sum(group.bytes for group in groups),
        "states": total(groups, lambda group: group.state),
        "live": {
            "signed_in": by_user.get(True, 0),
            "anonymous": by_user.get(False, 0),
            "sizes": _spread(live, lambda group: group.size, SIZES),
            "ages": _spread(live, lambda group: group.age, AGES),
            "unused": _spread(live, lambda group: group.unused, AGES),
        },
        "would_trim": total(trimmed, lambda group: group.trimmed),
        # A name is as secret as what else is in a session.
        "largest_users": [
            {"user": str(user), "sessions": count}
            if is_named
            else {"sessions": count}
            for user, count in users
        ],
    }


def _spread(
    groups: list[Group], key: Callable[[Group], int], limits: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a histogram: how many are below each limit, None: no limit."""
    counts = total(groups, key)
    return [
        {"below": limit, "sessions": counts.get(place, 0)}
        for place, limit in enumerate([*limits, None])
    ]


def _blocks(
    arguments: argparse.Namespace, groups: list[Group], facts: dict[str, Any]
) -> list[_Block]:
    live = facts["live"]

    def histogram(title: str, names: Sequence[str], key: str) -> _Block:
        counts = [each["sessions"] for each in live[key]]
        return _Block(title, list(zip(names, counts, strict=True)))

    return [
        _Block(
            "sessions",
            [
                (_STATE_NAMES[name], facts["states"][name])
                for name in _STATE_NAMES
                if name in facts["states"]
            ],
        ),
        _Block(
            "live sessions",
            [
                ("signed in", live["signed_in"]),
                ("anonymous", live["anonymous"]),
            ],
        ),
        histogram("size of a live session's data", _SIZE_NAMES, "sizes"),
        histogram("age of live sessions", _AGE_NAMES, "ages"),
        histogram("since a live session was used", _AGE_NAMES, "unused"),
        _largest(facts),
        _Block(
            "pls-trim would delete",
            [
                (why.format(**vars(arguments)), facts["would_trim"][name])
                for name, why in WHY.items()
                if name in facts["would_trim"]
            ],
        ),
    ]


def _largest(facts: dict[str, Any]) -> _Block:
    users = enumerate(facts["largest_users"], 1)
    lines = [
        (printable(each.get("user", f"number {place}")), each["sessions"])
        for place, each in users
    ]
    return _Block("rows of the largest users, dead ones too", lines)


def _show(block: _Block, output: Output) -> None:
    if not block.lines:
        return
    most = max(count for _, count in block.lines) or 1
    width = max(len(name) for name, _ in block.lines)
    digits = max(len(f"{count:,}") for _, count in block.lines)
    terminal = output.terminal
    output.tell(f"{block.title}:")
    for name, count in block.lines:
        bar = "#" * round(_BAR * count / most)
        line = f"  {name:<{width}}  {count:>{digits},}"
        if terminal is None:
            output.tell(f"{line}  {bar}".rstrip())
        else:
            from rich.text import Text

            blocks = bar.replace("#", "█")
            terminal.print(Text.assemble(f"{line}  ", (blocks, "cyan")))
    output.tell("")
