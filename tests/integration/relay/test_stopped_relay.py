"""Correctness 6: a relay's process is stopped for longer than its lease lasts, wakes up, and goes on where it was."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.worker_status import ProblemReason
from tests.integration.relay.setup import make_rules, relay_config
from tests.integration.relay.writers import check_all_published, holders, prepare, unpublished, write_all
from tests.support.kafka import read_topic
from tests.support.waiting import eventually
from tests.support.workers import worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(240)]


async def test_a_stopped_relay_that_wakes_up_cannot_mark_and_order_is_kept(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Naive: it sends what it had read, marks it, and counts it a second time; its position takes the lane back to where
    it had been, and everything since comes again. Here it marks nothing (the database refuses it, unless it finds out
    before that it lost its lanes), and its late bytes are discarded."""
    topic = topic_factory("stopped", partitions=5)
    await prepare(conn)
    # Batches linger, so that some are always on their way when the process is stopped.
    kafka = {"bootstrapServers": kafka_bootstrap, "producer": {"lingerMs": 100}}
    config = relay_config(
        tmp_path / "config.json",
        kafka_bootstrap,
        kafka=kafka,
        batchSize=50,
        prefetchCount=200,
        batchTimeoutMs=60_000,
        enableBatchOptimization=False,
    )
    async with worker(config, postgres_url, tmp_path, "first") as first:
        await eventually(lambda: holders(conn), lambda found: found == {"first": 64})
        writing = asyncio.create_task(write_all(postgres_url, topic, seed=11))
        await eventually(first.published, lambda count: count > 200)
        first.process.send(signal.SIGSTOP)
        try:
            async with worker(config, postgres_url, tmp_path, "second") as second:
                await eventually(lambda: holders(conn), lambda found: found == {"second": 64}, seconds=30)
                before = await second.published()
                await eventually(second.published, lambda count: count > before + 500, seconds=30)
                # The newer events of its lanes are in Kafka; now its own come late.
                first.process.send(signal.SIGCONT)
                await eventually(lambda: holders(conn), lambda found: found == {"first": 32, "second": 32}, seconds=30)
                await writing
                await eventually(lambda: unpublished(conn), lambda left: left <= 0, seconds=60)
                assert await first.reasons() == await second.reasons() == set[ProblemReason]()
        finally:
            first.process.send(signal.SIGCONT)
        assert await unpublished(conn) == 0, "something was marked twice"
    repeated = check_all_published(read_topic(kafka_bootstrap, topic), repeated_at_most=2 * make_rules().in_flight * 50)
    assert repeated > 0, "nothing was on its way when it was stopped"
