"""Hostile writers: early transaction numbers, late locks, savepoints, aborts, open and prepared transactions, several keys
at once. They outlive their database."""

import asyncio
import random
import secrets
from collections.abc import Sequence
from contextlib import suppress

import asyncpg

from tests.integration.relay.setup import SCOPE, discarding_late_ones, enqueue
from tests.support.kafka import Message

KEYS = [f"key-{number:02}" for number in range(20)]
EVENTS_PER_KEY = 500
WRITERS = 8
PREPARED = "marty-test-"

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
    await asyncio.gather(
        # One of them, because the server has few places for prepared transactions.
        *(write(url, topic, random.Random(seed + number), prepares=number == 0) for number in range(WRITERS))
    )


async def write(url: str, topic: str, chance: random.Random, *, prepares: bool = False) -> None:
    """What became of a transaction whose database went away meanwhile shows in the counts."""
    left = list(KEYS)
    while left:
        with suppress(
            OSError,
            TimeoutError,
            asyncpg.PostgresConnectionError,
            asyncpg.InterfaceError,
            asyncpg.OperatorInterventionError,
            asyncpg.InternalClientError,
        ):
            conn = await asyncpg.connect(url, timeout=5)
            try:
                await _write_over(conn, topic, left, chance, prepares=prepares)
            finally:
                conn.terminate()
        await asyncio.sleep(0.05)


async def _write_over(
    conn: asyncpg.Connection, topic: str, left: list[str], chance: random.Random, *, prepares: bool
) -> None:
    """Write until nothing is left, or the connection ends."""
    while left:
        # Sorted, as an application does that locks several rows.
        keys = sorted(chance.sample(left, min(len(left), chance.choice((1, 1, 2, 3)))))
        if prepares and chance.random() < 0.3:
            full = await _in_two_phases(conn, topic, keys, chance)
        else:
            try:
                async with conn.transaction():
                    full = await transact(conn, topic, keys, chance)
            except Undone:
                continue
        left[:] = [key for key in left if key not in full]


async def _in_two_phases(conn: asyncpg.Connection, topic: str, keys: list[str], chance: random.Random) -> set[str]:
    """The transaction is prepared, others go on, and it is committed, now and then rolled back."""
    name = f"{PREPARED}{secrets.token_hex(6)}"
    await conn.execute("BEGIN")
    try:
        full = await transact(conn, topic, keys, chance)
    except Undone:
        await conn.execute("ROLLBACK")
        return set()
    await conn.execute(f"PREPARE TRANSACTION '{name}'")
    await asyncio.sleep(chance.random() * 0.02)
    if chance.random() < 0.2:
        await _end(conn, "ROLLBACK PREPARED", name)
        return set()
    await _end(conn, "COMMIT PREPARED", name)
    return full


async def _end(conn: asyncpg.Connection, how: str, name: str) -> None:
    # Perhaps `end_prepared` was first, or is at it.
    with suppress(asyncpg.UndefinedObjectError, asyncpg.ObjectNotInPrerequisiteStateError):
        await conn.execute(f"{how} '{name}'")


async def end_prepared(url: str) -> None:
    """Commit what is prepared: its writer, or the database, may have gone away meanwhile."""
    conn = await asyncpg.connect(url)
    try:
        for row in await conn.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
            await _end(conn, "COMMIT PREPARED", row["gid"])
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


async def holders(conn: asyncpg.Connection) -> dict[str, int]:
    """Pod -> lanes of the relay that it owns."""
    rows = await conn.fetch(
        "SELECT split_part(holder, '/', 1) AS pod, count(*) FROM marty.lease"
        " WHERE scope = $1 AND holder IS NOT NULL GROUP BY 1",
        SCOPE,
    )
    return {row["pod"]: row["count"] for row in rows}


async def unpublished(conn: asyncpg.Connection) -> int:
    """Events that are not marked; negative when some were marked twice."""
    return int(
        await conn.fetchval(
            "SELECT (SELECT count(*) FROM marty.outbox) - (SELECT sum(published_total) FROM marty.outbox_position)"
        )
    )


def check_all_published(messages: Sequence[Message], *, repeated_at_most: int) -> int:
    """Every event of `write_all` is there, in order for consumers that discard late ones; how many came again."""
    assert discarding_late_ones(messages) == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}
    repeated = len(messages) - len(KEYS) * EVENTS_PER_KEY
    assert 0 <= repeated <= repeated_at_most
    assert len({message.headers["ce_id"] for message in messages}) == len(KEYS) * EVENTS_PER_KEY
    return repeated
