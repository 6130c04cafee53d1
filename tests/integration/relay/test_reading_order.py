"""Correctness 1 and 2: hostile writers against snapshot windows, and against the readers that lose or invert events."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest

from tests.integration.relay.readers import READERS, Reader, Windows

pytestmark = pytest.mark.postgres

AGGREGATES = """
CREATE TABLE public.aggregate (id text PRIMARY KEY, n integer NOT NULL DEFAULT 0);
CREATE TABLE public.other (id bigint GENERATED ALWAYS AS IDENTITY);
INSERT INTO public.aggregate (id) VALUES ('a'), ('b');
"""


class Writer:
    """A session of an application."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn = conn

    async def begin(self) -> None:
        await self.conn.execute("BEGIN")

    async def take_xid(self) -> int:
        """A first write to something else: the transaction has its number now."""
        await self.conn.execute("INSERT INTO public.other DEFAULT VALUES")
        return int(await self.conn.fetchval("SELECT pg_current_xact_id()"))

    async def enqueue(self, event: str, aggregate: str = "a") -> None:
        """Lock the aggregate, then enqueue, as documented."""
        await self.conn.execute("UPDATE public.aggregate SET n = n + 1 WHERE id = $1", aggregate)
        await self.conn.execute("SELECT marty.enqueue_event('t', $1, '{}', $2)", event, aggregate)

    async def commit(self) -> None:
        await self.conn.execute("COMMIT")

    async def rollback(self) -> None:
        await self.conn.execute("ROLLBACK")


Session = Callable[[], Awaitable[Writer]]


@pytest.fixture
async def session(postgres_url: str) -> AsyncIterator[Session]:
    async with AsyncExitStack() as stack:

        async def open_session() -> Writer:
            conn = await asyncpg.connect(postgres_url)
            stack.push_async_callback(conn.close, timeout=5)
            return Writer(conn)

        await (await open_session()).conn.execute(AGGREGATES)
        yield open_session


async def inverted_xids(session: Session, reader: Reader) -> list[str]:
    """xids B < C < A: A writes the aggregate and commits, B writes it after A, C stays open."""
    a, b, c = await session(), await session(), await session()
    await b.begin()
    xid_b = await b.take_xid()
    await c.begin()
    xid_c = await c.take_xid()
    await a.begin()
    assert xid_b < xid_c < await a.take_xid()
    await a.enqueue("1 by A")
    await a.commit()
    await b.enqueue("2 by B")
    await b.commit()
    seen = await reader.poll()
    await c.rollback()
    return seen + await reader.poll()


async def late_commit(session: Session, reader: Reader) -> list[str]:
    """The lower id commits after the higher one was read."""
    early, late = await session(), await session()
    await late.begin()
    await late.enqueue("late", "b")
    await early.begin()
    await early.enqueue("early", "a")
    await early.commit()
    seen = await reader.poll()
    await late.commit()
    return seen + await reader.poll()


async def newer_xid_lower_id(session: Session, reader: Reader) -> list[str]:
    """The older transaction writes the aggregate after the newer one, and both are read at once."""
    old, new = await session(), await session()
    await old.begin()
    await old.take_xid()
    await new.begin()
    await new.enqueue("1 by the newer xid")
    await new.commit()
    await old.enqueue("2 by the older xid")
    await old.commit()
    return await reader.poll()


