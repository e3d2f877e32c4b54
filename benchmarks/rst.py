"""The tables as reStructuredText, put between two markers of a page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .report import Table

BEGIN = ".. Made by make bench-trim: begin"
END = ".. Made by make bench-trim: end"


def write(path: Path, text: str) -> None:
    """Write a text between the markers of a page; make it if it is missing."""
    before, after = around(path)
    page = f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"
    path.write_text(page, encoding="utf-8")


def around(path: Path) -> tuple[str, str]:
    """Return what stands before and behind the markers of a page.

    Raises ValueError if it has no markers: it is something else.
    """
    if not path.exists():
        return "", "\n"
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r}")
    return before, after


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
