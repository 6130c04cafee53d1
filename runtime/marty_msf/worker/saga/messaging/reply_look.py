"""Replies come through: from marty.saga_reply to the calls that wait for them in the lanes of this process.

A reply stays in its table until the journal has what it says. So a worker that is killed anywhere in between loses none,
and the next one, which finds its call in flight, finds the reply as well.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import asyncpg

from marty_msf.core.errors import LeaseLost
from marty_msf.core.saga.command import ReplyOutcome, operation_for
from marty_msf.store import leases, saga_reply
from marty_msf.store.database import translate
from marty_msf.store.saga_reply import Received
from marty_msf.worker.ownership import any_of
from marty_msf.worker.saga.memory import Live, Memory
from marty_msf.worker.saga.messaging.commands import Commands
from marty_msf.worker.saga.messaging.replies import ENDED

logger = logging.getLogger(__name__)

#: How soon a reply that another process read is found.
LOOK_SECONDS: Final = 0.1
#: The same while no call of this process waits for one.
IDLE_SECONDS: Final = 5.0
LOOK_LIMIT: Final = 500
#: A reply that nobody asked for in so long is removed; the command, if it is sent once more, gets another one.
KEPT_HOURS: Final = 168
PRUNE_SECONDS: Final = 60.0
PRUNE_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Pass:
    """What one look did."""

    answered: int = 0
    kept: int = 0
    removed: int = 0


class ReplyLook:
    """Hands replies to `commands`, and removes those that have done their work."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        resource: str,
        holder: str,
        commands: Commands,
        memory: Memory,
        hasten: Callable[[Live, int], None],
    ) -> None:
        """`hasten` ends the wait of an operation at rest, whose next call is then answered at once."""
        self._pool = pool
        self._resource = resource
        self._holder = holder
        self._commands = commands
        self._memory = memory
        self._hasten = hasten
        self._arrived = asyncio.Event()
        self._pruned = time.monotonic()

    def arrived(self, lanes: Collection[int]) -> None:
        """Replies for these lanes are in the table: those of our own need not wait for the next look."""
        if not self._memory.working_lanes().keys().isdisjoint(lanes):
            self._arrived.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`. Raises DatabaseUnavailable."""
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if self._commands.busy else IDLE_SECONDS):
                    await any_of(stop, self._arrived, *(() if self._commands.busy else (self._commands.queued,)))
            self._arrived.clear()
            await self.run_once()
            await self._prune()

    async def run_once(self) -> Pass:
        """Look once at the replies in our lanes."""
        epochs = self._memory.working_lanes()
        journaled = self._commands.journaled()
        # Their rows may be there still: for a call that was made anew meanwhile they say nothing.
        told = {(it.id, it.call, it.outcome) for it in journaled}
        gone = list(journaled)
        rows: Sequence[tuple[Received, str | None]] = ()
        if epochs:
            with translate():
                async with self._pool.acquire() as conn:
                    rows = await saga_reply.fresh(conn, self._resource, epochs, LOOK_LIMIT)
        answered = 0
        kept: list[Received] = []
        for received, state in rows:
            if (received.id, received.call, received.outcome) in told:
                continue
            if self._commands.answer(received):
                answered += 1
            elif not self._commands.is_settling(received):
                (kept if self._wanted(received, state) else gone).append(received)
        gone = [it for it in gone if it.lane in epochs]
        if kept or gone:
            await self._decide(epochs, kept, gone)
        self._commands.removed(journaled)
        return Pass(answered, len(kept), len(gone))

    def _wanted(self, received: Received, state: str | None) -> bool:
        """Whether a later call may take this reply, which no call waits for now."""
        live = self._memory.get(str(received.id))
        if live is None:
            wanted = state is not None and state not in ENDED
        else:
            operation = operation_for(live.definition, live.instance, received.call)
            wanted = operation is not None
            resting = operation is not None and operation.until_ms is not None
            if operation is not None and resting and _final(received) and not _halted(live):
                self._hasten(live, operation.step)
        return wanted and _final(received)

    async def _decide(self, epochs: Mapping[int, int], kept: Sequence[Received], gone: Sequence[Received]) -> None:
        """Only the owner of a lane knows what its instances wait for: a former one must not remove anything."""
        lanes = {it.lane for it in (*kept, *gone)}
        try:
            with translate():
                async with self._pool.acquire() as conn, conn.transaction():
                    fenced = {lane: epochs[lane] for lane in lanes}
                    await leases.fence(conn, f"saga:{self._resource}", self._holder, fenced)
                    if gone:
                        await saga_reply.remove(conn, gone)
                    if kept:
                        await saga_reply.keep(conn, [(it.id, it.call) for it in kept])
        except LeaseLost as error:
            logger.info("what becomes of some replies is decided by another worker: %s", error)

    async def _prune(self) -> None:
        if time.monotonic() - self._pruned < PRUNE_SECONDS:
            return
        self._pruned = time.monotonic()
        with translate():
            async with self._pool.acquire() as conn:
                await saga_reply.prune(conn, self._resource, KEPT_HOURS, PRUNE_LIMIT)


def _final(received: Received) -> bool:
    return ReplyOutcome(received.outcome).final


def _halted(live: Live) -> bool:
    """Whether no wait of the instance ends by itself."""
    return live.instance.paused or live.instance.closing is not None
