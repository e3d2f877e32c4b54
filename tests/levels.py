"""Isolation levels of an application's engine, and two requests that overlap.

The *slow* request uses the database in its view, then a *fast* one of the
same session comes and goes, and only then the slow one changes its session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from transaction.interfaces import TransientError
from webtest import TestApp, TestResponse

from tests.apps import World
from tests.threads import same_session

# -- the levels --------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """One way to isolate the application's transactions.

    :ivar title: the situation on the page of outcomes.
    :ivar engine: options of the application's engine.
    :ivar begin: SQLite: what the application begins transactions with.
    :ivar is_wal: SQLite: the file is in WAL mode.
    :ivar refuses: a write is refused in a transaction that has read before
        somebody else wrote.
    :ivar locks: nobody else commits while a request that has used the
        database is under way.
    """

    title: str
    database: str
    engine: dict[str, Any] = field(default_factory=dict)
    begin: str | None = None
    is_wal: bool = False
    refuses: bool = False
    locks: bool = False

    @property
    def takes_inserts(self) -> bool:
        """Say whether the app may insert a row when it has read before."""
        return not (self.refuses and self.database == "sqlite")

    def listen(self, engine: sa.Engine) -> None:
        """Do as SQLAlchemy's recipe for an own BEGIN says."""
        if self.begin is None:
            return

        @sa.event.listens_for(engine, "connect")
        def _(connection, record):
            connection.isolation_level = None

        @sa.event.listens_for(engine, "begin")
        def _(connection):
            connection.exec_driver_sql(self.begin)


def _postgresql(name: str, *, refuses: bool) -> Level:
    title = f"PostgreSQL at {name}"
    options = {"isolation_level": name}
    return Level(title, "postgresql", options, refuses=refuses)


def _mariadb(name: str, snapshot: str) -> Level:
    options = {
        "isolation_level": name,
        "connect_args": {
            "init_command": f"SET innodb_snapshot_isolation = {snapshot}"
        },
    }
    title = f"MariaDB at {name}"
    if snapshot == "ON":
        title += ", ``innodb_snapshot_isolation`` on"
    return Level(title, "mariadb", options, refuses=snapshot == "ON")


def _sqlite(begin: str | None, *, is_wal: bool) -> Level:
    title = "SQLite in WAL mode" if is_wal else "SQLite"
    if begin:
        title += f", the application issues ``{begin}``"
    is_deferred = begin == "BEGIN"
    return Level(
        title,
        "sqlite",
        begin=begin,
        is_wal=is_wal,
        refuses=is_deferred,
        locks=begin is not None and not (is_deferred and is_wal),
    )


LEVELS = (
    _postgresql("READ COMMITTED", refuses=False),
    _postgresql("REPEATABLE READ", refuses=True),
    _postgresql("SERIALIZABLE", refuses=True),
    _mariadb("READ COMMITTED", "OFF"),
    _mariadb("REPEATABLE READ", "OFF"),
    _mariadb("REPEATABLE READ", "ON"),
    *(
        _sqlite(begin, is_wal=is_wal)
        for begin in (None, "BEGIN", "BEGIN IMMEDIATE")
        for is_wal in (False, True)
    ),
)


# -- a world at a level ------------------------------------------------

# What a request does with its session.
DOINGS: dict[str, Callable[[Any], object]] = {
    "start": lambda session: session.update(n=1),
    "look": dict,
    "count": lambda session: session.update(n=session.get("n", 0) + 1),
    "mark": lambda session: session.update(marked=True),
    "flash1": lambda session: session.flash("1"),
    "flash2": lambda session: session.flash("2"),
    "clear": lambda session: session.clear(),
    "rotate": lambda session: session.rotate(),
    "out": lambda session: session.invalidate(),
}


