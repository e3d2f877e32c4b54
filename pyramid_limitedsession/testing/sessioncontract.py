"""What sessions have to do, whatever they are kept in: through requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyramid.config import Configurator
from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.request import Request

from ..errors import SessionOverflowError
from ..store import transaction_of
from ..tokens import Secret, key_of, make_token
from .site import COOKIE, Browser, Site

_CONTENT = {
    "text": "ü\u2028\U0001f600'\"\\",
    "numbers": [0, -1, 2**53, 1.5, -0.25],
    "words": [True, False, None],
    "nested": {"a": {"b": [[], {}]}, "": [[1], [2]]},
}
_USER = "auth.userid"
_HOUR = 3600
_SETTINGS = {
    "limitedsession.idle_timeout": "1h",
    "limitedsession.absolute_timeout": "12h",
    "limitedsession.profile.long.idle_timeout": "10h",
    "limitedsession.touch_interval": "1m",
    "limitedsession.max_data_size": "4KiB",
    "limitedsession.self_clean": "0",
}


class SessionContract:
    """What an application may expect of its sessions, as tests.

    For whoever writes a store or a serializer: inherit it, and say by
    which settings an application uses it::

        class TestMySessions(SessionContract):
            def make_settings(self):
                return {"limitedsession.store": "myapp.sessions.make_store"}

    pytest finds the tests. They share one application, which is made once
    for each class; other rows may be in its store.
    """

    _site: Site | None = None

    def make_settings(self) -> dict[str, Any]:
        """Return the settings that say where and how sessions are kept."""
        raise NotImplementedError("override make_settings()")

    def configure(self, config: Configurator) -> None:
        """Add what the application needs besides, as a ``dbsession``."""

    @property
    def site(self) -> Site:
        """The application, with a clock that tests move."""
        if self._site is None:
            settings = {**_SETTINGS, **self.make_settings()}
            type(self)._site = Site(settings, self.configure)
        assert self._site is not None
        return self._site

    def _visitor(self, **content: Any) -> Browser:
        return self.site.browser().put(**content)

    def _is_stranger(self, token: str) -> bool:
        """Say whether a token opens nothing."""
        thief = self.site.browser()
        thief.cookies[COOKIE] = token
        return thief.content() == {}

    # -- content -------------------------------------------------------

    def test_values_come_back(self) -> None:
        """What a request puts in, the next one finds, type by type."""
        browser = self._visitor(**_CONTENT)
        found = browser.content()
        assert found == _CONTENT
        assert repr(found["numbers"]) == repr(_CONTENT["numbers"])
        assert found["words"][:2] == [True, False]

    def test_a_change_inside_of_a_value_is_kept(self) -> None:
        """Without telling anybody of it."""
        browser = self._visitor(cart={"items": [1]})
        browser(lambda request: request.session["cart"]["items"].append(2))
        assert browser.content() == {"cart": {"items": [1, 2]}}

    def test_a_key_that_is_deleted_is_gone(self) -> None:
        """And the others stay."""
        browser = self._visitor(a=1, b=2)
        browser(lambda request: request.session.pop("a"))
        assert browser.content() == {"b": 2}

    def test_keys_of_parallel_requests_are_merged(self) -> None:
        """Neither request loses what the other one has put in."""
        browser = self._visitor(a=1, gone=1)

        def act(request: Request) -> None:
            session = request.session
            session["a"] += 1
            browser.twin().put(b=2)
            del session["gone"]

        browser(act)
        assert browser.content() == {"a": 2, "b": 2}

    def test_flash_messages_of_parallel_requests_are_kept(self) -> None:
        """All of them, and what was shown is not shown again."""
        browser = self._visitor(a=1)
        browser(lambda request: request.session.flash("one"))

        def act(request: Request) -> Any:
            shown = request.session.pop_flash()
            other = browser.twin()
            other(lambda request: request.session.flash("two"))
            request.session.flash("three")
            return shown

        assert browser(act) == ["one"]
        rest = browser(lambda request: request.session.pop_flash())
        assert sorted(rest) == ["three", "two"]
        assert browser(lambda request: request.session.pop_flash()) == []

    def test_the_csrf_token_stays(self) -> None:
        """The one of a form is that of the request that it is sent with."""
        browser, policy = self.site.browser(), SessionCSRFStoragePolicy()
        token = browser(policy.get_csrf_token)
        assert browser(policy.get_csrf_token) == token
        assert browser(lambda r: policy.check_csrf_token(r, token))
        assert not browser(lambda r: policy.check_csrf_token(r, "other"))

    def test_too_much_is_refused(self) -> None:
        """The error names the largest keys; what was stored stays."""
        browser = self._visitor(small="x")
        refused = None
        try:
            browser.put(large="x" * 5000, other=["y" * 100])
        except SessionOverflowError as error:
            refused = error
        assert refused is not None
        assert [key for key, _ in refused.largest][:2] == ["large", "other"]
        assert browser.content() == {"small": "x"}

    # -- what is stored ------------------------------------------------

    def test_reading_writes_nothing(self) -> None:
        """Who has no session gets none; a row stays as it is."""
        browser = self.site.browser()
        assert browser.content() == {}
        assert browser.cookies == {}
        browser.put(a=[1])
        before = browser.record()
        assert browser.content() == {"a": [1]}
        assert browser.record() == before

    def test_the_token_is_not_stored(self) -> None:
        """Only its hash is, and neither shows the session's rows."""
        browser = self._visitor(a=1)
        record = browser.record()
        assert record.key == key_of(browser.token)
        assert browser.token not in (record.data or "")

    def test_an_aborted_request_changes_nothing(self) -> None:
        """Its transaction decides: no row is made, none is changed."""

        def act(request: Request) -> None:
            request.session["a"] = 2
            request.tm.doom()

        newcomer = self.site.browser()
        newcomer(act)
        assert newcomer.cookies == {}
        browser = self._visitor(a=1)
        browser(act)
        assert browser.content() == {"a": 1}

    def test_a_row_that_cannot_be_read_is_a_new_session(self) -> None:
        """Nobody gets an error page for it."""
        browser = self._visitor(a=1)
        record = browser.record()
        spoilt = replace(
            record, data=Secret("[1]"), version=record.version + 1
        )
        with transaction_of(self.site.store) as work:
            assert work.update(spoilt, old=record)
        assert browser.content() == {}
        assert browser.put(b=2).content() == {"b": 2}

    def test_a_made_up_cookie_is_a_new_session(self) -> None:
        """Whether it looks like one of ours or not."""
        for token in ("garbage", "", make_token(), key_of("a")):
            assert self._is_stranger(token)

    # -- its end -------------------------------------------------------

    def test_a_rotated_session_has_another_token(self) -> None:
        """The same content and row; the old token opens nothing."""
        browser = self._visitor(a=1)
        before, old = browser.record(), browser.token
        browser(lambda request: request.session.rotate())
        assert browser.token != old
        assert browser.content() == {"a": 1}
        assert browser.record().created == before.created
        assert self._is_stranger(old)

    def test_who_signs_in_gets_another_token(self) -> None:
        """And his session is listed as his."""
        browser, user = self._visitor(a=1), make_token()
        old = browser.token
        browser.put(**{_USER: user})
        assert browser.token != old
        assert self._is_stranger(old)
        found = browser(lambda request: request.user_sessions.list(user))
        assert [each.is_current for each in found] == [True]

    def test_an_ended_session_is_gone(self) -> None:
        """The browser loses its cookie; who has kept it finds nothing."""
        browser = self._visitor(a=1)
        old = browser.token
        browser(lambda request: request.session.invalidate())
        assert COOKIE not in browser.cookies
        assert self._is_stranger(old)
        assert browser.put(b=2).content() == {"b": 2}
        assert browser.token != old

    def test_an_ended_session_does_not_come_back(self) -> None:
        """A request that had loaded it before writes it no more."""
        browser = self._visitor(a=1)
        old = browser.token

        def act(request: Request) -> None:
            request.session["a"] = 2
            browser.twin()(lambda request: request.session.invalidate())

        browser(act)
        assert self._is_stranger(old)
        assert self.site.store.load(key_of(old)) is None

    def test_a_revoked_session_says_so(self) -> None:
        """Who throws his other browsers out keeps his own session."""
        user = make_token()
        here, there = (self._visitor(**{_USER: user}) for _ in range(2))
        here(lambda request: request.user_sessions.end_all(user))
        assert there.ended() == "revoked"
        assert there.content() == {}
        assert here.content() == {_USER: user}

    def test_an_unused_session_ends(self) -> None:
        """At the second of its limit, with the grace of an interval."""
        browser, other = self._visitor(a=1), self._visitor(a=1)
        grace = 59
        self.site.now += _HOUR + grace - 1
        assert browser.content() == {"a": 1}
        self.site.now += 1
        assert other.ended() == "idle"
        assert other.content() == {}
        assert browser.content() == {"a": 1}

    def test_a_used_session_ends_too(self) -> None:
        """After its whole length."""
        browser = self._visitor(a=1)
        for _ in range(11):
            self.site.now += _HOUR
            assert browser.content() == {"a": 1}
        self.site.now += _HOUR
        assert browser.ended() == "absolute"

    def test_activity_is_written_now_and_then(self) -> None:
        """Once an interval, and it changes nothing else."""
        browser = self._visitor(a=1)
        before = browser.record()
        self.site.now += 59
        browser.content()
        assert browser.record() == before
        self.site.now += 1
        browser.content()
        after = browser.record()
        assert after.seen == self.site.now
        assert (after.version, after.data) == (before.version, before.data)

    def test_a_profile_has_limits_of_its_own(self) -> None:
        """They hold from the request that chooses it."""
        browser = self._visitor(a=1)
        browser(lambda request: request.session.use_profile("long"))
        self.site.now += 5 * _HOUR
        assert browser.content() == {"a": 1}
