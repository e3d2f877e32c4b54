"""What an application's views say and ask about sessions.

The same for sessions of this package and for those that only the expiry
tween limits; both parts include this one.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Protocol, get_args

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IViewDeriver
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.viewderivers import INGRESS
from zope.interface import provider

from .events import Ended
from .limits import TimeLeft

HEADER = "X-Session-Passive"
# In the registry: the patterns of the setting "passive".
PASSIVE_PATHS = "pyramid_limitedsession.passive"
# On a request: what the expiry tween knows of its session.
LIMITED = "_limitedsession_limited"
# On a request that has reached its view: whether that has the option
# session_activity=False.
_PASSIVE = "_limitedsession_passive"
_NO = ("", "0", "false", "no", "off")

View = Callable[[Any, Request], Response]


class Limited(Protocol):
    """What the expiry tween leaves on a request.

    :ivar ended: why it has ended the session, or None.
    :ivar time_left: what its limits leave to the session.
    """

    ended: Ended | None
    time_left: TimeLeft


def includeme(config: Configurator) -> None:
    """Add what views need.

    - the view option ``session_activity=False``;
    - the view predicate ``session_ended="idle"``, also with a tuple;
    - ``request.session_ended`` and ``request.session_time_left``;
    - the directive ``config.add_session_timeout_view(path)``.
    """
    config.add_view_deriver(
        # Above the view's permission: a refused poll is a poll.
        activity_deriver,
        "session_activity",
        under=INGRESS,
        over="secured_view",
    )
    config.add_view_predicate("session_ended", SessionEndedPredicate)
    config.add_request_method(session_ended, property=True)
    config.add_request_method(session_time_left, property=True)
    config.add_directive("add_session_timeout_view", add_session_timeout_view)


# -- passive requests --------------------------------------------------


@provider(IViewDeriver)
def activity_deriver(view: View, info: Any) -> View:
    """Let the view that a request reaches say whether it is passive."""
    is_activity = info.options.get("session_activity", True)
    if not isinstance(is_activity, bool):
        raise ConfigurationError(
            f"session_activity cannot be {is_activity!r}; say it like False"
        )

    def deciding_view(context: Any, request: Request) -> Response:
        # The view that answers decides, not one that it renders in a part.
        if getattr(request, _PASSIVE, None) is None:
            setattr(request, _PASSIVE, not is_activity)
        return view(context, request)

    return deciding_view


activity_deriver.options = ("session_activity",)


def is_passive(request: Request) -> bool:
    """Say whether a request reads its session without being activity.

    It is, if its view has the option ``session_activity=False``, if its path
    matches one of the setting ``passive``, or if it has the header
    ``X-Session-Passive: true``. Whoever sends that header makes his own
    session end sooner, nothing else.
    """
    if getattr(request, _PASSIVE, False):
        return True
    if request.headers.get(HEADER, "").strip().lower() not in _NO:
        return True
    patterns = request.registry.get(PASSIVE_PATHS, ())
    return bool(patterns) and _matches(request, patterns)


def _matches(request: Request, patterns: tuple[str, ...]) -> bool:
    try:
        path = request.path_info
    except UnicodeDecodeError:
        # No route has it either.
        return False
    return any(fnmatchcase(path, pattern) for pattern in patterns)


# -- a reason for the end ----------------------------------------------


def session_ended(request: Request) -> Ended | None:
    """Return why the session that the browser presented is over, or None.

    Looks into the session.
    """
    ended: Ended | None = getattr(request.session, "ended", None)
    limited: Limited | None = getattr(request, LIMITED, None)
    return ended or (limited.ended if limited else None)


class SessionEndedPredicate:
    """View predicate: the presented session is over for one of the reasons."""

    def __init__(self, value: str | tuple[str, ...], info: Any) -> None:
        self._reasons = (value,) if isinstance(value, str) else tuple(value)
        known = get_args(Ended)
        for reason in self._reasons:
            if reason not in known:
                raise ConfigurationError(
                    f"session_ended cannot be {reason!r}; it is one of "
                    + ", ".join(map(repr, known))
                )

    def text(self) -> str:
        """Return the predicate as Pyramid's tools show it."""
        return f"session_ended = {', '.join(self._reasons)}"

    phash = text

    def __call__(self, context: Any, request: Request) -> bool:
        """Look into the request's session."""
        return session_ended(request) in self._reasons


# -- the time that is left ---------------------------------------------


def session_time_left(request: Request) -> TimeLeft:
    """Return the seconds until each limit ends the request's session.

    Counted from this request, if it is activity, and from the last one
    before it otherwise. Looks into the session.
    """
    left: TimeLeft = getattr(
        request.session, "time_left", TimeLeft(None, None)
    )
    limited: Limited | None = getattr(request, LIMITED, None)
    return left.or_less(limited.time_left) if limited else left


def add_session_timeout_view(
    config: Configurator,
    path: str,
    *,
    route_name: str = "session_timeout",
    **options: Any,
) -> None:
    """Add a view that tells a front end how much time is left.

    It answers as JSON, uncached, and is no activity; a request for it keeps
    no session alive, and does not take the cookie of one that is over, so
    that the next page can still say why.

    Args:
        config: the application's.
        path: the path of its route, for instance ``/session-timeout``.
        route_name: the route's name.
        options: further ones for ``config.add_view``. It needs no permission
            if none is given: it tells a visitor of his own session only.
    """
    options.setdefault("permission", NO_PERMISSION_REQUIRED)
    config.add_route(route_name, path)
    config.add_view(
        session_timeout,
        route_name=route_name,
        renderer="json",
        session_activity=False,
        **options,
    )


def session_timeout(request: Request) -> dict[str, Any]:
    """Return what is left of the visitor's session.

    ``active`` is false if there is none; ``ended`` says why it is over, if
    it is; ``idle`` and ``absolute`` are seconds, None where there is no such
    limit.
    """
    request.response.cache_control.no_store = True
    ended = session_ended(request)
    is_active = ended is None and not request.session.new
    left = session_time_left(request) if is_active else TimeLeft(None, None)
    return {
        "active": is_active,
        "ended": ended,
        "idle": left.idle,
        "absolute": left.absolute,
    }
