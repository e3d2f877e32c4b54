"""The application's own mapped class of the table, as ``model``."""

from __future__ import annotations

import runpy
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from pyramid.exceptions import ConfigurationError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    declarative_base,
    mapped_column,
    relationship,
)

from pyramid_limitedsession import SessionMixin, make_table
from pyramid_limitedsession.settings import read_settings
from tests.alembic_site import differences


def columns_of_request(request, content):
    """Values for the columns of the class that `shop` makes."""
    return {"address": request.client_addr, "items": len(content)}


def shop(base, table):
    """Return a class with a user, and two columns of the application."""

    class User(base):
        __tablename__ = f"{table}_users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(sa.String(30))
        sessions: Mapped[list[WebSession]] = relationship(
            back_populates="user"
        )

    class WebSession(SessionMixin, base):
        __tablename__ = table
        user_id: Mapped[int | None] = mapped_column(
            sa.ForeignKey(f"{table}_users.id"), index=True
        )
        user: Mapped[User | None] = relationship(back_populates="sessions")
        address: Mapped[str | None] = mapped_column("the address", sa.Text)
        items: Mapped[int]

    scope = {"WebSession": WebSession, "User": User}
    base.registry._class_registry.update(scope)
    WebSession.User = User
    return WebSession


def add_views(world):
    """Return the world with the usual views."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("sign-in")
    def _(request):
        request.session["auth.userid"] = request.params["user"]
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("others")
    def _(request):
        found = request.user_sessions.list(1)
        request.user_sessions.end_all(1)
        return [each.id for each in found]

    return world


@pytest.fixture(name="make_shop")
def _make_shop(make_world, run_name):
    """Return a function that makes a world with a class."""

    def make(declare, database="sqlite", mode="joined", **settings):
        table = f"pls_{run_name}_model"
        given = {f"limitedsession.{name}": settings[name] for name in settings}
        world = make_world(
            database,
            mode,
            declare=lambda base: declare(base, table),
            settings=given,
        )
        return add_views(world)

    return make


def test_a_class_of_the_application(make_shop, database, mode):
    """Extra columns have their values, and the user his sessions."""
    world = make_shop(shop, database, mode, column_values=columns_of_request)
    web = world.model
    with Session(world.engine) as dbsession:
        dbsession.add(web.User(id=1, name="Ann"))
        dbsession.commit()
    browser = world.browser(REMOTE_ADDR="192.0.2.1")
    browser.get("/set?a=1")
    browser.get("/sign-in?user=1")
    assert {"a": "1", "auth.userid": "1"} == browser.get("/get").json
    with Session(world.engine) as dbsession:
        (ann,) = dbsession.scalars(sa.select(web.User))
        (found,) = ann.sessions
        assert "Ann" == found.user.name
        assert ("192.0.2.1", 2) == (found.address, found.items)
    other = world.browser(REMOTE_ADDR="192.0.2.2")
    other.get("/sign-in?user=1")
    assert 2 == len(other.get("/others").json)
    assert {} == browser.get("/get").json


def test_a_user_who_is_no_number(make_shop):
    """What the application's column cannot keep is an error, told as such."""
    world = make_shop(shop, column_values=columns_of_request)
    with pytest.raises(Exception, match="no number") as caught:
        world.browser().get("/sign-in?user=ann")
    assert "ann" not in str(caught.value)
    assert [] == world.rows()


def test_values_for_what_is_no_column(make_shop):
    """A function that returns anything else is told which name is wrong."""

    def values(request, content):
        return {"address": "x", "items": 1, "data": "nothing of yours"}

    world = make_shop(shop, column_values=values)
    with pytest.raises(Exception, match="returned 'data'"):
        world.browser().get("/set?a=1")
    assert [] == world.rows()


def test_the_function_sees_but_does_not_change(make_shop):
    """It gets the content to read only."""

    def values(request, content):
        content["b"] = 1

    world = make_shop(shop, column_values=values)
    with pytest.raises(TypeError, match="does not support item assignment"):
        world.browser().get("/set?a=1")


def test_autogenerate_sees_it_once(make_shop, database):
    """One table, and after create_all no difference."""
    world = make_shop(shop, database, column_values=columns_of_request)
    names = list(world.base.metadata.tables)
    assert 1 == names.count(world.table.name)
    assert [] == differences(
        world.engine,
        world.base.metadata,
        include_name=lambda name, kind, parents: (
            kind != "table" or name in names
        ),
    )


def named(base, table):
    """Return a class whose attributes have other names in the database."""

    class WebSession(SessionMixin, base):
        __tablename__ = table
        data: Mapped[str] = mapped_column("payload", sa.Text)
        profile = None
        version = None

    return WebSession


