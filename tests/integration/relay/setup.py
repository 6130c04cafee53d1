"""What the relay's tests share: a relay made by hand, and events with a counter per aggregate."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from marty_msf.core.lanes import LANES
from marty_msf.core.resources.outbox_relay import OutboxRelaySpec
from marty_msf.store import leases, outbox_position
from marty_msf.store.database import open_pool
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.relay.held_sender import Deliver, HeldSender
from marty_msf.worker.relay.pipeline import Relay
from marty_msf.worker.relay.rules import Rules, rules_of
from marty_msf.worker.relay.shared import Shared
from tests.support.kafka import Message

RESOURCE = "test/relay"
SCOPE = f"relay:{RESOURCE}"


def relay_config(path: Path, bootstrap: str, name: str = "relay", **spec: Any) -> Path:
    """A worker configuration as the operator would render it."""
    path.write_text(
        json.dumps(
            {
                "role": "relay",
                "namespace": "test",
                "name": name,
                "spec": {
                    "database": {"urlSecretRef": {"name": "db"}},
                    "kafka": {"bootstrapServers": bootstrap},
                    "pollingIntervalMs": 20,
                    "retry": {"backoffMs": 50, "maxBackoffMs": 500},
                    **spec,
                },
            }
        )
    )
    return path


SPEC = {"database": {"urlSecretRef": {"name": "db"}}, "kafka": {"bootstrapServers": "kafka:9092"}}


def make_rules(**spec: Any) -> Rules:
    """The rules of a spec with these fields; waits are short, batches have their size."""
    fields = {"enableBatchOptimization": False, "retry": {"backoffMs": 50, "maxBackoffMs": 500}, **spec}
    return rules_of(OutboxRelaySpec.model_validate({**SPEC, **fields}))


def make_relay(
    pool: Any,
    producer: Any,
    holder: str,
    *,
    batch_size: int = 500,
    prefetch: int = 5000,
    limits: dict[str, int] | None = None,
    shared: Shared | None = None,
    **spec: Any,
) -> Relay:
    """A relay over a pool and a producer, or over wrappers that record what it does with them."""
    return Relay(
        pool,
        producer,
        scope=SCOPE,
        holder=holder,
        resource=RESOURCE,
        rules=make_rules(batchSize=batch_size, prefetchCount=prefetch, **spec),
        shared=shared or Shared("test"),
        limits={} if limits is None else limits,
    )


@asynccontextmanager
async def held_sender(
    pool: Any,
    bootstrap: str,
    holder: str,
    shared: Shared,
    topic: str | None = None,
    deliver: Deliver | None = None,
    **spec: Any,
) -> AsyncIterator[HeldSender]:
    """The sender of held events that belongs to a relay with this `shared`."""
    sender = HeldSender(
        pool,
        lambda: KafkaProducer(KafkaConnection(bootstrap), {}),
        scope=SCOPE,
        holder=holder,
        resource=RESOURCE,
        rules=make_rules(**spec),
        shared=shared,
        dead_letter_topic=topic,
        deliver=deliver,
    )
    try:
        yield sender
    finally:
        await sender.stop()


async def take_lanes(pool: asyncpg.Pool, relay: Relay, holder: str, *, ttl_seconds: float = 60) -> Mapping[int, int]:
    """Own the outbox and claim lanes once, as LaneOwner does again and again."""
    async with pool.acquire() as conn:
        await outbox_position.own(conn, RESOURCE)
        held = (await leases.claim(conn, SCOPE, holder, range(LANES), ttl_seconds)).held
    await relay.gained(held)
    return held


async def drain(relay: Relay) -> int:
    """Passes until there is nothing to do; returns the number of events published."""
    published = 0
    while True:
        done = await relay.run_once()
        published += done.published
        if done.idle:
            return published


@asynccontextmanager
async def pool_and_producer(url: str, bootstrap: str) -> AsyncIterator[tuple[asyncpg.Pool, KafkaProducer]]:
    """Started, and closed at the end."""
    pool = await open_pool(url, 4, "test")
    producer = KafkaProducer(KafkaConnection(bootstrap), {})
    await producer.start()
    try:
        yield pool, producer
    finally:
        await producer.stop()
        await pool.close()


async def enqueue(conn: asyncpg.Connection, topic: str, aggregate: str, number: int, **more: Any) -> None:
    """Event number n of an aggregate."""
    await conn.execute(
        "SELECT marty.enqueue_event($1, 'counted', $2::jsonb, $3, 'thing')",
        topic,
        json.dumps({"n": number, **more}),
        aggregate,
    )


def numbers_by_key(messages: Sequence[Message]) -> dict[str, list[int]]:
    """Per aggregate the numbers in the order of the topic, duplicates included."""
    found: dict[str, list[int]] = {}
    for message in messages:
        assert message.key is not None
        assert message.value is not None
        found.setdefault(message.key.decode(), []).append(json.loads(message.value)["n"])
    return found


def discarding_late_ones(messages: Sequence[Message]) -> dict[str, list[int]]:
    """As a consumer sees it that discards by (key, ce_martysequence)."""
    highest: dict[bytes | None, int] = {}
    kept = []
    for message in messages:
        sequence = int(message.headers["ce_martysequence"])
        if sequence > highest.get(message.key, 0):
            highest[message.key] = sequence
            kept.append(message)
    return numbers_by_key(kept)
