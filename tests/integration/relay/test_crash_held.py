"""As test_crash, for events that do not go their lane's way: held ones, and urgent ones that go ahead."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

from marty_msf.worker.relay.shared import Shared
from tests.integration.relay.gaps import try_every_gap
from tests.integration.relay.setup import (
    discarding_late_ones,
    drain,
    enqueue,
    held_sender,
    make_relay,
    numbers_by_key,
    pool_and_producer,
    take_lanes,
)
from tests.support.kafka import read_topic

pytestmark = [pytest.mark.postgres, pytest.mark.kafka, pytest.mark.timeout(300)]

NUMBERS = list(range(4))
KINDS = ("WITH given AS (", "INSERT INTO marty.outbox_ahead", "DELETE FROM marty.outbox_ahead",
         "DELETE FROM marty.outbox_held", "held kafka acknowledged", "held kafka send", "end of the pass")  # fmt: skip


async def given_events(url: str, topic: str) -> None:
    """Aggregate `late` waits for a time from its second event on; `new` is urgent, behind two reads of others."""
    conn = await asyncpg.connect(url)
    try:
        for number in NUMBERS:
            after = "now() + interval '1 hour'" if number == 1 else "NULL"
            await conn.execute(
                f"SELECT marty.enqueue_event($1, 'e', jsonb_build_object('n', $2::int), 'late', deliver_after => {after})",
                topic,
                number,
            )
            for key in "abc":
                await enqueue(conn, topic, key, number)
        for number in NUMBERS:
            await conn.execute(
                "SELECT marty.enqueue_event($1, 'e', jsonb_build_object('n', $2::int), 'new', priority => $3)",
                topic,
                number,
                "high" if number == NUMBERS[-1] else "normal",
            )
    finally:
        await conn.close()


async def test_nothing_held_or_urgent_is_lost_and_order_is_kept_whatever_the_gap(
    migrated_template: str, kafka_bootstrap: str, topic_factory: Callable[..., str], tmp_path: Path
) -> None:
    async def then(url: str, topic: str, where: str) -> None:
        conn = await asyncpg.connect(url)
        shared = Shared("test")
        try:
            async with (
                pool_and_producer(url, kafka_bootstrap) as (pool, producer),
                held_sender(pool, kafka_bootstrap, "successor", shared) as sender,
            ):
                relay = make_relay(pool, producer, "successor", shared=shared)
                assert len(await take_lanes(pool, relay, "successor")) == 64
                await drain(relay)
                await conn.execute(
                    "UPDATE marty.outbox_held SET deliver_after = now(), due_at = now() WHERE state = 'Delayed'"
                )
                while not (await sender.run_once()).idle:
                    pass
            left = await conn.fetchrow(
                "SELECT (SELECT count(*) FROM marty.outbox_held), (SELECT count(*) FROM marty.outbox_ahead),"
                " (SELECT sum(held)::int FROM marty.outbox_position), (SELECT sum(published_total)::int FROM marty.outbox_position)"
            )
            assert tuple(left) == (0, 0, 0, 20), where
        finally:
            await conn.close()
        messages = read_topic(kafka_bootstrap, topic)
        assert discarding_late_ones(messages) == dict.fromkeys((*"abc", "late", "new"), NUMBERS), where
        for numbers in numbers_by_key(messages).values():
            assert sum(later < earlier for earlier, later in pairwise(numbers)) <= 1, f"{where}: {numbers}"

    await try_every_gap(
        "tests.integration.relay.crash_held_pass",
        KINDS,
        40,
        migrated_template,
        kafka_bootstrap,
        topic_factory,
        tmp_path,
        given=given_events,
        then=then,
    )
