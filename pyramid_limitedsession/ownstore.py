"""A store of the application's own: made once, at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyramid.exceptions import ConfigurationError

from .errors import shown
from .reading import PREFIX
from .store import Store

SETTING = f"{PREFIX}store"
_METHODS = [name for name in vars(Store) if not name.startswith("_")]


def make_own_store(
    make_store: Callable[[Mapping[str, Any]], Any] | None,
    settings: Mapping[str, Any],
) -> Store | None:
    """Return what the setting's function makes of the app's settings.

    None if there is no such setting.

    Raises ConfigurationError if it fails, or makes something else.
    """
    if make_store is None:
        return None
    try:
        made = make_store(settings)
    except Exception as error:
        # Its text may quote a URL with a password.
        raise ConfigurationError(
            f"{SETTING} made no store: it raised {type(error).__name__}"
        ) from error
    problem = _problem(made)
    if problem:
        kind = shown(type(made).__name__)
        raise ConfigurationError(
            f"{SETTING} made no store: it returned an object of type {kind}, "
            f"{problem}"
        )
    store: Store = made
    return store


def _problem(made: object) -> str:
    missing = [
        name for name in _METHODS if not callable(getattr(made, name, None))
    ]
    if missing:
        return f"which has no method {', '.join(missing)}"
    if not isinstance(getattr(made, "commits_last", None), bool):
        return "whose commits_last is neither True nor False"
    return ""
