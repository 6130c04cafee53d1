"""The document's pieces on the outbox, word for word, against a real Postgres and a real Kafka."""

from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final
from uuid import uuid4

import asyncpg
import orjson
import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from marty_msf.core.errors import InvalidEvent
from marty_msf.patterns.outbox import (
    EnhancedOutboxProcessor,
    EnhancedOutboxRepository,
    EventPriority,
    OutboxConfig,
    create_kafka_message_broker,
)
from tests.seed.snippets import run
from tests.support.drivers import alchemy_url
from tests.support.kafka import Message, create_topic, delete_topics, read_topic
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

REPOSITORY: Final = """
from marty_msf.patterns.outbox import EnhancedOutboxRepository, OutboxConfig

# Configure outbox
config = OutboxConfig(
    batch_size=100,
    polling_interval_ms=1000,
    max_retry_attempts=5,
    dead_letter_threshold=10
)

# Initialize repository
outbox_repo = EnhancedOutboxRepository(db_session, config)

# Enqueue events within a transaction
async with db_session.begin():
    # Save business data
    await save_order(order)

    # Enqueue domain event
    await outbox_repo.enqueue_event(
        topic="order.events",
        event_type="order_created",
        payload={
            "order_id": order.id,
            "customer_id": order.customer_id,
            "total_amount": order.total_amount
        },
        aggregate_id=order.id,
        aggregate_type="order"
    )
"""

PROCESSOR: Final = """
from marty_msf.patterns.outbox import EnhancedOutboxProcessor, create_kafka_message_broker

# Create message broker
broker = create_kafka_message_broker({
    "bootstrap_servers": "localhost:9092",
    "client_id": "order-service",
    "enable_idempotence": True
})

# Initialize processor
processor = EnhancedOutboxProcessor(
    repository=outbox_repo,
    message_broker=broker,
    config=config
)

# Start processing
await processor.start()
"""

BATCHES: Final = """
# Process events in batches for better performance
config = OutboxConfig(
    batch_size=500,
    batch_timeout_ms=5000,
    enable_batch_optimization=True
)
"""

DEAD_LETTERS: Final = """
# Configure dead letter handling
config = OutboxConfig(
    dead_letter_threshold=5,
    dead_letter_topic="order.events.dlq",
    enable_dead_letter_analysis=True
)
"""

PRIORITY: Final = """
# Enqueue high-priority events
await outbox_repo.enqueue_event(
    topic="order.events",
    event_type="payment_failed",
    payload=payment_data,
    priority=EventPriority.HIGH,
    max_delivery_attempts=10
)
"""

GOOD: Final = """
# Good: Transactional event enqueueing
async with db_session.begin():
    await save_business_data(data)
    await outbox_repo.enqueue_event(event_data)

# Avoid: Enqueueing events outside transactions
"""

WITH_AGGREGATE: Final = """
# Combine outbox pattern with event sourcing
async def save_aggregate_with_outbox(aggregate, outbox_events):
    async with db_session.begin():
        # Save aggregate events
        await event_store.save_aggregate(aggregate)

        # Enqueue outbox events
        for event in outbox_events:
            await outbox_repo.enqueue_event(**event)
"""

SMALL: Final = """
# Better: Include only necessary identifiers
class OrderCreatedEvent:
    order_id: str
    customer_id: str
    product_ids: list[str]
"""

BATCH_SIZES: Final = """
# Configure optimal batch sizes
config = OutboxConfig(
    batch_size=1000,          # Process 1000 events at once
    batch_timeout_ms=5000,    # Max wait time for batch
    prefetch_count=5000,      # Prefetch events for processing
    parallel_processors=4     # Run 4 processors in parallel
)
"""

CONNECTIONS: Final = """
# Use connection pooling for message brokers
kafka_config = {
    "bootstrap_servers": "kafka:9092",
    "connections_max_idle_ms": 540000,
    "max_in_flight_requests_per_connection": 5,
    "batch_size": 16384,
    "linger_ms": 100
}
"""

DIAGNOSIS: Final = """
# Check outbox metrics
metrics = outbox_processor.get_metrics()
print(f"Pending events: {metrics.pending_events}")
print(f"Failed events: {metrics.failed_events}")
print(f"Processing rate: {metrics.events_per_second}")

# Check broker connectivity
broker_health = await message_broker.health_check()
print(f"Broker status: {broker_health.status}")
"""

SOLUTIONS: Final = """
# 1. Verify broker configuration
broker_config = {
    "bootstrap_servers": "localhost:9092",
    "security_protocol": "PLAINTEXT",
    "acks": "all",
    "retries": 3
}

# 2. Implement retry with exponential backoff
config.outbox.retry_backoff_ms = 1000
config.outbox.max_retry_attempts = 5

# 3. Enable dead letter queue
config.outbox.dead_letter_threshold = 3
config.outbox.dead_letter_topic = "failed.events"
"""

