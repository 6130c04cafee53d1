"""The translation of aiokafka's errors into ours, shared by producer and consumer."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    InvalidProducerEpoch,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    OffsetMetadataTooLargeError,
    PolicyViolationError,
    ProducerFenced,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    UnsupportedForMessageFormatError,
    kafka_errors,
)

from marty_msf.core.errors import BrokerRefused, BrokerUnavailable, LeaseLost, TopicUnavailable
from marty_msf.core.outbox.transaction import PREFIX as TRANSACTIONAL_PREFIX
from marty_msf.worker.broker.connection import KafkaConnection

READ: Final = "Read and Describe"
WRITE: Final = "Write and Describe"


def missing_topic(topic: str) -> str:
    """What to say of a topic that is not there."""
    return f"Kafka topic {topic!r} does not exist: create it or correct the name"


def forbidden_topic(topic: str, rights: str) -> str:
    """What to say of a topic that this client may not use; `rights` as in `Read and Describe`."""
    return f"Kafka topic {topic!r} is forbidden to this client: grant it {rights} on the topic"


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]  # aiokafka ships no types
    """Kafka's error 87, which aiokafka has no name for: for instance no key in a topic that is compacted."""

    errno = 87
    message = "INVALID_RECORD"
    description = "the broker refuses a record: does the topic, cleaned by compaction, want a key?"


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

#: What a broker says of a record, or of its topic, not of itself: trying the same record again elsewhere will not help.
#: InvalidTopicError is said of a topic that is there and that Kafka keeps for itself (`__consumer_offsets`).
RECORD_REFUSED: Final = (
    CorruptRecordException,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)


@contextmanager
def translate(
    connection: KafkaConnection, topic: str | None = None, rights: str = READ, *, late: str = "it took too long"
) -> Iterator[None]:
    """Turn what the client raises into BrokerUnavailable, BrokerRefused, TopicUnavailable, or LeaseLost when another
    process has taken the transactional id over.

    `topic` is what the call was about, where the error does not say; `rights` are those that the call needs;
    `late` says what was waited for and how long, because a TimeoutError says nothing.
    """
    try:
        yield
    except UnknownTopicOrPartitionError as error:
        topics = _topics(error, topic)
        raise TopicUnavailable(
            "; ".join(map(missing_topic, topics)) or f"a Kafka topic is missing: {error}: create it", topics
        ) from error
    except TopicAuthorizationFailedError as error:
        topics = _topics(error, topic)
        raise TopicUnavailable(
            "; ".join(forbidden_topic(it, rights) for it in topics)
            or f"a Kafka topic is forbidden: {error}: grant {rights} on it",
            topics,
            forbidden=True,
        ) from error
    except ClusterAuthorizationFailedError as error:
        raise BrokerRefused(
            f"{connection.names.login}: Kafka allows no idempotent writing to {connection.user}: grant it Write on"
            " the topics (or, before Kafka 2.8, IdempotentWrite on the cluster)"
        ) from error
    except (TransactionalIdAuthorizationFailed, GroupAuthorizationFailedError) as error:
        raise BrokerRefused(
            f"{connection.names.login}: Kafka allows no transactions to {connection.user}: grant it Write and Describe on"
            f" the transactional ids, and Read on the groups, that begin with {TRANSACTIONAL_PREFIX!r}"
        ) from error
    except (ProducerFenced, InvalidProducerEpoch) as error:
        raise LeaseLost("the lane's transactions were taken over by another process, or took too long") from error
    except (KafkaError, ConsumerStoppedError, OSError, TimeoutError) as error:
        if isinstance(error.__cause__, OffsetMetadataTooLargeError):
            raise BrokerRefused(
                "Kafka stores less text with an offset than the notes of transactions need: set"
                " offset.metadata.max.bytes of the brokers to 4096, which is its default"
            ) from error
        remedy = f"check {connection.names.servers} and the network"
        raise no_answer(connection.servers, _said(error, late), remedy) from error


def no_answer(where: str, what: str, remedy: str) -> BrokerUnavailable:
    """Nobody there speaks as Kafka does."""
    return BrokerUnavailable(f"Kafka at {where} does not answer: {what}: workers try again by themselves; {remedy}")


def _said(error: BaseException, late: str) -> str:
    """What an error tells; the one that a deadline raises has no text at all."""
    return str(error) or (late if isinstance(error, TimeoutError) else type(error).__name__)


def _topics(error: KafkaError, topic: str | None) -> Sequence[str]:
    """aiokafka names a topic, several of them, or none."""
    named = error.args[0] if error.args else None
    if isinstance(named, str):
        return [named]
    if isinstance(named, Collection) and named and all(isinstance(it, str) for it in named):
        return sorted(named)
    return [topic] if topic else []
