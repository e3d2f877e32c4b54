"""``encrypt``: what is stored can be read with the browser's token only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyramid.exceptions import ConfigurationError

from pyramid_limitedsession import (
    SessionConflict,
    SessionOverflowError,
    SessionUnreadable,
)
from pyramid_limitedsession.doctor.sqlfacts import look_at_rows
from pyramid_limitedsession.errors import UnreadableDataError
from pyramid_limitedsession.layout import Layout, names_of
from pyramid_limitedsession.sealing import MARK, Encrypting, Plain
from pyramid_limitedsession.serializers import JSONSerializer
from pyramid_limitedsession.settings import read_settings
from pyramid_limitedsession.tokens import fingerprint, key_of
from tests.apps import START, older_than
from tests.threads import same_session

PAGE = Path(__file__).parent.parent / "docs" / "encryption.rst"
CANARY = "canary-3b8e"
TOKEN = "T" * 43
OTHER_TOKEN = "U" * 43
LEGACY = "feedfacecafebeef0123456789abcdef"
OLD_KEY, NEW_KEY = "old-" * 8, "new-" * 8
ON = {"limitedsession.encrypt": "true"}
OFF = {"limitedsession.encrypt": "false"}
ONLY = {"limitedsession.encrypt": "only"}
TEXT = '{"a":1}'
# That text, encrypted for TOKEN; with NEW_KEY; the nonce is 0, 1, 2 ...
GOOD = "$pls1$AAECAwQFBgcICQoLc26cOn8HwzDbE0R499gnrMlx-0cS-xI="
GOOD_WITH_KEY = "$pls1$AAECAwQFBgcICQoLoInDKXQmK9xqVsms8MlbeWNivnux3RA="


def with_keys(*keys, encrypt="true"):
    """Return settings with a key ring."""
    return {
        "limitedsession.encrypt": encrypt,
        "limitedsession.encryption_keys": "\n".join(keys),
    }


def add_views(world):
    """Add what the tests ask for."""

    @world.on("set")
    def _(request):
        request.session.update(request.params)
        return {}

    @world.on("get")
    def _(request):
        return [dict(request.session), request.session.ended]

    @world.on("login")
    def _(request):
        request.session["auth.userid"] = request.params["who"]
        return {}

    @world.on("rotate")
    def _(request):
        request.session.rotate()
        return {}

    @world.on("out")
    def _(request):
        request.session.invalidate()
        return {}

    @world.on("late")
    def _(request):
        request.session.get("a")
        world.other.get(world.between)
        request.session["late"] = "yes"
        if "rotate" in request.params:
            request.session.rotate()
        return {}

    return world


@pytest.fixture(name="make")
def _make(make_world_with):
    """Return a function that makes worlds that encrypt."""
    return make_world_with(ON, add_views)


@pytest.fixture(name="small")
def _small(make):
    """One where database and mode make no difference."""
    return make()


@pytest.fixture(name="sealed")
def _sealed(make, database, mode):
    """One on each database, in each mode."""
    return make(database, mode)


def again(world, make_world, over=ON, **options):
    """Return another application, with other settings, on the same table."""
    return add_views(
        make_world(
            mode=world.mode, table=world.table.name, settings=over, **options
        )
    )


def data_of(world):
    """Return what the only row holds."""
    (row,) = world.rows()
    return str(row.data)


def put(world, data, token=TOKEN, **values):
    """Store a row with such data; return a browser that has its token."""
    row = {
        "session_id": key_of(token),
        "data": data,
        "version": 1,
        "created_at": START,
        "updated_at": START,
    }
    world.execute(world.table.insert(), row | values)
    browser = world.browser()
    browser.set_cookie("session", token)
    return browser


def read(browser):
    """Return what is in the session of a browser."""
    return browser.get("/get").json[0]


def token_of(browser):
    """Return the token of a browser; WebTest quotes what it is given."""
    return browser.cookies["session"].strip('"')


def opened(world, browser, sealer=Encrypting()):  # noqa: B008
    """Return the content of the only row, with the token of a browser."""
    return json.loads(sealer.open(data_of(world), token_of(browser)))


def is_refused(sealer, stored, token=TOKEN):
    """Say whether what is stored is unreadable."""
    try:
        JSONSerializer().loads(sealer.open(stored, token))
    except UnreadableDataError:
        return True
    return False


# -- the format --------------------------------------------------------


def derived(token, salt):
    """Return HKDF-SHA256 as RFC 5869 has it, of 32 bytes."""
    extracted = hmac.digest(salt or bytes(32), token.encode(), "sha256")
    info = b"pyramid_limitedsession data 1"
    return hmac.digest(extracted, info + b"\x01", "sha256")


@pytest.mark.parametrize("keys", [(), (NEW_KEY, OLD_KEY)])
def test_the_format(keys):
    """Nonce, ciphertext, tag; HKDF of the token; bound to the row's key."""
    stored = Encrypting(keys).seal(TEXT, TOKEN)
    assert stored.startswith("$pls1$")
    raw = base64.urlsafe_b64decode(stored.removeprefix("$pls1$"))
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    bound = b"$pls1$2::" + digest.encode()
    cipher = AESGCM(derived(TOKEN, keys[0].encode() if keys else b""))
    assert TEXT.encode() == cipher.decrypt(raw[:12], raw[12:], bound)


