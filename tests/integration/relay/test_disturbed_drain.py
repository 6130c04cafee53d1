"""Kafka, or Postgres, is killed and started again while two relays drain what hostile writers write."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from dev.chaos.server import CRASH, ORDERLY, running_server
from marty_msf.store.migrations import migrate
from tests.integration.relay.setup import make_rules, numbers_by_key, relay_config
from tests.integration.relay.writers import (
    EVENTS_PER_KEY,
    KEYS,
    check_all_published,
    end_prepared,
    holders,
    prepare,
    unpublished,
    write_all,
)
from tests.support.broker import broker
from tests.support.kafka import create_topic, read_topic
from tests.support.waiting import eventually
from tests.support.workers import Worker, worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]

TOPIC = "disturbed"
DISTURBANCES = 2
#: Each disturbance may make each relay send again what it has in flight: batches of four times their size.
REPEATED_AT_MOST = DISTURBANCES * 2 * make_rules().in_flight * 200

#: With transactions nothing is repeated.
MODES = pytest.mark.parametrize("transactional", [False, True], ids=["usual", "transactional"])


async def drained_under(
    url: str, bootstrap: str, directory: Path, disturb: Callable[[int], Awaitable[None]], *, transactional: bool
) -> None:
    """`disturb(turn)` is called when events flow."""
    create_topic(bootstrap, TOPIC, 5)
    conn = await asyncpg.connect(url)
    await prepare(conn)
    await conn.close()
    kafka = {"bootstrapServers": bootstrap, "producer": {"transactional": transactional}}
    config = relay_config(directory / "config.json", bootstrap, kafka=kafka, batchSize=50, prefetchCount=200)
    async with worker(config, url, directory, "first") as first, worker(config, url, directory, "second") as second:
        await first.ready()
        await second.ready()
        writing = asyncio.create_task(write_all(url, TOPIC, seed=5))

        async def more() -> None:
            before = await published(first, second)
            await eventually(lambda: published(first, second), lambda count: count > before + 300, seconds=60)

        for turn in range(DISTURBANCES):
            await more()
            # A slow recovery may outlast the writers, whose events wait then.
            assert not writing.done() or await waits(url), "nothing was left to publish at the disturbance"
            await disturb(turn)
        await writing
        conn = await asyncpg.connect(url)
        try:
            await eventually(lambda: unpublished(conn), lambda left: left <= 0, seconds=90)
            assert await unpublished(conn) == 0, "something was marked twice"
            await eventually(lambda: holders(conn), lambda found: found == {"first": 32, "second": 32}, seconds=90)
        finally:
            await conn.close()
        await eventually(first.reasons, lambda found: not found)
        await eventually(second.reasons, lambda found: not found)
    messages = read_topic(bootstrap, TOPIC)
    check_all_published(messages, repeated_at_most=0 if transactional else REPEATED_AT_MOST)
    if transactional:
        assert numbers_by_key(messages) == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}


async def waits(url: str) -> bool:
    """Whether anything is not published."""
    conn = await asyncpg.connect(url)
    try:
        return await unpublished(conn) > 0
    finally:
        await conn.close()


async def published(*relays: Worker) -> int:
    """As the one says that answers: both count all of it."""
    return max([await relay.published() for relay in relays])


@MODES
async def test_all_is_published_when_kafka_is_killed_during_a_drain(
    postgres_url: str, tmp_path: Path, transactional: bool
) -> None:
    """Naive: what librdkafka, or a producer without a session per try, had queued is lost or comes behind newer events;
    or the outage is counted against the events, and they are dead."""
    (tmp_path / "broker").mkdir()
    async with broker(tmp_path / "broker") as kafka:

        async def disturb(_: int) -> None:
            await kafka.restart()

        await drained_under(postgres_url, kafka.bootstrap, tmp_path, disturb, transactional=transactional)
    conn = await asyncpg.connect(postgres_url)
    try:
        assert await conn.fetchval("SELECT count(*) FROM marty.outbox_held") == 0
        assert await conn.fetchval("SELECT sum(failed_total)::int FROM marty.outbox_position") == 0
    finally:
        await conn.close()


@MODES
async def test_all_is_published_when_postgres_is_restarted_during_a_drain(tmp_path: Path, transactional: bool) -> None:
    """Naive: the position in memory is newer than the one that was stored, or a transaction that was prepared before the
    crash is passed over because its number is behind."""
    (tmp_path / "broker").mkdir()
    async with broker(tmp_path / "broker") as kafka, running_server() as server:
        admin = await asyncpg.connect(server.url("postgres"))
        await admin.execute("CREATE DATABASE drained")
        await admin.close()
        url = server.url("drained")
        conn = await asyncpg.connect(url)
        await migrate(conn)
        await conn.close()

        async def disturb(turn: int) -> None:
            await server.restart((CRASH, ORDERLY)[turn])
            await end_prepared(url)

        await drained_under(url, kafka.bootstrap, tmp_path, disturb, transactional=transactional)
