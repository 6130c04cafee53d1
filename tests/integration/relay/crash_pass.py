"""One recorded pass of the relay in a process of its own, killed before effect number KILL_BEFORE when that is given.

`python -m tests.integration.relay.crash_pass URL BOOTSTRAP JOURNAL [KILL_BEFORE]`
"""

import asyncio
import sys
from pathlib import Path

from tests.integration.relay.setup import drain, make_relay, pool_and_producer, take_lanes
from tests.support.effects import Effects, Recording, RecordingPool

#: Small, so that a pass has several batches, and a window several parts.
BATCH_SIZE = 3
PREFETCH = 6


async def run(url: str, bootstrap: str, journal: Path, kill_before: int | str | None) -> None:
    effects = Effects(journal, kill_before)
    async with pool_and_producer(url, bootstrap) as (pool, producer):
        recorded_pool = RecordingPool(pool, effects)
        recorded_producer = Recording(producer, effects, {"partitions", "send", "acknowledged"}, "kafka")
        relay = make_relay(recorded_pool, recorded_producer, "crashing", batch_size=BATCH_SIZE, prefetch=PREFETCH)
        await take_lanes(pool, relay, "crashing", ttl_seconds=0)
        await drain(relay)
        effects.end()


if __name__ == "__main__":
    _, database_url, kafka, journal_path, *gap = sys.argv
    before = int(gap[0]) if gap and gap[0].isdigit() else gap[0] if gap else None
    asyncio.run(run(database_url, kafka, Path(journal_path), before))
