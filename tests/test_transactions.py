"""Where the change is written: transactions of every owner, and none."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
import transaction
import zope.sqlalchemy
from pyramid.httpexceptions import HTTPFound
from pyramid.interfaces import ITweens
from pyramid.response import Response
from pyramid.scripting import prepare
from pyramid.tweens import EXCVIEW
from sqlalchemy.orm import scoped_session, sessionmaker

from pyramid_limitedsession import SessionConflict, SessionError
from tests.apps import cookie_of


def add_common_views(world):
    """Views that most tests here use."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}


# -- somebody else's transaction ---------------------------------------


@pytest.fixture(name="doomed")
def _doomed(make_world, database):
    """The official cookiecutter's fixtures: requests in a doomed transaction.

    One explicit manager, whose transaction is begun and doomed, and one
    dbsession registered with it, are shared by all requests and never
    committed.
    """
    world = make_world(database, "joined")
    add_common_views(world)
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    dbsession = world.session_factory()
    zope.sqlalchemy.register(dbsession, transaction_manager=tm)
    environ = {
        "HTTP_HOST": "example.com",
        "tm.active": True,
        "tm.manager": tm,
        "app.dbsession": dbsession,
    }
    yield world, environ, dbsession
    tm.abort()


def test_a_doomed_shared_transaction_keeps_users_logged_in(doomed):
    """In the cookiecutter's fixtures a login lasts over several requests."""
    world, environ, _ = doomed

    @world.on("login")
    def _(request):
        request.dbsession.add(world.Item(name="seen"))
        request.session["user"] = "ann"
        request.session.rotate()
        return HTTPFound("/get")

    browser = world.browser(**environ)
    browser.get("/set?a=1")
    browser.get("/login").follow()
    assert {"a": "1", "user": "ann"} == browser.get("/get").json
    browser.get("/set?a=2")
    world.clock.pass_(600)
    assert {"a": "2", "user": "ann"} == browser.get("/get").json
    response = browser.get("/out")
    assert "Max-Age=0" in cookie_of(response)[0]
    assert {} == browser.get("/get").json


def test_a_doomed_shared_transaction_leaves_nothing_behind(doomed):
    """When the fixtures abort, no row was ever committed."""
    world, environ, dbsession = doomed
    browser = world.browser(**environ)
    browser.get("/set?a=1")
    in_transaction = dbsession.connection().execute(
        sa.select(sa.func.count()).select_from(world.table)
    )
    assert 1 == in_transaction.scalar()
    dbsession.rollback()
    assert [] == world.rows()


def test_a_shared_transaction_follows_pyramid_tms_rules(doomed):
    """A raised redirect discards the change, as pyramid_tm would do."""
    world, environ, _ = doomed

    @world.on("login")
    def _(request):
        request.session["user"] = "ann"
        raise HTTPFound("/get")

    browser = world.browser(**environ)
    response = browser.get("/login")
    assert [] == cookie_of(response)
    assert {} == browser.get("/get").json


def test_a_shared_transaction_follows_the_commit_veto(make_world):
    """With a commit veto a raised redirect is kept, as in production."""
    world = make_world(
        mode="joined",
        settings={"tm.commit_veto": "pyramid_tm.default_commit_veto"},
    )
    add_common_views(world)

    @world.on("login")
    def _(request):
        request.session["user"] = "ann"
        raise HTTPFound("/get")

    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    dbsession = world.session_factory()
    zope.sqlalchemy.register(dbsession, transaction_manager=tm)
    environ = {
        "tm.active": True,
        "tm.manager": tm,
        "app.dbsession": dbsession,
    }
    browser = world.browser(**environ)
    browser.get("/login")
    assert {"user": "ann"} == browser.get("/get").json
    tm.abort()


def test_a_shared_transaction_and_an_own_engine(make_world, database):
    """In separate mode sessions work as ever in such fixtures."""
    world = make_world(database, "separate")
    add_common_views(world)
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()
    browser = world.browser(**{"tm.active": True, "tm.manager": tm})
    browser.get("/set?a=1")
    assert {"a": "1"} == browser.get("/get").json
    tm.abort()


# -- no transaction ----------------------------------------------------


@pytest.fixture(name="unmanaged")
def _unmanaged(make_world, database, mode):
    """An application in which pyramid_tm begins no transaction."""
    world = make_world(
        database,
        mode,
        settings={"tm.activate_hook": lambda request: False},
    )
    add_common_views(world)
    return world


def test_without_a_transaction_changes_are_saved(unmanaged):
    """Without a transaction a change is saved in one of its own."""
    browser = unmanaged.browser()
    browser.get("/set?a=1")
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == browser.get("/get").json
    browser.get("/out")
    assert [] == unmanaged.rows()
    assert 0 == unmanaged.checked_out()


