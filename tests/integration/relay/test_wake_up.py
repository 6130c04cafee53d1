"""Correctness 9: the notification is a hint, outside of the transactions that enqueue; without it the relay looks by itself."""

import asyncio

import asyncpg
import pytest

from marty_msf.store.database import open_pool
from marty_msf.worker.relay.waking import CHANNEL, CHECK_SECONDS, Waker
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(60)]

LISTENER = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%' AND state = 'idle'
"""


async def test_a_transaction_that_enqueues_notifies_nobody(postgres_url: str, conn: asyncpg.Connection) -> None:
    """Naive: pg_notify in marty.enqueue_event. Transactions that notify commit one after the other, all of the server's."""
    heard: list[str] = []
    writer = await asyncpg.connect(postgres_url)
    try:
        await conn.add_listener(CHANNEL, lambda *found: heard.append(str(found[-1])))
        await writer.execute("SELECT marty.enqueue_event('t', 'e', '{}', 'a', priority => 'high')")
        await writer.execute("""SELECT marty.enqueue_events('[{"topic": "t", "event_type": "e", "payload": {}}]')""")
        await writer.execute("SELECT pg_notify($1, 'the last one')", CHANNEL)

        async def found() -> list[str]:
            return heard

        # They come in the order of the commits.
        assert await eventually(found) == ["the last one"]
    finally:
        await writer.close()


async def test_a_hint_ends_the_wait_and_a_lost_one_costs_no_more_than_the_wait(
    postgres_url: str, conn: asyncpg.Connection
) -> None:
    """Naive: who waits for the notification alone waits for ever once the listening connection is gone."""
    stop = asyncio.Event()
    pool = await open_pool(postgres_url, 2, "test")
    waker = Waker(pool)
    listening = asyncio.create_task(waker.listen(stop))
    try:
        pid = await eventually(lambda: conn.fetchval(LISTENER))
        waiting = asyncio.create_task(waker.wait(stop, 30))
        await conn.execute("SELECT marty.wake_relay()")
        assert await waiting is True

        await conn.execute("SELECT pg_terminate_backend($1)", pid)
        await eventually(lambda: conn.fetchval(LISTENER), lambda found: found is None)
        await conn.execute("SELECT marty.wake_relay()")
        assert await waker.wait(stop, 0.2) is False

        await eventually(lambda: conn.fetchval(LISTENER), seconds=4 * CHECK_SECONDS)
        await conn.execute("SELECT marty.wake_relay()")
        assert await waker.wait(stop, 30) is True
    finally:
        stop.set()
        await listening
        await pool.close()
