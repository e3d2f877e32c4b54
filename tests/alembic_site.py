"""An application's own Alembic folder, for the tests of migrations.

The folder is made by ``alembic init``, its ``env.py`` is like that of the
official cookiecutter; the ini file is the application's.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy.dialects import mysql

from pyramid_limitedsession.scripts import migration

ENV = """
from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
section = config.get_section("alembic")
engine = engine_from_config(section, "sqlalchemy.", poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=config.attributes.get("metadata"),
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""


class AlembicSite:
    """An ini file, an Alembic folder, a database, and what is called.

    :ivar folder: what ``script_location`` names.
    :ivar engine: connections of the test's own.
    """

    def __init__(
        self, path: Path, capsys: Any, *, url: str, table: str = "sessions"
    ) -> None:
        self.ini = path / "development.ini"
        self.folder = path / "migrations"
        self.url = url
        self.table = table
        self.engine = sa.create_engine(url)
        self._capsys = capsys
        self.app = {
            "use": "call:tests.ini_app:main",
            "limitedsession.table_name": table,
            "app.url": url,
        }
        self.alembic = {
            "script_location": "%(here)s/migrations",
            "sqlalchemy.url": url,
        }
        self.write()
        command.init(self.config(), str(self.folder))
        (self.folder / "env.py").write_text(ENV)

    def write(self) -> None:
        """Write the ini file: ``app``, and ``alembic`` if it is not empty."""
        sections = {"app:main": self.app, "alembic": self.alembic}
        self.ini.write_text(
            "\n".join(
                f"[{name}]\n"
                + "".join(f"{key} = {_ini(section[key])}\n" for key in section)
                for name, section in sections.items()
                if section
            )
        )

    def config(self, **attributes: Any) -> Config:
        """Return Alembic's configuration, as its command line makes it."""
        quiet = argparse.Namespace(quiet=True)
        return Config(str(self.ini), cmd_opts=quiet, attributes=attributes)

    # -- commands ------------------------------------------------------

    def call(self, *arguments: str, ini: str = "") -> Any:
        """Call pls-migration; return its exit code, stdout and stderr."""
        self._capsys.readouterr()
        try:
            code: Any = migration.main([ini or str(self.ini), *arguments])
        except SystemExit as exit_:
            code = exit_.code
        return code, *self._capsys.readouterr()

    def facts(self, *arguments: str) -> Any:
        """Call it with --json; return what it tells."""
        code, out, err = self.call("--json", *arguments)
        assert (0, "") == (code, err)
        return json.loads(out)

    def upgrade(self, to: str = "head") -> None:
        """Run alembic upgrade."""
        command.upgrade(self.config(), to)

    def downgrade(self, to: str = "-1") -> None:
        """Run alembic downgrade."""
        command.downgrade(self.config(), to)

    def revise(self, message: str, **options: Any) -> Script:
        """Write a revision of the application's own, that does nothing."""
        written = command.revision(self.config(), message, **options)
        assert isinstance(written, Script)
        return written

    # -- what is there -------------------------------------------------

    def files(self) -> list[Path]:
        """Return the revisions that were written."""
        return sorted((self.folder / "versions").glob("*.py"))

    def scripts(self) -> ScriptDirectory:
        """Return Alembic's view of them."""
        return ScriptDirectory.from_config(self.config())

    def differences(self, metadata: sa.MetaData, **options: Any) -> list[Any]:
        """Return what autogenerate finds."""
        return differences(self.engine, metadata, **options)

    def run(self, *statements: str) -> None:
        """Run statements of an operator."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def sql(self, name: str) -> str:
        """Return what SQLite remembers of a table."""
        query = sa.text("SELECT sql FROM sqlite_master WHERE name = :name")
        with self.engine.connect() as connection:
            return str(connection.execute(query, {"name": name}).scalar())


def differences(
    engine: sa.Engine, metadata: sa.MetaData, **options: Any
) -> list[Any]:
    """Return what autogenerate finds, with all that it can compare."""
    # SQLite describes a table as the connection last saw it.
    engine.dispose()
    given = {"compare_type": True, "compare_server_default": True, **options}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=given)
        return list(compare_metadata(context, metadata))


@contextmanager
def empty_place(databases: Any, database: str, path: Path) -> Iterator[Any]:
    """Yield the name and the URL of an empty place; it is removed again.

    A file, a PostgreSQL schema or a MariaDB database: Alembic's own table
    has the same name in all tests.
    """
    name = f"pls_{secrets.token_hex(4)}_place"
    if database == "sqlite":
        yield "main", f"sqlite:///{path / name}.sqlite"
        return
    url = sa.make_url(databases.url(database))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    if database == "postgresql":
        url = url.update_query_dict({"options": f"-csearch_path={name}"})
    else:
        url = url.set(database=name)
    yield name, url.render_as_string(hide_password=False)
    cascade = " CASCADE" if database == "postgresql" else ""
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name}{cascade}")
    engine.dispose()


def _ini(text: str) -> str:
    """Return a text as an ini file has it, unless it starts with %(name)s."""
    return text if text.startswith("%(") else text.replace("%", "%%")


# -- earlier versions, as they were ----------------------------------------

MYSQL = ("mysql", "mariadb")
# 1: the first; 2: an id is never given out twice on SQLite.
VERSIONS = (1, 2)
ADDED = ("user_id", "profile", "ended")


def old_table(version: int, name: str, schema: str | None = None) -> sa.Table:
    """Return a table as an earlier version of this package made it."""
    key, data = (
        sa.String(80).with_variant(
            mysql.VARCHAR(80, charset="ascii", collation="ascii_bin"), *MYSQL
        ),
        sa.Text().with_variant(
            mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MYSQL
        ),
    )
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("session_id", key, nullable=False),
        sa.Column("data", data, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime, nullable=True),
        sa.UniqueConstraint("session_id", name=f"uq_{name}_session_id"),
        sa.Index(f"ix_{name}_expires_at", "expires_at"),
        schema=schema,
        sqlite_autoincrement=version >= 2,
    )
