"""The OutboxRelay kind: reads `marty.outbox` in commit-safe order and publishes to Kafka."""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, model_validator

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kafka import ProducingKafka, check_linger
from marty_msf.core.resources.outbox_retention import Retention
from marty_msf.core.resources.outbox_source import Source
from marty_msf.core.resources.spec import (
    Model,
    Rule,
    Topic,
    Workload,
    check_topic_is_free,
    check_waits,
    topic_is_free,
    waits_ascend,
)


class Blocking(StrEnum):
    """What a dead letter holds up."""

    #: The later events of its aggregate: they keep their order.
    KEY = "Key"
    #: Nothing: later events of its aggregate overtake it.
    NONE = "None"


class RelayRetry(Model):
    """Attempts to publish an event that Kafka refuses. While Kafka does not answer at all no attempts are counted."""

    max_attempts: int = Field(
        10, ge=1, le=1000, description="Attempts of one event at most, also for events that ask for more themselves."
    )
    backoff_ms: int = Field(1000, ge=1, le=3_600_000, description="First wait; it doubles.")
    max_backoff_ms: int = Field(60_000, ge=1, le=86_400_000, description="Longest wait.")

    RULES: ClassVar[Sequence[Rule]] = (waits_ascend("backoffMs"),)

    @model_validator(mode="after")
    def _waits_ascend(self) -> Self:
        check_waits("spec.retry.backoffMs", self.backoff_ms, self.max_backoff_ms)
        return self


class DeadLetter(Model):
    """What becomes of events that Kafka keeps refusing."""

    threshold: int = Field(
        5,
        ge=1,
        le=1000,
        description="Attempts after which an event becomes a dead letter, unless it asks for another number itself (max_delivery_attempts).",
    )
    topic: Topic | None = Field(
        None,
        description="Kafka topic that gets a copy of each dead letter, with cause, attempts and times as headers. Left out: they are in the database only.",
    )
    analysis: bool = Field(
        True, description="Group dead letters by cause: error, topic, event type and message without its numbers."
    )
    blocking: Blocking = Field(
        Blocking.KEY,
        description="Key: later events of the aggregate wait behind a dead letter, in order. None: they overtake it.",
    )

    RULES: ClassVar[Sequence[Rule]] = (topic_is_free("topic"),)

    @model_validator(mode="after")
    def _topic_is_free(self) -> Self:
        check_topic_is_free("spec.deadLetter.topic", self.topic)
        return self


class Priorities(Model):
    """Shares of the relay's turns while more is waiting than it can publish. The oldest events have low's share, whatever their priority."""

    high: int = Field(8, ge=1, le=1000, description="Turns of events with priority high.")
    normal: int = Field(
        4,
        ge=1,
        le=1000,
        description="Turns of events with priority normal, while older ones of priority low are waiting.",
    )
    low: int = Field(1, ge=1, le=1000, description="Turns of the oldest events.")


class OutboxRelaySpec(Workload):
    """Where the outbox is and how it is drained."""

    kafka: ProducingKafka = Field(description="Where the events go.")
    batch_size: int = Field(
        500,
        ge=1,
        le=100_000,
        description="Events handed to Kafka at once. Up to parallelProcessors such batches wait for their acknowledgement; a crash sends at most these again.",
    )
    enable_batch_optimization: bool = Field(
        True,
        description="Let the size of batches follow the time Kafka takes to acknowledge them, from a quarter of batchSize to four times as many (at most prefetchCount).",
    )
    batch_timeout_ms: int = Field(
        10_000,
        ge=100,
        le=600_000,
        description="Deadline for Kafka's acknowledgement of a batch: what is not acknowledged by then is sent again over a new connection. At least twice kafka.producer.lingerMs, which is what a batch waits before it is sent.",
    )
    parallel_processors: int = Field(8, ge=1, le=64, description="Batches on their way to Kafka at once, per pod.")
    polling_interval_ms: int = Field(
        100,
        ge=1,
        le=60_000,
        description="Longest idle wait before the outbox is read again; a busy relay does not wait.",
    )
    prefetch_count: int = Field(5000, ge=1, le=100_000, description="Events read from Postgres at once.")
    retry: RelayRetry = Field(
        default_factory=lambda: RelayRetry(), description="Attempts to publish an event that Kafka refuses."
    )
    source: Source | None = Field(
        None, description="An outbox table of your own, whose inserted rows are published beside marty.outbox."
    )
    retention: Retention = Field(
        default_factory=lambda: Retention(), description="How long published events are kept, and where they go then."
    )
    dead_letter: DeadLetter = Field(
        default_factory=lambda: DeadLetter(), description="What becomes of events that Kafka keeps refusing."
    )
    priorities: Priorities = Field(
        default_factory=lambda: Priorities(),
        description="Whose turn it is while more is waiting than can be published.",
    )

    RULES: ClassVar[Sequence[Rule]] = (
        Rule(
            "self.batchTimeoutMs >= self.pollingIntervalMs",
            "batchTimeoutMs is shorter than pollingIntervalMs: a deadline below the wait between two looks makes no sense; raise the one or lower the other",
        ),
        Rule(
            "self.kafka.producer.lingerMs * 2 <= self.batchTimeoutMs",
            "kafka.producer.lingerMs is more than half of batchTimeoutMs, which leaves Kafka too little time to acknowledge a"
            " batch: lower the one or raise the other",
            field=".kafka.producer.lingerMs",
        ),
        Rule(
            "!has(self.source) || !has(self.source.topic) || !has(self.deadLetter.topic)"
            " || self.deadLetter.topic != self.source.topic",
            "the dead-letter topic is spec.source.topic too: dead letters would be refused there again; name another topic",
            field=".deadLetter.topic",
        ),
    )

    @model_validator(mode="after")
    def _dead_letters_go_elsewhere(self) -> Self:
        if self.source and self.source.topic and self.source.topic == self.dead_letter.topic:
            raise InvalidDefinition(
                "spec.deadLetter.topic",
                f"{self.dead_letter.topic!r} is spec.source.topic too: dead letters would be refused there again",
                "name another topic",
            )
        return self

    @model_validator(mode="after")
    def _deadline_is_beyond_the_linger(self) -> Self:
        check_linger(
            "spec.kafka.producer.lingerMs", self.kafka.producer.linger_ms, "batchTimeoutMs", self.batch_timeout_ms
        )
        return self

    @model_validator(mode="after")
    def _deadline_is_beyond_a_look(self) -> Self:
        if self.batch_timeout_ms < self.polling_interval_ms:
            raise InvalidDefinition(
                "spec.batchTimeoutMs",
                f"{self.batch_timeout_ms} is shorter than pollingIntervalMs {self.polling_interval_ms}",
                "raise the one or lower the other",
            )
        return self
