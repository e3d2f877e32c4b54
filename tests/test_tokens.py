"""Tokens, keys, and strings that do not show themselves."""

from __future__ import annotations

import hashlib
import logging
import pprint
import re
import traceback

import pytest

from pyramid_limitedsession.tokens import (
    Secret,
    fingerprint,
    key_of,
    make_token,
    parse_token,
)

TOKEN = "AZaz09_-" + "b" * 35
CANARY = Secret("canary")


def test_tokens_differ_and_have_the_right_shape():
    """Of 10,000 tokens none comes twice, and all are 43 URL-safe letters."""
    tokens = {make_token() for _ in range(10_000)}
    assert 10_000 == len(tokens)
    shape = re.compile(r"[A-Za-z0-9_-]{43}")
    assert all(shape.fullmatch(token) for token in tokens)


def test_tokens_use_their_whole_alphabet():
    """Each of the 64 characters comes up: no bits are fixed or dropped."""
    seen = set("".join(make_token() for _ in range(1_000)))
    assert 64 == len(seen)


def test_made_tokens_are_accepted():
    """What make_token makes, parse_token takes, and changes nothing."""
    for _ in range(100):
        token = make_token()
        assert token == parse_token(str(token))


def test_a_well_formed_token_is_accepted():
    """A token of the right shape comes back as a Secret."""
    token = parse_token(TOKEN)
    assert token == TOKEN
    assert isinstance(token, Secret)


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("a" * 42, id="42"),
        pytest.param("a" * 44, id="44"),
        pytest.param("a" * 100_000, id="very long"),
        pytest.param("a" * 43 + "\n", id="newline at the end"),
        pytest.param("a" * 42 + "\n", id="newline at last"),
        pytest.param("\n" + "a" * 43, id="newline at first"),
        pytest.param(" " + "a" * 42, id="blank"),
        pytest.param("a" * 43 + " ", id="blank at the end"),
        pytest.param("+" + "a" * 42, id="plus"),
        pytest.param("/" + "a" * 42, id="slash"),
        pytest.param("=" + "a" * 42, id="padding"),
        pytest.param("a" * 43 + "=", id="padded"),
        pytest.param("." + "a" * 42, id="dot"),
        pytest.param("%" + "a" * 42, id="percent"),
        pytest.param("'" + "a" * 42, id="quote"),
        pytest.param("\0" + "a" * 42, id="nul"),
        pytest.param("ä" + "a" * 42, id="umlaut"),
        pytest.param("\u0430" + "a" * 42, id="cyrillic a"),
        pytest.param("\uff41" * 43, id="fullwidth a"),
        pytest.param("\u0663" * 43, id="arabic digits"),
        pytest.param("\uff13" * 43, id="fullwidth digits"),
        pytest.param("\u00b2" + "a" * 42, id="superscript digit"),
        pytest.param("\udc80" + "a" * 42, id="lone surrogate"),
        pytest.param("2::" + "0" * 64, id="a key"),
    ],
)
def test_p9_what_cannot_be_a_token_is_none(cookie):
    """P9: wrong lengths and alphabets are refused before they are hashed."""
    assert parse_token(cookie) is None


def test_p6_a_key_is_the_hash_of_its_token():
    """P6: the key is Rack's private id: 2:: and 64 hex digits of SHA-256."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    assert "2::" + digest == key_of(TOKEN)
    assert re.fullmatch(r"2::[0-9a-f]{64}", key_of(TOKEN))


def test_keys_differ_as_tokens_do():
    """Tokens that differ in case alone have different keys."""
    assert key_of("a" * 43) != key_of("A" + "a" * 42)


def test_a_key_is_no_token():
    """P6: who reads the table cannot use a key as a cookie."""
    assert parse_token(key_of(TOKEN)) is None


def test_a_fingerprint_is_eight_hex_characters():
    """A log line shows the first eight of a key's hex digits, no more."""
    shown = fingerprint(key_of(TOKEN))
    assert re.fullmatch(r"[0-9a-f]{8}", shown)
    assert key_of(TOKEN).startswith("2::" + shown)


@pytest.mark.parametrize(
    "secret", [parse_token("A" * 43), key_of(TOKEN), CANARY]
)
def test_p6_tokens_and_keys_are_secrets(secret):
    """P6: tokens and keys are of the type that does not show itself."""
    assert isinstance(secret, Secret)
    assert repr(secret) == "'***'"


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(lambda x: repr(x), id="repr"),
        pytest.param(lambda x: "%r" % (x,), id="percent r"),  # noqa: UP031
        pytest.param(lambda x: "%a" % (x,), id="percent a"),  # noqa: UP031
        pytest.param(lambda x: f"{x!r}", id="f-string"),
        pytest.param(lambda x: "{!r}".format(x), id="format"),  # noqa: UP032
        pytest.param(lambda x: ascii(x), id="ascii"),
        pytest.param(lambda x: str([x]), id="list"),
        pytest.param(lambda x: str((x,)), id="tuple"),
        pytest.param(lambda x: str({x}), id="set"),
        pytest.param(lambda x: str({"a": x}), id="value of a dict"),
        pytest.param(lambda x: str({x: 1}), id="key of a dict"),
        pytest.param(lambda x: str({"a": [{"b": x}]}), id="nested"),
        pytest.param(lambda x: str(KeyError(x)), id="KeyError"),
        pytest.param(lambda x: repr(ValueError(x)), id="repr of an error"),
        pytest.param(lambda x: pprint.pformat({"a": x}), id="pprint"),
    ],
)
def test_p6_a_secret_does_not_show_itself(shown):
    """P6: wherever Python prints by repr there are only stars."""
    assert "canary" not in shown(CANARY)
    assert "***" in shown(CANARY)


def test_p6_a_secret_in_a_log_line(caplog):
    """P6: a log line that prints parameters by repr shows only stars."""
    logging.getLogger("test").warning("%r %s", CANARY, {"key": CANARY})
    assert "canary" not in caplog.text


def test_p6_a_secret_in_a_tracebacks_locals():
    """P6: a traceback that shows local variables shows only stars."""

    def fail(secret: str) -> None:
        raise RuntimeError

    try:
        fail(CANARY)
    except RuntimeError as error:
        report = traceback.TracebackException.from_exception(
            error, capture_locals=True
        )
    (last,) = [part for part in report.stack if part.name == "fail"]
    assert last.locals == {"secret": "'***'"}


def test_a_secret_is_the_string_it_holds():
    """It compares, hashes and prints as its text: it can be sent."""
    assert Secret("a") == "a"
    assert hash("a") == hash(Secret("a"))
    assert str(Secret("a")) == "a"
    assert {"a": 1}[Secret("a")] == 1
