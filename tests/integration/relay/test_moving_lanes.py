"""Correctness 3, 5, 6 and 19: lanes move between relay processes under hostile writers; order per key stays whole."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.errors import LeaseLost
from marty_msf.store import leases
from tests.integration.relay.setup import (
    SCOPE,
    discarding_late_ones,
    drain,
    enqueue,
    make_relay,
    make_rules,
    numbers_by_key,
    pool_and_producer,
    relay_config,
    take_lanes,
)
from tests.integration.relay.writers import check_all_published, holders, prepare, unpublished, write_all
from tests.support.kafka import read_topic
from tests.support.waiting import eventually
from tests.support.workers import worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(240)]


async def test_order_per_key_is_whole_while_lanes_move_between_processes(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    topic = topic_factory("orders", partitions=5)
    await prepare(conn)
    config = relay_config(tmp_path / "config.json", kafka_bootstrap, batchSize=50, prefetchCount=200)
    async with worker(config, postgres_url, tmp_path, "first") as first:
        await eventually(lambda: holders(conn), lambda found: found == {"first": 64})
        writing = asyncio.create_task(write_all(postgres_url, topic, seed=7))
        async with worker(config, postgres_url, tmp_path, "second") as second:
            # Half of the lanes move by hand-over, the other half because the first stops.
            await eventually(lambda: holders(conn), lambda found: found == {"first": 32, "second": 32}, seconds=30)
            first.process.send(signal.SIGTERM)
            assert await first.process.wait() == 0, first.process.output()
            await eventually(lambda: holders(conn), lambda found: found == {"second": 64}, seconds=30)
            assert not writing.done(), "the writers were done before the lanes had moved"
            # And all of them come back to a third, because the second is killed.
            second.process.send(signal.SIGKILL)
            await second.process.wait()
        async with worker(config, postgres_url, tmp_path, "third"):
            await eventually(lambda: holders(conn), lambda found: found == {"third": 64}, seconds=30)
            await writing
            await eventually(lambda: unpublished(conn), lambda left: left == 0, seconds=60)

    # Only the kill may repeat anything, and no more than was in flight: batches grow to four times their size.
    check_all_published(read_topic(kafka_bootstrap, topic), repeated_at_most=make_rules().in_flight * 200)


async def test_a_zombie_relay_cannot_mark(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("zombie")
    async with (
        pool_and_producer(postgres_url, kafka_bootstrap) as (zombie_pool, zombie_producer),
        pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer),
    ):
        zombie = make_relay(zombie_pool, zombie_producer, "zombie")
        await take_lanes(zombie_pool, zombie, "zombie", ttl_seconds=0)
        await enqueue(conn, topic, "a", 0)
        assert await zombie._read()
        successor = make_relay(pool, producer, "successor")
        await take_lanes(pool, successor, "successor")
        await drain(successor)
        await enqueue(conn, topic, "a", 1)
        await drain(successor)

        with pytest.raises(LeaseLost):
            await drain(zombie)

    assert await conn.fetchval("SELECT sum(published_total)::int FROM marty.outbox_position") == 2
    messages = read_topic(kafka_bootstrap, topic)
    # Its bytes came late, behind a newer event: consumers discard them by the sequence.
    assert numbers_by_key(messages)["a"][:3] == [0, 1, 0]
    assert discarding_late_ones(messages) == {"a": [0, 1]}
    assert messages[0].headers["ce_id"] == messages[2].headers["ce_id"]


async def test_a_drained_lane_is_settled_before_it_is_given_away(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("drained")
    lane = await conn.fetchval("SELECT marty.lane_of('a')")
    for number in range(6):
        await enqueue(conn, topic, "a", number)
        await enqueue(conn, topic, "b", number)
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "first", batch_size=2)
        await take_lanes(pool, relay, "first")
        async with relay._shared.writing:  # what Kafka acknowledges meanwhile is not written down
            await relay.run_once()  # reads
            await relay.run_once()  # sends the first batch
            draining = asyncio.create_task(relay.drain([lane]))
            await asyncio.sleep(0)
            assert not draining.done()
        await drain(relay)
        await draining
        await leases.release(conn, SCOPE, "first", [lane])
        assert lane not in relay.lanes

        successor = make_relay(pool, producer, "second")
        held = (await leases.claim(conn, SCOPE, "second", [lane], 60)).held
        await successor.gained(held)
        await drain(successor)

    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": list(range(6)), "b": list(range(6))}
