"""The example of steps over Kafka as processes: two saga workers, the service and the relay; one worker and the service are
killed with -9 while replies arrive, and every message comes twice."""

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from operator import le
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from confluent_kafka import Producer

from examples.kafka_steps.payments import LIMIT, create_tables
from tests.integration.relay.setup import relay_config
from tests.support.kafka import read_topic
from tests.support.processes import Process, free_port, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).parents[3] / "examples/kafka_steps/saga.yaml"
RESOURCE = "shop/orders"
ORDERS = 80
CUSTOMERS = 10
MONEY = 1300
START = """
SELECT marty.start_saga($1, 'order-' || n, jsonb_build_object(
    'order_id', n::text, 'customer', (n % $3)::text, 'amount', CASE WHEN n % 7 = 0 THEN 1100 ELSE 100 END))
  FROM generate_series(1, $2::int) AS n
"""
STATES = "SELECT state, count(*) FROM marty.saga_instance GROUP BY 1"
PASSED = "SELECT coalesce(sum(next_offset), 0) FROM marty.kafka_position WHERE topic = $1"
MONEY_NOW = "SELECT (SELECT sum(balance) FROM accounts) + (SELECT coalesce(sum(amount), 0) FROM bookings)"


def saga_config(path: Path, bootstrap: str, commands: str, replies: str) -> Path:
    """The example's Saga with the test's topics, as the operator would render it."""
    resource = yaml.safe_load(EXAMPLE.read_text())
    spec: dict[str, Any] = resource["spec"]
    spec["kafka"]["bootstrapServers"] = bootstrap
    for step in spec["steps"]:
        assert step["call"] == {"kafka": {"commandTopic": "payment.commands", "replyTopic": "orders.replies"}}
        step["call"] = {"kafka": {"commandTopic": commands, "replyTopic": replies}}
    spec["stepDefaults"] = {
        "timeoutMs": 3000,
        "retry": {"attempts": 50, "initialBackoffMs": 100, "maxBackoffMs": 1000},
    }
    path.write_text(json.dumps({"role": "saga", **resource["metadata"], "spec": spec}))
    return path


def again(bootstrap: str, topic: str) -> None:
    """Every message once more, behind those that are there."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for message in read_topic(bootstrap, topic):
        producer.produce(topic, message.value, key=message.key, headers=list(message.headers.items()))
    assert producer.flush(30) == 0


async def test_money_is_neither_lost_nor_taken_twice(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    commands, replies = topic_factory("payment.commands", 2), topic_factory("orders.replies", 2)
    await create_tables(conn)
    await conn.execute(
        "INSERT INTO accounts SELECT n::text, $1 FROM generate_series(0, $2::int - 1) AS n", MONEY, CUSTOMERS
    )
    relay = relay_config(tmp_path / "relay.json", kafka_bootstrap)
    saga = saga_config(tmp_path / "saga.json", kafka_bootstrap, commands, replies)
    environment = {
        "MARTY_DATABASE_URL": postgres_url,
        "MARTY_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "MARTY_TOKEN": "test-token-0123456789",
        "MARTY_HTTP_HOST": "127.0.0.1",
        "TOPIC": commands,
    }
    run = ["-m", "marty_msf.cli", "run"]
    programs = {
        "one": [*run, "saga", "--config", str(saga)],
        "two": [*run, "saga", "--config", str(saga)],
        "relay": [*run, "relay", "--config", str(relay)],
        "service": ["-m", "examples.kafka_steps"],
    }
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Process:
            variables = environment | {"MARTY_HTTP_PORT": str(free_port())}
            return await stack.enter_async_context(running(programs[name], tmp_path / f"{name}.log", variables))

        async def ended() -> int:
            found = dict(await conn.fetch(STATES))
            return sum(found.get(state, 0) for state in ("Completed", "Compensated", "Failed"))

        live = {name: await start(name) for name in programs}
        holders = "SELECT count(DISTINCT holder) FROM marty.lease WHERE scope = $1 AND holder IS NOT NULL"
        for scope in (f"saga:{RESOURCE}", f"saga-replies:{RESOURCE}#{replies}"):
            await eventually(partial(conn.fetchval, holders, scope), lambda count: count == 2, seconds=60, every=0.1)
        await conn.execute("SELECT count(*) FROM (" + START + ") AS started", RESOURCE, ORDERS, CUSTOMERS)
        await eventually(ended, lambda count: count > ORDERS // 10, seconds=60)
        for name in ("one", "service"):
            live[name].send(signal.SIGKILL)
            assert await live[name].wait() == -signal.SIGKILL
        assert await ended() < ORDERS
        live["service"] = await start("service")
        await eventually(ended, lambda count: count == ORDERS, seconds=90, every=0.1)

        for topic in (commands, replies):
            await asyncio.to_thread(again, kafka_bootstrap, topic)
        for topic in (commands, replies):
            ends = len(read_topic(kafka_bootstrap, topic))
            await eventually(partial(conn.fetchval, PASSED, topic), partial(le, ends), seconds=30)
        for name in ("two", "service", "relay"):
            live[name].send(signal.SIGTERM)
        for name in ("two", "service", "relay"):
            assert await live[name].wait() == 0, live[name].output()[-3000:]

    assert await conn.fetchval("SELECT count(*) FROM marty.saga_parked_event") == 0
    assert await conn.fetchval("SELECT count(*) FROM marty.inbox_parked") == 0
    # A customer with an order of 1100 and not enough left is refused; one that is charged is refunded: never booked.
    assert await conn.fetchval("SELECT max(amount) FROM bookings") <= LIMIT
    assert await conn.fetchval(MONEY_NOW) == MONEY * CUSTOMERS
    booked = {row[0] for row in await conn.fetch("SELECT order_id FROM bookings")}
    completed = await conn.fetch("SELECT business_key FROM marty.saga_instance WHERE state = 'Completed'")
    assert {f"order-{order}" for order in booked} == {row[0] for row in completed}
    assert await conn.fetchval("SELECT count(*) FROM bookings") == len(booked)
