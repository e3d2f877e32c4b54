"""`request.session` as a dict and as Pyramid's ISession, in a real app.

Every method does what a plain dict does; what it did is there in the next
request. SQLite, in both modes: nothing here depends on the database.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)
from pyramid.csrf import (
    LegacySessionCSRFStoragePolicy,
    SessionCSRFStoragePolicy,
    get_csrf_token,
    new_csrf_token,
)
from pyramid.httpexceptions import HTTPNotFound
from pyramid.interfaces import ISession
from zope.interface.verify import verifyClass, verifyObject

from pyramid_limitedsession import LimitedSession
from tests.apps import MODES, Clock, World, cookie_of

CONTENT = {"a": 1, "b": [1, 2], "c": {"x": None}}


class Keyed:
    """No mapping, but something that `update` takes: it has keys()."""

    def keys(self) -> list[str]:
        """Return the keys."""
        return ["a", "z"]

    def __getitem__(self, key: str) -> str:
        return key * 2


def _in_place_or(d: Any, other: Any) -> bool:
    before = d
    d |= other
    return d is before


def _or_onto_a_dict(d: Any) -> dict[str, Any]:
    result = {"z": 1, "a": 0}
    result |= d
    return result


def _changed_copy(d: Any) -> dict[str, Any]:
    result: dict[str, Any] = d.copy()
    result["only in the copy"] = 1
    del result["a"]
    return result


def _set(d: Any, key: Any, value: Any) -> None:
    d[key] = value


def _delete(d: Any, *keys: Any) -> None:
    for key in keys:
        del d[key]


def _delete_in_a_loop(d: Any) -> None:
    for key in d:
        del d[key]


def _set_in_a_loop(d: Any) -> None:
    for key, value in d.items():
        d[key + key] = value


def _append_to_all_lists(d: Any, values: Callable[[Any], Any]) -> None:
    for value in values(d):
        if isinstance(value, list):
            value.append(3)


def _pop_and_put_back(d: Any) -> None:
    value = d.pop("b")
    d["b"] = value
    value.append(3)


def _keep_a_reference(d: Any) -> None:
    mine: list[int] = []
    d["mine"] = mine
    mine.append(1)


# Each is called with the session and with a plain dict of equal content.
METHODS: dict[str, Callable[[Any], Any]] = {
    # Reading.
    "getitem": lambda d: d["a"],
    "getitem missing": lambda d: d["none"],
    "getitem of another type": lambda d: d[1],
    "getitem unhashable": lambda d: d[[]],
    "get": lambda d: d.get("b"),
    "get missing": lambda d: d.get("none"),
    "get default": lambda d: d.get("none", 5),
    "get of another type": lambda d: d.get(1, "no"),
    "get unhashable": lambda d: d.get([]),
    "get nothing": lambda d: d.get(),
    "in": lambda d: "a" in d,
    "in missing": lambda d: "none" in d,
    "in unhashable": lambda d: [] in d,
    "not in": lambda d: "none" not in d,
    "len": lambda d: len(d),
    "len of none": lambda d: (d.clear(), len(d)),
    "bool": lambda d: bool(d),
    "bool of none": lambda d: (d.clear(), bool(d)),
    "iter": lambda d: list(iter(d)),
    "reversed": lambda d: list(reversed(d)),
    "keys": lambda d: list(d.keys()),
    "keys len": lambda d: len(d.keys()),
    "keys in": lambda d: ("a" in d.keys(), "z" in d.keys()),  # noqa: SIM118
    "keys as a set": lambda d: sorted((d.keys() & {"a", "z"}) | {"y"}),
    "keys equal": lambda d: d.keys() == {"a", "b", "c"},
    "keys live": lambda d: (view := d.keys(), d.pop("a"), list(view))[2],
    "items": lambda d: list(d.items()),
    "items in": lambda d: (("a", 1) in d.items(), ("a", 2) in d.items()),
    "values": lambda d: list(d.values()),
    "values in": lambda d: (1 in d.values(), 2 in d.values()),
    "eq": lambda d: d == copy.deepcopy(CONTENT),
    "eq in another order": lambda d: d == dict(reversed(CONTENT.items())),
    "eq reflected": lambda d: copy.deepcopy(CONTENT) == d,
    "eq of less": lambda d: d == {"a": 1},
    "eq of other values": lambda d: d == {**CONTENT, "a": 2},
    "eq of no mapping": lambda d: d == list(CONTENT.items()),
    "eq of itself": lambda d: d == d,
    "ne": lambda d: d != copy.deepcopy(CONTENT),
    "ne of less": lambda d: d != {"a": 1},
    "ne of no mapping": lambda d: d != 1,
    "less than": lambda d: d < {},
    "hash": lambda d: hash(d),
    "dict": lambda d: dict(d),
    "unpacked": lambda d: {"first": 0, **d},
    "copy": lambda d: d.copy(),
    "copy is another": _changed_copy,
    "copy is shallow": lambda d: d.copy()["b"].append(3),
    "or": lambda d: d | {"z": 1, "a": 0},
    "or nothing": lambda d: d | {},
    "or pairs": lambda d: d | [("z", 1)],
    "or none": lambda d: d | None,
    "or reflected": lambda d: {"z": 1, "a": 0} | d,
    "or reflected pairs": lambda d: [("z", 1)] | d,
    "ior onto a dict": _or_onto_a_dict,
    # Changing.
    "ior": lambda d: _in_place_or(d, {"z": 1, "a": 0}),
    "ior pairs": lambda d: _in_place_or(d, [("z", 1), ("a", 0)]),
    "ior none": lambda d: _in_place_or(d, None),
    "setitem": lambda d: _set(d, "z", {"y": [1.5, "ü", True]}),
    "setitem again": lambda d: _set(d, "a", None),
    "setitem unhashable": lambda d: _set(d, [], 1),
    "delitem": lambda d: _delete(d, "a"),
    "delitem all": lambda d: _delete(d, "a", "b", "c"),
    "delitem missing": lambda d: _delete(d, "none"),
    "delitem twice": lambda d: _delete(d, "a", "a"),
    "delitem unhashable": lambda d: _delete(d, []),
    "setdefault": lambda d: d.setdefault("z", [1]),
    "setdefault of none": lambda d: d.setdefault("z"),
    "setdefault present": lambda d: d.setdefault("a", 2),
    "setdefault kept": lambda d: d.setdefault("z", []).append(1),
    "setdefault present kept": lambda d: d.setdefault("b", []).append(3),
    "setdefault unhashable": lambda d: d.setdefault([], 1),
    "setdefault nothing": lambda d: d.setdefault(),
    "pop": lambda d: d.pop("a"),
    "pop default": lambda d: d.pop("a", 5),
    "pop missing": lambda d: d.pop("none"),
    "pop missing default": lambda d: d.pop("none", 5),
    "pop missing default none": lambda d: d.pop("none", None),
    "pop unhashable": lambda d: d.pop([]),
    "pop nothing": lambda d: d.pop(),
    "pop too much": lambda d: d.pop("a", 1, 2),
    "popitem": lambda d: d.popitem(),
    "popitem in order": lambda d: [d.popitem() for _ in range(3)],
    "popitem put in last": lambda d: (
        d.pop("a"),
        d.update(z=1),
        d.update(a=2),
        d.popitem(),
        d.popitem(),
    ),
    "popitem of none": lambda d: (d.clear(), d.popitem()),
    "update mapping": lambda d: d.update({"z": 1, "a": 0}),
    "update pairs": lambda d: d.update([("z", 1), ["a", 0]]),
    "update generator": lambda d: d.update((k, 1) for k in "za"),
    "update keywords": lambda d: d.update(z=1, a=0, self=2, other=3),
    "update both": lambda d: d.update({"z": 1, "a": 0}, a=5),
    "update keys": lambda d: d.update(Keyed()),
    "update nothing": lambda d: d.update(),
    "update itself": lambda d: d.update(d),
    "update none": lambda d: d.update(None),
    "update number": lambda d: d.update(1),
    "update two": lambda d: d.update({}, {}),
    "update triple": lambda d: d.update([("x", 1, 2)]),
    "update up to an error": lambda d: d.update([("x", 1), 2, ("y", 3)]),
    "clear": lambda d: d.clear(),
    "clear and set": lambda d: (d.clear(), _set(d, "z", 1)),
    "delete in a loop": _delete_in_a_loop,
    "set in a loop": _set_in_a_loop,
    # Changing in place.
    "append": lambda d: d["b"].append(3),
    "append by get": lambda d: d.get("b").append(3),
    "append by values": lambda d: _append_to_all_lists(
        d, lambda d: d.values()
    ),
    "append by items": lambda d: _append_to_all_lists(
        d, lambda d: [value for _, value in d.items()]
    ),
    "nested set": lambda d: d["c"].update(x={"deep": [{}]}),
    "nested delete": lambda d: d["c"].popitem(),
    "reordered": lambda d: d["b"].reverse(),
    "kept reference": _keep_a_reference,
    "pop and put back": _pop_and_put_back,
}


# Their outcome is the same whatever the session holds.
LOOK_NOT_INSIDE = {
    "get nothing",
    "eq of no mapping",
    "ne of no mapping",
    "less than",
    "hash",
    "or pairs",
    "or none",
    "or reflected pairs",
    "ior none",
    "setdefault nothing",
    "pop nothing",
    "pop too much",
    "update nothing",
    "update none",
    "update number",
    "update two",
    "update triple",
}


def _outcome(method: Callable[[Any], Any], of: Any) -> Any:
    """Return the result, or what was raised."""
    try:
        return "returned", method(of)
    except KeyError as error:
        return KeyError, error.args
    except (TypeError, ValueError, RuntimeError) as error:
        # Of these the texts are Python's own and differ.
        return type(error)


@pytest.fixture(name="shared", scope="module", params=MODES)
def _shared(request, tmp_path_factory):
    """One application for the whole list: making one takes the longest."""
    folder = tmp_path_factory.mktemp("shared")
    url = f"sqlite:///{folder}/test.sqlite"
    world = World(url, request.param, clock=Clock(), table="sessions")

    @world.on("fill")
    def _(request):
        request.session.update(copy.deepcopy(CONTENT))
        return {}

    @world.on("get")
    def _(request):
        return list(request.session.items())

    yield world
    world.close()


@pytest.fixture(name="world")
def _world(make_world, mode):
    return make_world("sqlite", mode)


def _pairs(content: dict[str, Any]) -> list[list[Any]]:
    return [list(pair) for pair in content.items()]


@pytest.mark.parametrize("name", METHODS)
def test_as_a_dict(shared, name):
    """It returns and raises what dict does, and the next request sees it."""
    method, results = METHODS[name], []

    @shared.on("do")
    def _(request):
        results.append(_outcome(method, request.session))
        return {}

    plain = copy.deepcopy(CONTENT)
    expected = _outcome(method, plain)
    browser = shared.browser()
    browser.get("/fill")
    browser.get("/do")
    assert [expected] == results
    assert _pairs(plain) == browser.get("/get").json


@pytest.mark.parametrize("name", METHODS)
def test_as_a_dict_within_a_first_request(shared, name):
    """A visitor's very first request can do all this, too."""
    method, results = METHODS[name], []

    @shared.on("do")
    def _(request):
        request.session.update(copy.deepcopy(CONTENT))
        results.append(_outcome(method, request.session))
        return {}

    plain = copy.deepcopy(CONTENT)
    expected = _outcome(method, plain)
    browser = shared.browser()
    browser.get("/do")
    assert [expected] == results
    assert _pairs(plain) == browser.get("/get").json


