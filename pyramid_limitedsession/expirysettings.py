"""The settings of `pyramid_limitedsession.expiry`, used on its own or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .limits import Limits
from .options import EXPIRY, EXPIRY_OPTIONS, OPTIONS
from .reading import (
    PREFIX,
    nearest,
    read_options,
    refuse_if,
    settings_below,
)

_PASSIVE = "passive"


def refuse_others(given: Mapping[str, Any]) -> None:
    """Refuse keys that only the rest of this package would understand.

    For applications that do not include it. Wrong values are told with
    them, so that all wrong keys are in one message.

    Raises:
        ConfigurationError: names every wrong or unknown key.
    """
    ours = settings_below(PREFIX, given)
    known = {f"{EXPIRY}{option.name}" for option in EXPIRY_OPTIONS}
    problems = [
        _unknown(name)
        for name in ours
        if name not in known and name != _PASSIVE
    ]
    _read_limits(ours, problems)
    _read_passive(ours, problems)
    refuse_if(problems)


def read_limits(given: Mapping[str, Any]) -> Limits:
    """Return the limits that the settings name.

    The touch interval follows limited_sessions: five minutes if the idle
    timeout is longer than ten, ten seconds otherwise; a second where it is
    not even that.
    """
    problems: list[str] = []
    limits = _read_limits(settings_below(PREFIX, given), problems)
    refuse_if(problems)
    return limits


def read_passive(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the patterns of paths whose requests count as no activity."""
    problems: list[str] = []
    patterns = _read_passive(settings_below(PREFIX, given), problems)
    refuse_if(problems)
    return patterns


def _unknown(name: str) -> str:
    if name.startswith(EXPIRY):
        near = nearest(name[len(EXPIRY) :], EXPIRY_OPTIONS)
        return (
            f"{PREFIX}{name} is not a setting; did you mean "
            f"{PREFIX}{EXPIRY}{near}?"
        )
    return (
        f"{PREFIX}{name} is no setting of pyramid_limitedsession.expiry, and "
        "this application does not include pyramid_limitedsession; did you "
        f"mean {PREFIX}{EXPIRY}{nearest(name, EXPIRY_OPTIONS)}?"
    )


def _read_limits(ours: Mapping[str, Any], problems: list[str]) -> Limits:
    values = read_options(
        EXPIRY_OPTIONS, settings_below(EXPIRY, ours), EXPIRY, problems
    )
    idle = values["idle_timeout"]
    touch = 300 if idle is None or idle > 600 else 10
    if idle is not None and idle <= touch:
        touch = 1
    return Limits(idle, values["absolute_timeout"], touch)


def _read_passive(
    ours: Mapping[str, Any], problems: list[str]
) -> tuple[str, ...]:
    options = [option for option in OPTIONS if option.name == _PASSIVE]
    values = read_options(options, ours, PREFIX, problems)
    patterns: tuple[str, ...] = values[_PASSIVE]
    return patterns
