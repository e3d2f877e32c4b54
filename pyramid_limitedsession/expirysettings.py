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
    unknown,
)

_PASSIVE = "passive"


def read_expiry_settings(
    given: Mapping[str, Any], *, is_alone: bool
) -> tuple[Limits, tuple[str, ...]]:
    """Return the limits, and the paths whose requests are passive.

    The touch interval follows limited_sessions: five minutes if the idle
    timeout is longer than ten, ten seconds otherwise; a second where it is
    not even that.

    Args:
        given: the application's settings.
        is_alone: the rest of this package is not included: keys that only
            it would understand are unknown.

    Raises:
        ConfigurationError: names every wrong or unknown key.
    """
    ours = settings_below(PREFIX, given)
    problems = _unknown(ours) if is_alone else []
    values = read_options(
        EXPIRY_OPTIONS, settings_below(EXPIRY, ours), EXPIRY, problems
    )
    options = [option for option in OPTIONS if option.name == _PASSIVE]
    passive = read_options(options, ours, "", problems)[_PASSIVE]
    refuse_if(problems)
    idle = values["idle_timeout"]
    touch = 300 if idle is None or idle > 600 else 10
    if idle is not None and idle <= touch:
        touch = 1
    return Limits(idle, values["absolute_timeout"], touch), passive


def _unknown(ours: Mapping[str, Any]) -> list[str]:
    known = {f"{EXPIRY}{option.name}" for option in EXPIRY_OPTIONS}
    return [
        unknown(name, EXPIRY_OPTIONS, EXPIRY)
        if name.startswith(EXPIRY)
        else (
            f"{PREFIX}{name} is no setting of pyramid_limitedsession.expiry, "
            "and this application does not include pyramid_limitedsession; "
            f"did you mean {PREFIX}{EXPIRY}{nearest(name, EXPIRY_OPTIONS)}?"
        )
        for name in ours
        if name not in known and name != _PASSIVE
    ]
