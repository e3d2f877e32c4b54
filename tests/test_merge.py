"""Two changes of one session become one: `store.merge`, rule by rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_limitedsession.store import merge

CSRF = "_csrft_"
QUEUE = "_f_"


def _merge(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    return merge(base, mine, theirs, cleared=False)


def _exactly(data: Any) -> str:
    """Tell apart what Python finds equal: True, 1 and 1.0."""
    if isinstance(data, dict):
        pairs = sorted((key, _exactly(data[key])) for key in data)
        return f"dict {pairs}"
    if isinstance(data, list):
        return f"list {[_exactly(value) for value in data]}"
    return f"{type(data).__name__} {data!r}"


# -- a key at a time ---------------------------------------------------


@pytest.mark.parametrize(("mine", "theirs"), [(5, 7), (7, 5), (7, 7)])
def test_p2_of_two_times_of_the_expiry_tween_the_later_one(mine, theirs):
    """P2: both requests were activity; that is no conflict."""
    seen = "_limitedsession_seen"
    merged, conflicts = _merge(
        {seen: 1, "a": 1}, {seen: mine, "a": 1}, {seen: theirs, "a": 2}
    )
    assert ({seen: 7, "a": 2}, []) == (merged, conflicts)


@pytest.mark.parametrize("mine", ["7", True, None, [7]])
def test_p2_a_damaged_time_is_mine(mine):
    """P2: what is no time is merged as anything else."""
    seen = "_limitedsession_seen"
    merged, _ = _merge({}, {seen: mine}, {seen: 5})
    assert {seen: mine} == merged


def test_p2_unchanged_by_me_is_theirs():
    """P2: a key that I left alone is as they left it: set, new, deleted."""
    base = {"set": 1, "deleted": 1, "stays": 1}
    theirs = {"set": 2, "stays": 1, "new": 3}
    assert (theirs, []) == _merge(base, dict(base), theirs)


def test_p2_changed_by_me_is_mine():
    """P2: a key that only I changed or added is mine."""
    base = {"set": 1, "stays": 1}
    mine = {"set": 2, "stays": 1, "new": 3}
    assert (mine, []) == _merge(base, mine, dict(base))


def test_p2_deleted_by_me_is_deleted():
    """P2: a key that only I deleted is gone."""
    base = {"a": 1, "b": 2}
    assert ({"b": 2}, []) == _merge(base, {"b": 2}, dict(base))


def test_p2_deleted_by_me_and_changed_by_them_is_deleted():
    """P2: my deletion wins over their change, and is a conflict."""
    assert ({}, ["a"]) == _merge({"a": 1}, {}, {"a": 2})


def test_p2_changed_by_me_and_deleted_by_them_is_mine():
    """P2: my change wins over their deletion, and is a conflict."""
    assert ({"a": 2}, ["a"]) == _merge({"a": 1}, {"a": 2}, {})


def test_p2_deleted_by_both_is_deleted():
    """P2: what both deleted is gone; both changed it."""
    assert ({"b": 1}, ["a"]) == _merge({"a": 1, "b": 1}, {"b": 1}, {"b": 1})


def test_p2_changed_by_both_is_mine():
    """P2: of a key that both changed the later writer's value stays."""
    assert ({"a": 2}, ["a"]) == _merge({"a": 1}, {"a": 2}, {"a": 3})


def test_p2_added_by_both_is_mine():
    """P2: the same goes for a key that both added."""
    assert ({"a": 2}, ["a"]) == _merge({}, {"a": 2}, {"a": 3})


def test_equal_values_on_both_sides_are_a_conflict():
    """Two increments from 1 to 2 are one lost: a conflict, not agreement."""
    assert ({"a": 2}, ["a"]) == _merge({"a": 1}, {"a": 2}, {"a": 2})


def test_conflicts_are_sorted():
    """The keys of a conflict come in order: texts of errors are stable."""
    both = dict.fromkeys("cab", 2)
    _, conflicts = _merge({}, both, both)
    assert ["a", "b", "c"] == conflicts


