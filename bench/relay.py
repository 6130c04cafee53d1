"""How fast a relay drains an outbox: the real `marty run relay` process, from backlog to acknowledged and marked.

Rows are preloaded by writers that share no aggregate; the first 5,000 events are warm-up. Afterwards every event is read
from Kafka by librdkafka: exact count, no duplicate, order per aggregate.
"""

import argparse
import asyncio
import json
import sys
import time

import asyncpg
from confluent_kafka import Consumer, KafkaError, TopicPartition

from bench.harness import WARM_UP_ITEMS, Backlog, Result, fresh_database, report
from tests.support.kafka import create_topic, delete_topics
from tests.support.servers import server

FLOOR = 50_000
AGGREGATES = 10_000
PAYLOAD_BYTES = 400
PARTITIONS = 8
WRITERS = 2
ROWS_PER_TRANSACTION = 2_000

#: What marty.enqueue_event_bytes inserts, without its checks: loading is not what is measured.
LOAD = """
INSERT INTO marty.outbox (lane, topic, event_type, aggregate_type, aggregate_id, payload)
SELECT marty.lane_of(id), $1, 'order_created', 'order', id, convert_to(rpad(
           '{"order":' || i || ',"note":"', $5::integer - 2, md5(i::text) || md5((i + 1)::text)) || '"}', 'UTF8')
  FROM generate_series($2::bigint, $3::bigint) AS i,
       LATERAL (SELECT 'order-' || ((i % ($6::bigint / $7::bigint)) * $7::bigint + $4::bigint) AS id) AS aggregate
"""


async def load(url: str, topic: str, events: int, writer: int) -> None:
    """One writer's share of the events, in transactions of ROWS_PER_TRANSACTION."""
    conn = await asyncpg.connect(url)
    try:
        share = events // WRITERS
        for first in range(0, share, ROWS_PER_TRANSACTION):
            last = min(first + ROWS_PER_TRANSACTION, share) - 1
            await conn.execute(LOAD, topic, first, last, writer, PAYLOAD_BYTES, AGGREGATES, WRITERS)
    finally:
        await conn.close()


async def vacuum(url: str) -> None:
    """What autovacuum does long before a real outbox is this large."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("VACUUM ANALYZE marty.outbox")
    finally:
        await conn.close()


async def published(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("SELECT coalesce(sum(published_total), 0)::bigint FROM marty.outbox_position"))


def verify(bootstrap: str, topic: str, expected: int) -> tuple[dict[str, str], list[str]]:
    """Read everything back; returns what was found and what was wrong."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"verify-{topic}",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "queued.max.messages.kbytes": 65536,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    last: dict[bytes, int] = {}
    count = late = ended = 0
    sequences: set[int] = set()
    try:
        while ended < PARTITIONS:
            for message in consumer.consume(10_000, timeout=0.05):
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise RuntimeError(str(error))
                    ended += 1
                    continue
                key = message.key() or b""
                sequence = int(dict(message.headers() or [])["ce_martysequence"] or b"0")
                late += sequence <= last.get(key, 0)
                last[key] = sequence
                sequences.add(sequence)
                count += 1
    finally:
        consumer.close()
    found = {
        "events in Kafka": f"{count} of {expected}",
        "distinct events": f"{len(sequences)} of {expected}",
        "events behind a later one of their aggregate": f"{late} of {count}",
        "aggregates": str(len(last)),
    }
    failures = [
        name
        for name, wrong in (
            (f"{count} events in Kafka, {expected} were enqueued", count != expected),
            (f"{len(sequences)} distinct events, {expected} were enqueued", len(sequences) != expected),
            (f"{late} events out of order", late > 0),
            (f"{len(last)} aggregates instead of {AGGREGATES}", len(last) != AGGREGATES),
        )
        if wrong
    ]
    return found, failures


async def run(events: int, batch_size: int, prefetch: int) -> int:
    bootstrap = server("MARTY_TEST_KAFKA")
    topic = f"bench-relay-{time.time_ns()}"
    create_topic(bootstrap, topic, PARTITIONS)
    total = events + WARM_UP_ITEMS
    total -= total % WRITERS
    try:
        async with fresh_database() as url:
            print(f"loading {total} events of {PAYLOAD_BYTES} bytes", flush=True)
            began = time.perf_counter()
            await asyncio.gather(*(load(url, topic, total, writer) for writer in range(WRITERS)))
            print(
                f"loaded in {time.perf_counter() - began:.1f} s ({total / (time.perf_counter() - began):,.0f} a second)"
            )
            await vacuum(url)
            cost = await Backlog("relay", config(bootstrap, batch_size, prefetch), total, published).drain(url)
        print("verifying", flush=True)
        found, failures = verify(bootstrap, topic, total)
    finally:
        delete_topics(bootstrap, [topic])
    return report(
        Result(
            name="relay",
            unit="events/s drained",
            floor=FLOOR,
            cost=cost,
            settings={"aggregates": AGGREGATES, "payload_bytes": PAYLOAD_BYTES, "partitions": PARTITIONS,
                      "batch_size": batch_size, "prefetch": prefetch, "warm_up": WARM_UP_ITEMS},
            verified=found,
            failures=tuple(failures),
        )
    )  # fmt: skip


def config(bootstrap: str, batch_size: int, prefetch: int) -> str:
    return json.dumps(
        {
            "role": "relay", "namespace": "bench", "name": "relay",
            "spec": {
                "database": {"urlSecretRef": {"name": "bench"}},
                "kafka": {"bootstrapServers": bootstrap},
                "batchSize": batch_size,
                "prefetchCount": prefetch,
            },
        }
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--prefetch", type=int, default=5000)
    given = parser.parse_args()
    return asyncio.run(run(given.events, given.batch_size, given.prefetch))


if __name__ == "__main__":
    sys.exit(main())
