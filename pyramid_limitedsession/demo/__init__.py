"""The demo: one page that shows what a session of this package is.

``make serve`` runs it with the settings of ``development.ini``.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

from pyramid.config import Configurator
from pyramid.csrf import new_csrf_token
from pyramid.exceptions import BadCSRFToken
from pyramid.httpexceptions import HTTPFound, HTTPNoContent
from pyramid.request import Request
from pyramid.router import Router
from pyramid.view import exception_view_config, view_config
from sqlalchemy.engine import make_url

from ..reading import PREFIX
from ..tweens import REGISTRY_KEY
from ..usersessions import Summary

PAGE = "templates/home.jinja2"
# Routes whose names are their paths.
NAMES = (
    "start",
    "stay",
    "login",
    "logout",
    "end-others",
    "notes",
    "clear",
    "totals",
)
# The profile of administrators, as development.ini names it.
ADMIN = "admin"
# Seconds before the end at which the page warns, at most.
EARLIEST_WARNING = 60
LONGEST_NAME = 40
LONGEST_NOTE = 200
# Far below what max_data_size allows.
MOST_NOTES = 20


def main(global_config: dict[str, str], **settings: Any) -> Router:
    """Return the demo as a WSGI application."""
    config = Configurator(settings=settings)
    config.include("pyramid_jinja2")
    config.include("pyramid_limitedsession")
    # The token is kept in the session: that is Pyramid's default.
    config.set_default_csrf_options(require_csrf=True)
    config.add_session_timeout_view("/session-timeout")
    config.add_static_view("static", "static")
    config.add_route("home", "/")
    config.add_route("increment", "/increment/{chain:[0-7]}")
    for name in NAMES:
        config.add_route(name, f"/{name}")
    config.scan(__name__)
    return config.make_wsgi_app()


@view_config(route_name="home", renderer=PAGE, http_cache=0)
def home(request: Request) -> dict[str, Any]:
    """Show the page; a visitor without a session gets none by that.

    The forms are left out for such a visitor: their CSRF token would be
    the first thing in a session, and make the row.
    """
    session = request.session
    return {
        **_page(request),
        "forms": not session.new,
        "is_logged_out": session.new and "out" in request.GET,
        "messages": session.pop_flash(),
        "problems": session.pop_flash("problem"),
    }


@view_config(route_name="start", renderer=PAGE, http_cache=0)
def start(request: Request) -> dict[str, Any]:
    """Show the page with its forms, whose CSRF token makes the row."""
    return {**_page(request), "forms": True}


@exception_view_config(BadCSRFToken, renderer=PAGE, http_cache=0)
def refuse(request: Request) -> dict[str, Any]:
    """Tell who sent a form of a session that is over what happened.

    No forms without a session: the transaction of a request that raised is
    rolled back, and a CSRF token made here would be with it.
    """
    request.response.status_int = 400
    forms = not request.session.new
    return {**_page(request), "forms": forms, "is_refused": True}


def _page(request: Request) -> dict[str, Any]:
    factory = request.registry[REGISTRY_KEY]
    age = int(factory.clock()) - request.session.created
    # To ask for a page is activity: what is left is all there is.
    idle, absolute = left = request.session_time_left
    return {
        "session": request.session,
        "age": age,
        "left": left,
        "idle_timeout": _in_words(idle),
        "absolute_timeout": _in_words(
            None if absolute is None else age + absolute
        ),
        "warn_at": _warn_at(idle),
        "own_sessions": _own_sessions(request),
        "has_admins": factory.settings.policy.profiles.is_known(ADMIN),
        "sqlite_file": _sqlite_file(request.registry.settings),
        "longest_name": LONGEST_NAME,
        "longest_note": LONGEST_NOTE,
    }


def _warn_at(idle: int | None) -> int:
    """Return the seconds before the end at which the page warns."""
    if idle is None:
        return EARLIEST_WARNING
    return min(EARLIEST_WARNING, max(idle // 5, 1))


def _own_sessions(request: Request) -> list[Summary]:
    """Return the sessions of the visitor's name, none if he gave none."""
    name = request.session.get("name")
    return [] if name is None else request.user_sessions.list(name)


