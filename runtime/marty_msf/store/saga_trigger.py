"""Every statement that touches `marty.saga_parked_event`: trigger events that cannot start an instance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection


@dataclass(frozen=True, slots=True)
class PoisonTrigger:
    """An event that matches a trigger but cannot start an instance."""

    topic: str
    partition: int
    offset: int
    event_id: str
    error: str
    key: bytes | None
    value: bytes | None


PARK_EVENTS: Final = """
WITH parked AS (
    INSERT INTO marty.saga_parked_event (resource, topic, partition, "offset", event_id, error, key, value)
    SELECT $1, e.* FROM unnest($3::text[], $4::integer[], $5::bigint[], $6::text[], $7::text[], $8::bytea[], $9::bytea[])
        AS e (topic, partition, "offset", event_id, error, key, value)
    ON CONFLICT DO NOTHING
    RETURNING error
)
INSERT INTO marty.saga_counter AS k (resource, slot, parked_events)
SELECT $1, $2, count(*) FROM parked HAVING count(*) > 0
ON CONFLICT (resource, slot) DO UPDATE SET parked_events = k.parked_events + excluded.parked_events
"""


async def park_events(conn: Connection, resource: str, slot: int, events: Sequence[PoisonTrigger]) -> None:
    """Keep events with the reason, and count them."""
    await conn.execute(
        PARK_EVENTS,
        resource,
        slot,
        [event.topic for event in events],
        [event.partition for event in events],
        [event.offset for event in events],
        [event.event_id for event in events],
        [event.error for event in events],
        [event.key for event in events],
        [event.value for event in events],
    )


PARKED: Final = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM marty.saga_parked_event WHERE resource = $1 LIMIT $2) AS counted),
       e.topic, e.partition, e."offset", e.event_id, e.error, e.key, e.value
  FROM marty.saga_parked_event AS e WHERE e.resource = $1
 ORDER BY e.parked_at DESC, e."offset" DESC LIMIT 1  -- those of one batch are parked at one time
"""


async def newest_parked(conn: Connection, resource: str, limit: int) -> tuple[int, PoisonTrigger] | None:
    """How many events are parked (counted up to `limit`) and the newest one; None when there is none."""
    row = await conn.fetchrow(PARKED, resource, limit)
    return (row[0], PoisonTrigger(*row[1:])) if row else None
