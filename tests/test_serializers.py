"""What may be stored, what may not, and what damaged text becomes."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import re
import traceback
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_limitedsession import (
    SessionError,
    SessionOverflowError,
    SessionValueError,
)
from pyramid_limitedsession.errors import UnreadableDataError
from pyramid_limitedsession.jsonvalues import MAX_DEPTH
from pyramid_limitedsession.serializers import JSONSerializer, check_size

SERIALIZER = JSONSerializer()
BIGGEST = 10**4300 - 1
# Two halves of one character, side by side, are that character in JSON.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

TEXTS = st.text(st.characters(exclude_categories=())).filter(
    lambda text: not _PAIR.search(text)
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([BIGGEST, -BIGGEST, 10**4000])
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
    ),
    max_leaves=10,
)
DATAS = st.dictionaries(TEXTS, VALUES, max_size=4)


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types, all the way down."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(
            _same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list):
        return all(map(_same, one, other))
    return True


@given(DATAS)
@settings(deadline=None, database=None)
def test_round_trip(data):
    """What is read back equals what was put in, types and order too."""
    assert _same(data, SERIALIZER.loads(SERIALIZER.dumps(data)))


@given(DATAS)
@settings(deadline=None, database=None)
def test_the_text_is_plain_ascii(data):
    """No character set of a table, and no NUL, can spoil the text."""
    text = SERIALIZER.dumps(data)
    assert text.isascii()
    assert text.isprintable()


@given(DATAS)
@settings(deadline=None, database=None)
def test_what_was_read_is_written_the_same(data):
    """An unchanged session gives the very text: nothing is to be written."""
    text = SERIALIZER.dumps(data)
    assert text == SERIALIZER.dumps(SERIALIZER.loads(text))


@pytest.mark.parametrize(
    "value",
    [
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "\U0001f600",
        "\u2028</script>",
        "",
        0,
        -1,
        2**63,
        BIGGEST,
        -BIGGEST,
        0.1,
        -0.0,
        5e-324,
        1.7976931348623157e308,
        True,
        False,
        None,
        [],
        {},
        [[], {}, [None]],
        {"": {"\x00": [1, 1.0, True]}},
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_round_trip_of_a_value(value):
    """These borders of JSON's types come back as they were."""
    data = {"a": value}
    assert _same(data, SERIALIZER.loads(SERIALIZER.dumps(data)))


def test_minus_zero_keeps_its_sign():
    """-0.0 equals 0.0, but comes back as -0.0."""
    data = SERIALIZER.loads(SERIALIZER.dumps({"a": -0.0}))
    assert math.copysign(1, data["a"]) == -1.0


def _printed(error: BaseException) -> str:
    """Return what a log shows of an error and of all it is chained to."""
    report = traceback.TracebackException.from_exception(error, limit=0)
    return "".join(report.format())


# -- refused -----------------------------------------------------------


@dataclasses.dataclass
class Canary:
    """An object that shows its content."""

    text: str = "canary"


class Hostile:
    """An object whose repr must not be asked for."""

    def __repr__(self) -> str:
        raise RuntimeError("canary")


Point = namedtuple("Point", "x y")


def _cycle_in_a_dict() -> Any:
    value: dict[str, Any] = {"text": "canary"}
    value["self"] = value
    return value


def _cycle_in_a_list() -> Any:
    value: list[Any] = ["canary"]
    value.append(value)
    return value


def _nested(depth: int, kind: type = list) -> Any:
    value: Any = kind()
    for _ in range(depth - 1):
        value = [value] if kind is list else {"k": value}
    return value


