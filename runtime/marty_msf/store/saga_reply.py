"""Every statement that touches `marty.saga_reply`: replies between Kafka and the journal. Callers own the transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from asyncpg import Connection

#: Names a call: its instance, and the rest of its idempotency key.
CallKey = tuple[UUID, str]


@dataclass(frozen=True, slots=True)
class Addressee:
    """An instance that replies name."""

    lane: int
    state: str
    revision: str


ADDRESSEES: Final = """
SELECT id, lane, state, revision FROM marty.saga_instance WHERE resource = $1 AND id = ANY($2::uuid[])
"""


async def addressees(conn: Connection, resource: str, ids: Collection[UUID]) -> Mapping[UUID, Addressee]:
    """Instances of this saga, by id; those that do not exist are left out."""
    return {row[0]: Addressee(*row[1:]) for row in await conn.fetch(ADDRESSEES, resource, list(ids))}


@dataclass(frozen=True, slots=True)
class Received:
    """A reply as the table holds it."""

    id: UUID
    call: str
    lane: int
    outcome: str
    value: bytes | None


# The first final answer counts. One that is not final gives way: the service was asked again meanwhile.
ADD: Final = """
INSERT INTO marty.saga_reply AS r (resource, id, call, lane, outcome, value)
SELECT $1, n.* FROM unnest($2::uuid[], $3::text[], $4::smallint[], $5::text[], $6::bytea[])
    AS n (id, call, lane, outcome, value)
ON CONFLICT (id, call) DO UPDATE
   SET outcome = excluded.outcome, value = excluded.value, received_at = now(), kept = false
 WHERE r.outcome = 'failed' AND excluded.outcome <> 'failed'
"""


async def add(conn: Connection, resource: str, replies: Collection[Received]) -> None:
    """Keep replies, one for each call at most; in order of their keys, so that writers cannot deadlock."""
    ordered = sorted(replies, key=lambda it: (it.id, it.call))
    await conn.execute(
        ADD,
        resource,
        [it.id for it in ordered],
        [it.call for it in ordered],
        [it.lane for it in ordered],
        [it.outcome for it in ordered],
        [it.value for it in ordered],
    )


FRESH: Final = """
SELECT r.id, r.call, r.lane, r.outcome, r.value, i.state
  FROM marty.saga_reply AS r LEFT JOIN marty.saga_instance AS i ON i.id = r.id
 WHERE r.resource = $1 AND r.lane = ANY($2::smallint[]) AND NOT r.kept
 LIMIT $3
"""


async def fresh(
    conn: Connection, resource: str, lanes: Collection[int], limit: int
) -> Sequence[tuple[Received, str | None]]:
    """Replies in these lanes about which nothing was decided yet, with the states of their instances."""
    return [(Received(*row[:5]), row[5]) for row in await conn.fetch(FRESH, resource, list(lanes), limit)]


FINAL: Final = """
SELECT r.id, r.call, r.lane, r.outcome, r.value
  FROM unnest($1::uuid[], $2::text[]) AS k (id, call)
  JOIN marty.saga_reply AS r ON r.id = k.id AND r.call = k.call
 WHERE r.outcome <> 'failed'
"""


async def final(conn: Connection, calls: Collection[CallKey]) -> Sequence[Received]:
    """Final replies that are there for these calls: they need not be made."""
    return [Received(*row) for row in await conn.fetch(FINAL, [it[0] for it in calls], [it[1] for it in calls])]


KEEP: Final = """
UPDATE marty.saga_reply AS r SET kept = true
  FROM unnest($1::uuid[], $2::text[]) AS k (id, call)
 WHERE r.id = k.id AND r.call = k.call
"""


async def keep(conn: Connection, calls: Collection[CallKey]) -> None:
    """No call waits for these replies now. The caller has fenced their lanes."""
    await conn.execute(KEEP, [it[0] for it in calls], [it[1] for it in calls])


REMOVE: Final = """
DELETE FROM marty.saga_reply AS r
 USING unnest($1::uuid[], $2::text[], $3::text[]) AS k (id, call, outcome)
 WHERE r.id = k.id AND r.call = k.call AND r.outcome = k.outcome
"""


async def remove(conn: Connection, replies: Collection[Received]) -> None:
    """These are in the journal, or mean nothing any more; one that took another's place stays.

    The caller has fenced their lanes.
    """
    await conn.execute(REMOVE, [it.id for it in replies], [it.call for it in replies], [it.outcome for it in replies])


PRUNE: Final = """
DELETE FROM marty.saga_reply WHERE (id, call) IN (
    SELECT id, call FROM marty.saga_reply
     WHERE resource = $1 AND kept AND received_at < now() - make_interval(hours => $2)
     LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING 1
"""


async def prune(conn: Connection, resource: str, hours: int, limit: int) -> int:
    """Remove up to `limit` replies that nobody asked for in so long; returns how many."""
    return len(await conn.fetch(PRUNE, resource, hours, limit))
