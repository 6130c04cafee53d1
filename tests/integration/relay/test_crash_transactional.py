"""A relay with transactions is killed with -9 between every two effects of a pass: readers see every event once, in order.

Naive (the position in the database alone): what Kafka had committed when the relay died is sent again.
"""

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.integration.relay.gaps import try_every_gap
from tests.integration.relay.setup import enqueue, numbers_by_key
from tests.integration.relay.transactional import transactional_relay
from tests.integration.relay.writers import unpublished
from tests.support.kafka import read_topic

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(400)]

KEYS = ("a", "b")
DELAYED = "delayed"
EVENTS_PER_KEY = 3
SHORTEST_PASS = 25
KINDS = (
    "WITH fenced",
    "SELECT marty.fence",
    "sql commit",
    "WITH given AS",
    "kafka events",
    "kafka commit",
    "kafka committed",
    "end of the pass",
)


async def given_events(url: str, topic: str) -> None:
    """Two aggregates, and one that is held: an event of it waits for an hour."""
    conn = await asyncpg.connect(url)
    try:
        for number in range(EVENTS_PER_KEY):
            for key in KEYS:
                await enqueue(conn, topic, key, number)
            await conn.execute(
                "SELECT marty.enqueue_event($1, 'counted', '{\"n\": 0}'::jsonb, $2, 'thing',"
                " deliver_after => now() + '1 hour')",
                topic,
                DELAYED,
            )
    finally:
        await conn.close()


async def test_every_event_is_seen_once_and_in_order_whatever_the_gap(
    migrated_template: str, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    async def then(url: str, topic: str, where: str) -> None:
        async with transactional_relay(url, kafka_bootstrap, "successor") as parts:
            assert len(await parts.take_lanes()) == 64
            await parts.drain()
            async with parts.pool.acquire() as conn:
                held = await conn.fetch("SELECT aggregate_id FROM marty.outbox_held")
                assert [row["aggregate_id"] for row in held] == [DELAYED] * EVENTS_PER_KEY, where
                assert await unpublished(conn) == EVENTS_PER_KEY, f"{where}: counted wrongly"
        seen = numbers_by_key(read_topic(kafka_bootstrap, topic))
        assert seen == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}, where

    await try_every_gap(
        "tests.integration.relay.crash_transactional_pass",
        KINDS,
        SHORTEST_PASS,
        migrated_template,
        kafka_bootstrap,
        topic_factory,
        tmp_path,
        given=given_events,
        then=then,
    )
