"""What pls-doctor looks at: the settings, the application, the database."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from pyramid.interfaces import IExecutionPolicy, ITweens
from pyramid.registry import Registry
from pyramid.router import default_execution_policy
from pyramid.scripting import prepare
from pyramid.scripts.common import get_config_loader, parse_vars
from pyramid.settings import asbool
from pyramid.tweens import EXCVIEW
from sqlalchemy.engine import Connection, Engine

from ..doctor.facts import ApplicationFacts, Facts, Public, Wiring
from ..doctor.sqlfacts import (
    look_at_application,
    look_at_rows,
    look_at_server,
    look_at_table,
    look_at_vacuum,
    real_table,
)
from ..engines import is_in_memory
from ..errors import SessionTableError
from ..expiry import TM_TWEEN
from ..factory import UNIT
from ..reading import parts_of
from ..tweens import lifecycle_tween_factory
from .console import Site, sentences

_TWEEN = f"{lifecycle_tween_factory.__module__}.lifecycle_tween_factory"
_TWEENS = {
    _TWEEN: "sessions",
    TM_TWEEN: "transaction",
    EXCVIEW: "exceptions",
}


def facts_of(arguments: argparse.Namespace, site: Site) -> Facts:
    """Return what can be found out.

    It raises nothing: what keeps it from looking is a finding.
    """
    store, settings = site.store, site.factory.settings
    facts = Facts(
        config_uri=site.config_uri,
        settings=settings,
        expected=real_table(store),
        dialect=store.engine.dialect,
        wiring=_wiring(site.registry),
        public=_public_of(arguments),
        is_in_memory=is_in_memory(store.engine),
    )
    if facts.is_in_memory:
        # Another process's: this one has only an empty one of its own.
        return facts
    return _with_database(facts, site)


def _with_database(facts: Facts, site: Site) -> Facts:
    store, table = site.store, facts.expected
    cutoffs = facts.settings.policy.profiles.cutoffs(site.now)
    clock = site.factory.clock
    try:
        facts = replace(facts, server=look_at_server(store, clock))
        # First: who reads a table may tidy up what is counted there.
        facts = replace(facts, vacuum=look_at_vacuum(store, table))
        found = look_at_table(store, table)
        facts = replace(facts, table=found, has_table=found is not None)
        facts = replace(facts, application=_application(site))
        if found is not None:
            rows = look_at_rows(store, table, cutoffs)
            facts = replace(facts, rows=rows)
    except SessionTableError as error:
        if facts.has_table is None:
            # It cannot be made: one that it refers to is missing.
            return replace(facts, problem=error.reason)
        # A column is missing, which is a finding of its own.
        return facts
    except Exception as error:
        told = sentences(error).replace("\n ", ";")
        return replace(facts, problem=told)
    return facts


def _application(site: Site) -> ApplicationFacts | None:
    """Return how the application's own transactions are.

    In separate mode they matter only where they are in the same file.
    """
    bind = _bind(site)
    is_joined = site.factory.settings.url is None
    if bind is None or not (is_joined or _is_same_file(bind, site)):
        return None
    return look_at_application(bind)


def _bind(site: Site) -> Engine | Connection | None:
    try:
        dbsession = getattr(site.request, site.factory.settings.dbsession)
        bind: Engine | Connection = dbsession.get_bind(
            clause=site.store.statements.update
        )
    except Exception:
        # Separate mode: there is none, or one that needs a browser.
        return None
    return bind


def _is_same_file(bind: Engine | Connection, site: Site) -> bool:
    urls = [bind.engine.url, site.store.engine.url]
    if {url.get_backend_name() for url in urls} != {"sqlite"}:
        return False
    try:
        return os.path.samefile(*(url.database or "" for url in urls))
    except OSError:
        return False


def _wiring(registry: Registry) -> Wiring:
    tweens = registry.getUtility(ITweens)
    chain = tweens.explicit or tweens.implicit()
    return Wiring(
        order=tuple(_TWEENS[name] for name, _ in chain if name in _TWEENS),
        attempts=_attempts(registry),
        asks_session=_asks_session(registry),
        has_expiry="expiry" in parts_of(registry),
    )


def _attempts(registry: Registry) -> int | None:
    policy = registry.queryUtility(IExecutionPolicy)
    if policy is None or policy is default_execution_policy:
        return 1
    settings = registry.settings
    is_retry = policy.__module__ == "pyramid_retry"
    if not is_retry or settings.get("retry.activate_hook"):
        return None
    return int(settings["retry.attempts"])


def _asks_session(registry: Registry) -> bool:
    """Try what pyramid_tm does at the begin of each request."""
    if not asbool(registry.settings.get("tm.annotate_user", True)):
        return False
    with prepare(registry=registry) as env:
        request = env["request"]
        # A policy may need a browser.
        with suppress(Exception):
            request.authenticated_userid  # noqa: B018 - a property
        unit = getattr(request, UNIT, None)
        if unit is None:
            return False
        # What the policy itself has put in is not to be stored.
        unit.aborted()
        unit.close()
        return bool(unit.looked)


# -- the public URL ----------------------------------------------------


def public_url(text: str) -> Public:
    """Return what an argument says; the text may hold a password."""
    wrong = argparse.ArgumentTypeError(
        "it is no URL of an application; say it like https://example.com/shop"
    )
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        raise wrong from None
    if url.scheme not in ("http", "https") or not host:
        raise wrong
    return Public(url.scheme, host, url.path or "/")


def _public_of(arguments: argparse.Namespace) -> Public | None:
    """Return what the argument says, and what the ini file does."""
    server = _server(arguments)
    is_https = server.get("url_scheme", "").lower() == "https"
    public: Public | None = arguments.url
    if public is None:
        return Public("https", is_seen=True) if is_https else None
    return replace(
        public, is_seen=is_https or bool(server.get("trusted_proxy"))
    )


def _server(arguments: argparse.Namespace) -> Mapping[str, str]:
    """Return the ini file's section of its server; nothing if it has none."""
    try:
        loader = get_config_loader(arguments.config_uri)
        options = parse_vars(arguments.config_vars)
        found: Mapping[str, str] = loader.get_settings("server:main", options)
    except Exception:
        # It may be in a form of its own.
        return {}
    return found
