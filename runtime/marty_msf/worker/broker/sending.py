"""What a producer is given and tells, and what it asks of its session."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, TypeAlias

from aiokafka.errors import KafkaError

from marty_msf.core.resources import kafka
from marty_msf.core.resources.kafka import BATCH_BYTES, Compression
from marty_msf.worker.broker.record_batch import RecordBatch

Partition: TypeAlias = tuple[str, int]
#: A record's tail: key, value and headers (see core.records).
Message: TypeAlias = bytes


@dataclass(frozen=True, slots=True)
class Tuning:
    """How batches are made and sent; acks are always those of all replicas in sync, and idempotence is always on."""

    #: How long a batch that is not full waits before it is sent.
    linger_ms: int = 0
    #: Of a record batch, before compression.
    batch_bytes: int = BATCH_BYTES
    compression: Compression = Compression.NONE
    connections_max_idle_ms: int = 540_000

    @classmethod
    def of(cls, producer: kafka.Producer) -> Self:
        """As a resource says."""
        return cls(producer.linger_ms, producer.batch_bytes, producer.compression)


DEFAULT_TUNING: Final = Tuning()


@dataclass(frozen=True, slots=True)
class Sent:
    """One record batch on its way."""

    topic: str
    partition: int
    records: int
    bytes: int
    acknowledged: "asyncio.Future[Any]"


class Halted(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """A batch was not sent, because one of its session failed."""


class Session(Protocol):
    """One idempotent session with Kafka. What it raises are aiokafka's errors, and those of the network."""

    async def start(self) -> None:
        """Connect."""
        ...

    async def describe(self, topic: str) -> int:
        """Number of partitions, asked of the broker when it is not known yet; 0 when the topic is missing or forbidden.

        Raises NodeNotReadyError when no broker answers.
        """
        ...

    @property
    def forbidden(self) -> Collection[str]:
        """Topics of which the broker says nothing to this client, as far as it was asked."""
        ...

    async def refresh(self) -> bool:
        """Ask for the topics' partitions once more; False when no broker answers."""
        ...

    async def post(self, batches: Mapping[Partition, Sequence[RecordBatch]]) -> Sequence[Sent]:
        """Have batches sent, each partition's in order. Nothing is sent any more behind one that Kafka refused: Halted."""
        ...

    async def abandon(self) -> None:
        """End at once: what is not acknowledged is given up, and may still arrive."""
        ...


def ask_nothing_more(future: "asyncio.Future[Any]") -> None:
    """Nobody may be waiting for it: asked for once, so that asyncio does not call its error forgotten."""
    if future.done() and not future.cancelled():
        future.exception()
