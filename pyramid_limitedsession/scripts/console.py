"""What all pls-* commands share: arguments, the application, output, errors.

Exit codes: 0 done, 1 failed, 2 wrong use. What failed is told in sentences;
``-v`` shows the traceback. Nothing printed holds a token, a key or data.
"""

from __future__ import annotations

import argparse
import configparser
import json
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pyramid.exceptions import ConfigurationExecutionError
from pyramid.paster import bootstrap
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.scripts.common import parse_vars
from sqlalchemy.exc import StatementError

from ..factory import SessionFactory
from ..sqlstore import SqlStore
from ..tweens import REGISTRY_KEY
from ..users import name_of

try:
    from rich.console import Console
except ImportError:  # pragma: no cover - the extra "console" is missing
    Console = None  # type: ignore[assignment, misc]


class CommandError(Exception):
    """A command cannot do what it was told; the text says why."""


class WrongUse(Exception):
    """The arguments make no sense here; the text says what would."""


@dataclass(frozen=True)
class Site:
    """An application, as a command finds it.

    :ivar config_uri: the ini file, with its section.
    :ivar request: a request without a browser, of the started application.
    :ivar store: where its sessions are.
    """

    config_uri: str
    registry: Registry
    request: Request
    factory: SessionFactory
    store: SqlStore

    @property
    def now(self) -> int:
        """The time by the application's clock."""
        return int(self.factory.clock())


class Output:
    """Where a command tells what it did.

    :ivar is_json: in JSON, for programs.
    :ivar is_quiet: not at all; errors are told all the same.
    """

    def __init__(self, *, is_json: bool, is_quiet: bool) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet

    def done(self, line: str, facts: Mapping[str, Any]) -> None:
        """Print the line, or the facts as one JSON object."""
        self.tell(json.dumps(dict(facts)) if self.is_json else line)

    def tell(self, text: str) -> None:
        """Print a text, unless told to be quiet."""
        if not self.is_quiet:
            print(text)

    @property
    def terminal(self) -> Any:
        """A rich console, None where nobody looks or rich is missing."""
        is_plain = self.is_json or self.is_quiet or not sys.stdout.isatty()
        return None if is_plain or Console is None else Console()


Command = Callable[[argparse.Namespace, Site, Output], "int | None"]


