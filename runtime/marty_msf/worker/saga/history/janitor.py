"""Removes the history whose time is over: one janitor per database, whichever saga's pod it runs in.

Every transaction of it is small, fenced by a lease, and right by itself: a janitor that is killed between any two of them
leaves nothing that the next one has to know of. What it does to a partition never makes starts and waves wait for longer
than the 50 ms for which it asks for a lock.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import LeaseLost, MartyError
from marty_msf.core.saga.rotation import Partition, Step, decide, worth_a_look
from marty_msf.core.saga.selection import first_id
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import leases, saga_history
from marty_msf.store.database import translate
from marty_msf.worker.backoff import pause
from marty_msf.worker.board import Board
from marty_msf.worker.saga.metrics import HistoryNumbers

logger = logging.getLogger(__name__)

SCOPE: Final = "saga-history"
_LANE: Final = 0
PASS_SECONDS: Final = 60.0
#: Longer than the time between two passes: the janitor stays where its cursors are.
_LEASE_SECONDS: Final = 150
_RENEW_SECONDS: Final = 30
#: Instances looked at in one statement.
_STRETCH: Final = 5000
#: What ran for long when its neighbours ended is found by looking at all again.
_REWIND_SECONDS: Final = 3600
#: A partition that others lock for so long is told of.
_BUSY_SECONDS: Final = 3600
_FIRST_ID: Final = UUID(int=0)


@dataclass(slots=True)
class Pass:
    """What one pass did."""

    instances: int = 0
    rotated: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    #: Partitions that others use; tried again in the next pass.
    busy: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Walk:
    """How far one saga's instances were looked at."""

    after: UUID
    began: float


