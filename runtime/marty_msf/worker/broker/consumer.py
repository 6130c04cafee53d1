"""Reading Kafka: a thin face over aiokafka's consumer with manual assignment, no group and no silent offset reset."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from marty_msf.core.errors import BrokerUnavailable, TopicUnavailable
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.diagnosis import diagnosis
from marty_msf.worker.broker.errors import translate
from marty_msf.worker.broker.reading_client import ReadingClient

Partition = tuple[str, int]

#: The broker answers requests of one connection in order, so nothing of ours waits longer behind an idle fetch.
FETCH_WAIT_MS: Final = 200
REQUEST_TIMEOUT_MS: Final = 10_000


class Record(NamedTuple):
    """One Kafka message; `timestamp_ms` is Kafka's own, since the epoch. A NamedTuple because one is made per message."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought."""

    records: Sequence[Record]
    #: Next offset to read of every assigned partition; passes control records and holes of compaction too.
    positions: Mapping[Partition, int]
    #: Partitions whose position no longer exists in Kafka.
    out_of_range: Collection[Partition] = ()

    def of(self, partitions: Collection[Partition]) -> "Fetched":
        """What these partitions brought."""
        if len(partitions) == len(self.positions):
            return self
        return Fetched(
            [record for record in self.records if (record.topic, record.partition) in partitions],
            {partition: self.positions[partition] for partition in partitions},
            [partition for partition in self.out_of_range if partition in partitions],
        )


class Consumer:
    """One connection set to Kafka. Not restartable: after BrokerUnavailable make a new one, which finds new brokers too.

    All offsets are the caller's; nothing is stored in Kafka. Only records of committed Kafka transactions are read.
    """

    def __init__(self, connection: KafkaConnection, client_id: str) -> None:
        self._connection = connection
        self._client_id = client_id
        self._made: ReadingClient | None = None
        self._assigned: Collection[TopicPartition] = ()
        #: Who led each partition when it was assigned.
        self._leaders: Mapping[Partition, int | None] = {}

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailable, BrokerRefused; call `stop` in any case."""
        self._made = ReadingClient(
            **self._connection.options(),
            client_id=self._client_id,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            with translate(self._connection):
                await self._made.start()
        except BrokerUnavailable as error:
            if found := await diagnosis(self._connection):
                raise found from error
            raise

    async def stop(self) -> None:
        """Close the connections."""
        if self._made:
            await self._made.stop()

    @property
    def _client(self) -> ReadingClient:
        assert self._made is not None, "the consumer was not started"
        return self._made

    async def describe(self, topics: Sequence[str]) -> Mapping[str, Sequence[int] | TopicUnavailable]:
        """Partition numbers of each topic, or why it cannot be read. Raises BrokerUnavailable."""
        with translate(self._connection):
            return await self._client.describe(topics)

    async def assign(self, offsets: Mapping[Partition, int], held: Collection[Partition]) -> None:
        """Read exactly these partitions from these offsets on, but nothing from those in `held`."""
        self._assigned = [TopicPartition(*partition) for partition in sorted(offsets)]
        with translate(self._connection):
            if any(self._client.partitions_for_topic(topic) is None for topic, _ in offsets):
                await self._client.refresh()
        self._leaders = {tuple(partition): self._client.leader(partition) for partition in self._assigned}
        self._client.assign(self._assigned)
        for partition in self._assigned:
            self._client.seek(partition, offsets[partition])
        self.hold(held)

    def hold(self, partitions: Collection[Partition]) -> None:
        """Fetch nothing more from these partitions until the next `assign`; what is buffered is thrown away."""
        self._client.pause(*(TopicPartition(*partition) for partition in partitions))

    async def fetch(self, max_records: int, wait_seconds: float) -> Fetched:
        """Up to `max_records` records in offset order per partition; waits while there is none. May be empty."""
        out_of_range: Collection[Partition] = ()
        batches: Mapping[TopicPartition, Sequence[Any]] = {}
        with translate(self._connection):
            try:
                batches = await self._client.getmany(timeout_ms=int(wait_seconds * 1000), max_records=max_records)
            except OffsetOutOfRangeError as error:
                out_of_range = [tuple(partition) for partition in error.args[0]]
        records: list[Record] = []
        for batch in batches.values():
            # Unpacking took a while: let others of this loop have their turn.
            await asyncio.sleep(0)
            records.extend(
                Record(r.topic, r.partition, r.offset, r.key, r.value, dict(r.headers), r.timestamp) for r in batch
            )
        return Fetched(records, {tuple(tp): await self._client.position(tp) for tp in self._assigned}, out_of_range)

    async def topic_ids(self, partitions: Collection[Partition]) -> Mapping[Partition, UUID | None]:
        """The id of each partition's topic as its leader knows it now; None from brokers that have no ids.

        A partition is missing when its leader does not answer or does not know its topic. A broker learns of a topic
        before it opens the topic's partitions: an answer after a fetch or an offset from this leader is never older.
        """
        asked: dict[int, set[str]] = {}
        leaders = {partition: self._client.leader(TopicPartition(*partition)) for partition in partitions}
        for (topic, _), leader in leaders.items():
            if leader is not None:
                asked.setdefault(leader, set()).add(topic)
        answers = await asyncio.gather(*(self._client.topic_ids(node, topics) for node, topics in asked.items()))
        told = dict(zip(asked, answers, strict=True))
        return {
            partition: told[leader][partition[0]]
            for partition, leader in leaders.items()
            if leader is not None and partition[0] in told[leader]
        }

    async def topic_ids_read(self, partitions: Collection[Partition]) -> Mapping[Partition, UUID | None]:
        """The ids of the topics that everything fetched so far came from: whatever Kafka answers later is not in it.

        Partitions that have changed their leader since `assign` are missing: the new one may know less than the one
        that was read from.
        """
        same = [tp for tp in partitions if self._leaders.get(tp) == self._client.leader(TopicPartition(*tp))]
        return await self.topic_ids(same)

    async def earliest(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """First offset that retention left in each partition."""
        return await self._offsets(partitions, first=True)

    async def head(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """The real end of each partition: the offset after its last committed record."""
        return await self._offsets(partitions, first=False)

    async def _offsets(self, partitions: Collection[Partition], *, first: bool) -> Mapping[Partition, int]:
        asked = [TopicPartition(*partition) for partition in partitions]
        if not asked:
            return {}
        with translate(self._connection):
            offsets = await (self._client.beginning_offsets(asked) if first else self._client.end_offsets(asked))
        return {tuple(partition): offset for partition, offset in offsets.items()}
