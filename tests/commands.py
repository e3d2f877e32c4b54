"""The pls-* commands, as tests call them: with real ini files."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).parent.parent
DAY = 86400
VARIABLE = "SESSION_DAYS_TRIM_THRESHOLD"
# Each command, and what it needs besides the ini file to do its work.
COMMANDS: dict[str, tuple[str, ...]] = {
    "pls-clear": ("--yes",),
    "pls-doctor": (),
    "pls-init": (),
    "pls-list": ("ann",),
    "pls-migration": (),
    "pls-revoke": ("--all", "--yes"),
    "pls-stats": (),
    "pls-trim": (),
    "pls-upgrade": (),
}


def main_of(name: str) -> Any:
    """Return the function of a command."""
    module = name.removeprefix("pls-")
    return import_module(f"pyramid_limitedsession.scripts.{module}").main


class Ini:
    """An ini file for the table of a world, and the commands that take it.

    :ivar path: the file.
    """

    def __init__(self, path: Path, capsys: Any) -> None:
        self.path = path
        self._capsys = capsys
        self._sections: dict[str, dict[str, Any]] = {}

    def write(self, section: str = "main", **settings: Any) -> Ini:
        """Add ``[app:section]``; ``limited__x`` is ``limitedsession.x``."""
        self._sections[section] = {
            name.replace("limited__", "limitedsession.").replace("__", "."): (
                str(value)
            )
            for name, value in settings.items()
        }
        lines = []
        for name, values in self._sections.items():
            lines += [f"[app:{name}]", "use = call:tests.ini_app:main"]
            lines += [f"{key} = {text}" for key, text in values.items()]
        self.path.write_text("\n".join(lines))
        return self

    def call(self, name: str, *arguments: str, section: str = "") -> Any:
        """Call a command; return its exit code, stdout and stderr."""
        argv = [f"{self.path}{section}", *arguments]
        try:
            code: Any = main_of(name)(argv)
        except SystemExit as exit_:
            code = exit_.code
        return code, *self._capsys.readouterr()

    def work(self, name: str, *arguments: str, section: str = "") -> Any:
        """Call a command with what it needs."""
        given = (*COMMANDS[name], *arguments)
        return self.call(name, *given, section=section)

    def init(self, *arguments: str, section: str = "") -> Any:
        """Call pls-init."""
        return self.call("pls-init", *arguments, section=section)

    def trim(self, *arguments: str, section: str = "") -> Any:
        """Call pls-trim."""
        return self.call("pls-trim", *arguments, section=section)

    def process(
        self,
        name: str,
        *arguments: str,
        environ: dict[str, str] | None = None,
        **popen: Any,
    ) -> Any:
        """Start a command as a process of its own."""
        function = name.removeprefix("pls-")
        code = (
            f"import sys; from pyramid_limitedsession.scripts.{function} "
            "import main; sys.exit(main())"
        )
        own = {"PYTHONPATH": str(ROOT), "TERM": "xterm", **(environ or {})}
        inherited = {**os.environ}
        inherited.pop(VARIABLE, None)
        return subprocess.Popen(
            [sys.executable, "-c", code, str(self.path), *arguments],
            env={**inherited, **own},
            text=True,
            **{
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **popen,
            },
        )

    def run(self, name: str, *arguments: str) -> Any:
        """Run a process to its end; return its code, stdout and stderr."""
        with self.process(name, *arguments) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def on_terminal(self, name: str, *arguments: str, typed: str = "") -> Any:
        """Run a process on a terminal; return its code and what is shown."""
        import pty

        terminal, end = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
        with self.process(name, *arguments, **streams) as process:
            os.close(end)
            os.write(terminal, typed.encode())
            shown = b""
            while part := _read(terminal):
                shown += part
        os.close(terminal)
        return process.returncode, shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # Linux: the other end was closed.
        return b""


def put(world, *times: tuple[int, int], **columns: Any) -> None:
    """Store rows, each created and last seen at these times.

    ``columns`` are the other columns of all of them.
    """
    first = count(world)
    world.execute(
        world.table.insert(),
        [
            {
                "session_id": f"2::{number:064x}",
                "data": "{}",
                "version": 1,
                "created_at": created,
                "updated_at": seen,
                "expires_at": None,
                **columns,
            }
            for number, (created, seen) in enumerate(times, first)
        ],
    )


def times(world) -> list[tuple[int, int]]:
    """Return when the rows that are there were created and last seen."""
    return [(row.created_at, row.updated_at) for row in world.rows()]


def count(world, *where: Any) -> int:
    """Return how many rows there are, of those that meet conditions."""
    query = sa.select(sa.func.count()).select_from(world.table)
    with world.engine.connect() as connection:
        return int(connection.execute(query.where(*where)).scalar_one())
