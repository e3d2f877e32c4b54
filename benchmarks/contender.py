"""What deletes, as a process of its own: ``delete`` or ``trim``.

``delete`` executes one plain DELETE; a line of JSON on standard input says
where. ``trim ...`` is the command pls-trim, called with the arguments that
follow. Either prints a line of JSON with what it did, and then one with when
that ended and how much memory the process took at most.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

_DAY = 86400
_STATUS = Path("/proc/self/status")


def delete(told: dict[str, Any]) -> None:
    """Delete what pls-trim deletes in one statement."""
    import sqlalchemy as sa

    from pyramid_limitedsession.deadrows import DeadRows
    from pyramid_limitedsession.layout import Layout
    from pyramid_limitedsession.schema import typed_table
    from pyramid_limitedsession.settings import read_settings

    now = int(time.time())
    cutoffs = read_settings({}).policy.profiles.cutoffs(now)
    cutoffs = replace(cutoffs, unused=now - 30 * _DAY)
    table = typed_table(Layout(told["table"]))
    statement = table.delete().where(DeadRows(table).is_dead(cutoffs))
    engine = sa.create_engine(told["url"], hide_parameters=True)
    with engine.connect() as connection:
        started = time.monotonic()
        deleted = connection.execute(statement).rowcount
        connection.commit()
        seconds = time.monotonic() - started
    print(json.dumps({"deleted": deleted, "seconds": seconds}))


def trim(arguments: list[str]) -> int:
    """Be pls-trim."""
    from pyramid_limitedsession.scripts.trim import main as pls_trim

    return pls_trim(arguments)


def peak() -> int:
    """Return the memory that this process took at most, in bytes.

    The kernel's ``ru_maxrss`` is too large where a process was started by a
    larger one: it begins with the memory of that.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> int:
    """Be what the first argument says."""
    what, *arguments = sys.argv[1:]
    code = 0
    if what == "delete":
        delete(json.loads(sys.stdin.readline()))
    else:
        code = trim(arguments)
    ended = time.monotonic()
    print(json.dumps({"ended": ended, "peak": peak()}))
    return code


if __name__ == "__main__":
    sys.exit(main())