def test_without_a_transaction_errors_are_rendered(make_world, mode):
    """A session that cannot be saved reaches the app's exception view."""

    def configure(config):
        config.add_exception_view(
            lambda error, request: Response(str(error), status=503),
            context=SessionError,
        )

    world = make_world(
        mode=mode,
        settings={"tm.activate_hook": lambda request: False},
        configure=configure,
    )

    @world.on("wrong")
    def _(request):
        request.session["a"] = {1, 2}
        return {}

    response = world.browser().get("/wrong", status=503)
    assert "session['a'] is of type set" in response.text
    assert [] == cookie_of(response)


# -- above, between and behind -----------------------------------------


def outer_tween_factory(handler, registry):
    """A tween above pyramid_tm that uses the session before and after."""

    def tween(request):
        request.session["before"] = 1
        response = handler(request)
        request.session["behind"] = 1
        return response

    return tween


def test_a_tween_above_the_transaction(make_world, database, mode):
    """Changes made before and after the transaction are saved too."""
    world = make_world(
        database,
        mode,
        configure=lambda config: config.add_tween(
            "tests.test_transactions.outer_tween_factory",
            over="pyramid_tm.tm_tween_factory",
        ),
    )
    add_common_views(world)
    browser = world.browser()
    browser.get("/set?a=1")
    expected = {"before": 1, "a": "1", "behind": 1}
    assert expected == browser.get("/get").json
    assert 0 == world.checked_out()


def test_response_callbacks_of_the_app(make_world, database, mode):
    """A change in the application's own response callback is saved."""
    world = make_world(database, mode)
    add_common_views(world)

    @world.on("late")
    def _(request):
        request.session["a"] = 1

        def late(request, response):
            request.session["late"] = True

        request.add_response_callback(late)
        return {}

    browser = world.browser()
    browser.get("/late")
    assert {"a": 1, "late": True} == browser.get("/get").json


def test_finished_callbacks_are_too_late(make_world, mode, caplog):
    """A change after the answer is lost, and the log says where it was."""
    world = make_world(mode=mode)
    add_common_views(world)

    @world.on("late")
    def _(request):
        def too_late(request):
            request.session["late"] = True

        request.add_finished_callback(too_late)
        return dict(request.session)

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/late")
    assert {"a": "1"} == browser.get("/get").json
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "too_late" in record.stack_info


def test_an_exception_view_reads_the_session(make_world, database, mode):
    """In an exception view after a database error the session is there."""

    def configure(config):
        config.add_exception_view(
            lambda error, request: Response(
                repr(dict(request.session)), status=500
            ),
            context=sa.exc.DBAPIError,
        )

    world = make_world(database, mode, configure=configure)
    add_common_views(world)

    @world.on("broken")
    def _(request):
        request.dbsession.execute(sa.text("SELECT * FROM no_such_table"))

    browser = world.browser()
    browser.get("/set?a=1")
    response = browser.get("/broken", status=500)
    assert "{'a': '1'}" == response.text
    assert 0 == world.checked_out()


def test_a_failing_commit_of_the_app(make_world, database, mode):
    """P4: when the app's own commit fails, the session is not changed."""

    class Refuses:
        transaction_manager = None

        def __init__(self, fails_in):
            self.fails_in = fails_in

        def __getattr__(self, name):
            def call(txn):
                if name == self.fails_in:
                    raise RuntimeError(f"refused in {name}")

            if name in {"savepoint"}:
                raise AttributeError(name)
            return call

        def sortKey(self):
            # In the middle: behind the dbsession's statements, before ours.
            return "zz"

    world = make_world(database, mode)
    add_common_views(world)

    @world.on("refused")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.session["a"] = "2"
        request.tm.get().join(Refuses(request.params["in"]))
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    for phase in ("tpc_begin", "commit", "tpc_vote"):
        with pytest.raises(RuntimeError, match=phase):
            browser.get(f"/refused?in={phase}")
        # In tpc_vote a dbsession of one phase has committed already, and
        # with it, in joined mode, the session.
        if not (phase == "tpc_vote" and mode == "joined"):
            assert {"a": "1"} == browser.get("/get").json
        world.execute(sa.delete(world.Item))
    assert 0 == world.checked_out()


def test_before_commit_hooks_of_the_app(make_world, database, mode):
    """A change in the application's before-commit hook is saved with it."""
    world = make_world(database, mode)
    add_common_views(world)

    @world.on("hook")
    def _(request):
        def hook():
            request.session["hooked"] = True

        dict(request.session)
        request.tm.get().addBeforeCommitHook(hook)
        return {}

    browser = world.browser()
    browser.get("/hook")
    assert {"hooked": True} == browser.get("/get").json


def test_thread_local_managers(make_world, database, mode):
    """With pyramid_tm's default manager everything works as well."""
    world = make_world(database, mode, explicit=False)
    add_common_views(world)

    @world.on("refused")
    def _(request):
        request.session["a"] = "2"
        request.dbsession.add(world.Item(id=1, name="x"))
        request.dbsession.add(world.Item(id=2, name="x"))
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    with pytest.raises(sa.exc.IntegrityError):
        browser.get("/refused")
    # What is left of the failed transaction ends in the next request.
    assert {"a": "1"} == browser.get("/get").json
    browser.get("/set?a=3")
    assert {"a": "3"} == browser.get("/get").json
    transaction.abort()
    assert 0 == world.checked_out()


