"""One pass of the janitor as a process of its own: `python -m tests.integration.relay.retention_pass URL JOURNAL NUMBER`.

It keeps an archive, copies ten events at a time, and kills itself before effect NUMBER.
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from marty_msf.store.database import open_pool
from marty_msf.worker.board import Board
from marty_msf.worker.relay.janitor import Janitor
from marty_msf.worker.relay.retention_numbers import RetentionNumbers
from tests.support.effects import Effects, RecordingPool


async def run_pass(url: str, effects: Effects) -> None:
    plain = await open_pool(url, 4, "test")
    pool: Any = RecordingPool(plain, effects)
    numbers = RetentionNumbers(CollectorRegistry())
    janitor = Janitor(pool, "pass/1", timedelta(hours=24), "outbox_archive", Board(), numbers, chunk=10)
    await janitor.run_once()
    effects.end()
    await plain.close()


if __name__ == "__main__":
    _, database_url, journal, *kill = sys.argv
    asyncio.run(run_pass(database_url, Effects(Path(journal), int(kill[0]) if kill else None)))
