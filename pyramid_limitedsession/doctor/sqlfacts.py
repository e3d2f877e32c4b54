"""The SQL of pls-doctor: what a database says about its sessions.

Nothing here changes anything. The work is bounded by one scan of the table
(`look_at_rows`); all else reads catalogues, settings and single rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ..columntypes import MYSQL, text_of
from ..dberrors import translated
from ..deadrows import DeadRows
from ..errors import SessionBusyError, SessionError
from ..limits import Cutoffs
from ..schema import columns_of
from ..sealing import MARK
from ..sqlstore import SqlStore
from .facts import (
    DAY,
    ApplicationFacts,
    RowFacts,
    ServerFacts,
    TableFacts,
    VacuumFacts,
)
from .reflection import quoted, reflected

# Cleaning looks at a row two days after the end of its session at the latest.
_LONGEST_DUE = 2 * DAY
# MySQL's, of a column without a default: that is told by another check.
_NO_DEFAULT = "1364"


def real_table(store: SqlStore) -> sa.Table:
    """Return the table under the name that it has in the database.

    An application may translate schemas by an option of its engine.
    """
    table = store.table
    options = store.engine.get_execution_options()
    schemas = options.get("schema_translate_map") or {}
    schema: Any = schemas.get(table.schema, table.schema)
    if schema == table.schema:
        return table
    return table.to_metadata(sa.MetaData(), schema=schema)


# -- the server --------------------------------------------------------


def look_at_server(store: SqlStore, clock: Callable[[], float]) -> ServerFacts:
    """Return what kind of database it is, and how it is set.

    ``clock`` is the application's, to be compared with the server's.
    """
    name = store.engine.dialect.name
    with store.autocommit() as connection:
        if name == "postgresql":
            version = connection.exec_driver_sql("SHOW server_version")
            return ServerFacts(
                f"PostgreSQL {version.scalar()}",
                ahead=_ahead(
                    connection,
                    "SELECT extract(epoch FROM clock_timestamp())",
                    clock,
                ),
            )
        if name in MYSQL:
            return _mysql(connection, clock)
        version = connection.exec_driver_sql("SELECT sqlite_version()")
        journal = connection.exec_driver_sql("PRAGMA journal_mode")
        return ServerFacts(
            f"SQLite {version.scalar()}", journal=str(journal.scalar())
        )


def _mysql(connection: Connection, clock: Callable[[], float]) -> ServerFacts:
    told = _mysql_variables(connection)
    kind = "MariaDB" if "mariadb" in told["version"].lower() else "MySQL"
    has_log = told.get("log_bin") == "ON"
    return ServerFacts(
        f"{kind} {told['version'].partition('-')[0]}",
        ahead=_ahead(
            connection,
            # In UTC: a local hour may come twice.
            "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', "
            "UTC_TIMESTAMP(6)) / 1e6",
            clock,
        ),
        modes=frozenset(told["sql_mode"].split(",")),
        binlog_format=told.get("binlog_format") if has_log else None,
        most_bytes=int(told["max_allowed_packet"]),
    )


def _mysql_variables(connection: Connection) -> dict[str, str]:
    """Return those that there are: not every server has each."""
    names = (
        *("version", "sql_mode", "log_bin", "binlog_format"),
        *("max_allowed_packet", "innodb_snapshot_isolation"),
    )
    listed = ", ".join(f"'{name}'" for name in names)
    rows = connection.exec_driver_sql(
        f"SHOW VARIABLES WHERE Variable_name IN ({listed})"
    )
    return {str(name): str(value) for name, value in rows}


def _ahead(
    connection: Connection, query: str, clock: Callable[[], float]
) -> float:
    """Return by how much, at least, the server's clock is ahead."""
    before = clock()
    there = float(connection.exec_driver_sql(query).scalar_one())
    after = clock()
    ahead = there - (before + after) / 2
    # It may have answered at any time in between.
    doubt = (after - before) / 2
    return max(ahead - doubt, 0.0) + min(ahead + doubt, 0.0)


# -- the table ---------------------------------------------------------


def look_at_table(store: SqlStore, table: sa.Table) -> TableFacts | None:
    """Return what is there under the table's name; None: nothing."""
    with store.autocommit() as connection:
        found = reflected(connection, table)
        if found is None or _is_lacking(table, found):
            return found
        last = _last_id(connection, table, found)
    return replace(found, last_id=last, refused=dict(_refused(store, table)))


def _is_lacking(table: sa.Table, found: TableFacts) -> bool:
    """Say whether a column is missing without which no row can be found."""
    id_ = table.c.get("id")
    return id_ is not None and id_.name not in found.columns


def _last_id(
    connection: Connection, table: sa.Table, found: TableFacts
) -> int | None:
    id_ = table.c.get("id")
    if id_ is None or found.columns[id_.name].family != "integer":
        return None
    last = connection.execute(sa.select(sa.func.max(id_))).scalar()
    return None if last is None else int(last)


