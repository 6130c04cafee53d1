"""Empties the outbox of what is published and old: one janitor per database, whichever relay's pod it runs in.

Every transaction of it is small, fenced by a lease, and right by itself: a janitor that is killed between any two of them
leaves nothing that the next one has to know of. Nobody waits for it longer than the 50 ms for which it asks for a lock and
the few that emptying takes; those who enqueue do not wait at all, because they write to another slot.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import LeaseLost, MartyError
from marty_msf.core.outbox.rotation import Ring, to_empty, to_turn
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import leases, outbox_retention
from marty_msf.store.database import translate
from marty_msf.store.outbox_retention import Outcome, State
from marty_msf.worker.backoff import pause
from marty_msf.worker.board import Board
from marty_msf.worker.relay.retention_numbers import RetentionNumbers

logger = logging.getLogger(__name__)

SCOPE: Final = "outbox-retention"
_LANE: Final = 0
PASS_SECONDS: Final = 60.0
#: Longer than the time between two passes.
_LEASE_SECONDS: Final = 150
_RENEW_SECONDS: Final = 30
#: Events looked at, and copied into the archive, in one transaction.
CHUNK: Final = 2000
#: A slot that others use for so long is told of.
BUSY_SECONDS: Final = 3600


@dataclass(slots=True)
class Pass:
    """What one pass did, by slots."""

    #: The one that was filled.
    turned_from: int | None = None
    emptied: list[int] = field(default_factory=list)
    archived: int = 0
    #: There is more to look at: the next pass follows at once.
    more: bool = False
    #: Others use them; tried again in the next pass.
    busy: dict[int, str] = field(default_factory=dict)
    #: Slot -> a lane with an event that is not published.
    unpublished: dict[int, int | None] = field(default_factory=dict)


class Janitor:
    """Has the slots of the outbox filled in turn, archived and emptied."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        holder: str,
        retention: timedelta,
        archive: str | None,
        board: Board,
        numbers: RetentionNumbers,
        *,
        pass_seconds: float = PASS_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
        chunk: int = CHUNK,
    ) -> None:
        """`archive` is a table of the schema marty; None keeps no copies."""
        self._pool = pool
        self._holder = holder
        self._retention = retention
        self._archive = archive
        self._board = board
        self._numbers = numbers
        self._pass_seconds = pass_seconds
        self._busy_seconds = busy_seconds
        self._chunk = chunk
        self._epochs: Mapping[int, int] = {}
        self._claimed = 0.0
        self._busy_since: dict[int, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Pass again and again until `stop`. Whatever goes wrong is told on the board only: the relay goes on."""
        while not stop.is_set():
            more = False
            try:
                with translate():
                    done = await self.run_once()
                more = done.more
                self._tell(done)
            except LeaseLost:
                self._board.clear(ProblemReason.OUTBOX_NOT_EMPTIED)
            except MartyError as error:
                self._complain(f"it is tried again: {error}")
            except Exception as error:
                logger.exception("the outbox was not emptied")
                self._complain(f"it is tried again: {type(error).__name__}: {error}")
            if not more:
                await pause(stop, self._pass_seconds)
        if self._epochs:
            # A lease that is not handed back ends by itself: no reason to disturb the relay, which stops at the same time.
            with suppress(MartyError), translate():
                async with self._pool.acquire() as conn:
                    await leases.leave(conn, SCOPE, self._holder)

    async def run_once(self) -> Pass:
        """Fill the next slot if it is time, then empty those whose time is over; only the numbers when another process is
        the janitor. Raises LeaseLost when it became so.
        """
        done = Pass()
        await self._claim()
        if self._epochs:
            for slot in to_empty(await self._turn(done), self._retention):
                await self._tidy(slot, done)
        async with self._pool.acquire() as conn:
            self._numbers.show(await outbox_retention.retained(conn))
        return done

    async def _turn(self, done: Pass) -> Ring:
        """The ring as it was before."""
        async with self._transaction() as conn:
            ring = await outbox_retention.ring(conn)
            if to_turn(ring, self._retention) and await outbox_retention.turn(conn, ring.current):
                done.turned_from = ring.current
        return ring

    async def _tidy(self, slot: int, done: Pass) -> None:
        """Look through a slot whose time is over, and empty it."""
        outcome = await self._look_through(slot, done)
        if outcome.state is State.DONE:
            try:
                async with self._transaction() as conn:
                    outcome = await outbox_retention.empty(conn, slot, self._archive)
            except asyncpg.LockNotAvailableError:
                async with self._pool.acquire() as conn:
                    done.busy[slot] = "; ".join(await outbox_retention.users(conn, slot))
                return
            self._count(outcome, done)
        if outcome.state is State.EMPTIED:
            done.emptied.append(slot)
            self._numbers.emptied.inc()
        elif outcome.state is State.UNPUBLISHED:
            done.unpublished[slot] = outcome.lane
        elif outcome.state in (State.MORE, State.AGAIN):
            done.more = True

    async def _look_through(self, slot: int, done: Pass) -> Outcome:
        """For a while; its outcome is MORE then."""
        until = time.monotonic() + PASS_SECONDS
        while True:
            began = time.monotonic()
            async with self._transaction() as conn:
                outcome = await outbox_retention.look(conn, slot, self._archive, self._chunk)
            self._count(outcome, done)
            if outcome.state is not State.MORE or time.monotonic() > until:
                return outcome
            # Half of the time belongs to the others.
            await asyncio.sleep(min(time.monotonic() - began, 1))

    def _count(self, outcome: Outcome, done: Pass) -> None:
        done.archived += outcome.archived
        self._numbers.archived.inc(outcome.archived)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """In which nobody else is the janitor. Raises LeaseLost."""
        if time.monotonic() - self._claimed > _RENEW_SECONDS:
            await self._claim()
        async with self._pool.acquire() as conn, conn.transaction(isolation="read_committed"):
            await leases.fence(conn, SCOPE, self._holder, self._epochs or {_LANE: -1})
            yield conn

    async def _claim(self) -> None:
        async with self._pool.acquire() as conn:
            claims = await leases.claim(conn, SCOPE, self._holder, [_LANE], _LEASE_SECONDS)
        if claims.held != self._epochs:
            self._busy_since.clear()
        self._epochs, self._claimed = claims.held, time.monotonic()

    def _tell(self, done: Pass) -> None:
        if done.emptied or done.archived or done.turned_from is not None:
            logger.info(
                "outbox: slots emptied: %s; %d events archived; filled slot: %s",
                ", ".join(map(str, done.emptied)) or "none",
                done.archived,
                "none" if done.turned_from is None else done.turned_from,
            )
        now = time.monotonic()
        self._busy_since = {slot: self._busy_since.get(slot, now) for slot in done.busy}
        causes = [
            f"slot {slot} has events of lane {lane} that are not published, so it grows older than the retention: look at "
            "the relay's other problems and at its pending events"
            for slot, lane in done.unpublished.items()
        ]
        causes += [
            f"slot {slot} has been in use without a gap for over {self._busy_seconds:.0f} s, now by "
            f"{done.busy[slot] or 'nobody'}, so its space is not freed: end the transaction that stays open"
            for slot, since in self._busy_since.items()
            if now - since >= self._busy_seconds
        ]
        if causes:
            self._complain("; ".join(causes))
        else:
            self._board.clear(ProblemReason.OUTBOX_NOT_EMPTIED)

    def _complain(self, message: str) -> None:
        self._board.report(ProblemReason.OUTBOX_NOT_EMPTIED, message, blocking=False)
