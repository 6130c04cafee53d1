"""Topics on the real broker, and readers that are not ours (librdkafka), so that our own client cannot fool the tests."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewTopic


@dataclass(frozen=True, slots=True)
class Message:
    """One record as a foreign client sees it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def create_topic(bootstrap: str, name: str, partitions: int = 4, config: dict[str, str] | None = None) -> None:
    """Create a topic and wait until every partition has a leader."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config or {})
    admin.create_topics([topic])[name].result(timeout=30)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        known = admin.list_topics(name, timeout=10).topics[name].partitions
        if len(known) == partitions and all(partition.leader >= 0 for partition in known.values()):
            return
    raise TimeoutError(f"topic {name} has no leaders after 30 s")


def delete_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Delete topics; those already gone are fine."""
    if not names:
        return
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics(list(names)).values():
        try:
            future.result(timeout=30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise


def recreate_topic(bootstrap: str, name: str, partitions: int) -> None:
    """Delete a topic and make it anew: the same name and offsets, but another topic to Kafka."""
    delete_topics(bootstrap, [name])
    deadline = time.monotonic() + 30
    while True:
        try:
            return create_topic(bootstrap, name, partitions)
        except KafkaException as error:
            # Deletion goes on in the background; until it is done the name is taken.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                raise


def read_topic(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[Message]:
    """Every record now in the topic, in order per partition, without a group's offsets."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reader-{topic}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
        }
    )
    try:
        partitions = sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        ended: set[int] = set()
        messages = []
        while len(ended) < len(partitions):
            for record in consumer.consume(10_000, timeout=0.05):
                error = record.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    ended.add(record.partition() or 0)
                    continue
                headers: dict[str, bytes] = dict(record.headers() or [])  # type: ignore[arg-type]
                messages.append(
                    Message(
                        topic,
                        record.partition() or 0,
                        record.offset() or 0,
                        record.key(),
                        record.value(),
                        headers,
                    )
                )
        return messages
    finally:
        consumer.close()


def count_topic(bootstrap: str, topic: str) -> int:
    """How many records the topic holds, by its offsets (nothing compacted or removed)."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"counter-{topic}"})
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        marks = [
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30) for partition in partitions
        ]
        return sum(high - low for low, high in marks)
    finally:
        consumer.close()


def set_config(bootstrap: str, topic: str, config: dict[str, str]) -> None:
    """Change settings of a topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    for changed in admin.incremental_alter_configs([resource]).values():
        changed.result(timeout=30)