def _refused(store: SqlStore, table: sa.Table) -> Iterator[tuple[str, str]]:
    """Yield each kind of statement that the database refuses, and why.

    They are tried, on no row: rights may come from anywhere.
    """
    # PostgreSQL may refuse an id that it would give itself.
    columns = [column for column in table.c if column.key != "id"]
    # As the database has them: no type of ours changes how they are read.
    names: list[Any] = [sa.column(column.name) for column in columns]
    raw = sa.table(table.name, *names, schema=table.schema)
    nobody = sa.select(*raw.c).where(sa.false())
    tried: dict[str, Any] = {
        "INSERT": table.insert().from_select(columns, nobody),
        "UPDATE": table.update()
        .where(sa.false())
        .values(updated_at=table.c.updated_at),
        "DELETE": table.delete().where(sa.false()),
    }
    for name, statement in tried.items():
        try:
            with translated(table.fullname), store.transaction() as open_:
                open_.execute(statement)
        except SessionBusyError:
            # Somebody else writes, so it can be done.
            return
        except SessionError:
            # A column is missing; that is told by another check.
            return
        except DBAPIError as error:
            if getattr(error.orig, "code", "") != _NO_DEFAULT:
                yield name, str(error.orig)


def look_at_rows(
    store: SqlStore, table: sa.Table, cutoffs: Cutoffs
) -> RowFacts:
    """Return what there is, counted in one scan of the table."""
    c, now = columns_of(table), cutoffs.now
    is_dead = DeadRows(table).is_dead(cutoffs)
    is_due = sa.and_(is_dead, c.expires_at <= now)
    is_unseen = sa.and_(
        is_dead,
        sa.or_(c.expires_at.is_(None), c.expires_at > now + _LONGEST_DUE),
    )
    data = text_of(c.data)
    is_sealed = data.startswith(MARK)
    is_foreign = sa.and_(
        sa.func.substr(data, 1, 1).not_in(["{", ""]), ~is_sealed
    )
    query = sa.select(
        sa.func.count(),
        _count(is_dead),
        sa.func.min(sa.case((is_due, c.expires_at))),
        _count(is_unseen),
        _count(c.session_id.not_like("2::%")),
        _count(is_foreign),
        _count(is_sealed),
    ).select_from(table)
    with store.autocommit() as connection:
        total, dead, oldest, *others = connection.execute(query).one()
    waited = 0 if oldest is None else now - oldest
    return RowFacts(total, dead, waited, *others)


def _count(condition: Any) -> Any:
    return sa.func.count(sa.case((condition, 1)))


def look_at_vacuum(store: SqlStore, table: sa.Table) -> VacuumFacts | None:
    """Return PostgreSQL's statistics; None elsewhere, or if there are none."""
    if store.engine.dialect.name != "postgresql":
        return None
    query = sa.text(
        "SELECT n_live_tup, n_dead_tup FROM pg_stat_user_tables "
        "WHERE relid = to_regclass(:name)"
    )
    with store.autocommit() as connection:
        values = {"name": quoted(connection, table)}
        row = connection.execute(query, values).first()
    return None if row is None else VacuumFacts(int(row[0]), int(row[1]))


# -- the application's own connections ---------------------------------


def look_at_application(bind: Engine | Connection) -> ApplicationFacts:
    """Return how the application's own transactions are isolated.

    On one of its connections: its URL, its engine and its listeners may all
    have a say in that.
    """
    if isinstance(bind, Connection):
        return _application(bind)
    try:
        with bind.connect() as connection:
            return _application(connection)
    finally:
        bind.dispose()


def _application(connection: Connection) -> ApplicationFacts:
    name = connection.dialect.name
    with translated(""), _noted(connection) as statements:
        connection.exec_driver_sql("SELECT 1")
        driver: Any = connection.connection.dbapi_connection
        if name == "sqlite":
            return _sqlite(driver, statements)
        variables = _mysql_variables(connection) if name in MYSQL else {}
        return ApplicationFacts(
            str(connection.get_isolation_level()),
            is_autocommit=_is_autocommit(driver),
            has_snapshot=variables.get("innodb_snapshot_isolation") == "ON",
        )


def _sqlite(driver: Any, statements: list[str]) -> ApplicationFacts:
    # By itself this driver begins no transaction for a SELECT.
    has_begun = bool(driver.in_transaction)
    begins = ["BEGIN"] + [
        " ".join(text.upper().split())
        for text in statements
        if text.upper().lstrip().startswith("BEGIN")
    ]
    return ApplicationFacts(
        "SERIALIZABLE",
        is_autocommit=driver.isolation_level is None and not has_begun,
        begin=begins[-1] if has_begun else None,
    )


def _is_autocommit(driver: Any) -> bool:
    # MySQL's drivers have a method; there "autocommit" is what switches it.
    asked = getattr(driver, "get_autocommit", None)
    return bool(asked() if asked else driver.autocommit)


@contextmanager
def _noted(connection: Connection) -> Iterator[list[str]]:
    """Yield a list to which the texts of statements are added."""
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(connection, "before_cursor_execute", note)
