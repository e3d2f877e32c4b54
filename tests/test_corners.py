"""Corners of the request's life that an attack on the package found."""

from __future__ import annotations

import logging
import threading

import pytest
import sqlalchemy as sa
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql import Delete, Update

from pyramid_limitedsession import (
    SessionBusyError,
    SessionError,
    SessionTableError,
)
from pyramid_limitedsession.settings import read_settings
from tests.apps import cookie_of

OURS = "pyramid_limitedsession.tweens.lifecycle_tween_factory"
TM = "pyramid_tm.tm_tween_factory"


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    world = make_world(database, mode)
    add_views(world)
    return world


@pytest.fixture(name="small")
def _small(make_world, mode):
    """A world on SQLite, for what depends on no database."""
    world = make_world(mode=mode)
    add_views(world)
    return world


def add_views(world):
    """Views that most tests here use."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)


def replay(world, token):
    """Return what a browser with this token is shown."""
    thief = world.browser()
    thief.set_cookie("session", token)
    return thief.get("/get").json


def log_in(world):
    """Return a browser that is signed in, and its token."""
    browser = world.browser()
    browser.get("/set?user=ann")
    return browser, browser.cookies["session"]


# -- while the transaction commits -------------------------------------


def on_flush(request, listener):
    """Call the listener when the request's dbsession is flushed."""
    sa.event.listen(request.dbsession, "after_flush", lambda *_: listener())


def test_p2_a_change_during_the_flush_is_saved(world):
    """P2: what a flush listener of the app puts in is saved with the rest."""

    @world.on("flush")
    def _(request):
        request.session["view"] = 1

        def flushed():
            request.session["flushed"] = 1

        on_flush(request, flushed)
        request.dbsession.add(world.Item(name="x"))
        return {}

    browser, _ = log_in(world)
    browser.get("/flush")
    expected = {"user": "ann", "view": 1, "flushed": 1}
    assert expected == browser.get("/get").json


def test_p4_an_end_during_the_flush_is_done(world):
    """P4: invalidate() in a flush listener ends the session."""

    @world.on("flush")
    def _(request):
        request.session["x"] = 1
        on_flush(request, request.session.invalidate)
        request.dbsession.add(world.Item(name="x"))
        return {}

    browser, token = log_in(world)
    response = browser.get("/flush")
    assert "Max-Age=0" in cookie_of(response)[0]
    assert {} == replay(world, token)


def test_p2_a_hook_that_adds_a_hook(world):
    """P2: a change in a hook that another hook has added is saved."""

    @world.on("hooks")
    def _(request):
        transaction = request.tm.get()
        dict(request.session)

        def second():
            request.session["second"] = 1

        def first():
            transaction.addBeforeCommitHook(second)

        transaction.addBeforeCommitHook(first)
        return {}

    browser, _ = log_in(world)
    browser.get("/hooks")
    assert {"user": "ann", "second": 1} == browser.get("/get").json


def test_p2_a_value_held_across_a_commit(world):
    """P2: a nested value changed after a commit in mid-request is saved."""

    @world.on("twice")
    def _(request):
        cart = request.session.setdefault("cart", [0])
        cart.append(1)
        request.tm.commit()
        request.tm.begin()
        cart.append(2)
        return {}

    browser, _ = log_in(world)
    browser.get("/twice")
    assert [0, 1, 2] == browser.get("/get").json["cart"]


def test_p4_a_hook_of_the_app_that_fails(world):
    """P4: a failing before-commit hook leaves no lock, and ends are done."""

    @world.on("hook")
    def _(request):
        def hook():
            raise RuntimeError("hook")

        request.dbsession.add(world.Item(name="x"))
        request.dbsession.flush()
        request.tm.get().addBeforeCommitHook(hook)
        request.session.invalidate()
        return {}

    browser, token = log_in(world)
    with pytest.raises(RuntimeError, match="hook"):
        browser.get("/hook")
    assert {} == replay(world, token)
    assert [] == world.items()
    assert 0 == world.checked_out()


