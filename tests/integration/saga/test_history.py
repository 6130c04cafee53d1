"""The end of instances: their retention, and the partitions that go without what is still needed."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client import CollectorRegistry, generate_latest

from marty_msf.core.errors import InvalidDefinition, LeaseLost
from marty_msf.core.saga import rotation
from marty_msf.core.saga.ended import Ended
from marty_msf.core.worker_config import SagaConfig
from marty_msf.core.worker_status import ProblemReason
from marty_msf.patterns.saga import SagaOrchestrator
from marty_msf.store import saga_history, saga_instance
from marty_msf.worker.board import Board
from marty_msf.worker.metrics import new_registry
from marty_msf.worker.role import Context
from marty_msf.worker.saga.history.janitor import Janitor
from marty_msf.worker.saga.metrics import HistoryNumbers
from marty_msf.worker.saga.role import SagaRole
from marty_msf.worker.saga.surface.routes import Routes
from tests.integration.saga.ageing import GONE, age, exists, fill, make_old_partitions, rows
from tests.integration.saga.commands import marty
from tests.integration.saga.sagas import RESOURCE, Failing, Gated, Shop, ended, engine, pool_of, spec, told
from tests.support.processes import running
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

WEEK_HOURS = 168
#: As ORDER of the other tests, but instances may be ten days old.
ORDER = spec(
    {"name": "reserve", "compensation": "release"},
    {"name": "charge", "compensation": "refund", "pivot": True},
    {"name": "confirm"},
    workers=50,
    timeoutSeconds=2_000_000,
)


class Declining(Failing):
    """Payments are refused, and the undo that follows fails: instances park."""

    def __init__(self) -> None:
        super().__init__({"release"})
        self._refuse = lambda _: True


@pytest.fixture(autouse=True)
def small_partitions_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "LEAST_FREED_BYTES", 100_000)


@pytest.fixture
async def old(conn: asyncpg.Connection) -> list[str]:
    """The partitions of ten days ago: journals and contexts, with 300 rows each whose instances are gone."""
    names = await make_old_partitions(conn)
    await fill(conn, *names)
    return names


@asynccontextmanager
async def janitor(
    pool: asyncpg.Pool, hours: int = WEEK_HOURS, resource: str = RESOURCE, board: Board | None = None
) -> AsyncIterator[Janitor]:
    numbers = HistoryNumbers(CollectorRegistry())
    it = Janitor(pool, resource, f"test/{secrets.token_hex(4)}", hours, board or Board(), numbers, pass_seconds=0.05)
    await it.register()
    yield it


async def run(pool: asyncpg.Pool, shop: Shop, *keys: str) -> None:
    async with engine(pool, shop.caller(), ORDER) as it:
        before = (await pool.fetchval("SELECT count(*) FROM marty.saga_instance")) + len(keys)
        await asyncio.gather(*(it.engine.start(key, {"order": key}) for key in keys))
        async with pool.acquire() as conn:
            await ended(conn, before)


async def journal(conn: asyncpg.Connection, key: str) -> list[tuple[int, bytes]]:
    found = await conn.fetch(
        "SELECT j.seq, j.entry FROM marty.saga_instance i JOIN marty.saga_journal j USING (id)"
        " WHERE i.business_key = $1 ORDER BY j.seq",
        key,
    )
    return [tuple(row) for row in found]


async def keys(conn: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await conn.fetch("SELECT business_key FROM marty.saga_instance")}


async def test_ended_instances_go_when_their_time_is_over_and_live_and_parked_ones_go_on(
    postgres_url: str, conn: asyncpg.Connection, old: list[str]
) -> None:
    async with pool_of(postgres_url) as pool:
        await run(pool, Shop(), *(f"old-{number}" for number in range(20)), "long", "new")
        await run(pool, Declining(), "parked")
        shop = Gated()
        async with engine(pool, shop.caller(), ORDER) as it:
            await it.engine.start("live", {"order": "live"})
            await eventually(told(lambda: shop.calls.total() == 1))
            await it.crash()
        await age(conn, *(f"old-{number}" for number in range(20)), "parked", "live")
        await age(conn, "long", ended_days=0.1)
        await conn.execute("UPDATE marty.lease SET expires_at = '-infinity'; DELETE FROM marty.worker")
        survivors = {key: await journal(conn, key) for key in ("long", "parked", "live", "new")}
        numbers = await saga_instance.totals(conn, RESOURCE)
        bulk = [await rows(conn, table) for table in old]

        async with janitor(pool) as cleaning:
            done = await cleaning.run_once()

        assert (done.instances, done.rotated, done.dropped, done.busy) == (20, sorted(old), [], [])
        assert await keys(conn) == {"long", "parked", "live", "new"}
        assert {key: await journal(conn, key) for key in survivors} == survivors
        assert [await rows(conn, table) for table in old] == [
            bulk[0] - GONE - 20 * len(survivors["long"]),
            bulk[1] - GONE - 20,
        ]
        after = await saga_instance.totals(conn, RESOURCE)
        assert replace(after, oldest_active_seconds=0) == replace(numbers, oldest_active_seconds=0)

        async with engine(pool, Shop().caller(), ORDER) as running:
            parked = await conn.fetchval("SELECT id::text FROM marty.saga_instance WHERE business_key = 'parked'")
            assert (await marty(postgres_url, "resume", parked, "--yes")).code == 0
            await eventually(lambda: states(conn), lambda it: it["parked"] != "Parked" and it["live"] == "Completed")
            again = await running.engine.start("old-0", {"order": "again"})
            await eventually(lambda: states(conn), lambda it: it["old-0"] == "Completed")
        assert again.created, "the business key is free"

        await conn.execute("UPDATE marty.saga_verb SET asked_at = '-infinity', answered_at = '-infinity'")
        await conn.execute(
            "UPDATE marty.saga_instance SET ended_at = now() - interval '8 days' WHERE ended_at IS NOT NULL AND id < $1",
            UUID(again.saga_id),
        )
        await conn.execute("UPDATE marty.lease SET expires_at = '-infinity'; DELETE FROM marty.worker")
        async with janitor(pool) as cleaning:
            done = await cleaning.run_once()
        assert (done.rotated, done.dropped) == ([], sorted(old))
        assert await keys(conn) == {"new", "old-0"}
        assert not any([await exists(conn, table) for table in old])


async def states(conn: asyncpg.Connection) -> dict[str, str]:
    return dict(await conn.fetch("SELECT business_key, state FROM marty.saga_instance"))


@pytest.mark.parametrize(
    "before", ["sql fetch WITH locked", "sql commit", "rotate_saga_partition", "drop_saga_partition"]
)
async def test_a_janitor_that_is_killed_between_two_effects_leaves_nothing_undone_or_lost(
    postgres_url: str, conn: asyncpg.Connection, old: list[str], tmp_path: Path, before: str
) -> None:
    async with pool_of(postgres_url) as pool:
        await run(pool, Shop(), "old-0", "old-1")
        await run(pool, Declining(), "parked")
        await age(conn, "old-0", "old-1", "parked")
        await conn.execute(
            f"DELETE FROM {old[1]} WHERE id = (SELECT id FROM marty.saga_key WHERE business_key = 'parked')"
        )
        past = await journal(conn, "parked")

        arguments = ["-m", "tests.integration.saga.history_pass", postgres_url, str(tmp_path / "effects"), before]
        async with running(arguments, tmp_path / "log") as process:
            assert await process.wait() == -9, process.output()
        await conn.execute("UPDATE marty.lease SET expires_at = '-infinity'; DELETE FROM marty.worker")
        async with janitor(pool) as it:
            await it.run_once()

    assert await keys(conn) == {"parked"}
    assert await journal(conn, "parked") == past
    assert await rows(conn, old[0]) == len(past)
    assert not await exists(conn, old[1])


PLAINLY = """
CREATE TEMP TABLE kept AS SELECT j.* FROM {table} j JOIN marty.saga_instance i USING (id)
"""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def append(conn: asyncpg.Connection, seq: int) -> None:
    """What a wave does for an instance that goes on."""
    await conn.execute(
        "INSERT INTO marty.saga_journal (id, seq, entry) SELECT id, $1, 'more' FROM marty.saga_instance"
        " WHERE business_key = 'parked'",
        seq,
    )


@pytest.fixture
async def parked(postgres_url: str, conn: asyncpg.Connection, old: list[str]) -> AsyncIterator[asyncpg.Pool]:
    """An old partition in which a parked instance is among ended ones that are gone."""
    async with pool_of(postgres_url) as pool:
        await run(pool, Shop(), *(f"old-{number}" for number in range(5)))
        await run(pool, Declining(), "parked")
        await age(conn, *(f"old-{number}" for number in range(5)), "parked")
        await conn.execute("DELETE FROM marty.saga_instance WHERE ended_at IS NOT NULL")
        yield pool


async def test_what_is_appended_while_a_partition_is_emptied_is_not_lost(
    postgres_url: str, conn: asyncpg.Connection, parked: asyncpg.Pool, old: list[str]
) -> None:
    partition = next(it for it in await saga_history.partitions(conn) if it.name == old[0])
    seqs = [seq for seq, _ in await journal(conn, "parked")]
    async with connected(postgres_url) as rotating:
        # Putting aside without a lock first: what is committed in between is gone. This shows that the test sees it.
        async with rotating.transaction():
            await rotating.execute(PLAINLY.format(table=old[0]))
            await append(conn, 101)
            await rotating.execute(f"TRUNCATE {old[0]}; INSERT INTO {old[0]} SELECT * FROM kept")
        assert [seq for seq, _ in await journal(conn, "parked")] == seqs

        async with conn.transaction():
            await append(conn, 102)
            with pytest.raises(asyncpg.LockNotAvailableError):
                await saga_history.rotate(rotating, partition)
        async with rotating.transaction():
            assert await saga_history.rotate(rotating, partition)
            appending = asyncio.create_task(append(conn, 103))
            await eventually(lambda: waits_for_a_lock(parked))
        await appending

    assert [seq for seq, _ in await journal(conn, "parked")] == [*seqs, 102, 103]
    assert await rows(conn, old[0]) == len(seqs) + 2


async def waits_for_a_lock(pool: asyncpg.Pool) -> bool:
    waits: bool = await pool.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
    return waits


async def test_a_partition_in_use_is_left_for_later_and_nobody_waits_for_it(
    postgres_url: str, conn: asyncpg.Connection, parked: asyncpg.Pool, old: list[str]
) -> None:
    async with connected(postgres_url) as reader, janitor(parked) as it, engine(parked, Shop().caller(), ORDER) as at:
        async with reader.transaction():
            await reader.execute(f"SELECT FROM {old[0]} LIMIT 1")
            await reader.execute("SELECT FROM marty.saga_input LIMIT 1")
            first = await it.run_once()
            await at.engine.start("meanwhile", {"order": 1})
            await eventually(lambda: states(conn), lambda found: found.get("meanwhile") == "Completed")
        second = await it.run_once()

    assert (first.rotated, first.busy) == ([], sorted(old))
    assert (second.rotated, second.busy) == (sorted(old), [])


async def test_a_partition_whose_time_is_not_over_or_that_somebody_needs_is_not_dropped(
    conn: asyncpg.Connection, parked: asyncpg.Pool, old: list[str]
) -> None:
    partitions = await saga_history.partitions(conn)
    assert {it.name for it in partitions} > set(old)

    assert not any([await saga_history.drop(conn, it) for it in partitions])

    await conn.execute("DELETE FROM marty.saga_instance")
    assert [it.name for it in partitions if await saga_history.drop(conn, it)] == sorted(old)


async def test_a_locked_partition_is_probed_for_what_it_keeps_and_never_read_through(
    conn: asyncpg.Connection, parked: asyncpg.Pool, old: list[str]
) -> None:
    partition = next(it for it in await saga_history.partitions(conn) if it.name == old[0])
    kept = len(await journal(conn, "parked"))
    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = $1"
    async with conn.transaction():
        before = await conn.fetchval(read, partition.oid)
        assert await saga_history.rotate(conn, partition)
        touched = await conn.fetchval(read, partition.oid) - before

    assert kept <= touched < kept + 10 < GONE


async def test_no_statement_deletes_more_than_a_batch(postgres_url: str, conn: asyncpg.Connection) -> None:
    await conn.execute(
        """
        CREATE TABLE public.deleted (name text, number bigint);
        CREATE FUNCTION public.count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.deleted SELECT TG_TABLE_NAME, count(*) FROM gone;
            RETURN NULL;
        END $$;
        WITH made AS (
            SELECT gen_random_uuid() AS id, g AS number FROM generate_series(1, 1200) AS g
        ), named AS (
            SELECT ('018f' || substr(id::text, 5))::uuid AS id, number FROM made
        ), keyed AS (
            INSERT INTO marty.saga_key SELECT 'shop/orders', 'key-' || number, id FROM named
        ), verbs AS (
            INSERT INTO marty.saga_verb (resource, instance, lane, verb, arguments, asked_by, asked_at, done, answer, answered_at)
            SELECT 'shop/orders', id, 0, 'pause', '{}', 'me', '2026-01-01', true, '', '2026-01-01'
              FROM named CROSS JOIN generate_series(1, 700) WHERE number = 1
        )
        INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state, ended_at)
        SELECT id, 'shop/orders', 0, 'r', 'key-' || number, 'Completed', '2026-01-01' FROM named;
        """
    )
    for table in ("saga_instance", "saga_key", "saga_verb", "saga_journal", "saga_input"):
        await conn.execute(
            f"CREATE TRIGGER counted AFTER DELETE ON marty.{table} REFERENCING OLD TABLE AS gone"
            " FOR EACH STATEMENT EXECUTE FUNCTION public.count_deleted()"
        )

    async with pool_of(postgres_url) as pool, janitor(pool) as it:
        done = await it.run_once()

    most = dict(await conn.fetch("SELECT name, max(number) FROM public.deleted GROUP BY name"))
    assert most == {"saga_instance": 500, "saga_key": 500, "saga_verb": 500}
    assert done.instances == 1200
    for table in ("saga_instance", "saga_key", "saga_verb"):
        assert await rows(conn, f"marty.{table}") == 0


async def test_each_saga_has_its_own_retention_and_one_that_gave_none_keeps_all(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    await conn.execute(
        """
        INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state, ended_at)
        SELECT ('018f' || substr(gen_random_uuid()::text, 5))::uuid, resource, 0, 'r', resource || days, 'Completed',
               now() - make_interval(days => days)
          FROM unnest(ARRAY['shop/orders', 'shop/returns', 'shop/forever']) AS resource, unnest(ARRAY[1, 3, 9]) AS days
        """
    )
    async with pool_of(postgres_url) as pool, janitor(pool, 48) as it, janitor(pool, 192, "shop/returns"):
        assert (await it.run_once()).instances == 3

    assert await keys(conn) == {"shop/orders1", "shop/returns1", "shop/returns3"} | {
        f"shop/forever{days}" for days in (1, 3, 9)
    }


async def test_one_janitor_works_and_another_takes_over_when_it_ends(
    postgres_url: str, conn: asyncpg.Connection, parked: asyncpg.Pool
) -> None:
    stop = asyncio.Event()
    async with janitor(parked) as one, janitor(parked) as other:
        working = asyncio.create_task(one.run(stop))
        await eventually(lambda: conn.fetchval("SELECT count(*) FROM marty.lease WHERE scope = 'saga-history'"))
        assert not (await other.run_once()).rotated
        stop.set()
        await working
        assert (await other.run_once()).rotated == []

        await conn.execute("UPDATE marty.lease SET epoch = epoch + 1 WHERE scope = 'saga-history'")
        await conn.execute("UPDATE marty.saga_instance SET state = 'Completed', ended_at = '2026-01-01'")
        with pytest.raises(LeaseLost):
            await other._remove(await saga_history.chosen(conn, RESOURCE, Ended(), UUID(int=0), 10))
        assert await keys(conn) == {"parked"}


async def test_a_missing_privilege_is_told_on_the_board_and_stops_nothing_else(
    postgres_url: str, conn: asyncpg.Connection, parked: asyncpg.Pool
) -> None:
    board, stop = Board(), asyncio.Event()
    async with janitor(parked, board=board) as it:
        await conn.execute("ALTER FUNCTION marty.rotate_saga_partition RENAME TO away")
        await conn.execute(
            "CREATE FUNCTION marty.rotate_saga_partition(regclass, integer) RETURNS boolean LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'must be owner'; END $$"
        )
        working = asyncio.create_task(it.run(stop))
        (problem,) = await eventually(told(board.current))
        await conn.execute("DROP FUNCTION marty.rotate_saga_partition")
        await conn.execute("ALTER FUNCTION marty.away RENAME TO rotate_saga_partition")
        await eventually(told(board.current), lambda found: not found)
        stop.set()
        await working

    assert (problem.reason, problem.blocking) == (ProblemReason.HISTORY_NOT_REMOVED, False)
    assert "a privilege is missing" in problem.message


async def test_who_may_enqueue_events_may_not_touch_partitions(conn: asyncpg.Connection, old: list[str]) -> None:
    role = f"tenant_{secrets.token_hex(4)}"
    async with rolled_back(conn):
        await conn.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA marty TO {role}; SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("SELECT marty.drop_saga_partition($1::text::regclass)", old[0])


@asynccontextmanager
async def rolled_back(conn: asyncpg.Connection) -> AsyncIterator[None]:
    transaction = conn.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def test_a_start_in_sql_whose_key_becomes_free_in_the_middle_starts_a_new_instance(
    conn: asyncpg.Connection,
) -> None:
    await saga_instance.register_definition(conn, RESOURCE, "r", b"{}", 600)
    first = await conn.fetchval("SELECT marty.start_saga($1, 'key')", RESOURCE)
    # The removal comes just after the insert found the key taken, once.
    await conn.execute(
        """
        CREATE TABLE public.once ();
        CREATE FUNCTION public.remove_once() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF to_regclass('public.once') IS NOT NULL THEN
                DROP TABLE public.once;
                DELETE FROM marty.saga_key;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER removed AFTER INSERT ON marty.saga_key FOR EACH STATEMENT EXECUTE FUNCTION public.remove_once();
        """
    )

    second = await conn.fetchval("SELECT marty.start_saga($1, 'key')", RESOURCE)

    assert second not in {first, None}
    assert await conn.fetchval("SELECT id FROM marty.saga_key") == second


async def test_a_person_may_remove_history_before_its_time(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool:
        await run(pool, Shop(refuse=lambda context: context["order"] == "b"), "a", "b", "c")
        await run(pool, Declining(), "parked")
    await conn.execute("UPDATE marty.saga_instance SET ended_at = now() - interval '2 days' WHERE business_key <> 'c'"
                       " AND ended_at IS NOT NULL")  # fmt: skip

    dry = await marty(postgres_url, "prune", "orders", "--before", "1d", "--dry-run")
    unasked = await marty(postgres_url, "prune", "orders", "--before", "1d")
    some = await marty(postgres_url, "prune", "orders", "--before", "1d", "--state", "compensated", "--yes")
    assert await keys(conn) == {"a", "c", "parked"}
    rest = await marty(postgres_url, "prune", "orders", "--before", "1d", "--yes", "-o", "json")

    assert dry.out == "Would remove 2 ended instances of shop/orders. Nothing was changed.\n"
    assert (unasked.code, some.code, rest.code) == (2, 0, 0), some.err + rest.err
    assert some.out == "shop/orders: 1 instance removed\n"
    assert rest.json == {"saga": RESOURCE, "removed": 1}
    assert await keys(conn) == {"c", "parked"}
    assert (await marty(postgres_url, "prune", "orders", "--yes")).code == 2


async def test_an_instance_that_is_gone_is_said_to_be(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with pool_of(postgres_url) as pool, janitor(pool, 24):
        await saga_instance.register_definition(conn, RESOURCE, "r", b"{}", 600)
        done = await marty(postgres_url, "timeline", "018f3c7a-9d10-7abc-8def-0123456789ab")
        routes = Routes(pool, RESOURCE)
        request = make_mocked_request("GET", "/", match_info={"id": "018f3c7a-9d10-7abc-8def-0123456789ab"})
        answer = await routes.get(request)

    text = "the id is of 2024-05-03 03:23 UTC, and instances that ended are removed after 24 h"
    assert (done.code, answer.status) == (1, 404)
    assert text in done.err
    assert isinstance(answer.body, bytes)
    assert text in answer.body.decode()


async def test_the_role_makes_its_retention_known_and_is_the_janitor(
    postgres_url: str, conn: asyncpg.Connection, parked: asyncpg.Pool, old: list[str]
) -> None:
    board = Board()
    context = Context(parked, "test/role", RESOURCE, board, new_registry(board))
    saga = spec({"name": "confirm"}, retention={"completedHours": 5})
    role = SagaRole(context, SagaConfig(namespace="shop", name="orders", spec=saga), Shop().caller())
    stop = asyncio.Event()
    working = asyncio.create_task(role.run(stop))
    await eventually(lambda: saga_history.retention_hours(conn, RESOURCE), lambda hours: hours == 5)
    await eventually(told(lambda: b'partitions_total{step="rotate"} 2.0' in generate_latest(context.registry)))
    stop.set()
    await working

    assert await rows(conn, old[0]) == len(await journal(conn, "parked"))
    assert await conn.fetchval("SELECT holder IS NULL FROM marty.lease WHERE scope = 'saga-history'")


async def test_sagas_of_an_application_have_a_retention_too(postgres_url: str, conn: asyncpg.Connection) -> None:
    with pytest.raises(InvalidDefinition, match="retention_hours: 0 is no whole number from 1 to"):
        SagaOrchestrator("transfers", retention_hours=0)

    async with SagaOrchestrator("transfers", retention_hours=5, database_url=postgres_url):
        await eventually(lambda: saga_history.retention_hours(conn, "_python/transfers"), lambda hours: hours == 5)
