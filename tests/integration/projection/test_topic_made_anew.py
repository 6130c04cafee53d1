"""A topic that was deleted and made anew is never taken for the one before, however far it has grown."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest

from marty_msf.core.errors import LeaseLost
from marty_msf.core.worker_status import Problem, ProblemReason
from marty_msf.store import positions
from marty_msf.store.database import open_pool
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.broker.consumer import Consumer, Fetched
from marty_msf.worker.kafka_assignment import Assignment
from marty_msf.worker.kafka_partitions import Partitions
from tests.integration.projection.support import SCOPE, Running, applied, created, projecting, publish, rows, spec
from tests.support import kafka
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

Topics = Callable[..., str]


async def test_grown_past_the_stored_offset_while_no_worker_ran_nothing_is_skipped(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=2)
    value = spec(kafka_bootstrap, topic)
    for partition in (0, 1):
        publish(kafka_bootstrap, topic, [created(n) for n in range(2)], partition)
    async with projecting(postgres_url, value):
        await eventually(lambda: applied(conn), lambda count: count == 4)
    await asyncio.to_thread(kafka.recreate_topic, kafka_bootstrap, topic, 2)
    publish(kafka_bootstrap, topic, [created(n) for n in range(10, 15)], partition=0)
    publish(kafka_bootstrap, topic, [created(n) for n in range(20, 25)], partition=1)

    async with projecting(postgres_url, value) as running:
        problem = await _lost(running)
        assert problem.blocking
        assert topic in problem.message
        # Both partitions stand still for the same reason, and one statement mends both.
        assert problem.message.count("UPDATE") == 1
        # None of the new topic's events is applied, whatever the old positions say.
        await eventually(running.kafka.lag, lambda lag: lag.events == 10)
        assert await applied(conn) == 4
        assert set(await rows(conn)) == {"o-0", "o-1"}

        await conn.execute(_statement(problem))
        await eventually(lambda: applied(conn), lambda count: count == 10)
        await eventually(lambda: _problems(running), lambda problems: not problems)
        assert (await running.kafka.lag()).events == 0
    assert set(await rows(conn)) == {f"o-{n}" for n in (0, 1, *range(10, 15), *range(20, 25))}


async def test_made_anew_under_a_reading_worker_nothing_is_skipped(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic, other = topic_factory("orders", partitions=1), topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(1), created(2)])
    async with projecting(postgres_url, spec(kafka_bootstrap, topic, other)) as running:
        await eventually(lambda: applied(conn), lambda count: count == 2)
        await asyncio.to_thread(_recreate_and_publish, kafka_bootstrap, topic, range(10, 20))
        problem = await _lost(running)
        assert not problem.blocking
        # The other topic flows on.
        publish(kafka_bootstrap, other, [created(100)])
        await eventually(lambda: rows(conn), lambda found: "o-100" in found)
        assert set(await rows(conn)) == {"o-1", "o-2", "o-100"}

        await conn.execute(_statement(problem))
        await eventually(lambda: rows(conn), lambda found: len(found) == 13)
        await eventually(lambda: _problems(running), lambda problems: not problems)

        # And once more: the id that was noted after the remedy is compared too.
        await asyncio.to_thread(_recreate_and_publish, kafka_bootstrap, topic, range(30, 50))
        await _lost(running)
    assert len(await rows(conn)) == 13


async def test_events_fetched_from_the_new_topic_are_not_given_out_under_the_old_position(
    postgres_url: str, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(1), created(2)])
    pool = await open_pool(postgres_url, 2, "test")
    consumer = Consumer(KafkaConnection(kafka_bootstrap), "test")
    await consumer.start()
    partitions = Partitions()
    partitions.gained({(topic, 0): 1})
    assignment = Assignment(pool, SCOPE, [topic], partitions)
    await assignment.assign(consumer)

    async def fetch() -> Fetched:
        return await consumer.fetch(100, 0.1)

    old = await eventually(fetch, lambda fetched: bool(fetched.records))
    assert await assignment.proven(consumer, old) is old
    assert partitions.give_out(old, {(topic, 0): 1}) is not None

    await asyncio.to_thread(_recreate_and_publish, kafka_bootstrap, topic, range(10, 15))
    # Kafka answers by name: what comes are the new topic's events from the old position on, the first two are skipped.
    new = await eventually(fetch, lambda fetched: bool(fetched.records))
    assert [record.offset for record in new.records] == [2, 3, 4]
    proven = await assignment.proven(consumer, new)
    await consumer.stop()
    await pool.close()

    assert not proven.records
    assert partitions.give_out(proven, {(topic, 0): 1}) is None
    assert partitions.lost[topic, 0].anew


async def test_a_position_without_an_id_gets_it_when_it_is_read_from_and_goes_on(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=2)
    value = spec(kafka_bootstrap, topic)
    publish(kafka_bootstrap, topic, [created(1)], partition=0)
    async with projecting(postgres_url, value):
        await eventually(lambda: applied(conn), lambda count: count == 1)
    (noted,) = await _ids(conn)
    assert noted is not None
    # As a worker before this version left it.
    await conn.execute("UPDATE marty.kafka_position SET topic_id = NULL")
    publish(kafka_bootstrap, topic, [created(2)], partition=0)

    async with projecting(postgres_url, value) as running:
        await eventually(lambda: applied(conn), lambda count: count == 2)
        assert running.board.current() == []
    assert await _ids(conn) == {noted}


async def test_what_was_read_of_a_former_topic_does_not_move_the_position_in_the_new_one(
    conn: asyncpg.Connection,
) -> None:
    former, new = uuid4(), uuid4()
    await positions.begin(conn, SCOPE, {("orders", 0): positions.Start(0, new)})

    with pytest.raises(LeaseLost):
        await positions.advance(conn, SCOPE, [positions.Move("orders", 0, 0, 5, None, former)])
    await positions.advance(conn, SCOPE, [positions.Move("orders", 0, 0, 5, None, new)])
    assert await applied(conn) == 5


async def test_an_id_is_only_noted_in_a_position_that_has_none_and_has_not_moved(conn: asyncpg.Connection) -> None:
    known, other = uuid4(), uuid4()
    starts = {("orders", n): positions.Start(0, known if n == 0 else None) for n in range(3)}
    await positions.begin(conn, SCOPE, starts)

    await positions.adopt(conn, SCOPE, {("orders", n): positions.Start(n // 2, other) for n in range(3)})

    stored = await positions.load(conn, SCOPE, ["orders"])
    assert [stored["orders", n].topic_id for n in range(3)] == [known, other, None]


def _recreate_and_publish(bootstrap: str, topic: str, numbers: range) -> None:
    kafka.recreate_topic(bootstrap, topic, 1)
    publish(bootstrap, topic, [created(n) for n in numbers])


async def _lost(running: Running) -> Problem:
    """The problem, once it is told; it names the topic's new birth and what a person can do."""

    def told(problems: Sequence[Problem]) -> bool:
        return [problem.reason for problem in problems] == [ProblemReason.POSITION_LOST]

    (problem,) = await eventually(lambda: _problems(running), told)
    assert "made anew" in problem.message
    return problem


def _statement(problem: Problem) -> str:
    """What the message tells a person to run."""
    return problem.message[problem.message.index("UPDATE") :]


async def _problems(running: Running) -> Sequence[Problem]:
    return running.board.current()


async def _ids(conn: asyncpg.Connection) -> set[UUID | None]:
    return {row["topic_id"] for row in await conn.fetch("SELECT topic_id FROM marty.kafka_position")}
