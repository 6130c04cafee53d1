"""One read of the outbox: the next window, or the next part of an open one; and the connection that reads."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from operator import methodcaller
from typing import Final, TypeAlias

import asyncpg

from marty_msf.core.windows import Positions, closed, moved, next_window
from marty_msf.store import outbox

#: A pool below this size has no connection to spare for reads alone.
CONNECTIONS_FOR_READS: Final = 4
#: Gives the connection of one read.
Connections: TypeAlias = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]


class Reader:
    """A connection for the reads of a relay, which come a thousand times a second.

    Its statements are planned once: left to itself, Postgres finds a plan for each read's own values cheaper than one for
    all, and planning costs three times what the read does.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._spare = pool.get_max_size() >= CONNECTIONS_FOR_READS
        self._conn: asyncpg.Connection | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """For one read at a time."""
        if not self._spare:
            async with self._pool.acquire() as conn:
                yield conn
            return
        try:
            if self._conn is None:
                self._conn = await self._pool.acquire()
                await self._conn.execute(outbox.PLAN_ONCE)
            yield self._conn
        except BaseException:
            # A statement may be cancelled under way. Nobody else gets the connection, because it plans as it does.
            await self.close()
            raise

    async def close(self) -> None:
        """End the connection; a read after it makes a new one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            # It may be taken back already, together with its whole pool.
            with suppress(asyncpg.InterfaceError):
                conn.terminate()
                await self._pool.release(conn)


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows in id order, and the positions of the lanes they were read for."""

    rows: Sequence[asyncpg.Record]
    #: Where the lanes stand before the rows, their window opened.
    start: Positions
    #: Where they stand behind the rows; within the window unless it was read to its end.
    after: Positions
    #: Whether that is all there was.
    complete: bool


async def read(conn: asyncpg.Connection, positions: Positions, limit: int) -> Reading:
    """At most `limit` rows. A window that fits is read by one statement; a larger one by id, at the cost of what it returns."""
    end, last_id, chosen = next_window(positions)
    rows: Sequence[asyncpg.Record] | None = None
    complete = True
    if end is None:
        opened = await outbox.open_window(conn, chosen, limit)
        end, rows = opened.end, opened.rows
        if rows is None:
            last_id = await outbox.id_before_window(conn, chosen)
    if rows is None:
        continued = await outbox.continue_window(conn, chosen, end, last_id, limit)
        rows, complete = continued.rows, continued.complete
    start = moved(chosen, methodcaller("opened", end, last_id))
    after = dict.fromkeys(start, closed(end)) if complete else moved(start, methodcaller("within", rows[-1]["id"]))
    return Reading(rows, start, after, complete)
