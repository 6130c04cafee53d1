"""One read of the outbox: the next window, or the next part of an open one."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller

import asyncpg

from marty_msf.core.windows import Positions, closed, moved, next_window
from marty_msf.store import outbox


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
