"""What became of a request, as a user would tell it, and the page of it.

A test observes an `Outcome` and hands it to the ``outcomes`` fixture with
the situation it belongs to. What was observed stands in
``docs/outcomes.json``; the page ``docs/outcomes.rst`` is made of that. A test
whose outcome is not the one that stands there fails. ``make outcomes`` runs
the tests and writes both files anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from webtest import TestApp

from tests.apps import World, cookie_of

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "outcomes.json"
PAGE = DOCS / "outcomes.rst"
DATABASES = {
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "mariadb": "MariaDB",
}
MODES = ("joined", "separate")


@dataclass(frozen=True)
class Table:
    """One table of the page.

    :ivar intro: what stands above it.
    :ivar situations: its rows, in order.
    """

    intro: str
    situations: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a request left behind.

    :ivar answer: the status the browser got, or ``error``.
    :ivar row: what became of the row.
    :ivar cookie: what the answer said about the cookie.
    :ivar next: what the next request of the same browser finds.
    """

    answer: str
    row: str
    cookie: str
    next: str


def observe(
    world: World,
    browser: TestApp,
    path: str,
    look: Callable[[TestApp], Any],
    send: Callable[[TestApp, str], tuple[str, list[str]]] | None = None,
) -> Outcome:
    """Send one request and tell what it left behind.

    ``look(browser)`` is the next request of this browser; it returns the
    content that it finds. The browser has one session at most, and no other
    browser has any in this world. ``send(browser, path)`` is for a request
    to which something happens on the way; it returns what `send_and_wait`
    does.
    """
    before, found_before = _row(world), look(browser)
    answer, cookies = (send or send_and_wait)(browser, path)
    row = _change(before, _row(world))
    found = look(browser)
    if found == found_before:
        next_ = "as before"
    else:
        next_ = "the change" if found else "a new session"
    return Outcome(answer, row, _cookie(cookies), next_)


def send_and_wait(browser: TestApp, path: str) -> tuple[str, list[str]]:
    """Return the answer as it stands on the page, and its Set-Cookies."""
    try:
        response = browser.get(path, status="*")
    except Exception:
        # Nobody rendered it: the WSGI server would answer 500.
        return "error", []
    return str(response.status_int), cookie_of(response)


def _row(world: World) -> Any:
    rows = world.rows()
    assert len(rows) <= 1, "more than one row of one browser"
    return rows[0] if rows else None


def _change(before: Any, after: Any) -> str:
    if before is None or after is None:
        if before is after:
            return "none"
        return "new" if before is None else "deleted"
    assert before.id == after.id
    if before.session_id != after.session_id:
        return "new key"
    return "as before" if before.data == after.data else "changed"


def _cookie(cookies: list[str]) -> str:
    assert len(cookies) <= 1, "more than one Set-Cookie"
    if not cookies:
        return "none"
    return "deleted" if "Max-Age=0" in cookies[0] else "set"


# -- the results -------------------------------------------------------


def place(mode: str, database: str) -> str:
    """Return how a mode on a database is called in the results."""
    return f"{mode}, {DATABASES[database]}"


PLACES = [place(mode, database) for mode in MODES for database in DATABASES]


def read_results() -> dict[str, Any]:
    """Return what was observed: table → situation → place → outcome."""
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def write_results(cells: Iterable[tuple[str, str, str, Any]]) -> None:
    """Write newly observed cells, and the page made of all of them."""
    results = read_results()
    for table, situation, where, outcome in cells:
        results.setdefault(table, {}).setdefault(situation, {})
        results[table][situation][where] = outcome
    results = {
        table: {
            situation: _in_order(results[table][situation])
            for situation in TABLES[table].situations
            if situation in results[table]
        }
        for table in TABLES
        if table in results
    }
    RESULTS.write_text(_one_cell_a_line(results), encoding="utf-8")
    PAGE.write_text(make_page(results), encoding="utf-8")


def _in_order(cells: dict[str, Any]) -> dict[str, Any]:
    return {where: cells[where] for where in PLACES if where in cells}


