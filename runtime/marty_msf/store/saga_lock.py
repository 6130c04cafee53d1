"""Every statement that touches `marty.saga_lock`: semantic locks and those who wait for them.

The rules stand in the schema file, with the functions that keep them: they run one after the other in each namespace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asyncpg import Connection

from marty_msf.store.saga_wave import by_lane

FREED: Final = "freed"
HELD: Final = "held"
WAITS: Final = "waits"
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Asked:
    """An instance that wants its lock; keys are distinct."""

    instance: UUID
    lane: int
    keys: Sequence[str]
    lease_seconds: int
    #: Not to queue: refused at once when another instance is before it.
    reject: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an instance in a turn."""

    instance: UUID
    #: FREED, HELD, WAITS or REFUSED.
    outcome: str
    #: When refused, the instance that is before it.
    before: UUID | None


TURN: Final = """
SELECT instance, outcome, before FROM marty.turn_saga_locks(
    $1, $2, $3::text::bigint[], $4::uuid[], $5::integer[], $6::uuid[], $7::integer[], $8::text[], $9::integer[], $10::boolean[])
"""


async def turn(
    conn: Connection,
    resource: str,
    holder: str,
    epochs: Mapping[int, int],
    freed: Sequence[tuple[UUID, int]],
    asked: Sequence[Asked],
) -> list[Answer]:
    """Free the locks of instances (id, lane), then queue others for theirs, in this order; a transaction of its own.

    What is freed goes to the next waiters at once. Lanes that are not the caller's any more (`epochs`) get no answer
    and change nothing.
    """
    rows = [(it, key) for it in asked for key in it.keys]
    found = await conn.fetch(
        TURN,
        resource,
        holder,
        by_lane(epochs),
        [instance for instance, _ in freed],
        [lane for _, lane in freed],
        [it.instance for it, _ in rows],
        [it.lane for it, _ in rows],
        [key for _, key in rows],
        [it.lease_seconds for it, _ in rows],
        [it.reject for it, _ in rows],
    )
    return [Answer(*row) for row in found]


RECALL: Final = "SELECT marty.recall_saga_locks($1, $2::integer[])"


async def recall(conn: Connection, resource: str, lanes: Sequence[int]) -> frozenset[UUID]:
    """For a new owner of lanes, once its claim is committed: the instances there that hold their locks."""
    return frozenset(row[0] for row in await conn.fetch(RECALL, resource, list(lanes)))


GRANTED: Final = """
SELECT instance, granted FROM marty.saga_lock WHERE resource = $1 AND granted > $2 ORDER BY granted LIMIT $3
"""


async def granted(conn: Connection, resource: str, after: int, limit: int) -> tuple[list[UUID], int]:
    """Instances that got their locks behind a grant's number, and the number to go on from."""
    rows = await conn.fetch(GRANTED, resource, after, limit)
    return [row[0] for row in rows], rows[-1][1] if rows else after


# What `marty.settle_saga_locks` would do something about, found without its lock: nearly always nothing.
STALE: Final = """
SELECT w.key
  FROM (SELECT DISTINCT scope, key FROM marty.saga_lock WHERE resource = $1 AND granted IS NULL) AS w
 CROSS JOIN LATERAL (SELECT q.instance, q.resource, q.lane, q.lease_seconds, q.granted FROM marty.saga_lock AS q
                      WHERE q.scope = w.scope AND q.key = w.key ORDER BY q.ticket LIMIT 1) AS f
  LEFT JOIN marty.saga_instance AS i ON i.id = f.instance
 WHERE i.id IS NULL OR i.state IN ('Completed', 'Compensated', 'Failed', 'Cancelled')
    OR (f.granted IS NULL AND i.state <> 'Waiting')
    OR (f.granted IS NULL AND NOT EXISTS (
           SELECT FROM marty.saga_lock AS o JOIN marty.saga_lock AS b
               ON b.scope = o.scope AND b.key = o.key AND b.ticket < o.ticket WHERE o.instance = f.instance))
    OR (i.state IN ('Waiting', 'Running', 'Compensating') AND EXISTS (
           SELECT FROM marty.lease AS l WHERE l.scope = 'saga:' || f.resource AND l.lane = f.lane
              AND l.expires_at < clock_timestamp() - make_interval(secs => f.lease_seconds)))
 LIMIT $2
"""


