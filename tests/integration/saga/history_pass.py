"""One pass of the janitor as a process of its own: `python -m tests.integration.saga.history_pass URL JOURNAL [KILL_BEFORE]`.

With KILL_BEFORE it kills itself before the first effect whose name contains it.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from marty_msf.core.saga import rotation
from marty_msf.worker.board import Board
from marty_msf.worker.saga.history.janitor import Janitor
from marty_msf.worker.saga.metrics import HistoryNumbers
from tests.integration.saga.sagas import RESOURCE, pool_of
from tests.support.effects import Effects, RecordingPool


async def run_pass(url: str, effects: Effects) -> None:
    async with pool_of(url) as plain:
        pool: Any = RecordingPool(plain, effects)
        janitor = Janitor(pool, RESOURCE, "pass/1", 168, Board(), HistoryNumbers(CollectorRegistry()))
        await janitor.register()
        await janitor.run_once()


if __name__ == "__main__":
    _, database_url, journal, *kill = sys.argv
    # The partitions of a test are small.
    rotation.LEAST_FREED_BYTES = 100_000  # type: ignore[misc]
    asyncio.run(run_pass(database_url, Effects(Path(journal), kill[0] if kill else None)))
