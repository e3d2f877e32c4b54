"""What the registry is notified of; subscribe with ``add_subscriber``.

No event holds a token, a key or session data.
"""

from __future__ import annotations

from typing import Any, Literal

Ended = Literal["idle", "absolute", "revoked", "limit", "unreadable"]


class SessionRefused:
    """A browser has presented a session that is not accepted any more.

    Notified once per request, at its first look into the session, which is
    a new and empty one then. (An attempt of pyramid_retry is a request.)

    :ivar request: the request.
    :ivar reason: as in ``session.ended``.
    """

    def __init__(self, request: Any, reason: Ended) -> None:
        self.request = request
        self.reason = reason


class SessionExpired(SessionRefused):
    """It was not used for too long ("idle"), or is too old ("absolute")."""


class SessionRevoked(SessionRefused):
    """Somebody ended it ("revoked"), or its user has too many ("limit")."""


class SessionUnreadable(SessionRefused):
    """What is stored cannot be read ("unreadable")."""


def refused(request: Any, reason: Ended) -> SessionRefused:
    """Return the event for this reason."""
    if reason == "unreadable":
        return SessionUnreadable(request, reason)
    if reason in ("revoked", "limit"):
        return SessionRevoked(request, reason)
    return SessionExpired(request, reason)
