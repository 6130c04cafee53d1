"""The contenders' topic, read by librdkafka: how much is in it, in which order, and when the broker appended it."""

import asyncio
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tests.support.kafka import create_topic, delete_topics

PARTITIONS: Final = 8
WARM_UP_RECORDS: Final = 2_000_000


@dataclass(slots=True)
class Found:
    """What is in the topic. The events carry their number and when they were written as the beginning of their JSON."""

    records: int = 0
    distinct: int = 0
    #: Records behind one of their aggregate that was written later.
    late: int = 0
    aggregates: int = 0
    #: Of each record but the repeated ones, side by side: its number, when it was written (seconds), and how long it then
    #: took until it was in Kafka.
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    written: "array[float]" = field(default_factory=lambda: array("d"))
    latencies_ms: "array[float]" = field(default_factory=lambda: array("d"))

    def latencies_behind(self, last: int) -> list[float]:
        """Of the events with a higher number."""
        return [took_ms for number, took_ms in zip(self.numbers, self.latencies_ms, strict=True) if number > last]


class Topic:
    """One topic of one round."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"bench-{name}",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "queued.max.messages.kbytes": 262_144,
            }
        )

    def close(self) -> None:
        """Release the connections."""
        self._consumer.close()

    def ends(self) -> list[int]:
        """The next offset of each partition."""
        partitions = [TopicPartition(self.name, number) for number in range(PARTITIONS)]
        return [self._consumer.get_watermark_offsets(at, timeout=10, cached=False)[1] for at in partitions]

    async def reach(self, count: int, seconds: float) -> tuple[int, float]:
        """Wait until so many records are in the topic: how many, and when that was seen. TimeoutError."""
        deadline = time.perf_counter() + seconds
        while (now := sum(await asyncio.to_thread(self.ends))) < count:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{now} of {count} events are in Kafka after {seconds:.0f} s")
            await asyncio.sleep(0.1)
        return now, time.perf_counter()

    def read(self, since: Sequence[int] = (0,) * PARTITIONS) -> Found:
        """Everything behind the given offsets."""
        found, last, seen, ended = Found(), dict[bytes, int](), set[int](), 0
        self._consumer.assign([TopicPartition(self.name, at, offset) for at, offset in enumerate(since)])
        while ended < PARTITIONS:
            for message in self._consumer.consume(10_000, timeout=0.05):
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise RuntimeError(str(error))
                    ended += 1
                    continue
                number, written = head(message.value() or b"")
                found.records += 1
                if number in seen:
                    continue
                seen.add(number)
                found.numbers.append(number)
                key = message.key() or b""
                found.late += number < last.get(key, -1)
                last[key] = number
                found.written.append(written)
                found.latencies_ms.append(message.timestamp()[1] - written * 1e3)
        self._consumer.unassign()
        found.distinct, found.aggregates = len(seen), len(last)
        return found


def warm_up(bootstrap: str) -> None:
    """Let the broker compile what it does often, by librdkafka: whoever is measured first would pay for that."""
    name = f"warm_up_{time.time_ns()}"
    create_topic(bootstrap, name, PARTITIONS)
    try:
        producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
        value = b"x" * 400
        for number in range(WARM_UP_RECORDS):
            producer.produce(name, value, b"order-%d" % (number % 10_000))
            if number % 10_000 == 0:
                producer.flush(60)
        if producer.flush(60):
            raise TimeoutError(f"Kafka at {bootstrap} has not taken the records of its warm-up after 60 s")
    finally:
        delete_topics(bootstrap, [name])


def head(value: bytes) -> tuple[int, float]:
    """The number of an event and when it was written, in seconds: `{"n":17,"ts":1700000000.123456,...`."""
    number, written, _ = value.split(b",", 2)
    return int(number[5:]), float(written[5:])


def percentile(values: Iterable[float], share: float) -> float:
    """Of values in any order; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
