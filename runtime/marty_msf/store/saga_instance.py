"""Reading saga instances, and the definitions they follow. Callers own the transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Connection

REGISTER: Final = """
WITH kept AS (
    INSERT INTO marty.saga_definition (resource, revision, definition) VALUES ($1, $2, $3)
    ON CONFLICT (resource, revision) DO NOTHING
)
INSERT INTO marty.saga_type AS t (resource, revision, stuck_after_seconds) VALUES ($1, $2, $4)
ON CONFLICT (resource) DO UPDATE
   SET revision = excluded.revision, stuck_after_seconds = excluded.stuck_after_seconds, registered_at = now()
 WHERE (t.revision, t.stuck_after_seconds) <> (excluded.revision, excluded.stuck_after_seconds)
"""


async def register_definition(
    conn: Connection, resource: str, revision: str, definition: bytes, stuck_after_seconds: int
) -> None:
    """Keep a revision for the instances that will follow it, the present one from now on; mostly writes nothing."""
    await conn.execute(REGISTER, resource, revision, definition, stuck_after_seconds)


STUCK_AFTER: Final = """
SELECT resource, stuck_after_seconds FROM marty.saga_type WHERE resource = ANY($1::text[])
"""


async def stuck_after_seconds(conn: Connection, resources: Sequence[str]) -> Mapping[str, int]:
    """By saga the time without progress after which an instance counts as stuck; those that never ran are left out."""
    return {row[0]: row[1] for row in await conn.fetch(STUCK_AFTER, list(resources))}


KEEP: Final = """
INSERT INTO marty.saga_definition (resource, revision, definition) VALUES ($1, $2, $3)
ON CONFLICT (resource, revision) DO NOTHING
"""


async def keep_definition(conn: Connection, resource: str, revision: str, definition: bytes) -> None:
    """Keep a revision for the instances that will follow it. It does not become the present one."""
    await conn.execute(KEEP, resource, revision, definition)


DEFINITIONS: Final = """
SELECT revision, definition FROM marty.saga_definition WHERE resource = $1 AND revision = ANY($2::text[])
"""


async def definitions(conn: Connection, resource: str, revisions: Sequence[str]) -> dict[str, bytes]:
    """The stored definitions of these revisions."""
    return {row[0]: row[1] for row in await conn.fetch(DEFINITIONS, resource, list(revisions))}


@dataclass(frozen=True, slots=True)
class Stored:
    """A live instance as the tables hold it."""

    id: UUID
    lane: int
    revision: str
    started_ms: int
    context: bytes
    #: Journal entries in order; empty for a Pending instance.
    entries: Sequence[bytes]
    #: False: it was started from SQL, and `count_started` comes before all else.
    counted: bool
    #: Of the W3C trace that its start belongs to.
    traceparent: str | None


LIVE: Final = """
SELECT i.id, i.lane, i.revision, (extract(epoch FROM i.started_at) * 1000)::bigint,
       (SELECT s.context FROM marty.saga_input AS s WHERE s.id = i.id),
       ARRAY(SELECT j.entry FROM marty.saga_journal AS j WHERE j.id = i.id ORDER BY j.seq), i.counted,
       (SELECT s.traceparent FROM marty.saga_input AS s WHERE s.id = i.id)
  FROM marty.saga_instance AS i
 WHERE i.resource = $1 AND i.lane = $2 AND i.id > $3
   AND i.state IN ('Pending', 'Waiting', 'Running', 'Compensating')
 ORDER BY i.id
 LIMIT $4
"""


async def live(conn: Connection, resource: str, lane: int, after: UUID, limit: int) -> list[Stored]:
    """Instances of one lane that are not ended and not parked, with their journals, in order of id."""
    return [Stored(*row) for row in await conn.fetch(LIVE, resource, lane, after, limit)]


PENDING: Final = """
SELECT i.id, i.lane, i.revision, (extract(epoch FROM i.started_at) * 1000)::bigint,
       (SELECT s.context FROM marty.saga_input AS s WHERE s.id = i.id), ARRAY[]::bytea[], i.counted,
       (SELECT s.traceparent FROM marty.saga_input AS s WHERE s.id = i.id)
  FROM marty.saga_instance AS i
 WHERE i.resource = $1 AND i.lane = ANY($2::smallint[]) AND i.state = 'Pending'
 LIMIT $3
