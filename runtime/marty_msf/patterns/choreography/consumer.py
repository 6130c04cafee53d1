"""The consumer's loop: events of each partition one after the other, partitions side by side.

The position in Kafka moves after the events before it are handled or parked. A crash in between reads them again; the
inbox knows them.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import LeaseLost, PoisonEvent
from marty_msf.patterns.choreography.event import Received
from marty_msf.patterns.choreography.handling import Guard, Handled, HandlerFailed, Handling
from marty_msf.store import inbox, leases
from marty_msf.store.database import translate
from marty_msf.store.inbox import Parked
from marty_msf.worker.backoff import Backoff, pause
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.kafka_input import Batch, KafkaInput, Partition, Record

logger = logging.getLogger(__name__)

BATCH_RECORDS: Final = 200
WAIT_SECONDS: Final = 0.5
BEHIND: Final = "waits behind an earlier event of its key, which is parked"


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a failing handler is tried before its event is parked; the waits double."""

    attempts: int = 5
    first_seconds: float = 0.2
    longest_seconds: float = 10


@dataclass(frozen=True, slots=True)
class Pass:
    """What one batch did."""

    handled: int = 0
    duplicates: int = 0
    parked: int = 0
    #: The partitions went to another worker, or the loop stopped: part of the batch is read again.
    repeated: bool = False


@dataclass(slots=True)
class _Progress:
    """How far one partition of a batch came."""

    handled: int = 0
    duplicates: int = 0
    parked: int = 0
    #: The first event that was not dealt with, because the loop stops.
    stopped_before: int | None = None


class Consumer:
    """Hands the events of `kafka` to the handlers."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        kafka: KafkaInput,
        handling: Handling,
        *,
        consumer: str,
        holder: str,
        retries: Retries,
        concurrency: int,
    ) -> None:
        """`concurrency` bounds the partitions handled at once: each needs a connection of the pool."""
        self._pool = pool
        self._kafka = kafka
        self._handling = handling
        self._consumer = consumer
        self._holder = holder
        self._retries = retries
        self._places = asyncio.Semaphore(concurrency)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`. Raises DatabaseUnavailable; what was not committed is read again."""
        while not stop.is_set():
            await self.run_once(stop)

    async def run_once(self, stop: asyncio.Event) -> Pass:
        """Deal with one batch."""
        batch = await self._kafka.next(BATCH_RECORDS, WAIT_SECONDS)
        if batch is None:
            return Pass()
        by_partition: dict[Partition, list[Record]] = {}
        for record in batch.records:
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        try:
            progress = await self._partitions(batch, by_partition, stop)
            stops = {tp: it.stopped_before for tp, it in progress.items() if it.stopped_before is not None}
            await self._move(batch.until(stops) if stops else batch)
        except LeaseLost as error:
            logger.info("a batch of events goes to another worker: %s", error)
            self._kafka.rewind()
            return Pass(repeated=True)
        done = progress.values()
        return Pass(
            sum(it.handled for it in done),
            sum(it.duplicates for it in done),
            sum(it.parked for it in done),
            repeated=bool(stops),
        )

    async def _partitions(
        self, batch: Batch, by_partition: Mapping[Partition, Sequence[Record]], stop: asyncio.Event
    ) -> Mapping[Partition, _Progress]:
        try:
            async with TaskGroup() as tasks:
                running = {
                    tp: tasks.create_task(self._partition(tp, records, batch.epochs[tp], stop))
                    for tp, records in by_partition.items()
                }
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        return {tp: task.result() for tp, task in running.items()}

    async def _partition(self, tp: Partition, records: Sequence[Record], epoch: int, stop: asyncio.Event) -> _Progress:
        progress = _Progress()
        guard = partial(self._fence, tp, epoch)
        async with self._places:
            for record in records:
                if stop.is_set() or not await self._one(Received.of_record(record), guard, progress, stop):
                    progress.stopped_before = record.offset
                    break
        return progress

    async def _one(self, received: Received, guard: Guard, progress: _Progress, stop: asyncio.Event) -> bool:
        """Handle or park one event; False when the loop stops before."""
        waits = Backoff(self._retries.first_seconds, self._retries.longest_seconds)
        failures = 0
        while True:
            try:
                handled = await self._handling.handle(received, guard)
            except HandlerFailed as failure:
                failures += 1
                logger.warning("%s (attempt %s of %s)", failure, failures, self._retries.attempts)
                if failures >= self._retries.attempts or isinstance(failure.__cause__, PoisonEvent):
                    await self._park(received.parked(failures, str(failure)), guard)
                    progress.parked += 1
                    return True
                await pause(stop, waits.next())
                if stop.is_set():
                    return False
                continue
            if handled is not Handled.BEHIND:
                progress.handled += handled is Handled.DONE
                progress.duplicates += handled is Handled.DUPLICATE
                return True
            if await self._park(received.parked(0, BEHIND), guard):
                progress.parked += 1
                return True
            # What it waited behind was redriven just now.

    async def _park(self, event: Parked, guard: Guard) -> bool:
        with translate():
            async with self._pool.acquire() as conn, conn.transaction():
                parked = await inbox.park(conn, self._consumer, event)
                await guard(conn)
        return parked

    async def _fence(self, tp: Partition, epoch: int, conn: Connection) -> None:
        """At the end of the transaction: the lease's row is locked as shortly as can be, its renewals wait for it."""
        topic, partition = tp
        await leases.fence(conn, f"{self._consumer}#{topic}", self._holder, {partition: epoch})

    async def _move(self, batch: Batch) -> None:
        with translate():
            async with self._pool.acquire() as conn, conn.transaction():
                await self._kafka.commit(conn, batch)
        self._kafka.committed(batch)
