"""An application from the official cookiecutter, and its own fixtures.

It is generated from the template that ``TEST_COOKIECUTTER`` names, the path
or the URL of a git repository, and changed as its user would change it. Its
tests run in a process of their own.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

ROOT = Path(__file__).parent.parent
ADDED = ROOT / "tests" / "generated"
TEMPLATE = os.environ.get("TEST_COOKIECUTTER", "")

pytestmark = pytest.mark.skipif(
    not TEMPLATE,
    reason="TEST_COOKIECUTTER names no pyramid-cookiecutter-starter "
    "(the path or the URL of a git repository)",
)


class Project:
    """A generated application.

    :ivar path: its folder.
    """

    def __init__(self, folder):
        self._folder = folder
        self.path = folder / "shop"

    def run(self, *command, cwd=None, expected=0):
        """Run a command as a user would; return what it shows."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "COV_"))
        }
        done = subprocess.run(
            command,
            cwd=cwd or self.path,
            env=environ | {"PYTHONPATH": f"{self.path}:{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert expected in (None, done.returncode), done.stdout
        return done.stdout

    def python(self, *command, **options):
        """Run a module of Python's."""
        return self.run(sys.executable, "-m", *command, **options)

    def generate(self):
        """Answer the template's questions."""
        template = self._folder / "template"
        git = shutil.which("git")
        self.run(git, "clone", "-q", TEMPLATE, str(template), cwd=self._folder)
        config = self._folder / "cookiecutter.yaml"
        config.write_text(f"replay_dir: {self._folder}/replay\n")
        self.python(
            "cookiecutter",
            "--no-input",
            f"--config-file={config}",
            str(template),
            "project_name=Shop",
            "repo_name=shop",
            "backend=sqlalchemy",
            "template_language=jinja2",
            cwd=self._folder,
        )

    def add(self, name, text):
        """Append lines to a file."""
        path = self.path / name
        path.write_text(path.read_text() + text)

    def use_sessions(self):
        """Make the changes that our documentation asks for."""
        package = self.path / "shop" / "__init__.py"
        include = "config.include('pyramid_limitedsession')"
        before, scan, after = package.read_text().partition("config.scan()")
        assert scan
        package.write_text(f"{before}{include}\n        {scan}{after}")
        self.add(
            "shop/models/__init__.py",
            "\n\nfrom pyramid_limitedsession import make_table\n"
            "from .meta import Base\n\nmake_table(Base.metadata)\n",
        )

    def add_views(self):
        """Add a login and its tests."""
        for name in ("login", "logout", "who"):
            route = f"    config.add_route('{name}', '/{name}')\n"
            self.add("shop/routes.py", route)
        shutil.copy(ADDED / "auth.py", self.path / "shop" / "views")
        tests = self.path / "tests"
        shutil.copy(ADDED / "functional.py", tests / "test_sessions.py")

    def install(self):
        """Tell Python that it is a distribution, as pip would."""
        code = "import setuptools; setuptools.setup()"
        self.run(sys.executable, "-W", "ignore", "-c", code, "-q", "egg_info")

    def migrate(self):
        """Follow the generated README: a first revision, and upgrade."""
        alembic = ("alembic", "-c", "development.ini")
        self.python(*alembic, "revision", "--autogenerate", "-m", "init")
        self.python(*alembic, "upgrade", "head")

    def ini(self, name, lines):
        """Write an ini file for tests, with more settings."""
        text = (self.path / "testing.ini").read_text()
        for line in lines.splitlines():
            key = line.partition(" = ")[0]
            text = re.sub(f"^{re.escape(key)} = .*\n", "", text, flags=re.M)
            text = text.replace("[app:main]\n", f"[app:main]\n{line}\n", 1)
        (self.path / name).write_text(text)

    def test(self, ini):
        """Run its tests; return what became of each, by its name."""
        options = ("-v", "-p", "no:cacheprovider", f"--ini={ini}", "tests")
        shown = self.python("pytest", *options, expected=None)
        found = re.findall(r"^tests/(\S+) (\w+)", shown, flags=re.M)
        assert found, shown
        failed = [name for name, outcome in found if outcome != "PASSED"]
        return dict(found), failed, shown


@pytest.fixture(scope="module", name="project")
def _project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("cookiecutter"))
    project.generate()
    project.use_sessions()
    project.add_views()
    project.install()
    project.migrate()
    return project


@pytest.fixture(scope="module", name="schema")
def _schema(databases):
    """The URL of an empty PostgreSQL schema, which is dropped again."""
    name = f"pls_{secrets.token_hex(3)}_shop"
    engine = sa.create_engine(databases.url("postgresql"))
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    yield f"{databases.url('postgresql')}?options=-csearch_path={name}"
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_its_tests_pass(project, database, request):
    """The generated tests pass, and users stay logged in in those added.

    Nothing is left in the database when they have run.
    """
    lines, url = "", f"sqlite:///{project.path}/testing.sqlite"
    if database == "postgresql":
        url = request.getfixturevalue("schema")
        lines = f"sqlalchemy.url = {url}"
    project.ini(f"{database}.ini", lines)
    outcomes, failed, shown = project.test(f"{database}.ini")
    assert [] == failed, shown
    files = {name.partition("::")[0] for name in outcomes}
    assert {"test_functional.py", "test_views.py"} < files
    assert 9 <= len(outcomes)
    assert ["alembic_version"] == tables(url)


def tables(url):
    """Return the names of a database's tables."""
    engine = sa.create_engine(url)
    found = sa.inspect(engine).get_table_names()
    engine.dispose()
    return found


def test_its_tests_in_separate_mode(project):
    """Users stay logged in too; their sessions are committed, and stay."""
    sessions = project.path / "sessions.sqlite"
    url = f"sqlite:///{sessions}"
    project.ini("separate.ini", f"limitedsession.sqlalchemy.url = {url}")
    _, failed, shown = project.test("separate.ini")
    assert [] == failed, shown
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        count = connection.execute(sa.text("SELECT count(*) FROM sessions"))
        assert 1 == count.scalar()
    engine.dispose()


def test_its_migration_is_complete(project):
    """Alembic finds no difference behind the revision it has written."""
    alembic = ("alembic", "-c", "development.ini")
    assert "No new upgrade operations" in project.python(*alembic, "check")
