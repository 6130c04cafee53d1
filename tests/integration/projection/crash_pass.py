"""The projection's work as a process of its own, killed before effect number KILL_BEFORE (`-`: never).

python -m tests.integration.projection.crash_pass URL BOOTSTRAP TOPIC EVENTS JOURNAL KILL_BEFORE
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from marty_msf.core.resources.kinds import Role
from marty_msf.store.database import open_pool
from marty_msf.worker.broker.connection import KafkaConnection
from marty_msf.worker.kafka_input import KafkaInput
from marty_msf.worker.projection.projector import Projector
from tests.integration.projection.support import BATCH, SCOPE, context, prepare, spec
from tests.support.effects import Effects, RecordingConnection, RecordingPool


class _PositionEffects:
    """Only the input's writes of positions: its leases are renewed by the clock, between any two effects."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    def before(self, name: str) -> None:
        if "kafka_position" in name:
            self._effects.before(name)


class _InputPool(RecordingPool):
    @asynccontextmanager
    async def acquire(self, **options: Any) -> AsyncIterator[RecordingConnection]:
        async with self._pool.acquire(**options) as conn:
            yield RecordingConnection(conn, _PositionEffects(self._effects))  # type: ignore[arg-type]


async def work(url: str, bootstrap: str, topic: str, events: int, effects: Effects) -> None:
    """Read and store batch after batch, one after the other, so that the order of the effects is always the same."""
    pool: Any = await open_pool(url, 6, "crash")
    value = spec(bootstrap, topic, batch_size=BATCH)
    recording: Any = RecordingPool(pool, effects)
    await prepare(recording, value)
    source = KafkaInput(
        context(_InputPool(pool, effects), "pod-1/a"),
        role=Role.PROJECTION.value,
        connection=KafkaConnection(bootstrap),
        topics=[topic],
    )
    projector = Projector(recording, source, value, SCOPE)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(source.run(stop))
        while events:
            events -= (await projector.run_once()).read
            await projector.finish()
        effects.end()
        stop.set()
    await pool.close()


if __name__ == "__main__":
    own_url, own_bootstrap, own_topic, count, journal, kill_before = sys.argv[1:]
    gap = None if kill_before == "-" else int(kill_before)
    asyncio.run(work(own_url, own_bootstrap, own_topic, int(count), Effects(Path(journal), gap)))
