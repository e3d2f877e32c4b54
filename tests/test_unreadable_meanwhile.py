"""Another host stores, while a request runs, what this host cannot read.

A newer key, another serializer, a larger limit: as when hosts are updated one
after the other. *Here* a request has loaded the session and changes it; in
between another one of the same session comes and goes *there*.
"""

from __future__ import annotations

import json
import logging

import pytest

from pyramid_limitedsession import SessionConflict
from tests.threads import same_session

OLD_KEY, NEW_KEY = "old-" * 8, "new-" * 8


class Newer:
    """Reads JSON; what it writes JSON's own serializer does not read."""

    @staticmethod
    def dumps(data):
        """Return JSON behind a mark."""
        return "~" + json.dumps(data)

    @staticmethod
    def loads(text):
        """Return the data, with the mark or without."""
        return json.loads(text.removeprefix("~"))


# Settings here, and there.
HOSTS = {
    "a newer key": (
        {"encrypt": "true", "encryption_keys": OLD_KEY},
        {"encrypt": "true", "encryption_keys": f"{NEW_KEY} {OLD_KEY}"},
    ),
    "encrypted": (
        {"encrypt": "false"},
        {"encrypt": "true", "encryption_keys": NEW_KEY},
    ),
    "not encrypted": (
        {"encrypt": "only", "encryption_keys": OLD_KEY},
        {"encrypt": "false", "encryption_keys": OLD_KEY},
    ),
    "another serializer": ({"serializer": "json"}, {"serializer": Newer}),
    "too large": ({"max_data_size": "100"}, {"max_data_size": "1000"}),
}
THERES = {"a": "1", "there": "x" * 100}
IN_LOG = "was changed meanwhile, and is unreadable now: "


def add_views(world):
    """Return the world with what the tests ask for."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("here")
    def _(request):
        request.session.get("a")
        world.other.get("/set", {"there": THERES["there"]})
        request.dbsession.add(world.Item(name="of here"))
        if world.doing:
            getattr(request.session, world.doing)()
        if world.doing != "rotate":
            request.session["here"] = "yes"
        return {}

    @world.on("get")
    def _(request):
        return dict(request.session)

    return world


@pytest.fixture(name="meet")
def _meet(make_world):
    """Return a function that lets both hosts meet.

    It returns the world here, its browser, the one there, and the cookie that
    both have had.
    """

    def meet(case, *places, doing="", **ours):
        def made(settings, **options):
            given = {f"limitedsession.{k}": v for k, v in settings.items()}
            return add_views(make_world(*places, settings=given, **options))

        here, there = HOSTS[case]
        world = made(here | ours)
        beside = made(there, table=world.table.name)
        browser = world.browser()
        browser.get("/set?a=1")
        (world.other,) = same_session(beside, browser, 1)
        world.doing = doing
        return world, browser, world.other, browser.cookies["session"]

    return meet


def told(caplog):
    """Return what the log says of it."""
    return [
        record for record in caplog.records if IN_LOG in record.getMessage()
    ]


@pytest.mark.parametrize("case", HOSTS)
@pytest.mark.parametrize("doing", ["", "rotate"])
def test_p2_it_stays_as_it_is(meet, caplog, case, doing):
    """P2: the change here is dropped, with a warning; the row is theirs."""
    world, browser, theirs, cookie = meet(case, doing=doing)
    browser.get("/here")
    assert THERES == theirs.get("/get").json
    (line,) = told(caplog)
    assert ("WARNING", 1) == (line.levelname, len(world.rows()))
    assert ["of here"] == world.items()
    assert cookie == browser.cookies["session"]


def test_p2_on_each_database(meet, database, mode, caplog):
    """P2: on each, in each mode, what was stored there is still there."""
    world, browser, theirs, _ = meet("a newer key", database, mode)
    browser.get("/here")
    assert THERES == theirs.get("/get").json
    assert 1 == len(told(caplog))
    assert (["of here"], 0) == (world.items(), world.checked_out())


def test_p2_a_row_that_is_too_large_on_each_database(meet, database, caplog):
    """P2: it is not even fetched, and yet stays as it is."""
    _, browser, theirs, _ = meet("too large", database)
    browser.get("/here")
    assert THERES == theirs.get("/get").json
    assert 1 == len(told(caplog))


@pytest.mark.parametrize("case", HOSTS)
def test_retry_is_told(meet, case, mode):
    """With ``retry`` it is a conflict: the request does nothing."""
    world, browser, theirs, _ = meet(case, "sqlite", mode, on_conflict="retry")
    with pytest.raises(SessionConflict, match="what is unreadable") as caught:
        browser.get("/here")
    assert [] == caught.value.keys
    assert THERES == theirs.get("/get").json
    assert [] == world.items()


@pytest.mark.parametrize("case", HOSTS)
@pytest.mark.parametrize(
    ("doing", "policy", "expected"),
    [
        ("", "overwrite", {"a": "1", "here": "yes"}),
        ("clear", "overwrite", {"here": "yes"}),
        ("clear", "merge", {"here": "yes"}),
    ],
)
def test_who_wants_none_of_theirs(meet, caplog, case, doing, policy, expected):
    """``overwrite`` and ``clear()`` keep nothing of what was stored there."""
    caplog.set_level(logging.INFO)
    _, browser, _, _ = meet(case, doing=doing, on_conflict=policy)
    browser.get("/here")
    assert expected == browser.get("/get").json
    assert [] == told(caplog)


def test_what_comes_later_in_the_request_is_dropped_too(meet):
    """P3: nothing of the request brings its change back, or a new session."""
    world, browser, theirs, _ = meet("a newer key")

    def add_late(request, response):
        request.session["late"] = "yes"

    here = world.views["here"]

    @world.on("here")
    def _(request):
        request.add_response_callback(add_late)
        return here(request)

    browser.get("/here")
    assert THERES == theirs.get("/get").json
    assert 1 == len(world.rows())
