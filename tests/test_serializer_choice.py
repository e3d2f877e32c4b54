"""``serializer``: each keeps what it promises, in requests, on real tables."""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import json
import logging
import math
import pathlib
import pickle
import plistlib
import re
import textwrap
import traceback
import zlib

import pyramid.session
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid.exceptions import ConfigurationError

from pyramid_limitedsession import SessionOverflowError, SessionValueError
from pyramid_limitedsession.errors import UnreadableDataError
from pyramid_limitedsession.foreign import PICKLE_WARNING, ForeignSerializer
from pyramid_limitedsession.jsonforms import NullSerializer, RailsSerializer
from pyramid_limitedsession.pickling import PickleSerializer
from pyramid_limitedsession.sameness import json_same, pickled_same
from pyramid_limitedsession.serializers import (
    HybridSerializer,
    JSONSerializer,
    as_serializer,
    check_size,
)
from pyramid_limitedsession.settings import read_settings
from tests.apps import START
from tests.test_hybrid import TOKEN, data_of, having, put
from tests.threads import same_session

CANARY = "canary-7c20"
WHEN = datetime.datetime(2026, 11, 25, 7, 10, tzinfo=datetime.timezone.utc)
MODULE = __name__
ROOT = pathlib.Path(__file__).parent.parent
DOCS = " ".join(
    (ROOT / "docs" / "serializers.rst").read_text(encoding="utf-8").split()
)


class Cart:
    """An object of an application's own; it equals every other one."""

    def __init__(self, *items):
        self.items = list(items)

    def __eq__(self, other):
        return isinstance(other, Cart)

    __hash__ = None  # type: ignore[assignment]


class Trap:
    """Refuses to be written, or to be read, as it is told."""

    def __init__(self, when=""):
        self.when = when

    def __getstate__(self):
        if self.when == "written":
            raise RuntimeError(CANARY)
        return {"when": self.when}

    def __setstate__(self, state):
        raise RuntimeError(CANARY)


class Pickled:
    """Bytes: a pickle, as somebody else makes it."""

    dumps = staticmethod(pickle.dumps)
    loads = staticmethod(pickle.loads)


class Zipped:
    """Bytes: JSON that is compressed."""

    def dumps(self, data):
        """Return bytes."""
        return zlib.compress(json.dumps(data).encode())

    def loads(self, text):
        """Return the data."""
        return json.loads(zlib.decompress(text))


class Dated:
    """Text: JSON that knows dates and sets, as an application's own may."""

    @staticmethod
    def dumps(data):
        """Return a text, not in ASCII."""
        return json.dumps(data, default=Dated.plain, ensure_ascii=False)

    @staticmethod
    def plain(value):
        """Return what JSON knows."""
        if isinstance(value, set):
            return {"set": list(value)}
        return {"date": value.isoformat()}

    @staticmethod
    def loads(text):
        """Return the data; C-like readers take no subclass of str."""
        assert type(text) is str
        return json.loads(text, object_hook=Dated.rich)

    @staticmethod
    def rich(found):
        """Return what JSON does not know."""
        if list(found) == ["set"]:
            return set(found["set"])
        if list(found) == ["date"]:
            return datetime.datetime.fromisoformat(found["date"])
        return found


class Raw:
    """Text: nothing is escaped; and what it reads need not be a dict."""

    dumps = staticmethod(
        lambda data: "" if not data else "\n".join(map("=".join, data.items()))
    )

    @staticmethod
    def loads(text):
        """Return the data."""
        if text.startswith("!"):
            return {"!list": [1], "!key": {1: CANARY}, "!none": None}[text]
        return dict(line.split("=") for line in text.splitlines())


class Unready:
    """Cannot be made without an argument."""

    def __init__(self, needed):
        self.needed = needed


class Wrong:
    """Has both functions; what they do is up to the test."""

    def __init__(self, dumps, loads):
        self.dumps, self.loads = dumps, loads


def _fail(text):
    raise RuntimeError(CANARY)


@pytest.fixture(name="make")
def _make(make_world_with):
    """Return a function of a serializer that makes a world of it."""

    def add_views(world):
        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return {}

        @world.on("get")
        def _(request):
            return [
                {k: str(v) for k, v in request.session.items()},
                request.session.ended,
            ]

        return world

    base = make_world_with({}, add_views)

    def make(serializer, *places, **given):
        ours = {"limitedsession.serializer": serializer}
        ours |= {f"limitedsession.{k}": v for k, v in given.items()}
        return base(*places, settings=ours)

    return make


# -- choosing one ------------------------------------------------------


def name_of(named):
    """Return what a test of it is called."""
    return named if isinstance(named, str) else type(named).__name__


ACCEPTED = {
    "json": JSONSerializer,
    "Hybrid": HybridSerializer,
    "PICKLE": PickleSerializer,
    "null": NullSerializer,
    "rails": RailsSerializer,
    f"{MODULE}.Zipped": ForeignSerializer,
    f"{MODULE}:Dated": ForeignSerializer,
    "pyramid.session.JSONSerializer": ForeignSerializer,
    "plistlib": ForeignSerializer,
    Zipped: ForeignSerializer,
    Zipped(): ForeignSerializer,
    json: ForeignSerializer,
    pickle: PickleSerializer,
    RailsSerializer: RailsSerializer,
}


