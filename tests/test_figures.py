"""What activity costs: the figures of docs/limits.rst, counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "limits.rst"
FIGURES = [
    ("10m", "auto", 333),
    ("2h", "auto", 166),
    ("30d", "auto", 166),
    ("30d", "1h", 2),
]


def writes(world, seconds, requests=1000):
    """Return the writes of so many reading requests of one session."""

    @world.on("set")
    def _(request):
        request.session["a"] = 1
        return {}

    @world.on("get")
    def _(request):
        return request.session["a"]

    browser = world.browser()
    browser.get("/set")
    world.count()
    for _ in range(requests):
        world.clock.pass_(seconds)
        browser.get("/get")
    verbs = world.count()
    assert requests == verbs.count("SELECT")
    return len(verbs) - requests


@pytest.mark.parametrize(("idle", "touch", "expected"), FIGURES)
def test_writes_per_1000_requests(make_world, idle, touch, expected):
    """One request every ten seconds: at most one write per interval."""
    world = make_world(
        settings={
            "limitedsession.idle_timeout": idle,
            "limitedsession.touch_interval": touch,
        }
    )
    assert expected == writes(world, 10)


def test_one_request_a_minute_is_written_each(make_world):
    """As often as the interval of sixty seconds allows."""
    assert 100 == writes(make_world(), 60, requests=100)


def test_the_figures_are_in_the_docs():
    """The table in the docs is the one that is counted here."""
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("``touch_interval``  writes")[2]
    shown = re.findall(
        r"^\d+ \w+ .* (\d+)$", table.partition("Profiles")[0], re.M
    )
    assert [str(figure[2]) for figure in FIGURES] == shown
