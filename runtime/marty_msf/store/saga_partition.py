"""The daily partitions of `marty.saga_journal` and `marty.saga_input`, see schema/0034_partitions_apart.sql."""

from typing import Final

from asyncpg import Connection

PARTITIONED: Final = ("saga_journal", "saga_input")

MAKE: Final = """
SELECT marty.make_saga_partitions($1)
"""


async def make(conn: Connection) -> int:
    """Make those of the next days where they are missing; returns how many. A transaction of its own for each table, so
    that nobody who uses both can wait for this and this for them.

    Raises asyncpg.LockNotAvailableError, nothing made of that table, when it was in use for longer than a fifth of a second.
    """
    made = 0
    for table in PARTITIONED:
        made += await conn.fetchval(MAKE, table)
    return made
