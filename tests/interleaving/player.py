"""One request whose steps a test decides on.

Real WSGI, in a thread of its own, whose view takes operations from a queue
and puts what they returned into another. It stops where the test wants it
to, also while its transaction commits. Every wait has a time limit.
"""

from __future__ import annotations

import copy
import json
import queue
import threading
from collections.abc import Callable
from typing import Any

from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from transaction.interfaces import TransientError

from tests.apps import World, cookie_of
from tests.interleaving.spec import ABSOLUTE, IDLE, TOUCH, Visit, bend

# Who waits for a request waits less than the request does for him.
LIMIT = 20
LONGER = 3 * LIMIT
ATTEMPTS = 3
SETTINGS = {
    "limitedsession.idle_timeout": str(IDLE),
    "limitedsession.absolute_timeout": str(ABSOLUTE),
    "limitedsession.touch_interval": str(TOUCH),
    "retry.attempts": str(ATTEMPTS),
}
# Where a request can be held, in this order: before its statement; after
# it, before the application's vote; after all votes; behind the outcome.
PAUSES = ("commit", "vote", "finish", "behind")
# How a request ends, and the status of its answer; None: nobody answers.
OUTCOMES = {
    "commit": 200,
    "doom": 200,
    "redirect": 302,
    "render": 500,
    "crash": None,
    "retry": 503,
    "retry, bare": None,
}
RETRIES = ("retry", "retry, bare")
REFUSALS = ("render", "crash", *RETRIES)


class Rendered(Exception):
    """An error that an exception view renders."""


class Crash(Exception):
    """An error that nobody renders."""


class RenderedBusy(TransientError):
    """An error that is worth another try, and is rendered if it is not."""


class BareBusy(TransientError):
    """The same, rendered by nobody."""


class Quit(Exception):
    """The test is over; whoever waits goes home."""


ERRORS = {
    "redirect": lambda: HTTPFound("/"),
    "render": Rendered,
    "crash": Crash,
    "retry": RenderedBusy,
    "retry, bare": BareBusy,
}


def configure(config: Any) -> None:
    """Configure what players need."""
    config.include("pyramid_retry")
    config.add_tween(
        "tests.interleaving.player.pause_tween_factory",
        over="pyramid_tm.tm_tween_factory",
        under="pyramid_limitedsession.tweens.lifecycle_tween_factory",
    )
    for error, status in ((Rendered, 500), (RenderedBusy, 503)):
        config.add_exception_view(_renderer(status), context=error)


def _renderer(status: int) -> Callable[[Any, Any], Response]:
    return lambda error, request: Response("sorry", status=status)


def pause_tween_factory(handler: Any, registry: Any) -> Any:
    """A tween right above the transaction; the outcome is decided there."""

    def tween(request: Any) -> Any:
        try:
            return handler(request)
        finally:
            if "test.player" in request.environ:
                request.environ["test.player"].reach("behind")

    return tween


# -- what is done to a real session ------------------------------------


def _nest(session: Any, key: str, number: int) -> None:
    if not bend(session.get(key), number):
        session[key] = [number]


ON_SESSION: dict[str, Callable[..., Any]] = {
    "look": lambda s: [dict(s), s.ended, s.new, s.created],
    "get": lambda s, key: s.get(key),
    "put": lambda s, key, value: s.__setitem__(key, copy.deepcopy(value)),
    "delete": lambda s, key: s.pop(key, None),
    "nest": _nest,
    "clear": lambda s: s.clear(),
    "flash": lambda s, name, text, twice: s.flash(text, name, twice),
    "pop_flash": lambda s, name: s.pop_flash(name),
    "peek_flash": lambda s, name: s.peek_flash(name),
    "csrf": lambda s: s.get_csrf_token(),
    "new_csrf": lambda s: s.new_csrf_token(),
    "rotate": lambda s: s.rotate(),
    "invalidate": lambda s: s.invalidate(),
}
# Further ones that look into the session.
LOOKING = {*ON_SESSION, "take"}


class _Pause:
    """A data manager of the application's, in the middle of the others."""

    transaction_manager = None

    def __init__(self, player: Player) -> None:
        self._player = player

    def sortKey(self) -> str:
        return "zz"

    def tpc_begin(self, transaction: Any) -> None:
        pass

    def commit(self, transaction: Any) -> None:
        self._player.reach("commit")

    def tpc_vote(self, transaction: Any) -> None:
        self._player.reach("vote")

    def tpc_finish(self, transaction: Any) -> None:
        self._player.reach("finish")

    def abort(self, transaction: Any) -> None:
        pass

    tpc_abort = abort


