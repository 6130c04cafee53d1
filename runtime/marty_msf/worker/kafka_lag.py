"""How far a reader of Kafka is behind the real head."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from marty_msf.store import positions
from marty_msf.store.database import translate
from marty_msf.worker.broker.consumer import Consumer, Partition
from marty_msf.worker.kafka_loss import made_anew

#: Status, metrics and probes may all ask; Kafka is asked once.
CACHE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Lag:
    """Over all partitions, whoever owns them."""

    events: int
    #: Upper bound of the age of the oldest event not applied; 0 when there is none.
    seconds: float


class LagMeter:
    """Compares the stored positions of one reader with Kafka's end offsets; every worker gives the same answer."""

    def __init__(self, pool: asyncpg.Pool, scope: str) -> None:
        self._pool = pool
        self._scope = scope
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._lag = Lag(0, 0)
        self._since = time.time()
        #: When a partition was last seen without lag: whatever waits in it is younger.
        self._caught_up: dict[Partition, float] = {}

    async def read(self, consumer: Consumer, topics: Sequence[str], partitions: Sequence[Partition]) -> Lag:
        """At most a second old. Raises BrokerUnavailable and DatabaseUnavailable."""
        async with self._lock:
            if time.monotonic() - self._read_at >= CACHE_SECONDS:
                with translate():
                    async with self._pool.acquire() as conn:
                        stored = await positions.load(conn, self._scope, topics)
                now = time.time()
                head = await consumer.head(partitions)
                ids = await consumer.topic_ids(partitions)
                # Of a topic that was made anew nothing is applied yet: its positions belong to the former one.
                read = {tp: at for tp, at in stored.items() if not made_anew(at.topic_id, ids.get(tp))}
                first = await consumer.earliest([partition for partition in partitions if partition not in read])
                self._lag = self._compare(read, first, head, now)
                self._read_at = time.monotonic()
            return self._lag

    def _compare(
        self,
        stored: Mapping[Partition, positions.Stored],
        first: Mapping[Partition, int],
        head: Mapping[Partition, int],
        now: float,
    ) -> Lag:
        events, seconds = 0, 0.0
        for partition, end in head.items():
            at = stored.get(partition)
            behind = max(end - (at.next_offset if at else first[partition]), 0)
            events += behind
            if not behind:
                self._caught_up[partition] = now
                continue
            applied = at.event_time.timestamp() if at and at.event_time else self._since
            seconds = max(seconds, now - max(applied, self._caught_up.get(partition, 0)))
        return Lag(events, round(seconds, 3))
