"""An event that can never be published stands in nobody's way but its own aggregate's, however it came into the outbox."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest
from confluent_kafka import Consumer, TopicPartition

from marty_msf.core.lanes import LANES
from marty_msf.core.windows import BEGINNING, Position
from marty_msf.patterns.outbox import EnhancedOutboxProcessor, OutboxConfig, create_kafka_message_broker
from marty_msf.store import outbox
from marty_msf.worker.relay.batch import extras
from tests.integration.relay.setup import enqueue, numbers_by_key
from tests.support.kafka import count_topic, read_topic
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

HELD = "SELECT state, aggregate_id FROM marty.outbox_held"


def processor(url: str, bootstrap: str) -> EnhancedOutboxProcessor:
    return EnhancedOutboxProcessor(
        message_broker=create_kafka_message_broker({"bootstrap_servers": bootstrap}),
        config=OutboxConfig(polling_interval_ms=20, retry_backoff_ms=10, max_retry_backoff_ms=100),
        database_url=url,
    )


@pytest.mark.parametrize("backlog", [10, 3000], ids=["read at once", "read in parts"])
@pytest.mark.parametrize("time", ["infinity", "294276-12-31T00:00:00Z"])
async def test_a_time_that_never_comes_holds_its_aggregate_only(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    time: str,
    backlog: int,
) -> None:
    topic = topic_factory("order.events")
    await enqueue(conn, topic, "odd", 0)
    await conn.execute("UPDATE marty.outbox SET deliver_after = $1::text::timestamptz", time)
    await conn.execute(
        "SELECT marty.enqueue_event($1, 'counted', jsonb_build_object('n', n), 'good', "
        "  priority => CASE WHEN n % 10 = 0 THEN 'high' ELSE 'low' END) FROM generate_series(0, $2::integer - 1) AS n",
        topic,
        backlog,
    )
    async with processor(postgres_url, kafka_bootstrap):
        await eventually(lambda: asyncio.to_thread(count_topic, kafka_bootstrap, topic), lambda count: count >= backlog)
        await eventually(lambda: conn.fetch(HELD), lambda held: [*map(tuple, held)] == [("Delayed", "odd")])
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"good": list(range(backlog))}


async def test_times_are_read_in_microseconds_and_none_as_none(conn: asyncpg.Connection) -> None:
    times = ["-infinity", "1969-12-31T00:00:00Z", "2001-09-09T01:46:40Z", None]
    for time in times:
        await conn.execute(
            "SELECT marty.enqueue_event('t', 'e', '{}', 'a', priority => 'high', deliver_after => '2000-01-01')"
        )
        await conn.execute(
            "UPDATE marty.outbox SET deliver_after = $1::text::timestamptz WHERE deliver_after = '2000-01-01'", time
        )
    opened = await outbox.open_window(conn, {lane: Position(BEGINNING) for lane in range(LANES)}, 100)
    assert [extras(row["extras"])["after"] for row in opened.rows or ()] == [0, 0, 1_000_000_000_000_000, None]


async def test_what_an_event_asks_for_is_read_as_it_was_enqueued(conn: asyncpg.Connection) -> None:
    for priority in ("low", "normal", "high"):
        for attempts in (None, 3):
            await conn.execute(
                "SELECT marty.enqueue_event('t', 'e', '{}', 'a', priority => $1, max_delivery_attempts => $2)",
                priority,
                attempts,
            )
    opened = await outbox.open_window(conn, {lane: Position(BEGINNING) for lane in range(LANES)}, 100)
    assert [row["extras"] and extras(row["extras"]) for row in opened.rows or ()] == [
        None
        if (priority, attempts) == (1, None)
        else {"key": None, "after": None, "priority": priority, "max_attempts": attempts}
        for priority in (0, 1, 2)
        for attempts in (None, 3)
    ]


def make_kafkas_own_topic(bootstrap: str) -> None:
    """Kafka makes `__consumer_offsets` when somebody first asks for a group's offsets."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "asks"})
    consumer.committed([TopicPartition("any", 0)], timeout=30)
    consumer.close()


async def test_an_event_for_a_topic_of_kafkas_own_dies_and_the_others_go_out_once(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await asyncio.to_thread(make_kafkas_own_topic, kafka_bootstrap)
    topic = topic_factory("order.events")
    for number in range(10):
        await enqueue(conn, topic, "odd" if number == 5 else "good", number)
    await conn.execute("UPDATE marty.outbox SET topic = '__consumer_offsets' WHERE aggregate_id = 'odd'")
    async with processor(postgres_url, kafka_bootstrap) as one:
        await eventually(lambda: conn.fetch(HELD), lambda held: [*map(tuple, held)] == [("Dead", "odd")])
        await enqueue(conn, topic, "good", 10)
        await eventually(one.health_check, lambda found: (found["status"], found["failed_events"]) == ("degraded", 1))
        await eventually(lambda: asyncio.to_thread(count_topic, kafka_bootstrap, topic), lambda count: count == 10)
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"good": [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]}
