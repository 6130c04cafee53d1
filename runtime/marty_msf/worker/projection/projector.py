"""The projection's loop: read a batch, fold it, and write rows, sequences, totals and positions in one transaction."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import asyncpg

from marty_msf.core.errors import LeaseLost, PoisonEvent
from marty_msf.core.projection.fold import Writes, fold
from marty_msf.core.projection.intake import Intake, Taken, poison, sequenced
from marty_msf.core.projection.mapping import Mapper
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.store import projection, read_model
from marty_msf.store.database import translate
from marty_msf.store.read_model import Table
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.kafka_input import Batch, KafkaInput
from marty_msf.worker.projection.sequences import Sequences

#: How long an idle pass waits for an event; an event ends the wait at once.
IDLE_SECONDS: Final = 0.5
#: Records mapped in one go, about 2 ms, before answers of Postgres are looked at.
STEP_RECORDS: Final = 250


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did."""

    #: Records read and folded; they are stored by the next pass, while it reads on.
    read: int = 0
    #: Records whose effects and positions are durable now.
    stored: int = 0
    #: Of these, discarded as duplicates.
    duplicates: int = 0
    #: The transaction was rolled back, and the events are read again.
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Folded:
    batch: Batch
    taken: Taken
    writes: Writes


class Projector:
    """Folds the events of `kafka` into the table. While one batch is written, the next one is read and folded."""

    def __init__(self, pool: asyncpg.Pool, kafka: KafkaInput, spec: ProjectionSpec, scope: str) -> None:
        self._pool = pool
        self._kafka = kafka
        self._scope = scope
        self._mapper = Mapper(spec)
        self._table = Table.of(spec.read_model)
        self._value_columns = [name for name in spec.read_model.columns if name not in spec.read_model.key]
        self._batch_size = spec.batch_size
        self._sequences = Sequences(pool, scope, spec.batch_size)
        self._folded: _Folded | None = None
        #: Records still to be read one by one, to find the one that Postgres refuses.
        self._one_by_one = 0

    async def run(self, stop: asyncio.Event, passed: Callable[[Pass], None]) -> None:
        """Work until `stop`, then store what is folded; `passed` hears of every pass."""
        while not stop.is_set():
            passed(await self.run_once())
        passed(await self.finish())

    async def run_once(self) -> Pass:
        """Store the batch folded by the pass before and, at the same time, read and fold the next one.

        Raises DatabaseUnavailable and ReadModelMismatch; then nothing of the batches in work is stored.
        """
        return await self._pass(reads=True)

    async def finish(self) -> Pass:
        """Store the last batch without reading another one."""
        return await self._pass(reads=False)

    async def _pass(self, *, reads: bool) -> Pass:
        folded, self._folded = self._folded, None
        busy = asyncio.Event()
        try:
            async with TaskGroup() as tasks:
                reading = tasks.create_task(self._read(busy)) if reads else None
                if folded:
                    await self._store(folded, busy)
                busy.set()
        except BaseExceptionGroup as group:
            error = first_error(group)
            self._kafka.rewind()
            self._sequences.clear()
            if isinstance(error, PoisonEvent) and folded:
                self._refused(folded.batch, error)
            elif not isinstance(error, LeaseLost):
                raise error from group
            return Pass(repeated=True)
        self._folded = reading.result() if reading else None
        return Pass(
            read=len(self._folded.batch.records) if self._folded else 0,
            stored=len(folded.batch.records) if folded else 0,
            duplicates=sum(count.duplicates for count in folded.taken.counts.values()) if folded else 0,
        )

    async def _read(self, busy: asyncio.Event) -> _Folded | None:
        """Read and fold a batch once Postgres is `busy`, in steps short enough that its answers never wait long."""
        await busy.wait()
        batch = await self._kafka.next(1 if self._one_by_one else self._batch_size, IDLE_SECONDS)
        if batch is None:
            return None
        self._one_by_one = max(self._one_by_one - len(batch.records), 0)
        await asyncio.sleep(0)
        records = sequenced(batch.records)
        intake = Intake(self._mapper, await self._sequences.known(records, batch.epochs))
        for start in range(0, len(records), STEP_RECORDS):
            intake.add(records[start : start + STEP_RECORDS])
            await asyncio.sleep(0)
        taken = intake.taken
        if taken.stops:
            for partition, stop in taken.stops.items():
                self._kafka.hold(partition, stop.offset, stop.error)
            batch = batch.until({partition: stop.offset for partition, stop in taken.stops.items()})
        self._sequences.remember(taken.sequences)
        return _Folded(batch, taken, fold(taken.changes, self._value_columns))

    async def _store(self, folded: _Folded, busy: asyncio.Event) -> None:
        """One transaction: all or nothing, and nothing unless the partitions are still ours.

        Sets `busy` before the statements that keep Postgres working; those before them only cost their round trips.
        """
        passed = [
            projection.Passed(topic, partition, count.processed, count.duplicates)
            for (topic, partition), count in sorted(folded.taken.counts.items())
            if count.processed or count.duplicates
        ]
        with translate():
            async with self._pool.acquire() as conn, conn.transaction():
                await projection.prefer_indexes(conn)
                await self._kafka.commit(conn, folded.batch)
                await projection.count(conn, self._scope, passed)
                busy.set()
                await projection.raise_sequences(conn, self._sequences.numbered(folded.taken.sequences))
                await read_model.write(conn, self._table, folded.writes)
        self._kafka.committed(folded.batch)

    def _refused(self, batch: Batch, error: PoisonEvent) -> None:
        """Postgres refused a row: read one by one until the event is found, then stop its partition before it."""
        if len(batch.records) > 1:
            self._one_by_one = len(batch.records)
        else:
            record = batch.records[0]
            self._kafka.hold((record.topic, record.partition), record.offset, poison(record, str(error)))
