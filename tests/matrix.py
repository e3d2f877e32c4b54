"""The matrix of stores, databases, modes and serializers, and its page.

Each test of a contract tells what passed on which store. The numbers stand
in ``docs/matrix.json``; the page ``docs/matrix.rst`` is made of that. ``make
matrix`` runs the tests and writes both files anew.
"""

from __future__ import annotations

import json
from typing import Any

from pyramid_limitedsession.testing import SessionContract, StoreContract
from tests.outcomes import DATABASES, DOCS, MODES

RESULTS = DOCS / "matrix.json"
PAGE = DOCS / "matrix.rst"
MEMORY, BYPASS = "``MemoryStore``", "the example ``bypass.py``"
# Those that keep the contract of stores, and those that an application has.
STORES = (*DATABASES.values(), MEMORY, BYPASS)
PLACES = (
    *(f"{name}, {mode}" for name in DATABASES.values() for mode in MODES),
    MEMORY,
    BYPASS,
)
SERIALIZERS: dict[str, dict[str, Any]] = {
    "``json``": {"serializer": "json"},
    "``hybrid``": {"serializer": "hybrid"},
    "``pickle``": {"serializer": "pickle"},
    "``null``": {"serializer": "null"},
    "``rails``": {"serializer": "rails"},
    "your own": {"serializer": "tests.matrix.OwnSerializer"},
    "``json``, encrypted": {"serializer": "json", "encrypt": "true"},
}


class OwnSerializer:
    """What an application may have written: JSON, and bytes."""

    def dumps(self, data):
        """Return the data as bytes."""
        return json.dumps(data).encode("utf-16")

    def loads(self, text):
        """Return the data."""
        return json.loads(text.decode("utf-16"))


def names_in(contract: type) -> list[str]:
    """Return the names of a contract's tests."""
    return [name for name in dir(contract) if name.startswith("test_")]


def complete() -> dict[str, Any]:
    """Return what the page says when everything passes."""
    stores, sessions = map(names_in, (StoreContract, SessionContract))
    return {
        "stores": dict.fromkeys(STORES, len(stores)),
        "sessions": {
            place: dict.fromkeys(SERIALIZERS, len(sessions))
            for place in PLACES
        },
    }


def read_matrix() -> dict[str, Any]:
    """Return the numbers of the page."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


class MatrixWriter:
    """Counts what has passed, and writes the page once the tests have run."""

    def __init__(self) -> None:
        self._stores: dict[str, int] = {}
        self._sessions: dict[str, dict[str, int]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take what a passed test has told."""
        if report.when != "call" or not report.passed:
            return
        for name, value in report.user_properties:
            if name == "kept by":
                self._stores[value] = self._stores.get(value, 0) + 1
            elif name == "sessions":
                place, serializer, number = value
                cells = self._sessions.setdefault(place, {})
                cells[serializer] = number

    def pytest_sessionfinish(self) -> None:
        """Write the files."""
        results = read_matrix()
        for name, number in self._stores.items():
            results["stores"][name] = number
        for place, cells in self._sessions.items():
            results["sessions"].setdefault(place, {}).update(cells)
        text = json.dumps(_in_order(results), indent=1)
        RESULTS.write_text(text + "\n", encoding="utf-8")
        PAGE.write_text(make_page(read_matrix()), encoding="utf-8")


def _in_order(results: dict[str, Any]) -> dict[str, Any]:
    stores, sessions = results["stores"], results["sessions"]
    return {
        "stores": {name: stores.get(name, 0) for name in STORES},
        "sessions": {
            place: {
                name: sessions.get(place, {}).get(name, 0)
                for name in SERIALIZERS
            }
            for place in PLACES
        },
    }


# -- the page ----------------------------------------------------------

_HEAD = """What was tried together
=======================

This page is made from the results of the tests: each number says how many
tests of a contract passed on real databases. ``make matrix`` makes it anew,
and a test fails when one passes that does not stand here, or when one that
stands here does not pass.

The contract of stores
----------------------

``pyramid_limitedsession.testing.StoreContract`` tests the sentences of the
protocol ``Store``, with real threads where two meet. :doc:`stores` says how a
store of your own is tested by it.

"""
_SESSIONS = """
The contract of sessions
------------------------

``pyramid_limitedsession.testing.SessionContract`` sends requests to a real
application: values, flash messages, CSRF tokens, merged changes, new tokens,
ends and limits. Each store was tried with each serializer; *your own* is one
that makes bytes.

"""


def make_page(results: dict[str, Any]) -> str:
    """Return the page in reStructuredText."""
    stores, sessions = results["stores"], results["sessions"]
    numbers = [[name, f"{stores[name]} tests"] for name in stores]
    cells = [
        [place, *map(str, sessions[place].values())] for place in sessions
    ]
    return (
        _HEAD
        + _table(["store", "passed"], numbers)
        + _SESSIONS
        + _table(["kept in", *SERIALIZERS], cells)
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        marks = ["*", *" " * (len(row) - 1)]
        lines += [
            f"   {mark} - {cell}"
            for mark, cell in zip(marks, row, strict=True)
        ]
    return "\n".join(lines) + "\n"
