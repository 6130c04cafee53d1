"""Every statement that touches `marty.saga_breaker`: the circuit breakers that the pods of one saga type share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

ERROR_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class Row:
    """The breaker of one service."""

    service: str
    generation: int
    phase: str
    #: Until the open time, or the canary's time, is over; by the database's clock.
    remaining_ms: int
    cohort: int
    holder: str
    error: str


# The generation decides between pods that change it at once. A canary is given away only when the time before it is over,
# and whose time that is only the database's clock says.
MOVE: Final = """
INSERT INTO marty.saga_breaker AS b (resource, service, generation, phase, until, cohort, holder, error)
VALUES ($1, $2, $4, $5, clock_timestamp() + $6::bigint * interval '1 millisecond', $7, $8, $9)
ON CONFLICT (resource, service) DO UPDATE
   SET generation = excluded.generation, phase = excluded.phase, until = excluded.until, cohort = excluded.cohort,
       holder = excluded.holder, error = excluded.error, changed_at = clock_timestamp()
 WHERE b.generation = $3 AND (excluded.phase <> 'Probing' OR b.until <= clock_timestamp())
RETURNING true
"""


async def move(conn: Connection, resource: str, known_generation: int, row: Row) -> bool:
    """Change a breaker. False: another pod changed it since `known_generation`, or it is too early for a canary."""
    moved = await conn.fetchval(
        MOVE,
        resource,
        row.service,
        known_generation,
        row.generation,
        row.phase,
        row.remaining_ms,
        row.cohort,
        row.holder,
        row.error[:ERROR_CHARACTERS].replace("\0", ""),
    )
    return bool(moved)


READ: Final = """
SELECT service, generation, phase,
       greatest(ceil(extract(epoch FROM until - clock_timestamp()) * 1000), 0)::bigint AS remaining_ms,
       cohort, holder, error
  FROM marty.saga_breaker WHERE resource = $1 ORDER BY service
"""


async def read(conn: Connection, resource: str) -> Sequence[Row]:
    """All breakers of a saga type that were ever open."""
    return [Row(*row) for row in await conn.fetch(READ, resource)]
