"""Kafka as an input whose positions live in Postgres, shared by projections and by the triggers of sagas.

A partition is read by the worker that holds its lease, from the stored position on, and the position moves in the
transaction that stores the effects. There is no consumer group, no rebalancing, and an offset is never reset silently.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from asyncpg import Connection

from marty_msf.core.errors import BrokerUnavailable, LeaseLost, MartyError, PoisonEvent, PositionLost, TopicUnavailable
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import leases, positions
from marty_msf.store.database import translate
from marty_msf.worker.board import reason_of
from marty_msf.worker.broker.consumer import Consumer, Fetched, Partition, Record
from marty_msf.worker.groups import first_error
from marty_msf.worker.kafka_lag import Lag, LagMeter
from marty_msf.worker.ownership import LaneOwner, any_of
from marty_msf.worker.role import Context

__all__ = ["Batch", "KafkaInput", "Lag", "Partition", "Record"]

#: How often topics are looked at: how soon new topics and partitions, and an outage, are noticed.
LOOK_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in offset order per partition, and the positions before and after them.

    `records` may be empty: then only control records of Kafka transactions were passed.
    """

    records: Sequence[Record]
    next_offsets: Mapping[Partition, int]
    from_offsets: Mapping[Partition, int] = field(default_factory=dict)
    #: Lease epoch under which each partition was read: what a caller remembers under it nobody else has changed.
    epochs: Mapping[Partition, int] = field(default_factory=dict)

    def until(self, stops: Mapping[Partition, int]) -> "Batch":
        """The same batch without the records from these offsets on; committed in its place."""
        kept = {**self.next_offsets, **stops}
        return replace(
            self,
            records=[r for r in self.records if r.offset < stops.get((r.topic, r.partition), r.offset + 1)],
            next_offsets={
                partition: offset for partition, offset in kept.items() if offset != self.from_offsets[partition]
            },
        )