@pytest.mark.parametrize(
    ("keys", "stored"),
    [
        ((), GOOD),
        ((NEW_KEY,), GOOD_WITH_KEY),
    ],
)
def test_known_answers(keys, stored):
    """What a release has written is read by those to come."""
    assert TEXT == Encrypting(keys).open(stored, TOKEN)


@given(st.text(), st.sampled_from([(), (NEW_KEY,), (NEW_KEY, OLD_KEY)]))
@example("", ())
@example("$pls1$", ())
def test_any_text_comes_back(text, keys):
    """And its size was known before: bytes as stored."""
    sealer = Encrypting(keys)
    stored = sealer.seal(text, TOKEN)
    assert text == sealer.open(stored, TOKEN)
    assert sealer.size(text) == len(stored.encode())
    assert stored.isascii()


@settings(max_examples=300)
@given(st.data(), st.text(max_size=30), st.booleans())
def test_any_flipped_bit_is_refused(data, text, is_strict):
    """Also those that base64 ignores, and those of the mark."""
    sealer = Encrypting(is_strict=is_strict)
    raw = bytearray(sealer.seal(json.dumps({"a": text}), TOKEN).encode())
    assert not is_refused(sealer, raw.decode())
    place = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[place // 8] ^= 1 << place % 8
    assert is_refused(sealer, raw.decode("latin-1"))


@given(st.integers(0, 200), st.text(max_size=4))
def test_cut_or_longer_is_refused(most, more):
    """So is what somebody has appended, even what base64 ignores."""
    stored = Encrypting().seal(TEXT, TOKEN)
    if most < len(stored):
        assert is_refused(Encrypting(), stored[:most])
    if more:
        assert is_refused(Encrypting(), stored + more)


@given(st.text(), st.booleans())
def test_garbage_behind_the_mark_is_refused(garbage, is_encoded):
    """Whatever it is, it is unreadable, and nothing else is raised."""
    if is_encoded:
        raw = garbage.encode()
        garbage = base64.urlsafe_b64encode(raw).decode()
    assert is_refused(Encrypting(), MARK + garbage)


def test_the_same_text_is_never_stored_alike():
    """Nobody sees that a session has gone back to what it was."""
    sealer = Encrypting()
    assert 100 == len({sealer.seal(TEXT, TOKEN) for _ in range(100)})


def test_with_another_token_it_is_refused():
    """The data of one row is nothing in another."""
    stored = Encrypting().seal(TEXT, OTHER_TOKEN)
    assert is_refused(Encrypting(), stored)


def test_an_error_takes_no_secrets_along():
    """Neither in its context nor in the frames of its traceback."""
    sealer = Encrypting((NEW_KEY, OLD_KEY))
    stored = Encrypting(("else" * 8,)).seal(json.dumps(CANARY), TOKEN)
    with pytest.raises(UnreadableDataError) as caught:
        sealer.open(stored, TOKEN)
    assert caught.value.__context__ is None
    frames = []
    traceback = caught.value.__traceback__.tb_next
    while traceback:
        # Texts of the test's own are no Secret.
        values = traceback.tb_frame.f_locals.items()
        frames += [repr(value) for name, value in values if name != "token"]
        traceback = traceback.tb_next
    assert frames
    keys = [derived(TOKEN, key.encode()) for key in (NEW_KEY, OLD_KEY)]
    for secret in (CANARY, NEW_KEY, OLD_KEY, *map(repr, keys)):
        assert not [frame for frame in frames if secret in frame]


# -- settings ----------------------------------------------------------


def test_off_is_the_default():
    """What is stored is as it was."""
    sealer = read_settings({}).policy.sealer
    assert TEXT == sealer.seal(TEXT, TOKEN)
    assert len(TEXT) == sealer.size(TEXT)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ON | {"limitedsession.serializer": "null"},
            "limitedsession.encrypt cannot be on with "
            "limitedsession.serializer = null: what is encrypted is no JSON; "
            "say it like 'json'",
        ),
        (
            {"limitedsession.encryption_keys": NEW_KEY},
            "limitedsession.encryption_keys encrypts nothing unless "
            "limitedsession.encrypt is on; say it like 'true', or 'false' if "
            "it was on before, and rows are still to be read",
        ),
        (
            with_keys(NEW_KEY, "short-and-secret"),
            "limitedsession.encryption_keys cannot be these keys (of at "
            "least 32 characters each, separated by blanks or lines); say "
            "it like 'ThirtyTwoCharactersOrMoreOfRandomness'",
        ),
        (
            {"limitedsession.encrypt": "sometimes"},
            "limitedsession.encrypt cannot be 'sometimes'; say it like 'true'",
        ),
    ],
)
def test_p10_contradictions_do_not_start(given, told):
    """P10: one clear error, which shows no key."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings(given)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    assert NEW_KEY not in str(caught.value)


def test_no_repr_shows_a_key():
    """Of settings, policy and sealer."""
    found = read_settings(with_keys(NEW_KEY, OLD_KEY))
    shown = f"{found!r} {found.policy!r} {found.policy.sealer!r}"
    assert NEW_KEY not in shown
    assert OLD_KEY not in shown


WITHOUT = """
import json, sys
sys.modules["cryptography"] = None
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from tests.apps import Clock
from webtest import TestApp

