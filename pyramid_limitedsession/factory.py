"""Cookie in, outcome out: what connects a session with its request."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session
from transaction.interfaces import NoTransaction
from zope.interface import implementer

from .adopting import OldSession, old_session
from .caching import forbid_caching, vary_by_cookie
from .datamanager import DataManager
from .engines import make_engine
from .errors import SessionError, shown
from .events import Ended, refused
from .joined import (
    EnlistedStore,
    JoinedStores,
    MiddlewareStore,
    ReadingWork,
    enlist,
    reading_connection,
    work_on,
)
from .place import Content, Others, Place
from .reading import PREFIX
from .schema import typed_table
from .session import LimitedSession
from .settings import CookieSettings, Settings
from .sqlstore import SqlStore
from .sqlwork import SqlWork
from .store import Store
from .tokens import Secret, parse_token
from .unitofwork import Unit
from .views import is_passive

log = logging.getLogger(__name__)

# In the environ while somebody above our tween manages the transaction.
EXTERNAL = "pyramid_limitedsession.external"
# In the environ for the next attempt of pyramid_retry: the token whose session
# this one has found.
FOUND = "pyramid_limitedsession.found"
# In the environ while a request is below our tween: the request. A copy that
# the application makes of it, to be a subrequest, has it there too.
OWNER = "pyramid_limitedsession.owner"
# On the request: its unit, once the session was asked for.
UNIT = "_limitedsession_unit"
# On the request, once its response has been through all callbacks.
ANSWERED = "_limitedsession_answered"
# States of a transaction that still accepts data managers.
_JOINABLE = ("Active", "Doomed")


@implementer(ISessionFactory)
class SessionFactory:
    """Makes the session of a request; holds what all requests share.

    :ivar clock: returns the time in seconds since the epoch.
    :ivar store: where sessions are kept; None: beside ``request.dbsession``.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        *,
        store: Store | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        table = typed_table(
            settings.layout, is_native=settings.policy.serializer.is_native
        )
        options: Any = {
            "lock_timeout": settings.lock_timeout,
            "max_data_size": settings.policy.max_data_size,
            "create": settings.create_table,
        }
        self.store = store
        if settings.url is not None:
            self.store = SqlStore(_make_engine(settings), table, **options)
        self._joined = JoinedStores(table, **options)

    def __call__(self, request: Request) -> LimitedSession:
        """Return the request's session. Runs no SQL."""
        return LimitedSession(self.unit_of(request))

    def unit_of(self, request: Request) -> Unit:
        """Return the unit that all sessions of a request share."""
        owner = self.owner_of(request)
        if owner is not request:
            return self.unit_of(owner)
        unit: Unit | None = getattr(request, UNIT, None)
        if unit is None:
            token = self._token(request)
            old = old_session(self.settings, request, OWNER)
            unit = Unit(
                self.settings.policy,
                self._place_with_others(request),
                token,
                lambda: int(self.clock()),
                was_found=token is not None
                and token == request.environ.get(FOUND),
                is_passive=lambda: is_passive(request),
                tell=lambda reason: _tell_refused(request, reason),
                adopt=old.find if old else None,
            )
            if old is not None:
                unit.stored.end_old = old.end
            setattr(request, UNIT, unit)
            run_last(request, _Answer(unit, self.settings.cookie, old))
            # A script may be part of handling another error.
            request.add_finished_callback(_Finish(sys.exc_info()[1]))
            if getattr(request, ANSWERED, False):
                unit.close()
        return unit

    def _place_with_others(self, request: Request) -> Place:
        place, values_of = self._place(request), self.settings.column_values
        if values_of is None:
            return place

        def others(content: Content) -> Content:
            values = values_of(request, MappingProxyType(content))
            if not isinstance(values, Mapping):
                raise SessionError(
                    f"{PREFIX}column_values returned a value of type "
                    f"{type(values).__name__}; it has to return a dict, of "
                    "values by the attributes of the model"
                )
            for name in values.keys() - self.settings.layout.others.keys():
                raise SessionError(
                    f"{PREFIX}column_values returned {shown(name)}, "
                    "which is no further column of the model"
                )
            return dict(values)

        return replace(place, others=Others(others))

    def owner_of(self, request: Request) -> Request:
        """Return the request whose session this one has, most often itself.

        A subrequest that is a copy of its parent takes part in the parent's
        transaction. With a session of its own it would be saved beside its
        parent's, on another connection, and each would wait for the other.
        """
        owner: Request = request.environ.get(OWNER, request)
        if owner is request or owner.environ.get(OWNER) is not owner:
            return request
        is_same = self._token(owner) == self._token(request)
        return owner if is_same else request

    def _token(self, request: Request) -> Secret | None:
        cookie = _cookie(request, self.settings.cookie.name)
        return parse_token(
            cookie, legacy=self.settings.policy.accepts_any_token
        )

    def store_for(self, request: Request) -> SqlStore:
        """Return the store: our own, or the one beside the dbsession.

        Raises SessionError if sessions are in a store of the application's.
        """
        if isinstance(self.store, SqlStore):
            return self.store
        if self.store is not None:
            raise SessionError(
                "this application keeps its sessions in a store of its own "
                f"({PREFIX}store), not in a table of pyramid_limitedsession"
            )
        return self._joined.of(self._joined.bind_of(self._dbsession(request)))

    def _dbsession(self, request: Request) -> Session:
        dbsession = getattr(request, self.settings.dbsession)
        # zope.sqlalchemy knows the session behind a scoped one.
        is_scoped = isinstance(dbsession, scoped_session)
        found: Session = dbsession() if is_scoped else dbsession
        return found

    def _place(self, request: Request) -> Place:
        def join(unit: Unit) -> DataManager | None:
            transaction = active_transaction(request)
            return DataManager(unit, transaction) if transaction else None

        if self.store is not None:
            return Place(self.store, join)
        dbsession = self._dbsession(request)
        bind = self._joined.bind_of(dbsession)
        store = self._joined.of(bind)

        def enlisted() -> SqlWork:
            return enlist(store, dbsession, request.tm)

        def reader() -> SqlWork | None:
            connection = reading_connection(store, dbsession)
            if connection is None:
                return None
            is_active = active_transaction(request) is not None
            return ReadingWork(
                store, connection, enlisted if is_active else None
            )

        if is_external(request):
            if "tm.active" in request.environ:
                return Place(EnlistedStore(enlisted), join)
            return Place(MiddlewareStore(store, dbsession, request.tm), join)
        if isinstance(bind, Connection):
            beside = EnlistedStore(lambda: work_on(store, bind))
            return Place(beside, join, enlisted, reader)
        return Place(store, join, enlisted, reader)


