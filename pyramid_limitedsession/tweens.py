"""The life-cycle tween, above the transaction.

When the outcome is known it makes durable what must survive an abort,
writes the activity, and now and then deletes a batch of expired rows. All
request state is in locals and on the request's unit.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from pyramid.path import DottedNameResolver
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from webob import Response as BaseResponse

from .cleaning import Cleaner
from .errors import after_commit
from .factory import (
    ANSWERED,
    EXTERNAL,
    FOUND,
    OWNER,
    UNIT,
    SessionFactory,
    is_managed,
    run_last,
)
from .unitofwork import Unit

try:
    from pyramid_retry import is_error_retryable
except ImportError:  # pragma: no cover - pyramid_retry is not installed

    def is_error_retryable(request: Request, error: Exception) -> bool:
        """Nobody replays a request."""
        return False


log = logging.getLogger(__name__)

REGISTRY_KEY = "pyramid_limitedsession"


def lifecycle_tween_factory(
    handler: Callable[[Request], Response], registry: Registry
) -> Callable[[Request], Response]:
    """Return the tween; see the module's text."""
    factory: SessionFactory = registry[REGISTRY_KEY]
    settle = _settling(handler, registry)

    def lifecycle_tween(request: Request) -> Response:
        if factory.owner_of(request) is not request:
            # A subrequest: its parent's session is in its parent's hands.
            return handler(request)
        request.environ[OWNER] = request
        try:
            return settle(request)
        finally:
            request.environ.pop(OWNER, None)

    return lifecycle_tween


def _settling(
    handler: Callable[[Request], Response], registry: Registry
) -> Callable[[Request], Response]:
    """Return a handler that settles the session when the other one is done."""
    count = _counting(Cleaner(registry[REGISTRY_KEY]))
    veto = registry.settings.get("tm.commit_veto")
    commit_veto = DottedNameResolver().maybe_resolve(veto) if veto else None

    def settle(request: Request) -> Response:
        request.environ[EXTERNAL] = is_managed(request)
        request.add_finished_callback(count)
        run_last(request, _mark_answered)
        try:
            response = handler(request)
        except BaseException as error:
            unit = _unit(request)
            if unit is None:
                raise
            _settle_failed(request, unit, error)
            if unit.failure is not error or is_error_retryable(request, error):
                raise
            # pyramid_tm asks who the user is, above the exception views: a
            # security policy may have looked at the session there.
            return request.invoke_exception_view(sys.exc_info(), reraise=True)
        unit = _unit(request)
        if unit is None or not unit.looked:
            return response
        rendered = getattr(request, "exception", None)
        if rendered is not None and is_error_retryable(request, rendered):
            _leave(request, unit)
            return response
        unit.give_up()
        try:
            with after_commit():
                unit.settle(
                    keep=_is_kept(request, response, commit_veto),
                    why=_hint(rendered, commit_veto),
                )
        except Exception:
            # The application's exception views are below this tween.
            return request.invoke_exception_view(sys.exc_info(), reraise=True)
        return response

    return settle


def _counting(cleaner: Cleaner) -> Callable[[Request], None]:
    """Return a finished callback that counts who has used his session.

    A response callback may have been the first to do so.
    """

    def count(request: Request) -> None:
        unit = _unit(request)
        if unit is not None and unit.looked:
            cleaner.count(unit.place.store)

    return count


def _unit(request: Request) -> Unit | None:
    return getattr(request, UNIT, None)


def _mark_answered(request: Request, response: Response) -> None:
    """Response callback: a session first asked for later is too late."""
    setattr(request, ANSWERED, True)


def _leave(request: Request, unit: Unit) -> None:
    """Leave the session to the next attempt, which gets the same environ.

    If it is ended or rotated until then, that attempt must no more bring it
    back than this one, and send no cookie: the browser has a better one.
    """
    if unit.stored.record is not None:
        request.environ[FOUND] = unit.stored.token
    unit.close()


def _settle_failed(request: Request, unit: Unit, error: BaseException) -> None:
    """Carry out what must survive an unhandled exception."""
    try:
        unit.give_up()
        if is_error_retryable(request, error):
            _leave(request, unit)
        else:
            unit.settle(keep=False)
    except Exception:
        # The application's own error is what must reach its callers.
        log.exception("a session could not be ended")


def _hint(rendered: object, commit_veto: object) -> str:
    """Return what a warning adds if a raised response rolled it back.

    Of those that pyramid_tm's default veto would commit, that is.
    """
    if commit_veto is not None or not isinstance(rendered, BaseResponse):
        return ""
    if rendered.status_int >= 400:
        return ""
    return (
        f"; 'raise {type(rendered).__name__}' does that unless "
        "tm.commit_veto is set"
    )


def _is_kept(
    request: Request,
    response: Response,
    commit_veto: Callable[[Request, Response], bool] | None,
) -> bool:
    """Say whether changes that no transaction of ours decided are kept.

    By pyramid_tm's own rules: where somebody else manages the transaction
    a test sees what production would do, and a failed request keeps
    nothing where there is no transaction.
    """
    if commit_veto is not None:
        return not commit_veto(request, response)
    return getattr(request, "exception", None) is None
