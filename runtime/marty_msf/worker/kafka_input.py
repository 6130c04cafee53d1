"""Kafka as an input whose positions live in Postgres, shared by projections and by the triggers of sagas.

A partition is read by the worker that holds its lease, from the stored position on, and the position moves in the
transaction that stores the effects. There is no consumer group, no rebalancing, and an offset is never reset silently.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from asyncpg import Connection

from marty_msf.core.errors import BrokerUnavailable, LeaseLost, MartyError, PoisonEvent, TopicUnavailable
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import leases, positions
from marty_msf.worker.backoff import pause
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.consumer import Consumer, Partition, Record
from marty_msf.worker.groups import TaskGroup, first_error
from marty_msf.worker.kafka_assignment import Assignment
from marty_msf.worker.kafka_lag import Lag, LagMeter
from marty_msf.worker.kafka_partitions import Batch, Partitions
from marty_msf.worker.kafka_topic_owner import TopicOwner
from marty_msf.worker.ownership import any_of
from marty_msf.worker.role import Context

__all__ = ["Batch", "KafkaInput", "Lag", "Partition", "Record"]

#: How often topics are looked at: how soon new topics and partitions, and an outage, are noticed.
LOOK_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 1.0
#: How long the end of a connection waits for those who ask it something just now.
LAST_WORDS_SECONDS: Final = 2.0


class KafkaInput:
    """One consumer over `topics`: one task runs `run`, another one calls everything else.

    Problems with Kafka (broker, topic, lost position) go to the board and are retried here for ever; `blocking` says
    whether they stop all work of this worker; else it has other work, and the problems are told as unmet. Only DatabaseUnavailable and SchemaOutdated are raised.
    """

    def __init__(
        self, context: Context, *, role: str, connection: KafkaConnection, topics: Sequence[str], blocking: bool = True
    ) -> None:
        self._context = context
        self._scope = f"{role}:{context.resource}"
        self._connection = connection
        self._topics = sorted(set(topics))
        self._blocking = blocking
        self._partitions = Partitions()
        self._assignment = Assignment(context.pool, self._scope, self._topics, self._partitions)
        self._consumer: Consumer | None = None
        #: How many ask the consumer something now. Stopped under their hands it would leave connections open.
        self._asking = 0
        self._asked = asyncio.Event()
        self._failure: BrokerUnavailable | None = None
        #: What fetches since the last look said of topics that may be described but not read.
        self._forbidden: dict[str, TopicUnavailable] = {}
        self._failed = asyncio.Event()
        self._owners: dict[str, TopicOwner] = {}
        self._shown: set[ProblemReason] = set()
        self._meter = LagMeter(context.pool, self._scope)
        #: Every partition of every topic there is.
        self._known: Sequence[Partition] = ()
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
                self._report(ProblemReason.BROKER_UNAVAILABLE, [error], stopped=True)
                self.looked.set()
                await pause(stop, RETRY_SECONDS)

    async def next(self, max_records: int, wait_seconds: float) -> Batch | None:
        """What follows the batches given out before; None when nothing came within `wait_seconds`."""
        consumer, state = self._consumer, self._partitions
        if consumer is None or self._failure or not state.owned:
            await self._wait(wait_seconds)
            return None
        try:
            with self._ask():
                if not state.assigned:
                    await self._assignment.assign(consumer)
                epochs = dict(state.owned)
                fetched = await consumer.fetch(max_records, wait_seconds)
                proven = await self._assignment.proven(consumer, fetched)
        except BrokerUnavailable as error:
            # A consumer that was stopped meanwhile, in the other task, has failed nobody.
            if self._consumer is consumer:
                self._failure = error
                self._failed.set()
            return None
        except TopicUnavailable as error:
            self._forbidden[str(error)] = error
            await self._wait(wait_seconds)
            return None
        finally:
            self._report_stopped()
        batch = state.give_out(proven, epochs)
        if batch is None and proven is not fetched:
            # Kafka had something at once, but not what we read: do not ask again and again before it is looked at.
            await self._wait(wait_seconds)
        return batch

    async def commit(self, conn: Connection, batch: Batch) -> None:
        """Inside the caller's transaction: fence the partitions' leases, then move the positions.

        Raises LeaseLost when a partition has another owner or its position was moved: the caller rolls back, drops
        the batch and calls `rewind`.
        """
        last = {(r.topic, r.partition): r.timestamp_ms for r in batch.records}
        moves = [
            positions.Move(*tp, batch.from_offsets[tp], batch.next_offsets[tp], last.get(tp), batch.topic_ids[tp])
            for tp in sorted(batch.next_offsets)
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
        self._partitions.returned(batch)

    def rewind(self) -> None:
        """Forget the batches given out; the next one starts at the stored positions. No transaction may be open."""
        self._partitions.rewind()

    def hold(self, partition: Partition, offset: int, error: PoisonEvent) -> None:
        """Read nothing from `offset` on as long as we own this partition, and show why. The caller commits up to it."""
        self._partitions.held[partition] = (offset, error)
        if self._consumer and self._partitions.assigned:
            self._consumer.hold([partition])
        self._report_stopped()

    async def lag(self) -> Lag:
        """Distance of all partitions, whoever owns them, from Kafka's real head. Raises BrokerUnavailable."""
        if self._consumer is None or not self.looked.is_set():
            raise self._failure or BrokerUnavailable(f"Kafka at {self._connection.servers} has not answered yet")
        with self._ask():
            return await self._meter.read(self._consumer, self._topics, self._known)

    @property
    def owned(self) -> int:
        """Partitions this process owns now."""
        return len(self._partitions.owned)

    @contextmanager
    def _ask(self) -> Iterator[None]:
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            self._asked.set()

    async def _all_asked(self) -> None:
        """Return once nobody asks the consumer anything any more, or that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                while self._asking:
                    self._asked.clear()
                    await self._asked.wait()

    async def _serve(self, stop: asyncio.Event) -> None:
        """One connection's life. Partitions are handed back when it ends: another worker may still reach Kafka."""
        consumer = Consumer(self._connection, self._context.holder)
        self._failure = None
        self._failed.clear()
        try:
            await consumer.start()
            self._consumer = consumer
            async with TaskGroup() as tasks:
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
            await self._all_asked()
            await consumer.stop()
        if self._failure:
            raise self._failure

    async def _look(self, consumer: Consumer, tasks: TaskGroup) -> None:
        """Follow what became of the topics: own the partitions that are there, say what is missing."""
        found = await consumer.describe(self._topics)
        self._report(ProblemReason.BROKER_UNAVAILABLE, [], stopped=False)
        missing = [answer for answer in found.values() if isinstance(answer, TopicUnavailable)]
        missing += self._forbidden.values()
        self._forbidden.clear()
        # A topic beside the work stands for something of its own, a trigger; one input of several is not missed alone.
        stopped = len(missing) >= len(found) or not self._blocking
        self._report(ProblemReason.TOPIC_UNAVAILABLE, missing, stopped=stopped)
        for topic in self._topics:
            answer = found[topic]
            wanted: Sequence[int] = () if isinstance(answer, TopicUnavailable) else answer
            owner = self._owners.get(topic)
            if owner and list(owner.lanes_of_topic) != list(wanted):
                owner.stop.set()
                await owner.task
                del self._owners[topic]
            if wanted and topic not in self._owners:
                self._owners[topic] = TopicOwner(self._partitions, self._context, self._scope, topic, wanted, tasks)
        self._known = [(topic, lane) for topic, owner in self._owners.items() for lane in owner.lanes_of_topic]
        for owner in self._owners.values():
            await owner.lanes.ready.wait()
        await self._assignment.look(consumer)
        self._report_stopped()
        self.looked.set()

    async def _wait(self, seconds: float) -> None:
        """Until something is gained, at most so long."""
        self._partitions.changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._partitions.changed.wait(), seconds)

    def _report_stopped(self) -> None:
        """The other partitions flow on, so only a worker with nothing else to read is blocked."""
        state, stopped = self._partitions, self._partitions.all_stand_still
        self._report(ProblemReason.POSITION_LOST, [lost.error for lost in state.lost.values()], stopped=stopped)
        self._report(ProblemReason.POISON_EVENT, [error for _, error in state.held.values()], stopped=stopped)

    def _report(self, reason: ProblemReason, errors: Sequence[MartyError], *, stopped: bool) -> None:
        """Show the errors as one problem, or take down what was shown here; the role has problems of its own."""
        if errors:
            self._shown.add(reason)
            blocking, unmet = stopped and self._blocking, stopped and not self._blocking
            # Partitions that stand still for the same reason are told once.
            message = "; ".join(dict.fromkeys(map(str, errors)))
            self._context.board.report(reason, message, blocking=blocking, unmet=unmet)
        elif reason in self._shown:
            self._shown.discard(reason)
            self._context.board.clear(reason)
