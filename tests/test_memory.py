"""`MemoryStore`: for the tests of applications; see also the contracts."""

from __future__ import annotations

import pytest
from pyramid.config import Configurator

from pyramid_limitedsession import SessionBusyError
from pyramid_limitedsession.memory import MemoryStore
from pyramid_limitedsession.store import transaction_of
from pyramid_limitedsession.testing import SessionContract, memory_store
from pyramid_limitedsession.testing.storekit import StoreKit, changed, too_old
from pyramid_limitedsession.tokens import key_of, make_token
from tests.threads import in_threads


class Kit(StoreKit):
    """A store that waits for nobody."""

    def make_store(self):
        return MemoryStore(lock_timeout=0)


@pytest.fixture(name="kit")
def _kit():
    return Kit()


def test_one_writes_at_a_time(kit):
    """Who comes second is busy, once he has waited; then he may write."""
    work = kit.store.begin()
    with pytest.raises(SessionBusyError):
        kit.store.begin()
    work.commit()
    kit.store.begin().rollback()


def test_who_comes_second_waits():
    """With some patience, everybody writes."""
    store = MemoryStore()

    def write(number):
        with transaction_of(store) as work:
            work.insert(Kit().new())

    in_threads(write, 8)
    assert 8 == len(store)


def test_a_busy_store_is_not_waited_for_where_that_makes_no_sense(kit):
    """Cleaning does nothing; an id is hashed by a later request."""
    plain = kit.stored(key=make_token())
    work = kit.store.begin()
    assert kit.store.clean(cutoffs=too_old("x"), most=10) is None
    with pytest.raises(SessionBusyError):
        kit.store.hash_id(plain)
    work.rollback()
    assert kit.store.load(plain.key) == plain


def test_an_id_is_given_once(kit):
    """Also one of a transaction that was rolled back."""
    given = []
    kit.undo(lambda work: given.append(work.insert(kit.new())))
    assert kit.stored().id not in given


def test_it_shows_nothing(kit):
    """Neither the store nor what it raises tells a key or data."""
    record = kit.stored()
    assert "<MemoryStore of 1 sessions>" == repr(kit.store)
    with pytest.raises(ValueError, match="a row with this key") as caught:
        kit.do(lambda work: work.insert(record))
    assert record.key not in str(caught.value)


def test_it_can_be_emptied(kit):
    """As between two tests; who had loaded a session cannot write it."""
    record = kit.stored()
    kit.store.clear()
    assert 0 == len(kit.store)
    assert not kit.do(lambda w: w.update(changed(record), old=record))


def _app(store):
    with Configurator(settings={"limitedsession.store": store}) as config:
        config.include("pyramid_limitedsession")
        return config.make_wsgi_app()


def test_two_applications_share_nothing():
    """Each gets a store of its own, unless both are given the same one."""
    name = "pyramid_limitedsession.testing.memory_store"
    first, second, third = map(_app, (name, name, memory_store))
    stores = {
        id(app.registry["pyramid_limitedsession"].store)
        for app in (first, second, third)
    }
    assert 3 == len(stores)
    store = MemoryStore()
    shared = [_app(lambda settings: store) for _ in range(2)]
    assert all(
        app.registry["pyramid_limitedsession"].store is store for app in shared
    )


def test_another_application_finds_the_session():
    """Two applications with one store are one site to a browser."""

    class Shared(SessionContract):
        def make_settings(self):
            return {"limitedsession.store": lambda settings: store}

    class Other(Shared):
        """The same settings, and another application."""

    store = MemoryStore()
    browser = Shared().site.browser().put(a=1)
    other = Other().site.browser()
    other.cookies.update(browser.cookies)
    assert {"a": 1} == other.content()
    assert store.load(key_of(browser.token)) is not None
