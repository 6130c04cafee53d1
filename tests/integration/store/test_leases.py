"""Lanes: one owner at a time, fair shares, and a former owner whose writes the database refuses (correctness 6 and 19)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest

from marty_msf.core.errors import LeaseLost
from marty_msf.core.lanes import LANES, surplus
from marty_msf.store import leases
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

SCOPE = "test:ns/name"
ALL = range(LANES)

Connect = Callable[[], Awaitable[asyncpg.Connection]]


@pytest.fixture
async def connect(postgres_url: str) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def one() -> asyncpg.Connection:
            connection = await asyncpg.connect(postgres_url)
            stack.push_async_callback(connection.close, timeout=5)
            return connection

        yield one


async def test_one_worker_gets_every_lane(conn: asyncpg.Connection) -> None:
    claims = await leases.claim(conn, SCOPE, "a", ALL, 60)

    assert sorted(claims.held) == list(ALL)
    assert claims.workers == 1
    assert set(claims.held.values()) == {1}


async def test_claiming_at_the_same_moment_shares_the_lanes_without_overlap(connect: Connect) -> None:
    claimers = [(f"w{number}", await connect()) for number in range(5)]
    rounds = await asyncio.gather(*(leases.claim(conn, SCOPE, name, ALL, 60) for name, conn in claimers))

    owned = [lane for claims in rounds for lane in claims.held]
    assert len(owned) == len(set(owned))


async def test_the_surplus_goes_to_a_newcomer(conn: asyncpg.Connection) -> None:
    await leases.claim(conn, SCOPE, "a", ALL, 60)
    assert (await leases.claim(conn, SCOPE, "b", ALL, 60)).held == {}
    mine = await leases.claim(conn, SCOPE, "a", ALL, 60)
    assert mine.workers == 2

    too_many = surplus(list(mine.held), LANES, mine.workers)
    await leases.release(conn, SCOPE, "a", too_many)
    theirs = await leases.claim(conn, SCOPE, "b", ALL, 60)

    assert sorted(theirs.held) == sorted(too_many) == list(range(32, 64))
    assert set(theirs.held.values()) == {2}, "a change of owner raises the epoch"
    assert len((await leases.claim(conn, SCOPE, "a", ALL, 60)).held) == 32


async def test_lanes_of_a_silent_worker_are_taken_after_their_expiry(conn: asyncpg.Connection) -> None:
    await leases.claim(conn, SCOPE, "dead", ALL, 0.2)

    async def claim() -> int:
        return len((await leases.claim(conn, SCOPE, "b", ALL, 60)).held)

    await eventually(claim, lambda held: held == LANES)


async def test_renewing_keeps_the_epoch_even_after_the_expiry(conn: asyncpg.Connection) -> None:
    before = await leases.claim(conn, SCOPE, "a", ALL, 0)

    assert (await leases.claim(conn, SCOPE, "a", ALL, 60)).held == before.held


async def test_claiming_nothing_renews_and_takes_nothing(conn: asyncpg.Connection) -> None:
    held = (await leases.claim(conn, SCOPE, "a", range(3), 60)).held
    await leases.claim(conn, SCOPE, "b", range(3, 6), 0)

    assert (await leases.claim(conn, SCOPE, "a", [], 60)).held == held


async def test_a_former_owners_write_is_refused_however_late(connect: Connect) -> None:
    zombie, successor = await connect(), await connect()
    held = (await leases.claim(zombie, SCOPE, "zombie", ALL, 0)).held
    await eventually(
        lambda: leases.claim(successor, SCOPE, "successor", ALL, 60), lambda claims: len(claims.held) == LANES
    )

    with pytest.raises(LeaseLost, match="zombie no longer owns"):
        async with zombie.transaction():
            await leases.fence(zombie, SCOPE, "zombie", held)


async def test_one_lost_lane_refuses_the_whole_write(conn: asyncpg.Connection) -> None:
    held = (await leases.claim(conn, SCOPE, "a", range(4), 60)).held
    await leases.release(conn, SCOPE, "a", [3])

    with pytest.raises(LeaseLost):
        await leases.fence(conn, SCOPE, "a", held)
    await leases.fence(conn, SCOPE, "a", {lane: epoch for lane, epoch in held.items() if lane < 3})


async def test_a_successor_waits_for_a_fenced_write_in_progress(connect: Connect) -> None:
    writer, successor = await connect(), await connect()
    held = (await leases.claim(writer, SCOPE, "writer", ALL, 0)).held
    transaction = writer.transaction()
    await transaction.start()
    await leases.fence(writer, SCOPE, "writer", held)

    assert (await leases.claim(successor, SCOPE, "successor", ALL, 60)).held == {}
    await transaction.commit()
    assert len((await leases.claim(successor, SCOPE, "successor", ALL, 60)).held) == LANES


async def test_claims_renewals_fences_and_releases_never_deadlock(connect: Connect) -> None:
    async def worker(name: str) -> int:
        conn = await connect()
        refused = 0
        for number in range(60):
            claims = await leases.claim(conn, SCOPE, name, ALL, 0.02)
            try:
                async with conn.transaction():
                    await leases.fence(conn, SCOPE, name, claims.held)
            except LeaseLost:
                refused += 1
            if number % 7 == 0:
                await leases.release(conn, SCOPE, name, list(claims.held)[::2])
        return refused

    await asyncio.gather(*(worker(f"w{number}") for number in range(6)))


async def test_two_fenced_writers_never_hold_one_lane_at_once(connect: Connect) -> None:
    setup = await connect()
    await setup.execute("CREATE TABLE public.written (lane integer, epoch bigint, holder text)")

    async def worker(name: str) -> None:
        conn = await connect()
        for _ in range(40):
            held = (await leases.claim(conn, SCOPE, name, ALL, 0.01)).held
            try:
                async with conn.transaction():
                    await leases.fence(conn, SCOPE, name, held)
                    await conn.executemany(
                        "INSERT INTO public.written VALUES ($1, $2, $3)",
                        [(lane, epoch, name) for lane, epoch in held.items()],
                    )
            except LeaseLost:
                continue

    await asyncio.gather(*(worker(f"w{number}") for number in range(4)))

    assert await setup.fetchval("SELECT count(*) FROM public.written") > 0
    assert (
        await setup.fetch("SELECT lane, epoch FROM public.written GROUP BY 1, 2 HAVING count(DISTINCT holder) > 1")
        == []
    )
