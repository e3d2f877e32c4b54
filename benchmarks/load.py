"""Visitors of live sessions while somebody deletes: a process of its own.

It reads, or it changes, a random live session so many times a second, and
notes how long each took from the moment when it was *due*: a visitor who
waits in a queue waits as well. Told what to do by a line of JSON; it ends
with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import DBAPIError

from pyramid_limitedsession.engines import make_engine
from pyramid_limitedsession.errors import SessionError
from pyramid_limitedsession.layout import Layout
from pyramid_limitedsession.schema import typed_table
from pyramid_limitedsession.serializers import JSONSerializer
from pyramid_limitedsession.sqlstore import SqlStore
from pyramid_limitedsession.store import transaction_of
from pyramid_limitedsession.tokens import Secret

from .rows import LIMITS, random_live_key

# As many requests at a time as an engine has connections.
WORKERS = 5
LOCK_TIMEOUT = 5
# Each worker makes so many before it counts, to connect and to compile.
_WARMING = 5


class Load:
    """Requests at a fixed rate, each due at its own moment.

    :ivar done: for each request when it was due, the seconds it took from
        then on, and the name of its error, "" without one.
    :ivar lost: how many live sessions were not there.
    """

    def __init__(
        self, request: Callable[[SqlStore, str], bool], told: dict[str, Any]
    ) -> None:
        self.done: list[tuple[float, float, str]] = []
        self.lost = 0
        self._request = request
        self._rows, self._interval = told["rows"], 1 / told["rate"]
        self._store = SqlStore(
            make_engine(told["url"], {}, lock_timeout=LOCK_TIMEOUT),
            typed_table(Layout(told["table"])),
            lock_timeout=LOCK_TIMEOUT,
        )
        self._lock = threading.Lock()
        self._next = 0
        self._end = float("inf")
        self._is_warm = threading.Barrier(WORKERS, action=self._start)
        self._started = 0.0

    def run(self) -> None:
        """Work until standard input ends."""
        workers = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        sys.stdin.read()
        # What is due by now is done; also what waits in a queue.
        self._end = time.monotonic()
        for worker in workers:
            worker.join()
        self._store.engine.dispose()

    def _start(self) -> None:
        self._started = time.monotonic()
        print("ready", flush=True)

    def _work(self) -> None:
        for _ in range(_WARMING):
            self._try()
        self._is_warm.wait()
        while True:
            with self._lock:
                due = self._started + self._next * self._interval
                self._next += 1
            while (wait := due - time.monotonic()) > 0:
                if time.monotonic() >= self._end:
                    return
                time.sleep(min(wait, 0.1))
            if due >= self._end:
                return
            problem = self._try()
            self.done.append((due, time.monotonic() - due, problem))

    def _try(self) -> str:
        """Make a request; return the name of its error, "" without one."""
        try:
            is_there = self._request(self._store, random_live_key(self._rows))
        except (SessionError, DBAPIError) as error:
            return type(error).__name__
        if not is_there:
            with self._lock:
                self.lost += 1
        return ""


def read(store: SqlStore, key: str) -> bool:
    """Load a session; return whether it is there."""
    return store.load(key) is not None


def change(store: SqlStore, key: str) -> bool:
    """Load a session and save it changed, as a request does.

    Should another worker have changed it meanwhile, nothing is written.
    """
    old = store.load(key)
    if old is None:
        return False
    now, json_ = int(time.time()), JSONSerializer()
    record = replace(
        old,
        data=Secret(json_.dumps(json_.loads(old.data) | {"at": now})),
        version=old.version + 1,
        seen=now,
        expires=LIMITS.coarse_expiry(old.created or 0, now),
    )
    with transaction_of(store) as work:
        work.update(record, old=old)
    return True


def _fail(caught: threading.ExceptHookArgs) -> None:
    """End the process: the others would wait for this worker."""
    threading.__excepthook__(caught)
    sys.stderr.flush()
    os._exit(1)


REQUESTS = {"reader": read, "writer": change}


def main() -> None:
    """Be what standard input says, and print what came of it."""
    threading.excepthook = _fail
    told = json.loads(sys.stdin.readline())
    load = Load(REQUESTS[told["kind"]], told)
    load.run()
    print(json.dumps({"done": load.done, "lost": load.lost}))


if __name__ == "__main__":
    main()
