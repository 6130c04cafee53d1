"""Commands of sagas in a Python service: whatever comes is replied to, and takes effect once."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import orjson
import pytest
from confluent_kafka import Producer

from marty_msf.core.errors import InvalidDefinition
from marty_msf.patterns.choreography import EventBus
from marty_msf.patterns.saga import StepCommand, StepCommands, StepRejected
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

SAGA = "018f3c00-0000-7000-8000-000000000001"
REPLIES = "SELECT topic, payload, headers->>'correlation-id', headers->>'marty-outcome' FROM marty.outbox ORDER BY id"
SEE = "INSERT INTO seen VALUES ($1)"


def send(bootstrap: str, topic: str, action: str, key: str, **context: Any) -> None:
    body = {"saga_id": SAGA, "step": key.split(":")[0], "context": context, "data": {}}
    headers = {
        "ce_specversion": "1.0", "ce_id": f"{SAGA}:{key}", "ce_type": action, "ce_source": "/marty/saga/shop/orders",
        "content-type": "application/json", "idempotency-key": f"{SAGA}:{key}", "reply-topic": "orders.replies",
        "correlation-id": f"shop/orders/{SAGA}:{key}",
    }  # fmt: skip
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, orjson.dumps(body), key=SAGA, headers=list(headers.items()))
    assert producer.flush(20) == 0


async def test_every_command_is_replied_to_and_takes_effect_once(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await conn.execute("CREATE TABLE seen (what text)")
    topic = topic_factory("commands", 1)
    bus = EventBus("payments", topic, bootstrap_servers=kafka_bootstrap, database_url=postgres_url)
    commands = StepCommands(bus, timeout_seconds=0.5)
    ready = False

    @commands.handler("charge")
    async def charge(command: StepCommand) -> dict[str, Any]:
        await command.connection.execute(SEE, f"{command.step} {command.action}")
        if command.context.get("decline"):
            raise StepRejected("no money")
        if command.context.get("hang"):
            await asyncio.Event().wait()
        if not ready:
            raise OSError("the bank is away")
        return {"paid": 7}

    @commands.handler("refund")
    async def refund(command: StepCommand) -> None:
        await command.connection.execute(SEE, f"{command.step} refund of {command.result['paid']}")

    async def replied(count: int) -> list[tuple[str, Any]]:
        rows = await eventually(lambda: conn.fetch(REPLIES), lambda rows: len(rows) == count)
        assert {row[0] for row in rows} == {"orders.replies"}
        assert rows[-1][2].startswith(f"shop/orders/{SAGA}:")
        return [(row[3], orjson.loads(row[1])) for row in rows]

    async with bus:
        send(kafka_bootstrap, topic, "charge", "a:do:1")
        send(kafka_bootstrap, topic, "charge", "b:do:1", decline=True)
        send(kafka_bootstrap, topic, "charge", "c:do:1", hang=True)
        # An undo that comes before its do, which is refused for ever.
        send(kafka_bootstrap, topic, "refund", "d:undo:1")
        send(kafka_bootstrap, topic, "charge", "d:do:1")
        assert [outcome for outcome, _ in await replied(5)] == ["failed", "rejected", "failed", "succeeded", "rejected"]
        assert await conn.fetchval("SELECT count(*) FROM seen") == 0
        ready = True
        for key in ("a:do:1", "a:do:1", "b:do:1"):
            send(kafka_bootstrap, topic, "charge", key)
        for _ in range(2):
            send(kafka_bootstrap, topic, "refund", "a:undo:1")
        found = await replied(10)
    assert found[0] == ("failed", {"error": "OSError: the bank is away"})
    assert found[5:] == [
        ("succeeded", {"paid": 7}), ("succeeded", {"paid": 7}), ("rejected", {"error": "no money"}),
        ("succeeded", {}), ("succeeded", {}),
    ]  # fmt: skip
    assert [row[0] for row in await conn.fetch("SELECT what FROM seen")] == ["a charge", "a refund of 7"]
    assert await conn.fetchval("SELECT count(*) FROM marty.inbox_parked") == 0


def test_a_handler_must_end_before_the_bus_gives_up_on_it() -> None:
    bus = EventBus("payments", "commands", handler_timeout_seconds=10)

    with pytest.raises(InvalidDefinition, match="timeout_seconds: 20 s are not below the 10 s of the event bus"):
        StepCommands(bus)