METRICS: Final = """
# Outbox metrics
outbox_metrics = {
    "outbox_processing_lag": "Time between event creation and processing",
    "outbox_throughput": "Events processed per second",
    "outbox_error_rate": "Rate of event processing failures",
    "outbox_queue_depth": "Number of pending events"
}
"""

HEALTH: Final = """
# Implement comprehensive health checks
class DataConsistencyHealthCheck:
    async def check_outbox_health(self):
        # Check outbox processing lag
        lag = await self.outbox_processor.get_processing_lag()
        return {"status": "healthy" if lag < 60 else "unhealthy", "lag": lag}
"""


#: The name that the document uses; only these tests do.
TOPIC: Final = "order.events"
INSERT: Final = "INSERT INTO orders (id) VALUES (:id)"
EVENTS: Final = "SELECT * FROM marty.outbox ORDER BY id"


@pytest.fixture(params=["asyncpg", "psycopg"])
async def db_session(
    request: pytest.FixtureRequest, postgres_url: str, conn: asyncpg.Connection
) -> AsyncIterator[AsyncSession]:
    await conn.execute("CREATE TABLE orders (id text PRIMARY KEY)")
    engine = create_async_engine(alchemy_url(postgres_url, request.param))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.fixture
async def kafka_at_9092(kafka_bootstrap: str) -> AsyncIterator[None]:
    """The document's address and topic."""
    host, _, port = kafka_bootstrap.partition(":")
    proxy = Proxy(host, int(port))

    async def took_the_port() -> bool:
        # Another run of these tests has it for as long as it needs the topic.
        with suppress(OSError):
            await proxy.start(9092)
            return True
        return False

    await eventually(took_the_port, seconds=60)
    made = TOPIC not in AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=30).topics
    if made:
        create_topic(kafka_bootstrap, TOPIC)
    yield
    if made:
        delete_topics(kafka_bootstrap, [TOPIC])
    await proxy.stop()


@pytest.fixture
def order() -> SimpleNamespace:
    return SimpleNamespace(id=f"order-{uuid4()}", customer_id="customer-1", total_amount=5000)


def names(session: AsyncSession, order: SimpleNamespace) -> dict[str, Any]:
    async def save_order(saved: SimpleNamespace) -> None:
        await session.execute(text(INSERT), {"id": saved.id})

    return {"db_session": session, "order": order, "save_order": save_order}


async def test_an_order_and_its_event_are_one_transaction(
    db_session: AsyncSession, conn: asyncpg.Connection, order: SimpleNamespace
) -> None:
    await run(REPOSITORY, names(db_session, order))
    (event,) = await conn.fetch(EVENTS)
    assert await conn.fetchval("SELECT id FROM orders") == order.id
    assert (event["topic"], event["event_type"]) == (TOPIC, "order_created")
    assert (event["aggregate_id"], event["aggregate_type"]) == (order.id, "order")
    assert orjson.loads(event["payload"]) == {
        "order_id": order.id,
        "customer_id": "customer-1",
        "total_amount": 5000,
    }


async def test_the_event_of_an_order_that_is_not_saved_never_was(
    db_session: AsyncSession, conn: asyncpg.Connection, order: SimpleNamespace
) -> None:
    async def save_order(_: SimpleNamespace) -> None:
        await db_session.execute(text(INSERT), {"id": None})

    with pytest.raises(Exception, match="null value"):
        await run(REPOSITORY, {**names(db_session, order), "save_order": save_order})
    assert await conn.fetch(EVENTS) == []


