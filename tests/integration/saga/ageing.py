"""Instances of the past for the tests: what just ran is moved into an old partition, as if time had gone by."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

TABLES = ("saga_journal", "saga_input")
#: Days ago of the old partition's day.
OLD_DAYS = 10
GONE = 300

_TODAY = """
ALTER TABLE marty.{table} DETACH PARTITION marty.{table}_{today};
ALTER TABLE marty.{table} ATTACH PARTITION marty.{table}_{today} FOR VALUES FROM ('{first}') TO ('{behind}');
CREATE TABLE marty.{table}_{old} PARTITION OF marty.{table} FOR VALUES FROM ('{old_first}') TO ('{old_behind}');
"""


def first_of(day: datetime) -> UUID:
    return UUID(int=int(day.timestamp() * 1000) << 80)


async def make_old_partitions(conn: asyncpg.Connection) -> list[str]:
    """A partition of OLD_DAYS ago for both tables; returns their names. Before anything is in them."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    # The template may be of yesterday: whichever partition takes everything from before is cut.
    names = []
    for table in TABLES:
        first, behind = await conn.fetchrow(
            """
            SELECT c.relname, substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \\('([-0-9a-f]{36})'\\)$$)
              FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
             WHERE h.inhparent = $1::text::regclass AND pg_get_expr(c.relpartbound, c.oid) LIKE '%MINVALUE%'
            """,
            f"marty.{table}",
        )
        old = today - timedelta(days=OLD_DAYS)
        day = f"{old:%Y%m%d}"
        await conn.execute(
            _TODAY.format(
                table=table,
                today=first.rpartition("_")[2],
                first=first_of(today - timedelta(days=OLD_DAYS - 2)),
                behind=behind,
                old=day,
                old_first=first_of(old),
                old_behind=first_of(old + timedelta(days=1)),
            )
        )
        names.append(f"marty.{table}_{day}")
    return names


async def fill(conn: asyncpg.Connection, journal: str, input_: str) -> None:
    """Rows of GONE instances that are there no more."""
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=OLD_DAYS)
    ids = [UUID(int=first_of(day + timedelta(hours=1)).int | number) for number in range(GONE)]
    await conn.execute(
        f"INSERT INTO {journal} SELECT id, 1, repeat('x', 1000)::bytea FROM unnest($1::uuid[]) AS id", ids
    )
    await conn.execute(f"INSERT INTO {input_} SELECT id, repeat('x', 1000)::bytea FROM unnest($1::uuid[]) AS id", ids)


async def age(conn: asyncpg.Connection, *keys: str, ended_days: float = OLD_DAYS) -> None:
    """Move instances, by business key, to OLD_DAYS ago; those that ended did so `ended_days` ago."""
    started = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=OLD_DAYS)
    for number, key in enumerate(keys):
        before = await conn.fetchval("SELECT id FROM marty.saga_instance WHERE business_key = $1", key)
        started += timedelta(milliseconds=1 + number)
        after = UUID(int=first_of(started).int | before.int & (1 << 80) - 1)
        for table in ("saga_instance", "saga_key", "saga_journal", "saga_input"):
            await conn.execute(f"UPDATE marty.{table} SET id = $2 WHERE id = $1", before, after)
        await conn.execute("UPDATE marty.saga_verb SET instance = $2 WHERE instance = $1", before, after)
        await conn.execute(
            """
            UPDATE marty.saga_instance
               SET started_at = $2,
                   ended_at = CASE WHEN ended_at IS NOT NULL THEN now() - make_interval(secs => $3) END
             WHERE id = $1
            """,
            after,
            started,
            ended_days * 86_400,
        )


async def rows(conn: asyncpg.Connection, table: str) -> int:
    """Of a partition."""
    count: int = await conn.fetchval(f"SELECT count(*) FROM {table}")
    return count


async def exists(conn: asyncpg.Connection, table: str) -> bool:
    there: bool = await conn.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
    return there
