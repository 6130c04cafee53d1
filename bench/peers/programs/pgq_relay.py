"""A consumer of a PgQ queue that sends every event to Kafka, in the queue's order, whole batches at a time.

It is also the queue's ticker, so that no daemon of PgQ's is needed: a tick per pass while there is nothing to do.
"""

import asyncio
import os
from collections import defaultdict

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner

QUEUE, CONSUMER = "outbox", "relay"
TOPIC = os.environ.get("TOPIC", "")


async def main() -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA"], acks="all", enable_idempotence=True, max_batch_size=524_288
    )
    await producer.start()
    conn = await asyncpg.connect(os.environ["DATABASE_URL"])
    partitions = sorted(await producer.partitions_for(TOPIC))
    partition_of = DefaultPartitioner()
    while True:
        batch = await conn.fetchval("SELECT pgq.next_batch($1, $2)", QUEUE, CONSUMER)
        if batch is None:
            if await conn.fetchval("SELECT pgq.ticker($1)", QUEUE) is None:
                await asyncio.sleep(0.002)
            continue
        events = await conn.fetch("SELECT ev_data, ev_extra1 FROM pgq.get_batch_events($1)", batch)
        lots = defaultdict(list)
        for payload, aggregate in events:
            key = aggregate.encode()
            lots[partition_of(key, partitions, partitions)].append((key, payload.encode()))
        await asyncio.gather(*(send(producer, partition, lot) for partition, lot in lots.items()))
        await conn.execute("SELECT pgq.finish_batch($1)", batch)


async def send(producer: AIOKafkaProducer, partition: int, lot: list[tuple[bytes, bytes]]) -> None:
    """All of one partition, in order."""
    sent, batch = [], producer.create_batch()
    for key, value in lot:
        if batch.append(key=key, value=value, timestamp=None) is None:
            sent.append(await producer.send_batch(batch, TOPIC, partition=partition))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    sent.append(await producer.send_batch(batch, TOPIC, partition=partition))
    await asyncio.gather(*sent)


if __name__ == "__main__":
    asyncio.run(main())
