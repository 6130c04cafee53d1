"""Reading Kafka: a thin face over aiokafka's consumer with manual assignment, no group and no silent offset reset."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    NoBrokersAvailable,
    NoError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from marty_msf.core.errors import TopicUnavailable
from marty_msf.worker.broker.errors import translate

Partition = tuple[str, int]

#: The broker answers requests of one connection in order, so nothing of ours waits longer behind an idle fetch.
FETCH_WAIT_MS: Final = 200
REQUEST_TIMEOUT_MS: Final = 10_000

_REMEDIES: Final[Mapping[type[Exception], str]] = {
    UnknownTopicOrPartitionError: "does not exist: create it or correct the name; it is read as soon as it appears",
    TopicAuthorizationFailedError: "is forbidden to this client: grant it Read and Describe on the topic",
    InvalidTopicError: "has a name that Kafka refuses: correct it",
}


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


class _Client(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka ships no types
    async def describe(self, topics: Sequence[str]) -> Mapping[str, Sequence[int] | TopicUnavailable]:
        """Partitions of just these topics. aiokafka itself asks for all topics of the cluster, or creates missing ones."""
        answer = await self._ask_any(MetadataRequest(list(topics), allow_auto_topic_creation=False))
        found: dict[str, Sequence[int] | TopicUnavailable] = {}
        for code, topic, _, partitions in answer.topics:
            error = for_code(code)
            if remedy := _REMEDIES.get(error):
                found[topic] = TopicUnavailable(f"Kafka topic {topic!r} {remedy}")
            elif error is not NoError:
                raise error(topic)
            else:
                found[topic] = sorted(partition for _, partition, *_ in partitions)
        return found

    async def stop(self) -> None:
        """aiokafka awaits the fetches it has just cancelled: it then ends like a cancelled task itself, half closed."""
        try:
            await super().stop()
        except asyncio.CancelledError:
            await self._client.close()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise

    async def refresh(self) -> None:
        """Let the client itself learn about new partitions and their leaders."""
        await self._client.force_metadata_update()

    async def _ask_any(self, request: MetadataRequest) -> Any:
        """The answer of the first broker that gives one."""
        failure: KafkaError = NoBrokersAvailable("no Kafka broker is known")
        for broker in self._client.cluster.brokers():
            try:
                return await self._client.send(broker.nodeId, request)
            except KafkaError as error:
                failure = error
        raise failure


class Consumer:
    """One connection set to Kafka. Not restartable: after BrokerUnavailable make a new one, which finds new brokers too.

    All offsets are the caller's; nothing is stored in Kafka. Only records of committed Kafka transactions are read.
    """

    def __init__(self, bootstrap_servers: str, client_id: str) -> None:
        self._client = _Client(
            bootstrap_servers=bootstrap_servers.split(","),
            client_id=client_id,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        self._assigned: Collection[TopicPartition] = ()
        self._servers = bootstrap_servers

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailable; call `stop` in any case."""
        with translate(self._servers):
            await self._client.start()

    async def stop(self) -> None:
        """Close the connections."""
        await self._client.stop()

    async def describe(self, topics: Sequence[str]) -> Mapping[str, Sequence[int] | TopicUnavailable]:
        """Partition numbers of each topic, or why it cannot be read. Raises BrokerUnavailable."""
        with translate(self._servers):
            return await self._client.describe(topics)

    async def assign(self, offsets: Mapping[Partition, int], held: Collection[Partition]) -> None:
        """Read exactly these partitions from these offsets on, but nothing from those in `held`."""
        self._assigned = [TopicPartition(*partition) for partition in sorted(offsets)]
        with translate(self._servers):
            if any(self._client.partitions_for_topic(topic) is None for topic, _ in offsets):
                await self._client.refresh()
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
        with translate(self._servers):
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
        with translate(self._servers):
            offsets = await (self._client.beginning_offsets(asked) if first else self._client.end_offsets(asked))
        return {tuple(partition): offset for partition, offset in offsets.items()}
