"""Journals and start contexts in daily partitions: an upgrade keeps everything, reads look into one, days are made ahead."""

import asyncio
import secrets
import time
from contextlib import suppress

import asyncpg
import pytest

from marty_msf.core.saga.identity import RANDOM_BITS, uuid7
from marty_msf.store import saga_instance, saga_partition
from marty_msf.store.migrations import PREPARE_SCHEMA, RECORD, migrate, migrations
from tests.integration.saga.sagas import RESOURCE, Gated, Shop, ended, engine, pool_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

BEFORE = "saga_partitions"
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass ORDER BY 1"
DAY_MS = 24 * 3600 * 1000


def id_at(time_ms: int) -> bytes:
    return uuid7(time_ms, secrets.randbits(RANDOM_BITS))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def install_the_schema_before(conn: asyncpg.Connection) -> None:
    await conn.execute(PREPARE_SCHEMA)
    for migration in migrations():
        if migration.name == BEFORE:
            return
        await conn.execute(migration.sql)
        await conn.execute(RECORD, migration.version, migration.name)


async def test_instances_from_before_are_read_and_go_on_after_the_upgrade(
    postgres_url: str, conn: asyncpg.Connection, empty_postgres_url: str
) -> None:
    """Rows that an engine wrote are copied into a database of the schema before, which is then migrated."""
    shop = Gated()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as running:
        receipts = await asyncio.gather(*(running.engine.start(f"order-{n}", {"order": n}) for n in range(5)))
        await eventually(lambda: asyncio.sleep(0, len(shop.calls)), lambda calls: calls == 5)
        tables = (
            "saga_definition",
            "saga_type",
            "saga_instance",
            "saga_key",
            "saga_input",
            "saga_journal",
            "saga_counter",
        )
        rows = {table: await conn.fetch(f"SELECT * FROM marty.{table}") for table in tables}
        shop.gate.set()
    old = await asyncpg.connect(empty_postgres_url)
    try:
        await install_the_schema_before(old)
        for table, found in rows.items():
            await old.copy_records_to_table(table, schema_name="marty", records=[tuple(row) for row in found])
        late = id_at(now_ms() + 30 * DAY_MS)
        writer = await old.prepare("INSERT INTO marty.saga_journal VALUES ($1, $2, $3)")
        await writer.fetch(late.hex(), 1, b"from a clock that is ahead")

        other = await asyncpg.connect(empty_postgres_url)
        await migrate(other)
        await other.close()
        await writer.fetch(late.hex(), 2, b"a program from before still writes")

        again = Shop()
        async with pool_of(empty_postgres_url) as pool, engine(pool, again.caller()):
            assert await ended(old, 5) == {"Completed": 5}
        assert set(again.order) == {receipt.saga_id for receipt in receipts}
        shown = await saga_instance.get(old, RESOURCE, rows["saga_instance"][0]["id"])
        assert shown is not None
        assert len(shown.entries) == 5  # start, Resumed, three answers
        assert await old.fetchval("SELECT count(*) FROM marty.saga_journal_other") == 2
    finally:
        await old.close()


async def test_an_id_is_looked_for_in_one_partition_only(conn: asyncpg.Connection) -> None:
    await conn.execute("SET plan_cache_mode = force_generic_plan")
    await conn.execute("PREPARE entries AS SELECT entry FROM marty.saga_journal WHERE id = $1 ORDER BY seq")
    rows = await conn.fetch(f"EXPLAIN (ANALYZE, TIMING off) EXECUTE entries('{id_at(now_ms()).hex()}')")
    plan = "\n".join(row[0] for row in rows)

    assert "Subplans Removed: 4" in plan
    assert "Seq Scan" not in plan


async def test_days_are_made_ahead_by_many_at_once_and_rows_that_came_first_move_in(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    made = await conn.fetch(PARTITIONS, "marty.saga_journal")
    newest = max(row[0] for row in made if not row[0].endswith("_other"))
    await conn.execute(f"DROP TABLE {newest}; DROP TABLE {newest.replace('journal', 'input')}")
    id_ = id_at(now_ms() + 3 * DAY_MS).hex()
    await conn.execute("INSERT INTO marty.saga_journal VALUES ($1, 1, 'early')", id_)
    await conn.execute("INSERT INTO marty.saga_input VALUES ($1, '{}')", id_)
    assert await conn.fetchval("SELECT tableoid::regclass::text FROM marty.saga_journal") == "marty.saga_journal_other"

    async with pool_of(postgres_url) as pool:

        async def make(table: str) -> int:
            while True:
                # Of those that wait for the others, one may have waited for too long.
                with suppress(asyncpg.LockNotAvailableError):
                    return int(await pool.fetchval(saga_partition.MAKE, table))

        for table in saga_partition.PARTITIONED:
            counts = await asyncio.gather(*(make(table) for _ in range(4)))
            assert sorted(counts) == [0, 0, 0, 1]

    assert await conn.fetch(PARTITIONS, "marty.saga_journal") == made
    assert await conn.fetchval("SELECT tableoid::regclass::text FROM marty.saga_journal") == newest


async def test_who_may_not_create_tables_makes_partitions_all_the_same(conn: asyncpg.Connection) -> None:
    """Only `marty migrate` has the right to create."""
    newest = max(row[0] for row in await conn.fetch(PARTITIONS, "marty.saga_input") if not row[0].endswith("_other"))
    await conn.execute(f"DROP TABLE {newest}")
    role = f"worker_{secrets.token_hex(4)}"
    await conn.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA marty TO {role}")
    try:
        await conn.execute(f"SET ROLE {role}")
        assert await saga_partition.make(conn) == 1
    finally:
        await conn.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_whoever_reads_both_tables_meanwhile_is_no_deadlock(postgres_url: str, conn: asyncpg.Connection) -> None:
    """Seen when days were to be made: a reader held the one table and wanted the other one, in the other order."""
    before = await conn.fetch(PARTITIONS, "marty.saga_journal")
    newest = max(row[0] for row in before if not row[0].endswith("_other"))
    await conn.execute(f"DROP TABLE {newest}; DROP TABLE {newest.replace('journal', 'input')}")
    reader = await asyncpg.connect(postgres_url, server_settings={"lock_timeout": "5s"})
    try:
        async with reader.transaction():
            await reader.execute("SELECT FROM marty.saga_input")
            making = asyncio.create_task(saga_partition.make(conn))
            await eventually(lambda: reader.fetch(PARTITIONS, "marty.saga_journal"), lambda found: found == before)
            await reader.execute("SELECT FROM marty.saga_journal")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await making
        assert await saga_partition.make(conn) == 1
    finally:
        await reader.close()
