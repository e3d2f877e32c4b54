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

from pyramid_limitedsession import (
    SessionMixin,
    SessionValueError,
    make_table,
)
from pyramid_limitedsession.settings import read_settings
from tests.alembic_site import differences
from tests.apps import add_views, count_dead, older_than
from tests.commands import Ini


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


def add_all_views(world):
    """Return the world with the usual views, and some of users."""

    @world.on("sign-in")
    def _(request):
        request.session["auth.userid"] = request.params["user"]
        return {}

    @world.on("others")
    def _(request):
        found = request.user_sessions.list(1)
        request.user_sessions.end_all(1)
        return [each.id for each in found]

    return add_views(world)


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
        return add_all_views(world)

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


# The last two are numbers, but too large for the column of 32 bits.
NO_NUMBERS = ["Ann", "007", "+7", "1_0", " 5", "٣", "-0", "1.0"]
NO_NUMBERS += [str(2**31), str(-(2**31) - 1)]


def test_a_user_who_is_no_number(make_shop, mode):
    """He is refused before anything is committed, and told where he is.

    So is whoever is a number by another name than the one he is read as: he
    would be found by the one, and not by the other.
    """
    world = make_shop(shop, mode=mode, column_values=columns_of_request)

    @world.on("sign-in")
    def _(request):
        request.session["auth.userid"] = user = request.params["user"]
        request.dbsession.add(world.Item(name=f"of {user}"))
        return {}

    for user in NO_NUMBERS:
        with pytest.raises(SessionValueError) as caught:
            world.browser().get("/sign-in", {"user": user})
        told = str(caught.value)
        assert "session['auth.userid'] names the user" in told
        assert "no whole number" in told
        assert user not in told
    assert [] == world.items()
    assert [] == world.rows()
    for user in (2**31 - 1, -(2**31), 0):
        world.browser().get("/sign-in", {"user": str(user)})
    kept = [row.user_id for row in world.rows()]
    assert [str(2**31 - 1), str(-(2**31)), "0"] == kept


def test_a_user_whom_no_session_can_have(make_shop, mode):
    """He has no sessions, and ending all of his ends nobody's."""
    world = make_shop(shop, mode=mode, column_values=columns_of_request)

    @world.on("others")
    def _(request):
        user = request.params["user"]
        found = request.user_sessions.list(user)
        request.user_sessions.end_all(user)
        request.user_sessions.end(user, 1)
        return len(found)

    browser = world.browser()
    browser.get("/sign-in?user=7")
    for user in NO_NUMBERS:
        assert 0 == world.browser().get("/others", {"user": user}).json
    assert {"auth.userid": "7"} == browser.get("/get").json
    assert 1 == world.browser().get("/others?user=7").json
    assert {} == browser.get("/get").json


def short(base, table):
    """Return a class whose users have short names, and whose key just fits."""

    class WebSession(SessionMixin, base):
        __tablename__ = table
        session_id: Mapped[str] = mapped_column(sa.String(67), unique=True)
        user_id: Mapped[str | None] = mapped_column(sa.String(5))

    return WebSession


def test_a_user_whose_name_is_too_long(make_shop, mode):
    """A text that is longer than the application's column is refused too."""
    world = make_shop(short, mode=mode)
    with pytest.raises(SessionValueError, match="more than 5 characters"):
        world.browser().get("/sign-in?user=abcdef")
    assert [] == world.rows()
    world.browser().get("/sign-in?user=abcde")
    assert ["abcde"] == [row.user_id for row in world.rows()]


def sequenced(base, table):
    """Return a class whose ids a sequence gives."""

    class WebSession(SessionMixin, base):
        __tablename__ = table
        id: Mapped[int] = mapped_column(
            sa.BigInteger, sa.Sequence(f"{table}_ids"), primary_key=True
        )

    return WebSession


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_ids_of_a_sequence(make_shop, database, mode):
    """Sessions take their ids from the sequence of the class."""
    world = make_shop(sequenced, database, mode)
    with world.engine.begin() as connection:
        named = sa.Sequence(f"{world.table.name}_ids")
        first = connection.scalar(named)
    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    world.browser().get("/set?a=1")
    ids = [row.id for row in world.rows()]
    assert sorted(ids) == ids
    assert first < ids[0]
    with world.engine.begin() as connection:
        assert connection.scalar(named) > ids[1]