class Player:
    """One request in a thread of its own.

    :ivar visit: what the specification knows of the present attempt.
    :ivar paused: where it is held, None while it takes operations.
    :ivar outcome: how it ends, once that is known.
    :ivar is_over: it was answered.
    """

    def __init__(self, name: str, browser: int, token: str | None) -> None:
        self.browser = browser
        self.token = token
        self.visit = Visit(token)
        self.attempt = 0
        self._was_found = False
        self.done: list[tuple[Any, ...]] = []
        self.paused: str | None = None
        self.outcome: str | None = None
        self.is_committed = False
        self.is_over = False
        self._name = name
        self._pause: str | None = None
        # What the view holds, as long as an attempt lasts.
        self._savepoint: Any = None
        self._taken: Any = None
        self._commands: queue.Queue[Any] = queue.Queue()
        self._news: queue.Queue[Any] = queue.Queue()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return self._name

    def is_retried(self, outcome: str | None) -> bool:
        """Say whether such an end is followed by another attempt."""
        return outcome in RETRIES and self.attempt + 1 < ATTEMPTS

    def try_again(self) -> None:
        """Begin another attempt."""
        if self.visit.row is not None:
            self._was_found = not self.visit.gets_token
        self.attempt += 1
        self.visit = Visit(self.token, was_found=self._was_found)
        self.outcome = None

    # -- in the test's thread ------------------------------------------

    def start(self, world: World) -> None:
        """Send the request."""
        browser = world.browser(**{"test.player": self})
        if self.token:
            browser.set_cookie("session", self.token)
        self._thread = threading.Thread(
            target=self._send, args=(browser,), daemon=True
        )
        self._thread.start()

    def order(self, *command: Any) -> None:
        """Tell it what to do."""
        self._commands.put(command)

    def hear(self) -> tuple[Any, ...]:
        """Return what it has to say next."""
        try:
            news: tuple[Any, ...] = self._news.get(timeout=LIMIT)
        except queue.Empty:
            raise AssertionError(f"{self} hangs") from None
        return news

    def send_home(self) -> None:
        """End it, wherever it waits, and do not wait for it."""
        for _ in range(2 * len(PAUSES) * ATTEMPTS):
            self.order("quit")

    def is_gone(self) -> bool:
        """Wait for its end; return whether that has come."""
        if self._thread is not None:
            self._thread.join(timeout=LIMIT)
        return self._thread is None or not self._thread.is_alive()

    # -- in its own thread ---------------------------------------------

    def _send(self, browser: Any) -> None:
        try:
            answer = browser.get("/play", status="*")
        except Exception as error:
            self._news.put(("error", error))
        else:
            self._news.put(("answer", answer.status_int, cookie_of(answer)))

    def play(self, request: Any) -> Any:
        """The view: do as told until told to end."""
        self._savepoint = self._taken = None
        self._news.put(("attempt", request.environ["retry.attempt"]))
        while True:
            verb, *arguments = self._next()
            if verb == "end":
                return self._end(request, *arguments)
            result = self._do(request, *arguments)
            # As text: what is in the session is the application's.
            self._news.put(("did", json.dumps(result, sort_keys=True)))

    def reach(self, place: str) -> None:
        """Wait here if this is where to wait."""
        if self._pause != place:
            return
        self._news.put(("paused", place))
        # Nothing may fail once all have voted.
        is_decided = place in ("finish", "behind")
        _, how, self._pause = self._next(may_quit=not is_decided)
        if how in ERRORS:
            raise ERRORS[how]()

    def _next(self, *, may_quit: bool = True) -> Any:
        command = self._commands.get(timeout=LONGER)
        if command != ("quit",):
            return command
        if may_quit:
            self._pause = None
            raise Quit
        return "go", "ok", None

    def _do(self, request: Any, verb: str, *arguments: Any) -> Any:
        if verb == "item":
            item = request.environ["test.item"]
            request.dbsession.add(item(name=arguments[0]))
        elif verb == "savepoint":
            self._savepoint = request.tm.savepoint()
        elif verb == "rollback":
            self._savepoint.rollback()
        elif verb == "commit":
            request.tm.commit()
            request.tm.begin()
        elif verb == "take":
            self._taken = request.session.get(*arguments)
        elif verb == "bend":
            bend(self._taken, *arguments)
        else:
            return ON_SESSION[verb](request.session, *arguments)
        return None

    def _end(self, request: Any, outcome: str, pause: str | None) -> Any:
        self._pause = pause
        request.tm.get().join(_Pause(self))
        if outcome == "doom":
            request.tm.doom()
        if outcome in ERRORS:
            raise ERRORS[outcome]()
        return {}
