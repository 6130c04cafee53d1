"""The event bus on a real Postgres and Kafka: each event once, poison holds its own key only, nothing without its cause."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest
from confluent_kafka import Producer

from marty_msf.core.errors import InvalidDefinition, InvalidEvent, NotRunning
from marty_msf.patterns.choreography import Event, EventBus, Retries
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

QUICK = Retries(attempts=2, first_seconds=0.01, longest_seconds=0.02)
SEEN = "CREATE TABLE seen (event_id text, key text, number int)"
SEE = "INSERT INTO seen VALUES ($1, $2, $3)"

TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def send(bootstrap: str, topic: str, *events: tuple[str, str, Any]) -> None:
    """Events as a relay writes them: (id, key, data)."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for event_id, key, data in events:
        headers = {"ce_id": event_id, "ce_type": "counted", "ce_source": "/test", "traceparent": "none that is one"}
        producer.produce(topic, orjson.dumps(data), key=key, headers=list(headers.items()))
    producer.flush(30)


@asynccontextmanager
async def bus(
    url: str, bootstrap: str, topic: str, handler: Callable[[Event], Any] | None = None, name: str = "service"
) -> AsyncIterator[EventBus]:
    made = EventBus(name, topic, bootstrap_servers=bootstrap, database_url=url, retries=QUICK)
    if handler:
        made.subscribe("counted", handler)
    async with made:
        yield made


async def see(event: Event) -> None:
    await event.connection.execute(SEE, event.id, event.aggregate_id, event.data["n"])


async def seen(conn: asyncpg.Connection) -> dict[str, list[int]]:
    """Numbers by key, in the order in which they were handled."""
    found: dict[str, list[int]] = {}
    for row in await conn.fetch("SELECT key, number FROM seen ORDER BY ctid"):
        found.setdefault(row["key"], []).append(row["number"])
    return found


