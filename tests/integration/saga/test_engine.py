"""The engine on a real Postgres, with handlers in this process."""

import asyncio
from collections import Counter

import asyncpg
import pytest

from marty_msf.core.saga.machine import RESUME_LIMIT
from marty_msf.core.saga.outcome import Outcome
from marty_msf.worker.saga.calling.calls import Caller, Request
from tests.integration.saga.sagas import (
    ORDER,
    RESOURCE,
    Failing,
    Gated,
    Shop,
    ended,
    engine,
    pool_of,
    spec,
    states,
    told,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres


async def test_sagas_complete_and_declined_ones_are_compensated(postgres_url: str, conn: asyncpg.Connection) -> None:
    shop = Shop(refuse=lambda context: context["order"] % 10 == 0)
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller()) as running:
        receipts = await asyncio.gather(*(running.engine.start(f"order-{n}", {"order": n}) for n in range(100)))
        found = await ended(conn, 100)

    assert found == {"Completed": 90, "Compensated": 10}
    assert running.broken == {}
    assert all(receipt.created for receipt in receipts)
    assert shop.order[receipts[0].saga_id] == ["reserve", "charge", "release"]
    assert shop.order[receipts[1].saga_id] == ["reserve", "charge", "confirm"]
    assert set(shop.calls.values()) == {1}
    row = await conn.fetchrow(
        "SELECT sum(started) s, sum(completed) c, sum(compensated) u, sum(duration_ms) d FROM marty.saga_counter"
    )
    assert (row["s"], row["c"], row["u"]) == (100, 90, 10)
    assert row["d"] > 0
    assert await conn.fetchval("SELECT count(*) FROM marty.lease WHERE holder IS NOT NULL") == 0


