"""Checks of the settings, and of how the application is put together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ..options import PROFILE
from ..profiles import Profile
from ..reading import PREFIX
from .facts import Elsewhere, Facts, Public, Told

# An idle session may last longer by this part of its limit, without a hint.
_LARGEST_TOUCH = 1 / 5


# -- tweens and policies -----------------------------------------------


def tweens_are_in_order(facts: Facts) -> Iterator[Told]:
    """Find tweens in another order than sessions need."""
    order = facts.wiring.order
    if not {"sessions", "transaction"} <= set(order) or (
        order.index("sessions") > order.index("transaction")
    ):
        yield (
            "error",
            "the tween of sessions does not run above pyramid_tm's, and does "
            "not learn what became of the transaction",
            f"in pyramid.tweens, name {_TWEENS}",
        )
    elif "exceptions" in order and (
        order.index("exceptions") < order.index("transaction")
    ):
        yield (
            "warning",
            "exception views run above pyramid_tm's tween: a response that "
            "is raised, as a redirect, is never committed, and what an "
            "exception view puts into the session is saved all the same",
            f"in pyramid.tweens, name {_TWEENS}",
        )


_TWEENS = (
    "pyramid_limitedsession.tweens.lifecycle_tween_factory "
    "pyramid_tm.tm_tween_factory pyramid.tweens.excview_tween_factory, in "
    "this order"
)


def conflicts_are_replayed(facts: Facts) -> Iterator[Told]:
    """Find conflicts that nobody resolves."""
    is_retry = facts.settings.policy.on_conflict == "retry"
    if is_retry and facts.wiring.attempts == 1:
        yield (
            "error",
            "limitedsession.on_conflict is retry, and nobody replays the "
            "request: each conflict is an error for the visitor",
            "config.include('pyramid_retry'), with retry.attempts = 3, or "
            "set limitedsession.on_conflict = merge",
        )


def expiry_is_not_needed(facts: Facts) -> Iterator[Told]:
    """Find a second set of the same limits."""
    if facts.wiring.has_expiry:
        yield (
            "hint",
            "pyramid_limitedsession.expiry is included too; sessions of "
            "this package have the same limits without it",
            "take the include of pyramid_limitedsession.expiry out, and set "
            "limitedsession.idle_timeout and absolute_timeout",
        )


def user_is_not_asked(facts: Facts) -> Iterator[Told]:
    """Find that each request loads its session."""
    if facts.wiring.asks_session:
        yield (
            "hint",
            "pyramid_tm asks the security policy for the user, and that "
            "looks into the session: each request loads it, and counts as "
            "activity, also for a static file and for a page not found",
            "set tm.annotate_user = false",
        )


# -- the cookie --------------------------------------------------------


def cookie_fits_scheme(facts: Facts) -> Iterator[Told]:
    """Find a Secure flag that is missing or in the way."""
    public = _public(facts)
    secure = facts.settings.cookie.secure
    if public.scheme == "https" and secure is False:
        yield (
            "error",
            "browsers send the cookie without encryption too: "
            "limitedsession.cookie_secure is false, on a site with https",
            "set limitedsession.cookie_secure = true",
        )
    elif public.scheme == "https" and secure is None and not public.is_seen:
        yield (
            "hint",
            "the cookie is Secure only where the application sees https, "
            "which a proxy may hide from it",
            "set limitedsession.cookie_secure = true",
        )
    elif public.scheme == "http" and secure and not _is_local(public.host):
        yield (
            "error",
            "browsers drop the cookie: limitedsession.cookie_secure is "
            "true, on a site without https",
            "use https, or set limitedsession.cookie_secure = auto",
        )


def cookie_fits_place(facts: Facts) -> Iterator[Told]:
    """Find a cookie that browsers do not send everywhere."""
    public, cookie = _public(facts), facts.settings.cookie
    if public.host is None:
        raise Elsewhere
    if cookie.domain and not _is_within(public.host, cookie.domain):
        yield (
            "error",
            f"browsers drop the cookie: {public.host} is not within "
            f"limitedsession.cookie_domain, {cookie.domain}",
            "take limitedsession.cookie_domain out",
        )
    if not _is_below(public.path, cookie.path):
        yield (
            "error",
            f"browsers do not send the cookie to {public.path}: it is not "
            f"below limitedsession.cookie_path, {cookie.path}",
            "take limitedsession.cookie_path out",
        )


def cookie_is_hidden(facts: Facts) -> Iterator[Told]:
    """Find a cookie that scripts can read."""
    if not facts.settings.cookie.httponly:
        yield (
            "warning",
            "every script in a page can read the token: "
            "limitedsession.cookie_httponly is false",
            "set limitedsession.cookie_httponly = true",
        )


def _public(facts: Facts) -> Public:
    if facts.public is None:
        raise Elsewhere
    return facts.public


def _is_local(host: str | None) -> bool:
    """Say whether browsers trust a host without https."""
    address = _address(host or "")
    if address is not None:
        return address.is_loopback
    return host == "localhost" or (host or "").endswith(".localhost")


def _address(
    host: str,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_within(host: str, domain: str) -> bool:
    """Say whether a host is a cookie's domain, or within it (RFC 6265)."""
    domain = domain.lower().removeprefix(".")
    if host == domain:
        return True
    return _address(host) is None and host.endswith(f".{domain}")