def app(**more):
    settings = json.loads(sys.argv[1]) | more
    with Configurator(settings=settings) as config:
        config.include("pyramid_limitedsession")
        config.set_session_clock(Clock())
        config.add_route("get", "/get")
        config.add_view(
            lambda request: [dict(request.session), request.session.ended],
            route_name="get", renderer="json",
        )
        return TestApp(config.make_wsgi_app())

try:
    app(**{"limitedsession.encrypt": "true"})
except ConfigurationError as error:
    print(error)
browser = app()
browser.set_cookie("session", sys.argv[2])
print(browser.get("/get").json)
"""


def test_without_the_package(small):
    """It does not start with encrypt on; with it off, rows are unreadable."""
    browser = small.browser()
    browser.get(f"/set?a={CANARY}")
    given = {
        "limitedsession.sqlalchemy.url": small.url,
        "limitedsession.table_name": small.table.name,
    }
    before = small.rows()
    done = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT),
            *(json.dumps(given), browser.cookies["session"]),
        ],
        cwd=PAGE.parent.parent,
        capture_output=True,
        text=True,
    )
    assert (
        "limitedsession.encrypt needs the package cryptography; install it "
        "with 'pip install \"pyramid_limitedsession[crypto]\"'" in done.stdout
    )
    assert done.stdout.endswith("[{}, 'unreadable']\n")
    (line,) = done.stderr.splitlines()
    assert (
        "it is encrypted, and the package cryptography, of the extra "
        "'crypto', is not installed" in line
    )
    assert before == small.rows()


# -- a session's life --------------------------------------------------


def test_a_session_lives_as_without(sealed):
    """Made, read, changed, rotated and ended; the row tells nothing."""
    browser = sealed.browser()
    browser.get(f"/set?a={CANARY}")
    assert data_of(sealed).startswith(MARK)
    assert {"a": CANARY} == read(browser)
    browser.get("/set?b=2")
    assert {"a": CANARY, "b": "2"} == read(browser) == opened(sealed, browser)
    before, (row,) = browser.cookies["session"], sealed.rows()
    browser.get("/rotate")
    assert before != browser.cookies["session"]
    assert {"a": CANARY, "b": "2"} == read(browser) == opened(sealed, browser)
    # The old token opens nothing any more, but what was there before.
    assert is_refused(Encrypting(), data_of(sealed), before)
    assert not is_refused(Encrypting(), str(row.data), before)
    browser.get("/out")
    assert {} == read(browser)


def test_it_costs_no_statement(sealed):
    """P5: one SELECT to read, one more UPDATE to write, as without."""
    browser = sealed.browser()
    browser.get("/set?a=1")
    sealed.count()
    browser.get("/get")
    assert ["SELECT"] == sealed.count()
    browser.get("/set?a=1")
    assert ["SELECT"] == sealed.count()
    browser.get("/set?a=2")
    assert ["SELECT", "UPDATE"] == sealed.count()
    browser.get("/rotate")
    assert ["SELECT", "UPDATE"] == sealed.count()


@pytest.mark.parametrize("rotating", ["", "?rotate"])
def test_p2_parallel_changes_are_merged(sealed, rotating):
    """P2: each keeps the other's keys, also if the later one rotates."""
    browser = sealed.browser()
    browser.get("/set?a=1")
    (sealed.other,) = same_session(sealed, browser, 1)
    sealed.between = "/set?quick=yes"
    browser.get(f"/late{rotating}")
    expected = {"a": "1", "quick": "yes", "late": "yes"}
    assert expected == read(browser) == opened(sealed, browser)