def add_views(world: World, level: Level) -> None:
    """Add what the tests of isolation ask for."""
    # Nobody writes into it: reading it starts a transaction, no conflict.
    name = f"{world.table.name}_calm"
    calm = sa.Table(name, world.base.metadata, sa.Column("a", sa.Integer))
    calm.create(world.engine)
    world.is_ending = threading.Event()
    _tell_ends(world)

    def use_the_database(request):
        request.dbsession.execute(sa.select(calm)).all()

    @world.on("do")
    def _(request):
        DOINGS[request.params["what"]](request.session)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("slow")
    def _(request):
        if "look-late" not in request.params:
            dict(request.session)
        if not level.locks or "lock" in request.params:
            use_the_database(request)
        if request.environ["retry.attempt"] == 0:
            world.between()
        DOINGS[request.params["what"]](request.session)
        return {}

    @world.on("race")
    def _(request):
        key = request.params["key"]
        request.session[key] = request.session.get(key, 0) + 1
        use_the_database(request)
        if "meet" in request.params:
            world.between()
        if level.takes_inserts:
            request.dbsession.add(world.Item(name=request.params["item"]))
        return {}


def _tell_ends(world):
    """Set the world's event before a COMMIT, or a wait for a lock to come."""

    def ran(*arguments):
        if arguments[2] in ("COMMIT", "BEGIN IMMEDIATE"):
            world.is_ending.set()

    for engine in {world.engine, world.store.engine}:
        sa.event.listen(engine, "before_cursor_execute", ran)
        sa.event.listen(engine, "commit", lambda _: world.is_ending.set())


# -- two requests at once ----------------------------------------------


@dataclass
class Pair:
    """What came of a slow request and a fast one in its middle.

    :ivar late: the browser that has sent the slow one.
    :ivar quick: the browser that has sent the fast one.
    :ivar stale: a browser that has the token from before both.
    :ivar answer: the slow one's, or the error that nobody rendered.
    :ivar quick_answer: the fast one's.
    """

    late: TestApp
    quick: TestApp
    stale: TestApp
    answer: TestResponse | TransientError | None = None
    quick_answer: TestResponse | None = None

    @property
    def answers(self) -> list[TestResponse]:
        """The answers that there were."""
        both = self.quick_answer, self.answer
        return [one for one in both if isinstance(one, TestResponse)]

    @property
    def is_answered(self) -> bool:
        """Say whether the slow one was answered."""
        return isinstance(self.answer, TestResponse)


def overlap(world, slow, fast, *, attempts=1, query="", after=0) -> Pair:
    """Send two requests of one new session, one while the other is open.

    Args:
        world: where.
        slow: what the slow one does, one of `DOINGS`.
        fast: what the fast one does.
        attempts: how often the slow one is tried.
        query: added to the slow one's path.
        after: seconds that the session was not used before.
    """
    pair = _make_pair(world, attempts, after)

    def between():
        pair.quick_answer = pair.quick.get(f"/do?what={fast}")

    return _send(world, pair, between, f"/slow?what={slow}{query}")


def overlap_locked(world, slow, fast) -> Pair:
    """Do as `overlap`, where the fast one waits for the slow one to end."""
    pair = _make_pair(world)

    def run():
        pair.quick_answer = pair.quick.get(f"/do?what={fast}")

    thread = threading.Thread(target=run)

    def between():
        world.is_ending.clear()
        thread.start()
        assert world.is_ending.wait(timeout=30)

    _send(world, pair, between, f"/slow?what={slow}&lock=1")
    thread.join(timeout=30)
    return pair


def _make_pair(world, attempts=1, after=0):
    first = world.browser()
    first.get("/do?what=start")
    world.clock.pass_(after)
    (late,) = same_session(world, first, 1, **{"test.attempts": attempts})
    return Pair(late, *same_session(world, first, 2))


def _send(world, pair, between, path):
    world.between = between
    try:
        pair.answer = pair.late.get(path)
    except TransientError as error:
        pair.answer = error
    return pair
