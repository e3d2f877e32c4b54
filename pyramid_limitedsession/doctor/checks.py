"""All checks of pls-doctor: from facts to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import databasechecks as database
from . import setupchecks as setup
from . import tablechecks as table
from .facts import Elsewhere, Facts, Level, Told, Unknown


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    :ivar level: "error": it does not work, or not safely; "warning": it
        will hurt; "hint": it could be better.
    :ivar name: the check's.
    :ivar text: what is wrong.
    :ivar cure: what to do about it.
    """

    level: Level
    name: str
    text: str
    cure: str


@dataclass(frozen=True)
class Check:
    """One check.

    :ivar look: yields what it finds; raises `Unknown` where that could not
        be found out, `Elsewhere` where there is nothing to check.
    :ivar sentence: what is true if it finds nothing, for the docs.
    """

    name: str
    look: Callable[[Facts], Iterator[Told]]
    sentence: str


CHECKS = (
    Check(
        "database",
        database.database_answers,
        "The database answers, and is not in the memory of one process.",
    ),
    Check(
        "table",
        table.table_exists,
        "The table is there.",
    ),
    Check(
        "columns",
        table.columns_exist,
        "The table has each column.",
    ),
    Check(
        "types",
        table.types_fit,
        "On servers, each column keeps what is put into it: it is of the "
        "right kind, long enough, and has no time zone.",
    ),
    Check(
        "nulls",
        table.nulls_fit,
        "What a session may lack may be NULL, and no other column keeps "
        "it from being stored.",
    ),
    Check(
        "ids",
        table.ids_fit,
        "Ids are a primary key, given by the database, never twice, and "
        "have 64 bits.",
    ),
    Check(
        "size",
        table.data_fits,
        "Data of ``max_data_size`` fits its column (LONGTEXT on MariaDB "
        "and MySQL) and one statement (``max_allowed_packet``).",
    ),
    Check(
        "unique",
        table.key_is_unique,
        "``session_id`` is unique, so that a load is one look into an index.",
    ),
    Check(
        "indexes",
        table.indexes_exist,
        "``expires_at`` has an index, for cleaning, and ``user_id``, for "
        "the lists of a user's sessions.",
    ),
    Check(
        "updated_at",
        table.activity_has_no_index,
        "No index contains ``updated_at``, which moves with each activity, "
        "unless there is no ``expires_at``.",
    ),
    Check(
        "collation",
        table.collations_are_binary,
        "On MariaDB and MySQL, ``session_id`` and ``user_id`` are "
        "compared byte by byte.",
    ),
    Check(
        "engine",
        table.engine_has_transactions,
        "On MariaDB and MySQL, the table's engine is InnoDB.",
    ),
    Check(
        "rights",
        table.writes_are_allowed,
        "The database lets the application INSERT, UPDATE and DELETE; "
        "tried on no row.",
    ),
    Check(
        "sql_mode",
        database.server_is_strict,
        "On MariaDB and MySQL, ``sql_mode`` is strict: nothing is cut to fit.",
    ),
    Check(
        "binlog",
        database.log_takes_writes,
        "On MariaDB and MySQL, the binary log is not in the format STATEMENT.",
    ),
    Check(
        "clock",
        database.clocks_agree,
        "The clocks of the application and of its server differ by less "
        "than 5 seconds (300 and more are an error).",
    ),
    Check(
        "isolation",
        database.isolation_fits,
        "In joined mode, the dbsession's isolation level refuses no "
        "write, or pyramid_retry is there.",
    ),
    Check(
        "journal",
        database.journal_lets_read,
        "A SQLite file on which the application issues its own BEGIN is "
        "in WAL mode.",
    ),
    Check(
        "trim",
        database.somebody_cleans,
        "With ``self_clean = 0``, no dead row has waited for cleaning for "
        "two days: somebody runs ``pls-trim``.",
    ),
    Check(
        "dead_rows",
        database.cleaning_keeps_up,
        "At most half of the rows, or at most ``self_clean`` of them, are "
        "dead, or none has waited for cleaning for a day.",
    ),
    Check(
        "unseen_rows",
        database.cleaning_sees_all,
        "No dead row will be left alone by self-cleaning for days: limits "
        "were not longer, or off, when it was written.",
    ),
    Check(
        "vacuum",
        database.space_is_freed,
        "PostgreSQL counts fewer dead tuples than live ones, or fewer "
        "than 10,000.",
    ),
    Check(
        "legacy_ids",
        database.ids_are_hashed,
        "``legacy_ids`` is on as long as there are plain ids, and no longer.",
    ),
    Check(
        "serializer",
        database.contents_are_read,
        "``serializer`` is ``hybrid`` as long as there is content that is "
        "no JSON, and no longer.",
    ),
    Check(
        "tweens",
        setup.tweens_are_in_order,
        "Our tween runs above pyramid_tm's, and that above exception views.",
    ),
    Check(
        "retry",
        setup.conflicts_are_replayed,
        "With ``on_conflict = retry``, pyramid_retry is included, and "
        "tries more than once.",
    ),
    Check(
        "expiry",
        setup.expiry_is_not_needed,
        "``pyramid_limitedsession.expiry`` is not included beside "
        "sessions of this package.",
    ),
    Check(
        "policy",
        setup.user_is_not_asked,
        "``tm.annotate_user`` is off if the security policy looks into "
        "the session; it is asked about a request without a cookie.",
    ),
    Check(
        "cookie_secure",
        setup.cookie_fits_scheme,
        "``cookie_secure`` fits the scheme of ``--url``, or of "
        "``url_scheme`` in ``[server:main]``.",
    ),
    Check(
        "cookie_place",
        setup.cookie_fits_place,
        "``cookie_domain`` and ``cookie_path`` hold the application at "
        "``--url``.",
    ),
    Check(
        "cookie_httponly",
        setup.cookie_is_hidden,
        "``cookie_httponly`` is on.",
    ),
    Check(
        "limits",
        setup.sessions_end,
        "A limit is on, in each profile.",
    ),
    Check(
        "idle_timeout",
        setup.idle_limit_acts,
        "``idle_timeout`` is shorter than ``absolute_timeout``, in each "
        "profile.",
    ),
    Check(
        "touch_interval",
        setup.touches_are_frequent,
        "``touch_interval`` is at most a fifth of ``idle_timeout``, in "
        "each profile.",
    ),
    Check(
        "cookie_max_age",
        setup.cookies_last,
        "``cookie_max_age`` is not shorter than ``idle_timeout``, in each "
        "profile.",
    ),
    Check(
        "self_clean",
        setup.cleaning_can_keep_up,
        "``self_clean_batch`` is at least ``self_clean``.",
    ),
    Check(
        "max_data_size",
        setup.data_has_a_limit,
        "``max_data_size`` is on.",
    ),
)