def test_in_a_script(make_world, mode):
    """With pyramid.scripting.prepare a session can be read and committed."""
    world = make_world(mode=mode)
    add_common_views(world)
    browser = world.browser()
    browser.get("/set?a=1")
    with prepare(registry=world.app.registry) as env:
        request = env["request"]
        request.cookies["session"] = browser.cookies["session"]
        with request.tm:
            assert {"a": "1"} == dict(request.session)
            request.session["b"] = "2"
    assert {"a": "1", "b": "2"} == browser.get("/get").json


def test_a_scoped_dbsession(make_world, mode):
    """A request.dbsession that is a scoped_session works as well."""
    world = make_world(mode=mode)
    add_common_views(world)
    registry = scoped_session(world.session_factory)

    @world.on("both")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.session["a"] = 1
        return {}

    browser = world.browser(**{"app.dbsession": registry})
    zope.sqlalchemy.register(registry)
    world.app.registry.settings["tm.manager_hook"] = None
    browser.get("/both")
    assert {"a": 1} == browser.get("/get").json
    assert ["x"] == world.items()
    registry.remove()


def test_the_session_is_the_first_to_use_the_database(make_world, database):
    """Joined to an engine that nobody has used yet, reading works."""
    world = make_world(database, "joined")
    add_common_views(world)
    engine = sa.create_engine(world.url)
    fresh = sessionmaker(engine)
    browser = world.browser()
    browser.get("/set?a=1")
    world.session_factory = fresh
    try:
        assert {"a": "1"} == browser.get("/get").json
        browser.get("/set?a=2")
        assert {"a": "2"} == browser.get("/get").json
    finally:
        world.store.engine.dispose()
        engine.dispose()


# -- on_conflict -------------------------------------------------------


def conflicting_world(make_world, database, mode, policy, configure):
    """A world in which two requests count the same key at the same time."""
    world = make_world(
        database,
        mode,
        settings={"limitedsession.on_conflict": policy},
        configure=configure,
    )
    add_common_views(world)

    @world.on("count")
    def _(request):
        session = request.session
        session["n"] = session.get("n", 0) + 1
        if request.environ.get("retry.attempt", 0) == 0:
            if "with" in request.params:
                other = world.browser()
                other.set_cookie("session", request.cookies["session"])
                other.get("/count?add=1")
            if "add" in request.params:
                session["added"] = True
        return {}

    return world


def test_on_conflict_retry_replays(make_world, database, mode):
    """retry: the same key changed on both sides, equal values included."""
    world = conflicting_world(
        make_world,
        database,
        mode,
        "retry",
        lambda config: config.include("pyramid_retry"),
    )
    browser = world.browser()
    browser.get("/count")
    browser.get("/count?with=1")
    assert {"n": 3, "added": True} == browser.get("/get").json


def test_on_conflict_retry_without_pyramid_retry(make_world, database, mode):
    """retry: without pyramid_retry the request fails and changes nothing."""
    world = conflicting_world(
        make_world, database, mode, "retry", lambda config: None
    )
    browser = world.browser()
    browser.get("/count")
    with pytest.raises(SessionConflict, match="'n'"):
        browser.get("/count?with=1")
    assert {"n": 2, "added": True} == browser.get("/get").json
    assert 0 == world.checked_out()


def test_on_conflict_overwrite(make_world, database, mode):
    """overwrite: the later request wins the whole content."""
    world = conflicting_world(
        make_world, database, mode, "overwrite", lambda config: None
    )
    browser = world.browser()
    browser.get("/count")
    browser.get("/count?with=1")
    assert {"n": 2} == browser.get("/get").json


# -- a database in memory ----------------------------------------------


@pytest.mark.parametrize("pool", [None, sa.StaticPool])
def test_a_database_in_memory(make_world, pool):
    """Joined to a SQLite database in memory, all goes through dbsession."""
    options = {"poolclass": pool} if pool else {}
    if pool:
        options["connect_args"] = {"check_same_thread": False}
    world = make_world("memory", "joined", engine=options)
    add_common_views(world)

    @world.on("both")
    def _(request):
        request.dbsession.add(world.Item(name=request.params["name"]))
        request.dbsession.flush()
        request.session["b"] = request.params["name"]
        if "fail" in request.params:
            raise HTTPFound("/get")
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    browser.get("/both?name=x")
    browser.get("/both?name=y&fail=1")
    world.clock.pass_(600)
    assert {"a": "1", "b": "x"} == browser.get("/get").json
    assert ["x"] == world.items()
    browser.get("/out")
    assert [] == world.rows()


def test_the_tweens_stand_in_order(make_world):
    """The life-cycle tween is above pyramid_tm's, which is above views."""
    world = make_world()
    tweens = world.app.registry.getUtility(ITweens).implicit()
    names = [name for name, _ in tweens]
    ours = "pyramid_limitedsession.tweens.lifecycle_tween_factory"
    assert (
        names.index(ours)
        < names.index("pyramid_tm.tm_tween_factory")
        < names.index(EXCVIEW)
    )
