"""Every statement that touches `marty.kafka_position`. Callers own the transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.errors import LeaseLost

Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a reader stands in one partition."""

    next_offset: int
    #: Kafka's timestamp of the last event applied; None before the first.
    event_time: datetime | None
    #: Id of the topic whose offset this is; None when nobody knows.
    topic_id: UUID | None


@dataclass(frozen=True, slots=True)
class Start:
    """The first position of a reader in a partition; `topic_id` is None when the broker reports no ids."""

    next_offset: int
    topic_id: UUID | None


@dataclass(frozen=True, slots=True)
class Move:
    """One partition's position goes from `from_offset`, where the reader believes it to be, to `next_offset`."""

    topic: str
    partition: int
    from_offset: int
    next_offset: int
    #: Timestamp of the last event before next_offset; None when only control records were passed.
    event_time_ms: int | None
    #: What the row says about the topic's id, as the reader believes.
    topic_id: UUID | None


LOAD: Final = """
SELECT topic, partition, next_offset, event_time, topic_id
  FROM marty.kafka_position
 WHERE scope = $1 AND topic = ANY($2::text[])
"""


async def load(conn: Connection, scope: str, topics: Sequence[str]) -> Mapping[Partition, Stored]:
    """All stored positions of a reader in `topics`, also those of partitions that other workers own."""
    return {
        (row["topic"], row["partition"]): Stored(row["next_offset"], row["event_time"], row["topic_id"])
        for row in await conn.fetch(LOAD, scope, list(topics))
    }


BEGIN: Final = """
INSERT INTO marty.kafka_position (scope, topic, partition, next_offset, topic_id)
SELECT $1, topic, partition, next_offset, topic_id
  FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::uuid[]) AS start (topic, partition, next_offset, topic_id)
ON CONFLICT (scope, topic, partition) DO NOTHING
"""


async def begin(conn: Connection, scope: str, starts: Mapping[Partition, Start]) -> None:
    """Store where a reader starts in partitions it never read; existing positions stay as they are.

    Stored before the first event is read: events that retention removes meanwhile are noticed, not skipped.
    """
    ordered = sorted(starts)
    await conn.execute(
        BEGIN,
        scope,
        [topic for topic, _ in ordered],
        [partition for _, partition in ordered],
        [starts[tp].next_offset for tp in ordered],
        [starts[tp].topic_id for tp in ordered],
    )


ADOPT: Final = """
UPDATE marty.kafka_position AS p
   SET topic_id = a.topic_id
  FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::uuid[]) AS a (topic, partition, next_offset, topic_id)
 WHERE p.scope = $1 AND p.topic = a.topic AND p.partition = a.partition AND p.next_offset = a.next_offset
   AND p.topic_id IS NULL
"""


async def adopt(conn: Connection, scope: str, topics: Mapping[Partition, Start]) -> None:
    """Note the topic's id in positions that have none and still are where the reader found them."""
    ordered = sorted(topics)
    await conn.execute(
        ADOPT,
        scope,
        [topic for topic, _ in ordered],
        [partition for _, partition in ordered],
        [topics[tp].next_offset for tp in ordered],
        [topics[tp].topic_id for tp in ordered],
    )


ADVANCE: Final = """
UPDATE marty.kafka_position AS p
   SET next_offset = m.next_offset,
       event_time = coalesce(to_timestamp(m.event_time_ms / 1000.0), p.event_time),
       updated_at = now()
  FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::uuid[])
       AS m (topic, partition, from_offset, next_offset, event_time_ms, topic_id)
 WHERE p.scope = $1 AND p.topic = m.topic AND p.partition = m.partition AND p.next_offset = m.from_offset
   AND p.topic_id IS NOT DISTINCT FROM m.topic_id
RETURNING 1
"""


async def advance(conn: Connection, scope: str, moves: Sequence[Move]) -> None:
    """Write positions as compare-and-set. Raises LeaseLost when one is not where the reader believes it to be.

    That happens after a commit whose answer was lost, and to a former owner; the caller rolls back and reads the
    stored positions again, so no event is applied twice. The caller has fenced the partitions' leases. The topic's id is
    compared too: events of a former topic never move a position that a person has given to the new one.
    """
    moved = await conn.fetch(
        ADVANCE,
        scope,
        [move.topic for move in moves],
        [move.partition for move in moves],
        [move.from_offset for move in moves],
        [move.next_offset for move in moves],
        [move.event_time_ms for move in moves],
        [move.topic_id for move in moves],
    )
    if len(moved) != len(moves):
        raise LeaseLost(f"{scope}: {len(moves) - len(moved)} of {len(moves)} positions were moved by another writer")


APPLIED: Final = """
SELECT EXISTS (SELECT 1 FROM marty.kafka_position WHERE scope = $1 AND event_time IS NOT NULL)
"""


async def anything_applied(conn: Connection, scope: str) -> bool:
    """Whether the reader ever committed the effects of an event."""
    return bool(await conn.fetchval(APPLIED, scope))