def zoned(base, table):
    """Return a class whose times have a time zone."""

    class WebSession(SessionMixin, base):
        __tablename__ = table
        created_at: Mapped[object] = mapped_column(sa.DateTime(timezone=True))
        updated_at: Mapped[object] = mapped_column(sa.DateTime(timezone=True))
        expires_at: Mapped[object] = mapped_column(
            sa.DateTime(timezone=True), nullable=True
        )

    return WebSession


def test_times_with_a_time_zone(make_world, database, mode, run_name):
    """They are the right moments, whatever zone a connection is in."""
    zone = {"options": "-c timezone=America/New_York"}
    world = add_all_views(
        make_world(
            database,
            mode,
            query=zone if database == "postgresql" else None,
            declare=lambda base: zoned(base, f"pls_{run_name}_zoned"),
            settings={"limitedsession.idle_timeout": "3h"},
        )
    )
    begun, browser = world.clock.now, world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(3600)
    browser.get("/set?b=2")
    world.clock.pass_(3600)
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    (row,) = world.rows()
    assert (begun, begun + 7200) == (row.created_at, row.updated_at)
    assert row.expires_at >= begun + 7200 + 3 * 3600
    if database == "postgresql":
        epoch = sa.func.extract("epoch", sa.column("updated_at"))
        with world.engine.connect() as connection:
            query = sa.select(epoch).select_from(sa.table(world.table.name))
            assert begun + 7200 == connection.scalar(query)
    for seen, dead in ((begun + 7199, 0), (begun + 7200, 1)):
        assert dead == count_dead(world.store, older_than(seen, begun + 7200))
    # The touch interval is granted.
    world.clock.pass_(3 * 3600 + 60)
    assert {} == browser.get("/get").json
    assert begun + 7200 == world.rows()[0].updated_at


def test_ending_with_a_time_zone(make_world, run_name):
    """A tombstone expires when it has to, and is cleaned then."""
    world = add_all_views(
        make_world(
            "postgresql",
            query={"options": "-c timezone=Asia/Tokyo"},
            declare=lambda base: zoned(base, f"pls_{run_name}_zoned"),
            settings={"limitedsession.idle_timeout": "3h"},
        )
    )
    browser = world.browser()
    browser.get("/sign-in?user=1")
    until = world.rows()[0].expires_at
    world.browser().get("/others")
    (row,) = world.rows()
    assert ("revoked", until) == (row.ended, row.expires_at)
    for now, dead in ((until - 1, 0), (until, 1)):
        assert dead == count_dead(world.store, older_than(0, now))


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


class Numbered(SessionMixin, Base):
    """A class whose users are numbers."""

    __tablename__ = "numbered"
    user_id: Mapped[int | None]


def test_commands_about_users_who_are_numbers(tmp_path, capsys):
    """pls-list and pls-revoke say that one who is no number has none."""
    ini = Ini(tmp_path / "test.ini", capsys).write(
        limited__sqlalchemy__url=f"sqlite:///{tmp_path}/db",
        limited__model="tests.test_model.Numbered",
    )
    ini.init()
    for command in (("pls-list", "007"), ("pls-revoke", "--user", "007")):
        code, _, err = ini.call(*command)
        assert 2 == code
        assert "the name of the user is no whole number" in err
    assert 0 == ini.call("pls-list", "7")[0]


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
        (
            {
                "columns": "session_id data created_at updated_at",
                "column.version": "lock",
            },
            "column.version is of a column that limitedsession.columns",
        ),
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