@pytest.mark.parametrize("named", ACCEPTED, ids=name_of)
def test_what_may_be_named(named):
    """A name, or whatever has ``dumps`` and ``loads``, also by its name."""
    policy = read_settings({"limitedsession.serializer": named}).policy
    assert ACCEPTED[named] is type(policy.serializer)


REFUSED = {
    "": "it is none of json, hybrid, pickle, null, rails, nor a module",
    "none": "it is none of json, hybrid, pickle, null, rails, nor a module",
    "jsno": "it is none of json, hybrid, pickle, null, rails, nor a module",
    "marshal": "what Rails calls so is pickle in Python",
    "json.dumps": "it has no functions dumps and loads",
    "os": "it has no functions dumps and loads",
    "nowhere.at_all": "No module named 'nowhere'",
    f"{MODULE}.Nobody": "has no attribute 'Nobody'",
    f"{MODULE}.Unready": "missing 1 required positional argument: 'needed'",
    5: "it has no functions dumps and loads",
    Wrong(_fail, json.loads): "its dumps({}) raises RuntimeError",
    Wrong(lambda data: None, json.loads): "is of type NoneType, not bytes",
    Wrong(lambda data: "\0", json.loads): "it does not read what it writes",
    Wrong(json.dumps, _fail): "it does not read what it writes",
    Wrong(json.dumps, list): "it does not read what it writes",
}