JUST_KEPT = "a session keeps only"
REFUSED = {
    "tuple": (("canary",), f"is of type tuple; {JUST_KEPT}"),
    "namedtuple": (Point("canary", 1), f"is of type Point; {JUST_KEPT}"),
    "set": ({"canary"}, f"is of type set; {JUST_KEPT}"),
    "frozenset": (frozenset({"canary"}), "is of type frozenset;"),
    "bytes": (b"canary", "is of type bytes;"),
    "bytearray": (bytearray(b"canary"), "is of type bytearray;"),
    "datetime": (
        datetime.datetime(1066, 10, 14, tzinfo=datetime.timezone.utc),
        "is of type datetime;",
    ),
    "date": (datetime.date(1066, 10, 14), "is of type date;"),
    "Decimal": (Decimal("1066.14"), "is of type Decimal;"),
    "complex": (1066j, "is of type complex;"),
    "object": (object(), "is of type object;"),
    "dataclass": (Canary(), "is of type Canary;"),
    "hostile": (Hostile(), "is of type Hostile;"),
    "class": (Canary, "is of type type;"),
    "generator": ((x for x in "canary"), "is of type generator;"),
    "range": (range(1066), "is of type range;"),
    "UserDict": (UserDict(a="canary"), "is of type UserDict;"),
    "dict view": ({"canary": 1}.keys(), "is of type dict_keys;"),
    "int key": ({1066: "canary"}, "has a key of type int, not str"),
    "None key": ({None: "canary"}, "has a key of type NoneType, not str"),
    "bool key": ({True: "canary"}, "has a key of type bool, not str"),
    "float key": ({10.66: "canary"}, "has a key of type float, not str"),
    "bytes key": ({b"canary": 1}, "has a key of type bytes, not str"),
    "tuple key": ({("canary",): 1}, "has a key of type tuple, not str"),
    "NaN": (math.nan, "is a number that JSON does not know"),
    "Infinity": (math.inf, "is a number that JSON does not know"),
    "-Infinity": (-math.inf, "is a number that JSON does not know"),
    "too many digits": (BIGGEST + 1, "is an integer of too many digits"),
    "too many digits below": (
        -BIGGEST - 1,
        "is an integer of too many digits",
    ),
}
SHOWN = ("canary", "1066", "10.66", "nan", "inf")


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_the_path_and_without_the_value(kind):
    """What JSON cannot keep is refused by its path and type, never shown."""
    value, problem = REFUSED[kind]
    data = {"other": "canary", "cart": ["canary", {"x": value}]}
    with pytest.raises(SessionValueError) as caught:
        SERIALIZER.dumps(data)
    text = str(caught.value)
    assert "session['cart'][1]['x']" == caught.value.path
    assert text.startswith(f"session['cart'][1]['x'] {problem}")
    assert [] == [word for word in SHOWN if word in text]


@pytest.mark.parametrize("kind", REFUSED)
def test_p6_refused_without_the_value_in_the_chain(kind):
    """P6: no cause or context of the error shows the value either."""
    value, _ = REFUSED[kind]
    with pytest.raises(SessionValueError) as caught:
        SERIALIZER.dumps({"cart": [value]})
    printed = _printed(caught.value)
    assert "session['cart'][0]" in printed
    assert [] == [word for word in SHOWN if word in printed]


@pytest.mark.parametrize("key", [1, None, True, (1,), b"a"])
def test_refused_at_the_top(key):
    """A key of the session itself must be a str as well."""
    with pytest.raises(SessionValueError, match=r"^session has a key of type"):
        SERIALIZER.dumps({key: 1})


@pytest.mark.parametrize("make", [_cycle_in_a_dict, _cycle_in_a_list])
def test_refused_in_itself(make):
    """What contains itself is refused, with the beginning of its path."""
    with pytest.raises(SessionValueError, match="deep, or in itself") as got:
        SERIALIZER.dumps({"a": make()})
    assert got.value.path.startswith("session['a'][")
    assert got.value.path.endswith("…")
    assert "canary" not in str(got.value)
    assert len(str(got.value)) < 300


@pytest.mark.parametrize("kind", [list, dict])
def test_depth_just_allowed(kind):
    """The session and what is nested in it may be MAX_DEPTH deep."""
    data = {"a": _nested(MAX_DEPTH - 1, kind)}
    assert data == SERIALIZER.loads(SERIALIZER.dumps(data))


