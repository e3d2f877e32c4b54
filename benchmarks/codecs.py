"""What it costs to turn a session into text and back, and to encrypt it.

Contenders take turns in one process, in batches of some milliseconds of the
processor's time. Each batch is compared with that of the first contender in
the same round, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pickle
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from pyramid_limitedsession.scripts.console import positive
from pyramid_limitedsession.sealing import Encrypting, Plain, Sealer
from pyramid_limitedsession.serializers import JSONSerializer
from pyramid_limitedsession.tokens import make_token

from . import report, rst
from .content import SIZES, content_of
from .website import Site

COMMAND = "bench-codecs"
# A batch takes about so long, in seconds.
_BATCH = 0.004
_PLAIN = "json, of the standard library"
_OURS = "json, as this package uses it"
_CHECKED = "orjson, behind our checks"
_SEALING = "dumps, seal, open, loads"

Work = Callable[[], object]
# Of each contender the seconds of one call, round by round.
Times = Mapping[str, Sequence[float]]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    arguments = _parser().parse_args(argv)
    codecs, missing = _codecs()
    tables = [
        _of_codecs(codecs, arguments.rounds),
        _of_requests(codecs, arguments.rounds),
        _of_encryption(arguments.rounds),
    ]
    facts = [*_facts(codecs, arguments.rounds), *missing]
    report.show(tables)
    for fact in facts:
        print(f"* {fact}")
    if arguments.rst is not None:
        rst.write(arguments.rst, rst.page_of(tables, facts), COMMAND)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codecs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=200,
        metavar="N",
        help="in which each contender has its turn (default: 200)",
    )
    parser.add_argument(
        "--rst",
        type=rst.argument(COMMAND),
        metavar="FILE",
        help="write the tables into this page, between its markers",
    )
    return parser


# -- contenders --------------------------------------------------------


class Codec:
    """What makes something storable of data, and data of that.

    :ivar package: what it is installed from, None if Python has it.
    """

    def __init__(
        self,
        dumps: Callable[[Any], Any],
        loads: Callable[[Any], Any],
        package: str | None = None,
    ) -> None:
        self.dumps = dumps
        self.loads = loads
        self.package = package


def _codecs() -> tuple[dict[str, Codec], list[str]]:
    """Return the contenders by their names, and what is said of others."""
    ours = JSONSerializer()
    found = {
        _PLAIN: Codec(json.dumps, json.loads),
        _OURS: Codec(ours.dumps, ours.loads),
        "pickle": Codec(pickle.dumps, pickle.loads),
    }
    missing = []
    others = (("orjson", _orjson), (_CHECKED, _checked), ("msgspec", _msgspec))
    for name, make in others:
        try:
            found[name] = make()
        except ImportError:
            missing.append(f"{name} is left out: it is not installed")
    return found, missing


def _orjson() -> Codec:
    orjson = importlib.import_module("orjson")
    return Codec(orjson.dumps, orjson.loads, "orjson")


def _checked() -> Codec:
    orjson = importlib.import_module("orjson")
    require = JSONSerializer.rules.require

    def dumps(data: dict[str, Any]) -> str:
        require(data)
        text: str = orjson.dumps(data).decode()
        return text

    return Codec(dumps, orjson.loads)


def _msgspec() -> Codec:
    module = importlib.import_module("msgspec.json")
    return Codec(module.encode, module.decode, "msgspec")


# -- measuring ---------------------------------------------------------


def measure(works: Mapping[str, Work], rounds: int) -> Times:
    """Let the works take turns, each round in the other direction."""
    numbers = {name: _number(work) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    order = list(works)
    for _ in range(rounds):
        for name in order:
            taken = _seconds(works[name], numbers[name])
            times[name].append(taken / numbers[name])
        order.reverse()
    return times


def _number(work: Work) -> int:
    """Return how many calls take as long as a batch is to take."""
    number = 1
    while (taken := _seconds(work, number)) < _BATCH / 4:
        number *= 2
    return max(round(number * _BATCH / taken), 1)


def _seconds(work: Work, number: int) -> float:
    # Of the processor: what it does for others meanwhile is not counted.
    started = time.process_time()
    for _ in range(number):
        work()
    return time.process_time() - started


def middle(these: Sequence[float], those: Sequence[float]) -> float:
    """Return the median of the ratios in each round."""
    return median(a / b for a, b in zip(these, those, strict=True))


def ratio(these: Sequence[float], those: Sequence[float]) -> str:
    """Return the same as the tables say it."""
    return f"{middle(these, those):.2f}"


def _sums(*each: Sequence[float]) -> list[float]:
    return [sum(round_) for round_ in zip(*each, strict=True)]


# -- tables ------------------------------------------------------------


def _of_codecs(codecs: Mapping[str, Codec], rounds: int) -> report.Table:
    columns: dict[str, list[str]] = {name: [] for name in codecs}
    for size in SIZES.values():
        content = content_of(size)
        dumps, loads = {}, {}
        for name, codec in codecs.items():
            dumps[name] = _calling(codec.dumps, content)
            loads[name] = _calling(codec.loads, codec.dumps(content))
        written, read = measure(dumps, rounds), measure(loads, rounds)
        both = {name: _sums(written[name], read[name]) for name in codecs}
        for name in codecs:
            columns[name] += [
                ratio(times[name], times[_PLAIN])
                for times in (written, read, both)
            ]
    header = [
        "time ÷ that of the standard library's json",
        *(
            f"{label}: {what}"
            for label in SIZES
            for what in ("dumps", "loads", "both")
        ),
    ]
    rows = [[name, *columns[name]] for name in codecs]
    return report.Table("From data to text and back", header, rows)


def _of_requests(codecs: Mapping[str, Codec], rounds: int) -> report.Table:
    """Return how much of a request each codec would be."""
    columns: dict[str, list[str]] = {name: [] for name in codecs}
    with tempfile.TemporaryDirectory(prefix="pls_bench_") as folder:
        for size in SIZES.values():
            content = content_of(size)
            works = {name: _both(codecs[name], content) for name in codecs}
            with Site(Path(folder) / f"{size}.sqlite", content) as site:
                works["request"] = _calling(site.get, "/write")
                times = measure(works, rounds)
            for name in codecs:
                share = middle(times[name], times["request"])
                columns[name].append(f"{share:.1%}")
    header = ["dumps and loads, of a request that reads and writes", *SIZES]
    rows = [[name, *columns[name]] for name in codecs]
    return report.Table("In a request", header, rows)


def _both(codec: Codec, content: dict[str, Any]) -> Work:
    return lambda: codec.loads(codec.dumps(content))


def _calling(function: Callable[[Any], Any], value: Any) -> Work:
    return lambda: function(value)


def _of_encryption(rounds: int) -> report.Table:
    columns: dict[str, list[str]] = {
        name: [] for name in (_SEALING, "read", "read and write")
    }
    with tempfile.TemporaryDirectory(prefix="pls_bench_") as folder:
        for size in SIZES.values():
            content = content_of(size)
            times = measure(_sealing(content), rounds)
            columns[_SEALING].append(ratio(times["on"], times["off"]))
            for name, times in _requests(Path(folder), content, rounds):
                columns[name].append(ratio(times["on"], times["off"]))
    header = ["time with encrypt on ÷ off", *SIZES]
    rows = [
        [name if name == _SEALING else f"a request: {name}", *ratios]
        for name, ratios in columns.items()
    ]
    return report.Table("Encryption", header, rows)


def _sealing(content: dict[str, Any]) -> dict[str, Work]:
    """Return how a session is stored and read again, in both ways."""
    ours, token = JSONSerializer(), make_token()

    def with_(sealer: Sealer) -> Work:
        def work() -> object:
            stored = sealer.seal(ours.dumps(content), token)
            return ours.loads(sealer.open(stored, token))

        return work

    return {"off": with_(Plain()), "on": with_(Encrypting())}


def _requests(
    folder: Path, content: dict[str, Any], rounds: int
) -> Iterator[tuple[str, Times]]:
    with contextlib.ExitStack() as stack:
        sites = {
            name: stack.enter_context(
                Site(
                    folder / f"{name}-{len(str(content))}.sqlite",
                    content,
                    is_encrypted=is_on,
                )
            )
            for name, is_on in (("off", False), ("on", True))
        }
        for path, name in (("/read", "read"), ("/write", "read and write")):
            works = {
                each: _calling(site.get, path) for each, site in sites.items()
            }
            yield name, measure(works, rounds)


def _facts(codecs: Mapping[str, Codec], rounds: int) -> Iterator[str]:
    yield f"{rounds} rounds, batches of {_BATCH * 1000:g} ms"
    packages = [each.package for each in codecs.values() if each.package]
    packages += ["cryptography", "SQLAlchemy", "pyramid"]
    yield ", ".join(
        [
            f"Python {platform.python_version()}",
            *(f"{package} {version(package)}" for package in packages),
            f"{os.cpu_count()} CPUs",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
