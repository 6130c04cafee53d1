"""The end of saga instances: whose time is over, the removal of their narrow rows, and the partitions with the bulk.

Callers own the transaction. The bulk of an instance that is gone can no longer be reached; it goes with its partition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.core.saga.ended import Ended
from marty_msf.core.saga.rotation import MOST_KEPT, Partition, Use

REGISTER: Final = """
INSERT INTO marty.saga_retention AS r (resource, completed_hours) VALUES ($1, $2)
ON CONFLICT (resource) DO UPDATE SET completed_hours = excluded.completed_hours, registered_at = now()
 WHERE r.completed_hours <> excluded.completed_hours
"""


async def register(conn: Connection, resource: str, completed_hours: int) -> None:
    """How long this saga's ended instances are kept, from now on."""
    await conn.execute(REGISTER, resource, completed_hours)


RETENTIONS: Final = """
SELECT resource, completed_hours, clock_timestamp() - make_interval(hours => completed_hours)
  FROM marty.saga_retention
"""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long ended instances of a saga are kept."""

    hours: int
    #: What ended before is removed. By the database's clock.
    before: datetime


async def retentions(conn: Connection) -> Mapping[str, Retention]:
    """By saga; one that is not here keeps all."""
    return {row[0]: Retention(row[1], row[2]) for row in await conn.fetch(RETENTIONS)}


RETENTION: Final = """
SELECT completed_hours FROM marty.saga_retention WHERE resource = $1
"""


async def retention_hours(conn: Connection, resource: str) -> int | None:
    """None when this saga keeps all."""
    hours: int | None = await conn.fetchval(RETENTION, resource)
    return hours


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some instances in order of id."""

    #: Those whose time is over.
    due: Sequence[UUID]
    #: The last one looked at, whatever it is; None when there was none.
    last: UUID | None


# All sagas' instances are looked at, so that the statement is bounded however few of them are this saga's. A verb somebody
# may wait for the answer of keeps its instance a while.
DUE: Final = """
WITH seen AS MATERIALIZED (
    SELECT id, resource, ended_at FROM marty.saga_instance WHERE id > $2 AND id < $3 ORDER BY id LIMIT $5
)
SELECT ARRAY(SELECT s.id FROM seen AS s
              WHERE s.resource = $1 AND s.ended_at < $4
                AND NOT EXISTS (SELECT FROM marty.saga_verb AS v
                                 WHERE v.instance = s.id
                                   AND coalesce(v.answered_at, v.asked_at) > clock_timestamp() - interval '1 hour')
              ORDER BY s.id),
       (SELECT s.id FROM seen AS s ORDER BY s.id DESC LIMIT 1)
"""


async def due(conn: Connection, resource: str, after: UUID, below: UUID, before: datetime, limit: int) -> Stretch:
    """Of the next `limit` instances behind the id `after` those of this saga that ended before `before`."""
    return Stretch(*await conn.fetchrow(DUE, resource, after, below, before, limit))


CHOSEN: Final = """
SELECT id FROM marty.saga_instance
 WHERE resource = $1 AND id > $2 AND state = ANY($3::text[]) AND ended_at >= $4 AND ended_at < $5
 ORDER BY id LIMIT $6
"""


async def chosen(conn: Connection, resource: str, wanted: Ended, after: UUID, limit: int) -> Sequence[UUID]:
    """Ended instances that a person means, in order of id."""
    rows = await conn.fetch(CHOSEN, resource, after, list(wanted.states), wanted.since, wanted.before, limit)
    return [row[0] for row in rows]


COUNT: Final = """
SELECT count(*) FROM marty.saga_instance
 WHERE resource = $1 AND state = ANY($2::text[]) AND ended_at >= $3 AND ended_at < $4
"""


async def count(conn: Connection, resource: str, wanted: Ended) -> int:
    """How many ended instances a person means; reads all of the saga's."""
    number: int = await conn.fetchval(COUNT, resource, list(wanted.states), wanted.since, wanted.before)
    return number


