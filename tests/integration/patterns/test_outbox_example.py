"""The example of the outbox in an application's own processes, one of them killed while orders go through."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.group import LeaveGroupRequest

from examples.outbox.shop import TABLES, place_order, sell
from marty_msf.patterns.outbox import Inbox
from tests.integration.patterns.test_event_bus import send
from tests.support.postgres import blocked
from tests.support.processes import running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(180)]

ORDERS = 200
SOLD = "SELECT sold FROM stock"


async def test_each_order_is_sold_once_although_a_process_is_killed(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    topic = topic_factory("stock.orders")
    await conn.execute(TABLES)
    environment = {
        "MARTY_DATABASE_URL": postgres_url,
        "MARTY_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "TOPIC": topic,
    }
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(asyncpg.create_pool(postgres_url, min_size=0, max_size=4))
        workers = [
            await stack.enter_async_context(running(["-m", "examples.outbox"], tmp_path / f"{number}.log", environment))
            for number in range(2)
        ]

        async def place(number: int) -> None:
            for _ in range(2):
                await place_order(pool, topic, f"o-{number}", 1 + number % 3)

        await asyncio.gather(*map(place, range(ORDERS // 2)))
        await eventually(lambda: conn.fetchval(SOLD), seconds=60)
        workers[0].send(signal.SIGKILL)
        await asyncio.gather(*map(place, range(ORDERS // 2, ORDERS)))
        ordered = sum(1 + number % 3 for number in range(ORDERS))
        await eventually(lambda: conn.fetchval(SOLD), lambda sold: sold >= ordered, seconds=90)
        workers[1].send(signal.SIGTERM)
        assert await workers[1].wait() == 0, workers[1].output()
    assert await conn.fetchval(SOLD) == ordered
    assert await conn.fetchval("SELECT count(*) FROM marty.inbox") == ORDERS


async def test_who_sells_goes_on_when_its_group_is_shared_out_anew_while_it_handles_an_event(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("stock.orders", partitions=1)
    await conn.execute(TABLES)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka_bootstrap,
        group_id=f"stock-of-{topic}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    async with asyncpg.create_pool(postgres_url, min_size=0, max_size=2) as pool, consumer:
        selling = asyncio.create_task(sell(pool, consumer, Inbox("stock")))
        async with conn.transaction():
            # It cannot end what it began before its member is gone from the group.
            await conn.execute("SELECT FROM stock FOR UPDATE")
            send(kafka_bootstrap, topic, ("first", "o-1", {"quantity": 2}))
            await blocked(conn)
            group = consumer._coordinator
            await consumer._client.send(group.coordinator_id, LeaveGroupRequest(group.group_id, group.member_id))
        send(kafka_bootstrap, topic, ("second", "o-2", {"quantity": 3}))
        await eventually(lambda: conn.fetchval(SOLD), lambda sold: sold >= 5 or selling.done(), seconds=30)
        assert not selling.done(), selling.exception()
        selling.cancel()
        await asyncio.wait([selling])
    assert await conn.fetchval(SOLD) == 5
