"""How fast a projection reads Kafka into its table: the real `marty run projection` process, from backlog to lag 0.

Events of 100 k keys, uniform, in 8 partitions; one secondary index; the first 5,000 events are warm-up. Afterwards every
row is compared with a recomputation in Python, and every event must have been counted once.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import asyncpg
from confluent_kafka import Producer

from bench.harness import WARM_UP_ITEMS, Backlog, Result, fresh_database, report
from marty_msf.core import worker_config
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.worker_config import ProjectionConfig
from tests.support.kafka import create_topic, delete_topics
from tests.support.servers import server

FLOOR = 20_000
KEYS = 100_000
PARTITIONS = 8
SEED = 20260131
STATUSES = ("open", "packed", "sent", "returned")
PADDING = "x" * 180
SCOPE = "projection:bench/orders"

Row = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class Event:
    order: int
    version: int
    type: str
    status: str
    total: int

    def payload(self) -> bytes:
        return json.dumps(
            {
                "order_id": f"order-{self.order:06}",
                "customer_id": f"customer-{self.order % 9973:05}",
                "status": self.status,
                "total": self.total,
                "version": self.version,
                "note": PADDING,
                "lines": [{"sku": f"sku-{self.total % 977}", "count": self.total % 9}],
            }
        ).encode()


def generated(count: int) -> Iterator[Event]:
    """Always the same events: seven of ten write the whole row, the others update its status."""
    draw = random.Random(SEED)
    for version in range(1, count + 1):
        kind = "order_changed" if draw.random() < 0.7 else "order_moved"
        yield Event(draw.randrange(KEYS), version, kind, draw.choice(STATUSES), draw.randrange(1, 100_000))


def publish(bootstrap: str, topic: str, count: int) -> dict[str, Row]:
    """Publish the events with a client that is not ours; returns the rows they must give."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 20,
            "queue.buffering.max.messages": 500_000,
        }
    )
    expected: dict[str, Row] = {}
    for event in generated(count):
        key = f"order-{event.order:06}"
        before = expected.get(key)
        if event.type == "order_changed":
            expected[key] = (f"customer-{event.order % 9973:05}", event.status, event.total, event.version)
        elif before:
            expected[key] = (before[0], event.status, before[2], event.version)
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", f"{event.version:032x}".encode()),
            ("ce_type", event.type.encode()),
            ("ce_source", b"/marty/bench/order"),
            ("ce_subject", key.encode()),
            ("ce_time", b"2026-01-31T12:00:00+00:00"),
            ("ce_martysequence", str(event.version).encode()),
            ("content-type", b"application/json"),
        ]
        while True:
            try:
                producer.produce(topic, key=key, value=event.payload(), headers=headers)  # type: ignore[arg-type]
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120):
        raise RuntimeError("Kafka did not take all events")
    return expected


def config(bootstrap: str, topic: str, batch_size: int) -> str:
    spec = ProjectionSpec.model_validate(
        {
            "database": {"urlSecretRef": {"name": "unused"}},
            "kafka": {"bootstrapServers": bootstrap},
            "source": {"kafka": {"topics": [topic]}},
            "readModel": {
                "table": "order_view",
                "columns": {
                    "order_id": "text",
                    "customer_id": "text",
                    "status": "text",
                    "total": "bigint",
                    "version": "bigint",
                },
                "key": ["order_id"],
                "indexes": [["customer_id"]],
            },
            "events": {
                "order_changed": {
                    "upsert": {
                        "customer_id": "event.customer_id",
                        "status": "event.status",
                        "total": "event.total",
                        "version": "event.version",
                    }
                },
                "order_moved": {"update": {"status": "event.status", "version": "event.version"}},
            },
            "batchSize": batch_size,
        }
    )
    return worker_config.render(ProjectionConfig(namespace="bench", name="orders", spec=spec))


async def passed(conn: asyncpg.Connection) -> int:
    """Events whose position is behind them."""
    return int(
        await conn.fetchval(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM marty.kafka_position WHERE scope = $1", SCOPE
        )
    )


async def verify(url: str, expected: Mapping[str, Row], count: int) -> tuple[dict[str, str], list[str]]:
    """Every row against the recomputation, every event counted once; returns what was found and what was wrong."""
    conn = await asyncpg.connect(url)
    try:
        rows = await conn.fetch("SELECT order_id, customer_id, status, total, version FROM public.order_view")
        processed, duplicates = await conn.fetchrow(
            "SELECT sum(processed)::bigint, sum(duplicates)::bigint FROM marty.projection_counter WHERE scope = $1",
            SCOPE,
        )
    finally:
        await conn.close()
    table = {row[0]: (row[1], row[2], row[3], row[4]) for row in rows}
    wrong = sorted(key for key in expected.keys() | table.keys() if expected.get(key) != table.get(key))
    found = {
        "rows as recomputed": f"{len(expected) - len(wrong)} of {len(expected)}",
        "events counted": f"{processed} of {count}, {duplicates} duplicates",
    }
    failures = (
        [f"{len(wrong)} rows differ: {wrong[0]} is {table.get(wrong[0])}, not {expected.get(wrong[0])}"]
        if wrong
        else []
    )
    if (processed, duplicates) != (count, 0):
        failures.append(f"{processed} events and {duplicates} duplicates were counted, {count} and 0 were published")
    return found, failures


async def run(events: int, batch_size: int) -> int:
    bootstrap = server("MARTY_TEST_KAFKA")
    topic = f"bench-projection-{time.time_ns()}"
    create_topic(bootstrap, topic, PARTITIONS)
    total = events + WARM_UP_ITEMS
    try:
        print(f"publishing {total} events of {KEYS} keys", flush=True)
        expected = await asyncio.to_thread(publish, bootstrap, topic, total)
        async with fresh_database() as url:
            print("projecting", flush=True)
            cost = await Backlog("projection", config(bootstrap, topic, batch_size), total, passed).drain(url)
            found, failures = await verify(url, expected, total)
    finally:
        delete_topics(bootstrap, [topic])
    return report(
        Result(
            name="projection",
            unit="events/s projected",
            floor=FLOOR,
            cost=cost,
            settings={"keys": KEYS, "partitions": PARTITIONS, "batch_size": batch_size, "warm_up": WARM_UP_ITEMS},
            verified=found,
            failures=tuple(failures),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--batch-size", type=int, default=2000)
    given = parser.parse_args()
    return asyncio.run(run(given.events, given.batch_size))


if __name__ == "__main__":
    sys.exit(main())