def parser_of(name: str, what: str, *examples: str) -> argparse.ArgumentParser:
    """Return a parser of what every command takes.

    Args:
        name: the command.
        what: what it does, in a few sentences.
        examples: calls of it, for ``--help``.
    """
    parser = argparse.ArgumentParser(
        prog=name,
        description=textwrap.fill(" ".join(what.split()), 78),
        epilog="\n  ".join(("examples:", *examples)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config_uri",
        metavar="INI",
        help="the application's ini file, with #section if it is not main",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show the traceback of an error",
    )
    told = parser.add_mutually_exclusive_group()
    told.add_argument(
        "--json", action="store_true", help="print one JSON object instead"
    )
    told.add_argument(
        "-q", "--quiet", action="store_true", help="print errors only"
    )
    return parser


def run(
    parser: argparse.ArgumentParser, argv: list[str] | None, command: Command
) -> int:
    """Parse the arguments, start the application, run; return the exit code.

    A command returns its exit code, None for 0.
    """
    parser.add_argument(
        "config_vars",
        metavar="name=value",
        nargs="*",
        help="variables for the ini file",
    )
    # Variables may stand behind options too.
    arguments = parser.parse_intermixed_args(argv)
    output = Output(is_json=arguments.json, is_quiet=arguments.quiet)
    try:
        with _stopped_politely(), _started(arguments) as site:
            code = command(arguments, site, output) or 0
            # Here, where what goes wrong with it can be told.
            sys.stdout.flush()
            return code
    except WrongUse as error:
        parser.error(str(error))
    except BrokenPipeError:
        # "| head" has seen enough.
        _drop_output()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if arguments.verbose:
            raise
        if isinstance(error, OSError):
            # A full disk: what is left must not fail once more.
            _drop_output()
        print(f"{parser.prog}: {sentences(error)}", file=sys.stderr)
        return 1


def _drop_output() -> None:
    """Let what is still to be printed go nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def confirm(arguments: argparse.Namespace, what: str, word: str) -> None:
    """Return if the user wants it: ``--yes``, or he types a word.

    Raises CommandError if he types another one, and WrongUse where nobody
    can be asked.
    """
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise WrongUse(f"this will {what}; say --yes to do so")
    print(f"This will {what}.", file=sys.stderr)
    print(f"Type {word!r} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != word:
        raise CommandError("nothing was done")


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the option that answers `confirm`."""
    parser.add_argument(
        "--yes", action="store_true", help="do it without asking"
    )


@contextmanager
def progress(what: str, output: Output) -> Iterator[Callable[..., None]]:
    """Yield ``advance(count, share)``: draws a bar, if somebody looks.

    Its arguments are how many rows were dealt with so far, and the part of
    the way that is done, from 0 to 1.
    """
    if Console is None or output.is_quiet or not sys.stderr.isatty():
        yield lambda count, share: None
        return
    from rich import progress as bars

    with bars.Progress(
        bars.TextColumn(what),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[told]}"),
        bars.TimeRemainingColumn(),
        # Not where the summary goes, so that it can be piped.
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(what, total=1.0, told="")

        def advance(count: int, share: float) -> None:
            seconds = bar.tasks[0].elapsed or 0
            rate = f"{count / seconds:,.0f}/s" if seconds else ""
            bar.update(task, completed=share, told=f"{count:,} rows {rate}")

        yield advance


def sessions(count: int) -> str:
    """Return "1 session", "2 sessions"."""
    return f"{count} session{'' if count == 1 else 's'}"


def all_sessions(count: int) -> str:
    """Return "the only session", "all 2 sessions"."""
    return "the only session" if count == 1 else f"all {count} sessions"


def printable(text: str) -> str:
    """Return a text that can do nothing to a terminal.

    A visitor may have chosen his name for that.
    """
    return "".join(
        each if each.isprintable() else ascii(each)[1:-1] for each in text
    )


def positive(text: str) -> int:
    """Return the positive number of an argument."""
    is_number = text.isascii() and text.isdigit() and len(text) < 19
    if not is_number or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def user_named(text: str, site: Site) -> str:
    """Return a user's name as it is stored; WrongUse if none is so."""
    try:
        name = name_of(text)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    problem = site.factory.settings.policy.users.problem(name)
    if problem is not None:
        raise WrongUse(f"the name of the user {problem}")
    return name


def sentences(error: BaseException | None) -> str:
    """Return an error and its causes as text, without a statement."""
    causes = []
    while error is not None:
        # SQLAlchemy adds the statement, and a link.
        told: object = error
        if isinstance(error, ConfigurationExecutionError):
            # Pyramid's own text adds a class, and a line of nowhere.
            error = told = error.evalue
        if isinstance(error, StatementError):
            told = error.orig
        elif isinstance(error, configparser.InterpolationError):
            # Its own text quotes the value, which may be a password.
            told = (
                f"the option {error.option!r} of [{error.section}] in the ini "
                "file cannot be read: write a percent sign twice, and define "
                f"what stands in %({getattr(error, 'reference', '…')})s"
            )
        elif isinstance(error, ModuleNotFoundError):
            told = (
                f"{error}; if that is the application: install it, or say "
                "PYTHONPATH=. where it is"
            )
        name = type(error).__name__
        if isinstance(error, KeyboardInterrupt):
            name = "stopped before it was done; call it again to go on"
        text = str(told).strip() or name
        if text not in causes:
            causes.append(text)
        error = error.__cause__
    return "\n  because: ".join(causes)


@contextmanager
def _started(arguments: argparse.Namespace) -> Iterator[Site]:
    """Start the application and yield what commands need of it."""
    path = arguments.config_uri.partition("#")[0]
    if "://" not in path and not os.path.exists(path):
        raise WrongUse(f"there is no file {path!r}")
    try:
        options = parse_vars(arguments.config_vars)
    except ValueError as error:
        # Its own text quotes what may be a URL with a password.
        raise WrongUse(
            "what follows the ini file has to be name=value"
        ) from error
    try:
        with _without_start_errors():
            env = bootstrap(arguments.config_uri, options=options)
    except LookupError as error:
        if not str(error).startswith("No section"):
            raise
        section = arguments.config_uri.partition("#")[2] or "main"
        raise WrongUse(f"{path!r} has no section [app:{section}]") from None
    with env:
        registry, request = env["registry"], env["request"]
        factory = registry.get(REGISTRY_KEY)
        if factory is None:
            raise LookupError(
                "this application does not include pyramid_limitedsession"
            )
        store = factory.store_for(request)
        try:
            yield Site(arguments.config_uri, registry, request, factory, store)
        finally:
            store.engine.dispose()


@contextmanager
def _without_start_errors() -> Iterator[None]:
    """Keep quiet about a missing table: the command itself tells it."""
    log = logging.getLogger("pyramid_limitedsession")

    def is_told(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    log.addFilter(is_told)
    try:
        yield
    finally:
        log.removeFilter(is_told)


@contextmanager
def _stopped_politely() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: in a sentence."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
