"""What the tests of faults share: applications, and what befalls them."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from pyramid.config import Configurator
from sqlalchemy.exc import SQLAlchemyError
from webtest import TestApp

from pyramid_limitedsession import SessionError
from tests.apps import World
from tests.servers import Server


def show_503(config: Configurator) -> None:
    """Give the application an exception view of its own."""

    def unavailable(error: Exception, request: Any) -> Any:
        request.response.status = 503
        return {"error": type(error).__name__, "text": str(error)}

    for context in (SQLAlchemyError, SessionError):
        config.add_exception_view(unavailable, context, renderer="json")


def add_views(world: World) -> World:
    """Add the common views and return the world."""

    @world.on("get")
    def _(request: Any) -> Any:
        return dict(request.session)

    @world.on("set")
    def _(request: Any) -> Any:
        request.session.update(request.params)
        return {}

    @world.on("both")
    def _(request: Any) -> Any:
        """Change the session and the application's own data."""
        request.session.update(request.params)
        request.dbsession.add(world.Item())
        return {}

    @world.on("out")
    def _(request: Any) -> Any:
        request.session.invalidate()
        return {}

    return world


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged above INFO."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno > logging.INFO
    ]


@contextmanager
def worlds_on(url: str, **always: Any) -> Iterator[Callable[..., World]]:
    """Give a function that makes worlds, which are closed at the end."""
    worlds: list[World] = []

    def make(**options: Any) -> World:
        options = {
            "table": f"pls_{secrets.token_hex(3)}_sessions",
            "configure": show_503,
            **always,
            **options,
        }
        worlds.append(World(url, options.pop("mode"), **options))
        return add_views(worlds[-1])

    try:
        yield make
    finally:
        for world in worlds:
            # Its connections may be dead.
            world.engine.dispose()
            world.close()


@contextmanager
def locked(world: World, statement: str = "") -> Iterator[None]:
    """Let somebody else hold a lock: on all rows, or by a statement."""
    engine = sa.create_engine(world.url, poolclass=sa.NullPool)
    if not statement:
        is_sqlite = engine.dialect.name == "sqlite"
        rows = "SELECT 1 FROM {} FOR UPDATE"
        statement = "BEGIN IMMEDIATE" if is_sqlite else rows
    with engine.connect() as connection:
        connection.exec_driver_sql(statement.format(world.table.name))
        yield


# -- no space is left --------------------------------------------------


class SmallFile:
    """Limits how large the SQLite file of a world may be."""

    def __init__(self, world: World) -> None:
        self.clear()
        for engine in {world.engine, world.store.engine}:
            sa.event.listen(engine, "checkout", self._limit)

    def _limit(self, connection: Any, record: object, proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {self._pages}")

    def fill(self) -> None:
        """Let it grow no more."""
        # SQLite takes the pages that there are instead of less.
        self._pages = 1

    def clear(self) -> None:
        """Let it grow again."""
        self._pages = 2**30


class SmallDisk:
    """A file system of 2 MiB in memory, for the tables of a server.

    :ivar url: for an application whose tables are to be there.
    """

    def __init__(self, server: Server) -> None:
        self.url = f"{server.url}?options=-c%20default_tablespace%3Dsmall"
        self._server = server

    def fill(self) -> None:
        """Take the space that is left."""
        self._server.administer(
            "CREATE TABLE filler (x text) TABLESPACE small"
        )
        with pytest.raises(sa.exc.OperationalError, match="No space left"):
            self._server.administer(
                "INSERT INTO filler SELECT repeat('x', 1000)"
                " FROM generate_series(1, 10000)"
            )

    def clear(self) -> None:
        """Give the space back."""
        self._server.administer("DROP TABLE IF EXISTS filler")


@contextmanager
def small_disk(server: Server) -> Iterator[SmallDisk]:
    """Give a `SmallDisk`; skip the test where nothing can be mounted."""
    folder = server.folder / "small"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if not (mount and umount) or subprocess.run([mount, *options]).returncode:
        folder.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        shutil.chown(folder, server.account, server.account)
        server.administer(
            f"CREATE TABLESPACE small LOCATION '{folder}'",
            "GRANT CREATE ON TABLESPACE small TO app",
        )
        disk = SmallDisk(server)
        try:
            yield disk
        finally:
            disk.clear()
            server.administer("DROP TABLESPACE small")
    finally:
        subprocess.run([umount, folder], check=True)
        folder.rmdir()


# -- death -------------------------------------------------------------


class Points:
    """Calls ``reach(point)`` when a request that writes comes to a point.

    The points are "before UPDATE" (or INSERT, of a session), "before COMMIT"
    and "after COMMIT", of the transaction in which sessions are written.
    """

    def __init__(self, world: World) -> None:
        self.reach: Callable[[str], None] = lambda point: None
        self._writes = (
            f"UPDATE {world.table.name} ",
            f"INSERT INTO {world.table.name} ",
        )
        if world.mode == "separate":
            engine = world.store.engine
            sa.event.listen(engine, "after_cursor_execute", self._after)
        else:
            engine = world.engine
            sa.event.listen(engine, "commit", self._commits)
            sa.event.listen(
                world.session_factory, "after_commit", self._committed
            )
        sa.event.listen(engine, "before_cursor_execute", self._before)

    def _before(self, connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith(self._writes):
            self.reach("before UPDATE")
        elif sql == "COMMIT":
            self.reach("before COMMIT")

    def _after(self, connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if sql == "COMMIT":
            self.reach("after COMMIT")

    def _commits(self, connection: Any) -> None:
        self.reach("before COMMIT")

    def _committed(self, dbsession: Any) -> None:
        self.reach("after COMMIT")


class Victim:
    """A child of ours that sends one request, and is killed on the way."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._points = Points(world)

    def dies_at(self, point: str, browser: TestApp, path: str) -> None:
        """Send a request from a child that kills itself at a point."""

        def reach(reached: str) -> None:
            if reached == point:
                os.kill(os.getpid(), signal.SIGKILL)

        self._wait(self._fork(reach, browser, path))

    def dies_after(self, seconds: float, browser: TestApp, path: str) -> None:
        """Send a request; kill the child so long after "before UPDATE"."""
        reader, writer = os.pipe()

        def reach(reached: str) -> None:
            if reached == "before UPDATE":
                os.write(writer, b".")

        child = self._fork(reach, browser, path)
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            continue
        os.kill(child, signal.SIGKILL)
        self._wait(child)

    def _fork(
        self, reach: Callable[[str], None], browser: TestApp, path: str
    ) -> int:
        child = os.fork()
        if child:
            return child
        try:
            # Ends a child that nothing else kills, which fails the test.
            signal.alarm(20)
            self._points.reach = reach
            # The application's own engine is the application's own business.
            self._world.engine.dispose(close=False)
            browser.get(path)
            signal.pause()
        finally:
            os._exit(1)

    def _wait(self, child: int) -> None:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert signal.SIGKILL == os.WTERMSIG(status)
