"""Lanes with Kafka transactions of their own: what a reader that reads committed sees, and who may write."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from marty_msf.core.errors import LeaseLost
from marty_msf.core.outbox.transaction import lane_id
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import outbox_reset
from marty_msf.store.outbox_transaction import system_identifier
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.fencing import fence
from tests.integration.relay import crash_transactional_pass
from tests.integration.relay.setup import (
    drain,
    enqueue,
    make_relay,
    numbers_by_key,
    pool_and_producer,
    relay_config,
    take_lanes,
)
from tests.integration.relay.transactional import Parts, transactional_kafka, transactional_relay
from tests.support.effects import killed_before
from tests.support.kafka import read_topic
from tests.support.processes import running
from tests.support.waiting import eventually
from tests.support.workers import worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(120)]

KEYS = [f"key-{number}" for number in range(30)]


async def enqueue_all(
    conn: asyncpg.Connection, topic: str, numbers: Iterable[int], keys: Iterable[str] = KEYS, **more: Any
) -> None:
    for number in numbers:
        for key in keys:
            await enqueue(conn, topic, key, number, **more)


async def publish(parts: Parts) -> None:
    """Until nothing is waiting that can go now, as the role does it."""

    async def passes() -> bool:
        done = await parts.relay.run_once()
        if done.spoiled:
            await parts.take_again()
        held = await parts.sender.run_once()
        return done.idle and held.idle

    for _ in range(200):
        if await passes():
            return
    raise AssertionError("it goes on for ever")


async def killed(kill_before: str, url: str, bootstrap: str, directory: Path) -> None:
    """A pass of another process ends there."""
    journal = directory / "journal"
    arguments = ["-m", crash_transactional_pass.__name__, url, bootstrap, str(journal), kill_before]
    async with running(arguments, directory / "killed.log") as process:
        assert await process.wait(60) == -9, process.output()
    assert kill_before in (killed_before(journal) or "")


async def test_events_of_all_lanes_are_published_once_and_in_order(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory()
    await enqueue_all(conn, topic, range(10))
    async with transactional_relay(postgres_url, kafka_bootstrap, "first", batchSize=50, prefetchCount=120) as parts:
        assert len(await parts.take_lanes()) == 64
        assert await parts.drain() == 300
        await enqueue_all(conn, topic, range(10, 12))
        assert await parts.drain() == 60
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {key: list(range(12)) for key in KEYS}


async def test_who_was_replaced_commits_nothing_more_and_gets_no_lane_back(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive (one idempotent session): the bytes of the one that was replaced arrive behind those of its successor."""
    topic = topic_factory()
    await enqueue_all(conn, topic, range(3))
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Stopped:
        """Stands still when Kafka has the events, before they are committed."""

        def __init__(self, sessions: Any) -> None:
            self._sessions = sessions

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sessions, name)

        async def transact(self, session: Any, messages: Any, note: Callable[[], Awaitable[str]], sent: Any) -> None:
            async def late() -> str:
                text = await note()
                reached.set()
                await go_on.wait()
                return text

            await self._sessions.transact(session, messages, late, sent)

    async with transactional_relay(postgres_url, kafka_bootstrap, "zombie", wrap_sessions=Stopped) as zombie:
        epochs = await zombie.take_lanes(ttl_seconds=0)
        passing = asyncio.create_task(zombie.drain())
        await asyncio.wait_for(reached.wait(), 20)
        assert read_topic(kafka_bootstrap, topic) == [], "what is not committed was seen"
        async with transactional_relay(postgres_url, kafka_bootstrap, "successor") as successor:
            assert len(await successor.take_lanes()) == 64
            assert await successor.drain() == 90
            go_on.set()
            with pytest.raises(LeaseLost):
                await passing
            # It would take the ids back, but for its leases.
            await enqueue_all(conn, topic, [3])
            await zombie.relay.forget()
            zombie.lanes.dropped(range(64))
            await zombie.lanes.gained(epochs)
            with pytest.raises(LeaseLost):
                await zombie.drain()
            assert await successor.drain() == 30
            # Had it slept between that look and the fence, its successor takes the lanes anew and goes on.
            ids = [lane_id(successor.database, await system_identifier(conn), lane) for lane in range(64)]
            await fence(KafkaConnection(kafka_bootstrap), ids, 60)
            await enqueue_all(conn, topic, [4])
            with pytest.raises(LeaseLost):
                await successor.drain()
            await successor.take_again()
            assert await successor.drain() == 30
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {key: list(range(5)) for key in KEYS}
    assert len(read_topic(kafka_bootstrap, topic, "read_uncommitted")) > 150, "nothing was aborted"


