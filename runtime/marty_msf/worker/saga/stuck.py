"""Which of this process's instances stand still, counted from memory: nothing is counted in the database.

The hot path knows nothing of it. Every few seconds each instance is compared with what it was when it was last seen to have
made progress, so that moment is known to within the time between two looks.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from marty_msf.core.errors import MartyError
from marty_msf.core.saga.breaker import Circuit, Phase
from marty_msf.core.saga.diagnosis import Around, Cause, cause, progressed, stuck
from marty_msf.core.worker_status import ProblemReason, Stuck
from marty_msf.store.database import translate
from marty_msf.worker.board import Board
from marty_msf.worker.saga.clock import now_ms
from marty_msf.worker.saga.engine import Engine
from marty_msf.worker.saga.memory import Live
from marty_msf.worker.saga.surface.showing import show

#: Looked at without letting other work in between.
SLICE: Final = 2000
#: How soon what people read follows; the count follows each look.
RENEWED_MS: Final = 30_000
DIAGNOSIS_CHARACTERS: Final = 1000


@dataclass(slots=True)
class Found:
    """What one look found."""

    causes: Counter[Cause] = field(default_factory=Counter)
    #: The one that stands still for longest, and since when (milliseconds since 1970).
    longest: Live | None = None
    since_ms: int = 0

    def look_at(self, lives: Iterable[Live], bound_seconds: int, around: Around, now: int) -> None:
        """Count those of these instances that are stuck, and remember of all of them where they stand."""
        for live in lives:
            if live.gone:
                continue
            instance = live.instance
            seen = live.progress
            if seen is None or progressed(seen[0], instance):
                live.progress = (instance, now)
            elif stuck(seen[1], instance, bound_seconds, now):
                why = cause(live.definition, instance, around)
                if why is not None:
                    self.causes[why] += 1
                    if self.longest is None or seen[1] < self.since_ms:
                        self.longest, self.since_ms = live, seen[1]


class StuckWatch:
    """Looks, and tells the board. `look` is called by one task, again and again."""

    def __init__(self, pool: asyncpg.Pool, resource: str, bound_seconds: int, board: Board) -> None:
        self._pool = pool
        self._resource = resource
        self._bound_seconds = bound_seconds
        self._board = board
        self._told_ms = 0
        self._told: Live | None = None
        #: What is stuck, by cause.
        self.causes: Mapping[Cause, int] = {}
        self.found = Stuck()

    async def look(self, engine: Engine) -> None:
        """Look at every instance in the engine's memory."""
        now, found = now_ms(), Found()
        around = Around(breakers=_not_closed(engine.breakers.circuits))
        lives = engine.memory.all()
        for first in range(0, len(lives), SLICE):
            found.look_at(lives[first : first + SLICE], self._bound_seconds, around, now)
            await asyncio.sleep(0)
        if engine.left_alone:
            found.causes[Cause.UNREADABLE] = engine.left_alone
        self.causes = found.causes
        await self._tell(found, now)

    async def _tell(self, found: Found, now: int) -> None:
        count = found.causes.total()
        if found.longest is None:
            self.found = Stuck(count=count, since_ms=now if count else 0)
            self._told = None
            self._board.clear(ProblemReason.INSTANCES_STUCK)
            return
        renew = found.longest is not self._told or now - self._told_ms >= RENEWED_MS
        diagnosis = await self._diagnosis(found.longest) if renew else self.found.diagnosis
        self.found = Stuck(count=count, since_ms=found.since_ms, diagnosis=diagnosis)
        if renew:
            self._told, self._told_ms = found.longest, now
            self._board.report(
                ProblemReason.INSTANCES_STUCK,
                f"{count} instance{'' if count == 1 else 's'} of this worker made no progress for"
                f" {self._bound_seconds} s: `marty saga list --stuck`; for longest {diagnosis}",
                blocking=False,
            )

    async def _diagnosis(self, live: Live) -> str:
        """From the journal, which knows when a call was made."""
        try:
            with translate():
                async with self._pool.acquire() as conn:
                    portrait = await show(conn, self._resource, live.id)
        except MartyError as error:
            # To tell what stands still must not stop what goes on.
            return f"{live.text}: {error}"[:DIAGNOSIS_CHARACTERS]
        # It may have gone on meanwhile.
        why = portrait.diagnosis if portrait and portrait.diagnosis else "it goes on just now"
        return f"{live.text}: {why}"[:DIAGNOSIS_CHARACTERS]


def _not_closed(circuits: Mapping[str, Circuit]) -> dict[str, str]:
    return {service: it.error for service, it in circuits.items() if it.phase is not Phase.CLOSED}
