"""What a run left behind: the writers' counts, the outbox's tables, and the topics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from dev.soak.plan import RESOURCE
from dev.soak.reading import Consumed
from dev.soak.writers import Written

AGGREGATES: Final = "SELECT 'aggregate-' || id, n FROM public.aggregate WHERE n > 0"

POISON: Final = "SELECT 'poison-' || id FROM public.poison"

PROGRESS: Final = """
SELECT coalesce(sum(published_total), 0)::bigint, coalesce(sum(held), 0)::bigint, coalesce(sum(dead), 0)::bigint
  FROM marty.outbox_position
"""

#: By the rows themselves, not by the counters beside them.
HELD: Final = """
SELECT h.aggregate_id, h.state, (convert_from(h.payload, 'UTF8')::jsonb ->> 'n')::integer FROM marty.outbox_held AS h
"""

LEASES: Final = "SELECT count(*) FROM marty.lease WHERE scope = 'relay:' || $1 AND holder IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Progress:
    """The counters in the outbox's positions."""

    published: int
    #: Without those that are dead.
    held: int
    dead: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the checks look at."""

    #: Key to the number of its committed events, as the writers' own tables say.
    committed: Mapping[str, int]
    poison: frozenset[str]
    written: Written
    consumed: Consumed
    progress: Progress
    #: Aggregate, state and number of what is held.
    held: Sequence[tuple[str, str, int]]
    lanes_kept: int
    kills: int
    #: From the end of the disturbance until all was published.
    drained_seconds: float
    crashes: Sequence[str]
    errors: Sequence[str]


async def progress(conn: asyncpg.Connection) -> Progress:
    """See Progress."""
    return Progress(*await conn.fetchrow(PROGRESS))


async def committed(conn: asyncpg.Connection) -> Mapping[str, int]:
    """See Facts; without poison."""
    return dict(await conn.fetch(AGGREGATES))


async def poison(conn: asyncpg.Connection) -> frozenset[str]:
    """See Facts."""
    return frozenset(row[0] for row in await conn.fetch(POISON))


async def held(conn: asyncpg.Connection) -> list[tuple[str, str, int]]:
    """See Facts."""
    return [(row[0], row[1], row[2]) for row in await conn.fetch(HELD)]


async def lanes_kept(conn: asyncpg.Connection) -> int:
    """See Facts."""
    return int(await conn.fetchval(LEASES, RESOURCE))
