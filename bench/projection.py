"""Projection floor: >= 20 k events/s from Kafka to the read model, 100 k keys uniform, 8 partitions, one secondary index.

Runs `marty run projection` as the pod does, against the local servers, and verifies every row against a recomputation.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from confluent_kafka import Producer

from marty_msf.core import worker_config
from marty_msf.core.resources.projection import ProjectionSpec
from marty_msf.core.worker_config import ProjectionConfig
from tests.support import kafka, postgres
from tests.support.processes import Process, free_port, running
from tests.support.servers import server

KEYS = 100_000
PARTITIONS = 8
WARM_UP = 5_000
FLOOR = 20_000
LEAST_SECONDS = 30
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


@dataclass(frozen=True, slots=True)
class Mark:
    """The state of everything at one moment."""

    at: float
    passed: int
    commits: int
    wal_bytes: int
    worker_cpu_seconds: float


async def mark(conn: asyncpg.Connection, pid: int) -> Mark:
    row = await conn.fetchrow(
        "SELECT (SELECT coalesce(sum(next_offset), 0) FROM marty.kafka_position WHERE scope = $1)::bigint AS passed,"
        " (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,"
        " (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS wal",
        SCOPE,
    )
    return Mark(time.monotonic(), row["passed"], row["commits"], row["wal"], cpu_seconds(pid))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def reached(conn: asyncpg.Connection, worker: Process, target: int, every: float) -> Mark:
    """Wait until `target` events are passed; says how far it is every five seconds."""
    told = time.monotonic()
    while True:
        if worker.returncode is not None:
            raise RuntimeError(f"the worker ended:\n{worker.output()}")
        now = await mark(conn, worker.pid)
        if now.passed >= target:
            return now
        if now.at - told > 5:
            told = now.at
            print(f"  {now.passed:>9,} events", flush=True)
        await asyncio.sleep(every)


async def verify(conn: asyncpg.Connection, expected: dict[str, Row], count: int) -> None:
    """Every row, and every event counted once. Raises ValueError: the run is void."""
    rows = await conn.fetch("SELECT order_id, customer_id, status, total, version FROM public.order_view")
    found = {row[0]: (row[1], row[2], row[3], row[4]) for row in rows}
    if found != expected:
        wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        raise ValueError(
            f"{len(wrong)} rows differ, for instance {wrong[0]}: {expected.get(wrong[0])} {found.get(wrong[0])}"
        )
    processed, duplicates = await conn.fetchrow(
        "SELECT sum(processed)::bigint, sum(duplicates)::bigint FROM marty.projection_counter WHERE scope = $1", SCOPE
    )
    if (processed, duplicates) != (count, 0):
        raise ValueError(f"{processed} events processed and {duplicates} duplicates, {count} and 0 were published")


async def bench(count: int, batch_size: int) -> int:
    bootstrap, topic = server("MARTY_TEST_KAFKA"), f"bench-projection-{os.getpid()}"
    kafka.create_topic(bootstrap, topic, PARTITIONS)
    try:
        print(f"publishing {count:,} events over {KEYS:,} keys to {PARTITIONS} partitions", flush=True)
        expected = await asyncio.to_thread(publish, bootstrap, topic, count)
        async with postgres.database(await postgres.ensure_template()) as url:
            conn = await asyncpg.connect(url)
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory) / "config.json"
                file.write_text(config(bootstrap, topic, batch_size))
                environment = {
                    "MARTY_DATABASE_URL": url,
                    "MARTY_TOKEN": "a-token-for-the-bench-only",
                    "MARTY_HTTP_HOST": "127.0.0.1",
                    "MARTY_HTTP_PORT": str(free_port()),
                }
                arguments = ["-m", "marty_msf.cli", "run", "projection", "--config", str(file)]
                async with running(arguments, Path(directory) / "worker.log", environment) as worker:
                    start = await reached(conn, worker, WARM_UP, every=0.01)
                    end = await reached(conn, worker, count, every=0.1)
            await verify(conn, expected, count)
            await conn.close()
    finally:
        kafka.delete_topics(bootstrap, [topic])
    return report(start, end, count, batch_size)


def report(start: Mark, end: Mark, count: int, batch_size: int) -> int:
    events, seconds = end.passed - start.passed, end.at - start.at
    rate, commits = events / seconds, end.commits - start.commits
    result = {
        "name": "projection",
        "events": events,
        "seconds": round(seconds, 2),
        "events_per_second": round(rate),
        "batch_size": batch_size,
        "commits": commits,
        "wal_bytes": end.wal_bytes - start.wal_bytes,
        "wal_bytes_per_event": round((end.wal_bytes - start.wal_bytes) / events),
        "worker_cpu_us_per_event": round((end.worker_cpu_seconds - start.worker_cpu_seconds) / events * 1e6, 1),
        "verified": True,
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "projection.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    enough = seconds >= LEAST_SECONDS
    if not enough:
        print(f"only {seconds:.1f} s measured: use --events {int(count * 1.2 * LEAST_SECONDS / seconds)}")
    met = rate >= FLOOR and enough
    print(f"FLOOR projection: {rate:,.0f} events/s of {FLOOR:,}: {'met' if met else 'short'}")
    return 0 if met else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_500_000)
    parser.add_argument("--batch-size", type=int, default=2000)
    arguments = parser.parse_args()
    return asyncio.run(bench(arguments.events, arguments.batch_size))


if __name__ == "__main__":
    sys.exit(main())