@pytest.mark.parametrize("name", METHODS)
def test_vary_tells_that_the_answer_depends_on_the_cookie(shared, name):
    """Whatever looks inside, or changes, makes the answer vary by cookie."""

    @shared.on("do")
    def _(request):
        _outcome(METHODS[name], request.session)
        return {}

    browser = shared.browser()
    browser.get("/fill")
    response = browser.get("/do")
    expected = None if name in LOOK_NOT_INSIDE else "Cookie"
    assert expected == response.headers.get("Vary")


def test_every_method_of_a_mutable_mapping_is_tried():
    """The list above has each public method that a dict changes with."""
    names = {name.split()[0] for name in METHODS}
    methods = {name for name in dir(dict) if not name.startswith("_")}
    assert set() == methods - names - {"fromkeys"}


@pytest.mark.parametrize("name", ["copy", "or", "or reflected"])
def test_copies_are_plain_dicts(world, name):
    """What copies is a dict: it goes into JSON, and holds no session."""
    kinds = []

    @world.on("do")
    def _(request):
        kinds.append(type(METHODS[name](request.session | CONTENT)))
        kinds.append(type(METHODS[name](request.session)))
        return {}

    world.browser().get("/do")
    assert [dict, dict] == kinds


def test_vary_is_not_sent_for_a_session_left_alone(world):
    """An answer that does not depend on the session has no Vary."""

    @world.on("alone")
    def _(request):
        return repr(request.session)

    assert "Vary" not in world.browser().get("/alone").headers