def _one_cell_a_line(results: dict[str, Any]) -> str:
    text = json.dumps(results, indent=1, ensure_ascii=False)
    cell = re.compile(r"\{[^{}]*\}")
    return cell.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def as_result(outcome: Outcome) -> dict[str, str]:
    """Return an outcome as it stands in the results."""
    return asdict(outcome)


# -- the page ----------------------------------------------------------

_HEAD = """Outcomes
========

What happens to a session, looked up by what happens to the request. This page
is made from the results of the tests: each line was observed in a real
application, with SQLite, PostgreSQL and MariaDB, in joined and in separate
mode. ``make outcomes`` makes it anew, and a test whose outcome is not the one
that stands here fails.

*answer* is the status the browser gets ("error": nobody rendered the
exception, so the WSGI server answers 500), *row* what became of the
session's row, *cookie* what the answer does to the cookie, *next request*
what the next request of the same browser finds in its session.
"""


def make_page(results: dict[str, Any]) -> str:
    """Return the page in reStructuredText."""
    parts = [_HEAD]
    for name, table in TABLES.items():
        if name in results:
            parts += [
                f"{name}\n{'-' * len(name)}\n",
                f"{table.intro}\n" if table.intro else "",
                _list_table(results[name]),
            ]
    return "\n".join(part for part in parts if part)


def _list_table(situations: dict[str, Any]) -> str:
    titles = "the request", "where", "answer", "row", "cookie", "next request"
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 30 18 10 12 10 20",
        "",
        *_row_lines(titles),
    ]
    for situation, cells in situations.items():
        shown = situation
        for where, outcome in _grouped(cells):
            lines += _row_lines((shown, where, *outcome.values()))
            shown = ""
    return "\n".join(lines) + "\n"


def _row_lines(cells: Iterable[str]) -> list[str]:
    marks = ("*", *" " * 5)
    return [
        f"   {mark} - {cell}".rstrip()
        for mark, cell in zip(marks, cells, strict=True)
    ]


