"""Correctness 10: urgent events overtake strangers under a backlog, never their own aggregate, and nobody starves."""

from collections.abc import Callable, Sequence

import asyncpg
import pytest

from marty_msf.worker.relay.shared import Shared
from tests.integration.relay.setup import drain, make_relay, numbers_by_key, pool_and_producer, take_lanes
from tests.support.kafka import Message, read_topic

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(120)]

BACKLOG = 3_000
AGGREGATES = 300

FILL = """
SELECT marty.enqueue_event($1, 'e', jsonb_build_object('n', i / $3), 'old-' || i % $3, priority => $2)
  FROM generate_series(0, $4 - 1) AS i
"""


async def fill(conn: asyncpg.Connection, topic: str, priority: str) -> None:
    await conn.execute(FILL, topic, priority, AGGREGATES, BACKLOG)


async def urgent(conn: asyncpg.Connection, topic: str, aggregate: str, number: int, priority: str) -> None:
    await conn.execute(
        "SELECT marty.enqueue_event($1, 'e', jsonb_build_object('n', $2::int), $3, priority => $4)",
        topic,
        number,
        aggregate,
        priority,
    )


def place(messages: Sequence[Message], aggregate: str) -> int:
    """How many messages came before the aggregate's last one."""
    return max(index for index, message in enumerate(messages) if message.key == aggregate.encode())


@pytest.mark.parametrize(("old", "new"), [("normal", "high"), ("low", "high"), ("low", "normal")])
async def test_urgent_events_overtake_a_backlog_in_the_order_of_their_aggregates(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    old: str,
    new: str,
) -> None:
    topic = topic_factory("urgent", partitions=1)
    await fill(conn, topic, old)
    # One that nobody waits for, and one of an aggregate with ten older events.
    await urgent(conn, topic, "new", 0, new)
    await urgent(conn, topic, "old-7", BACKLOG // AGGREGATES, new)
    shared = Shared("test")
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "me", batch_size=50, prefetch=200, shared=shared)
        await take_lanes(pool, relay, "me")
        assert await drain(relay) == BACKLOG + 2
        # The position has come by all that went ahead.
        assert not shared.ahead
    assert await conn.fetchval("SELECT count(*) FROM marty.outbox_ahead") == 0
    messages = read_topic(kafka_bootstrap, topic)
    assert len(messages) == BACKLOG + 2, "nothing twice"
    assert place(messages, "new") < BACKLOG // 3
    assert place(messages, "old-7") < BACKLOG // 3
    found = numbers_by_key(messages)
    assert found["old-7"] == list(range(BACKLOG // AGGREGATES + 1))
    assert all(numbers == sorted(numbers) for numbers in found.values())


async def test_the_oldest_events_go_on_while_urgent_ones_keep_coming(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("urgent", partitions=1)
    await fill(conn, topic, "low")
    sent = 0
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "me", batch_size=50, prefetch=200)
        await take_lanes(pool, relay, "me")
        for round_ in range(30):
            for number in range(40):
                await urgent(conn, topic, f"new-{number}", round_, "high")
            sent += (await relay.run_once()).published
        messages = read_topic(kafka_bootstrap, topic)
        old = sum(message.key is not None and message.key.startswith(b"old") for message in messages)
        assert old >= 100, f"{old} of {len(messages)}"
        await drain(relay)
    messages = read_topic(kafka_bootstrap, topic)
    assert len(messages) == BACKLOG + 30 * 40
    assert all(numbers == sorted(numbers) for numbers in numbers_by_key(messages).values())


async def test_what_went_ahead_is_not_sent_again_by_a_successor(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("urgent", partitions=1)
    await fill(conn, topic, "normal")
    await urgent(conn, topic, "new", 0, "high")
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        first = make_relay(pool, producer, "first", batch_size=50, prefetch=200)
        await take_lanes(pool, first, "first", ttl_seconds=0)
        while not await conn.fetchval("SELECT count(*) FROM marty.outbox_ahead"):
            await first.run_once()
        await first.finish()
        second = make_relay(pool, producer, "second")
        await take_lanes(pool, second, "second")
        await drain(second)
    messages = read_topic(kafka_bootstrap, topic)
    assert len(messages) == BACKLOG + 1
    assert await conn.fetchval("SELECT count(*) FROM marty.outbox_ahead") == 0