#: scenario -> what has to come out, and which readers get it wrong.
SCENARIOS = {
    inverted_xids: (["1 by A", "2 by B"], {"xid and id"}),
    # The horizon loses nothing here, but lets the stranger wait for the open writer.
    late_commit: (["early", "late"], {"id", "xid and id"}),
    newer_xid_lower_id: (["1 by the newer xid", "2 by the older xid"], {"xid and id"}),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_windows_keep_what_a_cursor_loses_or_inverts(
    session: Session, conn: asyncpg.Connection, scenario: Callable[..., Awaitable[list[str]]], name: str
) -> None:
    expected, wrong = SCENARIOS[scenario]  # type: ignore[index]  # a table of functions

    found = await scenario(session, READERS[name](conn))

    assert (found == expected) is (name not in wrong), found


async def test_an_open_writer_delays_only_its_own_rows(session: Session, conn: asyncpg.Connection) -> None:
    reader = Windows(conn)
    opened, other = await session(), await session()
    await opened.begin()
    await opened.enqueue("waits", "b")
    for number in range(3):
        await other.enqueue(f"flows {number}")
        assert await reader.poll() == [f"flows {number}"]
    await opened.commit()
    assert await reader.poll() == ["waits"]
    assert await reader.poll() == []


async def test_an_aborted_writer_leaves_nothing_and_holds_nobody_up(session: Session, conn: asyncpg.Connection) -> None:
    reader = Windows(conn)
    aborted, other = await session(), await session()
    await aborted.begin()
    await aborted.enqueue("never", "b")
    await other.enqueue("first")
    assert await reader.poll() == ["first"]
    await aborted.rollback()
    await other.enqueue("second")
    assert await reader.poll() == ["second"]


async def test_a_prepared_transaction_comes_with_its_commit(session: Session, conn: asyncpg.Connection) -> None:
    reader = Windows(conn)
    prepared, other = await session(), await session()
    name = await conn.fetchval("SELECT 'marty-' || gen_random_uuid()")
    await prepared.begin()
    await prepared.enqueue("prepared", "b")
    await prepared.conn.execute(f"PREPARE TRANSACTION '{name}'")
    await other.enqueue("other")
    assert await reader.poll() == ["other"]
    await prepared.conn.execute(f"COMMIT PREPARED '{name}'")
    assert await reader.poll() == ["prepared"]


async def test_savepoints_belong_to_their_transaction(session: Session, conn: asyncpg.Connection) -> None:
    reader = Windows(conn)
    writer, other = await session(), await session()
    await writer.begin()
    await writer.conn.execute("SAVEPOINT one")
    await writer.enqueue("undone")
    await writer.conn.execute("ROLLBACK TO SAVEPOINT one")
    await writer.conn.execute("SAVEPOINT two")
    await writer.enqueue("kept")
    await writer.conn.execute("RELEASE SAVEPOINT two")
    await other.enqueue("other", "b")
    assert await reader.poll() == ["other"]
    await writer.enqueue("after")
    await writer.commit()
    assert await reader.poll() == ["kept", "after"]


async def test_a_crash_between_any_two_sub_batches_loses_nothing_and_repeats_only_the_last_one(
    session: Session, conn: asyncpg.Connection
) -> None:
    writer, late = await session(), await session()
    await late.begin()
    await late.enqueue("late with a low id", "b")
    for number in range(20):
        await writer.enqueue(f"{number:02}")
    reader = Windows(conn, limit=3)
    found: list[str] = []
    for gap in range(7):
        stored = reader.positions
        lost = await reader.part()
        # The crash: what was read is sent, its position is not stored.
        reader = Windows(conn, limit=3)
        reader.positions = stored
        if gap == 2:
            await late.commit()
        repeated = await reader.part()
        assert repeated == lost
        found += repeated
    found += await reader.poll()
    assert found == [*(f"{number:02}" for number in range(20)), "late with a low id"]


async def test_lanes_with_other_cursors_meet_at_the_next_window(session: Session, conn: asyncpg.Connection) -> None:
    writer, reader = await session(), Windows(conn)
    await writer.enqueue("1 of a", "a")
    await writer.enqueue("1 of b", "b")
    lane = await conn.fetchval("SELECT marty.lane_of('a')")
    behind = reader.positions[lane]
    assert await reader.poll() == ["1 of a", "1 of b"]
    # A lane taken over from somebody who had stored nothing yet.
    reader.positions = {**reader.positions, lane: behind}
    await writer.enqueue("2 of b", "b")

    assert await reader.poll() == ["1 of a", "2 of b"]
    assert len({position.prev for position in reader.positions.values()}) == 1


async def test_a_large_window_is_read_by_id_from_its_first_row_on(session: Session, conn: asyncpg.Connection) -> None:
    writer, reader = await session(), Windows(conn, limit=10)
    for number in range(5):
        await writer.enqueue(f"before {number}")
    assert len(await reader.poll()) == 5
    for number in range(25):
        await writer.enqueue(f"{number:02}")

    parts = [await reader.part() for _ in range(3)]

    assert [len(part) for part in parts] == [10, 10, 5]
    assert [row for part in parts for row in part] == [f"{number:02}" for number in range(25)]
    first = next(iter(reader.positions.values()))
    assert first.next is None, "the window was read to its end"


async def test_large_events_are_read_in_parts_that_fit_the_memory(session: Session, conn: asyncpg.Connection) -> None:
    writer, reader = await session(), Windows(conn, limit=100)
    for number in range(40):
        await writer.conn.execute(
            "SELECT marty.enqueue_event_bytes('t', $1, $2, 'a')", f"{number:02}", secrets.token_bytes(800_000)
        )

    parts = []
    while part := await reader.part():
        parts.append(part)

    assert [len(part) for part in parts] == [21, 19]
    assert [row for part in parts for row in part] == [f"{number:02}" for number in range(40)]