def test_vary_is_added_to_the_views_own(world):
    """The view's own Vary stays, and Cookie is named once."""

    @world.on("own")
    def _(request):
        request.response.vary = ("Accept", "cookie")
        return len(request.session)

    assert "Accept, cookie" == world.browser().get("/own").headers["Vary"]


# -- ISession ----------------------------------------------------------


def test_isession_is_verified(world):
    """Class and object provide ISession, as zope.interface sees it."""

    @world.on("verify")
    def _(request):
        return verifyObject(ISession, request.session)

    assert verifyClass(ISession, LimitedSession)
    assert world.browser().get("/verify").json is True


def test_changed_needs_no_change(world):
    """changed() on an unchanged session writes nothing."""

    @world.on("fill")
    def _(request):
        request.session["a"] = 1
        return {}

    @world.on("changed")
    def _(request):
        request.session.changed()
        return {}

    browser = world.browser()
    browser.get("/fill")
    world.count()
    browser.get("/changed")
    assert ["SELECT"] == world.count()


def test_repr_shows_no_data_and_runs_no_sql(world):
    """The repr, also of the views, tells no content and does not load."""
    shown = []

    @world.on("show")
    def _(request):
        session = request.session
        shown.append(
            f"{session} {session!r} {session.keys()!r} {session.items()!r} "
            f"{session.values()!r} {[session]}"
        )
        return {}

    @world.on("show loaded")
    def _(request):
        request.session["canary key"] = "canary"
        return world.views["show"](request)

    browser = world.browser()
    browser.get("/show%20loaded")
    world.statements.clear()
    response = browser.get("/show")
    assert [] == world.statements
    assert [] == cookie_of(response)
    assert 2 == len(shown)
    assert "canary" not in "".join(shown)
    assert "<LimitedSession>" in shown[0]


