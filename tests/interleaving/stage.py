"""Requests of several browsers, led step by step, and the specification.

After every step what is stored, what was answered and what was seen must be
as `tests.interleaving.spec` has it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from http.cookies import SimpleCookie
from typing import Any

import sqlalchemy as sa

from tests.apps import START, World, trim
from tests.interleaving.locks import Locks, Rows
from tests.interleaving.player import (
    ERRORS,
    LIMIT,
    LOOKING,
    OUTCOMES,
    REFUSALS,
    Player,
)
from tests.interleaving.spec import Row, Spec, exactly

# More rows than there are in any test of these.
_EVERYTHING = 100


class Stage:
    """Players of several browsers, and the specification beside them."""

    def __init__(self, world: World, database: str) -> None:
        self.world = world
        self.database = database
        self.is_joined = world.mode == "joined"
        self._locks = Locks(database, is_joined=self.is_joined)
        world.on("play")(lambda request: self._play(request))
        engine = sa.create_engine(world.url, isolation_level="AUTOCOMMIT")
        self._engine = engine
        self._connection = engine.connect()
        self.players: list[Player] = []
        # Never used again: MariaDB locks the place of a deleted name.
        self._names = itertools.count()
        self.reset()

    def close(self) -> None:
        """Close the connection that looks at the database."""
        self._connection.close()
        self._engine.dispose()

    def reset(self) -> None:
        """Empty the tables and begin again."""
        for table in (self.world.table, self.world.Item.__table__):
            self._connection.execute(sa.delete(table))
        self.world.clock.now = START
        self.world.statements.clear()
        self.spec = Spec()
        self.players = []
        self.cookies: dict[int, str | None] = {}

    def send_home(self) -> None:
        """End every request, whatever has failed."""
        left = [player for player in self.players if not player.is_over]
        # Those that hold locks first.
        for player in sorted(left, key=lambda player: not player.paused):
            player.send_home()
        stuck = [player for player in left if not player.is_gone()]
        assert [] == stuck, "requests hang"

    def _play(self, request: Any) -> Any:
        request.environ["test.item"] = self.world.Item
        return request.environ["test.player"].play(request)

    # -- steps ---------------------------------------------------------

    def start(self, browser: int, *, token: str | None = None) -> Player:
        """Send a request, with the browser's cookie or another token."""
        token = token or self.cookies.get(browser)
        player = Player(f"r{len(self.players)}", browser, token)
        self.players.append(player)
        player.start(self.world)
        assert ("attempt", 0) == player.hear()
        return player

    def do(self, player: Player, verb: str, *arguments: Any) -> Any:
        """Let a request do something to its session; return the result.

        Nothing is done that does not work at this moment.
        """
        visit = player.visit
        if not visit.can(verb):
            return None
        if verb == "commit":
            return self._commit(player)
        player.done.append((verb, *arguments))
        result = self._ask(player, verb, *arguments)
        if verb in LOOKING and not visit.is_loaded:
            self.spec.load(visit, int(self.world.clock.now))
        if verb in ("csrf", "new_csrf"):
            arguments = (result,)
        expected = getattr(visit, verb)(*arguments)
        assert exactly(expected) == exactly(result), verb
        return result

    def _ask(self, player: Player, *command: Any) -> Any:
        player.order("do", *command)
        kind, *rest = player.hear()
        assert "did" == kind, rest
        return json.loads(rest[0])

    def _commit(self, player: Player) -> None:
        """Let a request commit, and go on in another transaction."""
        visit = player.visit
        if self._is_blocked(player, "commit"):
            return
        player.done.append(("commit",))
        self._ask(player, "commit")
        self.spec.commit_items(visit)
        self.spec.commit(visit)
        if visit.is_loaded and not visit.lost and visit.maybe:
            found = self._ask(player, "look")
            self.spec.go_on(visit, found[0])
            assert exactly(visit.look()) == exactly(found)
        else:
            self.spec.go_on(visit, None)

    def item(self, player: Player) -> None:
        """Let a request add a row of the application itself."""
        self.do(player, "item", f"item {next(self._names)}")

    def end(
        self, player: Player, outcome: str, pause: str | None = None
    ) -> None:
        """End a request, or let it go as far as the pause."""
        player.outcome = outcome
        player.order("end", outcome, pause)
        self._follow(player, pause)

    def go(
        self, player: Player, how: str = "ok", pause: str | None = None
    ) -> None:
        """Let a held request go on, to its end or to a later pause."""
        self.release(player, how, pause)
        self._follow(player, pause)

    def release(self, player: Player, how: str, pause: str | None) -> None:
        """Let a held request go on, and do not wait for it."""
        player.paused = None
        if how != "ok":
            player.outcome = how
        player.order("go", how, pause)

    def contend(self, held: Player, other: Player, outcome: str) -> None:
        """Let another request wait for the lock of a held one; release it.

        Whoever comes first, the database puts the other one second.
        """
        other.outcome = outcome
        other.order("end", outcome, None)
        self.release(held, "ok", None)
        self._follow(held, None)
        self._follow(other, None)

    def contend_with(self, held: Player, work: str, row: Row | None) -> None:
        """The same with a revocation or a trim instead of a request."""
        do = {"revoke": self._revoke, "trim": self._trim}[work]
        errors: list[BaseException] = []

        def run() -> None:
            try:
                do(row)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.release(held, "ok", None)
        self._follow(held, None)
        thread.join(timeout=LIMIT)
        assert not thread.is_alive(), f"{work} hangs"
        assert [] == errors
        now = int(self.world.clock.now)
        for gone in [row] if row else self.spec.dead(now):
            if gone in self.spec.rows:
                self.spec.remove(gone)

    def revoke(self, row: Row) -> None:
        """Somebody else ends a session."""
        self._revoke(row)
        self.spec.remove(row)

    def trim(self, most: int) -> None:
        """Delete a batch of dead rows."""
        gone = self.spec.dead(int(self.world.clock.now))[:most]
        assert len(gone) == self._trim(None, most)
        for row in gone:
            self.spec.remove(row)

    def clean(self, most: int) -> None:
        """Let the self-cleaning delete a batch of what it finds dead.

        It takes rows a while after their end only: which is its business.
        """
        now = int(self.world.clock.now)
        profiles = self.world.factory.settings.policy.profiles
        before = self._ids()
        number = self.world.store.clean(
            cutoffs=profiles.cutoffs(now), most=most
        )
        gone = before - self._ids()
        assert number == len(gone)
        assert number <= most
        for row in self.spec.dead(now):
            if row.id in gone:
                self.spec.remove(row)

    def _ids(self) -> set[int]:
        query = sa.select(self.world.table.c.id)
        return {*self._connection.execute(query).scalars()}

    def _revoke(self, row: Row | None) -> None:
        assert row is not None
        work = self.world.store.begin()
        work.delete([row.id])
        work.commit()

    def _trim(self, row: Row | None, most: int = _EVERYTHING) -> int:
        profiles = self.world.factory.settings.policy.profiles
        cutoffs = profiles.cutoffs(int(self.world.clock.now))
        # A part of them is told from the others by their ids.
        by_id = most < _EVERYTHING
        return trim(self.world.store, cutoffs, most, by_id=by_id)

    # -- which steps can be made ---------------------------------------

    def working(self) -> list[Player]:
        """Return the requests that take operations."""
        return [p for p in self.players if not p.is_over and not p.paused]

    def held(self, but: Player | None = None) -> list[Player]:
        """Return the requests that wait where they were told to."""
        return [p for p in self.players if p.paused and p is not but]

    def endings(self) -> list[tuple[Player, str]]:
        """Return ways to end requests without a wait; most commit."""
        found = []
        for player in self.working():
            if not self._is_blocked(player, "commit"):
                found += [(player, "commit")] * 2 * len(OUTCOMES)
            found += [
                (player, outcome)
                for outcome in OUTCOMES
                if outcome != "commit"
                if not self._is_blocked(player, outcome)
            ]
        return found

    def releases(self) -> list[tuple[Player, str]]:
        """Return the held requests, and how they can go on."""
        found = []
        for player in self.held():
            if not self._is_blocked(player, str(player.outcome)):
                found += [(player, "ok")] * len(REFUSALS)
            if player.paused in ("commit", "vote"):
                found += [
                    (player, how)
                    for how in REFUSALS
                    if not self._is_blocked(player, how)
                ]
        return found

    def contentions(self) -> list[tuple[Player, Player, str]]:
        """Return held requests, and ends of others that wait for them."""
        found = []
        for player in self.working() if self.held() else []:
            for outcome in OUTCOMES:
                needed = self._needs(player, outcome)
                found += [
                    (held, player, outcome)
                    for held in self.held()
                    if self._waits_for(held, needed)
                ]
        return found

    def locked_rows(self) -> list[tuple[Player, Row]]:
        """Return held requests, and rows that they surely have locked."""
        return [
            (held, row)
            for held in self.held()
            for row in self.spec.rows
            if row.id and self._waits_for(held, Rows({row}, {row}))
        ]

    def locked_dead_rows(self) -> list[tuple[Player, Row]]:
        """Return those for which a trim waits, and for nobody else."""
        dead = self.dead_rows()
        return [
            (held, row)
            for held, row in self.locked_rows()
            if row in dead and self.is_free(dead, but=held)
            # A new session that is over by now may be seen or not.
            if held.visit.row is not None
        ]

    def free_rows(self) -> list[Row]:
        """Return the rows that nobody has locked."""
        return [row for row in self.spec.rows if self.is_free([row])]

    def dead_rows(self) -> list[Row]:
        """Return the rows that a trim deletes now."""
        return self.spec.dead(int(self.world.clock.now))

    def is_free(self, rows: list[Row], but: Player | None = None) -> bool:
        """Say whether rows can be deleted without waiting."""
        return not self._is_stopped(Rows({*rows}), but)

    def _needs(self, player: Player, outcome: str) -> Rows:
        return self._locks.needs(player, outcome, self.spec.rows)

    def _locked(self, held: Player) -> Rows:
        return self._locks.of(held, self.spec.rows)

    def _is_blocked(self, player: Player, outcome: str) -> bool:
        return bool(self.held(but=player)) and self._is_stopped(
            self._needs(player, outcome), player
        )

    def _is_stopped(self, needed: Rows, but: Player | None) -> bool:
        return any(
            self._locks.is_stopped(needed, self._locked(held))
            for held in self.held(but)
        )

    def _waits_for(self, held: Player, needed: Rows) -> bool:
        """Say whether who needs this waits for this held request alone."""
        visit = held.visit
        # Its commit must be the last that it writes.
        leaves_no_work = visit.is_changed or not visit.is_touch_due
        return (
            leaves_no_work
            and self._locks.is_surely_stopped(needed, self._locked(held))
            and not self._is_stopped(needed, held)
        )

    # -- what a step has led to ----------------------------------------

    def _follow(self, player: Player, pause: str | None) -> None:
        """Compare what a request says next with the specification."""
        kind, *rest = player.hear()
        if pause is not None:
            assert ["paused", pause] == [kind, *rest]
            player.paused = pause
            self._decide(player, pause)
        elif player.is_retried(player.outcome):
            player.try_again()
            assert ["attempt", player.attempt] == [kind, *rest]
        else:
            self._decide(player, "answer")
            self.spec.settle(player.visit)
            player.is_over = True
            self._answered(player, kind, rest)

    def _decide(self, player: Player, place: str) -> None:
        """Commit or abort, if that has been done when it is here."""
        visit, outcome = player.visit, player.outcome
        if player.is_retried(outcome) or place in ("commit", "vote"):
            return
        if outcome == "commit":
            # The dbsession's one phase is over when the others have voted.
            self.spec.commit_items(visit)
        if player.is_committed or (place == "finish" and not self.is_joined):
            return
        player.is_committed = True
        if outcome == "commit":
            self.spec.commit(visit)
        else:
            visit.drop()

    def _answered(self, player: Player, kind: str, rest: list[Any]) -> None:
        assert player.outcome is not None
        status = OUTCOMES[player.outcome]
        if status is None:
            assert kind == "error", rest
            assert isinstance(rest[0], ERRORS[player.outcome]), rest
            return
        assert ("answer", status) == (kind, rest[0]), rest
        expected = self.spec.cookie(player.visit)
        found, token = _cookie(rest[1])
        assert expected == found, f"cookie of {player}"
        if token is not None:
            self.spec.give(player.visit, token)
        if found != "none":
            self.cookies[player.browser] = token

    def check(self) -> None:
        """Compare what is stored with the specification."""
        c = self.world.table.c
        found = self._connection.execute(
            sa.select(self.world.table).order_by(c.id)
        ).all()
        self._recognize([row.id for row in found])
        rows = sorted(self.spec.rows, key=lambda row: row.id or 0)
        assert [row.id for row in rows] == [row.id for row in found]
        for row, stored in zip(rows, found, strict=True):
            expected = row.content.as_dict()
            data = json.loads(stored.data)
            assert exactly(expected) == exactly(data), "content"
            assert row.created == stored.created_at
            assert stored.updated_at in (row.seen, row.maybe_seen), "seen"
            row.seen, row.maybe_seen = stored.updated_at, None
            if row.token is not None:
                digest = hashlib.sha256(row.token.encode()).hexdigest()
                assert f"2::{digest}" == str(stored.session_id)
        query = sa.select(self.world.Item.name)
        items = self._connection.execute(query).scalars()
        assert sorted(self.spec.items) == sorted(items)
        if all(player.is_over for player in self.players):
            assert 0 == self.world.checked_out()

    def _recognize(self, ids: list[int]) -> None:
        """Learn the ids of rows that are new, in the order they came."""
        known = {row.id for row in self.spec.rows}
        new = [row for row in self.spec.rows if row.id is None]
        strange = [id_ for id_ in ids if id_ not in known]
        assert len(new) == len(strange), "rows too many, or too few"
        for row, id_ in zip(new, strange, strict=True):
            row.id = id_


def _cookie(headers: list[str]) -> tuple[str, str | None]:
    if not headers:
        return "none", None
    (header,) = headers
    (morsel,) = SimpleCookie(header).values()
    if morsel["max-age"] == "0":
        return "deleted", None
    return "set", morsel.value
