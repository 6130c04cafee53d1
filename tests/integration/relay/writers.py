"""Hostile writers: early transaction numbers, late locks, savepoints, aborts, open transactions, several keys at once."""

import asyncio
import random

import asyncpg

from tests.integration.relay.setup import enqueue

KEYS = [f"key-{number:02}" for number in range(20)]
EVENTS_PER_KEY = 500
WRITERS = 8

TABLES = """
CREATE TABLE public.aggregate (id text PRIMARY KEY, n integer NOT NULL DEFAULT 0);
CREATE TABLE public.other (id bigint GENERATED ALWAYS AS IDENTITY);
"""

#: Locks the aggregate and counts; no row when it has all of its events.
COUNT = "UPDATE public.aggregate SET n = n + 1 WHERE id = $1 AND n < $2 RETURNING n - 1"


class Undone(Exception):
    """The transaction changes its mind."""


async def prepare(conn: asyncpg.Connection) -> None:
    await conn.execute(TABLES)
    await conn.executemany("INSERT INTO public.aggregate (id) VALUES ($1)", [(key,) for key in KEYS])


async def write_all(url: str, topic: str, seed: int) -> None:
    """WRITERS sessions write until every key has EVENTS_PER_KEY events."""
    await asyncio.gather(*(write(url, topic, random.Random(seed + number)) for number in range(WRITERS)))


async def write(url: str, topic: str, chance: random.Random) -> None:
    conn = await asyncpg.connect(url)
    try:
        left = list(KEYS)
        while left:
            # Sorted, as an application does that locks several rows.
            keys = sorted(chance.sample(left, min(len(left), chance.choice((1, 1, 2, 3)))))
            try:
                async with conn.transaction():
                    full = await transact(conn, topic, keys, chance)
            except Undone:
                continue
            left = [key for key in left if key not in full]
    finally:
        await conn.close()


async def transact(conn: asyncpg.Connection, topic: str, keys: list[str], chance: random.Random) -> set[str]:
    """One transaction; returns the keys that have all of their events."""
    full = set()
    if chance.random() < 0.4:
        # An early xid: whoever comes later may lock, and commit, first.
        await conn.execute("INSERT INTO public.other DEFAULT VALUES")
        await asyncio.sleep(chance.random() * 0.004)
    for key in keys:
        if chance.random() < 0.1:
            try:
                async with conn.transaction():
                    await count_and_enqueue(conn, topic, key)
                    raise Undone
            except Undone:
                pass
        if not await count_and_enqueue(conn, topic, key):
            full.add(key)
    if chance.random() < 0.05:
        await asyncio.sleep(chance.random() * 0.05)
    if chance.random() < 0.1:
        raise Undone
    return full


async def count_and_enqueue(conn: asyncpg.Connection, topic: str, key: str) -> bool:
    number = await conn.fetchval(COUNT, key, EVENTS_PER_KEY)
    if number is None:
        return False
    await enqueue(conn, topic, key, number)
    return True
