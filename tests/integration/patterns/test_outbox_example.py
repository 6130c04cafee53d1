"""The example of the outbox in an application's own processes, one of them killed while orders go through."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from examples.outbox.shop import TABLES, place_order
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
