"""`python -m examples.outbox`: sell, and publish what is ordered, until SIGTERM. `order ID QUANTITY`: place an order.

Needs MARTY_DATABASE_URL (`marty migrate` it first), MARTY_KAFKA_BOOTSTRAP_SERVERS and the topic TOPIC (stock.orders).
"""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress

import asyncpg
from aiokafka import AIOKafkaConsumer

from examples.outbox.shop import TABLES, place_order, sell
from marty_msf.patterns.outbox import EnhancedOutboxProcessor, Inbox, OutboxConfig, create_kafka_message_broker


async def work(pool: asyncpg.Pool, servers: str, topic: str) -> None:
    """Any number of processes; each may be killed at any time."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=f"stock-of-{topic}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    broker = create_kafka_message_broker({"bootstrap_servers": servers})
    async with EnhancedOutboxProcessor(message_broker=broker, config=OutboxConfig()), consumer:
        selling = asyncio.ensure_future(sell(pool, consumer, Inbox("stock")))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({selling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        selling.cancel()
        with suppress(asyncio.CancelledError):
            await selling


async def main(arguments: list[str]) -> None:
    topic = os.environ.get("TOPIC", "stock.orders")
    async with asyncpg.create_pool(setting("MARTY_DATABASE_URL"), min_size=0, max_size=4) as pool:
        await pool.execute(TABLES)
        match arguments:
            case ["order", order_id, quantity] if quantity.isdecimal():
                await place_order(pool, topic, order_id, int(quantity))
            case []:
                await work(pool, setting("MARTY_KAFKA_BOOTSTRAP_SERVERS"), topic)
            case _:
                sys.exit(__doc__)


def setting(name: str) -> str:
    """From the environment."""
    return os.environ.get(name) or sys.exit(f"{name} is not set: see {__doc__}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1:]))
