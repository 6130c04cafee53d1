"""The two writers of an engine: one for new instances, one for what happens to those in work.

Each writes as soon as its last commit returned and something waits. They take turns for a moment, because fewer and larger
commits cost less, and no longer, because a writer that waits leaves the database idle. They have a connection each, so a start
that waits, for a transaction that is starting an instance with the same business key, holds up the instances in work only for a
moment, and other starts for two seconds.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.store import saga_start, saga_wave
from marty_msf.store.database import translate
from marty_msf.worker.saga.starters import Starters
from marty_msf.worker.saga.waves import Waves

#: A pool below this size has no connection to spare: the writers share one.
CONNECTIONS_FOR_TWO: Final = 4
#: From this size on a second wave may be written beside the first.
CONNECTIONS_FOR_THREE: Final = 8
#: Instances of a wave that is written beside another one: fewer wait, because small commits cost as much as large ones.
BESIDE: Final = 48
#: How long a wave waits for a start's commit before it is written beside it: about as long as a commit takes. Waiting to the end
#: of each made the two writers and the calls go in lock-step, each idle while another worked.
PATIENCE_SECONDS: Final = 0.002


@dataclass(frozen=True, slots=True)
class Lines:
    """The connection of each writer: one and the same, or two; and of a second wave, if there is one to spare."""

    starts: Connection
    waves: Connection
    beside: Connection | None = None


@asynccontextmanager
async def open_lines(pool: asyncpg.Pool) -> AsyncIterator[Lines]:
    """Connections of the writers' own. Raises DatabaseUnavailable."""
    async with _line(pool) as waves:
        if pool.get_max_size() < CONNECTIONS_FOR_TWO:
            async with _patience(waves):
                yield Lines(waves, waves)
            return
        async with _line(pool) as starts, _patience(starts):
            if pool.get_max_size() < CONNECTIONS_FOR_THREE:
                yield Lines(starts, waves)
                return
            async with _line(pool) as beside:
                yield Lines(starts, waves, beside)


class Writers:
    """`asked` and `happened` are set when there is a start, or something that happened, to write."""

    def __init__(self, starters: Starters, waves: Waves, asked: asyncio.Event, happened: asyncio.Event) -> None:
        self._starters = starters
        self._waves = waves
        self._asked = asked
        self._happened = happened
        self._turn = asyncio.Lock()

    async def write_starts(self, lines: Lines) -> None:
        """Until cancelled. Raises DatabaseUnavailable."""
        while True:
            self._asked.clear()
            if not (waiting := self._starters.waiting()):
                await self._asked.wait()
            for starter in waiting:
                async with self._turn:
                    await starter.run_once(lines.starts)

    async def write_waves(self, lines: Lines) -> None:
        """Until cancelled. Raises DatabaseUnavailable."""
        patience_seconds = PATIENCE_SECONDS if lines.starts is not lines.waves else None
        while True:
            self._happened.clear()
            wait_ms = self._waves.due()
            if self._waves.waiting:
                async with self._soon(patience_seconds):
                    await self._waves.run_once(lines.waves)
            elif not self._happened.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                        await self._happened.wait()

    async def write_beside(self, conn: Connection) -> None:
        """Until cancelled, a second wave beside the first: while that one waits for the disk, the database and the calls would be
        idle. Raises DatabaseUnavailable.
        """
        while True:
            self._happened.clear()
            if self._waves.size >= BESIDE:
                await self._waves.run_once(conn, beside=True)
            else:
                await self._happened.wait()

    @asynccontextmanager
    async def _soon(self, patience_seconds: float | None) -> AsyncIterator[None]:
        """The turn, or none when it does not come in time."""
        mine = False
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                mine = await self._turn.acquire()
        try:
            yield
        finally:
            if mine:
                self._turn.release()


@asynccontextmanager
async def _patience(conn: Connection) -> AsyncIterator[None]:
    """Within, no start waits for a foreign transaction for so long that the leases which it has locked would end."""
    with translate():
        await saga_start.wait_shortly(conn)
    try:
        yield
    finally:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await saga_start.wait_as_usual(conn)


@asynccontextmanager
async def _line(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """A connection whose plans do not depend on how full the tables are now."""
    with translate():
        async with pool.acquire() as conn:
            await conn.execute(saga_wave.PLAN_FOR_INDEXES)
            try:
                yield conn
            finally:
                # The pool throws a connection away that broke, and refuses even to say so.
                with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    await conn.execute(saga_wave.PLAN_AS_USUAL)
