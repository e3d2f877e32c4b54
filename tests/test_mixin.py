"""SessionMixin: the same table, as a declarative class of an application."""

from __future__ import annotations

import datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    declarative_base,
    mapped_column,
    registry,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from pyramid_limitedsession import SessionMixin, make_table
from tests.alembic_site import differences, empty_place
from tests.apps import START, World

SERVERS = ("postgresql", "mariadb")


def by_base_class():
    """A class under a DeclarativeBase."""

    class Base(DeclarativeBase):
        pass

    class WebSession(SessionMixin, Base):
        __tablename__ = "sessions"

    return WebSession


def by_function():
    """A class under what declarative_base() returns."""

    class WebSession(SessionMixin, declarative_base()):
        __tablename__ = "sessions"

    return WebSession


def by_decorator():
    """A class without a base, mapped by a registry."""

    @registry().mapped
    class WebSession(SessionMixin):
        __tablename__ = "sessions"

    return WebSession


STYLES = (by_base_class, by_function, by_decorator)


def ddl(table, dialect):
    """Return the statements that make a table."""
    indexes = sorted(table.indexes, key=lambda index: index.name)
    parts = [CreateTable(table), *map(CreateIndex, indexes)]
    return [str(part.compile(dialect=dialect)) for part in parts]


@pytest.fixture(name="url")
def _url(databases, database, tmp_path):
    """An empty place on each database."""
    with empty_place(databases, database, tmp_path) as (_, url):
        yield url


@pytest.fixture(name="engine")
def _engine(url):
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture(name="make_app")
def _make_app(url, clock):
    """Return a function that makes a World on the table that is there."""
    worlds = []

    def make(**settings):
        given = {f"limitedsession.{name}": settings[name] for name in settings}
        world = World(
            url, "joined", clock=clock, table="sessions", settings=given
        )
        worlds.append(world)

        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return dict(request.session)

        return world

    yield make
    for world in worlds:
        world.store.engine.dispose()
        world.engine.dispose()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("dialect", [sqlite, postgresql, mysql])
def test_the_same_table(style, dialect):
    """The class makes, to the letter, what make_table makes."""
    table = style().__table__
    other = make_table(sa.MetaData(), "sessions")
    assert ddl(other, dialect.dialect()) == ddl(table, dialect.dialect())


def test_the_names_follow_the_table_s():
    """Under another name, constraint and indexes are named after it."""

    class WebSession(SessionMixin, declarative_base()):
        __tablename__ = "visits"

    other = make_table(sa.MetaData(), "visits")
    dialect = sqlite.dialect()
    assert ddl(other, dialect) == ddl(WebSession.__table__, dialect)


def test_no_difference(engine):
    """Autogenerate sees one table, and none that is unlike make_table's."""
    declared = by_base_class().metadata
    assert ["sessions"] == list(declared.tables)
    declared.create_all(engine)
    made = sa.MetaData()
    make_table(made, "sessions")
    for metadata in (declared, made):
        assert [] == differences(engine, metadata)


def test_an_application_reads_its_sessions(engine, make_app):
    """What this package stores is what the class finds, times in UTC."""
    web = by_base_class()
    web.metadata.create_all(engine)
    browser = make_app().browser()
    browser.get("/set?auth.userid=ann&a=1")
    assert "1" == browser.get("/set?b=2").json["a"]
    query = sa.select(web).where(web.user_id == "ann")
    with Session(engine) as dbsession:
        (found,) = dbsession.scalars(query)
        assert found.session_id.startswith("2::")
        assert '"b":' in found.data
        # Plain ones: echo shows them, as the docs say.
        texts = (found.session_id, found.data, found.user_id)
        assert {str} == set(map(type, texts))
        began = found.created_at.replace(tzinfo=datetime.timezone.utc)
        assert began.timestamp() == START
        assert (None, None) == (found.profile, found.ended)


def test_more_columns(engine, make_app):
    """Columns and indexes of the application stand behind ours."""

    class Base(DeclarativeBase):
        pass

    class Shop(Base):
        __tablename__ = "shops"
        id: Mapped[int] = mapped_column(primary_key=True)

    class WebSession(SessionMixin, Base):
        __tablename__ = "sessions"
        __table_args__ = (sa.Index("by_device", "device"),)
        device: Mapped[str] = mapped_column(sa.String(30), server_default="pc")
        shop: Mapped[int | None] = mapped_column(sa.ForeignKey(Shop.id))

    Base.metadata.create_all(engine)
    assert [] == differences(engine, Base.metadata)
    columns = [column.name for column in WebSession.__table__.columns]
    ours = make_table(sa.MetaData(), "sessions").columns.keys()
    assert [*ours, "device", "shop"] == columns
    browser = make_app().browser()
    browser.get("/set?a=1")
    assert {"a": "1", "b": "2"} == browser.get("/set?b=2").json
    query = sa.select(WebSession.device, WebSession.shop)
    with Session(engine) as dbsession:
        assert [("pc", None)] == list(map(tuple, dbsession.execute(query)))


@pytest.mark.parametrize("database", SERVERS)
def test_a_schema(engine, databases, database, tmp_path, make_app):
    """The schema is given as in any class, with other table arguments."""
    with empty_place(databases, database, tmp_path) as (schema, _):

        class WebSession(SessionMixin, declarative_base()):
            __tablename__ = "sessions"
            __table_args__ = (
                sa.Index("by_activity", "updated_at"),
                {"schema": schema, "mysql_engine": "InnoDB"},
            )

        WebSession.metadata.create_all(engine)
        browser = make_app(schema=schema).browser()
        browser.get("/set?a=1")
        assert {"a": "1"} == browser.get("/set").json
        with Session(engine) as dbsession:
            assert 1 == len(list(dbsession.scalars(sa.select(WebSession))))
        options = {
            "include_schemas": True,
            "include_name": lambda name, kind, parents: (
                kind != "schema" or name == schema
            ),
        }
        found = differences(engine, WebSession.metadata, **options)
        assert [] == found


def test_both_ways_at_once():
    """A table that is declared twice is SQLAlchemy's own error."""
    base = declarative_base()
    make_table(base.metadata, "sessions")
    with pytest.raises(InvalidRequestError, match="already defined"):

        class WebSession(SessionMixin, base):
            __tablename__ = "sessions"