def test_a_request_is_not_replayed_after_its_commit(make_world):
    """When a late change fails the app's committed work is not done again."""
    world = make_world(
        mode="joined",
        configure=lambda config: config.include("pyramid_retry"),
        query={"timeout": "0.1"},
    )
    add_views(world)
    blocker = world.engine.connect()

    @world.on("order")
    def _(request):
        request.dbsession.add(world.Item(name="order"))
        dict(request.session)

        def late(committed):
            request.session["last"] = "order"
            blocker.exec_driver_sql("BEGIN IMMEDIATE")

        request.tm.get().addAfterCommitHook(late)
        return {}

    browser, _ = log_in(world)
    with pytest.raises(SessionError, match="had ended"):
        browser.get("/order")
    blocker.rollback()
    blocker.close()
    assert ["order"] == world.items()


def test_two_connections_never_wait_for_each_other_for_ever(make_world):
    """A circle of waits over two connections ends with SessionBusyError.

    One request holds the session's row and waits, at its COMMIT, for the
    other's row in the app's table; that one waits for the session's row.
    """
    world = make_world("postgresql", "separate")
    add_views(world)
    deferred = f"{world.item_table}_deferred"
    world.execute(
        sa.text(
            f"CREATE TABLE {deferred} (v TEXT UNIQUE "
            "DEFERRABLE INITIALLY DEFERRED)"
        )
    )
    ready = threading.Barrier(2)

    @world.on("order")
    def _(request):
        request.dbsession.execute(sa.text(f"INSERT INTO {deferred} VALUES(1)"))
        zope.sqlalchemy.mark_changed(
            request.dbsession, transaction_manager=request.tm
        )
        request.session["order" + request.params["n"]] = 1
        ready.wait(timeout=30)
        return {}

    _, token = log_in(world)
    outcomes = []

    def order(n):
        browser = world.browser()
        browser.set_cookie("session", token)
        try:
            outcomes.append(browser.get(f"/order?n={n}").status_int)
        except (SessionBusyError, sa.exc.IntegrityError) as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=order, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    world.execute(sa.text(f"DROP TABLE {deferred}"))
    assert 2 == len(outcomes)
    assert 200 in outcomes
    assert 0 == world.checked_out()


# -- where the dbsession leads -----------------------------------------


def test_sessions_are_read_where_they_are_written(make_world, tmp_path):
    """A dbsession that sends reads to a replica keeps sessions on the lead."""
    world = make_world(mode="joined")
    add_views(world)
    replica = sa.create_engine(f"sqlite:///{tmp_path}/replica.sqlite")
    world.base.metadata.create_all(replica)

    class RoutingSession(Session):
        def get_bind(self, mapper=None, *, clause=None, **options):
            if self._flushing or isinstance(clause, (Update, Delete)):
                return world.engine
            return replica

    world.session_factory = sessionmaker(class_=RoutingSession)
    browser, _ = log_in(world)
    assert {"user": "ann"} == browser.get("/get").json
    assert 1 == len(world.rows())
    with replica.connect() as connection:
        assert [] == connection.execute(sa.select(world.table)).all()
    replica.dispose()


def test_execution_options_hold_for_reading_too(make_world, run_name):
    """With a schema_translate_map a session is found where it was put."""
    world = make_world("postgresql", "joined")
    add_views(world)
    schema = f"pls_{run_name}_tenant"
    world.execute(sa.text(f"CREATE SCHEMA {schema}"))
    tenant = world.engine.execution_options(
        schema_translate_map={None: schema}
    )
    world.base.metadata.create_all(tenant)
    plain = world.session_factory
    world.session_factory = sessionmaker(tenant)
    browser, _ = log_in(world)
    try:
        assert {"user": "ann"} == browser.get("/get").json
        assert [] == world.rows()
    finally:
        world.session_factory = plain
        world.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))


