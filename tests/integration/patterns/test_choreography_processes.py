"""The example's three services and the relay as processes, killed with -9 while orders go through, every event twice."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka import Producer

from examples.choreography.services import OrderService, PaymentService, create_tables
from marty_msf.patterns.choreography import EventBus
from tests.integration.relay.setup import relay_config
from tests.support.kafka import read_topic
from tests.support.processes import Process, free_port, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(240)]

ORDERS = 120
STOCK = 100
SERVICES = ("orders", "inventory", "payments")
PASSED = "SELECT sum(next_offset) FROM marty.kafka_position WHERE scope = $1"
OPEN = "SELECT count(*) FROM orders WHERE status = 'created'"


def again(bootstrap: str, topic: str) -> None:
    """Every event once more, behind those that are there."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for message in read_topic(bootstrap, topic):
        producer.produce(topic, message.value, key=message.key, headers=list(message.headers.items()))
    producer.flush(30)


async def test_nothing_is_lost_and_nothing_is_done_twice(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    topic = topic_factory("order.events", partitions=4)
    await create_tables(conn)
    await conn.execute("INSERT INTO stock VALUES ('lamp', $1)", STOCK)
    config = relay_config(tmp_path / "relay.json", kafka_bootstrap)
    environment = {
        "MARTY_DATABASE_URL": postgres_url,
        "MARTY_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "MARTY_TOKEN": "test-token-0123456789",
        "MARTY_HTTP_HOST": "127.0.0.1",
        "TOPIC": topic,
    }

    def command(name: str) -> tuple[list[str], dict[str, str]]:
        if name == "relay":
            port = {"MARTY_HTTP_PORT": str(free_port())}
            return ["-m", "marty_msf.cli", "run", "relay", "--config", str(config)], environment | port
        return ["-m", "examples.choreography", name], environment

    async with AsyncExitStack() as stack:

        async def start(name: str) -> None:
            arguments, variables = command(name)
            live[name] = await stack.enter_async_context(running(arguments, tmp_path / f"{name}.log", variables))

        live: dict[str, Process] = {}
        for name in (*SERVICES, "relay"):
            await start(name)
        # Where orders are placed, in this process: it shares the partitions with the service `orders`.
        shop = EventBus("orders", topic, database_url=postgres_url, bootstrap_servers=kafka_bootstrap)
        service = OrderService(shop)
        async with shop:
            for number in range(ORDERS):
                amount = PaymentService.LIMIT + 1 if number % 10 == 0 else 100
                await service.place(f"o{number}", "lamp", 1, amount)
                if number % 30 == 15:
                    victim = (*SERVICES, "relay")[number // 30]
                    live[victim].send(signal.SIGKILL)
                    assert await live[victim].wait() == -signal.SIGKILL
                    await start(victim)
        await eventually(lambda: conn.fetchval(OPEN), lambda count: count == 0, seconds=120, every=0.2)
        await asyncio.to_thread(again, kafka_bootstrap, topic)
        ends = len(read_topic(kafka_bootstrap, topic))
        for name in SERVICES:
            passed = partial(conn.fetchval, PASSED, f"events:_python/{name}")
            await eventually(passed, lambda count: count >= ends, seconds=60)
        for name in (*SERVICES, "relay"):
            live[name].send(signal.SIGTERM)
        for name in (*SERVICES, "relay"):
            assert await live[name].wait() == 0, live[name].output()[-2000:]

    states = dict(await conn.fetch("SELECT status, count(*) FROM orders GROUP BY 1"))
    paid = dict(await conn.fetch("SELECT order_id, count(*) FROM payments GROUP BY 1"))
    confirmed = {row[0] for row in await conn.fetch("SELECT order_id FROM orders WHERE status = 'confirmed'")}
    assert sum(states.values()) == ORDERS
    assert set(paid) == confirmed
    assert set(paid.values()) == {1}
    assert await conn.fetchval("SELECT available FROM stock") == STOCK - len(confirmed)
    assert await conn.fetchval("SELECT count(*) FROM marty.inbox_parked") == 0
