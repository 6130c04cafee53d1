"""Two owners: the database refuses the older one's writes, lane by lane, and the engine goes on with the rest."""

import asyncio
import contextlib

import asyncpg
import pytest

from marty_msf.core.lanes import LANES
from marty_msf.store import leases, saga_instance, saga_wave
from tests.integration.saga.sagas import RESOURCE, Gated, Shop, ended, engine, pool_of, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

SCOPE = f"saga:{RESOURCE}"
TAKE_OVER = (
    "UPDATE marty.lease SET holder = 'thief', epoch = epoch + 1, expires_at = now() + interval '1 hour'"
    " WHERE scope = $1 AND lane = ANY($2::int[])"
)


async def test_a_former_owners_wave_writes_only_the_lanes_that_are_still_its_own(conn: asyncpg.Connection) -> None:
    held = (await leases.claim(conn, SCOPE, "me", range(LANES), 60)).held
    ids = [await conn.fetchval("SELECT gen_random_uuid()") for _ in range(3)]
    lanes = [3, 4, 5]
    for id_, lane in zip(ids, lanes, strict=True):
        await conn.execute(
            "INSERT INTO marty.saga_instance (id, resource, lane, revision, business_key, state)"
            " VALUES ($1, $2, $3, 'r', $4, 'Running')",
            id_, RESOURCE, lane, str(lane),
        )  # fmt: skip
    await conn.execute(TAKE_OVER, SCOPE, [4])
    wave = saga_wave.Wave(ids, [2, 2, 2], lanes, [b"a", b"b", b"c"], ids, lanes, ["Completed"] * 3, [""] * 3)

    kept = await saga_wave.write(
        conn, wave, resource=RESOURCE, scope=SCOPE, holder="me", epochs={lane: held[lane] for lane in lanes}, slot=3
    )

    assert kept == {3, 5}
    assert {row[0] for row in await conn.fetch("SELECT id FROM marty.saga_journal")} == {ids[0], ids[2]}
    rows = await conn.fetch("SELECT lane, state FROM marty.saga_instance ORDER BY lane")
    assert [tuple(row) for row in rows] == [(3, "Completed"), (4, "Running"), (5, "Completed")]
    assert (await saga_instance.totals(conn, RESOURCE)).completed == 2


async def test_a_zombie_engine_changes_nothing_and_its_other_lanes_go_on(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    gated = Gated()
    stolen = list(range(0, LANES, 2))
    async with pool_of(postgres_url) as pool, engine(pool, gated.caller()) as running:
        await asyncio.gather(*(running.engine.start(f"order-{n}", {}) for n in range(40)))
        await eventually(told(lambda: gated.calls.total() == 40))
        await conn.execute(TAKE_OVER, SCOPE, stolen)
        gated.gate.set()
        theirs = await conn.fetchval("SELECT count(*) FROM marty.saga_instance WHERE lane = ANY($1::int[])", stolen)
        found = await ended(conn, 40 - theirs)
        assert found == {"Running": theirs, "Completed": 40 - theirs}
        await eventually(told(lambda: not set(stolen) & running.engine.memory.epochs.keys()))
        late = "SELECT count(*) FROM marty.saga_journal j JOIN marty.saga_instance i USING (id) WHERE seq > 1 AND lane = ANY($1)"
        assert await conn.fetchval(late, stolen) == 0
        await conn.execute("UPDATE marty.lease SET expires_at = now() WHERE holder = 'thief'")
        assert await ended(conn, 40) == {"Completed": 40}


async def test_lanes_move_between_engines_and_every_saga_ends_once(postgres_url: str, conn: asyncpg.Connection) -> None:
    """Owners come and go, in order and by crashing, while sagas run."""
    shop = Shop(refuse=lambda context: context["order"] % 4 == 0)
    async with pool_of(postgres_url, 12) as pool, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(engine(pool, shop.caller()))
        starts = [one.engine.start(f"order-{n}", {"order": n}) for n in range(100)]
        two_starts = asyncio.gather(*starts)
        two = await stack.enter_async_context(engine(pool, shop.caller()))
        await two_starts
        await eventually(told(lambda: len(two.engine.memory.epochs) == 32))
        await asyncio.gather(*(two.engine.start(f"order-{n}", {"order": n}) for n in range(100, 300)))
        await two.crash()
        await asyncio.gather(*(one.engine.start(f"order-{n}", {"order": n}) for n in range(300, 400)))
        assert await ended(conn, 400, seconds=40) == {"Completed": 300, "Compensated": 100}

    assert all(
        [action for action, before in zip(order, ["", *order], strict=False) if action != before][:2]
        == ["reserve", "charge"]
        for order in shop.order.values()
    )
    assert await conn.fetchval("SELECT sum(started) - sum(completed) - sum(compensated) FROM marty.saga_counter") == 0