@pytest.mark.parametrize("kind", [list, dict])
def test_depth_just_too_deep(kind):
    """One more is refused."""
    with pytest.raises(SessionValueError, match=f"more than {MAX_DEPTH}"):
        SERIALIZER.dumps({"a": _nested(MAX_DEPTH, kind)})


def test_depth_far_too_deep():
    """What is deeper than Python's stack is refused in the same way."""
    with pytest.raises(SessionValueError, match=f"more than {MAX_DEPTH}"):
        SERIALIZER.dumps({"a": _nested(100_000)})


def test_the_same_value_in_two_places_is_no_cycle():
    """Shared is not nested in itself; what comes back is two copies."""
    shared = ["x"]
    data = SERIALIZER.loads(SERIALIZER.dumps({"a": shared, "b": [shared]}))
    assert {"a": ["x"], "b": [["x"]]} == data


def test_refused_under_a_long_key():
    """P6: of a long key the error shows its beginning."""
    with pytest.raises(SessionValueError) as caught:
        SERIALIZER.dumps({"k" * 1000: object()})
    assert "'kkkk" in caught.value.path
    assert len(caught.value.path) < 60


def test_refused_is_a_value_error():
    """Who catches ValueError, or SessionError, catches it."""
    assert issubclass(SessionValueError, ValueError)
    assert issubclass(SessionValueError, SessionError)


# -- subclasses --------------------------------------------------------


class Text(str):
    """A str that prints otherwise."""

    __slots__ = ()

    def __str__(self) -> str:
        return "printed"

    __repr__ = __str__


class Number(int):
    """An int that prints otherwise."""

    def __repr__(self) -> str:
        return "printed"

    __str__ = __repr__


class Fraction(float):
    """A float that prints otherwise."""

    def __repr__(self) -> str:
        return "printed"

    __str__ = __repr__


class Color(str, enum.Enum):
    """An enumeration of strings, as many applications have."""

    RED = "red"


class Level(enum.IntEnum):
    """An enumeration of numbers."""

    HIGH = 3


class Numbers(list):  # type: ignore[type-arg]
    """A list of its own kind."""


