"""Real applications for the tests, driven through WebTest.

`World` is one application on one database: pyramid_tm, zope.sqlalchemy, a
table of the application's own, and our sessions in one of two modes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
from sqlalchemy.orm import declarative_base, sessionmaker
from sqlalchemy.schema import DropTable
from webtest import TestApp

from pyramid_limitedsession.layout import COLUMNS, Layout, layout_of
from pyramid_limitedsession.limits import Cutoffs
from pyramid_limitedsession.schema import (
    columns_of,
    plain_table,
    typed_table,
)
from pyramid_limitedsession.sqlupkeep import Upkeep

MODES = ("joined", "separate")
START = 1_800_000_000


def older_than(seen: int, now: int = START) -> Cutoffs:
    """Cutoffs of an idle limit only, at which an activity is too old."""
    return Cutoffs(now, (seen, 0))


def count_dead(store: Any, cutoffs: Cutoffs) -> int:
    """Return how many rows pls-trim would delete."""
    return sum(Upkeep(store).count_dead(cutoffs).values())


def trim(
    store: Any, cutoffs: Cutoffs, most: int = 10_000, *, by_id: bool = False
) -> int:
    """Delete one batch as pls-trim does; return how many rows."""
    upkeep = Upkeep(store)
    way = upkeep.way_by_id() if by_id else upkeep.shortest_way()
    which = upkeep.dead(cutoffs)
    batch = upkeep.delete(
        way, which, after=way.start, most=most, clock=lambda: 0.0
    )
    return batch.deleted


def settings_of(layout: Layout) -> dict[str, Any]:
    """Return the settings that say so."""
    settings: dict[str, Any] = {"limitedsession.table_name": layout.name}
    if layout.schema is not None:
        settings["limitedsession.schema"] = layout.schema
    if tuple(layout.names) != COLUMNS:
        settings["limitedsession.columns"] = " ".join(layout.names)
    return settings | {
        f"limitedsession.column.{name}": called
        for name, called in layout.names.items()
        if name != called
    }


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now: float = START

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class World:
    """One application, its database, and what a test looks at.

    ``world.views[name] = function(request) -> anything JSON`` is answered
    at ``/name``; a view may return a Response, or raise. ``listen`` is
    called with the application's engine before its first connection.
    ``layout`` is the table's, ``is_native`` its data a column of JSON;
    ``declare`` makes the application's own class of it under a base.

    :ivar statements: SQL that ran on any engine of this world.
    """

    def __init__(
        self,
        url: str,
        mode: str,
        *,
        clock: Clock,
        table: str,
        settings: dict[str, Any] | None = None,
        explicit: bool = True,
        engine: dict[str, Any] | None = None,
        listen: Callable[[sa.Engine], None] = lambda engine: None,
        configure: Callable[[Configurator], None] = lambda config: None,
        layout: Layout | None = None,
        is_native: bool = False,
        declare: Callable[[Any], Any] | None = None,
    ) -> None:
        self.mode = mode
        self.clock = clock
        self.url = url
        self.views: dict[str, Callable[[Request], Any]] = {}
        self.statements: list[str] = []
        self.engine = sa.create_engine(url, **(engine or {}))
        listen(self.engine)
        base = declarative_base()
        self.item_table = f"{table}_items"

        class Item(base):  # type: ignore[misc, valid-type]
            __tablename__ = self.item_table
            id = sa.Column(sa.Integer, primary_key=True)
            name = sa.Column(sa.String(50), unique=True)

        self.Item = Item
        self.base = base
        if declare is not None:
            self.model = declare(base)
            settings = {"limitedsession.model": self.model, **(settings or {})}
            layout = layout_of(self.model)
        else:
            layout = layout or Layout(table)
            plain_table(layout, base.metadata, is_native=is_native)
            if "limitedsession.store" not in (settings or {}):
                settings = {**settings_of(layout), **(settings or {})}
        self.layout = layout
        self.table = typed_table(layout, is_native=is_native)
        self.columns = columns_of(self.table)
        base.metadata.create_all(self.engine)
        self.session_factory = sessionmaker(self.engine)
        self._listen(self.engine)
        self.app = self._make_app(
            {
                "limitedsession.self_clean": "0",
                **(
                    {"limitedsession.sqlalchemy.url": url}
                    if mode == "separate"
                    else {}
                ),
                **(
                    {"tm.manager_hook": "pyramid_tm.explicit_manager"}
                    if explicit
                    else {}
                ),
                **(settings or {}),
            },
            configure,
        )
        self.factory = self.app.registry["pyramid_limitedsession"]
        if self._own_engine is not self.engine:
            self._listen(self._own_engine)

    def _make_app(
        self,
        settings: dict[str, Any],
        configure: Callable[[Configurator], None],
    ) -> Any:
        with Configurator(settings=settings) as config:
            config.include("pyramid_tm")
            config.include("pyramid_limitedsession")
            config.set_session_clock(self.clock)
            config.add_request_method(self._dbsession, "dbsession", reify=True)
            config.add_route("view", "/{name}")
            config.add_view(self._view, route_name="view", renderer="json")
            configure(config)
            return config.make_wsgi_app()

    def _dbsession(self, request: Request) -> Any:
        dbsession = request.environ.get("app.dbsession")
        if dbsession is None:
            dbsession = self.session_factory()
            zope.sqlalchemy.register(dbsession, transaction_manager=request.tm)
        return dbsession

    def _view(self, request: Request) -> Any:
        return self.views[request.matchdict["name"]](request)

    def _listen(self, engine: sa.Engine) -> None:
        sa.event.listen(engine, "before_cursor_execute", self._ran)

    def _ran(self, *arguments: Any) -> None:
        self.statements.append(arguments[2])

    # -- what tests use ------------------------------------------------

    def browser(self, **environ: Any) -> TestApp:
        """Return a new browser with an empty cookie jar."""
        return TestApp(self.app, extra_environ=environ)

    def on(self, name: str) -> Callable[[Any], Any]:
        """Decorate a function that answers at ``/name``."""

        def register(view: Callable[[Request], Any]) -> Any:
            self.views[name] = view
            return view

        return register

    @property
    def store(self) -> Any:
        """The store beside the application's transaction."""
        if self.factory.store is not None:
            return self.factory.store
        with prepare(registry=self.app.registry) as env:
            return self.factory.store_for(env["request"])

    @property
    def _own_engine(self) -> sa.Engine:
        # A store of another kind has none.
        engine: sa.Engine = getattr(self.store, "engine", self.engine)
        return engine

    def rows(self) -> list[Any]:
        """Return the committed rows of the sessions table."""
        with self.engine.connect() as connection:
            query = sa.select(self.table).order_by(self.columns.id)
            return list(connection.execute(query))

    def items(self) -> list[str]:
        """Return the names of the application's own committed rows."""
        with self.engine.connect() as connection:
            query = sa.select(self.Item.name).order_by(self.Item.id)
            return list(connection.execute(query).scalars())

    def execute(self, statement: Any, values: Any = None) -> None:
        """Run a statement of the test's own."""
        with self.engine.begin() as connection:
            connection.execute(statement, values)

    def checked_out(self) -> int:
        """Return how many connections are not back in their pools."""
        engines = {self.engine, self._own_engine}
        return sum(
            getattr(engine.pool, "checkedout", lambda: 0)()
            for engine in engines
        )

    def count(self, *words: str) -> list[str]:
        """Return the verbs of the statements on our table since last time.

        Transactions' own statements are left out.
        """
        verbs = [
            statement.split()[0].upper()
            for statement in self.statements
            if self.table.name in statement
            and self.item_table not in statement
        ]
        self.statements.clear()
        return verbs

    def close(self) -> None:
        """Drop the tables and close every connection."""
        self._own_engine.dispose()
        if self.engine.dialect.name == "sqlite":
            self.base.metadata.drop_all(self.engine)
        else:
            self._drop_all()
        self.engine.dispose()

    def _drop_all(self) -> None:
        # To ask a server first which of them are there takes longer.
        tables = reversed(self.base.metadata.sorted_tables)
        with self.engine.begin() as connection:
            for table in tables:
                connection.execute(DropTable(table, if_exists=True))


def add_views(world: World) -> World:
    """Return the world with the usual views.

    ``/set?a=1`` puts into the session, ``/get`` shows it, ``/rotate`` and
    ``/out`` do what they say, ``/ended`` tells why it is over.
    """

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    @world.on("ended")
    def _(request):
        return request.session.ended

    return world


def cookie_of(response: Response) -> list[str]:
    """Return the Set-Cookie headers of a response."""
    return response.headers.getall("Set-Cookie")
