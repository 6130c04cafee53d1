"""The relay's global numbers for `/status` and `/metrics`, looked up at most every few seconds."""

import asyncio
import logging
import time
from collections import deque
from typing import Final

import asyncpg

from marty_msf.core.worker_status import DeadLetterGroup, OpenWriter, RelayTotals
from marty_msf.store import outbox, outbox_dead
from marty_msf.store.database import translate
from marty_msf.worker.relay.surface.forms import group_status

logger = logging.getLogger(__name__)

#: Pending events are counted up to here; more are not worth the reading.
COUNTED_AT_MOST: Final = 100_000
LOOK_SECONDS: Final = 2
#: A look that takes longer, at a large backlog, is not repeated before so many times as long, within a bound.
LOOK_SHARE: Final = 20
LONGEST_LOOK_SECONDS: Final = 15
RATE_SECONDS: Final = 30
#: Causes that are told, the most frequent ones.
GROUPS_LIMIT: Final = 20


class Numbers:
    """Totals of the whole outbox, the same from every pod, and the oldest open writer."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._looking = asyncio.Lock()
        self._look_again_at = float("-inf")
        self._totals = RelayTotals()
        self._writer: outbox.Writer | None = None
        #: (when, published ever, refused attempts ever).
        self._counted: deque[tuple[float, int, int]] = deque()
        #: None before the first look: what is dead by then is nothing new.
        self._known: set[str] | None = None

    async def totals(self) -> RelayTotals:
        """Not older than LOOK_SECONDS, LONGEST_LOOK_SECONDS at a large backlog. Raises DatabaseUnavailable."""
        await self._look()
        return self._totals

    async def oldest_writer(self) -> outbox.Writer | None:
        """The longest open transaction that wrote something: its events cannot be published yet."""
        await self._look()
        return self._writer

    async def _look(self) -> None:
        async with self._looking:
            now = time.monotonic()
            if now < self._look_again_at:
                return
            with translate():
                async with self._pool.acquire() as conn:
                    counted = await outbox_dead.numbers(conn)
                    groups = await outbox_dead.groups(conn, GROUPS_LIMIT) if counted.dead else []
                    backlog = await outbox.backlog(conn, COUNTED_AT_MOST)
                    writer = await outbox.oldest_writer(conn)
            took = time.monotonic() - now
            self._look_again_at = now + min(max(LOOK_SECONDS, LOOK_SHARE * took), LONGEST_LOOK_SECONDS)
            self._writer = writer
            self._counted.append((now, counted.published_total, counted.failed_total))
            while now - self._counted[0][0] > RATE_SECONDS:
                self._counted.popleft()
            found = [group_status(it) for it in groups]
            self._warn(found)
            self._totals = RelayTotals(
                pending=backlog.events + counted.held,
                published_total=counted.published_total,
                events_per_second=round(self._rate(), 1),
                lag_seconds=round(backlog.oldest_seconds, 3),
                oldest_pending_seconds=round(max(backlog.oldest_seconds, counted.oldest_held_seconds), 3),
                failed_total=counted.failed_total,
                error_rate=round(self._error_rate(), 4),
                dead=counted.dead,
                dead_total=counted.dead_total,
                dead_letter_groups=found,
                oldest_open_writer=OpenWriter(name=writer.name, seconds=round(writer.seconds, 1)) if writer else None,
            )

    def _warn(self, groups: list[DeadLetterGroup]) -> None:
        """Say each cause once in this process's life."""
        known = self._known
        self._known = (known or set()) | {it.cause for it in groups}
        for it in groups:
            if known is not None and it.cause not in known:
                logger.warning(
                    "dead letters of a new cause %s: %d of type %s for topic %s: %s: look with `marty dlq show %d`",
                    *(it.cause, it.count, it.event_type, it.topic, it.message, it.sample),
                )

    def _rate(self) -> float:
        (first, before, _), (last, after, _) = self._counted[0], self._counted[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def _error_rate(self) -> float:
        """Refused attempts of all that ended."""
        (_, published, failed), (_, published_now, failed_now) = self._counted[0], self._counted[-1]
        refused = failed_now - failed
        ended = refused + published_now - published
        return refused / ended if ended else 0.0
