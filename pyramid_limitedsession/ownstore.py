"""A store of the application's own: made once, at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

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
    made, problem = None, ""
    try:
        made = make_store(settings)
    except Exception as error:
        problem = f"it raised {_told(error)}"
    problem = problem or _problem(made)
    if problem:
        # Here, where no error is its cause or context: those are printed.
        raise ConfigurationError(f"{SETTING} made no store: {problem}")
    return cast(Store, made)


def _told(error: Exception) -> str:
    """Return what may be told of an error: its class, seldom its text.

    That of any other than these may quote a URL with a password.
    """
    name = type(error).__name__
    is_harmless = isinstance(error, (ConfigurationError, ImportError))
    return f"{name}: {error}" if is_harmless else name


def _problem(made: object) -> str:
    missing = [
        name for name in _METHODS if not callable(getattr(made, name, None))
    ]
    kind = shown(type(made).__name__)
    returned = f"it returned an object of type {kind}"
    if missing:
        return f"{returned}, which has no method {', '.join(missing)}"
    if not isinstance(getattr(made, "commits_last", None), bool):
        return f"{returned}, whose commits_last is neither True nor False"
    return ""
