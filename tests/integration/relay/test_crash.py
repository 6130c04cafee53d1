"""The relay is killed with -9 between every two effects of a pass; its successor loses nothing and keeps the order."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from tests.integration.relay.crash_pass import BATCH_SIZE
from tests.integration.relay.gaps import try_every_gap
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
from tests.support.kafka import Message, read_topic

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]

KEYS = ("a", "b", "c")
EVENTS_PER_KEY = 4
#: The pipeline's depth: what a crash may repeat.
REPEATED_AT_MOST = make_rules().in_flight * BATCH_SIZE
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


async def succeed(url: str, bootstrap: str) -> None:
    async with pool_and_producer(url, bootstrap) as (pool, producer):
        relay = make_relay(pool, producer, "successor")
        assert len(await take_lanes(pool, relay, "successor")) == 64
        await drain(relay)


async def test_nothing_is_lost_and_order_kept_whatever_the_gap(
    migrated_template: str, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    async def then(url: str, topic: str, where: str) -> None:
        await succeed(url, kafka_bootstrap)
        nothing_lost_and_in_order(read_topic(kafka_bootstrap, topic), where)

    await try_every_gap(
        "tests.integration.relay.crash_pass",
        KINDS,
        SHORTEST_PASS,
        migrated_template,
        kafka_bootstrap,
        topic_factory,
        tmp_path,
        given=given_events,
        then=then,
    )


def nothing_lost_and_in_order(messages: list[Message], where: str) -> None:
    assert discarding_late_ones(messages) == {key: list(range(EVENTS_PER_KEY)) for key in KEYS}, where
    assert len(messages) <= len(KEYS) * EVENTS_PER_KEY + REPEATED_AT_MOST, where
    for numbers in numbers_by_key(messages).values():
        restarts = sum(later < earlier for earlier, later in pairwise(numbers))
        assert restarts <= 1, f"{where}: {numbers} is not a run that starts again once"
    assert len({message.headers["ce_id"] for message in messages}) == len(KEYS) * EVENTS_PER_KEY, where
