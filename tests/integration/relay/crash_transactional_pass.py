"""One recorded pass of a relay with transactions, killed before effect number KILL_BEFORE when that is given.

`python -m tests.integration.relay.crash_transactional_pass URL BOOTSTRAP JOURNAL [KILL_BEFORE]`
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.integration.relay.transactional import transactional_relay
from tests.support.effects import Effects, Recording, RecordingPool

#: Small, so that a pass has several batches, and a window several parts.
BATCH_SIZE = 3
PREFETCH = 6


class RecordingSessions(Recording):
    """A transaction is three effects: its events, its commit, and the time behind it."""

    def __init__(self, target: Any, effects: Effects) -> None:
        super().__init__(target, effects, (), "")

    async def transact(self, session: Any, messages: Any, note: Callable[[], Awaitable[str]], sent: Any) -> None:
        async def recorded_note() -> str:
            text = await note()
            self._effects.before("kafka commit")
            return text

        self._effects.before("kafka events")
        await self._target.transact(session, messages, recorded_note, sent)
        self._effects.before("kafka committed")


async def run(url: str, bootstrap: str, journal: Path, kill_before: int | str | None) -> None:
    effects = Effects(journal, kill_before)
    async with transactional_relay(
        url,
        bootstrap,
        "crashing",
        wrap_pool=lambda pool: RecordingPool(pool, effects),
        wrap_sessions=lambda sessions: RecordingSessions(sessions, effects),
        batchSize=BATCH_SIZE,
        prefetchCount=PREFETCH,
    ) as parts:
        await parts.take_lanes(ttl_seconds=0)
        await parts.drain()
        effects.end()


if __name__ == "__main__":
    _, database_url, kafka, journal_path, *gap = sys.argv
    before = int(gap[0]) if gap and gap[0].isdigit() else gap[0] if gap else None
    asyncio.run(run(database_url, kafka, Path(journal_path), before))