@pytest.mark.parametrize("named", REFUSED, ids=name_of)
def test_p10_what_may_not_be_named(named):
    """P10: anything else does not start, and the error says what is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"limitedsession.serializer": named})
    _, problem = str(caught.value).splitlines()
    assert "limitedsession.serializer cannot be " in problem
    assert REFUSED[named] in problem
    assert problem.endswith("; say it like 'json'")
    assert CANARY not in problem


@pytest.mark.parametrize(
    ("named", "is_told"),
    [
        ("pickle", True),
        (f"{MODULE}.Pickled", True),
        ("json", False),
        ("hybrid", False),
        (f"{MODULE}.Zipped", False),
    ],
)
def test_who_reads_pickles_is_warned(make, caplog, named, is_told):
    """Once at start: whoever can write the table can run code."""
    make(named)
    told = [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]
    assert [PICKLE_WARNING] * is_told == told
    assert "can run any code" in PICKLE_WARNING


# -- what all of them keep ---------------------------------------------

PLAIN = {
    "none": None,
    "bools": [True, False],
    "numbers": [0, -1, 2**63, -(2**63), 0.5, 1e-7, 3.0],
    "texts": ["", "ä", "\u2028", "\U0001f600", "a\\b\"c'd", "{}", "e+1 -0.0"],
    "nested": {"": {"a": [[], {}]}},
    "_csrft_": "t",
}
EACH = (
    *("json", "hybrid", "pickle", "null", "rails"),
    *(f"{MODULE}.Zipped", f"{MODULE}.Dated"),
)


@pytest.mark.parametrize("named", EACH)
def test_plain_data_is_kept_by_each(make, named):
    """P2, P5: it comes back as it was; reading, also inside, writes nothing.

    What is changed inside is written.
    """
    world = make(named)

    @world.on("fill")
    def _(request):
        request.session.update(PLAIN)
        request.session.flash("hello")
        return {}

    @world.on("look")
    def _(request):
        request.session["nested"][""]
        return [repr(request.session.copy()), request.session.peek_flash()]

    @world.on("change")
    def _(request):
        request.session["nested"][""]["a"][0].append(1)
        return request.session.pop_flash()

    browser = world.browser()
    browser.get("/fill")
    assert ["INSERT"] == world.count()
    shown, messages = browser.get("/look").json
    if named != "null":
        assert shown == repr(PLAIN | {"_f_": ["hello"]})
    assert ["hello"] == messages
    assert ["SELECT"] == world.count()
    assert ["hello"] == browser.get("/change").json
    assert ["SELECT", "UPDATE"] == world.count()
    shown, messages = browser.get("/look").json
    assert "[[1], {}]" in shown
    assert [] == messages


@pytest.mark.parametrize("named", EACH)
def test_keys_are_texts_in_each(named):
    """A key of the session itself is a str, whatever is kept below it."""
    for key in (1, None, (1,), b"a"):
        with pytest.raises(SessionValueError, match=r"^session has a key of"):
            as_serializer(named).dumps({key: 1})


@pytest.mark.parametrize("named", EACH)
def test_p9_garbage_is_unreadable_in_each(named):
    """P9: one error, whatever the text is, and nothing of the text in it."""
    serializer = as_serializer(named)
    whole = serializer.dumps(PLAIN)
    for text in ("", "[]", CANARY, "AAAA", "ä", whole[:-9], None, 5):
        with pytest.raises(UnreadableDataError) as caught:
            serializer.loads(text)
        assert caught.value.__context__ is None
        assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("named", EACH)
def test_p9_an_unreadable_row_is_a_new_session(make, named, caplog):
    """P9: one line of log; and the row stays as it is."""
    world = make(named)
    caplog.clear()
    browser = put(world, "\u00fc" + CANARY)
    assert [{}, "unreadable"] == browser.get("/get").json
    (told,) = [r for r in caplog.records if r.levelno > logging.INFO]
    assert "is unreadable: " in told.getMessage()
    assert CANARY not in told.getMessage()
    browser.get("/set?a=1")
    assert [{"a": "1"}, None] == browser.get("/get").json
    assert "\u00fc" + CANARY in [row.data for row in world.rows()]


# -- pickle ------------------------------------------------------------

RICH = {
    "date": WHEN,
    "set": {"a", "b"},
    "cart": Cart("book"),
    "tuple": (1, (2,)),
    "bytes": b"\0\xff",
    "decimal": decimal.Decimal("1.50"),
    "ordered": collections.OrderedDict(b=1, a=2),
    "keys": {1: "one", None: "none", (1, 2): "pair"},
    "numbers": [math.inf, 1j, 2**20_000],
    "text": "\0\ud800",
}


@pytest.fixture(name="rich")
def _rich(make):
    """A world whose sessions are pickles; ``/do`` runs what the test says."""
    world = make("pickle")

    @world.on("do")
    def _(request):
        return world.views["what"](request)

    def do(browser, what):
        world.on("what")(what)
        return browser.get("/do").json

    world.do = do
    return world


def test_pickle_keeps_any_value(rich):
    """Dates, sets, objects, tuples, keys of any kind."""
    browser = rich.browser()
    rich.do(browser, lambda request: request.session.update(RICH))
    seen = {}
    rich.do(browser, lambda request: seen.update(request.session))
    assert seen.pop("cart").items == ["book"]
    assert {k: v for k, v in RICH.items() if k != "cart"} == seen
    assert [type(RICH[key]) for key in seen] == [*map(type, seen.values())]


def test_p5_reading_pickled_values_writes_nothing(rich):
    """P5: whoever holds an object, a set or a date has not changed it."""
    browser = rich.browser()
    rich.do(browser, lambda request: request.session.update(RICH))
    rich.count()
    for _ in range(3):
        rich.do(browser, lambda request: len(request.session.copy()))
    assert ["SELECT"] * 3 == rich.count()


CHANGES = {
    "set": lambda value: value.add("c"),
    "cart": lambda value: value.items.append("pen"),
    "ordered": lambda value: value.move_to_end("b"),
    "keys": lambda value: value.update({2: "two"}),
    "tuple": lambda value: value[2].append(1),
    "buffer": lambda value: value.extend(b"x"),
    "deque": lambda value: value.append(1),
}


@pytest.mark.parametrize("key", CHANGES)
def test_p2_a_pickled_value_is_changed_in_place(rich, key):
    """P2: that is noticed, whatever the value is, and whatever it equals."""
    more = {"tuple": (1, 2, []), "buffer": bytearray(b"a")}
    more["deque"] = collections.deque([1])
    browser = rich.browser()
    rich.do(browser, lambda request: request.session.update(RICH | more))
    before = data_of(rich)
    rich.do(browser, lambda request: CHANGES[key](request.session[key]))
    seen = {}
    rich.do(browser, lambda request: seen.update(request.session))
    expected = pickle.loads(pickle.dumps((RICH | more)[key]))  # noqa: S301
    CHANGES[key](expected)
    assert pickled_same(expected, seen[key])
    assert before != data_of(rich)


def unsteady_set():
    """Return a set whose order every other round trip changes."""
    for n in range(10_000):
        one = {f"{n}-{each}" for each in "abcd"}
        two = pickle.loads(pickle.dumps(one))  # noqa: S301
        three = pickle.loads(pickle.dumps(two))  # noqa: S301
        if list(two) != list(three):
            return one
    raise AssertionError("no set of texts changes its order")


@pytest.mark.parametrize("named", ["pickle", f"{MODULE}.Dated"])
def test_p2_parallel_requests_keep_each_others_values(make, named):
    """P2: an object or a set that I have only read is theirs, as changed.

    Also a set whose order changes whenever it is read and written.
    """
    world = make(named)
    rich = {"date": WHEN, "set": unsteady_set()}
    if named == "pickle":
        rich["cart"] = Cart("book")

    @world.on("fill")
    def _(request):
        request.session.update(rich)
        request.session.flash(WHEN)
        return {}

    @world.on("theirs")
    def _(request):
        request.session["set"].add("theirs")
        request.session["theirs"] = WHEN
        request.session.flash({"theirs"})
        if named == "pickle":
            request.session["cart"].items.append("theirs")
        return {}

    @world.on("mine")
    def _(request):
        request.session.copy()
        request.session["mine"] = {1, 2}
        request.session.flash({"mine"})
        browser.get("/theirs")
        return {}

    seen = {}

    @world.on("see")
    def _(request):
        seen.update(request.session)
        seen["flash"] = request.session.pop_flash()
        return {}

    browser = world.browser()
    browser.get("/fill")
    browser.get("/mine")
    browser.get("/see")
    assert rich["set"] | {"theirs"} == seen["set"]
    assert [WHEN, {"theirs"}, {"mine"}] == seen["flash"]
    assert [WHEN, {1, 2}] == [seen["theirs"], seen["mine"]]
    if named == "pickle":
        assert ["book", "theirs"] == seen["cart"].items


@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
def test_p2_a_conflict_of_pickled_values(make, on_conflict):
    """P2: only what both have changed is one; ``retry`` says so."""
    world = make("pickle", on_conflict=on_conflict)
    browser = world.browser()

    @world.on("fill")
    def _(request):
        request.session.update(cart=Cart(), tags={"x"}, when=WHEN)
        return {}

    @world.on("change")
    def _(request):
        request.session.copy()
        request.session["tags"].add(request.params["tag"])
        if "then" in request.params:
            browser.get(request.params["then"])
        return {}

    browser.get("/fill")
    browser.get("/change?tag=y&then=/set?other=1")
    change = "/change?tag=z&then=/change?tag=theirs"
    if on_conflict == "retry":
        with pytest.raises(Exception, match=r"changed the same keys.*'tags'"):
            browser.get(change)
    else:
        browser.get(change)
    assert browser.get("/get").json[0]["other"] == "1"


def test_a_savepoint_restores_pickled_values(rich):
    """A rollback takes back what was changed inside a value since then."""

    def work(request):
        request.session["cart"].items.append("kept")
        savepoint = request.tm.savepoint()
        request.session["cart"].items.append("undone")
        request.session["tags"] = {1}
        savepoint.rollback()

    browser = rich.browser()
    rich.do(browser, lambda request: request.session.update(RICH))
    rich.do(browser, work)
    seen = {}
    rich.do(browser, lambda request: seen.update(request.session))
    assert ["book", "kept"] == seen["cart"].items
    assert "tags" not in seen


@pytest.mark.parametrize(
    "value",
    [lambda: CANARY, Trap("written"), (x for x in CANARY)],
    ids=name_of,
)
def test_p6_what_cannot_be_pickled_is_named(rich, value):
    """P6: by its key, without its value; and nothing is committed."""
    browser = rich.browser()
    rich.do(browser, lambda request: request.session.update(a=1))
    before = data_of(rich)

    def work(request):
        request.session["b"] = 2
        request.session["cart"] = [value]

    with pytest.raises(SessionValueError) as caught:
        rich.do(browser, work)
    assert "session['cart']" == caught.value.path
    assert "cannot be written by its serializer" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert before == data_of(rich)


class TwoReasons(Exception):
    """Can be pickled, but not unpickled, as many errors."""

    def __init__(self, one, other):
        super().__init__(one)


class Unlike:
    """Tells pickle to make it in a way that it cannot be made."""

    def __init__(self, needed):
        self.needed = needed

    def __reduce__(self):
        return Unlike, ()


UNREADABLE = {
    "error": lambda: TwoReasons(CANARY, 1),
    "reduce": lambda: Unlike(CANARY),
    "state": Trap,
}


@pytest.mark.parametrize("make_value", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("moment", ["commit", "savepoint", "merge"])
def test_p6_what_cannot_be_unpickled_is_named(rich, make_value, moment):
    """P6: as what cannot be pickled: the session stays readable."""
    browser = rich.browser()
    rich.do(browser, lambda request: request.session.update(a=1))
    (other,) = same_session(rich, browser, 1)

    def work(request):
        request.dbsession.add(rich.Item(name="pen"))
        request.session["b"] = 2
        request.session["cart"] = [make_value()]
        if moment == "savepoint":
            request.tm.savepoint().rollback()
        if moment == "merge":
            rich.do(other, lambda request: request.session.update(c=3))

    with pytest.raises(SessionValueError) as caught:
        rich.do(browser, work)
    assert "session['cart']" == caught.value.path
    assert "cannot be read" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert [] == rich.items()
    found = {}
    rich.do(browser, lambda request: found.update(request.session))
    assert {"a": 1} | ({"c": 3} if moment == "merge" else {}) == found


def test_p6_what_your_own_does_not_read_is_named():
    """So is what a serializer of somebody's own writes, but does not read."""

    def loads(text):
        found = json.loads(text)
        return found if "odd" not in found else None

    serializer = as_serializer(Wrong(json.dumps, loads))
    assert '{"even": 2}' == serializer.dumps({"even": 2})
    with pytest.raises(SessionValueError, match="cannot be read") as caught:
        serializer.dumps({"even": 2, "odd": 1})
    assert "session['odd']" == caught.value.path


