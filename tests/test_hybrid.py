"""``serializer = hybrid``: pickles are read as data, and never run."""

from __future__ import annotations

import base64
import codecs
import datetime
import json
import logging
import os
import pickle
import threading
import traceback
from collections import OrderedDict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_limitedsession.errors import UnreadableDataError
from pyramid_limitedsession.jsonvalues import MAX_DEPTH
from pyramid_limitedsession.pickled import unpickled
from pyramid_limitedsession.serializers import HybridSerializer
from pyramid_limitedsession.tokens import fingerprint, key_of
from tests.apps import START
from tests.threads import in_threads

HYBRID = {"limitedsession.serializer": "hybrid"}
SERIALIZER = HybridSerializer()
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TOKEN = "T" * 43
DATA = {
    "none": None,
    "bools": [True, False],
    "ints": [0, 1, -1, 255, 256, 65536, -(2**31), 2**63, -(2**200)],
    "floats": [0.5, -0.0, 1e300],
    "texts": ["", "ä\u2028\x00", "\U0001f600", "\ud800", "x" * 300],
    "lists": [[], [[]], list(range(50))],
    "dicts": {"": {}, "a": {"b": {"c": 1}}},
}
CANARY = "canary-5d1f"


def encoded(data, protocol=pickle.HIGHEST_PROTOCOL):
    """Return data as somebody else has stored it."""
    return in_base64(pickle.dumps(data, protocol))


def in_base64(pickle_):
    """Return a pickle as a text column holds it."""
    return base64.b64encode(pickle_).decode()


def is_unreadable(text):
    """Say whether the text is refused as damaged rows are."""
    try:
        SERIALIZER.loads(text)
    except UnreadableDataError:
        return True
    return False


@pytest.fixture(name="make")
def _make(make_world_with):
    """Return a function that makes worlds that read pickles."""

    def add_views(world):
        @world.on("set")
        def _(request):
            request.session.update(request.params)
            return {}

        @world.on("get")
        def _(request):
            return [dict(request.session), request.session.ended]

        @world.on("peek")
        def _(request):
            return request.session.get("a")

        return world

    return make_world_with(HYBRID, add_views)


@pytest.fixture(name="small")
def _small(make):
    return make()


def put(world, text):
    """Store a row with such data; return a browser that has its token."""
    world.execute(
        world.table.insert(),
        {
            "session_id": key_of(TOKEN),
            "data": text,
            "version": 1,
            "created_at": START,
            "updated_at": START,
        },
    )
    world.count()
    return having(world)


def having(world):
    """Return a browser that has the token."""
    browser = world.browser()
    browser.set_cookie("session", TOKEN)
    return browser


def data_of(world):
    """Return what the only row holds."""
    (row,) = world.rows()
    return str(row.data)


# -- what is read ------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_is_read(protocol):
    """What JSON knows is read from a pickle of any protocol."""
    assert DATA == SERIALIZER.loads(encoded(DATA, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tuples_are_lists(protocol):
    """Of any length, in each other, and in lists."""
    data = {"a": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [(5,)])}
    expected = {"a": [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [[5]]]}
    assert expected == SERIALIZER.loads(encoded(data, protocol))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
KEYS = st.text(max_size=3)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from(PROTOCOLS))
@settings(deadline=None, database=None, max_examples=50)
def test_it_reads_what_pickle_reads(data, protocol):
    """As Python's own unpickler, then made JSON."""
    expected = json.loads(json.dumps(data))
    assert expected == SERIALIZER.loads(encoded(data, protocol))


@given(st.binary(max_size=60))
@settings(deadline=None, database=None, max_examples=200)
def test_p9_anything_else_is_unreadable(garbage):
    """P9: no bytes make anything but an error that says so."""
    found = unpickled(in_base64(garbage), depth=MAX_DEPTH)
    assert isinstance(
        found, type(None) | bool | int | float | str | list | dict
    )


@given(st.data(), st.sampled_from(PROTOCOLS))
@settings(deadline=None, database=None, max_examples=100)
def test_p9_a_damaged_pickle_is_unreadable_or_data(drawn, protocol):
    """P9: cut and with a wrong byte it is refused, or it is JSON."""
    whole = bytearray(pickle.dumps(DATA, protocol))
    place = drawn.draw(st.integers(0, len(whole) - 1))
    whole[place] = drawn.draw(st.integers(0, 255))
    end = drawn.draw(st.integers(1, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:end])):
        text = in_base64(damaged)
        if not is_unreadable(text):
            data = SERIALIZER.loads(text)
            assert data == SERIALIZER.loads(SERIALIZER.dumps(data))


