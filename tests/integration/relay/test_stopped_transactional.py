"""Correctness 5 and 6 with transactions: a relay is stopped for longer than its lease lasts, wakes up, and another one is
killed with -9 meanwhile. Readers of what is committed see every event once, and in order without discarding anything."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from marty_msf.core.worker_status import ProblemReason
from tests.integration.relay.setup import numbers_by_key, relay_config
from tests.integration.relay.transactional import transactional_kafka
from tests.integration.relay.writers import EVENTS_PER_KEY, KEYS, holders, prepare, unpublished, write_all
from tests.support.kafka import read_topic
from tests.support.waiting import eventually
from tests.support.workers import worker

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]


async def test_stopped_and_killed_relays_show_every_event_once_and_in_order(
    postgres_url: str,
    conn: asyncpg.Connection,
    kafka_bootstrap: str,
    topic_factory: Callable[..., str],
    tmp_path: Path,
) -> None:
    topic = topic_factory("stopped", partitions=5)
    await prepare(conn)
    config = relay_config(
        tmp_path / "config.json",
        kafka_bootstrap,
        kafka=transactional_kafka(kafka_bootstrap),
        batchSize=50,
        prefetchCount=200,
        batchTimeoutMs=60_000,
        enableBatchOptimization=False,
    )
    async with worker(config, postgres_url, tmp_path, "first") as first:
        await eventually(lambda: holders(conn), lambda found: found == {"first": 64})
        writing = asyncio.create_task(write_all(postgres_url, topic, seed=11))
        await eventually(first.published, lambda count: count > 200, seconds=30)
        first.process.send(signal.SIGSTOP)
        try:
            async with worker(config, postgres_url, tmp_path, "second") as second:
                await eventually(lambda: holders(conn), lambda found: found == {"second": 64}, seconds=30)
                before = await second.published()
                await eventually(second.published, lambda count: count > before + 300, seconds=60)
                # What it had on its way comes late, and is refused.
                first.process.send(signal.SIGCONT)
                await eventually(lambda: holders(conn), lambda found: found == {"first": 32, "second": 32}, seconds=40)
                second.process.send(signal.SIGKILL)
                await eventually(lambda: holders(conn), lambda found: found == {"first": 64}, seconds=30)
                async with worker(config, postgres_url, tmp_path, "third"):
                    await writing
                    await eventually(lambda: unpublished(conn), lambda left: left <= 0, seconds=90)
                    assert await first.reasons() == set[ProblemReason]()
        finally:
            first.process.send(signal.SIGCONT)
        assert await unpublished(conn) == 0, "something was marked twice"
    seen = numbers_by_key(read_topic(kafka_bootstrap, topic))
    assert seen == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}