def test_pickle_too_deep_is_named():
    """So is what is nested deeper than Python's stack."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SessionValueError) as caught:
        PickleSerializer().dumps({"a": 1, "b": deep})
    assert "session['b']" == caught.value.path
    del deep


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(pickle.dumps({"a": Trap()})).decode(),
        base64.b64encode(b"\x80\x04c__nowhere\nGone\n.").decode(),
        base64.b64encode(pickle.dumps([CANARY])).decode(),
        base64.b64encode(pickle.dumps({1: CANARY})).decode(),
        base64.b64encode(b"\x80\x04]" + b"\x85" * 9).decode(),
        # Ruby's.
        "BAh7BkkiBmEGOgZFVEkiBmIGOwBU",
        '{"a":1}',
    ],
    ids=["raises", "class is gone", "list", "key", "damaged", "Rails", "JSON"],
)
def test_p9_a_pickle_that_cannot_be_read(rich, text):
    """P9: whatever it raises when it is read, it is a new session."""
    browser = put(rich, text)
    assert [{}, "unreadable"] == browser.get("/get").json
    assert text == data_of(rich)


def test_a_failing_request_with_a_key_that_is_no_text(rich, caplog):
    """The application's error is the one that is seen."""

    def work(request):
        request.session[1] = {2}
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        rich.do(rich.browser(), work)
    assert "changes of the session (1) were discarded" in caplog.text


