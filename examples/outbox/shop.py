"""Both sides of an event: an order and what it causes. Each is one transaction of its own database connection."""

from contextlib import suppress
from typing import Final

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError

from marty_msf.patterns.outbox import EnhancedOutboxRepository, EventPriority, Inbox

TABLES: Final = """
CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, quantity int NOT NULL);
CREATE TABLE IF NOT EXISTS stock (product text PRIMARY KEY, sold int NOT NULL);
INSERT INTO stock VALUES ('lamp', 0) ON CONFLICT DO NOTHING;
"""
INSERT: Final = "INSERT INTO orders VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true"
SELL: Final = "UPDATE stock SET sold = sold + $1 WHERE product = 'lamp'"


async def place_order(pool: asyncpg.Pool, topic: str, order_id: str, quantity: int) -> None:
    """The row and its event, or neither; placing an order again changes nothing."""
    async with pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(INSERT, order_id, quantity):
            await EnhancedOutboxRepository(connection).enqueue_event(
                topic=topic,
                event_type="order_created",
                payload={"order_id": order_id, "quantity": quantity},
                aggregate_id=order_id,
                aggregate_type="order",
                priority=EventPriority.HIGH if quantity > 100 else EventPriority.NORMAL,
            )


async def sell(pool: asyncpg.Pool, consumer: AIOKafkaConsumer, inbox: Inbox) -> None:
    """Handle events until cancelled; may be killed anywhere, and Kafka may deliver anything twice."""
    async for message in consumer:
        async with pool.acquire() as connection, inbox.once(connection, message) as first:
            if first:
                await connection.execute(SELL, orjson.loads(message.value)["quantity"])
        # Only now: what is read again after a crash is known to the inbox, and so is what another process is given
        # meanwhile, because one came or went.
        with suppress(CommitFailedError):
            await consumer.commit()
