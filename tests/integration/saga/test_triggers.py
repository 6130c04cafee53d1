"""Kafka triggers on a real broker: once per business key, poison aside, position with the instances."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Producer

from marty_msf.core.worker_config import SagaConfig
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store.saga_trigger import PoisonTrigger, newest_parked, park_events
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.role import SagaRole
from tests.integration.saga.sagas import QUICK, Shop, ended, pool_of, told
from tests.support import kafka
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]


def config(topic: str, bootstrap: str, **trigger: Any) -> SagaConfig:
    return SagaConfig.model_validate(
        {
            "role": "saga",
            "namespace": "shop",
            "name": "orders",
            "spec": {
                "database": {"urlSecretRef": {"name": "db"}},
                "kafka": {"bootstrapServers": bootstrap},
                "stepDefaults": {"retry": QUICK},
                "triggers": [{"kafka": {"topic": topic, "eventType": "order_created", **trigger}}],
                "steps": [
                    {"name": "reserve", "service": "shop", "action": "reserve", "compensation": "release"},
                    {"name": "charge", "service": "shop", "action": "charge", "compensation": "refund"},
                ],
            },
        }
    )


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@asynccontextmanager
async def role(url: str, saga: SagaConfig, shop: Shop) -> AsyncIterator[tuple[SagaRole, Board]]:
    board = Board()
    async with pool_of(url) as pool:
        context = Context(pool, f"test/{secrets.token_hex(4)}", saga.resource, board, new_registry(board))
        it = SagaRole(context, saga, shop.caller())
        stop = asyncio.Event()
        task = asyncio.create_task(it.run(stop))
        try:
            yield it, board
            stop.set()
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})


def produce(bootstrap: str, topic: str, *events: tuple[str, str | None, bytes]) -> None:
    """Events as (ce_id, ce_type, payload)."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for event_id, event_type, payload in events:
        headers: list[tuple[str, str | bytes | None]] = [
            ("ce_id", event_id), ("ce_type", event_type), ("ce_source", "/marty/shop/order"), ("traceparent", TRACE),
        ]  # fmt: skip
        producer.produce(topic, payload, key=event_id, headers=headers)
    assert producer.flush(20) == 0