# Not on SQLite, where Python's driver begins no transaction of its own
# before a savepoint, and the recipe does not work.
@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
@pytest.mark.parametrize("how", ["touch", "leave"])
def test_a_dbsession_bound_to_a_connection(make_world, database, how):
    """SQLAlchemy's recipe for tests, one outer transaction, works.

    Nothing waits for the outer transaction, and an end is an end.
    """
    world = make_world(database, "joined")
    add_views(world)

    @world.on("leave")
    def _(request):
        request.session.invalidate()
        raise HTTPFound("/get")

    plain = world.session_factory
    with world.engine.connect() as connection:
        outer = connection.begin()
        world.session_factory = sessionmaker(
            connection, join_transaction_mode="create_savepoint"
        )
        browser, token = log_in(world)
        world.clock.pass_(600)
        assert {"user": "ann"} == browser.get("/get").json
        query = sa.select(world.table.c.updated_at)
        assert world.clock.now == connection.execute(query).scalar()
        if how == "leave":
            browser.get("/leave")
            assert {} == replay(world, token)
        outer.rollback()
    world.session_factory = plain
    assert [] == world.rows()


def test_a_large_write_before_the_first_look(make_world):
    """SQLite: a request whose own write locks the file reads its session."""
    world = make_world(mode="joined", query={"timeout": "0.1"})
    add_views(world)

    @world.on("upload")
    def _(request):
        large = sa.text(f"INSERT INTO {world.item_table} VALUES (:id, :text)")
        values = [{"id": n, "text": f"{n:100000}"} for n in range(100)]
        request.dbsession.execute(large, values)
        request.session["uploaded"] = True
        return {}

    browser, _ = log_in(world)
    browser.get("/upload")
    assert {"user": "ann", "uploaded": True} == browser.get("/get").json


@pytest.mark.parametrize("pool", [sa.StaticPool, None])
def test_memory_with_the_savepoint_recipe(make_world, pool):
    """An app in memory that emits BEGIN itself: ends are durable there."""
    options = {"connect_args": {"check_same_thread": False}}
    if pool:
        options["poolclass"] = pool
    world = make_world("memory", "joined", engine=options)
    add_views(world)
    sa.event.listen(
        world.engine,
        "connect",
        lambda connection, record: setattr(
            connection, "isolation_level", None
        ),
    )
    sa.event.listen(
        world.engine,
        "begin",
        lambda connection: connection.exec_driver_sql("BEGIN"),
    )
    world.engine.dispose()
    world.base.metadata.create_all(world.engine)

    @world.on("leave")
    def _(request):
        request.session.invalidate()
        raise HTTPFound("/get")

    browser, token = log_in(world)
    world.clock.pass_(600)
    assert {"user": "ann"} == browser.get("/get").json
    browser.get("/leave")
    assert {} == replay(world, token)


# -- behind the request ------------------------------------------------


def test_p4_an_end_in_a_finished_callback(small):
    """P4: invalidate() in a finished callback still ends the session."""

    @small.on("late")
    def _(request):
        request.add_finished_callback(lambda r: r.session.invalidate())
        return dict(request.session)

    browser, token = log_in(small)
    browser.get("/late")
    assert {} == replay(small, token)


@pytest.mark.parametrize("first", [True, False])
def test_changes_behind_the_answer_are_told(small, first, caplog):
    """A change in a finished callback, of a held value too, is an error."""

    @small.on("late")
    def _(request):
        if not first:
            request.session["list"] = []

        def too_late(request):
            if first:
                request.session["late"] = 1
            else:
                request.session["list"].append(1)

        request.add_finished_callback(too_late)
        return {}

    browser, _ = log_in(small)
    browser.get("/late")
    assert 1 <= len([r for r in caplog.records if r.levelno == logging.ERROR])
    assert "late" not in browser.get("/get").json