@pytest.mark.parametrize("db_session", ["asyncpg"], indirect=True)
async def test_the_processor_brings_it_to_kafka_and_tells_how_it_fares(
    db_session: AsyncSession,
    kafka_at_9092: None,
    kafka_bootstrap: str,
    order: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = await run(PROCESSOR, await run(REPOSITORY, names(db_session, order)))
    processor: EnhancedOutboxProcessor = given["processor"]
    try:

        async def published() -> list[Message]:
            return [message for message in read_topic(kafka_bootstrap, TOPIC) if message.key == order.id.encode()]

        (message,) = await eventually(published)
        assert message.headers["ce_type"] == b"order_created"
        assert orjson.loads(message.value or b"")["order_id"] == order.id

        async def pending() -> int:
            return processor.get_metrics().pending_events

        await eventually(pending, lambda count: count == 0)
        await run(DIAGNOSIS, {"outbox_processor": processor, "message_broker": given["broker"]})
        said = capsys.readouterr().out.splitlines()
        assert said[:2] == ["Pending events: 0", "Failed events: 0"]
        assert said[2].startswith("Processing rate: ")
        assert said[3] == "Broker status: healthy"

        check = (await run(HEALTH))["DataConsistencyHealthCheck"]()
        check.outbox_processor = processor
        assert await check.check_outbox_health() == {"status": "healthy", "lag": 0}

        exposed = {metric.name for metric in processor.prometheus_registry.collect()}
        assert set((await run(METRICS))["outbox_metrics"]) <= exposed
    finally:
        await processor.stop()


@pytest.mark.parametrize("snippet", [BATCHES, DEAD_LETTERS, BATCH_SIZES], ids=["batches", "dead letters", "sizes"])
async def test_each_configuration_of_the_document_is_one(snippet: str, postgres_url: str, kafka_bootstrap: str) -> None:
    config = (await run(snippet, {"OutboxConfig": OutboxConfig}))["config"]
    broker = create_kafka_message_broker({"bootstrap_servers": kafka_bootstrap})
    async with EnhancedOutboxProcessor(None, broker, config, database_url=postgres_url) as processor:
        await eventually(processor.health_check, lambda found: found["status"] == "healthy")


async def test_an_event_may_be_urgent(db_session: AsyncSession, conn: asyncpg.Connection) -> None:
    given = {
        "outbox_repo": EnhancedOutboxRepository(db_session),
        "payment_data": {"payment_id": "p-1"},
        "EventPriority": EventPriority,
    }
    async with db_session.begin():
        await run(PRIORITY, given)
    (event,) = await conn.fetch(EVENTS)
    assert (event["priority"], event["max_attempts"], event["aggregate_id"]) == (2, 10, None)


async def test_an_event_may_be_given_as_one_mapping(
    db_session: AsyncSession, conn: asyncpg.Connection, order: SimpleNamespace
) -> None:
    async def save_business_data(data: str) -> None:
        await db_session.execute(text(INSERT), {"id": data})

    event = {"topic": TOPIC, "event_type": "order_created", "payload": {}, "aggregate_id": order.id}
    given = {
        "db_session": db_session,
        "outbox_repo": EnhancedOutboxRepository(db_session),
        "save_business_data": save_business_data,
        "data": order.id,
        "event_data": event,
    }
    await run(GOOD, given)
    assert [row["aggregate_id"] for row in await conn.fetch(EVENTS)] == [order.id]
    with pytest.raises(InvalidEvent, match="'topics' is unknown: use aggregate_id"):
        await run(GOOD, {**given, "data": "another", "event_data": {**event, "topics": TOPIC}})
    assert await conn.fetchval("SELECT count(*) FROM orders") == 1


async def test_an_aggregate_and_its_outbox_events_are_one_transaction(
    db_session: AsyncSession, conn: asyncpg.Connection, order: SimpleNamespace
) -> None:
    async def save_aggregate(aggregate: SimpleNamespace) -> None:
        await db_session.execute(text(INSERT), {"id": aggregate.id})

    given = {
        "db_session": db_session,
        "event_store": SimpleNamespace(save_aggregate=save_aggregate),
        "outbox_repo": EnhancedOutboxRepository(db_session),
    }
    save = (await run(WITH_AGGREGATE, given))["save_aggregate_with_outbox"]
    events = [
        {"topic": TOPIC, "event_type": kind, "payload": {}, "aggregate_id": order.id} for kind in ("created", "paid")
    ]
    await save(order, events)
    assert [row["event_type"] for row in await conn.fetch(EVENTS)] == ["created", "paid"]
    with pytest.raises(Exception, match="duplicate key"):
        await save(order, events)
    assert len(await conn.fetch(EVENTS)) == 2


async def test_a_large_payload_is_refused_with_the_documents_advice(db_session: AsyncSession) -> None:
    fields = (await run(SMALL))["OrderCreatedEvent"].__annotations__
    async with db_session.begin():
        repository = EnhancedOutboxRepository(db_session)
        await repository.enqueue_event(TOPIC, "order_created", dict.fromkeys(fields, "1"), "order-1")
        with pytest.raises(InvalidEvent, match="send an identifier"):
            await repository.enqueue_event(
                TOPIC, "order_created", {"customer_full_data": {"notes": "x" * 1_000_000}}, "order-1"
            )


async def test_brokers_are_given_as_the_document_gives_them(kafka_bootstrap: str) -> None:
    given = (await run(CONNECTIONS))["kafka_config"]
    assert create_kafka_message_broker(given).connection.servers == "kafka:9092"
    broker = create_kafka_message_broker({**given, "bootstrap_servers": kafka_bootstrap})
    assert (await broker.health_check()).status == "healthy"


async def test_the_remedies_for_events_that_are_not_processed_are_there() -> None:
    config = SimpleNamespace(outbox=OutboxConfig())
    given = await run(SOLUTIONS, {"config": config})
    assert create_kafka_message_broker(given["broker_config"]).connection.servers == "localhost:9092"
    assert (config.outbox.retry_backoff_ms, config.outbox.max_retry_attempts) == (1000, 5)
    assert (config.outbox.dead_letter_threshold, config.outbox.dead_letter_topic) == (3, "failed.events")
