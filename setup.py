"""Packaging of pyramid_limitedsession."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

testing = [
    "alembic >= 1.12",
    "cookiecutter",
    "cryptography >= 3.4",
    "gunicorn",
    "hypothesis",
    "psycopg2-binary",
    "psycopg[binary]",
    "pymysql",
    # Sessions of other kinds, for the expiry tween.
    "pyramid_beaker",
    "pyramid_debugtoolbar",
    "pyramid_retry",
    "pyramid_session_redis",
    "pytest",
    "pytest-cov",
    "pytest-xdist",
    "redis",
    "repoze.tm2",
    # Python 3.12 has it no more; a generated application is built with it.
    "setuptools >= 61",
    "waitress",
    "webtest",
]

commands = [
    "clear",
    "doctor",
    "init",
    "list",
    "migration",
    "revoke",
    "stats",
    "trim",
    "upgrade",
]

setup(
    name="pyramid_limitedsession",
    version="0.1.0.dev0",
    description=(
        "Server-side sessions for Pyramid in a transaction-managed "
        "SQLAlchemy table, with idle and absolute timeouts"
    ),
    long_description=(here / "README.rst").read_text(encoding="utf-8")
    + "\n\n"
    + (here / "CHANGES.txt").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="MIT",
    license_files=["LICENSE.txt"],
    keywords="pyramid session sqlalchemy transaction timeout expiry",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: Pyramid",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["pyramid_limitedsession*"]),
    package_data={
        "pyramid_limitedsession": ["py.typed"],
        "pyramid_limitedsession.demo": ["templates/*", "static/*"],
    },
    python_requires=">=3.10",
    install_requires=[
        "pyramid >= 2.0",
        "pyramid_tm >= 2.5",
        "SQLAlchemy >= 2.0",
        # 3.0.0 swallows the errors of before-commit hooks.
        "transaction >= 3.0.1",
        "zope.interface >= 5.5",
        "zope.sqlalchemy >= 3.0",
    ],
    extras_require={
        "console": ["rich >= 12.0"],
        "crypto": ["cryptography >= 3.4"],
        "demo": ["pyramid_jinja2 >= 2.10", "waitress >= 2.1"],
        "migrations": ["alembic >= 1.12"],
        "docs": ["docutils >= 0.19", "sphinx >= 6.0"],
        "testing": [*testing, "pyramid_jinja2 >= 2.10", "rich >= 12.0"],
        # Apart, because it is compiled against a client library.
        "mysqlclient": ["mysqlclient >= 2.1"],
    },
    entry_points={
        "console_scripts": [
            f"pls-{name} = pyramid_limitedsession.scripts.{name}:main"
            for name in commands
        ],
        "paste.app_factory": ["demo = pyramid_limitedsession.demo:main"],
    },
)
