"""Processes are killed near their COMMIT, 100 times on each database.

A forked child sends one request and ends by SIGKILL, as from the kernel when
memory is short: nothing in it can clean up.
"""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy as sa

from tests.faults import Victim, add_views

# Rounds that are killed at this very point, and how they must end.
POINTS = {
    "before UPDATE": "old",
    "before COMMIT": "old",
    "after COMMIT": "new",
}
EXACT_ROUNDS = 20
# Rounds that are killed from outside, a moment behind "before UPDATE".
CHANCE_ROUNDS = 40

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded.*fork:DeprecationWarning"
)


@pytest.fixture(name="world")
def _world(make_world, database, mode):
    # To encrypt would be most of the time that a connection takes.
    query = {"ssl_disabled": "1"} if database == "mariadb" else {}
    settings = {"limitedsession.self_clean": "1"}
    world = add_views(
        make_world(database, mode, query=query, settings=settings)
    )

    @world.on("change")
    def _(request):
        n = request.params["n"]
        request.session.update(dict.fromkeys("abc", n))
        if mode == "joined":
            request.dbsession.add(world.Item(name=n))
        return {}

    @world.on("next")
    def _(request):
        found = dict(request.session)
        request.session["next"] = request.params["n"]
        return found

    return world


class Visitor:
    """A browser whose session has a known content."""

    def __init__(self, world):
        self.browser = world.browser()
        self.browser.get("/set?a=-&b=-&c=-")
        self._world = world
        self._content = dict.fromkeys("abc", "-")

    def outlives(self, n, die):
        """Let a child die; return how its change ended, "old" or "new".

        The next request finds the session whole, and changes it.
        """
        die(self.browser, f"/change?n={n}")
        items = self._items()
        changed = self._content | dict.fromkeys("abc", n)
        found = self.browser.get(f"/next?n={n}").json
        assert found in (self._content, changed)
        self._content = found | {"next": n}
        if self._world.mode == "joined":
            assert (found == changed) == (n in items)
        return "new" if found == changed else "old"

    def _items(self):
        # Only once no transaction holds the session's row: a server may not
        # have noticed yet that its client is dead.
        with self._world.engine.begin() as connection:
            query = sa.select(self._world.table.c.id).with_for_update()
            connection.execute(query).one()
            names = connection.execute(sa.select(self._world.Item.name))
            return list(names.scalars())


@pytest.mark.parametrize(("point", "end"), POINTS.items())
def test_killed_at_a_point(world, point, end):
    """All or nothing of a change is there, and the next request works."""
    victim, visitor = Victim(world), Visitor(world)
    ends = [
        visitor.outlives(str(n), partial(victim.dies_at, point))
        for n in range(EXACT_ROUNDS)
    ]
    assert [end] * EXACT_ROUNDS == ends


def test_killed_at_any_moment(world, record_property):
    """All or nothing of a change is there; each happens some time."""
    victim, visitor = Victim(world), Visitor(world)
    ends = []
    seconds = 0.001
    for n in range(CHANCE_ROUNDS):
        die = partial(victim.dies_after, seconds)
        ends.append(visitor.outlives(str(n), die))
        # So it stays near the COMMIT, however slow this machine is.
        seconds *= 1.3 if ends[-1] == "old" else 1 / 1.3
    record_property("old", ends.count("old"))
    record_property("new", ends.count("new"))
    assert {"old", "new"} == set(ends)


def test_killed_behind_the_commit_of_a_first_write(world):
    """A row that no browser knows the token of harms nobody and expires."""
    victim, browser = Victim(world), world.browser()
    victim.dies_at("after COMMIT", browser, "/set?a=1")
    (row,) = world.rows()
    assert {} == browser.get("/get").json
    world.clock.pass_(100_000)
    browser.get("/set?a=2")
    assert row.id not in [row.id for row in world.rows()]
