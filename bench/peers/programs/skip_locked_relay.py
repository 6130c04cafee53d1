"""The outbox relay that most teams write first: claim rows with SKIP LOCKED, send them, delete them. One process keeps the order."""

import asyncio
import os

import asyncpg
from aiokafka import AIOKafkaProducer

CLAIM = "SELECT id, aggregate, payload FROM outbox ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED"


async def main() -> None:
    producer = AIOKafkaProducer(bootstrap_servers=os.environ["KAFKA"], acks="all", enable_idempotence=True)
    await producer.start()
    conn = await asyncpg.connect(os.environ["DATABASE_URL"])
    while True:
        async with conn.transaction():
            rows = await conn.fetch(CLAIM)
            sent = [
                await producer.send(os.environ["TOPIC"], row["payload"].encode(), key=row["aggregate"].encode())
                for row in rows
            ]
            await asyncio.gather(*sent)
            await conn.execute("DELETE FROM outbox WHERE id = ANY($1)", [row["id"] for row in rows])
        if not rows:
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main())
