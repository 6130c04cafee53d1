"""Ways to read an outbox: ours, and the two that everybody writes first. The tests show what the latter do wrong."""

from collections.abc import Callable
from typing import Protocol

import asyncpg

from marty_msf.core.lanes import LANES
from marty_msf.core.windows import BEGINNING, Position, Positions
from marty_msf.worker.relay.reading import read


class Reader(Protocol):
    async def poll(self) -> list[str]:
        """Types of the events that are new, in the order in which they would be published."""
        ...


class Windows:
    """The relay's own reading, until there is nothing new."""

    def __init__(self, conn: asyncpg.Connection, limit: int = 1000) -> None:
        self._conn = conn
        self._limit = limit
        self.positions: Positions = dict.fromkeys(range(LANES), Position(BEGINNING))

    async def poll(self) -> list[str]:
        found: list[str] = []
        while rows := await self.part():
            found += rows
        return found

    async def part(self) -> list[str]:
        """One read; the positions move as they would be stored."""
        reading = await read(self._conn, self.positions, self._limit)
        self.positions = {**self.positions, **reading.after}
        return [row["event_type"] for row in reading.rows]


class ById:
    """`WHERE id > last ORDER BY id`: wrong."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self._last = 0

    async def poll(self) -> list[str]:
        rows = await self._conn.fetch("SELECT id, event_type FROM marty.outbox WHERE id > $1 ORDER BY id", self._last)
        if rows:
            self._last = rows[-1]["id"]
        return [row["event_type"] for row in rows]


class ByXidAndId:
    """`WHERE (xid, id) > last AND xid < horizon ORDER BY xid, id`: wrong too."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self._last = (0, 0)

    async def poll(self) -> list[str]:
        rows = await self._conn.fetch(
            "SELECT xid, id, event_type FROM marty.outbox WHERE (xid, id) > ($1::xid8, $2::bigint)"
            "   AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, id",
            *self._last,
        )
        if rows:
            self._last = (rows[-1]["xid"], rows[-1]["id"])
        return [row["event_type"] for row in rows]


READERS: dict[str, Callable[[asyncpg.Connection], Reader]] = {
    "windows": Windows,
    "id": ById,
    "xid and id": ByXidAndId,
}
