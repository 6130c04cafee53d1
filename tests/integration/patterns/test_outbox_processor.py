"""The relay in the application's own process: the same order, numbers and health as in a pod, shared with others and outlived."""

import asyncio
import socket
from collections.abc import Callable

import asyncpg
import orjson
import pytest

from marty_msf.core.errors import InvalidDefinition, NotRunning, SchemaOutdated
from marty_msf.patterns.outbox import (
    EnhancedOutboxProcessor,
    EnhancedOutboxRepository,
    OutboxConfig,
    create_kafka_message_broker,
)
from marty_msf.store import outbox_position
from tests.support.drivers import DRIVERS
from tests.support.kafka import count_topic, read_topic
from tests.support.postgres import admin_url, database
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

QUICK = OutboxConfig(polling_interval_ms=20, retry_backoff_ms=50, max_retry_backoff_ms=500)


def processor(url: str, bootstrap: str, config: OutboxConfig = QUICK) -> EnhancedOutboxProcessor:
    return EnhancedOutboxProcessor(
        message_broker=create_kafka_message_broker({"bootstrap_servers": bootstrap}), config=config, database_url=url
    )


async def enqueue(conn: asyncpg.Connection, topic: str, numbers: range) -> None:
    async with conn.transaction():
        await EnhancedOutboxRepository(conn).enqueue_events(
            [
                {"topic": topic, "event_type": "counted", "payload": {"n": n}, "aggregate_id": f"a-{n % 7}"}
                for n in numbers
            ]
        )