# -- flash messages ----------------------------------------------------


@pytest.fixture(name="flash")
def _flash(world):
    """Return a function that calls a method in a request of one browser."""
    browser = world.browser()

    def call(method: str, *arguments: Any, **options: Any) -> Any:
        @world.on("flash")
        def _(request):
            return getattr(request.session, method)(*arguments, **options)

        return browser.get("/flash").json

    return call


def test_flash_returns_nothing(flash):
    """flash() returns None, as ISession says."""
    assert flash("flash", "one") is None


def test_flash_keeps_order_and_duplicates(flash):
    """Messages come out in the order they were put in, doubles too."""
    for message in ("one", "two", "one"):
        flash("flash", message)
    assert ["one", "two", "one"] == flash("pop_flash")


def test_flash_without_duplicates(flash):
    """With allow_duplicate=False a message is not put in again."""
    for message in ("one", "two", "one"):
        flash("flash", message, allow_duplicate=False)
    assert ["one", "two"] == flash("pop_flash")


def test_flash_duplicates_are_of_one_queue(flash):
    """allow_duplicate=False looks at its own queue only."""
    flash("flash", "one", "here")
    flash("flash", "one", "there", allow_duplicate=False)
    assert ["one"] == flash("peek_flash", "there")


def test_flash_duplicates_of_popped_messages(flash):
    """A message that was popped is no duplicate any more."""
    flash("flash", "one")
    flash("pop_flash")
    flash("flash", "one", "", allow_duplicate=False)
    assert ["one"] == flash("peek_flash")


