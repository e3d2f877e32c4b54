"""Private database servers, which a test may stop, crash and make read-only.

Each is made in a folder of its own and listens on a port that nobody else
can take while the server is down.

``python -m tests.servers make test`` runs a command beside servers that are
there for it alone: continuous integration depends on no other's, and what a
commit costs there is not the disk.
"""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sqlalchemy as sa

# For a server to come up, or to go down. Far more than it takes.
PATIENCE = 60
_PR_SET_PDEATHSIG = 1


class NotInstalledError(Exception):
    """A program of the server is not on this machine."""


class Server:
    """A server of our own, which runs."""

    # Servers refuse to run as root: who they run as then.
    account: str
    # The user who has all rights.
    admin: str
    stopping = signal.SIGINT
    crashing = signal.SIGKILL

    def __init__(self) -> None:
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            self._as = {
                "user": self.account,
                "group": self.account,
                "extra_groups": [],
            }
        self._process: subprocess.Popen[bytes] | None = None
        self._find()
        self._holder, self.port = _hold_port()
        # Not in pytest's folder, into which only its own user may look.
        self.folder = Path(tempfile.mkdtemp(prefix="pls"))
        try:
            if self._as:
                shutil.chown(self.folder, self.account, self.account)
            self._make()
            self.start()
            self.administer(*self._first_statements())
        except BaseException:
            self.close()
            raise

    def _find(self) -> None:
        """Find the programs, or raise NotInstalledError."""
        raise NotImplementedError

    def _make(self) -> None:
        """Make the files of an empty server."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        """Return what starts the server in the foreground."""
        raise NotImplementedError

    def _first_statements(self) -> list[str]:
        """Return what is executed once."""
        raise NotImplementedError

    def url_of(self, user: str, database: str | None = None) -> str:
        """Return the URL for a user; None: of his usual database."""
        raise NotImplementedError

    def set_read_only(self, is_on: bool) -> None:
        """Let the application write no more, or again."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The URL for an application, whose user may only make tables."""
        return self.url_of("app")

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
                **self._as,
            )
        self._wait()

    def stop(self) -> None:
        """Stop it in order; who is connected is thrown out."""
        self._end(self.stopping)

    def crash(self) -> None:
        """Let it die without a chance to write anything."""
        self._end(self.crashing)

    def close(self) -> None:
        """Kill it and delete what is left of it."""
        self.crash()
        shutil.rmtree(self.folder)
        self._holder.close()

    def administer(self, *statements: str) -> list[Any]:
        """Execute statements as the admin; return the last one's rows."""
        engine = sa.create_engine(
            self.url_of(self.admin), isolation_level="AUTOCOMMIT"
        )
        rows: list[Any] = []
        try:
            with engine.connect() as connection:
                for statement in statements:
                    result = connection.exec_driver_sql(statement)
                    rows = list(result) if result.returns_rows else []
        finally:
            engine.dispose()
        return rows

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    @property
    def log(self) -> str:
        """What the server has said."""
        return self._log.read_text(errors="replace")

    def _run(self, *command: str) -> None:
        with self._log.open("ab") as log:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                timeout=PATIENCE,
                **self._as,
            )

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.administer()
            except sa.exc.OperationalError:
                # Nothing tells that another process is ready but asking.
                time.sleep(0.01)
            else:
                return
        raise AssertionError(self.log)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE)


class PostgreSQL(Server):
    """A PostgreSQL cluster."""

    account = "postgres"
    admin = "admin"
    # Its "immediate shutdown"; after SIGKILL its children would live on.
    crashing = signal.SIGQUIT

    def _find(self) -> None:
        newest_first = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[::-1]
        self._initdb = _program("initdb", *newest_first)
        self._postgres = _program("postgres", *newest_first)

    def _make(self) -> None:
        self._run(
            self._initdb,
            f"--pgdata={self.folder}/data",
            f"--username={self.admin}",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        )

    def _command(self) -> list[str]:
        # Without fsync (-F) a commit survives a crash of the server, though
        # not one of the machine.
        settings = f"-D {self.folder}/data -p {self.port} -h 127.0.0.1 -F"
        return [self._postgres, *settings.split(), "-k", ""]

    def _first_statements(self) -> list[str]:
        return [
            "CREATE ROLE app LOGIN",
            "GRANT ALL ON SCHEMA public TO app",
        ]

    def url_of(self, user: str, database: str | None = None) -> str:
        """See `Server`."""
        where = f"127.0.0.1:{self.port}/{database or 'postgres'}"
        return f"postgresql+psycopg://{user}@{where}"

    def set_read_only(self, is_on: bool) -> None:
        """See `Server`. It holds for connections that are open, too."""
        name, value = "default_transaction_read_only", "on" if is_on else "off"
        self.administer(f"ALTER SYSTEM SET {name} = {value}")
        self.administer("SELECT pg_reload_conf()")
        end = time.monotonic() + PATIENCE
        while self.administer(f"SHOW {name}") != [(value,)]:
            assert time.monotonic() < end