async def test_what_kafka_has_twice_is_handled_once(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await conn.execute(SEEN)
    topic = topic_factory("twice")
    events = [(f"e{n}", f"k{n % 5}", {"n": n}) for n in range(50)]
    send(kafka_bootstrap, topic, *events, *events)
    async with bus(postgres_url, kafka_bootstrap, topic, see):
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM seen"), lambda count: count >= 50)
        send(kafka_bootstrap, topic, *events, ("last", "k0", {"n": 50}))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM seen WHERE event_id = 'last'"))
    assert await seen(conn) == {
        **{f"k{key}": list(range(key, 50, 5)) for key in range(1, 5)},
        "k0": [*range(0, 50, 5), 50],
    }


async def test_two_services_handle_an_event_each_and_two_processes_of_one_share(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await conn.execute(SEEN)
    topic = topic_factory("shared", partitions=4)

    async def other(event: Event) -> None:
        await event.connection.execute(SEE, event.id, "other", event.data["n"])

    async with (
        bus(postgres_url, kafka_bootstrap, topic, see),
        bus(postgres_url, kafka_bootstrap, topic, see),
        bus(postgres_url, kafka_bootstrap, topic, other, "another"),
    ):
        send(kafka_bootstrap, topic, *((f"e{n}", f"k{n}", {"n": n}) for n in range(40)))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM seen"), lambda count: count >= 80)
    found = await seen(conn)
    assert sorted(found.pop("other")) == list(range(40))
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(40))


async def test_an_event_that_cannot_be_handled_holds_its_own_key_until_it_is_redriven(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await conn.execute(SEEN)
    topic = topic_factory("poison", partitions=1)
    mended = False
    tried: Counter[str] = Counter()

    async def picky(event: Event) -> None:
        await see(event)
        tried[event.id] += 1
        if event.id == "bad" and not mended:
            raise ValueError("no such product")

    async with bus(postgres_url, kafka_bootstrap, topic, picky) as service:
        send(kafka_bootstrap, topic, ("a1", "a", {"n": 1}), ("bad", "a", {"n": 2}), ("a3", "a", {"n": 3}))
        send(kafka_bootstrap, topic, ("b1", "b", {"n": 1}))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM seen WHERE key = 'b'"))

        first, second = await service.parked()
        assert (first.event_id, first.attempts, second.event_id, second.attempts) == ("bad", 2, "a3", 0)
        assert "ValueError: no such product" in first.error
        health = await service.health_check()
        assert (health["status"], health["parked_events"]) == ("degraded", 2)
        assert health["problems"] == [
            "2 events parked, because a handler failed for good: see parked(), then redrive() or discard()"
        ]
        for ask in (service.parked, service.redrive):
            for limit in (0, -1, 1.5, True, "5", 10_001):
                with pytest.raises(InvalidDefinition, match="limit"):
                    await ask(limit=limit)  # type: ignore[arg-type]
        # What the failed handler wrote is not there.
        assert await seen(conn) == {"a": [1], "b": [1]}
        assert await service.redrive() == 0

        mended = True
        assert await service.redrive("a") == 2
        assert await service.parked() == []
        assert (await service.health_check())["status"] == "healthy"
    assert await seen(conn) == {"a": [1, 2, 3], "b": [1]}
    assert tried == {"a1": 1, "bad": 4, "a3": 1, "b1": 1}


async def test_a_discarded_event_counts_as_handled_and_those_behind_it_go_on(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await conn.execute(SEEN)
    topic = topic_factory("discarded", partitions=1)
    async with bus(postgres_url, kafka_bootstrap, topic, see) as service:
        send(kafka_bootstrap, topic, ("bad", "a", "no object"), ("a2", "a", {"n": 2}))
        await eventually(service.parked, lambda parked: len(parked) == 2)
        assert await service.discard("bad") == 1
        assert await service.discard("bad") == 0
        assert await service.redrive() == 1
        send(kafka_bootstrap, topic, ("bad", "a", "no object"), ("a3", "a", {"n": 3}))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM seen"), lambda count: count == 2)
        assert await service.parked() == []
    assert await seen(conn) == {"a": [2, 3]}


async def publish_and_fail(service: EventBus) -> None:
    async with service.transaction() as connection:
        await service.publish("lost", {}, aggregate_id="own")
        await connection.execute("SELECT 1 FROM nowhere")


async def test_an_event_leaves_with_its_transaction_or_not_at_all(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await conn.execute(SEEN)
    topic = topic_factory("left")

    async def follow(event: Event) -> None:
        await service.publish("followed", event.data)
        if event.data["n"] == 2:
            raise ValueError("not this one")

    async with bus(postgres_url, kafka_bootstrap, topic, follow) as service:
        async with service.transaction() as connection:
            await connection.execute(SEE, "own", "own", 0)
            await service.publish("started", {"n": 0}, aggregate_id="own", headers={"traceparent": TRACE})
        with pytest.raises(asyncpg.UndefinedTableError):
            await publish_and_fail(service)
        send(kafka_bootstrap, topic, ("e1", "a", {"n": 1}), ("e2", "b", {"n": 2}))
        await eventually(service.parked, lambda parked: len(parked) == 1)
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM marty.outbox WHERE event_type = 'followed'"))

        with pytest.raises(NotRunning, match="outside of a transaction"):
            await service.publish("loose", {}, aggregate_id="a")
        with pytest.raises(InvalidEvent, match="payload of"):
            async with service.transaction():
                await service.publish("large", "x" * 1_000_000, aggregate_id="a")
        with pytest.raises(InvalidEvent, match="no aggregate_id"):
            async with service.transaction():
                await service.publish("nameless", {})
    rows = await conn.fetch(
        "SELECT event_type, aggregate_id, topic, headers->>'traceparent' FROM marty.outbox ORDER BY id"
    )
    # What came with the event and is no trace is not sent on.
    assert [tuple(row) for row in rows] == [("started", "own", topic, TRACE), ("followed", "a", topic, None)]


async def test_a_handler_that_hangs_is_given_up_and_harms_no_other_key(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    await conn.execute(SEEN)
    topic = topic_factory("hanging", partitions=1)

    async def hang(event: Event) -> None:
        if event.data["n"] == 1:
            await asyncio.Event().wait()
        await see(event)

    service = EventBus(
        "service", topic, bootstrap_servers=kafka_bootstrap, database_url=postgres_url, retries=QUICK,
        handler_timeout_seconds=0.1,
    )  # fmt: skip
    service.subscribe("counted", hang)
    async with service:
        send(kafka_bootstrap, topic, ("e1", "a", {"n": 1}), ("e2", "b", {"n": 2}))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM seen"))
        (parked,) = await service.parked()
    assert "it took longer than 0.1 s" in parked.error


async def test_an_event_with_a_long_id_is_forgotten_too(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("forgotten")
    handled: list[str] = []

    async def forget(event: Event) -> None:
        handled.append(event.id)
        await service.forget(event)

    async def count() -> int:
        return len(handled)

    long = "x" * 600
    async with bus(postgres_url, kafka_bootstrap, topic, forget) as service:
        send(kafka_bootstrap, topic, (long, "a", {}), (long, "a", {}))
        await eventually(count, lambda seen: seen == 2)
    assert handled == [long, long]
    assert await conn.fetchval("SELECT count(*) FROM marty.inbox") == 0
