"""The relay is killed with -9 between every two effects of a pass; its successor loses nothing and keeps the order."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from marty_msf.worker.relay.pipeline import IN_FLIGHT
from tests.integration.relay.crash_pass import BATCH_SIZE
from tests.integration.relay.setup import (
    discarding_late_ones,
    drain,
    enqueue,
    make_relay,
    numbers_by_key,
    pool_and_producer,
    take_lanes,
)
from tests.support.effects import killed_in, recorded
from tests.support.kafka import Message, read_topic
from tests.support.postgres import database
from tests.support.processes import running

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]

KEYS = ("a", "b", "c")
EVENTS_PER_KEY = 4
#: The pipeline's depth: what a crash may repeat.
REPEATED_AT_MOST = IN_FLIGHT * BATCH_SIZE


async def given_events(url: str, topic: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        for number in range(EVENTS_PER_KEY):
            for key in KEYS:
                await enqueue(conn, topic, key, number)
    finally:
        await conn.close()


async def crashing_pass(url: str, bootstrap: str, journal: Path, gap: int | None) -> None:
    arguments = ["-m", "tests.integration.relay.crash_pass", url, bootstrap, str(journal)]
    async with running([*arguments, *([] if gap is None else [str(gap)])], journal.with_suffix(".log")) as process:
        code = await process.wait(60)
        assert code in (0, -9), process.output()


async def succeed(url: str, bootstrap: str) -> None:
    async with pool_and_producer(url, bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "successor")
        assert len(await take_lanes(pool, relay, "successor")) == 64
        await drain(relay)


async def test_nothing_is_lost_and_order_kept_whatever_the_gap(
    migrated_template: str, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    journal = tmp_path / "recorded"
    async with database(migrated_template) as url:
        await given_events(url, topic_factory("whole"))
        await crashing_pass(url, kafka_bootstrap, journal, None)
    effects = recorded(journal)
    kinds = " | ".join(effects)
    for kind in ("WITH found AS MATERIALIZED", "kafka partitions", "kafka send", "kafka acknowledged", "WITH fenced"):
        assert kind in kinds, f"the pass recorded no {kind}: {kinds}"

    # Two at a time: most of a try is the start of a process.
    lanes = asyncio.Semaphore(2)

    async def try_gap(gap: int) -> int:
        async with lanes:
            # Settling and reading overlap, so a pass may need one effect less: then the gap is tried with another pass.
            for attempt in range(5):
                topic = topic_factory(f"gap{gap}")
                journal = tmp_path / f"gap{gap}-{attempt}"
                async with database(migrated_template) as url:
                    await given_events(url, topic)
                    await crashing_pass(url, kafka_bootstrap, journal, gap)
                    if killed_in(journal) == gap:
                        await succeed(url, kafka_bootstrap)
                        nothing_lost_and_in_order(read_topic(kafka_bootstrap, topic), f"gap {gap} ({effects[gap]})")
                        return gap
            raise AssertionError(f"gap {gap} ({effects[gap]}) was never reached")

    tried = await asyncio.gather(*(try_gap(gap) for gap in range(len(effects))))
    assert list(tried) == list(range(len(effects)))


def nothing_lost_and_in_order(messages: list[Message], where: str) -> None:
    assert discarding_late_ones(messages) == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}, where
    assert len(messages) <= len(KEYS) * EVENTS_PER_KEY + REPEATED_AT_MOST, where
    for numbers in numbers_by_key(messages).values():
        restarts = sum(later < earlier for earlier, later in pairwise(numbers))
        assert restarts <= 1, f"{where}: {numbers} is not a run that starts again once"
    assert len({message.headers["ce_id"] for message in messages}) == len(KEYS) * EVENTS_PER_KEY, where