def test_a_subscriber_of_the_response_is_too_late(make_world, mode, caplog):
    """A change in a NewResponse subscriber is lost, and an error says so."""

    def subscribe(event):
        if event.request.path == "/late":
            event.request.session["late"] = 1

    world = make_world(
        mode=mode,
        configure=lambda config: config.add_subscriber(
            subscribe, "pyramid.interfaces.INewResponse"
        ),
    )
    add_views(world)
    world.views["late"] = lambda request: {}
    browser, _ = log_in(world)
    browser.get("/late")
    assert "changed after its response" in caplog.text
    assert {"user": "ann"} == browser.get("/get").json


def failing_tween_factory(handler, registry):
    """A tween above ours that ends the session and fails."""

    def tween(request):
        response = handler(request)
        if request.path == "/leave":
            request.session.invalidate()
            raise RuntimeError("above")
        return response

    return tween


def test_p4_an_end_above_our_tween(make_world, mode):
    """P4: an end in a tween above ours that fails is carried out."""
    world = make_world(
        mode=mode,
        configure=lambda config: config.add_tween(
            "tests.test_corners.failing_tween_factory", over=OURS
        ),
    )
    add_views(world)
    world.views["leave"] = lambda request: {}
    browser, token = log_in(world)
    with pytest.raises(RuntimeError, match="above"):
        browser.get("/leave")
    assert {} == replay(world, token)


class Timeout(BaseException):
    """Such as gevent's: not an Exception."""


def test_p4_an_end_and_a_base_exception(world):
    """P4: an end holds also when the request is killed by a timeout."""

    @world.on("leave")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.dbsession.flush()
        request.session.invalidate()
        raise Timeout

    browser, token = log_in(world)
    with pytest.raises(Timeout):
        browser.get("/leave")
    assert {} == replay(world, token)
    assert [] == world.items()
    assert 0 == world.checked_out()


@pytest.mark.parametrize("managed", [True, False])
def test_scripts(small, managed):
    """In a script changes are saved, and an end holds though it fails."""
    browser, token = log_in(small)

    def script(change):
        with prepare(registry=small.app.registry) as env:
            request = env["request"]
            request.cookies["session"] = token
            if managed:
                with request.tm:
                    change(request.session)
            else:
                change(request.session)

    script(lambda session: session.update(script=1))
    assert {"user": "ann", "script": 1} == browser.get("/get").json

    def leave(session):
        session.invalidate()
        raise RuntimeError("script")

    with pytest.raises(RuntimeError, match="script"):
        script(leave)
    assert {} == replay(small, token)


# -- failures ----------------------------------------------------------


def test_p4_first_looked_at_while_committing(make_world, database, mode):
    """P4: with a thread-local manager too, a failed commit keeps nothing."""
    world = make_world(
        database,
        mode,
        explicit=False,
        configure=lambda config: config.add_exception_view(
            lambda error, request: Response("failed", status=503),
            context=sa.exc.IntegrityError,
        ),
    )
    add_views(world)

    @world.on("order")
    def _(request):
        def hook():
            request.session["order"] = "confirmed"

        request.tm.get().addBeforeCommitHook(hook)
        request.dbsession.add(world.Item(id=1, name="x"))
        request.dbsession.add(world.Item(id=2, name="x"))
        return {}

    browser, _ = log_in(world)
    browser.get("/order", status=503)
    assert {"user": "ann"} == browser.get("/get").json


def test_p2_a_message_is_popped_and_pushed_again(small):
    """P2: an equal message, pushed again, is kept while another pops it."""

    @small.on("again")
    def _(request):
        (message,) = request.session.pop_flash()
        request.session.flash(message)
        other = small.browser()
        other.set_cookie("session", request.cookies["session"])
        assert ["hello"] == other.get("/pop").json
        return {}

    @small.on("flash")
    def _(request):
        request.session.flash("hello")
        return {}

    @small.on("pop")
    def _(request):
        return request.session.pop_flash()

    browser = small.browser()
    browser.get("/flash")
    browser.get("/again")
    assert ["hello"] == browser.get("/pop").json
    assert [] == browser.get("/pop").json


