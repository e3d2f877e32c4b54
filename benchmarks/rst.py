"""Tables as reStructuredText, put between two markers of a page.

Each benchmark has markers of its own, which name its command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from .report import Table


def write(path: Path, text: str, command: str) -> None:
    """Write a text between the markers of a page; make it if it is missing."""
    before, after = around(path, command)
    begin, end = _markers(command)
    page = f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"
    path.write_text(page, encoding="utf-8")


def around(path: Path, command: str) -> tuple[str, str]:
    """Return what stands before and behind the markers of a page.

    Raises ValueError if it has no markers: it is something else.
    """
    if not path.exists():
        return "", "\n"
    first, last = _markers(command)
    before, begin, rest = path.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {first!r} and {last!r}")
    return before, after


def argument(command: str) -> Callable[[str], Path]:
    """Return a reader of the page that a command is to write into."""

    def read(text: str) -> Path:
        path = Path(text)
        try:
            # Now, not after all the work.
            around(path, command)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return path

    return read


def _markers(command: str) -> tuple[str, str]:
    start = f".. Made by make {command}:"
    return f"{start} begin", f"{start} end"


def page_of(shown: Iterable[Table], facts: Iterable[str]) -> str:
    """Return what stands between the markers.

    First the table that says something about other machines too.
    """
    first, *others = map(_table, shown)
    lines = [f"* {fact}" for fact in facts]
    return "\n".join([first, "", "Measured with", "", *lines, *others])


def _table(table: Table) -> str:
    lines = [
        "",
        f"**{table.title}**",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :stub-columns: 1",
        "",
    ]
    for row in (table.header, *table.rows):
        for number, text in enumerate(row):
            mark = "-" if number else "* -"
            lines.append(f"   {mark:>3} {text}".rstrip())
    return "\n".join(lines)
