"""Orders as events, published by a client that is not ours, and the projection that makes `order_summary` of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from marty_msf.core.resources.kinds import Role
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.worker_config import SECRETS_DIRECTORY, ProjectionConfig
from marty_msf.store import positions, read_model
from marty_msf.store.database import open_pool
from marty_msf.store.read_model import Table
from marty_msf.worker.board import Board
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.kafka_input import KafkaInput
from marty_msf.worker.projection.projector import Pass, Projector
from marty_msf.worker.role import Context

RESOURCE = "shop/orders"
BATCH = 8
SCOPE = f"projection:{RESOURCE}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an order; `sequence=None` comes from a producer that is no relay of ours."""

    key: str
    type: str
    payload: Any
    sequence: int | None = None
    source: str = "/marty/shop/order"

    def headers(self) -> list[tuple[str, str | bytes | None]]:
        headers: list[tuple[str, str | bytes | None]] = [
            ("ce_specversion", "1.0"),
            ("ce_id", f"{self.key}-{self.sequence}"),
            ("ce_type", self.type),
            ("ce_source", self.source),
        ]
        if self.sequence is not None:
            headers.append(("ce_martysequence", str(self.sequence)))
        return headers


def publish(
    bootstrap: str, topic: str, events: Iterable[Event], partition: int | None = None, compression: str = "none"
) -> None:
    """Publish in order, by key unless a partition is named, and wait for every acknowledgement."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "compression.type": compression,
        }
    )
    failures: list[object] = []
    for event in events:
        value = event.payload if isinstance(event.payload, bytes) else json.dumps(event.payload).encode()
        producer.produce(
            topic,
            key=event.key,
            value=value,
            headers=event.headers(),
            partition=-1 if partition is None else partition,  # librdkafka's name for "by the key"
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not failures


def spec(bootstrap: str, *topics: str, batch_size: int = 2000, **changes: Any) -> ProjectionSpec:
    """The shop's projection; `changes` replace fields of the spec."""
    fields: dict[str, Any] = {
        "database": {"urlSecretRef": {"name": "unused"}},
        "kafka": {"bootstrapServers": bootstrap},
        "source": {"kafka": {"topics": list(topics)}},
        "readModel": {
            "table": "order_summary",
            "columns": {"order_id": "text", "customer_id": "text", "status": "text", "total": "bigint"},
            "key": ["order_id"],
            "indexes": [["customer_id"]],
        },
        "events": {
            "order_created": {
                "upsert": {"customer_id": "event.customer_id", "total": "event.total", "status": "'created'"}
            },
            "order_confirmed": {"update": {"status": "'confirmed'"}},
            "order_deleted": {"delete": True},
        },
        "batchSize": batch_size,
    }
    return ProjectionSpec.model_validate(fields | changes)


def created(number: int, sequence: int | None = None, **fields: Any) -> Event:
    key = f"o-{number}"
    payload = {"order_id": key, "customer_id": f"c-{number % 7}", "total": number, **fields}
    return Event(key, "order_created", payload, sequence)


def confirmed(number: int, sequence: int | None = None) -> Event:
    return Event(f"o-{number}", "order_confirmed", {"order_id": f"o-{number}"}, sequence)


def deleted(number: int, sequence: int | None = None) -> Event:
    return Event(f"o-{number}", "order_deleted", {"order_id": f"o-{number}"}, sequence)


def config(value: ProjectionSpec) -> ProjectionConfig:
    namespace, name = RESOURCE.split("/")
    return ProjectionConfig(namespace=namespace, name=name, spec=value)


@dataclass(frozen=True, slots=True)
class Running:
    """A projector with its input, started and stopped by `projecting`."""

    projector: Projector
    kafka: KafkaInput
    board: Board
    pool: asyncpg.Pool
    stop: asyncio.Event


def context(pool: asyncpg.Pool, holder: str) -> Context:
    return Context(pool, holder, RESOURCE, Board(), CollectorRegistry())


async def prepare(pool: asyncpg.Pool, value: ProjectionSpec) -> None:
    """As the role does before it projects."""
    async with pool.acquire() as conn, conn.transaction():
        fresh = not await positions.anything_applied(conn, SCOPE)
        await read_model.prepare(conn, Table.of(value.read_model), RESOURCE, fresh=fresh)


@asynccontextmanager
async def projecting(
    url: str,
    value: ProjectionSpec,
    holder: str = "pod-1/a",
    *,
    drive: bool = True,
    secrets: Path = Path(SECRETS_DIRECTORY),
) -> AsyncIterator[Running]:
    """A worker in this process; `drive=False` leaves the passes to the test. Ends gracefully."""
    pool = await open_pool(url, 6, holder)
    try:
        await prepare(pool, value)
        own = context(pool, holder)
        kafka = KafkaInput(
            own,
            role=Role.PROJECTION.value,
            connection=KafkaConnection.of(value.kafka, secrets),
            topics=value.source.kafka.topics,
        )
        projector = Projector(pool, kafka, value, SCOPE)
        stop = asyncio.Event()
        passes: list[Pass] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kafka.run(stop))
            if drive:
                tasks.create_task(projector.run(stop, passes.append))
            try:
                yield Running(projector, kafka, own.board, pool, stop)
            finally:
                stop.set()
                if not drive:
                    await projector.finish()
    finally:
        await pool.close()


async def rows(conn: asyncpg.Connection) -> Mapping[str, tuple[str | None, str | None, int | None]]:
    """The read model: order id to (customer, status, total)."""
    found = await conn.fetch("SELECT order_id, customer_id, status, total FROM public.order_summary")
    return {row["order_id"]: (row["customer_id"], row["status"], row["total"]) for row in found}


async def applied(conn: asyncpg.Connection) -> int:
    """Sum of all stored positions: every event published before has been passed once it reaches their number."""
    return int(
        await conn.fetchval("SELECT coalesce(sum(next_offset), 0) FROM marty.kafka_position WHERE scope = $1", SCOPE)
    )


async def totals(conn: asyncpg.Connection) -> tuple[int, int]:
    row = await conn.fetchrow(
        "SELECT coalesce(sum(processed), 0)::bigint, coalesce(sum(duplicates), 0)::bigint"
        " FROM marty.projection_counter WHERE scope = $1",
        SCOPE,
    )
    return row[0], row[1]