def test_p2_a_session_is_cleared_and_filled_again(small):
    """P2: a key that is added while I clear and refill does not survive."""

    @small.on("clear")
    def _(request):
        content = dict(request.session)
        request.session.clear()
        request.session.update(content)
        other = small.browser()
        other.set_cookie("session", request.cookies["session"])
        other.get("/set?added=1")
        return {}

    browser, _ = log_in(small)
    browser.get("/clear")
    assert {"user": "ann"} == browser.get("/get").json


def test_reading_an_empty_queue_behind_the_answer(small, caplog):
    """To pop what is not there changes nothing, also when it is too late."""

    @small.on("late")
    def _(request):
        session = request.session
        request.add_finished_callback(lambda request: session.pop_flash())
        return dict(session)

    browser, _ = log_in(small)
    browser.get("/late")
    assert [] == caplog.records


def test_a_value_that_cannot_be_compared(small):
    """A value whose == raises does not disturb an aborted request."""

    class Array:
        __hash__ = None

        def __eq__(self, other):
            raise ValueError("ambiguous")

    @small.on("abort")
    def _(request):
        request.session["user"] = Array()
        raise HTTPFound("/get")

    browser, _ = log_in(small)
    assert 302 == browser.get("/abort").status_int
    assert {"user": "ann"} == browser.get("/get").json


def test_an_end_of_an_unreadable_session(small):
    """invalidate() deletes the row of a session that cannot be read."""

    @small.on("leave")
    def _(request):
        request.session.invalidate()
        return {}

    browser, _ = log_in(small)
    small.execute(sa.update(small.table).values(data="damaged"))
    browser.get("/leave")
    assert [] == small.rows()


def test_a_savepoint_and_the_end_of_a_new_session(small):
    """An end stays an end for a visitor who had no row yet."""

    @small.on("points")
    def _(request):
        request.session["user"] = "ann"
        savepoint = request.tm.savepoint()
        request.session.invalidate()
        savepoint.rollback()
        return {}

    response = small.browser().get("/points")
    assert [] == cookie_of(response)
    assert [] == small.rows()


def test_a_csrf_check_without_a_session_is_no_loss(make_world, caplog):
    """A refused POST of a visitor without a session is not told as a loss."""
    world = make_world(
        configure=lambda config: config.set_default_csrf_options(
            require_csrf=True
        )
    )
    add_views(world)
    world.browser().post("/set", status=400)
    assert "discarded" not in caplog.text
    assert [] == world.rows()


def test_a_cookie_with_an_age_is_sent_anew(small, make_world, mode):
    """With cookie_max_age each write of activity sends the cookie anew."""
    world = make_world(
        mode=mode, settings={"limitedsession.cookie_max_age": "1h"}
    )
    add_views(world)
    browser, token = log_in(world)
    for path in ("/set?a=1", "/get", "/set?a=2", "/get"):
        world.clock.pass_(600)
        response = browser.get(path)
        assert f"session={token}; Max-Age=3600" in cookie_of(response)[0]
    assert [] == cookie_of(browser.get("/get"))


# -- wiring ------------------------------------------------------------


@pytest.mark.parametrize(
    "tweens",
    [TM, OURS, f"{TM} {OURS}", f"{OURS} pyramid.tweens.excview_tween_factory"],
)
def test_p10_explicit_tweens_that_are_wrong(tweens, tmp_path):
    """P10: pyramid.tweens without both tweens, in order, does not start."""
    settings = {
        "pyramid.tweens": tweens,
        "limitedsession.sqlalchemy.url": f"sqlite:///{tmp_path}/x.sqlite",
    }
    config = Configurator(settings=settings)
    config.include("pyramid_limitedsession")
    with pytest.raises(ConfigurationError, match="in this order"):
        config.make_wsgi_app()


@pytest.mark.parametrize("name", ["session", "tm", "params", "nothing"])
def test_p10_a_dbsession_that_is_none(name):
    """P10: an attribute that every request has is no dbsession."""
    config = Configurator(settings={"limitedsession.dbsession": name})
    config.include("pyramid_limitedsession")
    with pytest.raises(ConfigurationError, match=f"is no request.{name} of"):
        config.make_wsgi_app()


