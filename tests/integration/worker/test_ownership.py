"""LaneOwner: who is told what and when, with several owners on one database."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from marty_msf.core.errors import DatabaseUnavailable
from marty_msf.store.database import open_pool
from marty_msf.worker.ownership import LaneOwner
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

SCOPE = "test:ns/name"
LANES = range(8)


class User:
    """Remembers what it was told; draining waits for `may_drain`."""

    def __init__(self) -> None:
        self.lanes: dict[int, int] = {}
        self.told: list[str] = []
        self.may_drain = asyncio.Event()
        self.may_drain.set()
        self.may_load = asyncio.Event()
        self.may_load.set()

    async def gained(self, epochs: Mapping[int, int]) -> None:
        await self.may_load.wait()
        self.told.append(f"gained {len(epochs)}")
        self.lanes.update(epochs)

    async def drain(self, lanes: Sequence[int]) -> None:
        self.told.append(f"drain {len(lanes)}")
        await self.may_drain.wait()
        for lane in lanes:
            del self.lanes[lane]

    def dropped(self, lanes: Sequence[int]) -> None:
        self.told.append(f"dropped {len(lanes)}")
        for lane in lanes:
            self.lanes.pop(lane, None)


class Running:
    """An owner at work."""

    def __init__(self, owner: LaneOwner, user: User) -> None:
        self.owner = owner
        self.user = user
        self._stop = asyncio.Event()
        self._task = asyncio.ensure_future(owner.run(self._stop))

    async def holds(self, lanes: int) -> None:
        async def count() -> int:
            if self._task.done():
                self._task.result()
            return len(self.owner.held)

        await eventually(count, lambda found: found == lanes)

    async def stop(self) -> None:
        self._stop.set()
        await self._task


class Owners:
    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    async def start(self, holder: str, *, ttl_seconds: float = 6) -> Running:
        pool = await open_pool(self._url, 3, "test")
        self._stack.push_async_callback(pool.close)
        user = User()
        running = Running(
            LaneOwner(pool, SCOPE, holder, LANES, user, ttl_seconds=ttl_seconds, renew_seconds=0.05), user
        )

        async def end() -> None:
            user.may_drain.set()
            user.may_load.set()
            await running.stop()

        self._stack.push_async_callback(end)
        return running


@asynccontextmanager
async def owners_of(url: str) -> AsyncIterator[Owners]:
    async with AsyncExitStack() as stack:
        yield Owners(url, stack)


async def test_the_first_takes_all_and_hands_half_over_to_the_second(postgres_url: str) -> None:
    async with owners_of(postgres_url) as owners:
        first = await owners.start("first")
        await first.holds(8)
        second = await owners.start("second")
        await second.holds(4)
        await first.holds(4)
        assert sorted([*first.owner.held, *second.owner.held]) == list(LANES)
        assert first.user.lanes.keys() == first.owner.held.keys()
        await first.stop()
        assert first.owner.held == {}
        await second.holds(8)
        assert second.user.told[0] in ("gained 4", "gained 3", "gained 2", "gained 1")
        assert "dropped" not in "".join(second.user.told)


async def test_lanes_are_released_only_when_drained_and_held_until_then(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    async with owners_of(postgres_url) as owners:
        # A lease far shorter than the drain: renewals go on meanwhile.
        first = await owners.start("first", ttl_seconds=0.5)
        await first.holds(8)
        first.user.may_drain.clear()
        second = await owners.start("second", ttl_seconds=0.5)
        await eventually(lambda: told(first), lambda found: "drain 4" in found)
        before = await conn.fetchval("SELECT max(expires_at) FROM marty.lease WHERE holder = 'first'")
        await eventually(
            lambda: conn.fetchval("SELECT min(expires_at) FROM marty.lease WHERE holder = 'first'"),
            lambda expires: expires > before,
        )
        assert len(first.owner.held) == 8
        assert second.owner.held == {}
        first.user.may_drain.set()
        await second.holds(4)


async def told(running: Running) -> list[str]:
    return running.user.told


async def test_slow_loading_does_not_cost_the_lease(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with owners_of(postgres_url) as owners:
        first = await owners.start("first", ttl_seconds=0.5)
        first.user.may_load.clear()
        before = await eventually(
            lambda: conn.fetchval("SELECT max(expires_at) FROM marty.lease WHERE holder = 'first'")
        )
        await eventually(
            lambda: conn.fetchval("SELECT min(expires_at) FROM marty.lease WHERE holder = 'first'"),
            lambda expires: expires > before,
        )
        assert first.owner.held == {}, "lanes are shown only once they are loaded"
        first.user.may_load.set()
        await first.holds(8)


async def test_lanes_that_went_to_another_are_dropped(postgres_url: str, conn: asyncpg.Connection) -> None:
    async with owners_of(postgres_url) as owners:
        first = await owners.start("first")
        await first.holds(8)
        await conn.execute(
            "UPDATE marty.lease SET holder = 'thief', epoch = epoch + 1, expires_at = now() + interval '1 hour'"
            " WHERE lane < 3"
        )
        await first.holds(5)
        assert "dropped 3" in first.user.told


async def test_a_refused_write_drops_at_once_and_what_is_still_ours_comes_back_loaded_anew(postgres_url: str) -> None:
    async with owners_of(postgres_url) as owners:
        first = await owners.start("first")
        await first.holds(8)
        first.owner.lost([0, 1])
        assert len(first.owner.held) == 6
        await first.holds(8)
        assert first.user.told == ["gained 8", "dropped 2", "gained 2"]


async def test_without_a_database_everything_is_dropped_and_the_error_is_ours() -> None:
    pool = await open_pool("postgresql://nobody@127.0.0.1:1/nothing", 2, "test")
    user = User()
    owner = LaneOwner(pool, SCOPE, "first", LANES, user)
    with pytest.raises(DatabaseUnavailable):
        await owner.run(asyncio.Event())
    await pool.close()
