"""Reads topics from end to end as a consumer does that discards by (key, ce_martysequence), without keeping the events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

SHOWN: Final = 20
_AT_ONCE: Final = 10_000


@dataclass(slots=True)
class Consumed:
    """What such a consumer got."""

    records: int = 0
    #: Records behind their like or behind a newer one of their key.
    discarded: int = 0
    #: Key to the number of events that came with 0, 1, 2, … behind one another.
    in_order: dict[str, int] = field(default_factory=dict)
    #: The first SHOWN events that came when another one was due, and how many there were.
    faults: list[str] = field(default_factory=list)
    out_of_order: int = 0
    _highest: dict[str, int] = field(default_factory=dict)

    def take(self, key: str, sequence: int, number: int) -> None:
        """One record, in the order of its partition."""
        self.records += 1
        if sequence <= self._highest.get(key, 0):
            self.discarded += 1
            return
        self._highest[key] = sequence
        due = self.in_order.get(key, 0)
        if number == due:
            self.in_order[key] = due + 1
            return
        self.out_of_order += 1
        if len(self.faults) < SHOWN:
            self.faults.append(f"{key}: event {number} came when {due} was due")


def consume(bootstrap: str, topics: Sequence[str]) -> Consumed:
    """Everything that is in the topics now; blocks."""
    settings = {
        "bootstrap.servers": bootstrap,
        "group.id": "soak",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
    consumer = Consumer(settings)
    try:
        known = consumer.list_topics(timeout=30).topics
        partitions = {(topic, partition) for topic in topics for partition in known[topic].partitions}
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in partitions])
        found = Consumed()
        while partitions:
            for record in consumer.consume(_AT_ONCE, timeout=1):
                if (error := record.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    partitions.discard((str(record.topic()), record.partition() or 0))
                    continue
                headers: dict[str, bytes] = dict(record.headers() or ())  # type: ignore[arg-type]
                number = orjson.loads(record.value() or b"")["n"]
                found.take((record.key() or b"").decode(), int(headers["ce_martysequence"]), number)
        return found
    finally:
        consumer.close()