async def test_what_commits_is_published_in_order_and_the_numbers_follow(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("order.events")
    await enqueue(conn, topic, range(100))
    async with processor(postgres_url, kafka_bootstrap) as one:
        await enqueue(conn, topic, range(100, 200))

        async def metrics() -> object:
            return one.get_metrics().published_events

        await eventually(metrics, lambda published: published == 200)

        async def pending() -> int:
            return one.get_metrics().pending_events

        await eventually(pending, lambda count: count == 0)
        await eventually(one.get_processing_lag, lambda lag: lag == 0)
        assert one.get_metrics().events_per_second > 0
        assert one.get_metrics().failed_events == 0
        health = await eventually(one.health_check, lambda found: found["status"] == "healthy")
        # It may be the processor itself that writes just then.
        assert health.pop("oldest_open_writer", {}) != {}
        assert health == {"status": "healthy", "problems": [], "lag": 0.0, "failed_events": 0}
        names = {metric.name for metric in one.prometheus_registry.collect()}
        assert {"outbox_queue_depth", "outbox_processing_lag", "marty_outbox_queue_depth"} <= names
    found: dict[bytes | None, list[int]] = {}
    for message in read_topic(kafka_bootstrap, topic):
        found.setdefault(message.key, []).append(orjson.loads(message.value or b"")["n"])
    assert found == {f"a-{key}".encode(): list(range(key, 200, 7)) for key in range(7)}


async def test_processors_share_the_lanes_and_one_that_stops_hands_its_own_over(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("order.events")
    held = """SELECT array_agg(lanes ORDER BY lanes) FROM (
        SELECT count(*) AS lanes FROM marty.lease WHERE scope = 'relay:_python/outbox' AND expires_at > now()
         GROUP BY holder) AS held"""
    one, two = (processor(postgres_url, kafka_bootstrap) for _ in range(2))
    async with two:
        async with one:
            await eventually(lambda: conn.fetchval(held), lambda lanes: lanes == [32, 32], seconds=60)
            await enqueue(conn, topic, range(100))
        await enqueue(conn, topic, range(100, 200))

        async def count() -> int:
            return await asyncio.to_thread(count_topic, kafka_bootstrap, topic)

        await eventually(count, lambda records: records >= 200, seconds=60)
    assert await conn.fetchval("SELECT sum(published_total) FROM marty.outbox_position") == 200


async def test_while_kafka_is_away_events_wait_and_health_says_so(postgres_url: str, conn: asyncpg.Connection) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = OutboxConfig(retry_backoff_ms=50, healthy_lag_seconds=1)
        async with processor(postgres_url, f"127.0.0.1:{nobody.getsockname()[1]}", config) as it:
            await enqueue(conn, "order.events", range(3))

            def late(found: dict[str, object]) -> bool:
                return "the oldest event waits" in str(found["problems"]) and "Kafka at" in str(found["problems"])

            health = await eventually(it.health_check, late)
            assert (health["status"], await it.get_processing_lag() >= 1) == ("unhealthy", True)
            assert "Kafka at 127.0.0.1" in health["problems"][0]
            assert "the oldest event waits for" in health["problems"][1]
            assert it.get_metrics().pending_events == 3


async def test_an_outbox_that_a_resource_publishes_is_left_to_it(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str
) -> None:
    await outbox_position.own(conn, "shop/relay")
    async with processor(postgres_url, kafka_bootstrap) as it:
        health = await eventually(it.health_check, lambda found: "OutboxRelay" in str(found["problems"]))
        assert health["status"] == "unhealthy"
        assert "published by OutboxRelay shop/relay" in health["problems"][0]


async def test_who_keeps_a_transaction_open_is_named(postgres_url: str, kafka_bootstrap: str) -> None:
    writer = await asyncpg.connect(postgres_url, server_settings={"application_name": "forgetful"})
    try:
        pid = writer.get_server_pid()
        async with writer.transaction(), processor(postgres_url, kafka_bootstrap) as it:
            await EnhancedOutboxRepository(writer).enqueue_event("t", "made", {})
            health = await eventually(it.health_check, lambda found: "forgetful" in str(found["oldest_open_writer"]))
            assert health["oldest_open_writer"]["name"] == f"pid {pid} forgetful"
            assert health["oldest_open_writer"]["seconds"] > 0
            writer_told = it.get_metrics().oldest_open_writer
            assert writer_told is not None
            assert writer_told.name == health["oldest_open_writer"]["name"]
    finally:
        await writer.close(timeout=5)


async def test_dead_letters_are_failed_events_and_make_it_degraded(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str
) -> None:
    async with processor(postgres_url, kafka_bootstrap) as it:
        await eventually(it.health_check, lambda found: found["status"] == "healthy")
        await conn.execute("UPDATE marty.outbox_position SET dead = 2, failed_total = 10 WHERE lane = 3")
        health = await eventually(it.health_check, lambda found: found["failed_events"] == 2)
        assert health["status"] == "degraded"
        assert "marty dlq list" in health["problems"][0]

        assert (it.get_metrics().failed_events, it.get_metrics().failed_attempts) == (2, 10)


async def test_calls_before_start_after_stop_and_twice_are_told(
    postgres_url: str, empty_postgres_url: str, kafka_bootstrap: str
) -> None:
    it = processor(postgres_url, kafka_bootstrap)
    await it.stop()
    with pytest.raises(NotRunning, match="await start"):
        it.get_metrics()
    with pytest.raises(NotRunning, match="await start"):
        await it.get_processing_lag()
    assert (await it.health_check())["status"] == "unhealthy"
    async with it:
        with pytest.raises(NotRunning, match="runs already"):
            await it.start()
    async with it:
        assert it.get_metrics().pending_events == 0
    with pytest.raises(SchemaOutdated, match="marty migrate"):
        await processor(empty_postgres_url, kafka_bootstrap).start()


@pytest.mark.parametrize("name", ["session over asyncpg", "session over psycopg", "connection over asyncpg"])
async def test_the_database_of_an_sqlalchemy_engine_needs_no_url(
    name: str, postgres_url: str, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARTY_DATABASE_URL", admin_url())
    async with DRIVERS[name](postgres_url) as driver:
        repository = EnhancedOutboxRepository(driver.given, QUICK)
        async with driver.transaction():
            await repository.enqueue_event("order.events", "counted", {})
        async with EnhancedOutboxProcessor(
            repository, create_kafka_message_broker({"bootstrap_servers": kafka_bootstrap})
        ) as it:
            assert it.get_metrics().pending_events == 1


@pytest.mark.parametrize("name", ["asyncpg", "psycopg"])
async def test_a_repository_of_another_database_is_noticed(
    name: str, postgres_url: str, migrated_template: str, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database(migrated_template) as other, DRIVERS[name](other) as driver:
        it = EnhancedOutboxProcessor(
            EnhancedOutboxRepository(driver.given), create_kafka_message_broker({"bootstrap_servers": kafka_bootstrap})
        )
        monkeypatch.setenv("MARTY_DATABASE_URL", postgres_url)
        with pytest.raises(InvalidDefinition, match=r"database_url: is not given.*another database"):
            await it.start()
        monkeypatch.setenv("MARTY_DATABASE_URL", other)
        async with it:
            assert it.get_metrics().pending_events == 0


def test_a_processor_without_a_broker_is_refused() -> None:
    with pytest.raises(InvalidDefinition, match="create_kafka_message_broker"):
        EnhancedOutboxProcessor()


def at_work() -> set[str]:
    """What runs beside the test."""
    return {task.get_coro().__qualname__ for task in asyncio.all_tasks() if task is not asyncio.current_task()}  # type: ignore[union-attr]


async def test_of_two_starts_at_once_one_is_refused(postgres_url: str, kafka_bootstrap: str) -> None:
    """Naive: both run, and the first one is never stopped."""
    before, it = at_work(), processor(postgres_url, kafka_bootstrap)
    done = await asyncio.gather(it.start(), it.start(), return_exceptions=True)
    assert [type(each) for each in done] == [type(None), NotRunning]
    await it.stop()
    assert at_work() == before


async def test_a_stop_that_is_given_up_is_done_all_the_same(postgres_url: str, kafka_bootstrap: str) -> None:
    """Naive: what was not let go of stays for ever, because a second stop finds nothing that runs."""
    before, it = at_work(), processor(postgres_url, kafka_bootstrap)
    await it.start()
    stopping = asyncio.create_task(it.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await it.stop()
    assert at_work() == before


async def test_a_stop_waits_for_the_start_under_way(postgres_url: str, kafka_bootstrap: str) -> None:
    before, it = at_work(), processor(postgres_url, kafka_bootstrap)
    starting = asyncio.create_task(it.start())
    await asyncio.sleep(0)
    await it.stop()
    await starting
    with pytest.raises(NotRunning):
        it.get_metrics()
    assert at_work() == before
