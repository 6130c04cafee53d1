"""Orders over HTTP: a burst as fast as the shop takes them, and an open loop that measures how long one order takes."""

import asyncio
import random
import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import asyncpg

#: A customer knows what the shop sells, not how it is built: nothing of examples/shop is imported here.
PRODUCTS: Final = ("bicycle", "helmet", "lamp", "lock", "pump", "saddle")
#: Fixed, so that every run places the same orders: what is demonstrated is not left to luck.
SEED: Final = 7
CONCURRENCY: Final = 32
ATTEMPTS: Final = 20
RETRY_SECONDS: Final = 0.25
POLL_SECONDS: Final = 0.02


class OrderRefused(Exception):
    """The shop did not take a valid order."""


def order_bodies(count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Valid orders; about one card token in ten ends in 0."""
    source = random.Random(seed)
    return [
        {
            "customer_id": f"customer-{source.randrange(50):02}",
            "sku": source.choice(PRODUCTS),
            "quantity": source.randint(1, 3),
            "card_token": f"tok_{source.randrange(10**7):08x}{source.randrange(10)}",
        }
        for _ in range(count)
    ]


class Shopper:
    """A customer of the order service. Each order has its own Idempotency-Key, so sending it again is safe."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/orders"

    async def place(self, body: Mapping[str, Any]) -> str:
        """The new order's id. OrderRefused on a 4xx, or when the shop cannot be reached for long."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                async with self._session.post(self._url, json=body, headers=headers) as response:
                    answer = await response.json(content_type=None)
                    if response.status == 201:
                        return str(answer["order_id"])
                    problem = f"HTTP {response.status}: {answer}"
                    if response.status < 500:
                        break
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
            await asyncio.sleep(RETRY_SECONDS)
        raise OrderRefused(f"POST {self._url} with {dict(body)}: {problem}")

    async def burst(self, bodies: Sequence[Mapping[str, Any]]) -> list[str]:
        """Place all of them, `CONCURRENCY` at a time."""
        gate = asyncio.Semaphore(CONCURRENCY)

        async def one(body: Mapping[str, Any]) -> str:
            async with gate:
                return await self.place(body)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(body)) for body in bodies]
        return [task.result() for task in tasks]


@dataclass(frozen=True, slots=True)
class Latency:
    """From `POST /orders` to the order's final status in the read model."""

    median_ms: float
    p95_ms: float
    longest_ms: float


def latency(seconds: Sequence[float]) -> Latency:
    """Of at least two measurements."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Latency(statistics.median(ordered) * 1000, p95 * 1000, ordered[-1] * 1000)


FINAL_SUMMARIES: Final = """
SELECT order_id FROM public.order_summary
 WHERE order_id = ANY($1::text[]) AND status IN ('confirmed', 'cancelled')
"""


async def open_loop(
    shopper: Shopper,
    database: asyncpg.Connection,
    bodies: Sequence[Mapping[str, Any]],
    *,
    per_second: float,
    wait_seconds: float,
) -> tuple[list[str], list[float]]:
    """Place an order at each tick of the clock, however long the earlier ones take, and time each to the read model.

    Returns the order ids, and the seconds of those that got there within `wait_seconds` after the last tick.
    """
    started = time.monotonic()
    deadline = started + len(bodies) / per_second + wait_seconds
    sent: dict[str, float] = {}
    took: dict[str, float] = {}

    async def one(body: Mapping[str, Any], tick: float) -> None:
        await asyncio.sleep(started + tick - time.monotonic())
        clock = time.monotonic()
        sent[await shopper.place(body)] = clock

    async with asyncio.TaskGroup() as group:
        for index, body in enumerate(bodies):
            group.create_task(one(body, index / per_second))
        while len(took) < len(bodies) and time.monotonic() < deadline:
            waiting = [order_id for order_id in sent if order_id not in took]
            for row in await database.fetch(FINAL_SUMMARIES, waiting):
                took[row["order_id"]] = time.monotonic() - sent[row["order_id"]]
            await asyncio.sleep(POLL_SECONDS)
    return list(sent), list(took.values())
