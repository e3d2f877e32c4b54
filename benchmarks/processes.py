"""Starting the processes of a benchmark, and ending all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyramid_limitedsession.scripts.trim import DAYS_VARIABLE

_ROOT = Path(__file__).parent.parent


class BenchmarkError(Exception):
    """The benchmark cannot go on; the text says why."""


@contextmanager
def started(
    module: str, *arguments: str, told: dict[str, Any] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start ``python -m benchmarks.module``; kill it if it is left early.

    Args:
        module: a module of this package.
        arguments: its arguments.
        told: what it finds on its standard input, as a line of JSON. There,
            because a URL may hold a password.
    """
    environ = {**os.environ}
    # The defaults of pls-trim are what is measured.
    environ.pop(DAYS_VARIABLE, None)
    process = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=_ROOT,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for us alone: we end the others then.
        start_new_session=True,
    )
    with process:
        try:
            if told is not None and process.stdin is not None:
                process.stdin.write(json.dumps(told) + "\n")
                process.stdin.flush()
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], lines: int) -> Any:
    """Wait for a process; return the lines that it printed, read as JSON.

    Raises BenchmarkError if it printed fewer: then it failed.
    """
    out, err = process.communicate()
    printed = out.splitlines()
    if len(printed) != lines:
        raise BenchmarkError(f"a process failed:\n{err.strip()}")
    return [json.loads(line) for line in printed]
