"""pls-migration: write a revision into the application's Alembic folder."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import textwrap
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pyramid.scripts.common import parse_vars

from ..migrations import MAKE, Plan, plan_for
from ..schema import plain_table
from .console import CommandError, Output, Site, WrongUse, parser_of, run

if TYPE_CHECKING:
    from alembic.script import Script


def main(argv: list[str] | None = None) -> int:
    """Run pls-migration."""
    parser = parser_of(
        "pls-migration",
        "Write an Alembic revision that makes the sessions table of a "
        "Pyramid\napplication, or brings that of an earlier version up to "
        "date. Only alembic,\nwhen it is called, changes the database.",
        "pls-migration production.ini --dry-run",
        "pls-migration development.ini",
        "pls-migration development.ini --config alembic.ini --head 1975ea83",
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="INI",
        help="the ini file with the section [alembic], if it is another one",
    )
    parser.add_argument(
        "--head",
        metavar="REV",
        help="the head that the revision is to follow, if there are several",
    )
    parser.add_argument(
        "-m",
        "--message",
        metavar="TEXT",
        type=_message,
        help="what to call the revision",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the revision would do, and write none",
    )
    return run(parser, argv, _migrate)


def _migrate(
    arguments: argparse.Namespace, site: Site, output: Output
) -> None:
    ini = site.config_uri.partition("#")[0].rpartition("://")[2]
    folder = _Folder(
        arguments.config or ini, parse_vars(arguments.config_vars)
    )
    name = site.store.table.fullname
    plan = _plan(site)
    facts = {"table": name, "change": plan.change, "left": list(plan.left)}
    left = ", ".join(plan.left)
    left = left and f"; unlike this package's own, and left so: {left}"
    if plan.change is None:
        line = f"nothing to do: the table {name!r} is up to date{left}"
        output.done(line, facts)
        return
    folder.check(arguments.head)
    if arguments.dry_run:
        _show(plan, facts, output)
        return
    message = arguments.message or f"{plan.change} the sessions table"
    script = folder.write(plan, message=message, head=arguments.head)
    does = "makes" if plan.change == MAKE else "upgrades"
    output.done(
        f"wrote {_short(script.path)}, which {does} the table {name!r}"
        f"{left}; run: {folder.upgrading(script)}",
        facts | {"path": script.path, "revision": script.revision},
    )


def _plan(site: Site) -> Plan:
    """Return what is to be done to the application's table."""
    layout, table = site.factory.settings.layout, site.store.table
    if layout.table is not None:
        raise CommandError(
            f"the table {table.fullname!r} is that of a class of this "
            "application (limitedsession.model), which Alembic's own "
            "autogenerate knows: alembic revision --autogenerate"
        )
    is_native = site.store.statements.is_native
    target = plain_table(layout, sa.MetaData(), is_native=is_native)
    with site.store.autocommit() as connection:
        plan = plan_for(connection, target)
    if plan.lacks:
        raise CommandError(
            f"the table {table.fullname!r} is none of this package's: it "
            f"lacks {', '.join(plan.lacks)}; see what pls-init --sql prints"
        )
    return plan


def _show(plan: Plan, facts: dict[str, Any], output: Output) -> None:
    """Print what a revision would do."""
    # The first line of a half is indented by the template.
    upgrade, downgrade = (
        textwrap.dedent(f"    {half}")
        for half in (plan.upgrade, plan.downgrade)
    )
    halves = {"upgrade": upgrade, "downgrade": downgrade}
    imports = plan.imports and f"{plan.imports}\n\n"
    output.done(
        f"{imports}{upgrade}", facts | {"imports": plan.imports} | halves
    )


class _Folder:
    """The application's Alembic folder, as an ini file tells it."""

    def __init__(self, path: str, variables: dict[str, str]) -> None:
        if not os.path.exists(path):
            raise WrongUse(f"there is no file {path!r}")
        try:
            from alembic.config import Config
            from alembic.script import ScriptDirectory
            from alembic.util import CommandError as AlembicError
        except ImportError as error:
            raise CommandError(
                "this needs Alembic; "
                "pip install 'pyramid_limitedsession[migrations]'"
            ) from error
        self._path = path
        self._config = Config(path, config_args=variables)
        try:
            # Asked first, because it knows whether there is the section.
            self._config.get_main_option("script_location")
            self._scripts = ScriptDirectory.from_config(self._config)
        except AlembicError as error:
            raise CommandError(
                f"{path!r} does not lead to this application's revisions; "
                "name the ini file that does with --config"
            ) from error

    def check(self, head: str | None) -> None:
        """Raise WrongUse if a revision cannot follow this head."""
        from alembic.util import CommandError as AlembicError

        try:
            found = self._scripts.get_revisions(head or "head")
            can_follow = all(script.is_head for script in found)
        except AlembicError:
            can_follow = False
        if not can_follow:
            heads = ", ".join(self._scripts.get_heads())
            raise WrongUse(
                "say with --head which head the revision is to follow: "
                f"{heads}"
            )

    def write(self, plan: Plan, *, message: str, head: str | None) -> Script:
        """Write the revision by the application's own template."""
        from alembic.util import rev_id

        # What Alembic tells meanwhile is not for who reads our output.
        with redirect_stdout(io.StringIO()):
            script = self._scripts.generate_revision(
                rev_id(),
                message,
                head=head,
                config=self._config,
                imports=plan.imports,
                upgrades=plan.upgrade,
                downgrades=plan.downgrade,
            )
        if script is None:
            raise CommandError("Alembic does not find what it has written")
        path = Path(script.path)
        if not _calls(plan.upgrade.encode()) <= _calls(path.read_bytes()):
            path.unlink()
            raise CommandError(
                "this application's script.py.mako has no ${upgrades}, as one "
                "for several databases; put what --dry-run prints into a "
                "revision of your own"
            )
        return script

    def upgrading(self, script: Script) -> str:
        """Return the command that runs the revision."""
        last = (
            "head" if len(self._scripts.get_heads()) == 1 else script.revision
        )
        return f"alembic -c {shlex.quote(self._path)} upgrade {last}"


def _calls(text: bytes) -> set[bytes]:
    """Return the operations that are called, however they are formatted."""
    return set(re.findall(rb"\bop\.\w+\(", text))


def _short(path: str) -> str:
    """Return a path as seen from the current folder, if it is below."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _message(text: str) -> str:
    """Return a message that can stand in a docstring."""
    if not text.isprintable() or set(text) & set('"\\'):
        raise argparse.ArgumentTypeError(
            f"{text!r} holds what cannot stand in a docstring"
        )
    return text