@pytest.mark.parametrize("between", ["/rotate", "/out"])
def test_p3_what_ended_meanwhile_stays_so(sealed, between):
    """P3: a late change of it is dropped."""
    browser = sealed.browser()
    browser.get("/set?a=1")
    (sealed.other,) = same_session(sealed, browser, 1)
    sealed.between = between
    browser.get("/late")
    assert "late" not in read(sealed.other)
    assert {} == read(browser)


class Counting(Encrypting):
    """Counts what it is asked for, because each costs time."""

    def __init__(self):
        super().__init__()
        self.counts = {"seal": 0, "open": 0}

    def seal(self, text, token):
        """Count and encrypt."""
        self.counts["seal"] += 1
        return super().seal(text, token)

    def open(self, stored, token):
        """Count and decrypt."""
        self.counts["open"] += 1
        return super().open(stored, token)

    def since(self):
        """Return the counts, and begin anew."""
        counts = self.counts
        self.counts = dict.fromkeys(counts, 0)
        return counts


@pytest.fixture(name="counting")
def _counting(small):
    sealer, given = Counting(), small.factory.settings
    policy = replace(given.policy, sealer=sealer)
    small.factory.settings = replace(given, policy=policy)
    return sealer


def test_each_row_is_decrypted_once(small, counting):
    """However often it is looked at, changed and changed back."""
    browser = small.browser()

    @small.on("much")
    def _(request):
        session = request.session
        session["a"] = "2"
        savepoint = request.tm.savepoint()
        session["a"] = "3"
        savepoint.rollback()
        session["a"] = "1"
        return dict(session)

    browser.get("/set?a=1")
    assert {"seal": 1, "open": 0} == counting.since()
    browser.get("/get")
    assert {"seal": 0, "open": 1} == counting.since()
    browser.get("/much")
    assert {"seal": 0, "open": 1} == counting.since()
    browser.get("/set?a=2")
    assert {"seal": 1, "open": 1} == counting.since()


def test_a_merge_decrypts_the_other_row_only(small, counting):
    """What was loaded is there already."""
    browser = small.browser()
    browser.get("/set?a=1")
    (small.other,) = same_session(small, browser, 1)
    small.between = "/get"
    browser.get("/late")
    without = counting.since()
    small.between = "/set?quick=2"
    browser.get("/late?rotate")
    merged = counting.since()
    assert (2, 3) == (without["open"], merged["open"])


def test_a_change_of_the_user_rotates(small):
    """The row is encrypted for the token that the browser gets."""
    browser = small.browser()
    browser.get("/set?a=1")
    before = browser.cookies["session"]
    browser.get("/login?who=ann")
    assert before != browser.cookies["session"]
    expected = {"a": "1", "auth.userid": "ann"}
    assert expected == read(browser) == opened(small, browser)


def test_repeated_commits_in_one_request(sealed):
    """Each goes on from what the one before has written, rotated or not."""

    @sealed.on("often")
    def _(request):
        for n in range(3):
            request.session[f"k{n}"] = n
            if n == 1:
                request.session.rotate()
            request.tm.commit()
            request.tm.begin()
        request.session["last"] = True
        return {}

    browser = sealed.browser()
    for _ in range(2):
        browser.get("/often")
        expected = {"k0": 0, "k1": 1, "k2": 2, "last": True}
        assert expected == read(browser) == opened(sealed, browser)


def test_a_change_back_after_a_commit(small):
    """What is compared is what was written last, merged or not."""

    @small.on("back")
    def _(request):
        session = request.session
        session["a"] = "2"
        if "quick" in request.params:
            small.other.get("/set?quick=yes")
        request.tm.commit()
        request.tm.begin()
        session.pop("quick", None)
        session["a"] = "1"
        return dict(session)

    @small.on("gone")
    def _(request):
        request.session["a"] = "1"
        request.tm.commit()
        request.tm.begin()
        del request.session["a"]
        return dict(request.session)

    browser = small.browser()
    browser.get("/set?a=1")
    (small.other,) = same_session(small, browser, 1)
    assert {"a": "1"} == browser.get("/back").json == read(browser)
    assert {"a": "1"} == browser.get("/back?quick").json == read(browser)
    browser = small.browser()
    assert {} == browser.get("/gone").json == read(browser)


def test_what_was_ended_does_not_come_back(small):
    """P3: not by a savepoint that was made behind the end either."""

    @small.on("end")
    def _(request):
        request.session.invalidate()
        savepoint = request.tm.savepoint()
        request.session["dropped"] = 1
        savepoint.rollback()
        return dict(request.session)

    browser = small.browser()
    browser.get("/set?a=1")
    assert {} == browser.get("/end").json == read(browser)