class Janitor:
    """Makes ended instances go when their retention is over, of all sagas of the database."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        resource: str,
        holder: str,
        completed_hours: int,
        board: Board,
        numbers: HistoryNumbers,
        *,
        pass_seconds: float = PASS_SECONDS,
        lease_seconds: float = _LEASE_SECONDS,
    ) -> None:
        """`completed_hours` is this saga's retention; those of the others are in the database."""
        self._pool = pool
        self._resource = resource
        self._holder = holder
        self._completed_hours = completed_hours
        self._board = board
        self._numbers = numbers
        self._pass_seconds = pass_seconds
        self._lease_seconds = lease_seconds
        self._epochs: Mapping[int, int] = {}
        self._claimed = 0.0
        self._walks: dict[str, _Walk] = {}
        self._busy_since: dict[str, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Register the retention and pass again and again until `stop`. Whatever goes wrong is told on the board only:
        the sagas go on.
        """
        registered = False
        while not stop.is_set():
            try:
                with translate():
                    if not registered:
                        await self.register()
                        registered = True
                    self._tell(await self.run_once())
            except LeaseLost:
                self._board.clear(ProblemReason.HISTORY_NOT_REMOVED)
            except MartyError as error:
                self._complain(f"it is tried again: {error}")
            except Exception as error:
                logger.exception("the history of sagas was not removed")
                self._complain(f"it is tried again: {type(error).__name__}: {error}")
            await pause(stop, self._pass_seconds)
        if self._epochs:
            # A lease that is not handed back ends by itself: no reason to disturb the engine, which stops at the same time.
            with suppress(MartyError), translate():
                async with self._pool.acquire() as conn:
                    await leases.leave(conn, SCOPE, self._holder)

    async def register(self) -> None:
        """From now on this saga has this retention."""
        async with self._pool.acquire() as conn:
            await saga_history.register(conn, self._resource, self._completed_hours)

    async def run_once(self) -> Pass:
        """Remove what may go now; nothing when another process is the janitor. Raises LeaseLost when it became so."""
        done = Pass()
        await self._claim()
        if not self._epochs:
            return done
        async with self._pool.acquire() as conn:
            retentions = await saga_history.retentions(conn)
        for resource, retention in retentions.items():
            done.instances += await self._walk(resource, retention)
        await self._tidy(done)
        return done

    async def _walk(self, resource: str, retention: saga_history.Retention) -> int:
        """Remove one saga's instances whose time is over; returns how many."""
        walk = self._walks.get(resource)
        if walk is None or time.monotonic() - walk.began > _REWIND_SECONDS:
            walk = self._walks[resource] = _Walk(_FIRST_ID, time.monotonic())
        # Nothing ends before it starts, so what started later is not due.
        below = first_id(int(retention.before.timestamp() * 1000))
        removed = 0
        while True:
            async with self._pool.acquire() as conn:
                stretch = await saga_history.due(conn, resource, walk.after, below, retention.before, _STRETCH)
            for first in range(0, len(stretch.due), saga_history.BATCH):
                removed += await self._remove(stretch.due[first : first + saga_history.BATCH])
            if stretch.last is None:
                return removed
            walk.after = stretch.last

    async def _remove(self, batch: Sequence[UUID]) -> int:
        while True:
            began = time.monotonic()
            async with self._transaction() as conn:
                removed = await saga_history.remove(conn, batch)
            self._numbers.instances.inc(removed.instances)
            # Half of the time belongs to the others.
            await asyncio.sleep(min(time.monotonic() - began, 1))
            if not removed.again:
                return removed.instances

    async def _tidy(self, done: Pass) -> None:
        async with self._pool.acquire() as conn:
            settled = await saga_history.settled(conn)
            partitions = await saga_history.partitions(conn)
        for partition in partitions:
            if worth_a_look(partition, settled):
                try:
                    await self._tidy_one(partition, done)
                except asyncpg.LockNotAvailableError:
                    done.busy.append(partition.name)

    async def _tidy_one(self, partition: Partition, done: Pass) -> None:
        async with self._pool.acquire() as conn:
            step = decide(partition, await saga_history.use(conn, partition))
        if step is Step.LEAVE:
            return
        async with self._transaction() as conn:
            act = saga_history.drop if step is Step.DROP else saga_history.rotate
            acted = await act(conn, partition)
        if acted:
            (done.dropped if step is Step.DROP else done.rotated).append(partition.name)
            self._numbers.partitions.labels(step.value).inc()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """In which nobody else is the janitor. Raises LeaseLost."""
        if time.monotonic() - self._claimed > _RENEW_SECONDS:
            await self._claim()
        async with self._pool.acquire() as conn, conn.transaction():
            await leases.fence(conn, SCOPE, self._holder, self._epochs or {_LANE: -1})
            yield conn

    async def _claim(self) -> None:
        async with self._pool.acquire() as conn:
            claims = await leases.claim(conn, SCOPE, self._holder, [_LANE], self._lease_seconds)
        if claims.held != self._epochs:
            # Others may have put rows behind our cursors since.
            self._walks.clear()
            self._busy_since.clear()
        self._epochs, self._claimed = claims.held, time.monotonic()

    def _tell(self, done: Pass) -> None:
        if done.instances or done.rotated or done.dropped:
            logger.info(
                "history of sagas: %d instances removed, partitions emptied: %s, dropped: %s",
                done.instances,
                ", ".join(done.rotated) or "none",
                ", ".join(done.dropped) or "none",
            )
        now = time.monotonic()
        self._busy_since = {name: self._busy_since.get(name, now) for name in done.busy}
        long = [name for name, since in self._busy_since.items() if now - since > _BUSY_SECONDS]
        if long:
            self._complain(
                f"{', '.join(long)}: in use without a gap for over an hour, so the space is not freed: look for a "
                "transaction that stays open (pg_locks, pg_stat_activity) and end it"
            )
        else:
            self._board.clear(ProblemReason.HISTORY_NOT_REMOVED)

    def _complain(self, message: str) -> None:
        self._board.report(ProblemReason.HISTORY_NOT_REMOVED, message, blocking=False)
