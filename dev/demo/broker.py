"""The demo's own Kafka client: librdkafka, so that the product is not checked with its own code."""

import time
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dev.cluster.errors import ClusterError
from dev.demo.facts import Published

TOPIC: Final = "order.events"
PARTITIONS: Final = 4
REQUEST_SECONDS: Final = 20.0
DELETED_WITHIN_SECONDS: Final = 20.0


def create_topic(bootstrap: str) -> None:
    """Make the topic unless it is there."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    future = admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)], request_timeout=REQUEST_SECONDS)[TOPIC]
    try:
        future.result()
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def delete_topic(bootstrap: str) -> None:
    """Remove the topic if it is there, and wait until the broker has forgotten it."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if TOPIC not in admin.list_topics(timeout=REQUEST_SECONDS).topics:
        return
    admin.delete_topics([TOPIC], request_timeout=REQUEST_SECONDS)[TOPIC].result()
    deadline = time.monotonic() + DELETED_WITHIN_SECONDS
    while TOPIC in admin.list_topics(timeout=REQUEST_SECONDS).topics:
        if time.monotonic() > deadline:
            raise ClusterError(f"Kafka did not remove topic {TOPIC} within {DELETED_WITHIN_SECONDS:.0f} s")
        time.sleep(0.1)


def read_topic(bootstrap: str) -> list[Published]:
    """Every message of the topic up to its present end."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "demo-check", "enable.auto.commit": False})
    try:
        ends = _ends(consumer)
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in ends])
        messages: list[Published] = []
        missing = {partition for partition, end in ends.items() if end > 0}
        deadline = time.monotonic() + REQUEST_SECONDS
        while missing:
            for message in consumer.consume(num_messages=1000, timeout=0.2):
                messages.append(published(message))
                if messages[-1].offset + 1 >= ends[messages[-1].partition]:
                    missing.discard(messages[-1].partition)
            if time.monotonic() > deadline:
                raise ClusterError(f"topic {TOPIC} could not be read to its end: partitions {sorted(missing)} are open")
    finally:
        consumer.close()
    return messages


def _ends(consumer: Consumer) -> dict[int, int]:
    ends: dict[int, int] = {}
    for partition in range(PARTITIONS):
        low, high = consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=REQUEST_SECONDS)
        ends[partition] = high if high > low else 0
    return ends


def published(message: Message) -> Published:
    """What the check needs of one message. ClusterError when Kafka reports an error in its place."""
    if message.error():
        raise ClusterError(f"reading topic {TOPIC}: {message.error()}")
    identity = dict(message.headers() or []).get("ce_id")
    key = message.key()
    return Published(
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        event_id=identity.decode() if isinstance(identity, bytes) else "",
        order_id=key.decode() if key else "",
    )
