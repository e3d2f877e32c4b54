"""The settings of the table: where the sessions are, and what contradicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .layout import Layout, names_of
from .modeltypes import is_json
from .options import COLUMN, PROFILE
from .reading import PREFIX

ENGINE_PREFIX = "sqlalchemy."
# What says where and how a table of ours is used.
_OF_TABLE = (
    *("dbsession", "create_table", "lock_timeout", "table_name", "schema"),
    *("columns", "model", "column_values"),
)


def as_layout(values: dict[str, Any], names: dict[str, str]) -> Layout:
    """Return where the sessions are kept."""
    model: Layout | None = values["model"]
    return model or Layout(
        values["table_name"],
        values["schema"],
        names_of(values["columns"], names),
    )


def contradictions_of_table(
    ours: Mapping[str, Any],
    values: dict[str, Any],
    names: dict[str, str],
    named: dict[str, dict[str, Any]],
) -> list[str]:
    """Return what does not go together, nor with a column that is missing.

    ``ours``: what is set; ``names`` of columns; ``named`` profiles.
    """
    model, layout = values["model"], as_layout(values, names)
    problems = []
    if model:
        told = ("table_name", "schema", "columns")
        problems += [
            f"{PREFIX}{key} cannot be set beside {PREFIX}model, which says "
            "it already; take it out"
            for key in ours
            if key in told or key.startswith(COLUMN)
        ]
    elif values["column_values"]:
        problems.append(
            f"{PREFIX}column_values needs a {PREFIX}model that has those "
            "columns; say it like 'myapp.models.WebSession'"
        )
    problems += _contradictions_of_names(ours, layout, names, bool(model))
    needs = (
        ("profile", f"{PROFILE}NAME", named),
        ("user_id", "max_sessions_per_user", values["max_sessions_per_user"]),
    )
    problems += [
        f"{PREFIX}{setting} needs the column {name!r}, which the table does "
        "not have"
        for name, setting, is_used in needs
        if is_used and not layout.has(name)
    ]
    return problems + _contradictions_of_data(values)


def _contradictions_of_names(
    ours: Mapping[str, Any],
    layout: Layout,
    names: dict[str, str],
    has_model: bool,
) -> list[str]:
    """Return names that two columns have, or a column that is not there."""
    used = list(layout.names.values())
    return [
        f"{PREFIX}{COLUMN}{name} cannot be {called!r}: another column has "
        f"that name; say it like 'the_{name}'"
        for name, called in layout.names.items()
        if used.count(called) > 1
    ] + [
        f"{PREFIX}{COLUMN}{key} is of a column that {PREFIX}columns does not "
        "name; say it there too, or take it out"
        for key in names
        if f"{COLUMN}{key}" in ours and not (has_model or layout.has(key))
    ]


def _contradictions_of_data(values: dict[str, Any]) -> list[str]:
    """Return that an application's own column does not fit the serializer."""
    model: Layout | None = values["model"]
    is_native = values["serializer"].is_native
    if model is None or is_json(model.types["data"]) == is_native:
        return []
    if is_native:
        return [
            f"{PREFIX}serializer = null needs a {PREFIX}model whose data is "
            "a column of JSON; say it like 'json', or declare it so"
        ]
    return [
        f"{PREFIX}model has a column of JSON for its data, which only "
        f"{PREFIX}serializer = null writes; say it like 'null', or declare "
        "it as Text"
    ]


def contradictions_of_store(
    ours: Mapping[str, Any], values: dict[str, Any]
) -> list[str]:
    """Return what is set of a table that is not used."""
    if values["store"] is None:
        return []
    return [
        f"{PREFIX}{key} cannot be set beside {PREFIX}store, which keeps "
        "sessions in its own way; take it out"
        for key in ours
        if key in _OF_TABLE or key.startswith((ENGINE_PREFIX, COLUMN))
    ]
