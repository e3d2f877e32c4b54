"""Workers of a pre-forking server do not share connections."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlencode

import pytest

from tests.apps import MODES

WORKERS = 3
BROWSERS = 10
# Of each browser.
REQUESTS = 10


class Browser:
    """A browser whose only cookie is its session's."""

    def __init__(self, address):
        self._address = address
        self._cookie = ""

    def get(self, path, **params):
        """Return the JSON of an answer."""
        headers = {"Cookie": self._cookie} if self._cookie else {}
        with closing(HTTPConnection(*self._address, timeout=30)) as server:
            server.request("GET", f"{path}?{urlencode(params)}", None, headers)
            response = server.getresponse()
            answer = response.read()
        assert 200 == response.status
        cookie = response.headers.get("Set-Cookie")
        if cookie:
            self._cookie = cookie.partition(";")[0]
        return json.loads(answer)


@pytest.fixture(
    name="served",
    params=[(name, m) for name in ("postgresql", "mariadb") for m in MODES],
    ids="-".join,
)
def _served(request, make_world):
    """The address of an application that gunicorn serves, and its world."""
    world = make_world(*request.param)
    options = {
        "url": world.url,
        "mode": world.mode,
        "table": world.table.name,
    }
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [
            *(sys.executable, "-m", "gunicorn", "--preload"),
            *("--workers", str(WORKERS), "--log-level", "warning"),
            # Who connects before it accepts is made to wait, not refused.
            *("--bind", f"fd://{listening.fileno()}"),
            "tests.prefork_app:app",
        ]
        server = subprocess.Popen(
            command,
            env=os.environ | {"PREFORK": json.dumps(options)},
            pass_fds=[listening.fileno()],
            # A process group, so that the workers end with it.
            start_new_session=True,
        )
        address = listening.getsockname()
        try:
            # What the application does at its import is done then.
            Browser(address).get("/change")
            yield address, world
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


def test_workers_share_nothing(served):
    """A hundred parallel requests: every browser finds its own changes.

    Also those that another worker wrote. Every worker answers some, with a
    connection that no other worker has.
    """
    address, world = served
    rows, items = len(world.rows()), len(world.items())
    answers, pairs, browsers = [], set(), 0

    def work(n):
        browser = Browser(address)
        expected = {}
        for i in range(REQUESTS):
            change = {f"k{i}": f"{n}.{i}", "item": f"{n}.{i}"}
            answer = browser.get("/change", **change)
            answers.append((answer["worker"], answer["backend"], n))
            assert expected == answer["found"]
            expected |= change

    # Nearly always one batch is enough for each worker to get a request.
    while len(pairs) < WORKERS and browsers < 20 * BROWSERS:
        batch = range(browsers, browsers + BROWSERS)
        with ThreadPoolExecutor(BROWSERS) as pool:
            list(pool.map(work, batch))
        browsers += BROWSERS
        pairs = {(worker, backend) for worker, backend, _ in answers}
    assert WORKERS == len({worker for worker, _ in pairs})
    assert len(pairs) == len({backend for _, backend in pairs})
    # Some browser met more than one worker.
    assert browsers < len({(worker, n) for worker, _, n in answers})
    assert browsers == len(world.rows()) - rows
    assert browsers * REQUESTS == len(world.items()) - items
