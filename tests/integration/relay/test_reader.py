"""The connection a relay reads with: planned once whatever the outbox keeps, replaced after a failure, lent to nobody."""

import asyncio

import asyncpg
import pytest

from marty_msf.core.lanes import LANES
from marty_msf.core.windows import Position, Snapshot, closed
from marty_msf.store.database import open_pool
from marty_msf.worker.relay.reading import Reader, read

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(60)]

FILL = "SELECT count(marty.enqueue_event('t', 'e', '{}', 'a-' || i)) FROM generate_series(1, $1) AS i"
#: Of the one statement that reads a live stream.
PLANS = """
SELECT generic_plans AS once, custom_plans AS each FROM pg_prepared_statements
 WHERE statement LIKE '%FROM marty.outbox%ORDER BY xid%' AND statement NOT LIKE '%pg_prepared%'
"""
MODE = "SHOW plan_cache_mode"
READS = 20


async def at_the_end(conn: asyncpg.Connection) -> dict[int, Position]:
    """All lanes behind what is there."""
    end = closed(Snapshot.parse(await conn.fetchval("SELECT pg_current_snapshot()::text")))
    return dict.fromkeys(range(LANES), end)


async def test_reads_beside_many_kept_events_are_planned_once(postgres_url: str) -> None:
    pool = await open_pool(postgres_url, 4, "test")
    reader = Reader(pool)
    async with pool.acquire() as conn:
        await conn.fetchval(FILL, 30_000)
        await conn.execute("ANALYZE marty.outbox")
        lanes = await at_the_end(conn)
    found: list[asyncpg.Record] = []
    for _ in range(READS):
        async with pool.acquire() as conn:
            await conn.fetchval(FILL, 1)
        async with reader.connection() as conn:
            reading = await read(conn, lanes, 100)
        lanes |= reading.after
        found += reading.rows
    async with reader.connection() as conn:
        plans = await conn.fetchrow(PLANS)
    await reader.close()
    await pool.close()
    assert len(found) == READS
    assert (plans["once"], plans["each"]) == (READS, 0)


async def test_a_cut_off_read_leaves_a_new_connection_to_the_next_one(postgres_url: str) -> None:
    pool = await open_pool(postgres_url, 4, "test")
    reader = Reader(pool)

    async def reads_for_ever() -> None:
        async with reader.connection() as conn:
            await conn.execute("SELECT pg_sleep(3600)")

    async with reader.connection() as conn:
        before = conn.get_server_pid()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reads_for_ever(), 0.05)
    async with reader.connection() as conn:
        assert conn.get_server_pid() != before
        assert await conn.fetchval(MODE) == "force_generic_plan"
    async with reader.connection() as again:
        assert again.get_server_pid() == conn.get_server_pid()
    # Closing a pool waits for what was not given back to it.
    await reader.close()
    async with asyncio.timeout(5):
        await pool.close()


async def test_nobody_else_gets_its_way_of_planning(postgres_url: str) -> None:
    pool = await open_pool(postgres_url, 4, "test")
    reader = Reader(pool)
    async with reader.connection() as conn:
        assert await conn.fetchval(MODE) == "force_generic_plan"
    await reader.close()
    for _ in range(4):
        async with pool.acquire() as conn:
            assert await conn.fetchval(MODE) == "auto"
    await pool.close()


async def test_a_small_pool_has_no_connection_to_spare(postgres_url: str) -> None:
    pool = await open_pool(postgres_url, 2, "test")
    reader = Reader(pool)
    async with reader.connection() as conn:
        assert await conn.fetchval(MODE) == "auto"
    assert pool.get_idle_size() == pool.get_size() == 1
    await reader.close()
    await pool.close()


async def test_the_end_of_its_pool_is_no_error_of_its_own(postgres_url: str) -> None:
    """Naive: it hides what the pool was closed for."""
    pool = await open_pool(postgres_url, 4, "test")
    reader = Reader(pool)
    async with reader.connection() as conn:
        assert await conn.fetchval("SELECT 1") == 1
    pool.terminate()
    await reader.close()
