"""The translation of aiokafka's errors into ours, shared by producer and consumer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiokafka.errors import (
    BrokerResponseError,
    ConsumerStoppedError,
    CorruptRecordException,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedForMessageFormatError,
    kafka_errors,
)

from marty_msf.core.errors import BrokerUnavailable, TopicUnavailable


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka ships no types
    """Kafka's error 87, which aiokafka has no name for: for instance no key in a topic that is compacted."""

    errno = 87
    message = "INVALID_RECORD"
    description = "the broker refuses a record: does the topic, cleaned by compaction, want a key?"


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

#: What a broker says of a record, not of itself: trying the same record again elsewhere will not help.
RECORD_REFUSED: Final = (
    CorruptRecordException,
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)


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
