"""Checks of the database: how it is set, and what is in the table."""

from __future__ import annotations

from collections.abc import Iterator

from ..columntypes import MYSQL
from ..limits import CLOCK_SKEW
from ..serializers import HybridSerializer, JSONSerializer
from .facts import (
    DAY,
    ApplicationFacts,
    Elsewhere,
    Facts,
    Told,
    known,
)
from .repairs import Repairs

# Seconds of which NTP would not let two clocks differ.
_SUSPICIOUS = 5
# Seconds for which a row may be due for cleaning.
_LONGEST_WAIT = DAY
# Who trims does so once a day, perhaps, and this one has not been at it yet.
_LONGEST_WAIT_FOR_TRIM = 2 * DAY
# Fewer dead rows than this autovacuum may leave for later.
_MANY_DEAD = 10_000
_STRICT = frozenset(
    {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES", "TRADITIONAL"}
)
_ABOVE_READ_COMMITTED = ("REPEATABLE READ", "SERIALIZABLE")


# -- the server --------------------------------------------------------


def database_answers(facts: Facts) -> Iterator[Told]:
    """Find that there is no database, or not one for all processes."""
    if facts.is_in_memory:
        yield (
            "warning",
            "the database is in the memory of a process: each process has "
            "sessions of its own, which end with it",
            "keep sessions in a file or on a server",
        )
    elif facts.problem is not None:
        yield (
            "error",
            f"the database cannot be used: {facts.problem}",
            "start it, or correct what that names: the URL of the "
            "application's database, its schema, or a table that is missing",
        )


def server_is_strict(facts: Facts) -> Iterator[Told]:
    """Find that a server cuts what is too long."""
    facts.require(*MYSQL)
    if not known(facts.server).modes & _STRICT:
        yield (
            "warning",
            "sql_mode is not strict: what does not fit a column is cut "
            "without an error",
            "let the server be strict, sql_mode = STRICT_TRANS_TABLES, or "
            "the connections: add sql_mode=STRICT_TRANS_TABLES to the query "
            "of the database's URL",
        )


def log_takes_writes(facts: Facts) -> Iterator[Told]:
    """Find that a server refuses writes at READ COMMITTED."""
    facts.require(*MYSQL)
    if known(facts.server).binlog_format == "STATEMENT":
        yield (
            "error",
            "the server refuses to write at READ COMMITTED, as our own "
            "connections do, with binlog_format = STATEMENT",
            "let it be MIXED, the default, or ROW: "
            "SET GLOBAL binlog_format = 'MIXED'; and the same in the "
            "server's configuration",
        )


def clocks_agree(facts: Facts) -> Iterator[Told]:
    """Find that one of two clocks is wrong."""
    server = known(facts.server)
    if server.ahead is None:
        # The database is on this very machine.
        raise Elsewhere
    seconds = abs(server.ahead)
    if seconds >= _SUSPICIOUS:
        which = "ahead of" if server.ahead > 0 else "behind"
        yield (
            "error" if seconds >= CLOCK_SKEW else "warning",
            f"the database's clock is {seconds:.0f} s {which} the "
            "application's: one of them is wrong, and sessions end by the "
            "application's",
            "let NTP run on both machines",
        )


# -- the application's own transactions --------------------------------


def isolation_fits(facts: Facts) -> Iterator[Told]:
    """Find an isolation level that refuses writes nobody replays."""
    if not facts.is_joined:
        raise Elsewhere
    application = known(facts.application)
    if application.is_autocommit:
        yield (
            "error",
            "the dbsession's engine is in autocommit mode: nothing is ever "
            "rolled back",
            "take isolation_level = AUTOCOMMIT from its options",
        )
    elif _refuses(facts, application) and facts.wiring.attempts == 1:
        yield (
            "error",
            f"{_isolation(application)} refuses a change of a session that "
            "another request has changed, or only used, meanwhile, and "
            "nobody replays the request",
            "config.include('pyramid_retry'), or "
            + _lower_isolation(application),
        )


def _refuses(facts: Facts, application: ApplicationFacts) -> bool:
    """Say whether a write may be refused because of an old picture."""
    if facts.dialect.name == "sqlite":
        return _begins_late(application)
    if facts.dialect.name not in MYSQL:
        return application.level in _ABOVE_READ_COMMITTED
    return application.level == "SERIALIZABLE" or (
        application.level == "REPEATABLE READ" and application.has_snapshot
    )


def _begins_late(application: ApplicationFacts) -> bool:
    """Say whether SQLite's transactions read before they lock."""
    begin = application.begin
    return begin is not None and not begin.startswith(
        ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE")
    )


def _isolation(application: ApplicationFacts) -> str:
    if application.begin is not None:
        return f"SQLite, where the application issues {application.begin},"
    with_snapshot = application.has_snapshot and (
        application.level == "REPEATABLE READ"
    )
    added = " with innodb_snapshot_isolation" if with_snapshot else ""
    return f"the dbsession's isolation level, {application.level}{added},"


def _lower_isolation(application: ApplicationFacts) -> str:
    if application.begin is not None:
        return "issue BEGIN IMMEDIATE"
    return "isolation_level = READ COMMITTED for the dbsession's engine"


def journal_lets_read(facts: Facts) -> Iterator[Told]:
    """Find that SQLite's readers and writers wait for each other."""
    facts.require("sqlite")
    journal = known(known(facts.server).journal)
    if facts.application is None:
        # The application's own data is somewhere else.
        raise Elsewhere
    if journal.lower() != "wal" and _begins_late(facts.application):
        yield (
            "warning",
            f"the application issues {facts.application.begin} and the file "
            "is not in WAL mode: a request that has read and one that "
            "commits can wait for each other until lock_timeout",
            "PRAGMA journal_mode = WAL;",
        )


# -- rows --------------------------------------------------------------


def somebody_cleans(facts: Facts) -> Iterator[Told]:
    """Find that nobody deletes dead rows."""
    rows = known(facts.rows)
    if facts.settings.self_clean or rows.waited < _LONGEST_WAIT_FOR_TRIM:
        return
    yield (
        "warning",
        "limitedsession.self_clean is 0, and nobody else deletes dead rows: "
        f"one has been due for {told_days(rows.waited)}",
        "set limitedsession.self_clean = 1000, or let cron run "
        f"{facts.command('pls-trim')} daily",
    )


def cleaning_keeps_up(facts: Facts) -> Iterator[Told]:
    """Find that dead rows become more and more."""
    rows = known(facts.rows)
    # So many may come to lie there between two self-cleanings.
    is_usual = rows.dead <= facts.settings.self_clean
    is_small_part = rows.dead * 2 <= rows.total
    if is_usual or is_small_part or rows.waited < _LONGEST_WAIT:
        return
    yield (
        "warning",
        f"{rows.dead} of {rows.total} rows are dead, and the oldest that is "
        f"due for cleaning has waited for {told_days(rows.waited)}",
        f"run {facts.command('pls-trim')} now, and daily from cron",
    )


def cleaning_sees_all(facts: Facts) -> Iterator[Told]:
    """Find dead rows that self-cleaning does not look at."""
    rows = known(facts.rows)
    if rows.unseen:
        yield (
            "hint",
            f"{rows.unseen} dead rows were written when limits were longer "
            "or off; self-cleaning does not look at them for days, or ever",
            f"run {facts.command('pls-trim')} once",
        )


def space_is_freed(facts: Facts) -> Iterator[Told]:
    """Find that PostgreSQL's table grows with each UPDATE."""
    facts.require("postgresql")
    vacuum = known(facts.vacuum)
    if vacuum.dead >= max(_MANY_DEAD, vacuum.live):
        yield (
            "warning",
            f"the table has {vacuum.dead} dead tuples beside {vacuum.live} "
            "live ones: autovacuum does not keep up",
            Repairs(facts.expected, facts.dialect).vacuum(),
        )


def ids_are_hashed(facts: Facts) -> Iterator[Told]:
    """Find plain ids that are not found, or are not there."""
    plain = known(facts.rows).plain
    accepts = facts.settings.policy.legacy_ids
    if accepts and not plain:
        yield (
            "hint",
            "limitedsession.legacy_ids is on, and no plain id is left in "
            "the table",
            "take limitedsession.legacy_ids out",
        )
    elif plain and accepts:
        yield (
            "hint",
            f"{plain} rows have plain ids, which are cookies for whoever "
            "reads the table",
            f"run {facts.command('pls-upgrade')}",
        )
    elif plain:
        yield (
            "warning",
            f"{plain} rows have plain ids, as another system stores them; "
            "their sessions are not found",
            "set limitedsession.legacy_ids = true, and run "
            f"{facts.command('pls-upgrade')}",
        )


def contents_are_read(facts: Facts) -> Iterator[Told]:
    """Find pickles that are not read, or are not there."""
    rows = known(facts.rows)
    foreign = rows.foreign
    serializer = facts.settings.policy.serializer
    if not isinstance(serializer, JSONSerializer):
        raise Elsewhere
    is_hybrid = isinstance(serializer, HybridSerializer)
    # What is encrypted may be a pickle: only its browser can tell.
    if is_hybrid and not foreign and not rows.sealed:
        yield (
            "hint",
            "limitedsession.serializer is hybrid, and all content is JSON",
            "take limitedsession.serializer out",
        )
    elif foreign and not is_hybrid:
        yield (
            "warning",
            f"the content of {foreign} rows is no JSON and is not read",
            "if another system has pickled it, set "
            "limitedsession.serializer = hybrid",
        )


def told_days(seconds: int) -> str:
    """Return a time of some days, for texts."""
    return f"{seconds // DAY} d" if seconds >= DAY else f"{seconds} s"
