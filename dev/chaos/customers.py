"""Who starts the orders, and cancels some: patient people, who ask again until they are told that it is durable."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp
import asyncpg
import orjson

from dev.chaos.plan import RESOURCE, Order
from dev.chaos.pods import TOKEN, Pod

PATIENCE_SECONDS: Final = 0.2
AT_ONCE: Final = 100
START_SQL: Final = "SELECT marty.start_saga($1, $2, $3)"


class Customers:
    """Starts each order at its time and remembers every answer."""

    def __init__(self, pods: Sequence[Pod], url: str, source: random.Random) -> None:
        self._pods = pods
        self._url = url
        self._source = source
        self._places = asyncio.Semaphore(AT_ONCE)
        #: By business key the ids that starts of it were answered with.
        self.acknowledged: dict[str, set[str]] = {}

    async def run(self, orders: Sequence[Order], seconds: float) -> None:
        """Start the orders, spread over so many seconds; returns when all are acknowledged."""
        begin = asyncio.get_running_loop().time()
        timeout = aiohttp.ClientTimeout(total=20)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as client,
            asyncpg.create_pool(self._url, min_size=0, max_size=4, command_timeout=20) as pool,
            asyncio.TaskGroup() as tasks,
        ):
            for order in orders:
                due = begin + seconds * order.number / len(orders)
                await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0))
                await self._places.acquire()
                tasks.create_task(self._place(client, pool, order))

    async def _place(self, client: aiohttp.ClientSession, pool: asyncpg.Pool, order: Order) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(2 if order.twice else 1):
                    tasks.create_task(self._by_sql(pool, order) if order.by_sql else self._by_http(client, order))
        finally:
            self._places.release()
        if order.cancelled:
            (saga,) = self.acknowledged[order.key]
            await self._cancel(client, saga)

    async def _by_http(self, client: aiohttp.ClientSession, order: Order) -> None:
        body = {"business_key": order.key, "context": order.context}
        while True:
            status, answer = await self._post(client, "/v1/sagas", body)
            if status in {200, 201}:
                self.acknowledged.setdefault(order.key, set()).add(str(answer["saga_id"]))
                return
            if status is not None and status < 500:
                raise RuntimeError(f"{order.key} was refused: HTTP {status} {answer}")
            await asyncio.sleep(PATIENCE_SECONDS)

    async def _by_sql(self, pool: asyncpg.Pool, order: Order) -> None:
        context = orjson.dumps(order.context).decode()
        while True:
            try:
                async with pool.acquire() as conn:
                    undone = conn.transaction()
                    await undone.start()
                    await conn.fetchval(START_SQL, RESOURCE, f"rolled back {order.key}", context)
                    await undone.rollback()
                    saga = await conn.fetchval(START_SQL, RESOURCE, order.key, context)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                await asyncio.sleep(PATIENCE_SECONDS)
            else:
                self.acknowledged.setdefault(order.key, set()).add(str(saga))
                return

    async def _cancel(self, client: aiohttp.ClientSession, saga: str) -> None:
        """Ask once and do not wait for the answer: 202 and 409 are as good as 200."""
        while (await self._post(client, f"/v1/sagas/{saga}/cancel?wait=0", {}))[0] not in {200, 202, 409}:
            await asyncio.sleep(PATIENCE_SECONDS)

    async def _post(
        self, client: aiohttp.ClientSession, path: str, body: Mapping[str, object]
    ) -> tuple[int | None, Mapping[str, object]]:
        """Status and answer of some worker; no status when none came."""
        try:
            async with client.post(self._source.choice(self._pods).url + path, json=body) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None, {}