def with_type(name, kind):
    """Return a class with a column of this type."""
    declared = {name: sa.Column(name, kind)}
    parents = (SessionMixin, declarative_base())
    return type("Typed", parents, {"__tablename__": "typed", **declared})


WITH_ZONE = sa.DateTime(timezone=True)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("session_id", sa.String(66), "a text, of at least 67 characters"),
        ("session_id", sa.LargeBinary(), "a text"),
        ("data", sa.LargeBinary(), "a text, or JSON"),
        ("data", sa.Integer(), "a text, or JSON"),
        ("created_at", sa.Integer(), "a date with a time (DateTime)"),
        ("updated_at", sa.Date(), "a date with a time (DateTime)"),
        ("expires_at", sa.String(20), "a date with a time (DateTime)"),
        ("version", sa.String(10), "a whole number of at least 32 bits"),
        ("version", sa.SmallInteger(), "a whole number of at least 32 bits"),
        ("user_id", sa.Uuid(), "a text or a whole number"),
        ("user_id", sa.Float(), "a text or a whole number"),
        ("profile", sa.String(39), "a text, of at least 40 characters"),
        ("ended", sa.Enum("revoked", "limit"), "a text, of at least 20"),
    ],
)
def test_wrong_types(name, kind, told):
    """A column that cannot keep what is put in is told at start."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"limitedsession.model": with_type(name, kind)})
    wanted = f"(its {name} is {kind!r}; it has to be {told}"
    assert wanted in str(caught.value)


class Upper(sa.types.TypeDecorator):
    """A type of an application's own."""

    impl = sa.String(67)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        """Change what is written."""
        return value.upper()


def test_an_own_type_of_a_column(make_shop):
    """Its functions are not called: it counts as what it is made of."""

    def declare(base, table):
        parents = (SessionMixin, base)
        data = sa.Column("data", Upper)
        return type("Own", parents, {"__tablename__": table, "data": data})

    world = make_shop(declare)
    browser = world.browser()
    browser.get("/set?a=b")
    assert {"a": "b"} == browser.get("/get").json
    assert ['{"a":"b"}'] == [row.data for row in world.rows()]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("session_id", sa.String(67)),
        ("session_id", sa.Text()),
        ("session_id", Upper()),
        ("created_at", sa.TIMESTAMP()),
        ("version", sa.BigInteger()),
        ("user_id", sa.SmallInteger()),
        ("user_id", sa.String(5)),
        ("profile", sa.Text()),
    ],
)
def test_right_types(name, kind):
    """What can keep it will do."""
    model = with_type(name, kind)
    assert read_settings({"limitedsession.model": model}).layout.has(name)


def test_time_zones_of_some_columns():
    """Times that are compared with each other are all of one kind."""
    with pytest.raises(ConfigurationError, match="all have to, or none"):
        read_settings(
            {"limitedsession.model": with_type("created_at", WITH_ZONE)}
        )


@pytest.mark.parametrize(
    ("kind", "serializer", "told"),
    [
        (sa.JSON(), "json", "which only limitedsession.serializer = null"),
        (sa.JSON(), "null", None),
        (sa.Text(), "null", "needs a limitedsession.model whose data is"),
        (sa.Text(), "json", None),
    ],
)
def test_json_and_its_serializer(kind, serializer, told):
    """A column of JSON and ``serializer = null`` need each other."""
    settings = {
        "limitedsession.model": with_type("data", kind),
        "limitedsession.serializer": serializer,
    }
    if told is None:
        assert read_settings(settings).layout.has("data")
        return
    with pytest.raises(ConfigurationError) as caught:
        read_settings(settings)
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
    add_all_views(world)
    with Session(world.engine) as dbsession:
        dbsession.add(example["User"](id=7, name="Ann"))
        dbsession.commit()
        world.browser(REMOTE_ADDR="192.0.2.1").get("/sign-in?user=7")
        (ann,) = dbsession.scalars(sa.select(example["User"]))
        assert ["192.0.2.1"] == [each.address for each in ann.sessions]
    metadata.drop_all(world.engine)
