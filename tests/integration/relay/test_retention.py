"""Correctness 8: published events go with their slot, never others, and nobody waits for it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from marty_msf.core.errors import InvalidDefinition, LeaseLost
from marty_msf.core.resources.outbox_retention import Retention
from marty_msf.core.worker_status import ProblemReason
from marty_msf.store import outbox_retention
from marty_msf.store.database import open_pool
from marty_msf.store.outbox_retention import State
from marty_msf.worker.board import Board
from marty_msf.worker.relay.janitor import Janitor
from marty_msf.worker.relay.retention_numbers import RetentionNumbers
from tests.integration.relay import writers
from tests.integration.relay.setup import (
    drain,
    enqueue,
    make_relay,
    numbers_by_key,
    pool_and_producer,
    take_lanes,
)
from tests.support.kafka import read_topic
from tests.support.processes import running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

DAY = timedelta(hours=24)
#: What nobody may wait longer for, on a machine that others use too.
BOUND_SECONDS = 2
ARCHIVE = "outbox_archive"


def janitor(pool: asyncpg.Pool, retention: timedelta = DAY, archive: str | None = None, **more: Any) -> Janitor:
    board = more.pop("board", None) or Board()
    numbers = more.pop("numbers", None) or RetentionNumbers(CollectorRegistry())
    return Janitor(pool, f"test/{secrets.token_hex(4)}", retention, archive, board, numbers, **more)


async def age(conn: asyncpg.Connection, hours: float) -> None:
    """Everything happened earlier."""
    await conn.execute(
        "WITH ring AS (UPDATE marty.outbox_ring SET opened_at = opened_at - $1::interval, closed_at = closed_at - $1::interval)"
        " UPDATE marty.outbox_slot SET since = since - $1::interval",
        timedelta(hours=hours),
    )


async def slots(conn: asyncpg.Connection) -> dict[int, int]:
    """Events by slot."""
    return dict(await conn.fetch("SELECT slot, count(*) FROM marty.outbox GROUP BY slot ORDER BY slot"))


async def free_janitor(conn: asyncpg.Connection) -> None:
    """The next one may claim at once."""
    await conn.execute("DELETE FROM marty.lease WHERE scope = 'outbox-retention'")
    await conn.execute("DELETE FROM marty.worker WHERE scope = 'outbox-retention'")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


Publish = Callable[[], Awaitable[int]]


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    it = await open_pool(postgres_url, 8, "test")
    yield it
    await it.close()


@pytest.fixture
def topic(topic_factory: Callable[..., str]) -> str:
    return topic_factory("events")


@pytest.fixture
async def publish(postgres_url: str, kafka_bootstrap: str) -> AsyncIterator[Publish]:
    """The relay itself, until there is nothing more to publish; returns how much it was."""
    async with pool_and_producer(postgres_url, kafka_bootstrap) as (own_pool, producer):
        relay = make_relay(own_pool, producer, "relay/1")
        await take_lanes(own_pool, relay, "relay/1")

        async def drained() -> int:
            return await drain(relay)

        yield drained


@pytest.fixture
async def closed(conn: asyncpg.Connection, pool: asyncpg.Pool, publish: Publish, topic: str) -> asyncpg.Pool:
    """25 published events in slot 0, which is no longer current; its time is over."""
    for number in range(25):
        await enqueue(conn, topic, f"key-{number % 3}", number)
    assert await publish() == 25
    await age(conn, 12)
    assert (await janitor(pool).run_once()).turned_from == 0
    await age(conn, 24)
    await free_janitor(conn)
    return pool


async def test_slots_are_filled_in_turn_and_emptied_after_the_retention(
    conn: asyncpg.Connection, pool: asyncpg.Pool, publish: Publish, topic: str
) -> None:
    registry = CollectorRegistry()
    it = janitor(pool, numbers=RetentionNumbers(registry))
    most = 0
    for number in range(12):
        await enqueue(conn, topic, "key", number)
        await publish()
        await age(conn, 12)
        done = await it.run_once()
        assert done.turned_from == number % 4
        assert (done.busy, done.unpublished) == ({}, {})
        most = max(most, len(await slots(conn)))

    assert most == 2
    assert sum((await slots(conn)).values()) == len(await slots(conn)) == 2
    assert await conn.fetchval("SELECT max(id) FROM marty.outbox") == 12, "ids go on"
    shown = generate_latest(registry).decode()
    assert "marty_outbox_retained_slots_emptied_total 10.0" in shown
    assert "marty_outbox_retained_slots 3.0" in shown


async def test_an_outbox_without_new_events_is_left_alone(conn: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await age(conn, 100)

    done = await janitor(pool).run_once()

    assert (done.turned_from, done.emptied) == (None, [])


async def test_nothing_is_lost_nor_waits_while_slots_turn_and_are_emptied_all_the_time(
    postgres_url: str, conn: asyncpg.Connection, pool: asyncpg.Pool, kafka_bootstrap: str, topic: str
) -> None:
    await writers.prepare(conn)
    over = asyncio.Event()
    emptied: list[int] = []
    waits: list[float] = []

    async def clean() -> None:
        it = janitor(pool, timedelta(milliseconds=100), ARCHIVE)
        while not over.is_set():
            emptied.extend((await it.run_once()).emptied)

    async def measure() -> None:
        async with connected(postgres_url) as own:
            number = 0
            while not over.is_set():
                began = time.monotonic()
                await enqueue(own, topic, "measured", number)
                waits.append(time.monotonic() - began)
                number += 1
                await asyncio.sleep(0.005)

    async def relaying() -> int:
        published = 0
        async with pool_and_producer(postgres_url, kafka_bootstrap) as (own_pool, producer):
            relay = make_relay(own_pool, producer, "relay/1")
            await take_lanes(own_pool, relay, "relay/1")
            while not over.is_set():
                published += await drain(relay)
                await asyncio.sleep(0.01)
            return published + await drain(relay)

    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(relaying())
        tasks.create_task(clean())
        tasks.create_task(measure())
        await writers.write_all(postgres_url, topic, 1)
        over.set()

    found = numbers_by_key(read_topic(kafka_bootstrap, topic))
    assert found.pop("measured") == list(range(len(waits)))
    assert found == {key: list(range(writers.EVENTS_PER_KEY)) for key in writers.KEYS}
    assert publishing.result() == len(writers.KEYS) * writers.EVENTS_PER_KEY + len(waits)
    assert len(emptied) > 10
    assert max(waits) < BOUND_SECONDS
    # What was emptied is in the archive, once, and nothing is in neither place.
    everything = await conn.fetch("SELECT id FROM marty.outbox UNION ALL SELECT id FROM marty.outbox_archive")
    ids = {row["id"] for row in everything}
    assert len(ids) == publishing.result()


async def begin_repeatable_read(conn: asyncpg.Connection) -> None:
    """A writer whose snapshot has the slot that is current now."""
    await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await conn.execute("SELECT FROM marty.outbox_slot")


async def test_a_check_before_the_lock_loses_an_event_and_ours_does_not(
    postgres_url: str, conn: asyncpg.Connection, pool: asyncpg.Pool, publish: Publish, topic: str, kafka_bootstrap: str
) -> None:
    await enqueue(conn, topic, "key", 0)
    await publish()
    it = janitor(pool)
    async with connected(postgres_url) as late:
        await begin_repeatable_read(late)
        await age(conn, 12)
        assert (await it.run_once()).turned_from == 0
        await age(conn, 24)
        assert (await outbox_retention.look(conn, 0, None, 100)).state is State.DONE
        await enqueue(late, topic, "key", 1)
        await late.execute("COMMIT")
    assert await slots(conn) == {0: 2}

    # The naive way trusts the look. This shows that the test sees it.
    naive = conn.transaction()
    await naive.start()
    await conn.execute("TRUNCATE marty.outbox_0")
    assert await slots(conn) == {}
    await naive.rollback()

    outcome = await outbox_retention.empty(conn, 0, None)
    assert (outcome.state, outcome.lane) == (State.UNPUBLISHED, await conn.fetchval("SELECT marty.lane_of('key')"))
    assert (await it.run_once()).unpublished == {0: outcome.lane}

    assert await publish() == 1
    assert (await it.run_once()).emptied == [0]
    assert await slots(conn) == {}
    assert numbers_by_key(read_topic(kafka_bootstrap, topic)) == {"key": [0, 1]}


async def test_an_event_that_comes_into_an_emptied_slot_is_published_and_goes_with_its_next_turn(
    postgres_url: str, conn: asyncpg.Connection, closed: asyncpg.Pool, publish: Publish, topic: str
) -> None:
    it = janitor(closed)
    async with connected(postgres_url) as late:
        await conn.execute("UPDATE marty.outbox_slot SET slot = 0")
        await begin_repeatable_read(late)
        await conn.execute("UPDATE marty.outbox_slot SET slot = 1")
        assert (await it.run_once()).emptied == [0]
        await enqueue(late, topic, "late", 0)
        await late.execute("COMMIT")
    assert await slots(conn) == {0: 1}
    assert await publish() == 1

    for number in range(8):
        await enqueue(conn, topic, "key", number)
        await publish()
        await age(conn, 12)
        await it.run_once()

    assert await conn.fetchval("SELECT count(*) FROM marty.outbox WHERE aggregate_id = 'late'") == 0


async def test_an_open_writer_delays_the_emptying_only(
    postgres_url: str, conn: asyncpg.Connection, pool: asyncpg.Pool, publish: Publish, topic: str
) -> None:
    board, stop = Board(), asyncio.Event()
    it = janitor(pool, board=board, pass_seconds=0.05, busy_seconds=0)
    async with connected(postgres_url) as holding, connected(postgres_url) as truncating:
        await holding.execute("SET application_name = 'the slow one'; BEGIN")
        await enqueue(holding, topic, "key", 0)
        await enqueue(conn, topic, "other", 0)
        assert await publish() == 1
        await age(conn, 12)
        assert (await it.run_once()).turned_from == 0
        await age(conn, 24)

        working = asyncio.create_task(it.run(stop))
        (problem,) = await eventually(told(board.current))
        for number in range(1, 20):
            began = time.monotonic()
            await enqueue(conn, topic, "other", number)
            assert await publish() == 1
            assert time.monotonic() - began < BOUND_SECONDS
        stop.set()
        await working

        # A TRUNCATE that waits for as long as it takes stops the relay. This shows that the test sees it.
        waiting = asyncio.create_task(truncating.execute("TRUNCATE marty.outbox_0"))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1"
        await eventually(lambda: conn.fetchval(waits, truncating.get_server_pid()))
        await conn.execute("SET lock_timeout = '300ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await conn.fetch("SELECT FROM marty.outbox")
        await conn.execute("SELECT pg_cancel_backend($1)", truncating.get_server_pid())
        with pytest.raises(asyncpg.QueryCanceledError):
            await waiting
        await holding.execute("COMMIT")

    assert (problem.reason, problem.blocking) == (ProblemReason.OUTBOX_NOT_EMPTIED, False)
    assert "slot 0" in problem.message
    assert "the slow one" in problem.message
    await free_janitor(conn)
    assert 0 in (await janitor(pool).run_once()).unpublished
    assert await publish() == 1
    await free_janitor(conn)
    assert (await janitor(pool).run_once()).emptied == [0]


def told(look: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def answer() -> Any:
        return look()

    return answer


@pytest.mark.parametrize(
    "break_it",
    [
        "DELETE FROM marty.outbox_position WHERE lane = marty.lane_of('key-1')",
        "UPDATE marty.outbox_position SET prev = '1:1:', next = pg_current_snapshot(), last_id = 3 WHERE lane = marty.lane_of('key-1')",
        "UPDATE marty.outbox_position SET system_identifier = 1 WHERE lane = marty.lane_of('key-1')",
    ],
    ids=["no position", "an open window", "another cluster"],
)
@pytest.mark.parametrize("archive", [None, ARCHIVE])
@pytest.mark.parametrize("when", ["before", "after the look"])
async def test_what_the_position_does_not_show_is_not_removed(
    conn: asyncpg.Connection, closed: asyncpg.Pool, break_it: str, archive: str | None, when: str
) -> None:
    if when == "after the look":
        while (await outbox_retention.look(conn, 0, archive, 10)).state is not State.DONE:
            pass
    await conn.execute(break_it)

    done = await janitor(closed, archive=archive).run_once()
    if when == "after the look":
        await free_janitor(conn)
        done = await janitor(closed, archive=archive).run_once()

    assert list(done.unpublished) == [0]
    assert (done.emptied, await slots(conn)) == ([], {0: 25})


async def test_only_a_look_that_sees_what_others_write_may_empty(
    conn: asyncpg.Connection, closed: asyncpg.Pool
) -> None:
    assert (await outbox_retention.empty(conn, 0, None)).state is State.AGAIN
    await outbox_retention.look(conn, 0, None, 100)
    async with conn.transaction(isolation="repeatable_read"):
        with pytest.raises(asyncpg.PostgresError, match="READ COMMITTED"):
            await outbox_retention.empty(conn, 0, None)


async def test_a_current_slot_is_neither_looked_into_nor_emptied(
    conn: asyncpg.Connection, closed: asyncpg.Pool
) -> None:
    assert (await outbox_retention.look(conn, 1, None, 100)).state is State.OPEN
    assert (await outbox_retention.empty(conn, 1, None)).state is State.AGAIN
    assert not await outbox_retention.turn(conn, 0)


COPIED = "id, created_at, topic, event_type, aggregate_type, aggregate_id, headers, payload, event_id, priority"


async def test_events_are_archived_whole_before_they_go_also_those_that_come_late(
    postgres_url: str, conn: asyncpg.Connection, closed: asyncpg.Pool, publish: Publish, topic: str
) -> None:
    async with connected(postgres_url) as late:
        await conn.execute("UPDATE marty.outbox_slot SET slot = 0")
        await begin_repeatable_read(late)
        await conn.execute("UPDATE marty.outbox_slot SET slot = 1")
        while (await outbox_retention.look(conn, 0, ARCHIVE, 10)).state is not State.DONE:
            pass
        await enqueue(late, topic, "late", 0)
        await late.execute("COMMIT")
    await publish()
    events = await conn.fetch(f"SELECT {COPIED} FROM marty.outbox_0 ORDER BY id")

    done = await janitor(closed, archive=ARCHIVE).run_once()

    assert (done.emptied, done.archived) == ([0], 1)
    assert await conn.fetch(f"SELECT {COPIED} FROM marty.outbox_archive ORDER BY id") == events
    assert len(events) == 26
    assert (
        await conn.fetchval("SELECT count(*) FROM marty.outbox_archive WHERE archived_at > now() - interval '1 hour'")
        == 26
    )


async def test_a_janitor_that_is_killed_at_any_moment_archives_each_event_once(
    postgres_url: str, conn: asyncpg.Connection, closed: asyncpg.Pool, tmp_path: Path
) -> None:
    events = await conn.fetch(f"SELECT {COPIED} FROM marty.outbox_0 ORDER BY id")
    gap, code = 0, -9
    while code == -9:
        # Ever later in the work that is left, which the killed ones before have made less.
        arguments = ["-m", "tests.integration.relay.retention_pass", postgres_url, str(tmp_path / f"{gap}"), str(gap)]
        async with running(arguments, tmp_path / "log") as process:
            code = await process.wait()
        kept = await conn.fetchval("SELECT count(*) FROM marty.outbox_0")
        copies = await conn.fetchval("SELECT to_regclass('marty.outbox_archive') IS NOT NULL") and await conn.fetchval(
            "SELECT count(*) FROM marty.outbox_archive"
        )
        assert kept == 25 or copies == 25
        await free_janitor(conn)
        gap += 3

    assert code == 0
    assert gap > 12
    assert await slots(conn) == {}
    assert await conn.fetch(f"SELECT {COPIED} FROM marty.outbox_archive ORDER BY id") == events


async def test_the_archive_is_never_a_table_that_is_something_else(
    conn: asyncpg.Connection, closed: asyncpg.Pool
) -> None:
    board, stop = Board(), asyncio.Event()
    working = asyncio.create_task(janitor(closed, archive="outbox_held", board=board, pass_seconds=0.05).run(stop))
    (problem,) = await eventually(told(board.current))
    stop.set()
    await working

    assert problem.reason is ProblemReason.OUTBOX_NOT_EMPTIED
    assert "spec.retention.archiveTable: marty.outbox_held is no archive of the outbox" in problem.message
    assert "Choose another name" in problem.message
    assert await slots(conn) == {0: 25}


async def test_every_table_of_martys_own_is_refused_as_an_archive_before_anything_runs(
    conn: asyncpg.Connection,
) -> None:
    tables = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'marty'::regnamespace AND relkind IN ('r', 'p')"
    )
    assert len(tables) > 40
    for table in tables:
        with pytest.raises(InvalidDefinition, match="is a table of Marty's own: use another name"):
            Retention(archive_table=table["relname"])
    Retention(archive_table=ARCHIVE)


async def test_one_janitor_works_and_a_former_one_can_do_nothing(
    conn: asyncpg.Connection, closed: asyncpg.Pool
) -> None:
    one, other = janitor(closed), janitor(closed)
    await one._claim()
    assert (await other.run_once()).emptied == []

    await conn.execute("UPDATE marty.lease SET epoch = epoch + 1, holder = 'other' WHERE scope = 'outbox-retention'")
    with pytest.raises(LeaseLost):
        async with one._transaction():
            pass
    assert await slots(conn) == {0: 25}


async def test_who_may_enqueue_events_may_not_touch_slots(conn: asyncpg.Connection) -> None:
    role = f"tenant_{secrets.token_hex(4)}"
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA marty TO {role}; SET ROLE {role}")
    for call in ("turn_outbox_slot(0)", "look_into_outbox_slot(0, NULL, 1)", "empty_outbox_slot(0, NULL)"):
        async with conn.transaction():
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with conn.transaction():
                    await conn.execute(f"SELECT marty.{call}")
    await transaction.rollback()
