"""A run: a contender deletes, and visitors use live sessions meanwhile."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .databases import Database
from .latencies import Latencies
from .processes import ended, started

DELETE, TRIM = "one DELETE", "pls-trim"
CONTENDERS = (DELETE, TRIM)
KINDS = ("reader", "writer")
# Between two phases, so that neither hears the end of the other.
_PAUSE = 0.5
INI = """\
[app:main]
use = call:benchmarks.app:main
limitedsession.sqlalchemy.url = {url}
limitedsession.table_name = {table}
"""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    :ivar rows: of the table.
    :ivar rounds: how often each contender runs.
    :ivar rate: requests a second of the reader, and of the writer.
    :ivar alone: seconds of these before each run.
    :ivar options: for pls-trim.
    """

    rows: int
    rounds: int
    rate: float
    alone: float
    options: tuple[str, ...]


@dataclass(frozen=True)
class Deletion:
    """What a contender did.

    :ivar ended: when, by the clock of all processes.
    :ivar peak: the bytes of memory that its process took at most.
    """

    deleted: int
    seconds: float
    ended: float
    peak: int


@dataclass(frozen=True)
class Run:
    """A contender's deletion, and how long visitors waited meanwhile."""

    contender: str
    deletion: Deletion
    alone: dict[str, Latencies]
    during: dict[str, Latencies]

    @property
    def rate(self) -> float:
        """Rows deleted per second."""
        return self.deletion.deleted / self.deletion.seconds


@dataclass
class Measured:
    """All runs on one database.

    :ivar small: pls-trim on a tenth of the rows.
    :ivar problems: what must not be, in sentences.
    """

    name: str
    version: str
    durability: str
    small: Deletion
    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def of(self, contender: str) -> list[Run]:
        """Return the runs of one contender."""
        return [run for run in self.runs if run.contender == contender]


class Bench:
    """Measures one database.

    Args:
        database: not yet filled.
        folder: for the ini file.
        tell: called with what is being done.
    """

    def __init__(
        self,
        database: Database,
        plan: Plan,
        *,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        self._database = database
        self._plan = plan
        self._tell = tell
        self._told = {
            "url": database.url,
            "table": database.table,
            "rows": plan.rows,
            "rate": plan.rate,
        }
        self._ini = folder / f"{database.name}.ini"
        # A "%" begins a variable there.
        url = database.url.replace("%", "%%")
        self._ini.write_text(INI.format(url=url, table=database.table))
        self._problems: list[str] = []

    def measure(self) -> Measured:
        """Make the tables, do all runs; return what came of them."""
        database, plan = self._database, self._plan
        self._tell(f"making {plan.rows:,} rows")
        database.make_source(plan.rows)
        few = plan.rows // 10
        self._tell(f"{TRIM} on {few:,} rows")
        small = self._on_copy(few, TRIM, lambda: self._delete(TRIM))
        self._tell(f"{TRIM} with no visitors: {small.seconds:.2f} s")
        measured = Measured(
            database.name,
            database.version(),
            database.durability(),
            small,
            problems=self._problems,
        )
        for number in range(plan.rounds):
            for contender in CONTENDERS:
                self._tell(f"{contender}, round {number + 1}")
                run = self._on_copy(
                    plan.rows,
                    contender,
                    lambda name=contender: self._run(name),
                )
                measured.runs.append(run)
                self._tell(f"{contender}: {run.deletion.seconds:.2f} s")
        return measured

    def _on_copy(
        self, rows: int, contender: str, act: Callable[[], Any]
    ) -> Any:
        """Act on a fresh copy, and look at what is left of it."""
        self._database.make_copy(rows)
        live, _ = self._database.count()
        done = act()
        alive, dead = self._database.count()
        if alive != live:
            self._problem(contender, f"{live - alive} live rows are gone")
        if dead:
            self._problem(contender, f"{dead} dead rows are left")
        return done

    def _problem(self, contender: str, text: str) -> None:
        self._problems.append(f"{self._database.name}, {contender}: {text}")

    def _run(self, contender: str) -> Run:
        with self._visitors() as visitors:
            time.sleep(_PAUSE)
            begin = time.monotonic()
            time.sleep(self._plan.alone)
            end = time.monotonic()
            deletion = self._delete(contender)
            time.sleep(_PAUSE)
            requests = {
                kind: self._requests(contender, kind, process)
                for kind, process in visitors.items()
            }
        start = deletion.ended - deletion.seconds
        return Run(
            contender,
            deletion,
            {
                kind: Latencies.within(done, begin, end)
                for kind, done in requests.items()
            },
            {
                kind: Latencies.within(done, start, deletion.ended)
                for kind, done in requests.items()
            },
        )

    @contextmanager
    def _visitors(self) -> Iterator[dict[str, subprocess.Popen[str]]]:
        with ExitStack() as stack:
            visitors = {}
            for kind in KINDS:
                told = {**self._told, "kind": kind}
                process = stack.enter_context(started("load", told=told))
                visitors[kind] = process
            for process in visitors.values():
                # It says that it is ready.
                if process.stdout is None or not process.stdout.readline():
                    ended(process, 1)
            yield visitors

    def _requests(
        self, contender: str, kind: str, process: subprocess.Popen[str]
    ) -> Any:
        (told,) = ended(process, 1)
        if told["lost"]:
            text = f"the {kind} missed {told['lost']} live sessions"
            self._problem(contender, text)
        return told["done"]

    def _delete(self, contender: str) -> Deletion:
        if contender == DELETE:
            arguments, told = ["delete"], self._told
        else:
            options = self._plan.options
            arguments = ["trim", str(self._ini), "--json", *options]
            told = None
        with started("contender", *arguments, told=told) as process:
            did, measured = ended(process, 2)
        if not did.get("finished", True):
            self._problem(contender, "it stopped before the end")
        for failure in did.get("failed", ()):
            self._problem(contender, f"a batch failed: {failure}")
        return Deletion(did["deleted"], did["seconds"], **measured)