def test_a_savepoint_brings_back_what_was(sealed):
    """What was changed behind it is not stored."""

    @sealed.on("partly")
    def _(request):
        request.session["kept"] = 1
        savepoint = request.tm.savepoint()
        request.session["dropped"] = 1
        savepoint.rollback()
        return {}

    browser = sealed.browser()
    browser.get("/set?a=1")
    browser.get("/partly")
    assert {"a": "1", "kept": 1} == read(browser) == opened(sealed, browser)


def test_late_changes(sealed):
    """What is changed behind the transaction is encrypted, too."""

    @sealed.on("callback")
    def _(request):
        request.session["early"] = 1
        request.session.rotate()

        def late(request, response):
            request.session["late"] = 1

        request.add_response_callback(late)
        return {}

    browser = sealed.browser()
    browser.get("/set?a=1")
    browser.get("/callback")
    expected = {"a": "1", "early": 1, "late": 1}
    assert expected == read(browser) == opened(sealed, browser)


def test_activity_leaves_the_data_alone(small):
    """A touch moves the times only."""
    browser = small.browser()
    browser.get("/set?a=1")
    before = data_of(small)
    small.clock.pass_(1000)
    assert {"a": "1"} == read(browser)
    (row,) = small.rows()
    assert (START + 1000, before) == (row.updated_at, str(row.data))


def test_retry_finds_the_conflict(make):
    """``on_conflict = retry`` compares what was decrypted."""
    world = make(settings={"limitedsession.on_conflict": "retry"})
    browser = world.browser()
    browser.get("/set?a=1")
    (world.other,) = same_session(world, browser, 1)
    world.between = "/set?late=no"
    with pytest.raises(SessionConflict) as caught:
        browser.get("/late")
    assert ["late"] == caught.value.keys
    # Another key is no conflict.
    world.between = "/set?b=1"
    browser.get("/late")
    assert {"a": "1", "late": "yes", "b": "1"} == read(browser)


def test_overwrite(make):
    """``on_conflict = overwrite`` writes what the later one has."""
    world = make(settings={"limitedsession.on_conflict": "overwrite"})
    browser = world.browser()
    browser.get("/set?a=1")
    (world.other,) = same_session(world, browser, 1)
    world.between = "/set?quick=yes"
    browser.get("/late")
    assert {"a": "1", "late": "yes"} == read(browser) == opened(world, browser)


def test_without_the_column_version(make_world):
    """Without a version a change is recognized by the encrypted data."""
    columns = "id session_id data created_at updated_at"
    names = names_of(columns.split(), {})
    layout = Layout("pls_encrypted_legacy_sessions", None, names)
    world = add_views(make_world(layout=layout, settings=ON))
    browser = world.browser()
    browser.get("/set?a=1")
    (world.other,) = same_session(world, browser, 1)
    world.between = "/set?quick=yes"
    browser.get("/late")
    expected = {"a": "1", "quick": "yes", "late": "yes"}
    assert expected == read(browser)


@pytest.mark.parametrize("serializer", ["hybrid", "pickle", "rails"])
def test_with_other_serializers(make, serializer):
    """What they write is encrypted, merged and read as JSON is."""
    world = make(settings={"limitedsession.serializer": serializer})
    browser = world.browser()
    browser.get("/set?a=1")
    (world.other,) = same_session(world, browser, 1)
    world.between = "/set?quick=yes"
    browser.get("/late?rotate")
    expected = {"a": "1", "quick": "yes", "late": "yes"}
    assert expected == read(browser)
    assert data_of(world).startswith(MARK)


def test_a_plain_id_with_plain_data(make):
    """Both are gone at the first change."""
    world = make(settings={"limitedsession.legacy_ids": "true"})
    browser = put(world, TEXT, LEGACY, session_id=LEGACY)
    assert {"a": 1} == read(browser)
    assert TEXT == data_of(world)
    browser.get("/set?b=2")
    (row,) = world.rows()
    assert key_of(LEGACY) == row.session_id
    assert {"a": 1, "b": "2"} == opened(world, browser) == read(browser)


def test_a_plain_id_with_encrypted_data(make):
    """Somebody has put the row back: it is bound to the hash all the same."""
    world = make(settings={"limitedsession.legacy_ids": "true"})
    data = Encrypting().seal(TEXT, LEGACY)
    browser = put(world, data, LEGACY, session_id=LEGACY)
    assert {"a": 1} == read(browser)
    browser.get("/set?b=2")
    assert {"a": 1, "b": "2"} == read(browser)


# -- what cannot be read -----------------------------------------------