def test_flash_queues_are_apart(flash):
    """Popping one queue leaves the others."""
    flash("flash", "default")
    flash("flash", "wrong", "error")
    assert ["wrong"] == flash("pop_flash", "error")
    assert [] == flash("pop_flash", "error")
    assert ["default"] == flash("pop_flash", queue="")


def test_flash_peek_leaves_messages(flash):
    """peek_flash() shows the messages, however often."""
    flash("flash", "one", queue="q")
    assert ["one"] == flash("peek_flash", "q")
    assert ["one"] == flash("peek_flash", queue="q")
    assert ["one"] == flash("pop_flash", "q")
    assert [] == flash("peek_flash", "q")


def test_flash_messages_are_json(flash):
    """A message may be anything that a session may hold."""
    message = {"text": "ü", "count": [1, None, True]}
    flash("flash", message)
    flash("flash", message, allow_duplicate=False)
    assert [message] == flash("pop_flash")


@pytest.mark.parametrize("method", ["peek_flash", "pop_flash"])
def test_flash_looking_for_none_makes_no_row(world, flash, method):
    """Asking for messages where there are none stores nothing."""
    assert [] == flash(method, "none")
    assert [] == world.rows()


def test_flash_put_in_and_popped_at_once_makes_no_row(world):
    """A message shown by the request that made it leaves nothing behind."""

    @world.on("both")
    def _(request):
        request.session.flash("one")
        return request.session.pop_flash()

    assert ["one"] == world.browser().get("/both").json
    assert [] == world.rows()


# -- CSRF --------------------------------------------------------------


@pytest.fixture(
    name="policy",
    params=[SessionCSRFStoragePolicy, LegacySessionCSRFStoragePolicy],
)
def _policy(request):
    return request.param


@pytest.fixture(name="guarded")
def _guarded(make_world, mode, policy):
    """An application whose every POST needs the token."""

    def configure(config):
        config.set_csrf_storage_policy(policy())
        config.set_default_csrf_options(require_csrf=True)

    world = make_world("sqlite", mode, configure=configure)
    world.views["token"] = get_csrf_token
    world.views["new"] = new_csrf_token
    world.views["own"] = lambda request: request.session.get_csrf_token()

    @world.on("post")
    def _(request):
        request.session["posted"] = True
        return {}

    @world.on("posted")
    def _(request):
        return "posted" in request.session

    return world


def _post(browser: Any, token: str | None, status: int) -> None:
    form = {} if token is None else {"csrf_token": token}
    browser.post("/post", form, status=status)


def test_csrf_post_with_the_token(guarded):
    """A form with the token of an earlier page is accepted."""
    browser = guarded.browser()
    _post(browser, browser.get("/token").json, 200)
    assert browser.get("/posted").json is True


def test_csrf_post_with_the_token_as_a_header(guarded):
    """Pyramid's header does as well as the form's field."""
    browser = guarded.browser()
    token = browser.get("/token").json
    browser.post("/post", headers={"X-CSRF-Token": token}, status=200)