class MariaDB(Server):
    """A MariaDB server."""

    account = "mysql"
    admin = "root"
    stopping = signal.SIGTERM

    def _find(self) -> None:
        folders = ("/usr/sbin", "/usr/libexec")
        self._install = _program("mariadb-install-db", *folders)
        self._mariadbd = _program("mariadbd", *folders)

    def _make(self) -> None:
        self._run(
            self._install,
            "--no-defaults",
            f"--datadir={self.folder}/data",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=4M",
            "--innodb-flush-method=nosync",
        )

    def _command(self) -> list[str]:
        # A commit is written to the log but not flushed: as above.
        return [
            self._mariadbd,
            "--no-defaults",
            f"--datadir={self.folder}/data",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--skip-name-resolve",
            # As Debian and MySQL 8 have it.
            "--character-set-server=utf8mb4",
            "--innodb-log-file-size=4M",
            "--innodb-buffer-pool-size=8M",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-flush-method=nosync",
            "--innodb-fast-shutdown=2",
        ]

    def _first_statements(self) -> list[str]:
        return [
            "CREATE DATABASE test",
            "CREATE USER app@127.0.0.1",
            "GRANT ALL ON test.* TO app@127.0.0.1",
        ]

    def url_of(self, user: str, database: str | None = None) -> str:
        """See `Server`."""
        # To encrypt would be most of the time that a connection takes.
        usual = "test" if user == "app" else "mysql"
        where = f"127.0.0.1:{self.port}/{database or usual}"
        return f"mysql+pymysql://{user}@{where}?ssl_disabled=1"

    def set_read_only(self, is_on: bool) -> None:
        """See `Server`. It does not hold for the admin."""
        self.administer(f"SET GLOBAL read_only = {int(is_on)}")


class Servers:
    """The private servers of one run; each is made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Server] = {}
        self._end = ExitStack()

    def get(self, name: str) -> Server:
        """Return a server that runs. Raises NotInstalledError."""
        if name not in self._made:
            kinds = {"postgresql": PostgreSQL, "mariadb": MariaDB}
            self._made[name] = kinds[name]()
            self._end.callback(self._made[name].close)
        self._made[name].start()
        return self._made[name]

    def close(self) -> None:
        """Kill them all, whatever happens to one of them."""
        self._end.close()


def _program(name: str, *folders: str) -> str:
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        raise NotInstalledError(f"{name} is not installed")
    return found


def _hold_port() -> tuple[socket.socket, int]:
    """Return a free port, and the socket that keeps it for a server of ours.

    Bound but not listening, the socket keeps everybody from being given the
    port, while Linux lets a server listen on it. Elsewhere it is let go.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    if sys.platform != "linux":
        holder.close()
    return holder, port


def _die_with_parent() -> None:
    """Let a child not outlive us, should we be killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def main(command: list[str]) -> int:
    """Run a command that finds its databases here; return its exit code."""
    servers = Servers()
    try:
        found = {name: servers.get(name) for name in ("postgresql", "mariadb")}
        found["postgresql"].administer("CREATE DATABASE test")
        urls = {
            f"TEST_{name.upper()}": server.url_of(server.admin, "test")
            for name, server in found.items()
        }
        code = subprocess.run(command, env=os.environ | urls).returncode
        for name, server in found.items():
            try:
                server.administer("SELECT 1")
            except sa.exc.OperationalError:
                print(f"{name} has died:", server.log, sep="\n")
        return code
    finally:
        servers.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
