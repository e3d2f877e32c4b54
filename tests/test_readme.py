"""What README.rst says is true: its application, its table, its names."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from importlib.metadata import distribution
from pathlib import Path

import pytest

import pyramid_limitedsession
from pyramid_limitedsession.options import OPTIONS, settings_table
from tests.commands import COMMANDS, main_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.rst").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the README's block of this language."""
    found = re.search(
        rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", README
    )
    assert found is not None
    return textwrap.dedent(found[1]).strip() + "\n"


@pytest.fixture(name="served")
def _served(tmp_path):
    """The README's application, served by pserve as the README says."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    (tmp_path / "app.py").write_text(block("python"))
    ini = block("ini").replace("6543", str(port))
    (tmp_path / "app.ini").write_text(ini)
    server = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore"),
            *("-m", "pyramid.scripts.pserve", "app.ini"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield tmp_path, f"http://localhost:{port}/", server
    finally:
        server.terminate()
        server.wait(timeout=30)


def get(url, server, cookie=None):
    """Return the answer, once the server is up."""
    request = urllib.request.Request(url)  # noqa: S310 - our own server
    if cookie:
        request.add_header("Cookie", cookie)
    for _ in range(200):
        assert server.poll() is None
        try:
            answer = urllib.request.urlopen(request)  # noqa: S310 - the same
        except urllib.error.URLError:
            # It starts in another process: there is no clock to hand in.
            time.sleep(0.1)
            continue
        with answer:
            return answer.headers, answer.read().decode()
    raise AssertionError("the server did not start")


def shape(text: str) -> str:
    """Return a text with its random parts and its times made equal."""
    text = re.sub(r"session=[\w-]{43};", "session=TOKEN;", text)
    text = re.sub(r"2::[0-9a-f]{64}", "2::HASH", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    return re.sub(r"Date: .*", "Date: now", text)


def test_the_application_does_what_the_readme_shows(served):
    """The README's Set-Cookie, headers, body and row are what one gets."""
    _, url, server = served
    headers, body = get(url, server)
    shown = [line for line in block("http").splitlines()[1:] if line]
    # The test's client closes the connection, which curl does not.
    del headers["Connection"]
    given = [f"{name}: {value}" for name, value in headers.items()]
    assert sorted(shape("\n".join(shown[:-1])).splitlines()) == sorted(
        shape("\n".join(given)).splitlines()
    )
    assert shown[-1] == body
    cookie = headers["Set-Cookie"].partition(";")[0]
    _, body = get(url, server, cookie)
    assert '{"visits": 2, "left": 1800}' == body


def test_the_row_is_what_the_readme_shows(served):
    """The README's row, column by column."""
    folder, url, server = served
    get(url, server)
    with sqlite3.connect(folder / "sessions.sqlite") as connection:
        cursor = connection.execute("SELECT * FROM sessions")
        names = [column[0] for column in cursor.description]
        (row,) = cursor.fetchall()
    connection.close()
    given = [
        f"{name} = {'' if value is None else value}".strip()
        for name, value in zip(names, row, strict=True)
    ]
    shown = [line.strip() for line in block("text").splitlines()]
    assert shape("\n".join(shown)) == shape("\n".join(given))


def test_the_settings_table_is_the_one_in_force():
    """The README's table of settings is made from the table of options."""
    assert settings_table() in README


def test_everything_public_is_documented():
    """Each setting, script, directive and public name is in README or docs."""
    docs = "".join(
        path.read_text(encoding="utf-8")
        for path in [ROOT / "README.rst", *(ROOT / "docs").glob("*.rst")]
    )
    names = [
        *pyramid_limitedsession.__all__,
        *(option.name for option in OPTIONS),
        *COMMANDS,
        "set_session_clock",
    ]
    assert [] == [name for name in names if name not in docs]


def test_every_command_is_installed():
    """Each module of commands is one, and setup.py makes a script of it."""
    scripts = distribution("pyramid_limitedsession").entry_points
    assert sorted(COMMANDS) == sorted(
        script.name for script in scripts if script.name.startswith("pls-")
    )
    assert all(script.load() for script in scripts if script.name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name, capsys):
    """Each option that --help shows has its line in docs/commands.rst."""
    with pytest.raises(SystemExit):
        main_of(name)(["--help"])
    shown = set(re.findall(r"--[a-z]+(?:-[a-z]+)*", capsys.readouterr().out))
    docs = (ROOT / "docs" / "commands.rst").read_text(encoding="utf-8")
    common, *parts = re.split(r"\n(pls-[a-z]+)\n-+\n", docs)
    part = common + parts[parts.index(name) + 1]
    told = set(re.findall(r"``(--[a-z]+(?:-[a-z]+)*)", part))
    assert shown - {"--", "--version"} == shown & told


def test_every_public_name_exists():
    """``__all__`` is sorted, and each of its names can be imported."""
    names = pyramid_limitedsession.__all__
    assert sorted(names) == names
    assert [] == [n for n in names if not hasattr(pyramid_limitedsession, n)]