def identified(base, table):
    """Return a class whose ids are UUIDs of Python's making."""

    class WebSession(SessionMixin, base):
        __tablename__ = table
        id: Mapped[uuid.UUID] = mapped_column(
            primary_key=True, default=uuid.uuid4
        )

    return WebSession


def by_hand(base, table):
    """Return a class without the mixin, of the least there can be."""

    class WebSession(base):
        __tablename__ = table
        session_id: Mapped[str] = mapped_column(
            "sid", sa.String(80), primary_key=True
        )
        data: Mapped[str] = mapped_column(sa.Text)
        created_at: Mapped[object] = mapped_column(sa.DateTime)
        updated_at: Mapped[object] = mapped_column("seen", sa.DateTime)

    return WebSession


@pytest.mark.parametrize("declare", [named, identified, by_hand])
def test_classes(make_shop, database, declare):
    """Other names, other ids, another primary key: the attributes tell."""
    world = make_shop(declare, database, "joined")
    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    with Session(world.engine) as dbsession:
        (found,) = dbsession.scalars(sa.select(world.model))
        assert '{"a":"1","b":"2"}' == found.data


def test_columns_that_take_the_place_of_ours():
    """One that the class declares is there once, one that is None not."""
    table = named(declarative_base(), "visits").__table__
    names = [column.name for column in table.columns]
    ours = make_table(sa.MetaData(), "visits").columns.keys()
    expected = [
        {"data": "payload"}.get(name, name)
        for name in ours
        if name not in ("profile", "version")
    ]
    assert expected == names


class Base(DeclarativeBase):
    """What the classes below are declared under."""


class Visit(SessionMixin, Base):
    """A class that a dotted name names."""

    __tablename__ = "visits"


class Poor(Base):
    """A class that lacks what is needed."""

    __tablename__ = "poor"
    session_id: Mapped[str] = mapped_column(primary_key=True)


def test_a_dotted_name():
    """The setting is a dotted name, or the class itself."""
    for given in ("tests.test_model.Visit", "tests.test_model:Visit", Visit):
        settings = read_settings({"limitedsession.model": given})
        assert "visits" == settings.layout.name
        assert Visit.__table__ is settings.layout.table


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": "tests.test_model.Poor"}, "no attribute data, created_at"),
        ({"model": "tests.test_model.Nobody"}, "no attribute 'Nobody'"),
        ({"model": "no.such.module.Class"}, "No module named 'no'"),
        ({"model": "tests.test_model.shop"}, "it is no mapped class"),
        ({"model": Visit, "table_name": "x"}, "take it out"),
        ({"model": Visit, "column.data": "x"}, "take it out"),
        ({"model": Visit, "columns": "session_id"}, "take it out"),
        (
            {"column_values": columns_of_request},
            "needs a limitedsession.model",
        ),
        ({"columns": "session_id data"}, "say it like 'id session_id data"),
        ({"columns": "all of them"}, "say it like 'id session_id data"),
        ({"column.data": "version"}, "another column has that name"),
        ({"column.data": "%(x)s"}, "say it like 'the_data'"),
        ({"column.date": "x"}, "did you mean limitedsession.column.data?"),
        (
            {
                "columns": "session_id data created_at updated_at",
                "max_sessions_per_user": "3",
            },
            "max_sessions_per_user needs the column 'user_id'",
        ),
        (
            {
                "columns": "session_id data created_at updated_at",
                "profile.x.idle_timeout": "3h",
            },
            "profile.NAME needs the column 'profile'",
        ),
    ],
)
def test_wrong_settings(given, told):
    """What makes no sense is told at start, with what would."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings({f"limitedsession.{k}": v for k, v in given.items()})
    assert told in str(caught.value)


def test_the_example_of_the_docs(make_world):
    """docs/examples/models.py is an application's, and works as it is."""
    path = Path(__file__).parent.parent / "docs" / "examples" / "models.py"
    example = runpy.run_path(str(path))
    metadata = example["Base"].metadata
    world = make_world(
        listen=metadata.create_all,
        declare=lambda base: example["WebSession"],
        settings={"limitedsession.column_values": example["session_columns"]},
    )
    add_views(world)
    with Session(world.engine) as dbsession:
        dbsession.add(example["User"](id=7, name="Ann"))
        dbsession.commit()
        world.browser(REMOTE_ADDR="192.0.2.1").get("/sign-in?user=7")
        (ann,) = dbsession.scalars(sa.select(example["User"]))
        assert ["192.0.2.1"] == [each.address for each in ann.sessions]
    metadata.drop_all(world.engine)
