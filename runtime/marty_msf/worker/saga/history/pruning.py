"""Removing ended instances because a person says so. Right beside a janitor that removes the same ones."""

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.saga.ended import Ended
from marty_msf.store import saga_history

_FIRST_ID: Final = UUID(int=0)


async def pruned(conn: Connection, resource: str, chosen: Ended) -> AsyncIterator[int]:
    """Remove them in small transactions; yields how many each one removed."""
    after = _FIRST_ID
    while batch := await saga_history.chosen(conn, resource, chosen, after, saga_history.BATCH):
        again = True
        while again:
            async with conn.transaction():
                removed = await saga_history.remove(conn, batch)
            again = removed.again
            yield removed.instances
        after = batch[-1]
