"""One recorded pass of the relay and its sender of held events, with a delayed event and an urgent one; killed before
effect number KILL_BEFORE when that is given.

`python -m tests.integration.relay.crash_held_pass URL BOOTSTRAP JOURNAL [KILL_BEFORE]`
"""

import asyncio
import sys
from pathlib import Path

from marty_msf.worker.broker.producer import KafkaProducer
from marty_msf.worker.relay.held_sender import HeldSender
from marty_msf.worker.relay.shared import Shared
from tests.integration.relay.setup import (
    RESOURCE,
    SCOPE,
    drain,
    make_relay,
    make_rules,
    pool_and_producer,
    take_lanes,
)
from tests.support.effects import Effects, Recording, RecordingPool

BATCH_SIZE = 3
PREFETCH = 6
PRODUCER = {"partitions", "send", "acknowledged"}


async def run(url: str, bootstrap: str, journal: Path, kill_before: int | str | None) -> None:
    effects = Effects(journal, kill_before)
    shared = Shared("test")
    async with pool_and_producer(url, bootstrap) as (pool, producer), pool_and_producer(url, bootstrap) as (_, other):
        recorded_pool = RecordingPool(pool, effects)
        relay = make_relay(
            recorded_pool,
            Recording(producer, effects, PRODUCER, "kafka"),
            "crashing",
            batch_size=BATCH_SIZE,
            prefetch=PREFETCH,
            shared=shared,
        )
        sender = HeldSender(
            recorded_pool,
            lambda: _started(Recording(other, effects, PRODUCER, "held kafka")),
            scope=SCOPE,
            holder="crashing",
            resource=RESOURCE,
            rules=make_rules(),
            shared=shared,
            dead_letter_topic=None,
        )
        await take_lanes(pool, relay, "crashing", ttl_seconds=0)
        await drain(relay)
        # Its time has come; nobody of the product is asked to wait for it.
        await pool.execute("UPDATE marty.outbox_held SET deliver_after = now(), due_at = now() WHERE state = 'Delayed'")
        while not (await sender.run_once()).idle:
            pass
        effects.end()


class _Started:
    """A producer that was started already."""

    def __init__(self, producer: Recording) -> None:
        self._producer = producer

    async def start(self) -> None:
        """It was."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._producer, name)


def _started(producer: Recording) -> KafkaProducer:
    return _Started(producer)  # type: ignore[return-value]


if __name__ == "__main__":
    _, database_url, kafka, journal_path, *gap = sys.argv
    before = int(gap[0]) if gap and gap[0].isdigit() else gap[0] if gap else None
    asyncio.run(run(database_url, kafka, Path(journal_path), before))
