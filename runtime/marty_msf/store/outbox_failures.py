"""What was refused and given up, from the counters beside the outbox's position."""

from dataclasses import dataclass
from typing import Final

from asyncpg import Connection


@dataclass(frozen=True, slots=True)
class Failures:
    """Of the whole outbox."""

    #: Dead letters there are now.
    dead: int
    #: Attempts that were refused, ever.
    failed_total: int


FAILURES: Final = """
SELECT coalesce(sum(dead), 0)::bigint, coalesce(sum(failed_total), 0)::bigint FROM marty.outbox_position
"""


async def failures(conn: Connection) -> Failures:
    """From 64 rows at most, whatever the outbox holds."""
    return Failures(*await conn.fetchrow(FAILURES))
