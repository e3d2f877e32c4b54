"""``limitedsession.store``: sessions in a store of the application's own."""

from __future__ import annotations

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request

from pyramid_limitedsession import SessionError
from pyramid_limitedsession.memory import MemoryStore
from pyramid_limitedsession.testing import SessionContract
from tests.apps import START
from tests.commands import COMMANDS, Ini

SECRET = "sqlite://ann:tr0ub4dor@host/x"


def make_app(**settings):
    """Start an application with these settings of ours."""
    given = {f"limitedsession.{name}": settings[name] for name in settings}
    given["app.path"] = "/var/x"
    with Configurator(settings=given) as config:
        config.include("pyramid_limitedsession")
        return config.make_wsgi_app()


def refused(**settings):
    """Return why an application does not start."""
    with pytest.raises(ConfigurationError) as caught:
        make_app(**settings)
    return str(caught.value)


def test_it_is_made_once_with_the_settings_of_the_application():
    """At start, with everything that the ini file says."""
    calls = []

    def make_store(settings):
        calls.append(settings["app.path"])
        return MemoryStore()

    app = make_app(store=make_store)
    for _ in range(2):
        Request.blank("/").get_response(app)
    assert ["/var/x"] == calls


def test_it_needs_no_dbsession():
    """An application without a SQL database may have sessions."""

    class InMemory(SessionContract):
        def make_settings(self):
            return {"limitedsession.store": lambda settings: MemoryStore()}

    browser = InMemory().site.browser().put(a=1)
    assert not browser(lambda request: hasattr(request, "dbsession"))
    assert {"a": 1} == browser.content()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sqlalchemy.url", "sqlite:////var/x.sqlite"),
        ("dbsession", "dbsession"),
        ("create_table", "true"),
        ("lock_timeout", "5s"),
        ("table_name", "sessions"),
        ("schema", "web"),
        ("columns", "id session_id data created_at updated_at"),
        ("column.data", "the_data"),
    ],
)
def test_settings_of_tables_are_refused(key, value):
    """What says how a table of ours is used has no effect on another store:
    it is an error, not ignored."""
    told = refused(store=lambda settings: MemoryStore(), **{key: value})
    assert (
        f"limitedsession.{key} cannot be set beside limitedsession.store, "
        "which keeps sessions in its own way; take it out"
    ) in told


def test_what_cannot_be_imported_is_told():
    """The setting, what was given, and why it is none."""
    told = refused(store="tests.apps.no_such_store")
    assert "limitedsession.store cannot be 'tests.apps.no_such_store'" in told
    assert "say it like 'myapp.sessions.make_store'" in told
    assert "it cannot be called" in refused(store="tests.apps.START")


def test_a_function_that_fails_is_told():
    """By the setting's name and the kind of error; what that says may hold a
    password, and is nowhere: not in its causes either."""

    def make_store(settings):
        raise RuntimeError(SECRET)

    with pytest.raises(ConfigurationError) as caught:
        make_app(store=make_store)
    told = "limitedsession.store made no store: it raised RuntimeError"
    assert told in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("set app.path to a folder"),
        ImportError("No module named 'psycopg'"),
        ModuleNotFoundError("No module named 'myapp'"),
    ],
)
def test_a_harmless_text_is_told(error):
    """What is missing is told where that is no secret."""

    def make_store(settings):
        raise error

    told = refused(store=make_store)
    assert f"it raised {type(error).__name__}: {error}" in told


def test_what_is_no_store_is_told():
    """The type of what was returned, and which methods it lacks."""

    class Half:
        commits_last = False

        def load(self, key):
            """Know nothing."""

        def begin(self):
            """Begin nothing."""

        touch = of_user = None

    assert (
        "limitedsession.store made no store: it returned an object of type "
        "'Half', which has no method hash_id, touch, of_user, clean"
    ) in refused(store=lambda settings: Half())
    assert "an object of type 'NoneType', which has no method load" in (
        refused(store=lambda settings: None)
    )


def test_when_it_commits_has_to_be_said():
    """A store that does not say it would be written at a wrong time."""

    class Silent(MemoryStore):
        commits_last = None

    assert (
        "of type 'Silent', whose commits_last is neither True nor False"
    ) in refused(store=lambda settings: Silent())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_tells_that_it_knows_no_such_store(
    name, tmp_path, capsys
):
    """One sentence, and exit code 1; nothing was done."""
    ini = Ini(tmp_path / "own.ini", capsys).write(
        limited__store="pyramid_limitedsession.testing.memory_store",
        app__now=START,
    )
    assert (
        1,
        "",
        f"{name}: this application keeps its sessions in a store of its own "
        "(limitedsession.store), not in a table of pyramid_limitedsession\n",
    ) == ini.work(name)


def test_there_is_no_table_behind_it():
    """Who asks for ours is told so."""
    app = make_app(store=lambda settings: MemoryStore())
    factory = app.registry["pyramid_limitedsession"]
    with pytest.raises(SessionError, match="a store of its own"):
        factory.store_for(Request.blank("/"))


class BrokenStore(MemoryStore):
    """A store whose database is gone."""

    def load(self, key):
        """Raise what its driver does."""
        raise ConnectionError("gone")


def test_a_broken_store_logs_nobody_out():
    """P9: what it raises reaches the application, and no cookie is
    deleted."""

    class Contract(SessionContract):
        def make_settings(self):
            return {"limitedsession.store": lambda settings: BrokenStore()}

    browser = Contract().site.browser().put(a=1)
    cookies = dict(browser.cookies)
    with pytest.raises(ConnectionError):
        browser.content()
    assert cookies == browser.cookies
