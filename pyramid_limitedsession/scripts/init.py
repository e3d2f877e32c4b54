"""pls-init: make the table, or print its DDL."""

from __future__ import annotations

import argparse

from .console import Output, Site, parser_of, run


def main(argv: list[str] | None = None) -> int:
    """Run pls-init."""
    parser = parser_of(
        "pls-init",
        "Make the sessions table of a Pyramid application.",
        "pls-init production.ini",
        "pls-init production.ini --sql",
    )
    parser.add_argument(
        "--sql",
        action="store_true",
        help="print the statements instead of running them (with "
        "create_table on, the application itself makes its table when it "
        "starts, as it does here)",
    )
    return run(parser, argv, _init)


def _init(arguments: argparse.Namespace, site: Site, output: Output) -> None:
    store = site.store
    name = store.table.fullname
    if arguments.sql:
        statements = store.ddl()
        output.done("\n".join(statements), {"statements": statements})
    elif store.create():
        output.done(f"made the table {name!r}", {"table": name, "made": True})
    else:
        store.check()
        output.done(
            f"the table {name!r} exists already",
            {"table": name, "made": False},
        )
