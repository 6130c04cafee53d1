"""The translation of aiokafka's errors into ours, shared by producer and consumer."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import (
    ConsumerStoppedError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from marty_msf.core.errors import BrokerUnavailable, TopicUnavailable


@contextmanager
def translate(servers: str) -> Iterator[None]:
    """Turn what the client raises into BrokerUnavailable or TopicUnavailable."""
    try:
        yield
    except (UnknownTopicOrPartitionError, TopicAuthorizationFailedError) as error:
        raise TopicUnavailable(
            f"a Kafka topic is missing or forbidden: {error}: create it or grant the rights"
        ) from error
    except (KafkaError, ConsumerStoppedError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(
            f"Kafka at {servers} does not answer: {error or type(error).__name__}:"
            " it is retried; check spec.kafka.bootstrapServers and the network"
        ) from error