#: Rows that one DELETE takes at most.
BATCH: Final = 500

REMOVE_VERBS: Final = """
DELETE FROM marty.saga_verb
 WHERE id = ANY(ARRAY(SELECT v.id FROM marty.saga_verb AS v WHERE v.instance = ANY($1::uuid[]) LIMIT $2))
"""

# Locked in order of id, and whoever removes the same ones at the same time is left to it.
REMOVE: Final = """
WITH locked AS MATERIALIZED (
    SELECT id, resource, business_key FROM marty.saga_instance
     WHERE id = ANY($1::uuid[]) AND ended_at IS NOT NULL
     ORDER BY id FOR UPDATE SKIP LOCKED
), keys AS (
    DELETE FROM marty.saga_key AS k USING locked AS l
     WHERE k.resource = l.resource AND k.business_key = l.business_key AND k.id = l.id
)
DELETE FROM marty.saga_instance AS i USING locked AS l WHERE i.id = l.id
RETURNING i.id
"""


@dataclass(frozen=True, slots=True)
class Removed:
    """What one transaction removed."""

    instances: int
    #: Their verbs alone were a batch: nothing else was removed, ask for the same ones again.
    again: bool


async def remove(conn: Connection, instances: Sequence[UUID]) -> Removed:
    """Remove up to BATCH ended instances with their keys and verbs. Others among them are left as they are.

    Their business keys are free then, and their journals and contexts go with their partitions.
    """
    verbs = await conn.execute(REMOVE_VERBS, list(instances), BATCH)
    if int(verbs.rpartition(" ")[2]) == BATCH:
        return Removed(0, again=True)
    return Removed(len(await conn.fetch(REMOVE, list(instances))), again=False)


PARTITIONS: Final = """
SELECT c.oid, format('%I.%I', n.nspname, c.relname),
       substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \\('([-0-9a-f]{36})'\\)$$)::uuid,
       pg_table_size(c.oid)
  FROM pg_inherits AS h JOIN pg_class AS c ON c.oid = h.inhrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE h.inhparent IN ('marty.saga_journal'::regclass, 'marty.saga_input'::regclass)
 ORDER BY 2
"""


async def partitions(conn: Connection) -> Sequence[Partition]:
    """Those of the journals and of the contexts."""
    return [Partition(*row) for row in await conn.fetch(PARTITIONS)]


SETTLED: Final = """
SELECT marty.first_id_at(clock_timestamp() - interval '1 hour')
"""


async def settled(conn: Connection) -> UUID:
    """No instance is started with a smaller id any more, unless a clock is wrong by an hour; then nothing is lost."""
    first: UUID = await conn.fetchval(SETTLED)
    return first


USE: Final = """
SELECT instances, bytes FROM marty.saga_partition_use($1::oid::regclass, $2)
"""


async def use(conn: Connection, partition: Partition) -> Use:
    """What instances that are still there have in it."""
    return Use(*await conn.fetchrow(USE, partition.oid, MOST_KEPT + 1))


ROTATE: Final = """
SELECT marty.rotate_saga_partition($1::oid::regclass, $2)
"""


async def rotate(conn: Connection, partition: Partition) -> bool:
    """Empty it but for the rows of instances that are still there; False when these are too many.

    Raises asyncpg.LockNotAvailableError, nothing done, when somebody uses it just now.
    """
    rotated: bool = await conn.fetchval(ROTATE, partition.oid, MOST_KEPT)
    return rotated


DROP: Final = """
SELECT marty.drop_saga_partition($1::oid::regclass)
"""


async def drop(conn: Connection, partition: Partition) -> bool:
    """Drop it; False when an instance has come to need it. Raises as `rotate` does."""
    dropped: bool = await conn.fetchval(DROP, partition.oid)
    return dropped