@pytest.mark.parametrize(
    "options",
    [
        {"limitedsession.sqlalchemy.pool_sizes": "5"},
        {"limitedsession.sqlalchemy.url": "nosuch://secret@host/x"},
    ],
)
def test_p10_an_engine_that_cannot_be_made(options, tmp_path):
    """P10: a wrong option of the engine is a ConfigurationError."""
    settings = {
        "limitedsession.sqlalchemy.url": f"sqlite:///{tmp_path}/x.sqlite",
        **options,
    }
    config = Configurator(settings=settings)
    config.include("pyramid_limitedsession")
    with pytest.raises(Exception, match="sqlalchemy") as caught:
        config.make_wsgi_app()
    assert "ConfigurationError" in str(type(caught.value).__mro__)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["self_clean", "self_clean_batch"])
def test_p10_a_batch_has_a_largest_size(name):
    """P10: a batch of more rows than one statement takes is refused."""
    with pytest.raises(ConfigurationError, match=name):
        read_settings({f"limitedsession.{name}": "10001"})
    read_settings({f"limitedsession.{name}": "10000"})


def test_python_values_of_settings():
    """None and SQLAlchemy's URL objects say what they would in an ini."""
    url = sa.make_url("postgresql://u:secret@h/d")
    settings = read_settings(
        {
            "limitedsession.idle_timeout": None,
            "limitedsession.sqlalchemy.url": url,
        }
    )
    assert settings.policy.profiles.default.limits.idle is None
    assert "postgresql://u:secret@h/d" == settings.url
    assert "secret" not in repr(settings)
    assert read_settings({"limitedsession.sqlalchemy.url": None}).url is None


def test_p10_another_session_factory(tmp_path):
    """P10: an application with a session factory of its own does not start.

    Pyramid would let that win, and no limit would hold.
    """
    url = f"sqlite:///{tmp_path}/x.sqlite"
    config = Configurator(
        settings={"limitedsession.sqlalchemy.url": url},
        session_factory=SignedCookieSessionFactory("secret"),
    )
    config.include("pyramid_limitedsession")
    with pytest.raises(ConfigurationError, match="another session factory"):
        config.make_wsgi_app()


def test_p10_the_last_part_of_a_name_is_near():
    """P10: a key that is the end of a setting's name is told that setting."""
    with pytest.raises(
        ConfigurationError, match=r"did you mean limitedsession\.sqlalchemy"
    ):
        read_settings({"limitedsession.url": "sqlite:////x.sqlite"})


def test_a_table_of_somebody_else(make_world, database):
    """A table that lacks our columns is told, with the setting to change."""
    world = make_world(database, "joined")
    world.table.drop(world.engine)
    other = sa.Table(
        world.table.name, sa.MetaData(), sa.Column("id", sa.Integer)
    )
    other.create(world.engine)
    with pytest.raises(SessionTableError, match="table_name") as caught:
        world.store.check()
    assert "session_id" in str(caught.value)
    other.drop(world.engine)
    world.table.create(world.engine)
    world.store.check()


@pytest.mark.parametrize("how", ["redirect", "error", "doom"])
def test_a_discarded_change_names_its_likely_cause(small, how, caplog):
    """Only a raised response is told to be the cause of a loss."""

    @small.on("lose")
    def _(request):
        request.session["a"] = 1
        if how == "redirect":
            raise HTTPFound("/get")
        if how == "error":
            raise RuntimeError("boom")
        request.tm.doom()
        return {}

    browser = small.browser()
    if how == "error":
        with pytest.raises(RuntimeError, match="boom"):
            browser.get("/lose")
    else:
        browser.get("/lose")
    assert "changes of the session ('a') were discarded" in caplog.text
    assert (how == "redirect") == ("'raise HTTPFound'" in caplog.text)