async def stale(conn: Connection, resource: str, limit: int) -> list[str]:
    """Keys for which instances of this saga wait in vain: the first one there has ended, or nobody works on it."""
    return [row[0] for row in await conn.fetch(STALE, resource, limit)]


SETTLE: Final = "SELECT marty.settle_saga_locks($1, $2::text[])"


async def settle(conn: Connection, scope: str, keys: Sequence[str]) -> None:
    """Remove first rows of these keys that do not count any more, and grant to those who are the first now."""
    await conn.execute(SETTLE, scope, list(keys))


@dataclass(frozen=True, slots=True)
class Before:
    """The first one before a waiter."""

    key: str
    instance: UUID
    resource: str


BEFORE: Final = """
SELECT DISTINCT ON (o.instance) o.instance, o.key, b.instance, b.resource
  FROM marty.saga_lock AS o
 CROSS JOIN LATERAL (SELECT q.instance, q.resource FROM marty.saga_lock AS q
                      WHERE q.scope = o.scope AND q.key = o.key AND q.ticket < o.ticket
                      ORDER BY q.ticket LIMIT 1) AS b
 WHERE o.instance = ANY($1::uuid[]) AND o.granted IS NULL
 ORDER BY o.instance, o.key
"""


async def before(conn: Connection, instances: Sequence[UUID]) -> Mapping[UUID, Before]:
    """For those of these instances that wait, which one they wait for."""
    return {row[0]: Before(row[1], row[2], row[3]) for row in await conn.fetch(BEFORE, list(instances))}


@dataclass(frozen=True, slots=True)
class Listed:
    """A key that an instance holds or waits for."""

    namespace: str
    key: str
    #: The holder; None while the first waiter still waits for another of its keys.
    resource: str | None
    instance: UUID | None
    business_key: str | None
    state: str | None
    held_at: datetime | None
    #: The first ones of those who wait, in their order, and how many there are.
    waiting: Sequence[UUID]
    waiters: int

    def form(self) -> Mapping[str, Any]:
        """As JSON values."""
        return {
            "namespace": self.namespace,
            "key": self.key,
            "saga": self.resource,
            "saga_id": str(self.instance) if self.instance else None,
            "business_key": self.business_key,
            "state": self.state,
            "held_at": self.held_at.isoformat() if self.held_at else None,
            "waiters": self.waiters,
            "waiting": [str(it) for it in self.waiting],
        }


LIST: Final = """
SELECT k.scope, k.key, h.resource, h.instance, h.business_key, h.state, h.held_at,
       ARRAY(SELECT w.instance FROM marty.saga_lock AS w
              WHERE w.scope = k.scope AND w.key = k.key AND w.granted IS NULL ORDER BY w.ticket LIMIT 20),
       (SELECT count(*) FROM marty.saga_lock AS w WHERE w.scope = k.scope AND w.key = k.key AND w.granted IS NULL) AS waiters
  FROM (SELECT DISTINCT scope, key FROM marty.saga_lock
         WHERE ($1::text[] IS NULL OR resource = ANY($1)) AND ($2::text IS NULL OR key = $2)) AS k
  LEFT JOIN LATERAL (
       SELECT q.resource, q.instance, i.business_key, i.state, q.held_at
         FROM marty.saga_lock AS q JOIN marty.saga_instance AS i ON i.id = q.instance
        WHERE q.scope = k.scope AND q.key = k.key AND q.granted IS NOT NULL
          AND i.state IN ('Waiting', 'Running', 'Compensating', 'Parked')) AS h ON true
 WHERE h.instance IS NOT NULL
    OR EXISTS (SELECT FROM marty.saga_lock AS w WHERE w.scope = k.scope AND w.key = k.key AND w.granted IS NULL)
 ORDER BY h.held_at NULLS LAST, k.scope, k.key
 LIMIT $3
"""


async def listed(conn: Connection, resources: Sequence[str] | None, key: str | None, limit: int) -> list[Listed]:
    """Keys that instances of these sagas (all of them for None) hold or wait for, the longest held first."""
    return [Listed(*row) for row in await conn.fetch(LIST, resources, key, limit)]