class Odd:
    """Cannot be compared."""

    def __eq__(self, other):
        raise RuntimeError

    __ne__ = __eq__
    __hash__ = None  # type: ignore[assignment]


def test_no_comparison_of_the_applications_is_asked(rich):
    """Not in merging, not under the user's key, not as a flash queue."""
    browser = rich.browser()

    def theirs(request):
        request.session["theirs"] = request.session["auth.userid"]
        request.session.flash(Odd())
        return {}

    def mine(request):
        request.session.update({"auth.userid": Odd(), "_f_other": Odd()})
        request.session.flash(Odd())
        browser.get("/theirs")

    rich.on("theirs")(theirs)
    keys = {"auth.userid", "_f_other", "a"}
    odd = {key: Odd() for key in keys}
    rich.do(browser, lambda request: request.session.update(odd))
    rich.do(browser, mine)
    seen = rich.do(browser, lambda request: list(request.session))
    assert keys | {"_f_", "theirs"} == set(seen)


# -- null: a column of JSON --------------------------------------------

# What turns the column of a table that is there into one of JSON.
TO_JSON = {
    "postgresql": "ALTER TABLE {} ALTER data TYPE jsonb USING data::jsonb",
    "mariadb": "ALTER TABLE {} MODIFY data JSON NOT NULL",
    "sqlite": None,
}
# The docs show both of them.
QUERIES = {
    "postgresql": """SELECT count(*) FROM {} WHERE data @> '{{"cart": """
    """{{"vip": true}}}}' AND data ->> 'lang' = 'dä'""",
    "mariadb": "SELECT count(*) FROM {} "
    "WHERE json_value(data, '$.lang') = 'dä' "
    "AND json_extract(data, '$.cart.vip') = true",
    "sqlite": "SELECT count(*) FROM {} "
    "WHERE json_extract(data, '$.lang') = 'dä' "
    "AND json_extract(data, '$.cart.vip') = 1",
}
NATIVE = PLAIN | {
    "lang": "dä",
    "cart": {"vip": True, "b": 1, "a": 2, "longer": 3},
    "numbers": [
        *(1e16, -1e16, 1e22, 1e300, 1.7976931348623157e308, 5e-324, 1e-5),
        *(1.0, 100000.0, 0.1, 1.5e-10, 123456789.123456789, 2e15, 0.0),
        *(2**64 - 1, -(2**63), 10**15, 0),
    ],
}


def native(make, database, **given):
    """Return a world whose data is a column of JSON."""
    world = make("null", database, **given)
    change = TO_JSON[database]
    if change is not None:
        world.execute(sa.text(change.format(world.table.name)))
    return world


def sorted_repr(value):
    """Return a repr that tells 1 and 1.0 apart, but not the order of keys."""
    if isinstance(value, dict):
        pairs = sorted((k, sorted_repr(v)) for k, v in value.items())
        return "{" + ", ".join(f"{k!r}: {v}" for k, v in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(sorted_repr, value)) + "]"
    return repr(value)


def test_null_keeps_values_in_a_json_column(make, database):
    """P5: each comes back as it was, with its type; reading writes nothing.

    The database may order keys, and set blanks, as it likes; and it can look
    inside.
    """
    world = native(make, database)
    seen = {}

    @world.on("fill")
    def _(request):
        request.session.update(NATIVE)
        return {}

    @world.on("look")
    def _(request):
        seen.update(request.session)
        return {}

    browser = world.browser()
    browser.get("/fill")
    world.count()
    browser.get("/look")
    assert sorted_repr(NATIVE) == sorted_repr(seen)
    assert ["SELECT"] == world.count()
    query = QUERIES[database].format(world.table.name)
    with world.engine.connect() as connection:
        found = connection.exec_driver_sql(query.replace("%", "%%"))
        assert 1 == found.scalar()


def test_p2_null_merges_what_is_changed_at_the_same_time(make, database):
    """P2: what only the database has put in another order is unchanged."""
    world = native(make, database)
    browser = world.browser()

    @world.on("fill")
    def _(request):
        request.session.update(longer=1, z={"b": 1, "aa": [1e16]}, y=1)
        return {}

    @world.on("theirs")
    def _(request):
        request.session["z"]["aa"].append(2)
        return {}

    @world.on("mine")
    def _(request):
        request.session["z"]
        request.session["mine"] = 1
        browser.get("/theirs")
        return {}

    browser.get("/fill")
    browser.get("/mine")
    content, _ = browser.get("/get").json
    assert ["1", "1"] == [content["mine"], content["y"]]
    assert "[1e+16, 2]" in content["z"]