@pytest.mark.parametrize(
    "value",
    [
        Text("a"),
        Number(5),
        Fraction(1.5),
        Color.RED,
        Level.HIGH,
        Numbers([1, 2]),
        OrderedDict(b=1, a=2),
        defaultdict(list, a=[1]),
        {Text("key"): 1, Color.RED: 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_of_jsons_types_are_accepted(value):
    """They are kept as what they are underneath, and equal it."""
    data = {"a": value}
    assert data == SERIALIZER.loads(SERIALIZER.dumps(data))


# -- damaged -----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(" ", id="blank"),
        pytest.param("null", id="null"),
        pytest.param("true", id="true"),
        pytest.param("[]", id="list"),
        pytest.param('["canary"]', id="list of something"),
        pytest.param('"canary"', id="string"),
        pytest.param("1066", id="number"),
        pytest.param("NaN", id="NaN"),
        pytest.param('{"a":"canary"', id="truncated"),
        pytest.param('{"a":"canary', id="truncated in a string"),
        pytest.param('{"a":"canary\\', id="truncated in an escape"),
        pytest.param('{"a":"canary\\u00', id="truncated in a code"),
        pytest.param('{"canary"', id="truncated in a key"),
        pytest.param('{"a":"canary"}}', id="too long"),
        pytest.param('{"a":"canary"}{}', id="two"),
        pytest.param("{'a': 'canary'}", id="Python"),
        pytest.param("{canary}", id="no JSON"),
        pytest.param('{"a":"canary\x00"}', id="NUL"),
        pytest.param('\ufeff{"a":"canary"}', id="byte order mark"),
        pytest.param('{"a":' + "9" * 5000 + "}", id="too many digits"),
        pytest.param("[" * 100_000, id="open brackets"),
        pytest.param('{"canary":' * 100_000, id="open braces"),
        pytest.param("[" * 100_000 + "]" * 100_000, id="deep"),
        pytest.param(
            '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", id="deeper"
        ),
        pytest.param(None, id="None"),
        pytest.param(1066, id="an int"),
        pytest.param(b"\xff canary", id="bytes"),
        pytest.param(["canary"], id="a list"),
        pytest.param(object(), id="an object"),
    ],
)
def test_p9_damaged_text_is_unreadable(text):
    """P9: whatever is no JSON object is one error, without the text."""
    with pytest.raises(UnreadableDataError) as caught:
        SERIALIZER.loads(text)
    printed = _printed(caught.value)
    assert "The stored data cannot be read" in printed
    assert "canary" not in printed
    assert "1066" not in printed


@given(DATAS, st.data())
@settings(deadline=None, database=None, max_examples=50)
def test_p9_text_cut_anywhere_is_unreadable(data, draw):
    """P9: a text that a database cut is never half a session."""
    text = SERIALIZER.dumps(data)
    length = draw.draw(st.integers(0, len(text) - 1))
    with pytest.raises(UnreadableDataError):
        SERIALIZER.loads(text[:length])


def test_json_of_others_is_read():
    """JSON with blanks, and not in ASCII, is read as well."""
    text = json.dumps({"ü": [1, "ä"]}, indent=2, ensure_ascii=False)
    assert {"ü": [1, "ä"]} == SERIALIZER.loads(text)


# -- size --------------------------------------------------------------

DATA = {"tiny": 1, "big": "canary" * 50, "mid": ["x" * 100], "more": "y" * 50}
TEXT = SERIALIZER.dumps(DATA)


@pytest.mark.parametrize("spare", [0, 1, 10_000])
def test_size_within_the_limit(spare):
    """Data of just the limit, or less, passes."""
    check_size(TEXT, DATA, SERIALIZER, len(TEXT) + spare)


def test_size_without_a_limit():
    """Without a limit anything passes."""
    check_size(TEXT, DATA, SERIALIZER, None)


def test_size_beyond_the_limit():
    """One byte too many is refused, with both numbers."""
    with pytest.raises(SessionOverflowError) as caught:
        check_size(TEXT, DATA, SERIALIZER, len(TEXT) - 1)
    error = caught.value
    assert (len(TEXT), len(TEXT) - 1) == (error.size, error.limit)
    assert f"has {len(TEXT)} bytes" in str(error)
    assert f"limitedsession.max_data_size allows {len(TEXT) - 1}" in str(error)


def test_size_names_the_three_largest_keys():
    """The error names the three largest keys, largest first, no values."""
    with pytest.raises(SessionOverflowError) as caught:
        check_size(TEXT, DATA, SERIALIZER, 1)
    error = caught.value
    assert ["big", "mid", "more"] == [key for key, _ in error.largest]
    sizes = [
        len(SERIALIZER.dumps({key: DATA[key]})) for key, _ in error.largest
    ]
    assert sizes == [size for _, size in error.largest]
    assert f"'big' ({sizes[0]} bytes), 'mid'" in str(error)
    assert "tiny" not in str(error)
    assert "canary" not in str(error)


def test_size_of_fewer_than_three_keys():
    """With one key only that one is named."""
    data = {"a": "x" * 10}
    with pytest.raises(SessionOverflowError) as caught:
        check_size(SERIALIZER.dumps(data), data, SERIALIZER, 1)
    assert ["a"] == [key for key, _ in caught.value.largest]


def test_size_is_counted_in_bytes():
    """A text of another serializer counts by its bytes, not characters."""
    with pytest.raises(SessionOverflowError) as caught:
        check_size("ü" * 10, {"a": "b"}, SERIALIZER, 19)
    assert 20 == caught.value.size
    check_size("ü" * 10, {"a": "b"}, SERIALIZER, 20)