def test_text_of_python_2():
    """Byte strings of Python 2 are text if they are UTF-8."""
    short = b"\x80\x02}U\x01aU\x02\xc3\xa4s."
    long_ = b"\x80\x02}T\x01\x00\x00\x00aT\x02\x00\x00\x00\xc3\xa4s."
    quoted = b"(dp0\nS'a'\np1\nS'b'\np2\ns."
    assert {"a": "ä"} == SERIALIZER.loads(in_base64(short))
    assert {"a": "ä"} == SERIALIZER.loads(in_base64(long_))
    assert {"a": "b"} == SERIALIZER.loads(in_base64(quoted))
    assert is_unreadable(in_base64(short.replace(b"\xc3", b"\xff")))


def test_what_no_pickler_writes():
    """An odd number of items, items of a list, nothing at all."""
    assert {"a": 1} == SERIALIZER.loads(in_base64(b"N0(N1}X\1\0\0\0aK\1s."))
    for damaged in (b"}(X\1\0\0\0au.", b"]X\1\0\0\0aK\1s.", b".", b"0.", b""):
        assert is_unreadable(in_base64(damaged))


def test_lines_of_base64():
    """Some encoders break lines, and put one at the end."""
    text = codecs.encode(pickle.dumps(DATA), "base64").decode()
    assert text.count("\n") > 3
    assert DATA == SERIALIZER.loads(text)
    assert DATA == SERIALIZER.loads(text.replace("\n", "\r\n"))


def test_json_is_read_as_ever():
    """And what is neither is refused."""
    text = SERIALIZER.dumps(DATA)
    assert DATA == SERIALIZER.loads(text)
    for damaged in (
        text[:-1],
        "",
        "null",
        "[]",
        "true",
        "AAAA",
        "ä",
        "=",
        "1",
    ):
        assert is_unreadable(damaged)


def test_only_json_is_written():
    """Whatever was read."""
    text = encoded(DATA)
    assert json.loads(SERIALIZER.as_written(text)) == DATA
    written = SERIALIZER.dumps(SERIALIZER.loads(text))
    assert SERIALIZER.as_written(text) == written
    assert SERIALIZER.as_written(written) == written


def test_what_stands_twice_is_written_twice():
    """A list that two keys hold is two lists, as in JSON."""
    shared = [1]
    data = SERIALIZER.loads(encoded({"a": shared, "b": [shared, shared]}))
    assert {"a": [1], "b": [[1], [1]]} == data
    data["a"].append(2)
    assert [[1], [1]] == data["b"]


# -- what is not -------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset({1}),
        b"bytes",
        bytearray(b"bytes"),
        1j,
        float("nan"),
        float("inf"),
        datetime.datetime(2026, 1, 1),
        Decimal("1.5"),
        OrderedDict(a=1),
        {1: "int key"},
        {None: "no key"},
        {(1,): "tuple key"},
        "\ud83d\ude00",
        len,
        CANARY.join,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_p9_what_json_does_not_know_is_unreadable(value, protocol):
    """P9: sets, bytes, classes, other keys: the row is left alone."""
    assert is_unreadable(encoded({"a": value}, protocol))


# The first two write digits, of which Python refuses so many itself.
@pytest.mark.parametrize("protocol", PROTOCOLS[2:])
def test_p9_too_many_digits_are_unreadable(protocol):
    """P9: an integer that could not be written as JSON."""
    assert is_unreadable(encoded({"a": 10**4300}, protocol))


@pytest.mark.parametrize("data", [[1], (1,), "text", None, 1, {1: 2}])
def test_p9_what_is_no_dict_is_unreadable(data):
    """P9: a session is a dict with text for keys."""
    assert is_unreadable(encoded(data))


def test_as_deep_as_json():
    """So deep as JSON may be nested, not one more."""
    data = {"a": 1}
    for _ in range(MAX_DEPTH - 1):
        data = {"a": data}
    assert data == SERIALIZER.loads(encoded(data))
    assert is_unreadable(encoded({"a": data}))


def test_bombs_are_refused():
    """P9: neither memory, nor time, nor the stack runs out."""
    endless: dict = {}
    endless["a"] = [endless]
    tuple_ = ([],)
    tuple_[0].append(tuple_)
    many: object = "x" * 1000
    for _ in range(40):
        many = [many] * 10
    key = b"\x80\x04})" + b"\x85" * 20_000 + b"Ns."
    value = b"\x80\x04}\x8c\x01a)" + b"\x85" * 20_000 + b"s."
    memo = b"\x80\x02Nr\xff\xff\xff\x7f."
    length = b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f" + b"."
    for bomb in ({"a": endless}, {"a": tuple_}, {"a": many}):
        assert is_unreadable(encoded(bomb, 2))
    for bomb in (key, value, memo, length):
        assert is_unreadable(in_base64(bomb))
    assert is_unreadable(in_base64(b"(" * 20_000 + b"."))