def test_csrf_post_without_the_token(guarded):
    """A form without the token is refused, and changes nothing."""
    browser = guarded.browser()
    browser.get("/token")
    _post(browser, None, 400)
    assert browser.get("/posted").json is False


def test_csrf_post_with_somebody_elses_token(guarded):
    """The token of another visitor is refused."""
    browser = guarded.browser()
    browser.get("/token")
    _post(browser, guarded.browser().get("/token").json, 400)


def test_csrf_post_without_a_session(guarded):
    """Who has no session is refused, and gets none by the attempt."""
    browser = guarded.browser()
    _post(browser, "0" * 40, 400)
    assert [] == guarded.rows()


def test_csrf_token_stays(guarded):
    """Each page of a visitor has the same token, the session's own."""
    browser = guarded.browser()
    token = browser.get("/token").json
    assert isinstance(token, str)
    assert len(token) >= 32
    assert token == browser.get("/token").json
    assert token == browser.get("/own").json


def test_csrf_token_is_random(guarded):
    """Another visitor has another token."""
    first = guarded.browser().get("/token").json
    assert first != guarded.browser().get("/token").json


def test_csrf_new_token_replaces_the_old(guarded):
    """After new_csrf_token() the old token is refused."""
    browser = guarded.browser()
    old = browser.get("/token").json
    new = browser.get("/new").json
    assert old != new
    _post(browser, old, 400)
    _post(browser, new, 200)


def test_csrf_token_of_the_first_page_is_kept(guarded):
    """A token that a visitor's first page shows gets a row and a cookie."""
    browser = guarded.browser()
    response = browser.get("/token")
    assert 1 == len(cookie_of(response))
    assert 1 == len(guarded.rows())


# -- everything at once ------------------------------------------------

IDLE, TOUCH = 1000, 50
KEYS = st.sampled_from(["a", "b", "c", "ü \x00"])
QUEUES = st.sampled_from(["", "q"])
MESSAGES = st.sampled_from(["one", "two", {"three": 3}])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
# One thing that a view does, as a name and arguments; see `Does`.
THINGS = st.one_of(
    st.tuples(st.just("set"), KEYS, VALUES),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("append"), KEYS, VALUES),
    st.tuples(st.just("update"), st.dictionaries(KEYS, VALUES, max_size=3)),
    st.tuples(st.just("clear")),
    st.tuples(st.just("popitem")),
    st.tuples(st.just("flash"), MESSAGES, QUEUES, st.booleans()),
    st.tuples(st.just("pop_flash"), QUEUES),
    st.tuples(st.just("peek_flash"), QUEUES),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("invalidate")),
)


class Model(dict[str, Any]):
    """What a session is to whoever uses it: a dict, and flash queues.

    :ivar stored: there is a row.
    """

    stored = False

    def flash(self, message: Any, queue: str, allow_duplicate: bool) -> None:
        """Append to a queue."""
        messages = self.setdefault("_f_" + queue, [])
        if allow_duplicate or message not in messages:
            messages.append(message)

    def pop_flash(self, queue: str) -> Any:
        """Empty a queue."""
        return self.pop("_f_" + queue, [])

    def peek_flash(self, queue: str) -> Any:
        """Look at a queue."""
        return self.get("_f_" + queue, [])

    def rotate(self) -> None:
        """Change nothing that can be seen from inside."""

    def invalidate(self) -> None:
        """Begin anew."""
        self.clear()
        self.stored = False


