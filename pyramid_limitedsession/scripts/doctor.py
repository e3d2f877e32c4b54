"""pls-doctor: check a running set-up, and say what to do about it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..doctor.checks import CHECKS, Finding, Report, check
from ..doctor.facts import Facts, Level
from .console import Output, Site, parser_of, run
from .looking import facts_of, public_url

_LEVELS: dict[Level, str] = {
    "error": "bold red",
    "warning": "yellow",
    "hint": "cyan",
}


def main(argv: list[str] | None = None) -> int:
    """Run pls-doctor."""
    parser = parser_of(
        "pls-doctor",
        "Check the sessions of a Pyramid application: its settings, its "
        "tweens, its database and its table, and say what to do about each "
        "finding. Nothing is changed. The rows are counted in one scan of "
        "the table. The exit code is 1 if there is an error among the "
        "findings.",
        "pls-doctor production.ini",
        "pls-doctor production.ini --url https://example.com/shop",
    )
    parser.add_argument(
        "--url",
        type=public_url,
        metavar="URL",
        help="where browsers find the application; the cookie's flags are "
        "checked against it",
    )
    return run(parser, argv, _doctor)


def _doctor(arguments: argparse.Namespace, site: Site, output: Output) -> int:
    facts = facts_of(arguments, site)
    report = check(facts)
    if output.terminal is not None:
        _draw(report, output.terminal)
    elif output.is_json:
        output.done("", _as_json(report, facts))
    else:
        for finding in report.findings:
            output.tell(f"{finding.level} {_told(finding)}")
        output.tell(_summary(report))
    return 1 if report.count("error") else 0


# -- the report --------------------------------------------------------


def _told(finding: Finding) -> str:
    return f"[{finding.name}] {finding.text}\n  cure: {finding.cure}"


def _summary(report: Report) -> str:
    made = _number(report.made, "check")
    if report.skipped:
        made += f"; {len(report.skipped)} could not be made"
    if not report.findings:
        return f"no findings ({made})"
    levels = ", ".join(
        _number(report.count(level), level)
        for level in _LEVELS
        if report.count(level)
    )
    found = _number(len(report.findings), "finding")
    return f"{found}: {levels} ({made})"


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _as_json(report: Report, facts: Facts) -> dict[str, Any]:
    return {
        "checks": report.made,
        "findings": [asdict(finding) for finding in report.findings],
        "ok": report.fine,
        "skipped": report.skipped,
        "database": facts.server.version if facts.server else None,
    }


def _draw(report: Report, terminal: Any) -> None:
    """Show what is fine too, where colours tell it apart."""
    from rich.text import Text

    for each in CHECKS:
        if each.name in report.fine:
            told = f"ok [{each.name}] {each.sentence}".replace("``", "")
            terminal.print(Text(told, style="dim"), soft_wrap=True)
    for finding in report.findings:
        level = finding.level, _LEVELS[finding.level]
        line = Text.assemble(level, " ", _told(finding))
        # Not wrapped: a cure may be copied.
        terminal.print(line, soft_wrap=True)
    terminal.print(Text(_summary(report), style="bold"), soft_wrap=True)
