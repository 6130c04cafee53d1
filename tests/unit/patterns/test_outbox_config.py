"""Tuning of the outbox: checked as it is set, and what it says is what an OutboxRelay would say."""

from typing import Any

import pytest

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.resources.kafka import ProducingKafka
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.core.resources.spec import Database, SecretKeyRef
from marty_msf.patterns.outbox import (
    EnhancedOutboxProcessor,
    EventPriority,
    OutboxConfig,
    create_kafka_message_broker,
)
from marty_msf.patterns.outbox.config import BOUNDS, relay_spec


def test_what_is_not_said_is_as_in_a_resource() -> None:
    named = Database(url_secret_ref=SecretKeyRef(name="of-this-process"))
    assert relay_spec(OutboxConfig(), "k:9092") == OutboxRelaySpec(
        database=named, kafka=ProducingKafka(bootstrap_servers="k:9092")
    )


def test_what_is_said_reaches_the_spec() -> None:
    config = OutboxConfig(
        batch_size=7,
        batch_timeout_ms=101,
        enable_batch_optimization=False,
        polling_interval_ms=9,
        prefetch_count=8,
        parallel_processors=3,
        max_retry_attempts=6,
        retry_backoff_ms=3,
        dead_letter_topic="dead",
        enable_dead_letter_analysis=False,
        dead_letter_blocks_key=False,
        published_retention_hours=11,
        archive_table="old_events",
        priority_weights={EventPriority.HIGH: 30, EventPriority.NORMAL: 20, EventPriority.LOW: 10},
    )
    config.max_retry_backoff_ms, config.dead_letter_threshold = 4, 2
    said = relay_spec(config, "k:9092").model_dump(by_alias=True, exclude={"kafka", "database", "state", "replicas"})
    assert said == {
        "batchSize": 7,
        "batchTimeoutMs": 101,
        "enableBatchOptimization": False,
        "pollingIntervalMs": 9,
        "prefetchCount": 8,
        "parallelProcessors": 3,
        "retry": {"maxAttempts": 6, "backoffMs": 3, "maxBackoffMs": 4},
        "deadLetter": {"threshold": 2, "topic": "dead", "analysis": False, "blocking": "None"},
        "priorities": {"high": 30, "normal": 20, "low": 10},
        "retention": {"publishedHours": 11, "archiveTable": "old_events"},
        # Tables of one's own are mapped in resources only.
        "source": None,
    }


@pytest.mark.parametrize("name", list(BOUNDS))
@pytest.mark.parametrize("value", [0, -1, 10**9, True, "5", 1.5, None])
def test_a_number_out_of_its_range_is_refused_when_it_is_set(name: str, value: Any) -> None:
    with pytest.raises(InvalidDefinition, match=f"^{name}: .* is no whole number from [0-9]+ to [0-9]+: correct it"):
        OutboxConfig(**{name: value})
    config = OutboxConfig()
    before = getattr(config, name)
    with pytest.raises(InvalidDefinition):
        setattr(config, name, value)
    assert getattr(config, name) == before


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"enable_batch_optimization": 1}, "enable_batch_optimization"),
        ({"dead_letter_topic": "no topic"}, "dead_letter_topic"),
        ({"dead_letter_topic": ""}, "dead_letter_topic"),
        ({"dead_letter_topic": "a" * 250}, "dead_letter_topic"),
        ({"dead_letter_topic": "a\n"}, "dead_letter_topic"),
        ({"dead_letter_topic": "__consumer_offsets"}, "dead_letter_topic"),
        ({"archive_table": "outbox_held"}, "archive_table"),
        ({"archive_table": "outbox"}, "archive_table"),
        ({"archive_table": "lease"}, "archive_table"),
        ({"priority_weights": {EventPriority.HIGH: 1}}, "priority_weights"),
        ({"priority_weights": dict.fromkeys(EventPriority, 0)}, "priority_weights"),
        ({"retry_backoff_ms": 100, "max_retry_backoff_ms": 99}, "retry_backoff_ms"),
        ({"batch_timeout_ms": 100, "polling_interval_ms": 101}, "batch_timeout_ms"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(given: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        OutboxConfig(**given)
    assert refused.value.path == path


def test_a_broker_that_lingers_for_most_of_the_deadline_is_refused_when_both_are_known() -> None:
    lingering = create_kafka_message_broker({"bootstrap_servers": "k:9092", "linger_ms": 1000})
    with pytest.raises(InvalidDefinition) as refused:
        EnhancedOutboxProcessor(message_broker=lingering, config=OutboxConfig(batch_timeout_ms=1999))
    assert str(refused.value) == (
        "linger_ms: 1000 is more than half of batch_timeout_ms 1999, which leaves Kafka too little time to acknowledge a"
        " batch: lower it to at most 999, or raise batch_timeout_ms to at least 2000"
    )
    EnhancedOutboxProcessor(message_broker=lingering, config=OutboxConfig(batch_timeout_ms=2000))


async def test_a_deadline_that_was_lowered_below_the_lingering_is_refused_by_the_start() -> None:
    config = OutboxConfig()
    lingering = create_kafka_message_broker({"bootstrap_servers": "k:9092", "linger_ms": 100})
    processor = EnhancedOutboxProcessor(message_broker=lingering, config=config)
    config.batch_timeout_ms = 100
    with pytest.raises(InvalidDefinition, match=r"^linger_ms: 100 is more than half of batch_timeout_ms 100"):
        await processor.start()


def test_a_name_that_is_none_is_refused() -> None:
    config: Any = OutboxConfig()
    with pytest.raises(AttributeError):
        config.batchsize = 3