def _in_words(seconds: int | None) -> str | None:
    """Return ``5 minutes``: the largest unit that needs no fraction."""
    if seconds is None:
        return None
    units = (("hour", 3600), ("minute", 60), ("second", 1))
    word, size = next(unit for unit in units if seconds % unit[1] == 0)
    count = seconds // size
    return f"{count} {word}" + ("s" if count != 1 else "")


def _sqlite_file(settings: dict[str, str]) -> str | None:
    """Return the file that holds the sessions, quoted for a shell."""
    url = make_url(settings[f"{PREFIX}sqlalchemy.url"])
    is_sqlite = url.get_backend_name() == "sqlite"
    return shlex.quote(str(url.database)) if is_sqlite else None


@view_config(route_name="login", request_method="POST")
def log_in(request: Request) -> HTTPFound:
    """Keep the visitor's name; a real application checks a password.

    It is the setting user_key that makes the session one of this user's.
    """
    session = request.session
    name = _field(request, "name", LONGEST_NAME)
    if not name:
        session.flash("Please give a name.", "problem")
        return _back(request)
    session["name"] = name
    session.use_profile(ADMIN if "is_admin" in request.POST else None)
    session.rotate()
    # Who knew the old token may have read the CSRF token with it.
    new_csrf_token(request)
    session.flash(
        f"Hello, {name}. Your cookie holds a new token now and the old one "
        "is worth nothing. Age and content of the session have stayed."
    )
    return _back(request)


@view_config(route_name="logout", request_method="POST")
def log_out(request: Request) -> HTTPFound:
    """End the session, and raise the redirect on purpose.

    pyramid_tm rolls back what a request that raises has changed, but the
    end of a session is carried out all the same. A flash message would not
    be kept: that is why the page learns it from the address.
    """
    request.session.invalidate()
    raise HTTPFound(request.route_path("home", _query={"out": "1"}))


@view_config(route_name="end-others", request_method="POST")
def end_others(request: Request) -> HTTPFound:
    """End the sessions that the visitor has in other browsers."""
    session = request.session
    if "name" in session:
        request.user_sessions.end_all(session["name"])
        session.flash("You are signed out everywhere else.")
    return _back(request)


@view_config(route_name="stay", request_method="POST")
def stay(request: Request) -> HTTPNoContent:
    """Be activity, and nothing else.

    Like every POST here it looks into the session, for the CSRF token.
    """
    return HTTPNoContent()


@view_config(route_name="notes", request_method="POST")
def add_note(request: Request) -> HTTPFound:
    """Append a note, in place: nobody has to say that the list changed."""
    session = request.session
    note = _field(request, "note", LONGEST_NOTE)
    if not note:
        session.flash("Please write something.", "problem")
        return _back(request)
    session.setdefault("notes", []).append(note)
    del session["notes"][:-MOST_NOTES]
    session.flash("Your note is in the session.")
    return _back(request)


@view_config(route_name="clear", request_method="POST")
def clear_notes(request: Request) -> HTTPFound:
    """Remove all notes; the session itself goes on."""
    request.session.pop("notes", None)
    request.session.flash("The notes are gone; the session goes on.")
    return _back(request)


def _field(request: Request, name: str, longest: int) -> str:
    """Return a text, without characters that no keyboard types.

    A name is kept in a column, and not every character can be.
    """
    given = str(request.POST.get(name, ""))
    return "".join(filter(str.isprintable, given)).strip()[:longest]


def _back(request: Request) -> HTTPFound:
    return HTTPFound(request.route_path("home"))


@view_config(route_name="increment", request_method="POST", renderer="json")
def increment(request: Request) -> dict[str, int]:
    """Add one to the counter of one chain of requests."""
    key = f"counter_{int(request.matchdict['chain']):02d}"
    count: int = request.session.get(key, 0)
    # Makes it certain that requests overlap: other chains save theirs
    # between this read and this write, and neither change may be lost.
    time.sleep(0.02)
    request.session[key] = count + 1
    return {"count": count + 1}


@view_config(route_name="totals", renderer="json", http_cache=0)
def totals(request: Request) -> dict[str, int]:
    """Return the sum of the counters."""
    session = request.session
    keys = [key for key in session if key.startswith("counter_")]
    return {"total": sum(session[key] for key in keys)}