DAMAGED = {
    "tampered": GOOD[:-9] + ("A" if GOOD[-9] != "A" else "B") + GOOD[-8:],
    "truncated": GOOD[:-4],
    "cut to its mark": MARK,
    "of another row": Encrypting().seal(TEXT, OTHER_TOKEN),
    "of another version": GOOD.replace("pls1", "pls2"),
    "no base64": MARK + "!" * 60,
    "no ASCII": MARK + "ä" * 60,
    "garbage": "garbage",
    "empty": "",
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
def test_p9_what_cannot_be_read_is_a_new_session(make, caplog, damaged):
    """P9: one line, one event; the row stays as it is."""
    events = []
    world = make(
        configure=lambda config: config.add_subscriber(
            events.append, SessionUnreadable
        )
    )
    browser = put(world, damaged)
    before = world.rows()
    caplog.set_level(logging.INFO)
    assert [{}, "unreadable"] == browser.get("/get").json
    (line,) = [
        record
        for record in caplog.records
        if record.name.startswith("pyramid_limitedsession")
    ]
    told = f"session {fingerprint(key_of(TOKEN))} is unreadable: "
    assert line.getMessage().startswith(told)
    assert "WARNING" == line.levelname
    assert ["unreadable"] == [event.reason for event in events]
    assert before == world.rows()
    # What is put in is a session of its own.
    browser.get("/set?b=2")
    assert {"b": "2"} == read(browser)
    assert before[0] == world.rows()[0]


def test_swapped_rows(small):
    """Each has the other's data, as somebody has put it: both are lost."""
    browsers = [small.browser(), small.browser()]
    for n, browser in enumerate(browsers):
        browser.get(f"/set?a={n}")
    first, second = small.rows()
    c = small.columns
    for row, data in ((first, second.data), (second, first.data)):
        small.execute(
            small.table.update().where(c.id == row.id).values(data=data)
        )
    for browser in browsers:
        assert [{}, "unreadable"] == browser.get("/get").json


def test_damaged_while_a_request_runs(small):
    """P2: it stays as it is, as it does when it was damaged before.

    What looks damaged may be what another host has encrypted.
    """
    browser = small.browser()
    browser.get("/set?a=1")
    (small.other,) = same_session(small, browser, 1)

    @small.on("damage")
    def _(request):
        small.execute(
            small.table.update().values(data=MARK + "x" * 60, version=7)
        )
        return {}

    small.between = "/damage"
    browser.get("/late")
    assert [{}, "unreadable"] == browser.get("/get").json
    assert MARK + "x" * 60 == data_of(small)


# -- on, off, and the keys ---------------------------------------------


def test_switched_on_plain_rows_are_read(make_world, small):
    """What only reads changes nothing; the next change encrypts."""
    plain = again(small, make_world, OFF)
    browser = plain.browser()
    browser.get("/set?a=1")
    assert '{"a":"1"}' == data_of(plain)
    (browser,) = same_session(small, browser, 1)
    small.count()
    browser.get("/set?a=1")
    assert ["SELECT"] == small.count()
    assert '{"a":"1"}' == data_of(small)
    browser.get("/set?b=2")
    assert {"a": "1", "b": "2"} == read(browser) == opened(small, browser)


def test_switched_on_parallel_requests_are_merged(make_world, small):
    """Also while one application encrypts, and another one does not yet."""
    plain = again(small, make_world, OFF)
    browser = plain.browser()
    browser.get("/set?a=1")
    for late, quick in ((small, plain), (plain, small)):
        (first,) = same_session(late, browser, 1)
        (late.other,) = same_session(quick, browser, 1)
        late.between = f"/set?{quick is plain}=yes"
        first.get("/late")
    expected = {"a": "1", "late": "yes", "True": "yes", "False": "yes"}
    assert expected == read(browser)


def test_switched_off_encrypted_rows_are_read(make_world, small):
    """The next change writes them as they are."""
    browser = small.browser()
    browser.get("/set?a=1")
    plain = again(small, make_world, OFF)
    (browser,) = same_session(plain, browser, 1)
    assert {"a": "1"} == read(browser)
    assert data_of(plain).startswith(MARK)
    browser.get("/set?b=2")
    assert '{"a":"1","b":"2"}' == data_of(plain)


def test_switched_off_with_keys(make_world, small):
    """They are needed for as long as there are rows to read."""
    keyed = again(small, make_world, with_keys(NEW_KEY))
    browser = keyed.browser()
    browser.get("/set?a=1")
    for over, expected in (
        (OFF, [{}, "unreadable"]),
        (with_keys(NEW_KEY, encrypt="false"), [{"a": "1"}, None]),
    ):
        plain = again(small, make_world, over)
        (other,) = same_session(plain, browser, 1)
        assert expected == other.get("/get").json


def test_the_newest_key_encrypts_and_all_decrypt(make_world, small):
    """Rows without a key, with the old one, with the new one: all are read."""
    browser = small.browser()
    browser.get("/set?n=0")
    token = token_of(browser)
    for n, keys in enumerate([(OLD_KEY,), (NEW_KEY, OLD_KEY)], 1):
        keyed = again(small, make_world, with_keys(*keys))
        browser = keyed.browser()
        browser.set_cookie("session", token)
        assert {"n": str(n - 1)} == read(browser)
        browser.get(f"/set?n={n}")
        newest = Encrypting(keys[:1])
        assert {"n": str(n)} == opened(keyed, browser, newest)
        assert is_refused(Encrypting(keys[1:]), data_of(keyed), token)
    for keys, is_read in (((OLD_KEY,), False), ((NEW_KEY,), True)):
        keyed = again(small, make_world, with_keys(*keys))
        other = keyed.browser()
        other.set_cookie("session", token)
        assert is_read == ({"n": "2"} == read(other))


@pytest.mark.parametrize(
    ("given", "data", "is_read"),
    [
        (ON, TEXT, True),
        (ONLY, TEXT, False),
        (ONLY, GOOD, True),
        (with_keys(NEW_KEY), TEXT, True),
        (with_keys(NEW_KEY), GOOD, True),
        (with_keys(NEW_KEY, encrypt="only"), TEXT, False),
        (with_keys(NEW_KEY, encrypt="only"), GOOD, False),
        (
            with_keys(OLD_KEY, NEW_KEY, encrypt="only"),
            GOOD_WITH_KEY,
            True,
        ),
    ],
)
def test_only(make_world, given, data, is_read):
    """``only`` reads what is encrypted, with a key if there are keys.

    Who can write to the database, and has a session, could otherwise put
    any content into its row.
    """
    world = add_views(make_world(settings=given))
    browser = put(world, data)
    expected = [{"a": 1}, None] if is_read else [{}, "unreadable"]
    assert expected == browser.get("/get").json


# -- size --------------------------------------------------------------


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_size_is_that_of_the_encrypted(make, spare, fits):
    """``max_data_size`` counts bytes as stored; what fits can be read."""
    text = json.dumps({"a": "x" * 300}, separators=(",", ":"))
    size = len(Encrypting().seal(text, TOKEN))
    limit = str(size + spare)
    world = make(settings={"limitedsession.max_data_size": limit})
    browser = world.browser()
    if not fits:
        with pytest.raises(SessionOverflowError) as caught:
            browser.get(f"/set?a={'x' * 300}")
        assert size == caught.value.size
        assert [] == world.rows()
        return
    browser.get(f"/set?a={'x' * 300}")
    assert size == len(data_of(world))
    assert {"a": "x" * 300} == read(browser)


def test_size_of_what_is_merged(make):
    """A merge that would be too large is refused, too."""
    world = make(settings={"limitedsession.max_data_size": "500"})
    browser = world.browser()
    browser.get("/set?a=1")
    (world.other,) = same_session(world, browser, 1)
    world.between = f"/set?b={'x' * 300}"

    @world.on("large")
    def _(request):
        request.session.get("a")
        world.other.get(world.between)
        request.session["c"] = "x" * 50
        return {}

    with pytest.raises(SessionOverflowError):
        browser.get("/large")
    assert {"a": "1", "b": "x" * 300} == read(browser)


# -- secrets -----------------------------------------------------------


def test_p6_a_stolen_database_tells_nothing(make, database, mode):
    """P6: neither content, token nor key is in it; also not in old pages."""
    world = make(database, mode, settings=with_keys(NEW_KEY))
    browser = world.browser()
    tokens = []
    for page in (f"/set?{CANARY}=1", f"/set?a={CANARY}", "/rotate", "/get"):
        browser.get(page)
        tokens.append(browser.cookies["session"])
    dump = repr([[str(value) for value in row] for row in world.rows()])
    if database == "sqlite":
        with world.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint")
        path = Path(sa.make_url(world.url).database)
        for file in path.parent.glob(path.name + "*"):
            dump += file.read_bytes().decode("latin-1")
    assert MARK in dump
    for secret in (CANARY, NEW_KEY, *tokens):
        assert secret not in dump
        for shift in range(3):
            # As base64 has it, wherever in a group of bytes it begins.
            raw = base64.b64encode(b"-" * shift + secret.encode())
            assert raw[4:-4].decode() not in dump


def test_p6_nothing_is_logged(make, mode, caplog, capsys):
    """P6: not with echo at DEBUG, whatever is done, also if it fails."""
    loud = logging.getLogger("sqlalchemy")
    handlers = list(loud.handlers)
    caplog.set_level(logging.DEBUG)
    world = make(
        mode=mode,
        engine={"echo": "debug"},
        settings=with_keys(NEW_KEY)
        | (
            {"limitedsession.sqlalchemy.echo": "debug"}
            if mode == "separate"
            else {}
        ),
    )
    browser = world.browser()
    browser.get(f"/set?a={CANARY}")
    (world.other,) = same_session(world, browser, 1)
    tokens = [browser.cookies["session"]]
    world.between = "/set?b=1"
    for page in ("/late?rotate", "/login?who=ann", "/get"):
        browser.get(page)
        tokens.append(browser.cookies["session"])
    world.execute(world.table.update().values(data=GOOD))
    browser.get("/get")
    loud.handlers[:] = handlers
    shown = caplog.text + "".join(capsys.readouterr())
    assert "UPDATE" in shown
    assert "unreadable" in shown
    derived_keys = [derived(each, NEW_KEY.encode()) for each in tokens]
    secrets = [CANARY, NEW_KEY, MARK, *tokens]
    for key in derived_keys:
        secrets += [key.hex(), repr(key)[2:-1]]
    assert [] == [secret for secret in secrets if secret in shown]


def test_p6_the_reprs_of_a_request(make):
    """P6: no object of a request shows what it holds."""
    world = make(settings=with_keys(NEW_KEY))
    shown = []

    @world.on("objects")
    def _(request):
        session = request.session
        session["b"] = CANARY
        unit = request._limitedsession_unit
        plan = unit.plan()
        work = world.store.begin()
        result = plan.execute(work)
        work.rollback()
        things = [unit, unit.stored, plan, plan.base, result, unit.policy]
        things += [unit.policy.sealer, world.factory.settings]
        shown.append(repr(things) + "".join(map(str, things)))
        return {}

    browser = world.browser()
    browser.get(f"/set?a={CANARY}")
    browser.get("/objects")
    (text,) = shown
    for secret in (CANARY, NEW_KEY, MARK, browser.cookies["session"]):
        assert secret not in text


# -- tools -------------------------------------------------------------


def test_pls_upgrade_leaves_encrypted_rows_alone(small, make_ini):
    """And counts them: with --data only."""
    for token, data in (
        (TOKEN, GOOD),
        (OTHER_TOKEN, Encrypting().seal(TEXT, OTHER_TOKEN)),
        ("V" * 43, "no pickle"),
        ("W" * 43, base64.b64encode(b"\x80\x04}.").decode()),
    ):
        put(small, data, token)
    before = small.rows()
    ini = make_ini(small, limited__serializer="hybrid", limited__encrypt="yes")
    code, out, _ = ini.call("pls-upgrade", "--data")
    pattern = (
        r"hashed 0 ids and rewrote 1 row as JSON in [0-9.]+ s; "
        "2 rows are encrypted; 1 row cannot be read\n"
    )
    assert 0 == code
    assert re.fullmatch(pattern, out)
    assert before[:3] == small.rows()[:3]
    _, out, _ = ini.call("pls-upgrade")
    assert "encrypted" not in out


def test_pls_upgrade_hashes_the_ids_of_encrypted_rows(small, make_ini):
    """What is in them is bound to the hash already."""
    browser = put(small, Encrypting().seal(TEXT, LEGACY), session_id=LEGACY)
    browser.set_cookie("session", LEGACY)
    small.factory.settings = read_settings(
        ON | {"limitedsession.legacy_ids": "true"}
    )
    make_ini(small, limited__legacy_ids="true").call("pls-upgrade")
    (row,) = small.rows()
    assert key_of(LEGACY) == row.session_id


def test_pls_stats_counts_encrypted_bytes(small, make_ini):
    """The sizes are those of what is stored."""
    put(small, GOOD)
    _, out, _ = make_ini(small).call("pls-stats", "--json")
    assert str(len(GOOD)) in re.findall("[0-9]+", out)


def test_pls_doctor_knows_encrypted_rows(sealed):
    """They are not taken for content that nobody reads."""
    put(sealed, GOOD)
    put(sealed, TEXT, OTHER_TOKEN)
    put(sealed, "gASV", "V" * 43)
    rows = look_at_rows(sealed.store, sealed.table, older_than(START))
    assert (3, 1, 1) == (rows.total, rows.foreign, rows.sealed)


# -- the page ----------------------------------------------------------


def test_the_rows_of_the_page():
    """The row in docs/encryption.rst is that of the token there."""
    page = PAGE.read_text(encoding="utf-8")
    (token,) = re.findall(r"^    Cookie: session=(.{43})$", page, re.M)
    keys = re.findall(r"^    session_id  (2::[0-9a-f]{64})$", page, re.M)
    plain, stored = re.findall(r"^    data        (.*)$", page, re.M)
    assert {key_of(token)} == set(keys)
    assert plain == Encrypting().open(stored, token)
    assert plain == Plain().open(plain, token)
    c = JSONSerializer()
    assert plain == c.as_written(plain) == c.dumps(json.loads(plain))