def _is_below(path: str, cookie_path: str) -> bool:
    """Say whether a cookie with this path is sent to a path (RFC 6265)."""
    folder = cookie_path if cookie_path.endswith("/") else f"{cookie_path}/"
    return path == cookie_path or path.startswith(folder)


# -- limits ------------------------------------------------------------


def sessions_end(facts: Facts) -> Iterator[Told]:
    """Find sessions without any limit."""
    for start, profile in _profiles(facts):
        if profile.limits.idle is None and profile.limits.absolute is None:
            yield (
                "warning",
                f"sessions never end: {start}idle_timeout and "
                "absolute_timeout are off",
                f"set {start}idle_timeout = 2h",
            )


def idle_limit_acts(facts: Facts) -> Iterator[Told]:
    """Find an idle limit that ends nothing."""
    for start, profile in _profiles(facts):
        idle, absolute = profile.limits.idle, profile.limits.absolute
        if absolute is None:
            continue
        if idle is None:
            yield (
                "hint",
                f"{start}idle_timeout is off: a session that was left alone "
                f"lasts for all of its {absolute} seconds",
                f"set {start}idle_timeout = 30m",
            )
        elif idle >= absolute:
            yield (
                "hint",
                f"{start}idle_timeout never ends a session: it is not "
                f"shorter than absolute_timeout, {absolute} seconds",
                f"set {start}idle_timeout = {max(absolute // 2, 1)}",
            )


def touches_are_frequent(facts: Facts) -> Iterator[Told]:
    """Find idle sessions that last much longer than they should."""
    for start, profile in _profiles(facts):
        idle, touch = profile.limits.idle, profile.limits.touch_interval
        # With one second the end is exact, whatever the limit.
        if idle and touch > 1 and touch > idle * _LARGEST_TOUCH:
            yield (
                "hint",
                f"idle sessions last up to {touch - 1} seconds longer than "
                f"{start}idle_timeout, {idle} seconds, because of "
                "touch_interval",
                f"set {PREFIX}touch_interval = auto",
            )


def cookies_last(facts: Facts) -> Iterator[Told]:
    """Find cookies that go before their sessions."""
    for start, profile in _profiles(facts):
        idle, age = profile.limits.idle, profile.cookie_max_age
        if idle and isinstance(age, int) and age < idle:
            yield (
                "hint",
                f"browsers forget the cookie after {start}cookie_max_age, "
                f"{age} seconds, before idle_timeout ends the session",
                f"set {start}cookie_max_age = auto",
            )


def _profiles(facts: Facts) -> Iterator[tuple[str, Profile]]:
    """Yield the profiles, and how the keys of their settings begin."""
    profiles = facts.settings.policy.profiles
    yield PREFIX, profiles.default
    for name, profile in profiles.named.items():
        # What is wrong without a profile is not told once more.
        if profile != profiles.default:
            yield f"{PREFIX}{PROFILE}{name}.", profile


def cleaning_can_keep_up(facts: Facts) -> Iterator[Told]:
    """Find self-cleaning that deletes less than is created."""
    settings = facts.settings
    if settings.self_clean_batch < settings.self_clean:
        yield (
            "warning",
            f"one request in {settings.self_clean} deletes "
            f"{settings.self_clean_batch} rows at most: where each request "
            "makes a session, cleaning does not keep up",
            f"set {PREFIX}self_clean_batch = auto",
        )


def data_has_a_limit(facts: Facts) -> Iterator[Told]:
    """Find that nothing ends the growth of a session."""
    if facts.settings.policy.max_data_size is None:
        yield (
            "hint",
            f"{PREFIX}max_data_size is off: nothing ends the growth of a "
            "session, which each request reads and writes as a whole",
            f"set {PREFIX}max_data_size = 64KiB",
        )