async def test_an_event_starts_one_saga_however_often_it_comes(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("orders", partitions=3)
    shop = Shop(refuse=lambda context: bool(context["n"] % 5 == 0))
    events = [(f"e{n}", "order_created", b'{"id": "o%d", "number": %d}' % (n, n)) for n in range(50)]
    others = [(f"x{n}", "order_deleted", b"{") for n in range(10)]
    produce(kafka_bootstrap, topic, *events, *others)
    saga = config(topic, kafka_bootstrap, context={"n": "event.number"}, businessKey="event.id")
    async with role(postgres_url, saga, shop) as (it, board):
        assert await ended(conn, 50) == {"Completed": 40, "Compensated": 10}
        produce(kafka_bootstrap, topic, *events, ("e50", "order_created", b'{"id": "o50", "number": 51}'))
        await ended(conn, 51)
        await eventually(_position(conn), lambda offset: offset == 111)
        totals = await it.totals()
        assert board.current() == []
    assert (totals.active, totals.completed, totals.compensated, totals.parked) == (0, 41, 10, 0)
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_instance") == 51
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_input WHERE traceparent = $1", TRACE) == 51

    async with role(postgres_url, saga, shop) as (it, _):
        await eventually(told(lambda: it.engine is not None and it.engine.ready.is_set()))
        produce(kafka_bootstrap, topic, ("e60", "order_created", b'{"id": "o60", "number": 61}'))
        assert (await ended(conn, 52)).total() == 52


async def test_poison_events_are_kept_aside_and_do_not_stop_the_partition(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("orders", partitions=1)
    produce(
        kafka_bootstrap,
        topic,
        ("e1", "order_created", b"{broken"),
        ("e2", "order_created", b'{"id": 2}'),
        ("e3", "order_created", b'{"id": {}}'),
        ("e4", "order_created", b'{"id": "x", "context": 1}'),
        ("e5", "order_created", b'{"id": 5}'),
        ("e6", None, b'{"id": 6}'),
        *((f"deep{n}", "order_created", b'{"id": 7, "a": %s}' % (b"[" * n + b"]" * n)) for n in (64, 253, 1000)),
        ("e7", "order_created", b'{"id": 7}'),
    )
    async with role(postgres_url, config(topic, kafka_bootstrap, businessKey="event.id"), Shop()) as (_, board):
        assert await ended(conn, 3) == {"Completed": 3}
        await eventually(told(lambda: bool(board.current())))
        problem = board.current()[0]
    assert (problem.reason, problem.blocking) == (ProblemReason.POISON_EVENT, False)
    assert problem.message.startswith("6 Kafka messages could not be used")
    rows = await conn.fetch('SELECT "offset", event_id, error, value FROM marty.saga_parked_event ORDER BY 1')
    assert [(row["offset"], row["event_id"]) for row in rows] == [
        (0, "e1"), (2, "e3"), (3, "e4"), (6, "deep64"), (7, "deep253"), (8, "deep1000"),
    ]  # fmt: skip
    assert "no JSON" in rows[0]["error"]
    assert "reserved" in rows[2]["error"]
    assert rows[0]["value"] == b"{broken"
    assert await conn.fetchval("SELECT sum(parked_events) FROM marty.saga_counter") == 6


async def test_the_newest_of_a_batch_is_the_one_behind_the_others(conn: asyncpg.Connection) -> None:
    events = [PoisonTrigger("orders", 0, offset, f"e{offset}", "no JSON", None, None) for offset in range(36)]
    await park_events(conn, "shop/orders", 64, events)

    found = await newest_parked(conn, "shop/orders", 100)

    assert found == (36, events[-1])


async def test_a_missing_topic_does_not_stop_what_runs_and_is_read_once_it_is_there(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str
) -> None:
    async with role(postgres_url, config("no-such-topic-x", kafka_bootstrap), Shop()) as (it, board):
        await eventually(told(lambda: it.engine is not None and it.engine.ready.is_set()))
        engine = it.engine
        assert engine is not None
        await engine.start("by-hand", {"n": 1})
        assert await ended(conn, 1) == {"Completed": 1}
        await eventually(told(lambda: [p.reason for p in board.current()] == [ProblemReason.TOPIC_UNAVAILABLE]))
        assert not board.blocked


async def test_a_topic_made_anew_starts_nothing_until_a_person_accepts_it_and_does_not_stop_what_runs(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    topic = topic_factory("orders", partitions=1)
    saga = config(topic, kafka_bootstrap, businessKey="event.id")
    produce(kafka_bootstrap, topic, ("e1", "order_created", b'{"id": 1}'))
    async with role(postgres_url, saga, Shop()):
        await ended(conn, 1)
    await asyncio.to_thread(kafka.recreate_topic, kafka_bootstrap, topic, 1)
    produce(kafka_bootstrap, topic, *((f"e{n}", "order_created", b'{"id": %d}' % n) for n in range(2, 6)))

    async with role(postgres_url, saga, Shop()) as (_, board):
        await eventually(told(lambda: [p.reason for p in board.current()] == [ProblemReason.POSITION_LOST]))
        (problem,) = board.current()
        assert (problem.blocking, problem.unmet) == (False, True)
        assert await conn.fetchval("SELECT count(*) FROM marty.saga_instance") == 1
        await conn.execute(problem.message[problem.message.index("UPDATE") :])
        assert await ended(conn, 5) == {"Completed": 5}
        await eventually(told(lambda: board.current() == []))


def _position(conn: asyncpg.Connection) -> Callable[[], Any]:
    return lambda: conn.fetchval("SELECT sum(next_offset) FROM marty.kafka_position")


async def test_a_foreign_transaction_that_does_not_end_delays_its_event_and_stops_nothing(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = topic_factory("orders")
    async with role(postgres_url, config(topic, kafka_bootstrap, businessKey="event.id"), Shop()) as (it, board):
        await eventually(told(lambda: it.engine is not None and it.engine.ready.is_set()))
        engine = it.engine
        async with conn.transaction():
            await conn.execute("SELECT marty.start_saga('shop/orders', 'o1', '{}')")
            produce(kafka_bootstrap, topic, ("e1", "order_created", b'{"id": "o1"}'))
            await eventually(told(lambda: "is read again" in caplog.text))
            assert it.engine is engine
            assert board.current() == []
        await eventually(_position(conn), lambda offset: offset == 1)
        assert it.engine is engine
        assert await ended(conn, 1) == {"Completed": 1}