def test_nested_values_are_one_value():
    """The merge is by top-level key: a nested value is taken as a whole."""
    base = {"cart": {"x": 1, "y": 1}}
    mine = {"cart": {"x": 2, "y": 1}}
    theirs = {"cart": {"x": 1, "y": 2}}
    assert (mine, ["cart"]) == _merge(base, mine, theirs)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [{"deep": [x]}]])
@pytest.mark.parametrize(
    ("before", "after"),
    [(True, 1), (1, True), (1, 1.0), (1.0, 1), (True, 1.0), (0, False)],
)
def test_true_one_and_one_point_zero_differ(before, after, wrap):
    """A change from True to 1 or 1.0 is a change, also deep inside."""
    merged, _ = _merge({"a": wrap(before)}, {"a": wrap(after)}, {"b": 1})
    assert _exactly({"a": wrap(after), "b": 1}) == _exactly(merged)


@pytest.mark.parametrize(("before", "after"), [(True, 1), (1, 1.0)])
def test_their_change_from_true_to_one_counts(before, after):
    """Of theirs, such a change is a change as well."""
    base = {"a": before}
    merged, conflicts = _merge(base, {"a": 5}, {"a": after})
    assert ({"a": 5}, ["a"]) == (merged, conflicts)
    kept, _ = _merge(base, {"a": before, "b": 1}, {"a": after})
    assert type(after) is type(kept["a"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1], [1, 2]),
        ([1, 2], [2, 1]),
        ({"x": 1}, {"y": 1}),
        ({"x": None}, {}),
        ([], {}),
        (None, False),
        ("1", 1),
        ("", None),
    ],
)
def test_these_are_changes(before, after):
    """Length, order, keys, kind: whatever JSON would write otherwise."""
    mine, theirs = {"a": after}, {"a": before, "b": 1}
    assert {"a": after, "b": 1} == _merge({"a": before}, mine, theirs)[0]


def test_another_order_of_keys_is_no_change():
    """A nested dict with its keys in another order is the same."""
    base = {"a": {"x": 1, "y": 2}}
    mine = {"a": {"y": 2, "x": 1}}
    assert ({"a": 5}, []) == _merge(base, mine, {"a": 5})


def test_none_is_a_value():
    """A key set to None is not a key deleted."""
    assert ({"a": None}, []) == _merge({"a": 1}, {"a": None}, {"a": 1})


# -- clear() -----------------------------------------------------------


def test_clear_is_mine_only():
    """After clear() nothing of theirs is left, not even what is new."""
    base = {"a": 1, "b": 1}
    theirs = {"a": 2, "b": 1, "new": 1, QUEUE: ["new"], CSRF: "new"}
    merged, _ = merge(base, {"mine": 1}, theirs, cleared=True)
    assert {"mine": 1} == merged


def test_clear_conflicts_with_what_they_changed():
    """What they changed meanwhile, and clear() removes, is a conflict."""
    base = {"a": 1, "b": 1, "gone": 1}
    theirs = {"a": 2, "b": 1, "new": 1}
    _, conflicts = merge(base, {}, theirs, cleared=True)
    assert ["a", "gone", "new"] == conflicts


def test_clear_of_what_they_left_alone_is_no_conflict():
    """If they changed nothing, clear() conflicts with nothing."""
    base = {"a": 1}
    assert ({}, []) == merge(base, {}, dict(base), cleared=True)


def test_clear_does_not_conflict_with_flash_and_csrf():
    """A message or a CSRF token of theirs replays no request."""
    theirs = {QUEUE: ["new"], QUEUE + "q": ["new"], CSRF: "new"}
    assert ({}, []) == merge({}, {}, theirs, cleared=True)


