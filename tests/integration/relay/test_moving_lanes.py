"""Correctness 3, 5, 6 and 19: lanes move between relay processes under hostile writers; order per key stays whole."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.errors import BrokerUnavailable, LeaseLost
from marty_msf.store import leases
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.relay.pipeline import IN_FLIGHT, Pass, Relay
from tests.integration.relay.setup import (
    SCOPE,
    discarding_late_ones,
    drain,
    enqueue,
    make_relay,
    numbers_by_key,
    pool_and_producer,
    relay_config,
    take_lanes,
)
from tests.integration.relay.writers import EVENTS_PER_KEY, KEYS, prepare, write_all
from tests.support.kafka import read_topic
from tests.support.processes import free_port, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(240)]


async def holders(conn: asyncpg.Connection) -> dict[str, int]:
    rows = await conn.fetch(
        "SELECT split_part(holder, '/', 1) AS pod, count(*) FROM marty.lease WHERE holder IS NOT NULL GROUP BY 1"
    )
    return {row["pod"]: row["count"] for row in rows}


async def unpublished(conn: asyncpg.Connection) -> int:
    return int(
        await conn.fetchval(
            "SELECT (SELECT count(*) FROM marty.outbox) - (SELECT sum(published_total) FROM marty.outbox_position)"
        )
    )


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
    arguments = ["-m", "marty_msf.cli", "run", "relay", "--config", str(config)]

    def environment(pod: str) -> dict[str, str]:
        return {
            "MARTY_DATABASE_URL": postgres_url,
            "MARTY_TOKEN": "token-of-the-test",
            "MARTY_POD_NAME": pod,
            "MARTY_HTTP_HOST": "127.0.0.1",
            "MARTY_HTTP_PORT": str(free_port()),
        }

    async with running(arguments, tmp_path / "first.log", environment("first")) as first:
        await eventually(lambda: holders(conn), lambda found: found == {"first": 64})
        writing = asyncio.create_task(write_all(postgres_url, topic, seed=7))
        async with running(arguments, tmp_path / "second.log", environment("second")) as second:
            # Half of the lanes move by hand-over, the other half because the first stops.
            await eventually(lambda: holders(conn), lambda found: found == {"first": 32, "second": 32}, seconds=30)
            first.send(signal.SIGTERM)
            assert await first.wait() == 0, first.output()
            await eventually(lambda: holders(conn), lambda found: found == {"second": 64}, seconds=30)
            assert not writing.done(), "the writers were done before the lanes had moved"
            # And all of them come back to a third, because the second is killed.
            second.send(signal.SIGKILL)
            await second.wait()
        async with running(arguments, tmp_path / "third.log", environment("third")):
            await eventually(lambda: holders(conn), lambda found: found == {"third": 64}, seconds=30)
            await writing
            await eventually(lambda: unpublished(conn), lambda left: left == 0, seconds=60)

    messages = read_topic(kafka_bootstrap, topic)
    assert discarding_late_ones(messages) == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}
    repeated = len(messages) - len(KEYS) * EVENTS_PER_KEY
    # Only the kill may repeat anything, and no more than was in flight.
    assert 0 <= repeated <= IN_FLIGHT * 50
    assert len({message.headers["ce_id"] for message in messages}) == len(KEYS) * EVENTS_PER_KEY


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
        await zombie.run_once()  # reads
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


async def test_a_missing_topic_holds_up_its_own_lanes_only(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("present")
    missing = f"{topic}-missing"
    await enqueue(conn, missing, "a", 0)
    for number in range(3):
        await enqueue(conn, topic, "a", number + 1)
        await enqueue(conn, topic, "b", number)
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "me", batch_size=2)
        await take_lanes(pool, relay, "me")
        assert await drain(relay) == 3
        done = await relay.run_once()
        assert (done.blocked, done.missing_topics) == (1, {missing})
        assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"b": [0, 1, 2]}

        await conn.execute("UPDATE marty.outbox SET topic = $1 WHERE topic = $2", topic, missing)
        relay.unblock()
        assert await drain(relay) == 4
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": [0, 1, 2, 3], "b": [0, 1, 2]}


async def publish_all(
    relay: Relay, bootstrap: str, limits: dict[str, int], conn: asyncpg.Connection
) -> tuple[int, Pass]:
    """As the role does it: try held lanes again, and take a new producer after every refusal, until all is done.

    Answers with the number of events marked as published, which also counts those of a pass that ended in an error.
    """
    before = await marked(conn)
    for attempt in range(20):
        producer = KafkaProducer(bootstrap, limits)
        await producer.start()
        await relay.restart(producer)
        if not attempt:
            relay.unblock()
        try:
            done = await relay.run_once()
            while not (done.idle or done.spoiled):
                done = await relay.run_once()
            if done.idle:
                return await marked(conn) - before, done
        except BrokerUnavailable as error:
            refused = str(error)
        finally:
            await producer.stop()
    raise AssertionError(f"still refused: {refused}")


async def marked(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT coalesce(sum(published_total), 0)::bigint FROM marty.outbox_position"))


async def test_a_topic_with_a_smaller_limit_gets_smaller_batches(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("small", partitions=1, config={"max.message.bytes": "4000"})
    for number in range(20):
        await enqueue(conn, topic, "a", number, note="x" * 500)
    limits: dict[str, int] = {}
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "me", batch_size=8)
        await take_lanes(pool, relay, "me")
        _, done = await publish_all(relay, kafka_bootstrap, limits, conn)
    assert not done.refused
    assert limits[topic] < 4000
    # In order at the first time already: nothing behind a refused batch got into Kafka before it.
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": list(range(20))}


async def test_an_event_too_large_for_its_topic_holds_up_its_own_lane_only(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    small = topic_factory("small", partitions=1, config={"max.message.bytes": "1500"})
    large = topic_factory("large")
    for number in range(4):
        await enqueue(conn, small, "a", number, note="x" * (5000 if number == 2 else 1))
        for key in "bcd":
            await enqueue(conn, small, key, number)
            await enqueue(conn, large, key, number)
    limits: dict[str, int] = {}
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "me", batch_size=4)
        await take_lanes(pool, relay, "me")
        published, done = await publish_all(relay, kafka_bootstrap, limits, conn)
        assert published == 26
        assert done.blocked == 1
        assert "raise its max.message.bytes" in str(*done.refused)
        assert discarding_late_ones(read_topic(kafka_bootstrap, small)) == {
            "a": [0, 1],
            **{key: [0, 1, 2, 3] for key in "bcd"},
        }

        before = len(read_topic(kafka_bootstrap, small)), len(read_topic(kafka_bootstrap, large))
        for number in range(4, 7):
            await enqueue(conn, large, "b", number)
            await enqueue(conn, small, "c", number)
            published, done = await publish_all(relay, kafka_bootstrap, limits, conn)
            assert (published, done.blocked, len(done.refused)) == (2, 1, 1)
        # Trying again sends nothing twice.
        after = len(read_topic(kafka_bootstrap, small)), len(read_topic(kafka_bootstrap, large))
        assert after == (before[0] + 3, before[1] + 3)

        await conn.execute("UPDATE marty.outbox SET payload = '{\"n\": 2}' WHERE octet_length(payload) > 4000")
        published, done = await publish_all(relay, kafka_bootstrap, limits, conn)
        assert (published, done.blocked, len(done.refused)) == (2, 0, 0)
    assert discarding_late_ones(read_topic(kafka_bootstrap, small))["a"] == [0, 1, 2, 3]