"""


async def pending(conn: Connection, resource: str, lanes: Sequence[int], limit: int) -> list[Stored]:
    """Instances of these lanes that nobody took up yet."""
    return [Stored(*row) for row in await conn.fetch(PENDING, resource, list(lanes), limit)]


COUNT_STARTED: Final = """
WITH found AS (
    UPDATE marty.saga_instance SET counted = true
     WHERE id = ANY($2::uuid[]) AND NOT counted RETURNING lane
)
INSERT INTO marty.saga_counter AS c (resource, slot, started)
SELECT $1, lane, count(*) FROM found GROUP BY lane ORDER BY lane
ON CONFLICT (resource, slot) DO UPDATE SET started = c.started + excluded.started
"""


async def count_started(conn: Connection, resource: str, instances: Sequence[UUID]) -> None:
    """Count instances that SQL started, once each, in the slots of their lanes; the caller owns these."""
    await conn.execute(COUNT_STARTED, resource, list(instances))


@dataclass(frozen=True, slots=True)
class Shown:
    """An instance for people: its summary, its journal and the definition it follows."""

    id: UUID
    business_key: str
    state: str
    error: str | None
    started_at: datetime
    ended_at: datetime | None
    revision: str
    definition: bytes
    context: bytes
    entries: Sequence[bytes]
    #: Of the W3C trace that its start belongs to.
    traceparent: str | None = None


GET: Final = """
SELECT i.id, i.business_key, i.state, i.error, i.started_at, i.ended_at, i.revision, d.definition, s.context,
       ARRAY(SELECT j.entry FROM marty.saga_journal AS j WHERE j.id = i.id ORDER BY j.seq),
       s.traceparent
  FROM marty.saga_instance AS i
  JOIN marty.saga_definition AS d ON d.resource = i.resource AND d.revision = i.revision
  JOIN marty.saga_input AS s ON s.id = i.id
 WHERE i.resource = $1 AND i.id = $2
"""


async def get(conn: Connection, resource: str, instance: UUID) -> Shown | None:
    """One instance of this saga; None when there is none with the id."""
    row = await conn.fetchrow(GET, resource, instance)
    return Shown(*row) if row else None


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of all instances of a saga, whoever works on them."""

    started: int
    completed: int
    compensated: int
    failed: int
    cancelled: int
    parked: int
    duration_ms: float
    parked_events: int
    last_error: str | None
    oldest_active_seconds: float


# Ids sort by time, so the first live one of each lane is its oldest: 64 index probes, however many there are.
TOTALS: Final = """
SELECT coalesce(sum(started), 0)::bigint, coalesce(sum(completed), 0)::bigint, coalesce(sum(compensated), 0)::bigint,
       coalesce(sum(failed), 0)::bigint, coalesce(sum(cancelled), 0)::bigint, coalesce(sum(parked), 0)::bigint,
       coalesce(sum(duration_ms), 0), coalesce(sum(parked_events), 0)::bigint,
       (SELECT e.last_error FROM marty.saga_counter AS e
         WHERE e.resource = $1 AND e.last_error IS NOT NULL ORDER BY e.last_error_at DESC LIMIT 1),
       coalesce(extract(epoch FROM clock_timestamp() - (
           SELECT min(oldest.started_at) FROM generate_series(0, 63) AS lanes (number) CROSS JOIN LATERAL (
               SELECT i.started_at FROM marty.saga_instance AS i
                WHERE i.resource = $1 AND i.lane = lanes.number AND i.state IN ('Pending', 'Waiting', 'Running', 'Compensating')
                ORDER BY i.id LIMIT 1) AS oldest)), 0)::double precision
  FROM marty.saga_counter WHERE resource = $1
"""


async def totals(conn: Connection, resource: str) -> Totals:
    """From the counter rows and the live index; the instances themselves are not counted."""
    return Totals(*await conn.fetchrow(TOTALS, resource))


# An entry begins with the milliseconds since 1970 at which it was made: `[1735689600000,…`.
OLDEST_PARKED: Final = """
SELECT coalesce(greatest(extract(epoch FROM clock_timestamp()) - min(last.at_ms) / 1000.0, 0), 0)::double precision
  FROM (SELECT i.id FROM marty.saga_instance AS i
         WHERE i.resource = $1 AND i.state = 'Parked' ORDER BY i.id LIMIT $2) AS parked
 CROSS JOIN LATERAL (
       SELECT convert_from(substring(j.entry FROM 2 FOR 13), 'UTF8')::bigint AS at_ms
         FROM marty.saga_journal AS j WHERE j.id = parked.id ORDER BY j.seq DESC LIMIT 1) AS last
"""
PARKED_LOOKED_AT: Final = 200


async def oldest_parked_seconds(conn: Connection, resource: str) -> float:
    """For how long nothing has happened to the parked instance for which that is longest; 0 when none is parked.

    Of many parked ones only the PARKED_LOOKED_AT that started first are looked at.
    """
    seconds: float = await conn.fetchval(OLDEST_PARKED, resource, PARKED_LOOKED_AT)
    return seconds