def _grouped(cells: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each different outcome and the places that have it."""
    groups: dict[str, list[str]] = {}
    for where in PLACES:
        if where in cells:
            groups.setdefault(json.dumps(cells[where]), []).append(where)
    for text, places in groups.items():
        yield _together(places), json.loads(text)


def _together(places: list[str]) -> str:
    if places == PLACES:
        return "everywhere"
    names = []
    for mode in MODES:
        mine = [name for name in places if name.startswith(mode)]
        if len(mine) == len(DATABASES):
            names.append(mode)
        else:
            names += mine
    return "; ".join(names)


# -- the tables --------------------------------------------------------

ENDINGS = (
    "returns 200",
    "returns 404",
    "returns 404, with a commit veto",
    "raises 404",
    "raises 404, with a commit veto",
    "returns ``HTTPFound``",
    "returns ``HTTPFound``, with a commit veto",
    "raises ``HTTPFound``",
    "raises ``HTTPFound``, with a commit veto",
    "raises, an exception view answers 500",
    "raises, an exception view answers 500, with a commit veto",
    "raises, nobody answers",
    "dooms the transaction",
    "is refused by a vote, an exception view answers 500",
    "is refused by a vote, nobody answers",
    "fails in the application's flush, an exception view answers 500",
    "fails in the application's flush, nobody answers",
    "fails in a before-commit hook, an exception view answers 500",
    "fails in a before-commit hook, nobody answers",
)

# Of the application's transactions.
_LEVELS = (
    "PostgreSQL at READ COMMITTED",
    "PostgreSQL at REPEATABLE READ",
    "PostgreSQL at SERIALIZABLE",
    "MariaDB at READ COMMITTED",
    "MariaDB at REPEATABLE READ",
    "MariaDB at REPEATABLE READ, ``innodb_snapshot_isolation`` on",
    "SQLite",
    "SQLite in WAL mode",
    "SQLite, the application issues ``BEGIN``",
    "SQLite in WAL mode, the application issues ``BEGIN``",
    "SQLite, the application issues ``BEGIN IMMEDIATE``",
    "SQLite in WAL mode, the application issues ``BEGIN IMMEDIATE``",
)

_PLACES = (
    "in a tween above pyramid_tm, before the view",
    "in the security policy",
    "in a tween below pyramid_tm, before the view",
    "in a ``NewRequest`` subscriber",
    "in a route predicate",
    "in a root factory",
    "in a ``ContextFound`` subscriber",
    "in the view",
    "in the view, with ``tm.activate_hook`` false",
    "in the view, under repoze.tm",
    "in a blank subrequest with tweens",
    "in a blank subrequest without tweens",
    "in a copied subrequest with tweens",
    "in a copied subrequest without tweens",
    "in a ``BeforeRender`` subscriber",
    "in an exception view",
    "in a view whose error a tween below pyramid_tm swallows",
    "in a view whose error a tween above pyramid_tm swallows",
    "in a tween below pyramid_tm, behind the view",
    "in a tween above pyramid_tm, behind the view",
    "in a response callback",
    "in a response callback of a request that failed",
    "in a ``NewResponse`` subscriber",
    "in a finished callback",
    "while streaming",
)

# There it was not tried how a session begins.
_CHANGES_ONLY = (
    "in the view, with ``tm.activate_hook`` false",
    "in a view whose error a tween below pyramid_tm swallows",
    "in a view whose error a tween above pyramid_tm swallows",
    "in a response callback of a request that failed",
)

TABLES = {
    "A new session": Table(
        "The visitor had none; the request puts something into it.", ENDINGS
    ),
    "A changed session": Table("The request changes a value.", ENDINGS),
    "A flash message": Table("The request flashes a message.", ENDINGS),
    "A new token": Table(
        "The request changes a value and calls ``rotate()``, as a login does.",
        ENDINGS,
    ),
    "A logout": Table("The request calls ``invalidate()``.", ENDINGS),
    "Replayed requests": Table(
        "With pyramid_retry, which tries three times; an exception view "
        "answers 503 when it gives up. Whatever was done in attempts that "
        "failed is done once in the end, or not at all.",
        (
            "starts a session, the third attempt succeeds",
            "changes one, the third attempt succeeds",
            "logs out, the third attempt succeeds",
            "logs out in the first attempt only, the third succeeds",
            "starts a session, every attempt fails",
            "changes one, every attempt fails",
            "logs out, every attempt fails",
        ),
    ),
    "Where the session is changed": Table(
        "A value is changed at this place; nobody else looks at the session.",
        _PLACES,
    ),
    "Where a session begins": Table(
        "The visitor had none; something is put into it at this place.",
        tuple(place for place in _PLACES if place not in _CHANGES_ONLY),
    ),
    "Two requests at once, by isolation level": Table(
        "Two requests of one session change different keys, without\n"
        "pyramid_retry; the second one has used the application's database\n"
        "before the first one commits. Both answers are told, and what the\n"
        'session holds then. "error (retry)" is one that pyramid_retry would\n'
        "replay, and then both changes are kept.",
        _LEVELS,
    ),
    "Faults": Table(
        "The request changes a value of its session, and data of the "
        "application, unless something else is said. An exception view "
        "answers 503; a process that is killed gives no answer. Databases "
        "for which it was not made to happen are left out. In separate mode "
        "on SQLite the application's own data is committed before the "
        "session is written.",
        (
            "finds the server stopped",
            "finds the pool exhausted",
            "finds the pool exhausted when it saves",
            "loses its connection between load and save",
            "loses its connection before its COMMIT arrives",
            "waits too long for a lock",
            "writes to a read-only server or file",
            "finds the disk full",
            "is killed (SIGKILL) before its COMMIT",
            "is killed (SIGKILL) behind its COMMIT",
            "only reads, from a read-only server or file",
            "calls ``rotate()``, and is killed (SIGKILL) behind its COMMIT",
            "logs out, and loses its connection before its COMMIT arrives",
            "logs out, and waits too long for a lock",
        ),
    ),
}