def test_clear_leaves_what_i_put_in_afterwards():
    """What I flash after clear() is kept, without their messages."""
    mine = {QUEUE: ["mine"], CSRF: "mine"}
    theirs = {QUEUE: ["old", "theirs"], CSRF: "theirs"}
    base = {QUEUE: ["old"]}
    assert (mine, []) == merge(base, mine, theirs, cleared=True)


# -- the CSRF token ----------------------------------------------------


def test_a_csrf_token_that_both_made_is_theirs():
    """If both made a first token theirs stays: it is in a page by now."""
    assert ({CSRF: "theirs"}, []) == _merge(
        {}, {CSRF: "mine"}, {CSRF: "theirs"}
    )


def test_a_csrf_token_that_both_replaced_is_theirs():
    """The same if both replaced an older one."""
    assert ({CSRF: "theirs"}, []) == _merge(
        {CSRF: "old"}, {CSRF: "mine"}, {CSRF: "theirs"}
    )


def test_a_csrf_token_that_i_made_is_mine():
    """If only I made one, it is mine."""
    assert ({CSRF: "mine", "a": 1}, []) == _merge({}, {CSRF: "mine"}, {"a": 1})


def test_a_csrf_token_that_i_replaced_is_mine():
    """If only I replaced it, it is mine."""
    old = {CSRF: "old"}
    assert ({CSRF: "mine"}, []) == _merge(old, {CSRF: "mine"}, dict(old))


def test_a_csrf_token_that_they_made_is_theirs():
    """If only they made one, it is theirs."""
    assert ({CSRF: "theirs"}, []) == _merge({}, {}, {CSRF: "theirs"})


def test_a_csrf_token_that_they_deleted_and_i_made_is_mine():
    """If they deleted the old one, mine stays: there is one."""
    assert ({CSRF: "mine"}, []) == _merge({CSRF: "old"}, {CSRF: "mine"}, {})


def test_a_csrf_token_that_i_deleted_is_gone():
    """If only I deleted it, it is gone."""
    old = {CSRF: "old"}
    assert ({}, []) == _merge(old, {}, dict(old))


# -- flash queues ------------------------------------------------------


@pytest.mark.parametrize("queue", [QUEUE, QUEUE + "error"])
@pytest.mark.parametrize(
    ("base", "mine", "theirs", "expected"),
    [
        pytest.param([], ["m"], ["t"], ["t", "m"], id="both flash first"),
        pytest.param(
            ["b"], ["b", "m"], ["b", "t"], ["b", "t", "m"], id="both flash"
        ),
        pytest.param([], ["m"], [], ["m"], id="I flash first"),
        pytest.param([], [], ["t"], ["t"], id="they flash first"),
        pytest.param(["b"], ["b"], ["b", "t"], ["b", "t"], id="they flash"),
        pytest.param(["b"], [], ["b", "t"], ["t"], id="I pop, they flash"),
        pytest.param(["b"], ["b", "m"], [], ["m"], id="they pop, I flash"),
        pytest.param(["b"], [], [], [], id="both pop"),
        pytest.param(["b"], [], ["b"], [], id="I pop"),
        pytest.param(["b"], ["b"], [], [], id="they pop"),
        pytest.param(["b"], [], ["t"], ["t"], id="both pop, they flash"),
        pytest.param(["b"], ["m"], [], ["m"], id="both pop, I flash"),
        pytest.param(
            ["b"], ["m"], ["t"], ["t", "m"], id="both pop, both flash"
        ),
        pytest.param(
            ["b"], ["m"], ["b", "t"], ["t", "m"], id="I pop and flash"
        ),
        pytest.param(
            ["b"], ["b", "m"], ["t"], ["t", "m"], id="they pop and flash"
        ),
        pytest.param([], ["s"], ["s"], ["s", "s"], id="both flash the same"),
        pytest.param(
            ["a", "b"], ["b"], ["a", "b", "t"], ["t", "b"], id="I pop one"
        ),
        pytest.param(
            [1], [1, "m"], [True, "t"], [True, "t", "m"], id="1 and True"
        ),
    ],
)
def test_p2_flash_queues(queue, base, mine, theirs, expected):
    """P2: theirs, plus what I pushed, minus what I popped; no conflict."""
    contents = [
        {queue: messages} if messages else {}
        for messages in (base, mine, theirs)
    ]
    merged, conflicts = _merge(*contents)
    assert expected == merged.get(queue, [])
    assert [] == conflicts


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "expected"),
    [
        (["b"], ["b"], [], ["b"]),
        (["b"], ["b"], ["b"], ["b"]),
        (["b"], ["b"], ["b", "t"], ["t", "b"]),
        (["b"], ["b", "m"], ["t"], ["t", "b", "m"]),
        (["b"], [], ["b", "t"], ["t"]),
        ([], ["m"], ["t"], ["t", "m"]),
    ],
)
def test_p2_a_popped_queue_holds_what_was_pushed_since(
    base, mine, theirs, expected
):
    """P2: a message equal to one that I popped before is a new message."""
    contents = [
        {QUEUE: messages} if messages else {}
        for messages in (base, mine, theirs)
    ]
    merged, _ = merge(*contents, cleared=False, popped=frozenset({QUEUE}))
    assert expected == merged.get(QUEUE, [])


