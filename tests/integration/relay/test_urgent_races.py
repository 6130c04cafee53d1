"""Looks for urgent events take several statements; what happens between them is not undone by what they find."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from marty_msf.core.lanes import LANES
from marty_msf.core.windows import BEGINNING, Position
from marty_msf.store import outbox, outbox_urgent
from marty_msf.worker.relay.batch import ID
from marty_msf.worker.relay.shared import Shared
from marty_msf.worker.relay.urgent import BESIDE_SECONDS, READ_BESIDE, Urgent
from marty_msf.worker.relay.work import Level
from tests.integration.relay.setup import drain, make_relay, numbers_by_key, pool_and_producer, take_lanes
from tests.integration.relay.test_urgent import fill, urgent
from tests.support.kafka import read_topic

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]


class Interrupted:
    """A connection or pool; `then` runs once, behind the first answer to `statement`."""

    def __init__(self, target: Any, statement: str, then: Callable[[], Awaitable[None]]) -> None:
        self._target = target
        self._statement = statement
        self._then = [then]

    async def fetch(self, statement: str, *args: Any) -> Any:
        rows = await self._target.fetch(statement, *args)
        if statement == self._statement and self._then:
            await self._then.pop()()
        return rows

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["Interrupted"]:
        async with self._target.acquire() as conn:
            yield Interrupted(conn, self._statement, self._once)

    async def _once(self) -> None:
        if self._then:
            await self._then.pop()()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


async def test_a_lane_that_is_gained_during_a_look_has_its_urgent_events_looked_for(conn: asyncpg.Connection) -> None:
    """Naive: the look that goes on writes into what was reset, and its events of the other lanes are not seen again."""
    await conn.execute("SELECT marty.enqueue_event('t', 'e', '{}', 'a', priority => 'high')")
    lanes = {lane: Position(BEGINNING) for lane in range(LANES)}
    found = Urgent({Level.HIGH: 1, Level.NORMAL: 1, Level.OLDEST: 1})

    async def gained() -> None:
        found.reset()

    for statement in (outbox_urgent.HIGH, outbox_urgent.WAITING):
        found.reset()
        interrupted = Interrupted(conn, statement, gained)
        for looking in (interrupted, conn):
            ((level, rows),) = await found.read(looking, lanes, [], Shared("test"))
            assert (level, len(rows)) == (Level.HIGH, 1)


async def test_what_was_sent_in_its_turn_is_not_found_urgent_again(conn: asyncpg.Connection) -> None:
    """Naive: all of the window's normal events are found, sent or not, and their aggregates' low ones go out as if normal."""
    for priority in ("normal", "low", "high"):
        for key in ("a", "b", "c"):
            await conn.execute("SELECT marty.enqueue_event('t', 'e', '{}', $2, priority => $1)", priority, key)
    opened = await outbox.open_window(conn, {lane: Position(BEGINNING) for lane in range(LANES)}, 100)
    rows = list(opened.rows or ())
    weights = {Level.HIGH: 1, Level.NORMAL: 1, Level.OLDEST: 1}

    async def found(sent: int) -> list[tuple[Level, list[int]]]:
        """Which events, by their place, go ahead when so many were sent."""
        position = Position(BEGINNING).opened(opened.end, rows[sent - 1][ID] if sent else 0)
        ahead = await Urgent(weights).read(conn, dict.fromkeys(range(LANES), position), rows, Shared("test"))
        return [(level, [row[ID] - rows[0][ID] for row in events]) for level, events in ahead]

    everything = list(range(9))
    assert await found(0) == [(Level.HIGH, everything), (Level.NORMAL, everything)]
    assert await found(2) == [(Level.HIGH, everything[2:]), (Level.NORMAL, [2, 5, 8])]
    assert await found(3) == [(Level.HIGH, everything[3:])]
    assert await found(8) == [(Level.HIGH, [8])]
    assert await found(9) == []


async def test_beside_urgent_events_less_is_read_at_once(
    conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = {lane: Position(BEGINNING) for lane in range(LANES)}
    found = Urgent({Level.HIGH: 1, Level.NORMAL: 1, Level.OLDEST: 1})
    await found.read(conn, lanes, [], Shared("test"))
    assert found.read_at_most(5000) == 5000
    await conn.execute("SELECT marty.enqueue_event('t', 'e', '{}', 'a', priority => 'high')")
    await found.read(conn, lanes, [], Shared("test"))
    assert (found.read_at_most(5000), found.read_at_most(100)) == (READ_BESIDE, 100)
    later = time.monotonic() + BESIDE_SECONDS
    monkeypatch.setattr("marty_msf.worker.relay.urgent.time.monotonic", lambda: later)
    assert found.read_at_most(5000) == 5000


@pytest.mark.kafka
async def test_nothing_of_a_lane_that_is_being_drained_goes_ahead(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Callable[..., str]
) -> None:
    """Naive: what the look found is sent behind the drain, perhaps when the lane has its next owner."""
    topic = topic_factory("drained", partitions=1)
    await urgent(conn, topic, "first", 0, "high")
    await fill(conn, topic, "normal")
    await urgent(conn, topic, "new", 0, "high")
    lane = await conn.fetchval("SELECT marty.lane_of('new')")
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (pool, producer):
        drained: list[asyncio.Task[None]] = []
        shared = Shared("test")

        async def begin_to_drain() -> None:
            # As the sender of held events does at the same time: the drain waits for it.
            await shared.sending_held.acquire()
            drained.append(asyncio.ensure_future(relay.drain([lane])))
            await asyncio.sleep(0)

        interrupted = Interrupted(pool, outbox_urgent.WAITING, begin_to_drain)
        relay = make_relay(interrupted, producer, "me", batch_size=50, prefetch=200, shared=shared)
        await take_lanes(pool, relay, "me")
        await drain(relay)
        shared.sending_held.release()
        await drained[0]
        assert "new" not in numbers_by_key(read_topic(kafka_bootstrap, topic))
        assert await conn.fetchval("SELECT count(*) FROM marty.outbox_ahead WHERE lane = $1", lane) == 0


@pytest.mark.parametrize(
    ("oldest", "levels"),
    [
        (["low"] * 3 + ["normal"] * 9, [Level.HIGH, Level.NORMAL]),
        (["low"] * 2 + ["normal"] * 9, [Level.HIGH]),
        (["high"] * 9 + ["normal"] * 2, []),
        (["high"] * 8 + ["low"] * 4, [Level.HIGH, Level.NORMAL]),
    ],
)
async def test_nothing_goes_ahead_of_events_that_are_nearly_all_as_urgent(
    conn: asyncpg.Connection, oldest: list[str], levels: list[Level]
) -> None:
    """Naive: one low event in a hundred sends all the others ahead of it, each remembered in the database."""
    for priority in (*oldest, "normal", "high"):
        await conn.execute(
            "SELECT marty.enqueue_event('t', 'e', '{}', gen_random_uuid()::text, priority => $1)", priority
        )
    lanes = {lane: Position(BEGINNING) for lane in range(LANES)}
    rows = list((await outbox.open_window(conn, lanes, 100)).rows or ())
    weights = {Level.HIGH: 1, Level.NORMAL: 1, Level.OLDEST: 1}
    ahead = await Urgent(weights).read(conn, lanes, rows[: len(oldest)], Shared("test"))
    assert [level for level, _ in ahead] == levels