def test_null_knows_no_order_of_keys(make):
    """P5: what was put in again at another place is unchanged."""
    world = make("null")

    @world.on("again")
    def _(request):
        request.session["a"] = request.session.pop("a")
        return {}

    browser = world.browser()
    browser.get("/set?a=1&b=2")
    world.count()
    browser.get("/again")
    assert ["SELECT"] == world.count()


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.sampled_from('"\\e+-0.1,:{}[]\n')),
)
@settings(deadline=None, database=None, max_examples=200)
def test_null_writes_numbers_in_full(number, text):
    """No number has an exponent, whatever texts stand beside it."""
    serializer = NullSerializer()
    data = {"a": [number, text], text: {"b": number}}
    written = serializer.dumps(data)
    assert data == serializer.loads(written)
    assert written == serializer.as_written(written)
    outside = re.sub(r'"(\\.|[^"\\])*"', "", written)
    assert not re.search(r"[eE]", outside)
    assert "-0.0," not in outside
    assert repr(abs(number)) == repr(abs(serializer.loads(written)["a"][0]))


DEEP: object = 1
for _ in range(31):
    DEEP = [DEEP]
NOT_NATIVE = {
    "NUL": ("a\0b", "['x'][0]", "has a NUL or half a character"),
    "surrogate": ("\ud800", "['x'][0]", "has a NUL or half a character"),
    "key": ({"\0": 1}, "['x'][0]", "has a NUL or half a character"),
    "large": (2**64, "['x'][0]", "is an integer of more than 64 bits"),
    "small": (-(2**63) - 1, "['x'][0]", "is an integer of more than 64"),
    "deep": (DEEP, "['x'][0]", "is nested more than 31 deep, or in itself"),
    "NaN": (math.nan, "['x'][0]", "is a number that JSON does not know"),
    "date": (WHEN, "['x'][0]", "is of type datetime"),
}


@pytest.mark.parametrize("kind", NOT_NATIVE)
def test_null_refuses_what_not_every_column_keeps(make, kind):
    """Before anything is committed, by its path, without its value."""
    value, path, problem = NOT_NATIVE[kind]
    world = make("null")

    @world.on("fill")
    def _(request):
        request.dbsession.add(world.Item(name="x"))
        request.session["x"] = [value]
        return {}

    with pytest.raises(SessionValueError) as caught:
        world.browser().get("/fill")
    assert caught.value.path.startswith(f"session{path}")
    assert problem in str(caught.value)
    assert [] == world.rows()
    assert [] == world.items()


def test_null_keeps_what_is_just_allowed(make, database):
    """Nested 31 deep, on each database; not one more on MariaDB."""
    world = native(make, database)
    deep = DEEP[0]

    @world.on("fill")
    def _(request):
        request.session["x"] = deep
        return {}

    browser = world.browser()
    browser.get("/fill")
    assert str(deep) == browser.get("/get").json[0]["x"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\u0000"}',
        '{"a": 18446744073709551616}',
        '{"a": ' + "[" * 31 + "]" * 31 + "}",
        "[1]",
        "null",
        '{"a": 1e400}',
    ],
)
def test_p9_null_reads_nothing_that_it_could_not_write(make, text):
    """P9: others write into such a column; reading must not fail for it."""
    world = make("null")
    assert [{}, "unreadable"] == put(world, text).get("/get").json
    assert text == data_of(world)


# -- rails -------------------------------------------------------------

RAILS = (
    '{"value":{"_csrf_token":"q+/9=","flash":{"discard":[],"flashes":'
    '{"notice":"Grüße 😀"}},"session_id":"0f","n":1.0e+20,"b":{"x":[1]}}}'
)


def test_rails_rows_are_read_and_kept(make):
    """P5: what Rails wrote is not written by reading; what is beside stays."""
    world = make("rails")

    @world.on("look")
    def _(request):
        return request.session["flash"]["flashes"]

    browser = put(world, RAILS)
    assert {"notice": "Grüße 😀"} == browser.get("/look").json
    assert ["SELECT"] == world.count()
    assert data_of(world) == RAILS
    browser.get("/set?a=%C3%BC")
    written = json.loads(data_of(world))
    expected = json.loads(RAILS)
    expected["value"]["a"] = "ü"
    assert expected == written
    assert list(expected["value"]) == list(written["value"])
    assert data_of(world).startswith('{"value":{"_csrf_token":"q+/9=","flash"')


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1}',
        '{"value":1}',
        '{"value":null}',
        '{"value":{},"more":1}',
        "{}",
        '{"value":{"a":NaN}}',
        '{"value":{"a":"\\ud800"}}',
        "BAh7BkkiBmEGOgZFVEkiBmIGOwBU\n",
    ],
)
def test_p9_rails_reads_only_what_is_wrapped(make, text):
    """P9: plain JSON, and Marshal's, are no sessions of Rails' JSON."""
    world = make("rails")
    assert [{}, "unreadable"] == put(world, text).get("/get").json
    assert text == data_of(world)


