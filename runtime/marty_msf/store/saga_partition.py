"""The daily partitions of `marty.saga_journal` and `marty.saga_input`, see schema/0014_saga_partitions.sql."""

from typing import Final

from asyncpg import Connection

MAKE: Final = """
SELECT marty.make_saga_partitions()
"""


async def make(conn: Connection) -> int:
    """Make those of the next days where they are missing; returns how many. One transaction of its own.

    Raises asyncpg.LockNotAvailableError, nothing made, when the tables were in use for longer than a second.
    """
    made: int = await conn.fetchval(MAKE)
    return made