class KafkaInput:
    """One consumer over `topics`: one task runs `run`, another one calls everything else.

    Problems with Kafka (broker, topic, lost position) go to the board and are retried here for ever; `blocking` says
    whether they stop all work of this worker. Only DatabaseUnavailable and SchemaOutdated are raised.
    """

    def __init__(
        self, context: Context, *, role: str, bootstrap_servers: str, topics: Sequence[str], blocking: bool = True
    ) -> None:
        self._context = context
        self._scope = f"{role}:{context.resource}"
        self._servers = bootstrap_servers
        self._topics = sorted(set(topics))
        self._blocking = blocking
        self._consumer: Consumer | None = None
        self._owners: dict[str, _TopicOwner] = {}
        #: Partition -> lease epoch of what is ours.
        self._owned: dict[Partition, int] = {}
        #: Partition -> next offset to read; a partition that is owned but not here has yet to be looked up.
        self._reading: dict[Partition, int] = {}
        #: Partitions that nothing is read from: the caller met an event it cannot apply, or the position is lost.
        self._held: dict[Partition, PoisonEvent] = {}
        self._lost: dict[Partition, tuple[int, PositionLost]] = {}
        self._in_work: list[Batch] = []
        self._assigned = False
        self._failure: BrokerUnavailable | None = None
        self._changed, self._failed, self._done = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._meter = LagMeter(context.pool, self._scope)
        #: Set once topics were looked at and leases claimed, or Kafka did not answer: its problems are on the board.
        self.looked = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep connection, leases and the list of partitions until `stop`; then hand all partitions back.

        Hands back only after the batches given out are committed or rewound.
        """
        while not stop.is_set():
            try:
                await self._serve(stop)
            except BrokerUnavailable as error:
                self._report([error], blocking=self._blocking)
                self.looked.set()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_SECONDS)

    async def next(self, max_records: int, wait_seconds: float) -> Batch | None:
        """What follows the batches given out before; None when nothing came within `wait_seconds`."""
        consumer = self._consumer
        if consumer is None or self._failure or not self._owned:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_seconds)
            return None
        try:
            if not self._assigned:
                await self._assign(consumer)
            epochs = dict(self._owned)
            fetched = await consumer.fetch(max_records, wait_seconds)
            await self._out_of_range(consumer, fetched)
        except BrokerUnavailable as error:
            self._failure = error
            self._failed.set()
            return None
        return self._batch(fetched, epochs)

    async def commit(self, conn: Connection, batch: Batch) -> None:
        """Inside the caller's transaction: fence the partitions' leases, then move the positions.

        Raises LeaseLost when a partition has another owner or its position was moved: the caller rolls back, drops
        the batch and calls `rewind`.
        """
        last = {(r.topic, r.partition): r.timestamp_ms for r in batch.records}
        moves = [
            positions.Move(
                *partition, batch.from_offsets[partition], batch.next_offsets[partition], last.get(partition)
            )
            for partition in sorted(batch.next_offsets)
        ]
        lanes: dict[str, dict[int, int]] = {}
        for topic, partition in batch.next_offsets:
            lanes.setdefault(topic, {})[partition] = batch.epochs[topic, partition]
        try:
            for topic in sorted(lanes):
                await leases.fence(conn, f"{self._scope}#{topic}", self._context.holder, lanes[topic])
            await positions.advance(conn, self._scope, moves)
        except LeaseLost:
            for topic, epochs in lanes.items():
                if owner := self._owners.get(topic):
                    owner.lanes.lost(epochs)
            raise

    def committed(self, batch: Batch) -> None:
        """The transaction of `commit` is durable."""
        self._in_work = [b for b in self._in_work if b.from_offsets is not batch.from_offsets]
        self._done.set()

    def rewind(self) -> None:
        """Forget the batches given out; the next one starts at the stored positions. No transaction may be open."""
        self._in_work.clear()
        self._reading.clear()
        self._assigned = False
        self._done.set()

    def hold(self, partition: Partition, error: PoisonEvent) -> None:
        """Read nothing more from this partition as long as we own it, and show why; its position stays where it is."""
        self._held[partition] = error
        if self._consumer and self._assigned:
            self._consumer.hold([partition])
        self._report_stopped()

    async def lag(self) -> Lag:
        """Distance of all partitions, whoever owns them, from Kafka's real head. Raises BrokerUnavailable."""
        if self._consumer is None:
            raise self._failure or BrokerUnavailable(f"Kafka at {self._servers} has not answered yet")
        partitions = [(topic, lane) for topic, owner in self._owners.items() for lane in owner.partitions]
        return await self._meter.read(self._consumer, self._topics, partitions)

    @property
    def owned(self) -> int:
        """Partitions this process owns now."""
        return len(self._owned)

    def gained(self, epochs: Mapping[Partition, int]) -> None:
        """These partitions are ours from now on."""
        self.dropped(list(epochs))
        self._owned.update(epochs)
        self._changed.set()

    def dropped(self, partitions: Sequence[Partition]) -> None:
        """These partitions are not ours any more."""
        for partition in partitions:
            self._owned.pop(partition, None)
            self._reading.pop(partition, None)
            self._lost.pop(partition, None)
            self._held.pop(partition, None)
        self._assigned = False

    async def finished(self, partitions: Sequence[Partition]) -> None:
        """Return once no batch given out has records of these partitions."""
        while any(not batch.next_offsets.keys().isdisjoint(partitions) for batch in self._in_work):
            self._done.clear()
            await self._done.wait()

    async def _serve(self, stop: asyncio.Event) -> None:
        """One connection's life."""
        consumer = Consumer(self._servers, self._context.holder)
        self._failure = None
        self._failed.clear()
        try:
            await consumer.start()
            self._consumer = consumer
            async with asyncio.TaskGroup() as tasks:
                while not stop.is_set() and not self._failure:
                    try:
                        await self._look(consumer, tasks)
                    except BrokerUnavailable as error:
                        self._failure = error
                        break
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await any_of(stop, self._failed)
                for owner in self._owners.values():
                    owner.stop.set()
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            self._consumer = None
            self._owners.clear()
            await consumer.stop()
        if self._failure:
            raise self._failure

    async def _look(self, consumer: Consumer, tasks: asyncio.TaskGroup) -> None:
        """Follow what became of the topics: own the partitions that are there, say what is missing."""
        found = await consumer.describe(self._topics)
        self._context.board.clear(ProblemReason.BROKER_UNAVAILABLE)
        missing = [answer for answer in found.values() if isinstance(answer, TopicUnavailable)]
        self._report(missing, ProblemReason.TOPIC_UNAVAILABLE, blocking=self._blocking and len(missing) == len(found))
        for topic in self._topics:
            answer = found[topic]
            wanted: Sequence[int] = () if isinstance(answer, TopicUnavailable) else answer
            owner = self._owners.get(topic)
            if owner and list(owner.partitions) != list(wanted):
                owner.stop.set()
                await owner.task
                del self._owners[topic]
            if wanted and topic not in self._owners:
                self._owners[topic] = _TopicOwner(self, self._context, self._scope, topic, wanted, tasks)
        for owner in self._owners.values():
            await owner.lanes.ready.wait()
        await self._look_at_lost()
        self.looked.set()

    async def _look_at_lost(self) -> None:
        """Read on where a person moved a lost position; tell what stands still."""
        if self._lost:
            stored = await self._stored()
            for partition, (offset, _) in list(self._lost.items()):
                if partition not in stored or stored[partition].next_offset != offset:
                    del self._lost[partition]
                    self._assigned = False
        self._report_stopped()

    def _report_stopped(self) -> None:
        """The other partitions flow on, so only a worker with nothing else to read is blocked."""
        blocking = self._blocking and len(self._lost) + len(self._held) >= len(self._owned)
        lost = [error for _, error in self._lost.values()]
        self._report(lost, ProblemReason.POSITION_LOST, blocking=blocking)
        self._report(list(self._held.values()), ProblemReason.POISON_EVENT, blocking=blocking)

    async def _assign(self, consumer: Consumer) -> None:
        """Read exactly what is owned; partitions that are new to us from their stored positions on."""
        self._assigned = True
        epochs = dict(self._owned)
        fresh = [partition for partition in epochs if partition not in self._reading and partition not in self._lost]
        if fresh:
            stored, earliest, head = await self._stored(), await consumer.earliest(fresh), await consumer.head(fresh)
            starts = {partition: earliest[partition] for partition in fresh if partition not in stored}
            with translate():
                async with self._context.pool.acquire() as conn:
                    await positions.begin(conn, self._scope, starts)
            for partition in fresh:
                if self._owned.get(partition) != epochs[partition]:
                    continue
                offset = stored[partition].next_offset if partition in stored else starts[partition]
                if earliest[partition] <= offset <= head[partition]:
                    self._reading[partition] = offset
                else:
                    self._lose(partition, offset, earliest[partition], head[partition])
        await consumer.assign(self._reading, self._held & self._reading.keys())

    async def _stored(self) -> Mapping[Partition, positions.Stored]:
        with translate():
            async with self._context.pool.acquire() as conn:
                return await positions.load(conn, self._scope, self._topics)

    async def _out_of_range(self, consumer: Consumer, fetched: Fetched) -> None:
        """Retention passed us while we were reading."""
        gone = [partition for partition in fetched.out_of_range if partition in self._reading]
        if gone:
            earliest, head = await consumer.earliest(gone), await consumer.head(gone)
            for partition in gone:
                self._lose(partition, self._reading.pop(partition), earliest[partition], head[partition])
            self._assigned = False

    def _lose(self, partition: Partition, offset: int, earliest: int, head: int) -> None:
        topic, number = partition
        cause = "retention removed the events between" if offset < earliest else "the topic was made anew"
        error = PositionLost(
            f"Kafka topic {topic!r} partition {number}: the stored offset {offset} is outside of {earliest}..{head},"
            f" what Kafka has ({cause}): restore the events, or accept the gap and set next_offset to {earliest}"
            f" in its row of marty.kafka_position (scope {self._scope!r})"
        )
        self._lost[partition] = (offset, error)
        self._report_stopped()

    def _batch(self, fetched: Fetched, epochs: Mapping[Partition, int]) -> Batch | None:
        """What was fetched without partitions that were lost or held meanwhile."""
        ours = {
            partition: offset
            for partition, offset in fetched.positions.items()
            if partition in self._reading and self._owned.get(partition) == epochs.get(partition)
        }
        moved = {partition: offset for partition, offset in ours.items() if offset != self._reading[partition]}
        if not moved:
            return None
        records = fetched.records
        if len(ours) != len(fetched.positions):
            records = [r for r in records if (r.topic, r.partition) in moved]
        batch = Batch(
            records,
            moved,
            from_offsets={partition: self._reading[partition] for partition in moved},
            epochs={partition: epochs[partition] for partition in moved},
        )
        self._reading.update(moved)
        self._in_work.append(batch)
        return batch

    def _report(self, errors: Sequence[MartyError], *reasons: ProblemReason, blocking: bool) -> None:
        """Show the errors as one problem, or take the problem down when there is none."""
        if errors:
            self._context.board.report(reason_of(errors[0]), "; ".join(map(str, errors)), blocking=blocking)
        else:
            self._context.board.clear(*reasons)


class _TopicOwner:
    """Owns the partitions of one topic: the lanes of the scope `<role>:<resource>#<topic>`."""

    def __init__(
        self,
        kafka: KafkaInput,
        context: Context,
        scope: str,
        topic: str,
        partitions: Sequence[int],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self.partitions = partitions
        self.stop = asyncio.Event()
        self.lanes = LaneOwner(context.pool, f"{scope}#{topic}", context.holder, partitions, self)
        self.task = tasks.create_task(self.lanes.run(self.stop))

    async def gained(self, epochs: Mapping[int, int]) -> None:
        self._kafka.gained({(self._topic, lane): epoch for lane, epoch in epochs.items()})

    async def drain(self, lanes: Sequence[int]) -> None:
        partitions = [(self._topic, lane) for lane in lanes]
        self._kafka.dropped(partitions)
        await self._kafka.finished(partitions)

    def dropped(self, lanes: Sequence[int]) -> None:
        self._kafka.dropped([(self._topic, lane) for lane in lanes])
