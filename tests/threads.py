"""Requests at the same time, in real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from webtest import TestApp

from tests.apps import World


def in_threads(work: Callable[[int], None], number: int) -> None:
    """Run ``work(n)`` in threads that start at the same moment.

    What a thread raises is raised here.
    """
    barrier = threading.Barrier(number)
    errors: list[BaseException] = []

    def run(n: int) -> None:
        try:
            barrier.wait(timeout=30)
            work(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        raise errors[0]


def same_session(
    world: World, browser: TestApp, number: int, **environ: object
) -> list[TestApp]:
    """Return new browsers with the session cookie of another."""
    browsers = []
    for _ in range(number):
        other = world.browser(**environ)
        other.set_cookie("session", browser.cookies["session"])
        browsers.append(other)
    return browsers
