"""The contract of sessions: every store, database, mode and serializer."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import zope.sqlalchemy
from sqlalchemy.orm import sessionmaker

from pyramid_limitedsession.layout import Layout
from pyramid_limitedsession.schema import typed_table
from pyramid_limitedsession.testing import SessionContract, memory_store
from tests.matrix import BYPASS, MEMORY, PLACES, SERIALIZERS, names_in
from tests.outcomes import DATABASES
from tests.test_store_contract import load_example


class Cell(SessionContract):
    """One application, with one store and one serializer."""

    def __init__(self, settings, engine=None):
        self._settings = settings
        self._engine = engine

    def make_settings(self):
        return {
            f"limitedsession.{name}": value
            for name, value in self._settings.items()
        }

    def configure(self, config):
        if self._engine is None:
            return
        make = sessionmaker(self._engine)

        def dbsession(request):
            made = make()
            zope.sqlalchemy.register(made, transaction_manager=request.tm)
            return made

        config.add_request_method(dbsession, reify=True)


@pytest.fixture(scope="module", name="engine_of")
def _engine_of(databases, run_name):
    """Return an application's engines, with two tables on each."""
    engines = {}
    tables = [
        typed_table(Layout(f"pls_{run_name}_{name}"), is_native=name == "null")
        for name in ("text", "null")
    ]

    def get(database):
        if database not in engines:
            engines[database] = sa.create_engine(databases.url(database))
            for table in tables:
                table.create(engines[database])
        return engines[database]

    yield get
    for engine in engines.values():
        for table in tables:
            table.drop(engine)
        engine.dispose()


@pytest.fixture(name="cell")
def _cell(place, serializer, engine_of, databases, run_name, tmp_path):
    """The application of one cell."""
    settings = dict(SERIALIZERS[serializer])
    kind = "null" if settings["serializer"] == "null" else "text"
    table = f"pls_{run_name}_{kind}"
    name, _, mode = place.partition(", ")
    if place == MEMORY:
        cell = type("MemoryCell", (Cell,), {})(
            settings | {"store": memory_store}
        )
    elif place == BYPASS:
        path = {"bypass.path": str(tmp_path / "bypass.sqlite")}
        store = load_example().make_store(path)
        cell = type("BypassCell", (Cell,), {})(
            settings | {"store": lambda settings: store}
        )
    else:
        (database,) = [each for each in DATABASES if DATABASES[each] == name]
        engine = engine_of(database)
        settings |= {"table_name": table}
        if mode == "separate":
            settings["sqlalchemy.url"] = databases.url(database)
            engine = None
        cell = type("SqlCell", (Cell,), {})(settings, engine)
    yield cell
    own = getattr(cell.site.store, "engine", None)
    if own is not None:
        own.dispose()


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("place", PLACES)
def test_the_contract_of_sessions(cell, place, serializer, record_property):
    """Every scenario of the contract holds; the page says how many."""
    names = names_in(SessionContract)
    for name in names:
        try:
            getattr(cell, name)()
        except Exception as error:
            raise AssertionError(f"{name} failed") from error
    record_property("sessions", (place, serializer, len(names)))
