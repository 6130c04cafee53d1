"""The relay is killed with -9 between every two effects of a pass; its successor loses nothing and keeps the order."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

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
from tests.support.kafka import read_topic
from tests.support.postgres import database
from tests.support.processes import running

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]

KEYS = ("a", "b", "c")
EVENTS_PER_KEY = 4
#: The pipeline's depth: what a crash may repeat.
REPEATED_AT_MOST = 8 * BATCH_SIZE


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

    tried = set()
    for gap in range(len(effects)):
        topic = topic_factory(f"gap{gap}")
        # Settling and reading overlap, so a pass may need one effect less: then the gap is tried with another pass.
        for attempt in range(5):
            journal = tmp_path / f"gap{gap}-{attempt}"
            async with database(migrated_template) as url:
                await given_events(url, topic)
                await crashing_pass(url, kafka_bootstrap, journal, gap)
                if killed_in(journal) is None:
                    topic = topic_factory(f"gap{gap}-{attempt}")
                    continue
                tried.add(killed_in(journal))
                await succeed(url, kafka_bootstrap)
            break
        messages = read_topic(kafka_bootstrap, topic)
        everything = {key: list(range(EVENTS_PER_KEY)) for key in KEYS}
        assert discarding_late_ones(messages) == everything, f"gap {gap} ({effects[gap]})"
        assert len(messages) <= len(KEYS) * EVENTS_PER_KEY + REPEATED_AT_MOST
        for numbers in numbers_by_key(messages).values():
            restarts = sum(later < earlier for earlier, later in pairwise(numbers))
            assert restarts <= 1, f"gap {gap}: {numbers} is not a run that starts again once"
        assert len({message.headers["ce_id"] for message in messages}) == len(KEYS) * EVENTS_PER_KEY
    assert tried == set(range(len(effects)))