@dataclass(frozen=True)
class Report:
    """What came of all checks.

    :ivar fine: the names of those that found nothing.
    :ivar skipped: the names of those that could not be made.
    """

    findings: tuple[Finding, ...]
    fine: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def made(self) -> int:
        """How many checks were made."""
        found = {finding.name for finding in self.findings}
        return len(found) + len(self.fine)

    def count(self, level: Level) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def check(facts: Facts) -> Report:
    """Make all checks."""
    findings: list[Finding] = []
    fine, skipped = [], []
    for each in CHECKS:
        try:
            told = list(each.look(facts))
        except Unknown:
            skipped.append(each.name)
        except Elsewhere:
            continue
        else:
            findings += [
                Finding(level, each.name, text, cure)
                for level, text, cure in told
            ]
            if not told:
                fine.append(each.name)
    return Report(tuple(findings), tuple(fine), tuple(skipped))


def checks_table() -> str:
    """Return the table of docs/doctor.rst as reStructuredText."""
    rows = [
        "   * - check\n     - finds nothing if",
        *(
            f"   * - ``{each.name}``\n     - {each.sentence}"
            for each in CHECKS
        ),
    ]
    return (
        ".. list-table::\n   :header-rows: 1\n   :widths: 22 78\n\n"
        + "\n".join(rows)
        + "\n"
    )
