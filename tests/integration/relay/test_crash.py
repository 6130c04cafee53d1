"""The relay is killed with -9 between every two effects of a pass; its successor loses nothing and keeps the order."""

import asyncio
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
    make_rules,
    numbers_by_key,
    pool_and_producer,
    take_lanes,
)
from tests.support.effects import killed_before, killed_in, recorded
from tests.support.kafka import Message, read_topic
from tests.support.postgres import database
from tests.support.processes import running

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]

KEYS = ("a", "b", "c")
EVENTS_PER_KEY = 4
#: The pipeline's depth: what a crash may repeat.
REPEATED_AT_MOST = make_rules().in_flight * BATCH_SIZE
RECORDED_PASSES = 2
#: Four batches, each described, sent and acknowledged, read in two parts; positions written at least once.
SHORTEST_PASS = 16
KINDS = (
    "WITH found AS MATERIALIZED",
    "SELECT id, lane",
    "kafka partitions",
    "kafka send",
    "kafka acknowledged",
    "WITH fenced",
    "end of the pass",
)


async def given_events(url: str, topic: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        for number in range(EVENTS_PER_KEY):
            for key in KEYS:
                await enqueue(conn, topic, key, number)
    finally:
        await conn.close()


async def crashing_pass(url: str, bootstrap: str, journal: Path, gap: int | str | None) -> None:
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
    passes = []
    for number in range(RECORDED_PASSES):
        journal = tmp_path / f"recorded{number}"
        async with database(migrated_template) as url:
            await given_events(url, topic_factory("whole"))
            await crashing_pass(url, kafka_bootstrap, journal, None)
        passes.append(recorded(journal))

    # Two at a time: most of a try is the start of a process.
    lanes = asyncio.Semaphore(2)

    async def try_gap(gap: int | str) -> str | None:
        """The effect before which the relay was killed; None when no pass was that long (had such an effect)."""
        async with lanes:
            for attempt in range(5):
                topic = topic_factory(f"gap{number_of(gap)}")
                journal = tmp_path / f"gap{number_of(gap)}-{attempt}"
                async with database(migrated_template) as url:
                    await given_events(url, topic)
                    await crashing_pass(url, kafka_bootstrap, journal, gap)
                    if killed_in(journal) == gap or (isinstance(gap, str) and killed_in(journal) is not None):
                        effect = killed_before(journal)
                        await succeed(url, kafka_bootstrap)
                        nothing_lost_and_in_order(read_topic(kafka_bootstrap, topic), f"gap {gap} ({effect})")
                        return effect
                passes.append(recorded(journal))
            return None

    tried = await asyncio.gather(*(try_gap(gap) for gap in range(max(map(len, passes)))))
    # Reading, sending and settling overlap, so passes differ in length by a read or a position more or less. Every gap
    # that every whole pass has must have been tried, and a gap before each kind of effect.
    certain = min(map(len, passes))
    assert certain >= SHORTEST_PASS, passes
    assert all(tried[:certain]), f"gap {tried.index(None)} of {certain} was not tried"
    # Where a kind comes differs from pass to pass: what the numbers missed is tried by its name.
    missed = [kind for kind in KINDS if not any(kind in effect for effect in tried if effect)]
    for kind, effect in zip(missed, await asyncio.gather(*map(try_gap, missed)), strict=True):
        assert effect, f"no pass had an effect {kind}"
        assert kind in effect


def number_of(gap: int | str) -> int:
    """For names of files and topics."""
    return gap if isinstance(gap, int) else 1000 + KINDS.index(gap)


def nothing_lost_and_in_order(messages: list[Message], where: str) -> None:
    assert discarding_late_ones(messages) == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}, where
    assert len(messages) <= len(KEYS) * EVENTS_PER_KEY + REPEATED_AT_MOST, where
    for numbers in numbers_by_key(messages).values():
        restarts = sum(later < earlier for earlier, later in pairwise(numbers))
        assert restarts <= 1, f"{where}: {numbers} is not a run that starts again once"
    assert len({message.headers["ce_id"] for message in messages}) == len(KEYS) * EVENTS_PER_KEY, where