async def test_what_is_refused_aborts_its_lane_and_the_rest_is_seen_once(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory(config={"max.message.bytes": "2000"})
    await enqueue_all(conn, topic, range(3))
    await enqueue(conn, topic, "key-0", 3, filler="x" * 5000)
    await enqueue_all(conn, topic, [4], ["key-0"])
    await enqueue_all(conn, topic, range(3, 6), KEYS[1:])
    retry = {"backoffMs": 20, "maxBackoffMs": 50, "maxAttempts": 2}
    async with transactional_relay(postgres_url, kafka_bootstrap, "first", retry=retry) as parts:
        await parts.take_lanes()
        await publish(parts)

        async def dead() -> int:
            await publish(parts)
            return int(await conn.fetchval("SELECT count(*) FROM marty.outbox_held WHERE state = 'Dead'"))

        await eventually(dead, lambda count: count == 1)
        assert await conn.fetchval("SELECT count(*) FROM marty.outbox_held") == 2, "the one behind it waits too"
    seen = numbers_by_key(read_topic(kafka_bootstrap, topic))
    assert seen == {"key-0": [0, 1, 2], **{key: list(range(6)) for key in KEYS[1:]}}


async def test_a_refused_event_of_a_whole_relay_is_a_dead_letter_and_the_others_go_on(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory(config={"max.message.bytes": "2000"})
    config = relay_config(
        tmp_path / "config.json",
        kafka_bootstrap,
        kafka=transactional_kafka(kafka_bootstrap),
        deadLetter={"threshold": 2},
        retry={"backoffMs": 20, "maxBackoffMs": 50},
    )
    await enqueue_all(conn, topic, range(3))
    await enqueue(conn, topic, "key-0", 3, filler="x" * 5000)
    async with worker(config, postgres_url, tmp_path) as relay:
        await eventually(relay.reasons, lambda found: found == {ProblemReason.POISON_EVENT}, seconds=30)
        await enqueue_all(conn, topic, range(3, 6), KEYS[1:])
        await eventually(relay.published, lambda count: count == 90 + 87, seconds=30)
    seen = numbers_by_key(read_topic(kafka_bootstrap, topic))
    assert seen == {"key-0": [0, 1, 2], **{key: list(range(6)) for key in KEYS[1:]}}


async def test_held_and_urgent_events_keep_the_order_of_their_aggregate(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory()
    await enqueue_all(conn, topic, [0])
    for key in KEYS[:10]:
        await conn.execute(
            "SELECT marty.enqueue_event($1, 'counted', '{\"n\": 1}'::jsonb, $2, 'thing',"
            " deliver_after => now() + '1 second')",
            topic,
            key,
        )
    await enqueue_all(conn, topic, [1], KEYS[10:])
    await enqueue_all(conn, topic, [2])
    for key in KEYS[20:]:
        await conn.execute(
            "SELECT marty.enqueue_event($1, 'counted', '{\"n\": 3}'::jsonb, $2, 'thing', priority => 'high')",
            topic,
            key,
        )
    async with transactional_relay(postgres_url, kafka_bootstrap, "first", batchSize=7, prefetchCount=10) as parts:
        await parts.take_lanes()

        async def held() -> int:
            await publish(parts)
            return int(await conn.fetchval("SELECT count(*) FROM marty.outbox_held"))

        await eventually(held, lambda count: count == 0)
        assert await conn.fetchval("SELECT count(*) FROM marty.outbox_ahead") == 0
    seen = numbers_by_key(read_topic(kafka_bootstrap, topic))
    assert seen == {key: [0, 1, 2, 3] if key in KEYS[20:] else [0, 1, 2] for key in KEYS}


async def test_a_relay_of_another_name_takes_the_lanes_over_as_well(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    """The ids are the outbox's. The one before, whose leases nobody has taken, finds that the outbox is another's."""
    topic = topic_factory()
    await enqueue_all(conn, topic, range(4), ["a", "b"])
    await killed("kafka committed", postgres_url, kafka_bootstrap, tmp_path)
    async with transactional_relay(postgres_url, kafka_bootstrap, "late") as late:
        epochs = await late.take_lanes()
        await conn.execute("UPDATE marty.outbox_owner SET expires_at = now()")
        async with transactional_relay(postgres_url, kafka_bootstrap, "other", resource="test/other") as other:
            await other.take_lanes()
            await other.drain()
            await enqueue_all(conn, topic, [4], ["a", "b"])
            late.lanes.dropped(range(64))
            await late.lanes.gained(epochs)
            with pytest.raises(LeaseLost):
                await late.drain()
            assert await other.drain() == 2, "it was not even fenced"
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {key: [0, 1, 2, 3, 4] for key in ("a", "b")}


async def test_without_reading_the_note_what_was_committed_comes_twice(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    """The naive version, and what happens when the mode is turned off after a crash."""
    topic = topic_factory()
    await enqueue_all(conn, topic, range(8), ["a"])
    await killed("kafka committed", postgres_url, kafka_bootstrap, tmp_path)
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "successor")
        await take_lanes(pool, relay, "successor")
        await drain(relay)
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"a": [0, 1, 2, *range(8)]}


async def test_a_reset_of_the_cursor_is_not_undone_by_a_note(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory()
    await enqueue_all(conn, topic, range(4), ["a", "b"])
    await killed("kafka committed", postgres_url, kafka_bootstrap, tmp_path)
    async with conn.transaction():
        await outbox_reset.restored(conn)
        await outbox_reset.reset(conn, republish=True)
    async with transactional_relay(postgres_url, kafka_bootstrap, "successor") as parts:
        await parts.take_lanes()
        assert await parts.drain() == 8
    for numbers in numbers_by_key(read_topic(kafka_bootstrap, topic)).values():
        assert numbers[-4:] == [0, 1, 2, 3]


async def test_a_note_about_events_that_the_database_lost_is_ignored(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    """Restored to before them, under the same name: others have their place, and none of these may be skipped."""
    topic = topic_factory()
    await enqueue_all(conn, topic, range(3), ["a"])
    await killed("kafka committed", postgres_url, kafka_bootstrap, tmp_path)
    await conn.execute(
        "UPDATE marty.outbox SET event_id = gen_random_uuid(), payload = convert_to('{\"n\": 7}', 'utf8')"
    )
    async with transactional_relay(postgres_url, kafka_bootstrap, "successor") as parts:
        await parts.take_lanes()
        assert await parts.drain() == 3
    assert [json.loads(it.value or b"")["n"] for it in read_topic(kafka_bootstrap, topic)][-3:] == [7, 7, 7]