def test_rails_can_read_what_is_written():
    """Ruby's JSON reads 100 levels, one is the wrapping; no surrogates."""
    serializer = RailsSerializer()
    deep: object = 1
    for _ in range(98):
        deep = [deep]
    text = serializer.dumps({"a": deep, "ä": "\0\U0001f600"})
    assert text.isascii()
    assert 100 == text.count("[") + text.count("{")
    assert {"a": deep, "ä": "\0\U0001f600"} == serializer.loads(text)
    for value in ([deep], "\udfff"):
        with pytest.raises(SessionValueError):
            serializer.dumps({"a": value})


# -- an application's own ----------------------------------------------


def test_bytes_are_kept_as_base64(make):
    """In one line of ASCII; text is kept as it is."""
    world = make(f"{MODULE}.Zipped")
    world.browser().get("/set?a=%C3%BC")
    raw = base64.b64decode(data_of(world), validate=True)
    assert b'{"a": "\\u00fc"}' == zlib.decompress(raw)
    world = make(f"{MODULE}.Dated")
    world.browser().get("/set?a=%C3%BC")
    assert '{"a": "ü"}' == data_of(world)


@pytest.mark.parametrize("named", [plistlib, pyramid.session.JSONSerializer])
def test_serializers_of_others_work(make, named):
    """A module of Python's own, and a class of Pyramid's."""
    world = make(named)
    browser = world.browser()
    browser.get("/set?a=%C3%BC")
    browser.get("/set?b=1")
    assert [{"a": "ü", "b": "1"}, None] == browser.get("/get").json


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (5, "cannot be written by its serializer (TypeError)"),
        (f"{CANARY}\0", "makes a text with characters that no database keeps"),
        (f"{CANARY}\ud800", "makes a text with characters that no database"),
    ],
)
def test_p6_what_an_own_serializer_refuses_is_named(make, value, problem):
    """P6: whatever it raises: the key, no value; nothing is committed."""
    world = make(f"{MODULE}.Raw")

    @world.on("fill")
    def _(request):
        request.session.update(first="1", bad=value, last="2")
        return {}

    with pytest.raises(SessionValueError) as caught:
        world.browser().get("/fill")
    assert "session['bad']" == caught.value.path
    assert problem in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert [] == world.rows()


def test_what_is_written_is_always_of_one_kind():
    """Text or bytes: anything else is as good as nothing."""
    for empty in ("{}", b"{}"):
        for other in ("{}", b"{}", None):
            if type(empty) is type(other):
                continue
            answers = {0: empty, 1: other}
            own = Wrong(lambda data, of=answers: of[len(data)], json.loads)
            serializer = as_serializer(own)
            with pytest.raises(SessionValueError, match="TypeError"):
                serializer.dumps({"a": 1})


def test_what_is_refused_only_as_a_whole():
    """Then it is the session that is named."""

    def dumps(data):
        if len(data) > 1:
            raise RuntimeError(CANARY)
        return json.dumps(data)

    serializer = as_serializer(Wrong(dumps, json.loads))
    with pytest.raises(SessionValueError) as caught:
        serializer.dumps({"a": 1, "b": 2})
    assert "session" == caught.value.path
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", ["!list", "!key", "!none", "=\n==", "!"])
def test_p9_what_an_own_serializer_reads_is_no_session(make, text):
    """P9: whatever it raises or returns: a new session, and the row stays."""
    world = make(f"{MODULE}.Raw")
    assert [{}, "unreadable"] == put(world, text).get("/get").json
    assert text == data_of(world)


# -- what is the same --------------------------------------------------


def test_what_a_pickle_takes_for_the_same():
    """What would be stored, not what an application's ``==`` says."""
    assert pickled_same(Cart(1), Cart(1))
    assert not pickled_same(Cart(1), Cart(2))
    assert not pickled_same(1, True)
    assert not pickled_same(1, 1.0)
    assert not pickled_same("a", b"a")
    assert not pickled_same({1}, frozenset({1}))
    assert not pickled_same({1}, {1, 2})
    assert not pickled_same(Trap("written"), Trap("written"))
    one, text = "x y", "".join(["x ", "y"])
    assert pickled_same([one, one], [one, text])
    found = unsteady_set()
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert pickled_same({"a": [found]}, {"a": [again]})
    assert pickled_same(Tags(found), Tags(again))
    assert not pickled_same(Tags(found), found)
    assert not pickled_same(Tags(found, "own"), Tags(again))


def test_what_is_no_json_is_the_same_only_as_itself():
    """A value that a request has put in and could not save is a change."""
    value = {1}
    assert json_same([{"a": value}], [{"a": value}])
    assert not json_same([{"a": value}], [{"a": {1}}])


class Tags(set):
    """A set of its own kind, with an attribute."""

    def __init__(self, items=(), name=""):
        super().__init__(items)
        self.name = name


