"""Functional tests with the generated fixtures, which are unchanged."""

import sqlalchemy as sa
from shop import models
from shop.views.auth import login

from pyramid_limitedsession.testing import Visitor


def test_a_login_lasts(testapp, dbsession):
    """A user stays logged in over several requests, and is logged out."""
    dbsession.add(models.MyModel(name="one", value=55))
    dbsession.flush()
    assert [None] == testapp.get("/who").json
    logged_in = testapp.post("/login", {"user": "ann"})
    assert ["ann", "welcome"] == logged_in.follow().json
    testapp.get("/", status=200)
    for _ in range(3):
        assert ["ann"] == testapp.get("/who").json
    assert [None] == testapp.post("/logout").follow().json
    assert [None] == testapp.get("/who").json


def test_a_login_is_left_open(testapp):
    """A test may end while somebody is logged in."""
    testapp.post("/login", {"user": "bob"})
    assert "session" in testapp.cookies


def test_a_view_with_app_request(app_request):
    """A view that is called with ``app_request`` uses its session."""
    app_request.method = "POST"
    app_request.body = b"user=eve"
    app_request.content_type = "application/x-www-form-urlencoded"
    assert 302 == login(app_request).status_int
    assert "eve" == app_request.session["user"]


def test_nothing_was_committed(dbengine):
    """Of the sessions of the tests before, no row is in the database."""
    with dbengine.connect() as connection:
        count = connection.execute(sa.text("SELECT count(*) FROM sessions"))
        assert 0 == count.scalar()


def test_a_session_without_a_request(testapp, dbsession):
    """A test signs a user in, and finds what a request has left."""
    visitor = Visitor(testapp)
    with visitor.session() as session:
        session["user"] = "ann"
        session.flash("hello")
    assert ["ann", "hello"] == testapp.get("/who").json
    testapp.post("/login", {"user": "bob"})
    with visitor.session() as session:
        assert ("bob", ["welcome"]) == (session["user"], session.pop_flash())
    assert ["bob"] == testapp.get("/who").json
    with visitor.session() as session:
        session.invalidate()