# -- nothing is run ----------------------------------------------------


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def by_hand(path):
    """Return pickles that call something, each in another way."""
    name = str(path).encode()
    text = b"X" + len(name).to_bytes(4, "little") + name
    return {
        "GLOBAL": b"\x80\x02cos\nmkdir\n" + text + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93"
        + text
        + b"\x85R.",
        "INST": b"(" + text + b"ios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\n" + text + b"o.",
        "NEWOBJ": b"\x80\x02cos\nmkdir\n" + text + b"\x85\x81.",
        "EXT1": b"\x80\x02\x82\x01" + text + b"\x85R.",
        "PERSID": b"Pmkdir\n.",
        "BINPERSID": b"\x80\x02" + text + b"Q.",
        "BUILD": b"\x80\x02}" + text + b"b.",
        "behind an end": b"\x80\x02}.cos\nmkdir\n" + text + b"\x85R.",
    }


@pytest.mark.parametrize("serializer", ["json", "hybrid"])
def test_p9_a_canary_is_not_run(make, tmp_path, serializer, caplog):
    """P9: nothing a pickle names is called, whatever is configured."""
    world = make(settings={"limitedsession.serializer": serializer})
    path = tmp_path / "ran"
    texts = [encoded({"a": Canary(path)}, protocol) for protocol in PROTOCOLS]
    texts += [in_base64(each) for each in by_hand(path).values()]
    for text in texts:
        if text == in_base64(by_hand(path)["behind an end"]):
            # Python's own stops there as well.
            assert {} == HybridSerializer().loads(text)
            continue
        caplog.clear()
        browser = put(world, text)
        assert [{}, "unreadable"] == browser.get("/get").json
        (told,) = [r for r in caplog.records if r.levelno > logging.INFO]
        shown = fingerprint(key_of(TOKEN))
        assert f"session {shown} is unreadable: " in told.getMessage()
        assert text == data_of(world)
        world.execute(world.table.delete())
    assert not path.exists()
    pickle.loads(pickle.dumps(Canary(path)))  # noqa: S301 - it bites
    assert path.exists()


def test_json_reads_no_pickle(make):
    """With ``json`` even a harmless pickle is unreadable, and stays."""
    world = make(settings={"limitedsession.serializer": "json"})
    text = encoded({"a": 1})
    assert [{}, "unreadable"] == put(world, text).get("/get").json
    assert text == data_of(world)


def test_p6_no_error_holds_the_data():
    """P6: an error, with all it is chained to, shows nothing of a row."""
    for data in ({CANARY: {CANARY}}, {CANARY: {1: CANARY}}, [CANARY]):
        for text in (encoded(data), encoded(data)[:-8]):
            with pytest.raises(UnreadableDataError) as caught:
                SERIALIZER.loads(text)
            error = caught.value
            assert error.__context__ is None
            assert CANARY not in "".join(traceback.format_exception(error))


# -- in requests -------------------------------------------------------


def test_a_pickled_row_becomes_json_with_the_first_change(
    make, database, mode
):
    """It is read as it is, and written as JSON when something changes."""
    world = make(database, mode)
    text = encoded({"a": (1, "ä"), "b": "1"})
    browser = put(world, text)
    assert [{"a": [1, "ä"], "b": "1"}, None] == browser.get("/get").json
    assert text == data_of(world)
    browser.get("/set?b=2")
    expected = {"a": [1, "ä"], "b": "2"}
    assert expected == json.loads(data_of(world))
    assert [expected, None] == browser.get("/get").json


@pytest.mark.parametrize("path", ["/get", "/peek"])
def test_p5_an_unchanged_pickle_is_not_written(small, path):
    """P5: reading is one SELECT, also of a nested value."""
    browser = put(small, encoded({"a": {"b": [1, (2,)]}}))
    browser.get(path)
    assert ["SELECT"] == small.count()


def test_a_pickle_that_is_too_large_as_json_is_read(make):
    """Only whoever changes it learns that it is too large."""
    limit = {"limitedsession.max_data_size": "1KiB"}
    world = make(settings=limit)
    data = {"a": ["\U0001f600" * 100]}
    browser = put(world, encoded(data))
    assert [data, None] == browser.get("/get").json
    with pytest.raises(Exception, match="max_data_size allows 1024"):
        browser.get("/set?b=2")


def test_p2_changes_of_a_pickle_at_the_same_time(make, database, mode):
    """P2: two requests that change a pickled session keep both changes."""
    world = make(database, mode)
    loaded = threading.Barrier(2)

    @world.on("slow")
    def _(request):
        request.session[request.params["key"]] = 1
        loaded.wait(timeout=30)
        return {}

    browser = put(world, encoded({"a": (1,)}))

    def work(n):
        having(world).get(f"/slow?key=k{n}")

    in_threads(work, 2)
    expected = {"a": [1], "k0": 1, "k1": 1}
    assert [expected, None] == browser.get("/get").json