class Does:
    """What a view may do, with the session or with its model."""

    def set(self, it: Any, key: str, value: Any) -> None:
        """Put a value in."""
        it[key] = value

    def get(self, it: Any, key: str) -> Any:
        """Take a look at a value."""
        return it.get(key, "none"), key in it, len(it)

    def delete(self, it: Any, key: str) -> Any:
        """Remove a value if it is there."""
        return it.pop(key, None)

    def append(self, it: Any, key: str, value: Any) -> None:
        """Change a nested list, deep down, in place."""
        if not isinstance(it.get(key), dict):
            it[key] = {}
        it[key].setdefault("list", [])
        if isinstance(it[key]["list"], list):
            it[key]["list"].append(value)

    def update(self, it: Any, other: dict[str, Any]) -> None:
        """Put several in."""
        it.update(other)

    def popitem(self, it: Any) -> Any:
        """Remove what was put in last."""
        return it.popitem() if it else None

    def __call__(self, it: Any, name: str, *arguments: Any) -> Any:
        """Do it, with values of its own: nobody shares them."""
        method = getattr(self, name, None)
        values = copy.deepcopy(arguments)
        if method is None:
            return copy.deepcopy(getattr(it, name)(*values))
        return copy.deepcopy(method(it, *values))


class Browser(RuleBasedStateMachine):
    """One browser and one plain dict do the same for a while."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(
            f"sqlite:///{self.folder.name}/test.sqlite",
            mode,
            clock=Clock(),
            table="sessions",
            settings={
                "limitedsession.idle_timeout": IDLE,
                "limitedsession.touch_interval": TOUCH,
            },
        )
        self.browser = self.world.browser()
        self.model = Model()
        self.does = Does()

    def teardown(self) -> None:
        """Close everything."""
        self.world.close()
        self.folder.cleanup()

    def look(self) -> Any:
        """Compare the next request with the model; return `ended`."""
        seen: list[Any] = []

        @self.world.on("look")
        def _(request):
            session = request.session
            seen.append((list(session.items()), session.new, session.ended))
            return {}

        self.browser.get("/look")
        items, new, ended = seen[0]
        assert list(self.model.items()) == items
        assert self.model.stored is not new
        assert int(self.model.stored) == self.living_rows()
        return ended

    def living_rows(self) -> int:
        """Return how many rows could still be loaded."""
        now = int(self.world.clock())
        limits = self.world.factory.settings.policy.profiles.default.limits
        return sum(
            limits.verdict(row.created_at, row.updated_at, now) == "active"
            for row in self.world.rows()
        )

    @rule(
        things=st.lists(THINGS, min_size=1, max_size=4),
        end=st.sampled_from(["commit", "commit", "commit", "raise", "doom"]),
    )
    def use(self, things: list[Any], end: str) -> None:
        """One request does some things, and is kept or not."""
        model = copy.deepcopy(self.model)
        expected = [self.does(model, *thing) for thing in things]
        results: list[Any] = []

        @self.world.on("do")
        def _(request):
            session = request.session
            results.extend(self.does(session, *thing) for thing in things)
            assert list(model.items()) == list(session.items())
            if end == "doom":
                request.tm.doom()
            if end == "raise":
                raise HTTPNotFound
            return {}

        self.browser.get("/do", status=404 if end == "raise" else 200)
        assert expected == results
        if end == "commit":
            model.stored = model.stored or bool(model)
            self.model = model
        elif ("invalidate",) in things:
            # An end holds, whatever becomes of the rest.
            self.model = Model()
        assert self.look() is None

    @rule(seconds=st.sampled_from([1, TOUCH - 1, TOUCH, TOUCH + 1, IDLE - 1]))
    def come_back(self, seconds: int) -> None:
        """Less than the idle limit after the last use it is all there."""
        self.world.clock.pass_(seconds)
        assert self.look() is None

    @rule(seconds=st.sampled_from([IDLE + TOUCH, 10 * IDLE]))
    def come_back_late(self, seconds: int) -> None:
        """After the idle limit, and the grace of touching, all is gone."""
        self.world.clock.pass_(seconds)
        expected = "idle" if self.model.stored else None
        self.model = Model()
        assert expected == self.look()


@pytest.mark.parametrize("of_mode", ["joined", "separate"])
def test_p2_p4_a_browser_sees_what_a_dict_would_hold(of_mode):
    """P2, P4, P7: whatever requests do, the next one sees the model."""
    run_state_machine_as_test(
        lambda: Browser(of_mode),
        settings=settings(
            max_examples=15,
            stateful_step_count=15,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