# -- failures behind the outcome ---------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": -Infinity}',
        f'{{"a": {"[" * 101}{"]" * 101}}}',
    ],
)
def test_p9_stored_json_that_we_would_not_store(small, stored):
    """P9: such a row is a new session, not an error at every change."""
    browser, _ = log_in(small)
    small.execute(sa.update(small.table).values(data=stored))
    assert {} == browser.get("/get").json
    browser.get("/set?b=1")
    assert {"b": "1"} == browser.get("/get").json


def test_wide_json_is_not_deep(small):
    """Many lists side by side are read as ever."""

    @small.on("wide")
    def _(request):
        request.session["lists"] = [[] for _ in range(200)]
        return {}

    browser, _ = log_in(small)
    browser.get("/wide")
    assert 200 == len(browser.get("/get").json["lists"])


def test_text_that_json_would_change(small):
    """Two surrogates that JSON reads as one character are refused."""

    @small.on("split")
    def _(request):
        request.session["a"] = "\ud83d\ude00"
        return {}

    browser, _ = log_in(small)
    with pytest.raises(ValueError, match=r"session\['a'\] has two surrogates"):
        browser.get("/split")


def test_p9_a_cookie_header_that_is_no_latin_1(small):
    """P9: a Cookie header that cannot be decoded is no cookie."""
    browser = small.browser(HTTP_COOKIE="session=☃")
    assert {} == browser.get("/get").json


def test_a_late_change_that_cannot_be_saved(small, caplog):
    """It is an error in the log; the answer is sent, without a cookie."""

    @small.on("late")
    def _(request):
        def late(request, response):
            request.session["late"] = {1, 2}

        request.add_response_callback(late)
        return {"ok": True}

    response = small.browser().get("/late")
    assert {"ok": True} == response.json
    assert [] == cookie_of(response)
    assert "session['late'] is of type set" in caplog.text


def test_a_script_whose_change_cannot_be_saved(small, caplog):
    """It is an error in the log that names the value."""
    with prepare(registry=small.app.registry) as env:
        env["request"].session["a"] = {1, 2}
    assert "session['a'] is of type set" in caplog.text


def test_a_failing_request_whose_end_fails_too(small, caplog):
    """The application's own error is raised; the other one is logged."""

    @small.on("leave")
    def _(request):
        request.session.invalidate()
        small.table.drop(small.engine)
        raise RuntimeError("the app's own")

    browser, _ = log_in(small)
    with pytest.raises(RuntimeError, match="the app's own"):
        browser.get("/leave")
    assert "a session could not be ended" in caplog.text
    small.table.create(small.engine)


def test_an_end_while_the_others_vote(small):
    """P4: invalidate() between our statement and the commit is carried out."""

    class Ends:
        """A resource that ends the session when it votes."""

        def __init__(self, session):
            self.session = session

        def _nothing(self, transaction):
            pass

        abort = tpc_begin = commit = tpc_finish = tpc_abort = _nothing

        def tpc_vote(self, transaction):
            self.session.invalidate()

        def sortKey(self):
            return "aa"

    @small.on("leave")
    def _(request):
        request.session["x"] = 1
        request.tm.get().join(Ends(request.session))
        return {}

    browser, token = log_in(small)
    browser.get("/leave")
    assert {} == replay(small, token)
    assert [] == small.rows()


def test_a_connection_without_a_transaction(make_world, database):
    """A dbsession on a connection of no open transaction: all is durable."""
    world = make_world(database, "joined")
    add_views(world)

    @world.on("leave")
    def _(request):
        request.session.invalidate()
        raise HTTPFound("/get")

    plain = world.session_factory
    with world.engine.connect() as connection:
        world.session_factory = sessionmaker(connection)
        browser, token = log_in(world)
        world.clock.pass_(600)
        assert {"user": "ann"} == browser.get("/get").json
        browser.get("/leave")
        connection.rollback()
        assert {} == replay(world, token)
    world.session_factory = plain
    assert [] == world.rows()