def test_an_emptied_queue_leaves_no_key():
    """After both popped there is no empty list in the content."""
    base = {QUEUE: ["b"]}
    assert ({"a": 1}, []) == _merge(base, {}, {"a": 1})
    assert ({"a": 1}, []) == _merge(base, {}, {"a": 1, QUEUE: ["b"]})


def test_queues_are_merged_apart():
    """What happens to one queue leaves the others."""
    base = {QUEUE: ["a"], QUEUE + "q": ["b"]}
    mine = {QUEUE: ["a"]}
    theirs = {QUEUE: ["a", "t"], QUEUE + "q": ["b"]}
    assert ({QUEUE: ["a", "t"]}, []) == _merge(base, mine, theirs)


@pytest.mark.parametrize(
    ("base", "mine", "theirs"),
    [
        ("text", "mine", ["t"]),
        (["b"], "mine", ["b", "t"]),
        (["b"], ["b", "m"], "text"),
        ({"x": 1}, ["m"], {"x": 2}),
    ],
)
def test_what_is_no_queue_under_a_queues_name_is_mine(base, mine, theirs):
    """An application's own value there is merged as any other: mine."""
    merged, _ = _merge({QUEUE: base}, {QUEUE: mine}, {QUEUE: theirs})
    assert {QUEUE: mine} == merged


# -- whatever is in them -----------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(0, 2) | st.just(1.0)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=4,
)


def _contents(keys: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys), VALUES)


PLAIN = _contents("abc")
# With the keys that are merged in a way of their own.
SPECIAL = st.builds(
    lambda plain, queues, token: plain | queues | token,
    PLAIN,
    st.dictionaries(
        st.sampled_from([QUEUE, QUEUE + "q"]),
        st.lists(st.sampled_from(["one", "two"]), min_size=1, max_size=3),
    ),
    st.dictionaries(st.just(CSRF), st.sampled_from(["x", "y"])),
)
quick = settings(deadline=None, database=None)


@given(SPECIAL, SPECIAL)
@quick
def test_p2_unchanged_mine_gives_theirs(base, theirs):
    """P2: if I changed nothing the result is theirs, whatever that is."""
    merged, conflicts = _merge(base, copy.deepcopy(base), theirs)
    assert _exactly(theirs) == _exactly(merged)
    assert [] == conflicts


@given(SPECIAL, SPECIAL)
@quick
def test_p2_unchanged_theirs_gives_mine(base, mine):
    """P2: if they changed nothing the result is mine, whatever that is."""
    merged, conflicts = _merge(base, mine, copy.deepcopy(base))
    assert _exactly(mine) == _exactly(merged)
    assert [] == conflicts


