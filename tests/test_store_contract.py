"""The contract of stores, kept by each of ours, and by that of the docs."""

from __future__ import annotations

import importlib.util

import pytest
import sqlalchemy as sa

from pyramid_limitedsession.engines import make_engine
from pyramid_limitedsession.layout import Layout
from pyramid_limitedsession.memory import MemoryStore
from pyramid_limitedsession.schema import typed_table
from pyramid_limitedsession.sqlstore import SqlStore
from pyramid_limitedsession.testing import StoreContract
from tests.conftest import DATABASES
from tests.matrix import (
    BYPASS,
    MEMORY,
    PAGE,
    STORES,
    complete,
    make_page,
    read_matrix,
)
from tests.outcomes import DATABASES as NAMES
from tests.outcomes import DOCS


@pytest.fixture(scope="class", name="sql_store")
def _sql_store(request, databases, run_name, tmp_path_factory):
    """A store of ours on one database, with a table of its own."""
    database = request.cls.database
    url = sa.make_url(databases.url(database))
    if database == "sqlite":
        # Of its own: other tests write to the common one.
        folder = tmp_path_factory.mktemp("contract")
        url = sa.make_url(f"sqlite:///{folder}/contract.sqlite")
    engine = make_engine(url, {"pool_size": "8"}, lock_timeout=10)
    table = typed_table(Layout(f"pls_{run_name}_contract"))
    store = SqlStore(engine, table, lock_timeout=10)
    store.create()
    yield store
    table.drop(engine)
    engine.dispose()


class OurContract(StoreContract):
    """The contract, whose results are counted for the page."""

    @pytest.fixture(autouse=True)
    def _tell(self, record_property):
        record_property("kept by", self.called)


class OnDatabase(OurContract):
    """Our store; made once, because making a table takes long."""

    @pytest.fixture(autouse=True)
    def _use(self, sql_store):
        self.sql_store = sql_store

    def make_store(self):
        return self.sql_store


class TestSQLite(OnDatabase):
    """On SQLite."""

    database, called = "sqlite", NAMES["sqlite"]


class TestPostgreSQL(OnDatabase):
    """On PostgreSQL."""

    database, called = "postgresql", NAMES["postgresql"]


class TestMariaDB(OnDatabase):
    """On MariaDB."""

    database, called = "mariadb", NAMES["mariadb"]


class TestMemoryStore(OurContract):
    """In memory."""

    called = MEMORY

    def make_store(self):
        return MemoryStore()


class TestExample(OurContract):
    """The store of docs/stores.rst."""

    called = BYPASS

    @pytest.fixture(autouse=True)
    def _use(self, tmp_path):
        self.path = str(tmp_path / "bypass.sqlite")

    def make_store(self):
        return load_example().make_store({"bypass.path": self.path})


def load_example():
    """Import docs/examples/bypass.py."""
    path = DOCS / "examples" / "bypass.py"
    spec = importlib.util.spec_from_file_location("bypass", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_store_is_forgotten():
    """The contract is kept on every database that the tests know, and by
    every store that the page has."""
    kept = {each.database for each in OnDatabase.__subclasses__()}
    assert set(DATABASES) == kept
    tried = {each.called for each in OnDatabase.__subclasses__()}
    tried |= {TestMemoryStore.called, TestExample.called}
    assert set(STORES) == tried


def test_the_page_is_complete(request):
    """docs/matrix.rst says that every test of both contracts has passed on
    every store, with every serializer."""
    if request.config.getoption("--write-outcomes"):
        pytest.skip("it is being written")
    results = read_matrix()
    assert complete() == results
    assert make_page(results) == PAGE.read_text(encoding="utf-8")