async def test_starting_is_idempotent_by_business_key_under_concurrency(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Shop()
    async with (
        pool_of(postgres_url) as pool,
        engine(pool, shop.caller()) as one,
        engine(pool, shop.caller()) as two,
    ):
        receipts = await asyncio.gather(
            *(e.engine.start(f"order-{n}", {}) for n in range(20) for e in (one, two, one, two, one))
        )
        found = await ended(conn, 20)

    assert found == {"Completed": 20}
    assert len({receipt.saga_id for receipt in receipts}) == 20
    assert sum(receipt.created for receipt in receipts) == 20
    assert await conn.fetchval("SELECT sum(started) FROM marty.saga_counter") == 20


async def test_instances_started_elsewhere_are_found_by_the_owner_of_their_lane(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    """The second engine owns half of the lanes, the first starts everything."""
    shops = Shop(), Shop()
    async with (
        pool_of(postgres_url) as pool,
        engine(pool, shops[0].caller()) as one,
        engine(pool, shops[1].caller()) as two,
    ):
        await eventually(told(lambda: len(two.engine.memory.epochs) == 32 == len(one.engine.memory.epochs)))
        await asyncio.gather(*(one.engine.start(f"order-{n}", {}) for n in range(200)))
        await ended(conn, 200)

    assert len(shops[0].order) + len(shops[1].order) == 200
    assert len(shops[1].order) > 50


async def test_an_engine_that_crashed_is_followed_and_calls_repeat_with_their_keys(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    first, shop = Gated(), Shop()
    async with pool_of(postgres_url) as pool:
        async with engine(pool, first.caller()) as running:
            await asyncio.gather(*(running.engine.start(f"order-{n}", {}) for n in range(30)))
            await eventually(told(lambda: first.calls.total() == 30))
            await running.crash()
        await conn.execute("UPDATE marty.lease SET expires_at = now() - interval '1 s'")
        await conn.execute("UPDATE marty.worker SET expires_at = now() - interval '1 s'")
        async with engine(pool, shop.caller()):
            assert await ended(conn, 30) == {"Completed": 30}

    assert all(order == ["reserve", "charge", "confirm"] for order in shop.order.values())
    assert await conn.fetchval("SELECT count(*) FROM marty.saga_instance WHERE resource = $1", RESOURCE) == 30


async def test_a_restart_inside_the_process_is_not_held_against_the_calls_in_flight(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    gated, worked, holder = Gated(), dict[int, int](), "test/same-process"
    async with pool_of(postgres_url) as pool:
        async with engine(pool, gated.caller(), holder=holder, worked=worked) as running:
            await asyncio.gather(*(running.engine.start(f"order-{n}", {}) for n in range(5)))
            await eventually(told(lambda: gated.calls.total() == 5))
            await running.crash()
        for _ in range(RESUME_LIMIT + 1):
            gated.calls.clear()
            async with engine(pool, gated.caller(), holder=holder, worked=worked) as running:
                await eventually(told(lambda: gated.calls.total() == 5))
                await running.crash()
        gated.gate.set()
        async with engine(pool, gated.caller(), holder=holder, worked=worked):
            assert await ended(conn, 5) == {"Completed": 5}

        # For another process there is no telling: it counts.
        other = Gated()
        async with engine(pool, other.caller(), holder=holder, worked=worked) as running:
            await running.engine.start("one-more", {})
            await eventually(told(lambda: other.calls.total() == 1))
            await running.crash()
        await conn.execute("UPDATE marty.lease SET expires_at = now() - interval '1 s'")
        await conn.execute("UPDATE marty.worker SET expires_at = now() - interval '1 s'")
        async with engine(pool, Shop().caller()):
            assert await ended(conn, 6) == {"Completed": 6}
    tags = await conn.fetch("SELECT convert_from(entry, 'utf8') e FROM marty.saga_journal WHERE seq > 1")
    counted = Counter(row["e"].split('"')[1] for row in tags)
    assert (counted["restarted"], counted["resumed"]) == (5 * (RESUME_LIMIT + 2), 1)


async def test_a_graceful_stop_finishes_calls_in_flight_and_withdraws_the_rest(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    gated = Gated()
    saga = spec({"name": "reserve"}, {"name": "confirm"}, workers=5)
    withdrawn = "SELECT count(*) FROM marty.saga_journal WHERE seq = 2"
    async with pool_of(postgres_url) as pool, engine(pool, gated.caller(), saga) as running:
        await asyncio.gather(*(running.engine.start(f"order-{n}", {}) for n in range(20)))
        await eventually(told(lambda: gated.calls.total() == 5))
        stopping = asyncio.create_task(running.stop())
        await eventually(lambda: conn.fetchval(withdrawn), lambda count: count == 15)
        gated.gate.set()
        await stopping

    assert gated.calls.total() == 5
    assert await states(conn) == {"Running": 20}
    tags = await conn.fetch("SELECT convert_from(entry, 'utf8') e FROM marty.saga_journal WHERE seq > 1")
    assert Counter(row["e"].split('"')[1] for row in tags) == {"ok": 5, "withdrawn": 20}

    shop = Shop()
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), saga):
        assert await ended(conn, 20) == {"Completed": 20}
    assert shop.calls.total() == 35


async def test_a_definition_edit_does_not_change_running_instances(postgres_url: str, conn: asyncpg.Connection) -> None:
    old = spec(
        {
            "name": "reserve",
            "timeoutMs": 100_000,
            "retry": {"attempts": 50, "initialBackoffMs": 60_000, "maxBackoffMs": 60_000},
        },
        {"name": "confirm"},
    )
    new = spec({"name": "charge"})

    shop = Shop()
    async with pool_of(postgres_url) as pool:
        async with engine(pool, Failing({"reserve"}).caller(), old) as running:
            receipt = await running.engine.start("old", {})
            await eventually(lambda: conn.fetchval("SELECT max(seq) FROM marty.saga_journal"), lambda seq: seq == 2)
        # The wait of a minute is over at once for the next owner: only what the entry says is moved back.
        await conn.execute("DELETE FROM marty.saga_journal WHERE seq = 2")
        async with engine(pool, shop.caller(), new) as running:
            newer = await running.engine.start("new", {})
            await ended(conn, 2)

    assert shop.order == {receipt.saga_id: ["reserve", "confirm"], newer.saga_id: ["charge"]}
    assert len(await conn.fetch("SELECT DISTINCT revision FROM marty.saga_instance")) == 2


async def test_an_instance_without_steps_to_run_ends_at_once(postgres_url: str, conn: asyncpg.Connection) -> None:
    saga = spec({"name": "reserve", "condition": "missing.name"}, {"name": "confirm", "condition": "false"})
    async with pool_of(postgres_url) as pool, engine(pool, Shop().caller(), saga) as running:
        await running.engine.start("nothing", {})
        assert await ended(conn, 1) == {"Completed": 1}


async def test_failures_are_retried_then_compensated_with_both_ends_counted(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Failing({"charge", "refund"})
    async with pool_of(postgres_url) as pool, engine(pool, shop.caller(), ORDER) as running:
        receipt = await running.engine.start("order", {})
        assert await ended(conn, 1) == {"Parked": 1}

    assert shop.order[receipt.saga_id] == ["reserve", *["charge"] * 3, *["refund"] * 3]
    error = await conn.fetchval("SELECT error FROM marty.saga_instance")
    assert "charge failed after 3 calls" in error
    assert "undo of charge failed after 3 calls" in error


async def test_an_instance_that_cannot_go_on_is_left_as_it_is_and_harms_no_other(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    new = (
        "INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state)"
        " SELECT id, $1, marty.lane_of(id::text), $2, $3, $4 FROM (SELECT gen_random_uuid() AS id) AS one RETURNING id::text"
    )
    async with pool_of(postgres_url) as pool:
        async with engine(pool, Shop().caller()) as running:
            await running.engine.start("first", {})
            await ended(conn, 1)
        revision = await conn.fetchval("SELECT DISTINCT revision FROM marty.saga_instance")
        unknown = await conn.fetchval(new, RESOURCE, "no-such-revision", "a", "Pending")
        garbled = await conn.fetchval(new, RESOURCE, revision, "b", "Running")
        for id_ in (unknown, garbled):
            await conn.execute("INSERT INTO marty.saga_input VALUES ($1, '{}')", id_)
        await conn.execute("INSERT INTO marty.saga_journal VALUES ($1, 1, 'nonsense')", garbled)
        async with engine(pool, Shop().caller()) as running:
            await running.engine.start("second", {})
            assert await ended(conn, 2) == {"Completed": 2, "Pending": 1, "Running": 1}

    assert running.broken.keys() == {unknown, garbled}
    assert "no-such-revision" in running.broken[unknown]


async def test_an_instance_whose_next_call_cannot_be_written_is_parked(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    """It is made by hand here, because no start takes such a context."""
    new = (
        "INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state)"
        " SELECT id, $1, marty.lane_of(id::text), $2, 'deep', 'Pending' FROM (SELECT gen_random_uuid() AS id) AS one"
        " RETURNING id::text"
    )
    deep = b'{"a":%s}' % (b"[" * 253 + b"]" * 253)
    async with pool_of(postgres_url) as pool:
        async with engine(pool, Shop().caller()) as running:
            await running.engine.start("first", {})
            await ended(conn, 1)
        revision = await conn.fetchval("SELECT revision FROM marty.saga_instance")
        await conn.execute(
            "INSERT INTO marty.saga_input VALUES ($1, $2)", await conn.fetchval(new, RESOURCE, revision), deep
        )
        async with engine(pool, Shop().caller()) as running:
            await running.engine.start("second", {})
            assert await ended(conn, 3) == {"Completed": 2, "Parked": 1}
        async with engine(pool, Shop().caller()) as again:
            assert again.broken == running.broken == {}

    error = await conn.fetchval("SELECT error FROM marty.saga_instance WHERE state = 'Parked'")
    assert error.startswith("cannot go on after 'start': TypeError: ")
    assert await conn.fetchval("SELECT sum(parked) FROM marty.saga_counter") == 1


class Clumsy:
    """Breaks the promise that a caller never raises, once for every instance."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._broken: set[str] = set()

    async def call(self, request: Request) -> Outcome:
        if request.idempotency_key not in self._broken:
            self._broken.add(request.idempotency_key)
            raise OverflowError("int too big")
        return await self._caller.call(request)


async def test_a_call_that_goes_wrong_in_the_worker_is_a_failed_call_and_nothing_else(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    shop = Shop()
    async with pool_of(postgres_url) as pool, engine(pool, Clumsy(shop.caller())) as running:
        await asyncio.gather(*(running.engine.start(f"order-{n}", {}) for n in range(5)))
        assert await ended(conn, 5) == {"Completed": 5}

    entry = await conn.fetchval("SELECT convert_from(entry, 'utf8') FROM marty.saga_journal WHERE seq = 2 LIMIT 1")
    assert '"failed","the call went wrong in the worker: OverflowError: int too big",true' in entry


async def test_an_engine_with_two_connections_works(postgres_url: str, conn: asyncpg.Connection) -> None:
    """The smallest poolSize."""
    async with pool_of(postgres_url, 2) as pool, engine(pool, Shop().caller()) as running:
        await asyncio.gather(*(running.engine.start(f"order-{n}", {}) for n in range(50)))
        assert await ended(conn, 50) == {"Completed": 50}