# -- size --------------------------------------------------------------


@pytest.mark.parametrize("named", ["pickle", f"{MODULE}.Zipped", "null"])
def test_size_is_counted_as_it_is_stored(make, named):
    """Of bytes, their base64; and what is just allowed is read again."""
    serializer = as_serializer(named)
    data = {"big": "".join(map(chr, range(0x100, 0x1100, 3))), "a": [1, 2]}
    size = len(serializer.dumps(data))
    for limit in (size, size - 1):
        world = make(named, max_data_size=limit)

        @world.on("fill")
        def _(request):
            request.session.update(data)
            return {}

        browser = world.browser()
        if limit == size:
            browser.get("/fill")
            assert size == len(data_of(world))
            assert {"big", "a"} == set(browser.get("/get").json[0])
            continue
        with pytest.raises(SessionOverflowError) as caught:
            browser.get("/fill")
        assert (size, limit) == (caught.value.size, caught.value.limit)
        sizes = [(k, len(serializer.dumps({k: v}))) for k, v in data.items()]
        assert sizes == caught.value.largest
        assert [] == world.rows()


def test_size_may_be_counted_elsewhere():
    """What stands between the text and the row says how much it makes."""
    serializer = JSONSerializer()
    text = serializer.dumps({"a": 1})
    stored = {"stored_size": lambda text: 2 * len(text)}
    check_size(text, {"a": 1}, serializer, 14, **stored)
    with pytest.raises(SessionOverflowError) as caught:
        check_size(text, {}, serializer, 13, **stored)
    assert 14 == caught.value.size


# -- from one to another -----------------------------------------------


def test_from_a_json_column_back_to_text(make):
    """PostgreSQL's text of it is read by ``json``."""
    world = native(make, "postgresql")
    world.browser().get("/set?a=%C3%BC&longer=1")
    change = "ALTER TABLE {} ALTER data TYPE text"
    assert change.format("sessions") in DOCS
    world.execute(sa.text(change.format(world.table.name)))
    text = data_of(world)
    assert {"a": "ü", "longer": "1"} == JSONSerializer().loads(text)


def test_the_docs_show_what_was_tried():
    """Each change of a column, each query, and which reads which rows."""
    for told in (*TO_JSON.values(), *QUERIES.values()):
        assert told is None or told.format("sessions") in DOCS
    for after in READERS:
        read = [name for name in READERS if after in READERS[name]]
        row = re.search(rf"\* - ``{after}`` - .*? - (.*?) \* - ", DOCS)[1]
        assert [f"``{name}``" for name in sorted(read)] == sorted(
            row.split(", ")
        )


def test_the_example_in_the_docs_works():
    """The class that compresses."""
    text = (ROOT / "docs" / "serializers.rst").read_text(encoding="utf-8")
    _, _, code = text.partition(".. code-block:: python\n")
    code, _, _ = code.partition("\nIn Python")
    names: dict = {}
    exec(textwrap.dedent(code), names)  # noqa: S102
    serializer = as_serializer(names["Compressed"])
    assert PLAIN == serializer.loads(serializer.dumps(PLAIN))


# What reads a row of plain data that another has written, as the docs say.
READERS = {
    "json": {"json", "hybrid", "null"},
    "hybrid": {"json", "hybrid", "null"},
    "pickle": {"pickle", "hybrid"},
    "null": {"json", "hybrid", "null"},
    "rails": {"rails"},
}


@pytest.mark.parametrize("before", READERS)
def test_which_reads_the_rows_of_which(before):
    """The table in the docs: the others find them unreadable.

    But for json, hybrid and null, which take what ``rails`` has wrapped for
    a session with the key ``value``.
    """
    data = {"a": [1, "ä"], "b": {"c": None}}
    text = as_serializer(before).dumps(data)
    found = {}
    for after in READERS:
        try:
            found[after] = as_serializer(after).loads(text)
        except UnreadableDataError:
            continue
    is_rails = before == "rails"
    wrapped = {k for k, v in found.items() if v == {"value": data}}
    assert ({"json", "hybrid", "null"} if is_rails else set()) == wrapped
    assert READERS[before] == {k for k, v in found.items() if v == data}


def test_from_pickle_to_json_by_hybrid(make_world):
    """Plain pickled sessions go on, and become JSON when they change.

    One with a date does not: its row stays, and its visitor is new.
    """
    rows = {"plain": {"a": (1, 2)}, "rich": {"a": WHEN}}
    for kind, data in rows.items():
        world = make_world(settings={"limitedsession.serializer": "hybrid"})

        @world.on("change")
        def _(request):
            request.session["b"] = 1
            return {k: str(v) for k, v in request.session.items()}

        text = PickleSerializer().dumps(data)
        browser = put(world, text)
        if kind == "plain":
            assert {"a": "[1, 2]", "b": "1"} == browser.get("/change").json
            assert {"a": [1, 2], "b": 1} == json.loads(data_of(world))
        else:
            assert {"b": "1"} == browser.get("/change").json
            assert text in [row.data for row in world.rows()]
        assert START == world.clock.now
        assert TOKEN in str(having(world).cookies)
