"""The relay's global numbers for `/status` and `/metrics`, looked up at most every few seconds."""

import asyncio
import time
from collections import deque
from typing import Final

import asyncpg

from marty_msf.core.worker_status import RelayTotals
from marty_msf.store import outbox, outbox_position
from marty_msf.store.database import translate

#: Pending events are counted up to here; more are not worth the reading.
COUNTED_AT_MOST: Final = 100_000
LOOK_SECONDS: Final = 2
RATE_SECONDS: Final = 30


class Numbers:
    """Totals of the whole outbox, the same from every pod, and the oldest open writer."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._totals = RelayTotals()
        self._writer: outbox.Writer | None = None
        self._published: deque[tuple[float, int]] = deque()

    async def totals(self) -> RelayTotals:
        """Not older than LOOK_SECONDS. Raises DatabaseUnavailable."""
        await self._look()
        return self._totals

    async def oldest_writer(self) -> outbox.Writer | None:
        """The longest open transaction that wrote something: its events cannot be published yet."""
        await self._look()
        return self._writer

    async def _look(self) -> None:
        async with self._looking:
            now = time.monotonic()
            if now - self._looked_at < LOOK_SECONDS:
                return
            with translate():
                async with self._pool.acquire() as conn:
                    published = await outbox_position.published_total(conn)
                    backlog = await outbox.backlog(conn, COUNTED_AT_MOST)
                    self._writer = await outbox.oldest_writer(conn)
            self._looked_at = now
            self._published.append((now, published))
            while now - self._published[0][0] > RATE_SECONDS:
                self._published.popleft()
            self._totals = RelayTotals(
                pending=backlog.events,
                published_total=published,
                events_per_second=round(self._rate(), 1),
                lag_seconds=round(backlog.oldest_seconds, 3),
            )

    def _rate(self) -> float:
        (first, before), (last, after) = self._published[0], self._published[-1]
        return (after - before) / (last - first) if last > first else 0.0
