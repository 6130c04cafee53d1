"""Kafka as an input: topics that come and go, partitions that are added, positions that are lost."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as ForeignPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from marty_msf.core.errors import BrokerUnavailable
from marty_msf.core.worker_status import Problem, ProblemReason
from marty_msf.store.database import open_pool
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.kafka_input import KafkaInput
from tests.integration.projection.support import (
    SCOPE,
    applied,
    context,
    created,
    projecting,
    publish,
    rows,
    spec,
)
from tests.support import kafka
from tests.support.broker import broker
from tests.support.processes import free_port
from tests.support.waiting import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.kafka]

Topics = Callable[..., str]


async def test_a_missing_topic_is_named_and_read_as_soon_as_it_appears(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    there, later = topic_factory("orders", partitions=1), topic_factory("orders", partitions=1)
    kafka.delete_topics(kafka_bootstrap, [later])
    publish(kafka_bootstrap, there, [created(1)])

    async with projecting(postgres_url, spec(kafka_bootstrap, there, later)) as running:
        # The other topic is not held up.
        await eventually(lambda: applied(conn), lambda count: count == 1)
        (problem,) = running.board.current()
        assert problem.reason is ProblemReason.TOPIC_UNAVAILABLE
        assert not problem.blocking
        assert later in problem.message
        assert "create it" in problem.message
        kafka.create_topic(kafka_bootstrap, later, 2)
        publish(kafka_bootstrap, later, [created(2)])
        await eventually(lambda: applied(conn), lambda count: count == 2)
        assert running.board.current() == []


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_what_other_producers_compress_is_read(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics, compression: str
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(n) for n in range(50)], compression=compression)
    async with projecting(postgres_url, spec(kafka_bootstrap, topic)):
        await eventually(lambda: applied(conn), lambda count: count == 50)
    assert len(await rows(conn)) == 50


async def test_only_committed_kafka_transactions_are_read(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": topic})
    await asyncio.to_thread(producer.init_transactions, 30)
    for number, end in ((1, producer.abort_transaction), (2, producer.commit_transaction)):
        producer.begin_transaction()
        event = created(number)
        producer.produce(topic, key=event.key, value=json.dumps(event.payload).encode(), headers=event.headers())
        await asyncio.to_thread(producer.flush, 30)
        await asyncio.to_thread(end, 30)
    async with projecting(postgres_url, spec(kafka_bootstrap, topic)) as running:
        await eventually(lambda: rows(conn), lambda found: "o-2" in found)
        # The markers at the end of transactions are offsets too: they are passed, not lagged behind.
        await eventually(running.kafka.lag, lambda lag: lag.events == 0)
    assert set(await rows(conn)) == {"o-2"}


async def test_a_broker_that_does_not_answer_is_named_and_retried(postgres_url: str) -> None:
    servers = f"127.0.0.1:{free_port()}"
    pool = await open_pool(postgres_url, 2, "test")
    own = context(pool, "pod-1/a")
    source = KafkaInput(own, role="projection", connection=KafkaConnection(servers), topics=["orders"])
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(source.run(stop))
        await source.looked.wait()
        (problem,) = own.board.current()
        assert problem.reason is ProblemReason.BROKER_UNAVAILABLE
        assert problem.blocking
        assert servers in problem.message
        assert await source.next(10, 0.01) is None
        with pytest.raises(BrokerUnavailable):
            await source.lag()
        stop.set()
    await pool.close()


async def test_new_partitions_are_read_from_their_first_event(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    publish(kafka_bootstrap, topic, [created(1)])
    async with projecting(postgres_url, spec(kafka_bootstrap, topic)) as running:
        await eventually(lambda: applied(conn), lambda count: count == 1)
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
        await asyncio.to_thread(publish, kafka_bootstrap, topic, [created(2), created(3)], 2)
        await eventually(lambda: applied(conn), lambda count: count == 3)
        assert running.kafka.owned == 3


async def test_events_that_retention_removed_stop_the_partition_until_a_person_accepts_the_gap(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=2)
    value = spec(kafka_bootstrap, topic)
    publish(kafka_bootstrap, topic, [created(1)], partition=0)
    async with projecting(postgres_url, value):
        await eventually(lambda: applied(conn), lambda count: count == 1)
    publish(kafka_bootstrap, topic, [created(n) for n in range(2, 6)], partition=0)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    removed = ForeignPartition(topic, 0, 4)
    admin.delete_records([removed])[removed].result(30)
    publish(kafka_bootstrap, topic, [created(100)], partition=1)

    async with projecting(postgres_url, value) as running:
        await eventually(lambda: applied(conn), lambda count: count == 2)
        (problem,) = running.board.current()
        assert problem.reason is ProblemReason.POSITION_LOST
        assert not problem.blocking
        for part in (topic, "partition 0", "stored offset 1", "4..5", "retention", "marty.kafka_position"):
            assert part in problem.message
        assert set(await rows(conn)) == {"o-1", "o-100"}
        assert (await running.kafka.lag()).events == 4

        await conn.execute(
            "UPDATE marty.kafka_position SET next_offset = 4 WHERE scope = $1 AND topic = $2 AND partition = 0",
            SCOPE,
            topic,
        )
        await eventually(lambda: applied(conn), lambda count: count == 6)
        await eventually(lambda: _current(running.board.current()), lambda current: not current)
    assert set(await rows(conn)) == {"o-1", "o-5", "o-100"}


async def test_retention_that_passes_a_reading_worker_is_noticed_too(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=1)
    async with projecting(postgres_url, spec(kafka_bootstrap, topic), drive=False) as running:
        await eventually(lambda: _owned(running.kafka), lambda owned: owned == 1)
        await running.projector.run_once()
        # Between two fetches: the worker is not reading, retention removes what it has not seen.
        publish(kafka_bootstrap, topic, [created(n) for n in range(5)])
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        removed = ForeignPartition(topic, 0, 5)
        running.kafka.rewind()
        admin.delete_records([removed])[removed].result(30)
        await eventually(running.projector.run_once, lambda _: bool(running.board.current()))
        (problem,) = running.board.current()
    assert problem.reason is ProblemReason.POSITION_LOST
    assert problem.blocking
    assert await rows(conn) == {}


async def test_lag_is_the_distance_to_the_real_head_also_of_partitions_that_others_own(
    postgres_url: str, conn: asyncpg.Connection, kafka_bootstrap: str, topic_factory: Topics
) -> None:
    topic = topic_factory("orders", partitions=2)
    value = spec(kafka_bootstrap, topic)
    async with projecting(postgres_url, value, drive=False) as running:
        async with projecting(postgres_url, value, holder="pod-2/b", drive=False) as other:

            async def shares() -> tuple[int, int]:
                return running.kafka.owned, other.kafka.owned

            await eventually(shares, lambda owned: owned == (1, 1))
            publish(kafka_bootstrap, topic, [created(n) for n in range(3)], partition=0)
            publish(kafka_bootstrap, topic, [created(n) for n in range(4)], partition=1)
            lags = [
                await eventually(source.lag, lambda lag: lag.events == 7) for source in (running.kafka, other.kafka)
            ]
        assert all(0 < lag.seconds < 60 for lag in lags)


async def test_a_broker_that_is_killed_is_reported_and_read_on_when_it_is_back(
    postgres_url: str, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    async with broker(tmp_path) as own:
        kafka.create_topic(own.bootstrap, "orders", 2)
        publish(own.bootstrap, "orders", [created(n) for n in range(20)])
        async with projecting(postgres_url, spec(own.bootstrap, "orders")) as running:
            await eventually(lambda: applied(conn), lambda count: count == 20)
            await own.kill()
            (problem,) = await eventually(lambda: _current(running.board.current()), bool, seconds=40)
            assert problem.reason is ProblemReason.BROKER_UNAVAILABLE
            await own.start()
            publish(own.bootstrap, "orders", [created(n) for n in range(20, 30)])
            await eventually(lambda: applied(conn), lambda count: count == 30, seconds=40)
            await eventually(lambda: _current(running.board.current()), lambda current: not current)
    assert len(await rows(conn)) == 30


async def _current(problems: Sequence[Problem]) -> Sequence[Problem]:
    return problems


async def _owned(source: KafkaInput) -> int:
    return source.owned
