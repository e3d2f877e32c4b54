"""What an answer tells caches about its session."""

from __future__ import annotations

import logging

from pyramid.response import Response

log = logging.getLogger(__name__)


def vary_by_cookie(response: Response) -> None:
    """Tell caches that the answer depends on the session."""
    vary = response.vary or ()
    if "*" not in vary and "cookie" not in {name.lower() for name in vary}:
        response.vary = (*vary, "Cookie")


def forbid_caching(response: Response) -> None:
    """Keep an answer that carries a cookie out of shared caches."""
    control = response.cache_control
    if control.public:
        log.warning(
            "an answer that sets the session cookie said 'public'; it is "
            "sent as 'no-store'"
        )
        control.public = None
    if not control.private:
        control.no_store = True
