"""Requests of several browsers in any interleaving, as specified.

Hypothesis chooses the steps: requests load, change and end their sessions
while others do the same; they are held in the middle of their commit; the
clock moves, somebody trims, somebody revokes. After every step `Stage`
compares what is stored and what was answered with the specification,
`tests.interleaving.spec`.

``INTERLEAVING_EXAMPLES=5000`` runs that many examples on each database, with
another seed each time; ``INTERLEAVING_STEPS`` makes them longer.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.interleaving.player import PAUSES, SETTINGS, Player, configure
from tests.interleaving.spec import TOUCH, Row
from tests.interleaving.stage import Stage

EXAMPLES = {"sqlite": 20, "postgresql": 10, "mariadb": 10}
MOST_AT_ONCE = 3
LONGER = os.environ.get("INTERLEAVING_EXAMPLES")
PHASES = [
    phase
    for phase in Phase
    if phase != Phase.shrink or not os.environ.get("INTERLEAVING_NO_SHRINK")
]
STEPS = int(os.environ.get("INTERLEAVING_STEPS", "25"))

VALUES = [0, 1, True, 1.0, None, "", [], [1], {"n": 1}]
# Texts of messages; None: one that nobody else has.
TEXTS = [None, "same"]
DOINGS = [
    *(("put", key, value) for key in "ab" for value in VALUES),
    *[("delete", key) for key in "ab"] * 4,
    *[("nest", key, number) for key in "ab" for number in (1, 2)] * 3,
    *[
        ("flash", queue, text, twice)
        for queue in ("", "q")
        for text in TEXTS
        for twice in (True, False)
    ]
    * 2,
    *[("pop_flash", queue) for queue in ("", "q")] * 6,
    *[("peek_flash", queue) for queue in ("", "q")],
    *[("take", key) for key in "ab"] * 2,
    *[("bend", number) for number in (3, 4)] * 2,
    *[("refill",)] * 4,
    *[("flash_again", queue) for queue in ("", "q")] * 3,
    *[("rotate",)] * 8,
    *[("clear",)] * 4,
    *[(verb,) for verb in ("look", "csrf", "new_csrf", "invalidate")] * 3,
    *[(verb,) for verb in ("item", "savepoint", "rollback", "commit")] * 3,
]
FEW = st.lists(st.sampled_from(DOINGS), min_size=1, max_size=3)
SOME = st.lists(st.sampled_from(DOINGS), min_size=1, max_size=4)
SECONDS = [1, TOUCH - 1, TOUCH, TOUCH, 2 * TOUCH]
BROWSERS = [0, 0, 0, 0, 0, 1]
# What a move needs besides what can be chosen from at that moment.
MORE = {
    "start": FEW,
    "replay": FEW,
    "work": SOME,
    "end": st.booleans(),
    "hold": st.sampled_from(PAUSES),
    "go": st.booleans(),
    "go_on": st.sampled_from(PAUSES),
    "contend": st.booleans(),
    "it_is_time": st.integers(0, 3),
}

Steps = list[tuple[Any, ...]]


def _move(choice: tuple[str, list[Any]]) -> st.SearchStrategy[Any]:
    name, what = choice
    more = [MORE[name]] if name in MORE else []
    return st.tuples(st.just(name), st.sampled_from(what), *more)


class Interleaving(RuleBasedStateMachine):
    """The moves that Hypothesis may choose from."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.messages = 0
        stage.reset()

    def teardown(self) -> None:
        """Release every thread, whatever has failed."""
        self.stage.send_home()

    @initialize(others=st.lists(FEW, min_size=2, max_size=3))
    def a_visitor_comes(self, others: list[Steps]) -> None:
        """Most is about one session, and requests that have loaded it."""
        first = [("put", "b", [1]), ("flash", "", None, True)]
        self.start(0, first)
        self.stage.end(self.stage.players[0], "commit")
        for steps in others:
            self.start(0, [("look",), *steps])

    @invariant()
    def all_is_as_specified(self) -> None:
        """See `Stage.check`."""
        self.stage.check()

    # Not a rule for each move: the interesting ones would be too rare.
    @rule(move=st.runner().flatmap(lambda machine: machine.moves()))
    def make(self, move: tuple[Any, ...]) -> None:
        """Make one move."""
        name, *arguments = move
        getattr(self, name)(*arguments)

    def moves(self) -> st.SearchStrategy[Any]:
        """Return the moves that can be made now, the likely ones often."""
        stage = self.stage
        endings, releases = stage.endings(), stage.releases()
        is_full = len(stage.working()) + len(stage.held()) >= MOST_AT_ONCE
        dead_tokens = [*range(len(stage.spec.dead_tokens))]
        possible = {
            ("start", 8): [] if is_full else BROWSERS,
            ("replay", 1): [] if is_full else dead_tokens,
            ("work", 10): stage.working(),
            ("end", 10): endings,
            ("hold", 8): endings,
            ("go", 8): releases,
            ("go_on", 2): releases,
            ("contend", 8): stage.contentions(),
            ("revoke_at_once", 1): stage.locked_rows(),
            ("trim_at_once", 8): stage.locked_dead_rows(),
            ("revoke", 1): stage.free_rows(),
            ("it_is_time", 3): self.borders(),
            ("clean", 1): [1, 2] if stage.is_free(stage.dead_rows()) else [],
            ("time_passes", 4): SECONDS,
        }
        choices = [
            (name, what)
            for (name, weight), what in possible.items()
            for _ in range(weight if what else 0)
        ]
        return st.sampled_from(choices).flatmap(_move)

    # -- requests ------------------------------------------------------

    def start(self, browser: int, steps: Steps) -> None:
        """A browser sends a request, which makes a session if need be."""
        if self.stage.cookies.get(browser) is None:
            steps = [("put", "a", 1), *steps]
        self.work(self.stage.start(browser), steps)

    def replay(self, number: int, steps: Steps) -> None:
        """Somebody presents a token that opens nothing."""
        token = self.stage.spec.dead_tokens[number]
        self.work(self.stage.start(9, token=token), [("look",), *steps])

    def work(self, player: Player, steps: Steps) -> None:
        """It does something to its session."""
        for verb, *arguments in steps:
            if verb == "flash" and arguments[1] is None:
                self.messages += 1
                arguments[1] = f"m{self.messages}"
            if verb in ("item", "refill", "flash_again"):
                getattr(self, f"_{verb}")(player, *arguments)
            else:
                self.stage.do(player, verb, *arguments)

    def _item(self, player: Player) -> None:
        self.stage.item(player)

    def _refill(self, player: Player) -> None:
        """Clear the session, and put in again what was in it."""
        before = player.visit.mine.copy()
        self.stage.do(player, "clear")
        for key in sorted({*"ab"} & before.values.keys()):
            self.stage.do(player, "put", key, before.values[key])
        for queue, messages in before.queues.items():
            for message in messages:
                self.stage.do(player, "flash", queue, message.text, True)

    def _flash_again(self, player: Player, queue: str) -> None:
        """Pop messages, and keep them for the next page."""
        for text in self.stage.do(player, "pop_flash", queue) or ():
            self.stage.do(player, "flash", queue, text, True)

    # -- their ends ----------------------------------------------------

    def end(self, ending: tuple[Player, str], again: bool) -> None:
        """It ends; if it is replayed, it may do the same again."""
        self.stage.end(*ending)
        self._again(ending[0], again)

    def hold(self, ending: tuple[Player, str], pause: str) -> None:
        """It is held somewhere on its way."""
        self.stage.end(*ending, pause if ending[1] == "commit" else "behind")

    def go(self, release: tuple[Player, str], again: bool) -> None:
        """A held request goes on to its end, or is refused."""
        self.stage.go(*release)
        self._again(release[0], again)

    def go_on(self, release: tuple[Player, str], pause: str) -> None:
        """A held request goes on to another pause, if that is to come."""
        player, how = release
        assert player.paused is not None
        if how != "ok":
            pause = "behind"
        if PAUSES.index(pause) > PAUSES.index(player.paused):
            self.stage.go(player, how, pause)

    def contend(
        self, contention: tuple[Player, Player, str], again: bool
    ) -> None:
        """A request ends while another holds the row it wants to write."""
        self.stage.contend(*contention)
        self._again(contention[1], again)

    def _again(self, player: Player, again: bool) -> None:
        done, player.done = player.done, []
        if again and not player.is_over:
            # What was committed on the way has its name already.
            self.work(player, [s if s[0] != "item" else s[:1] for s in done])

    # -- between them --------------------------------------------------

    def revoke(self, row: Row) -> None:
        """Somebody ends a session from outside."""
        self.stage.revoke(row)

    def revoke_at_once(self, locked: tuple[Player, Row]) -> None:
        """Somebody ends a session that is just being written."""
        self.stage.contend_with(locked[0], "revoke", locked[1])

    def trim_at_once(self, locked: tuple[Player, Row]) -> None:
        """Somebody trims while a dead row is just being written."""
        self.stage.contend_with(locked[0], "trim", None)

    def clean(self, most: int) -> None:
        """The self-cleaning takes its turn."""
        self.stage.clean(most)

    def time_passes(self, seconds: int) -> None:
        """The clock moves."""
        self.stage.world.clock.pass_(seconds)

    def borders(self) -> list[int]:
        """Seconds to come at which a session ends, and those before."""
        ends = [row.end for row in self.stage.spec.rows]
        seconds = {end - early for end in ends for early in (0, 1)}
        return sorted(s for s in seconds if s > self.stage.world.clock.now)

    def it_is_time(self, second: int, most: int) -> None:
        """The clock moves to a session's end; somebody may trim there."""
        self.stage.world.clock.now = second
        if most and self.stage.is_free(self.stage.dead_rows()):
            self.stage.trim(most)


def run(stage: Stage) -> None:
    """Let Hypothesis play on a stage."""
    examples = int(LONGER) if LONGER else EXAMPLES[stage.database]
    run_state_machine_as_test(
        lambda: Interleaving(stage),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            derandomize=not LONGER,
            phases=PHASES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    stage.reset()
    assert 0 == stage.world.checked_out()


@pytest.fixture(name="stage")
def _stage(make_world, database, mode):
    """One world for all examples: making one costs more than an example."""
    world = make_world(database, mode, settings=SETTINGS, configure=configure)
    stage = Stage(world, database)
    yield stage
    stage.close()


def test_any_interleaving_is_as_specified(stage):
    """P2 to P5, P7: whatever the order of steps, the rules hold."""
    run(stage)