def _tell_refused(request: Request, reason: Ended) -> None:
    """Notify subscribers, unless the next request will find the same."""
    if not is_passive(request):
        request.registry.notify(refused(request, reason))


def _make_engine(settings: Settings) -> Engine:
    try:
        return make_engine(
            settings.url or "",
            settings.engine,
            lock_timeout=settings.lock_timeout,
        )
    except Exception as error:
        # A driver that is not installed, an option that does not exist.
        raise ConfigurationError(
            "pyramid_limitedsession cannot make an engine from "
            f"{PREFIX}sqlalchemy.url and its options: {error}"
        ) from error


def is_external(request: Request) -> bool:
    """Say whether somebody else manages the request's transaction.

    That is so if it was active before the request reached our tween, as in
    tests that run many requests in one transaction.
    """
    environ = request.environ
    return bool(environ.get(EXTERNAL, is_managed(request)))


def is_managed(request: Request) -> bool:
    """Say whether a transaction is under way that pyramid_tm leaves alone.

    A middleware's is that of the thread; an explicit ``request.tm`` has no
    part in it.
    """
    if "tm.active" in request.environ:
        return True
    return "repoze.tm.active" in request.environ and not request.tm.explicit


def active_transaction(request: Request) -> Any:
    """Return the transaction a session can take part in, or None.

    A manager in thread-local mode begins a transaction for whoever asks:
    only pyramid_tm's word counts there, or the change would wait for a
    commit that belongs to a later request.
    """
    tm = getattr(request, "tm", None)
    if tm is None or is_external(request):
        return None
    if not request.environ.get("tm.active") and not tm.explicit:
        return None
    try:
        transaction = tm.get()
    except NoTransaction:
        return None
    return transaction if transaction.status in _JOINABLE else None


def _cookie(request: Request, name: str) -> str | None:
    try:
        value: str | None = request.cookies.get(name)
        return value
    except UnicodeError:
        return None


def run_last(
    request: Request, callback: Callable[[Request, Response], None]
) -> None:
    """Add a response callback that runs behind the application's own.

    They may use the session too, and may be added later than ours.
    """

    def postpone(request: Request, response: Response) -> None:
        request.add_response_callback(callback)

    request.add_response_callback(postpone)


class _Answer:
    """Response callback: saves late changes, then decides on the cookie."""

    def __init__(
        self, unit: Unit, cookie: CookieSettings, old: OldSession | None
    ) -> None:
        self._unit = unit
        self._cookie = cookie
        self._old = old

    def __call__(self, request: Request, response: Response) -> None:
        """Run behind the application's own callbacks."""
        unit = self._unit
        if unit.looked:
            vary_by_cookie(response)
        if unit.is_joined:
            return
        try:
            unit.settle(keep=True, is_last=True)
        except Exception:
            # No exception view can render this any more, and the
            # application's own work is done: answer, without a cookie.
            log.exception("a late change of a session could not be saved")
        self._send(request, response)
        unit.close()

    def _send(self, request: Request, response: Response) -> None:
        unit, cookie = self._unit, self._cookie
        token = unit.stored.new_token
        if token is None and unit.stored.resend:
            token = unit.stored.token
        is_over, old = unit.forget_token, self._old
        if old is not None:
            is_over = old.give_way(unit.stored, is_over) and is_over
        is_sent = token is not None or is_over
        if old is not None and old.forget(response, is_sent and cookie):
            forbid_caching(response)
        if not is_sent:
            return
        secure = cookie.secure
        if secure is None:
            # A DummyRequest has no scheme.
            secure = request.host_url.startswith("https:")
        response.set_cookie(
            cookie.name,
            # Not as our own string type: who prints the header sees it.
            "" if token is None else str(token),
            max_age=0 if token is None else unit.stored.max_age,
            path=cookie.path,
            domain=cookie.domain,
            secure=secure,
            httponly=cookie.httponly,
            samesite=cookie.samesite,
        )
        forbid_caching(response)


class _Finish:
    """Finished callback: does what no response came for.

    A script has none, and neither has a request that died above our tween.
    """

    def __init__(self, handled: BaseException | None) -> None:
        self._handled = handled

    def __call__(self, request: Request) -> None:
        """Run before the finished callbacks that the application adds."""
        unit: Unit = getattr(request, UNIT)
        # The router calls this while an exception is on its way.
        failed = sys.exc_info()[1] not in (None, self._handled)
        try:
            if not unit.is_joined:
                unit.settle(keep=not failed)
            elif not request.tm.isDoomed() and unit.plan() is not None:
                log.warning(
                    "a session was changed in a transaction that has not "
                    "ended; the change is lost unless somebody commits it"
                )
        except Exception:
            log.exception("a session could not be saved or ended")
        unit.close()
        # Behind the finished callbacks that the application has added.
        request.add_finished_callback(lambda request: unit.report_late())
