"""Every statement of the store is valid against the migrated schema, and the hot ones use their indexes."""

import json
import pkgutil
from importlib import import_module

import asyncpg
import pytest

import marty_msf.store
from marty_msf.store import outbox, outbox_urgent

pytestmark = pytest.mark.postgres

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


def statements() -> dict[str, str]:
    found = {}
    for module in pkgutil.iter_modules(marty_msf.store.__path__):
        for name, value in vars(import_module(f"marty_msf.store.{module.name}")).items():
            if name.isupper() and isinstance(value, str) and value.strip().startswith(VERBS):
                found[f"{module.name}.{name}"] = value
    return found


STATEMENTS = statements()


@pytest.mark.parametrize("sql", STATEMENTS.values(), ids=STATEMENTS)
async def test_statement_prepares_against_the_migrated_schema(conn: asyncpg.Connection, sql: str) -> None:
    await conn.prepare(sql)


def test_statements_were_found() -> None:
    assert {"leases.CLAIM", "outbox.OPEN", "outbox_position.STORE"} <= STATEMENTS.keys()


@pytest.fixture
async def full_outbox(conn: asyncpg.Connection) -> asyncpg.Connection:
    """Twenty thousand events nobody analysed: what the planner believes must not matter."""
    await conn.execute(
        "SELECT marty.enqueue_event('t', 'e', '{}', 'a-' || i % 100) FROM generate_series(1, 20000) AS i"
    )
    await conn.execute("SET plan_cache_mode = force_generic_plan")
    return conn


@pytest.mark.parametrize(
    ("sql", "arguments", "index"),
    [
        (outbox.OPEN, "'900'::xid8, '{}'::xid8[], '{}'::pg_snapshot[], 501, 1000000, ''", "outbox_0_xid_idx"),
        (outbox.FIRST_ID, "'900'::xid8, '{}'::xid8[], '{}'::pg_snapshot[], ''", "outbox_0_xid_idx"),
        (outbox.SMALL, "1000, '1:1:'::pg_snapshot, '{}'::pg_snapshot[], 500, ''", "outbox_0_pkey"),
        (outbox.MEASURED, "1000, '1:1:'::pg_snapshot, '{}'::pg_snapshot[], 500, '', 1000000", "outbox_0_pkey"),
        (outbox.BACKLOG, "1000", "outbox_0_xid_idx"),
    ],
    ids=["open", "first id", "small", "measured", "backlog"],
)
async def test_the_hot_reads_use_their_index(
    full_outbox: asyncpg.Connection, sql: str, arguments: str, index: str
) -> None:
    await full_outbox.execute(f"PREPARE hot AS {sql}")
    plan = "\n".join(row[0] for row in await full_outbox.fetch(f"EXPLAIN EXECUTE hot({arguments})"))

    assert index in plan
    assert "Seq Scan on outbox_0" not in plan


async def test_what_waits_of_an_aggregate_is_found_by_it_and_what_went_ahead_is_hashed(
    full_outbox: asyncpg.Connection,
) -> None:
    """Naive: every row is compared with each of the thousands of events that went ahead."""
    await full_outbox.execute(outbox.PLAN_ONCE)
    await full_outbox.execute(f"PREPARE hot AS {outbox_urgent.WAITING}")
    arguments = "'{a-1}', '{}', '900', '{}', '{}', '{}', '{}', 1000, 1000000, '{}', ''"
    plan = "\n".join(row[0] for row in await full_outbox.fetch(f"EXPLAIN EXECUTE hot({arguments})"))

    assert "outbox_0_aggregate_id_xid_idx" in plan
    assert "hashed SubPlan" in plan


async def test_an_idle_poll_touches_almost_nothing(full_outbox: asyncpg.Connection) -> None:
    prev = await full_outbox.fetchval("SELECT pg_current_snapshot()::text")
    xmax = prev.split(":")[1]
    await full_outbox.execute(f"PREPARE hot AS {outbox.OPEN}")
    arguments = f"""'{xmax}', '{{}}', '{{"{prev}"}}', 501, 1000000, '\\x{"01" * 64}'"""
    rows = await full_outbox.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE hot({arguments})")

    plan = json.loads(rows[0][0])[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 20