@given(_contents("abcdef"), _contents("abc"), _contents("def"))
@quick
def test_p2_disjoint_keys_are_both_kept(base, mine, theirs):
    """P2: whoever changes other keys than the other loses nothing."""
    my_base = {key: base[key] for key in base if key in "abc"}
    their_base = {key: base[key] for key in base if key in "def"}
    merged, conflicts = _merge(base, mine | their_base, my_base | theirs)
    assert _exactly(mine | theirs) == _exactly(merged)
    assert [] == conflicts


@given(SPECIAL, SPECIAL, SPECIAL)
@quick
def test_p2_each_key_is_as_mine_or_as_theirs(base, mine, theirs):
    """P2: no plain key gets a value, or vanishes, out of nowhere."""
    merged, _ = _merge(base, mine, theirs)
    for key in "abc":
        value = _exactly(merged.get(key, "none"))
        assert value in {
            _exactly(mine.get(key, "none")),
            _exactly(theirs.get(key, "none")),
        }


@given(SPECIAL, SPECIAL, SPECIAL, st.booleans())
@quick
def test_merging_changes_none_of_the_three(base, mine, theirs, cleared):
    """The contents handed in are the same afterwards."""
    given_ = [base, mine, theirs]
    before = copy.deepcopy(given_)
    merge(base, mine, theirs, cleared=cleared)
    assert before == given_


@given(SPECIAL, SPECIAL, SPECIAL)
@quick
def test_conflicts_are_what_both_changed(base, mine, theirs):
    """A conflict is a plain key that both changed, and each of those is."""
    _, conflicts = _merge(base, mine, theirs)
    expected = [
        key
        for key in "abc"
        if _exactly(base.get(key, "none")) != _exactly(mine.get(key, "none"))
        and _exactly(base.get(key, "none"))
        != _exactly(theirs.get(key, "none"))
    ]
    assert expected == conflicts


@given(SPECIAL, SPECIAL, SPECIAL)
@quick
def test_after_clear_all_is_mine(base, mine, theirs):
    """After clear() the result is mine, whatever theirs is."""
    merged, _ = merge(base, mine, theirs, cleared=True)
    assert _exactly(mine) == _exactly(merged)


# Each message is another one: two equal ones cannot be told apart.
DOINGS = st.lists(st.sampled_from(["flash", "pop"]), max_size=4)


def _do(doings: list[str], queue: list[str], who: str) -> list[str]:
    queue = list(queue)
    for number, doing in enumerate(doings):
        if doing == "pop":
            queue.clear()
        else:
            queue.append(f"{who} {number}")
    return queue


def _as_content(queue: list[str]) -> dict[str, Any]:
    return {QUEUE: queue} if queue else {}


@given(st.integers(0, 3), DOINGS, DOINGS)
@quick
def test_p2_no_message_is_lost_and_none_comes_twice(size, my, their):
    """P2: what either pushed is there once; what either popped is not."""
    base = [f"base {number}" for number in range(size)]
    mine, theirs = _do(my, base, "mine"), _do(their, base, "theirs")
    contents = map(_as_content, (base, mine, theirs))
    merged = _merge(*contents)[0].get(QUEUE, [])
    pushed = {*mine, *theirs} - {*base}
    left = {*mine} & {*theirs} & {*base}
    assert pushed | left == {*merged}
    assert len(merged) == len({*merged})


@given(st.integers(0, 3), DOINGS, DOINGS)
@quick
def test_p2_messages_stay_in_order(size, my, their):
    """P2: what I pushed, and what they pushed, come out in their order."""
    base = [f"base {number}" for number in range(size)]
    mine, theirs = _do(my, base, "mine"), _do(their, base, "theirs")
    contents = map(_as_content, (base, mine, theirs))
    merged = _merge(*contents)[0].get(QUEUE, [])
    for side in (mine, theirs):
        kept = [message for message in side if message in merged]
        assert kept == [message for message in merged if message in side]
