"""What `test_interleaving` has found, each as short as it can be told."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.apps import cookie_of


@pytest.fixture(name="world")
def _world(make_world, mode):
    """A world on SQLite: nothing here depends on the database."""
    world = make_world(mode=mode)

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    return world


def commit_and_go_on(request):
    """Commit in the middle of a request."""
    request.tm.commit()
    request.tm.begin()


def test_p4_a_session_that_went_between_two_commits(world):
    """P4: a new session that is gone at the second commit has no cookie."""

    @world.on("twice")
    def _(request):
        request.session["a"] = 1
        commit_and_go_on(request)
        world.execute(sa.delete(world.table))
        request.session["b"] = 1
        return {}

    assert [] == cookie_of(world.browser().get("/twice"))
    assert [] == world.rows()


def test_p4_a_new_token_of_a_session_that_went(world):
    """P4: neither has one that was rotated, and is gone at the second."""

    @world.on("twice")
    def _(request):
        request.session.rotate()
        commit_and_go_on(request)
        world.execute(sa.delete(world.table))
        request.session["b"] = 1
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    assert [] == cookie_of(browser.get("/twice"))
    assert [] == world.rows()


def test_p4_an_age_is_not_renewed_for_a_session_that_went(make_world, mode):
    """P4: a cookie with an age is not sent anew for a session that is gone."""
    world = make_world(
        mode=mode, settings={"limitedsession.cookie_max_age": "1h"}
    )

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("twice")
    def _(request):
        request.session["a"] = 2
        commit_and_go_on(request)
        world.execute(sa.delete(world.table))
        request.session["b"] = 1
        return {}

    browser = world.browser()
    browser.get("/set?a=1")
    world.clock.pass_(600)
    assert [] == cookie_of(browser.get("/twice"))
