"""The house: imports point down only, nothing mutable at module level."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pyramid_limitedsession"

# None imports another, but for what it shares with one.
COMMANDS = (
    "scripts.doctor",
    "scripts.init",
    "scripts.list",
    "scripts.migration",
    "scripts.revoke",
    "scripts.stats",
    "scripts.upgrade",
    "scripts.clear",
    "scripts.trim",
)
# What pls-doctor knows has a house of its own.
DOCTOR = (
    "doctor.checks",
    "doctor.setupchecks",
    "doctor.databasechecks",
    "doctor.tablechecks",
    "doctor.repairs",
    "doctor.sqlfacts",
    "doctor.reflection",
    "doctor.facts",
    "doctor.__init__",
)
# For tests of applications and of stores: nobody imports it.
TESTING = (
    "testing.__init__",
    "testing.sessioncontract",
    "testing.site",
    "testing.storecontract",
    "testing.racecontract",
    "testing.usercontract",
    "testing.workcontract",
    "testing.storekit",
    "testing.visitor",
)
FOLDERS = ("scripts", "doctor", "testing")
# From the roof to the ground: a module may import from modules below it.
STOREYS = (
    "demo",
    *TESTING,
    *COMMANDS,
    "scripts.times",
    "scripts.looking",
    "scripts.console",
    "scripts.__init__",
    "__init__",
    "tweens",
    "cleaning",
    "factory",
    "caching",
    "ownstore",
    "adopting",
    "expiry",
    "views",
    "usersessions",
    "session",
    "joined",
    "datamanager",
    "unitofwork",
    "alone",
    "stored",
    "saving",
    "ending",
    "draft",
    "loading",
    "place",
    "trimming",
    *DOCTOR,
    "migrations",
    "sqlstats",
    "sqlupgrade",
    "sqlupkeep",
    "reserving",
    "sqlstore",
    "sqlwork",
    "statements",
    "deadrows",
    "dberrors",
    "engines",
    "waits",
    "schema",
    "columntypes",
    "memory",
    "store",
    "expirysettings",
    "settings",
    "tablesettings",
    "sealing",
    "profiles",
    "reading",
    "options",
    "serializers",
    "readers",
    "layout",
    "modeltypes",
    "pickling",
    "foreign",
    "jsonforms",
    "jsontext",
    "jsonvalues",
    "sameness",
    "pickled",
    "limits",
    "users",
    "events",
    "tokens",
    "errors",
)
# Clocks, requests and the environment belong to the upper floors.
EFFECTS = {"time", "random", "pyramid"}
UPPER = STOREYS[: STOREYS.index("session") + 1]
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for folder in (PACKAGE, *(PACKAGE / name for name in FOLDERS))
    for path in folder.glob("*.py")
)


def tree_of(name: str) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(text_of(name))


def text_of(name: str) -> str:
    """Return a module's text."""
    path = PACKAGE / f"{name.replace('.', '/')}.py"
    return path.read_text(encoding="utf-8")


def imported(name: str) -> set[str]:
    """Return the modules of our own that a module imports."""
    folders = name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = folders[: len(folders) + 1 - node.level]
            names = (
                [node.module]
                if node.module
                else [alias.name for alias in node.names]
            )
            found |= {".".join([*start, each]) for each in names}
    return found


def test_every_module_has_its_storey():
    """Every module of the package stands in the list above."""
    assert sorted(set(STOREYS) - {"demo"}) == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down_only(name):
    """A module imports only from modules that stand below it."""
    below = set(STOREYS[STOREYS.index(name) + 1 :])
    assert set() == imported(name) - below


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(UPPER)))
def test_pure_below(name):
    """Below the Pyramid storey nobody reads a clock, chance or a request."""
    packages = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(str(node.module).partition(".")[0])
    # The error that Pyramid shows for wrong settings is Pyramid's.
    allowed = {"pyramid"} if name == "reading" else set()
    assert set() == packages & EFFECTS - allowed


@pytest.mark.parametrize("name", MODULES)
def test_nothing_at_module_level_is_changed(name):
    """No function rebinds a name of its module."""
    rebound = [
        node.names
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Global)
    ]
    assert [] == rebound


@pytest.mark.parametrize("name", MODULES)
def test_files_and_bodies_stay_short(name):
    """A file has at most 400 lines, a function at most 45."""
    text = text_of(name)
    assert len(text.splitlines()) <= 400
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno - node.lineno > 45
        and not (name == "statements" and node.name == "__init__")
    ]
    assert [] == long


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    """Every public class and function says what it does."""
    tree = tree_of(name)
    assert ast.get_docstring(tree)
    missing = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
                if child.name.startswith("_"):
                    continue
                if not ast.get_docstring(child):
                    missing.append(child.name)
                if isinstance(child, ast.ClassDef):
                    visit(child)

    visit(tree)
    assert [] == missing
