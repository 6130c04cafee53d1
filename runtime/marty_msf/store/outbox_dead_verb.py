"""What people do to dead letters: redrive, discard and edit, each written down in `marty.outbox_verb` by the same transaction.

The rows of the lanes' positions are locked first, as by everybody who adds or removes held events, so that a relay that
holds an event behind a dead one never misses that it left. After that lock a row is only touched while it is dead: who
comes second finds nothing to do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from asyncpg import Connection

from marty_msf.core.outbox.dead_letters import Choice, Content
from marty_msf.store.outbox_dead import SHOW, Whole, arguments

PICK: Final = """
SELECT id, lane, cause
  FROM marty.outbox_held
 WHERE state = 'Dead' AND id > $8
   AND ($1::bigint[] IS NULL OR id = ANY($1))
   AND ($2::text IS NULL OR cause = $2)
   AND ($3::text IS NULL OR topic = $3)
   AND ($4::text IS NULL OR event_type = $4)
   AND ($5::text IS NULL OR aggregate_id = $5)
   AND ($6::timestamptz IS NULL OR coalesce(last_failed_at, held_at) >= $6)
   AND ($7::timestamptz IS NULL OR coalesce(last_failed_at, held_at) < $7)
 ORDER BY id
 LIMIT $9
"""

# A working relay writes its lanes' rows in an order of its own, always behind this one: so nobody waits in a circle.
LOCK_OUTBOX: Final = """
SELECT 1 FROM marty.outbox_owner FOR UPDATE
"""

LOCK_LANES: Final = """
SELECT 1 FROM marty.outbox_position WHERE lane = ANY($1::smallint[]) ORDER BY lane FOR UPDATE
"""

# In one order, so that two who count down the same causes do not wait for each other.
LOCK_CAUSES: Final = """
SELECT 1 FROM marty.outbox_cause WHERE cause = ANY($1::text[]) ORDER BY cause FOR UPDATE
"""


async def pick(conn: Connection, chosen: Choice, above: int, limit: int) -> list[int]:
    """The first `limit` chosen dead letters with an id above `above`, their lanes and causes locked.

    Needs a transaction. Some of them may have been taken by somebody else before the lock was ours.
    """
    rows = await conn.fetch(PICK, *arguments(chosen), above, limit)
    await conn.execute(LOCK_OUTBOX)
    await conn.execute(LOCK_LANES, sorted({row["lane"] for row in rows}))
    await conn.execute(LOCK_CAUSES, sorted({row["cause"] for row in rows if row["cause"] is not None}))
    return [row["id"] for row in rows]


# In order only the first of an aggregate may be due, see PROMOTE.
REDRIVE: Final = """
WITH moved AS (
    UPDATE marty.outbox_held
       SET state = 'Retrying', attempts = 0, copied = false, copy_error = NULL,
           due_at = CASE WHEN NOT in_order THEN greatest(statement_timestamp(), deliver_after) END
     WHERE id = ANY($1::bigint[]) AND state = 'Dead'
    RETURNING id, lane, cause, CASE WHEN in_order THEN aggregate_id END AS aggregate_id
), position AS (
    UPDATE marty.outbox_position AS p SET dead = p.dead - m.moved, held = p.held + m.moved
      FROM (SELECT lane, count(*) AS moved FROM moved GROUP BY lane) AS m
     WHERE p.lane = m.lane
), causes AS (
    UPDATE marty.outbox_cause AS c SET dead = c.dead - m.moved
      FROM (SELECT cause, count(*) AS moved FROM moved GROUP BY cause) AS m
     WHERE c.cause = m.cause
)
SELECT id, aggregate_id FROM moved ORDER BY id
"""

DISCARD: Final = """
WITH gone AS (
    DELETE FROM marty.outbox_held
     WHERE id = ANY($1::bigint[]) AND state = 'Dead'
    RETURNING id, lane, cause, CASE WHEN in_order THEN aggregate_id END AS aggregate_id
), position AS (
    UPDATE marty.outbox_position AS p SET dead = p.dead - g.gone
      FROM (SELECT lane, count(*) AS gone FROM gone GROUP BY lane) AS g
     WHERE p.lane = g.lane
), causes AS (
    UPDATE marty.outbox_cause AS c SET dead = c.dead - g.gone
      FROM (SELECT cause, count(*) AS gone FROM gone GROUP BY cause) AS g
     WHERE c.cause = g.cause
)
SELECT id, aggregate_id FROM gone ORDER BY id
"""

PROMOTE: Final = """
UPDATE marty.outbox_held
   SET due_at = greatest(clock_timestamp(), deliver_after)
 WHERE id IN (SELECT (SELECT h.id FROM marty.outbox_held AS h
                       WHERE h.aggregate_id = a.aggregate_id AND h.in_order ORDER BY h.id LIMIT 1)
                FROM unnest($1::text[]) AS a (aggregate_id))
   AND state <> 'Dead' AND due_at IS NULL
"""


async def redrive(conn: Connection, ids: Sequence[int]) -> list[int]:
    """Let those of these that are still dead be tried again, as if they had never failed; needs `pick`'s transaction."""
    return await _moved(conn, REDRIVE, ids)


async def discard(conn: Connection, ids: Sequence[int]) -> list[int]:
    """Remove those of these that are still dead, and let what waited for them go on; needs `pick`'s transaction."""
    return await _moved(conn, DISCARD, ids)


async def _moved(conn: Connection, statement: str, ids: Sequence[int]) -> list[int]:
    rows = await conn.fetch(statement, list(ids))
    if aggregates := sorted({row["aggregate_id"] for row in rows if row["aggregate_id"] is not None}):
        await conn.execute(PROMOTE, aggregates)
    return [row["id"] for row in rows]


LOCK_ONE: Final = f"{SHOW} FOR UPDATE"


async def locked(conn: Connection, number: int) -> Whole | None:
    """One held event that nobody else can change before the transaction ends; None when it is not held."""
    row = await conn.fetchrow(LOCK_ONE, number)
    return Whole(*row) if row else None


EDIT: Final = """
UPDATE marty.outbox_held SET payload = $2, headers = $3::jsonb WHERE id = $1 AND state = 'Dead'
"""


async def edit(conn: Connection, number: int, content: Content) -> bool:
    """Give a dead letter another content; False when it is not dead."""
    headers = orjson.dumps(content.headers).decode() if content.headers else None
    answer: str = await conn.execute(EDIT, number, content.payload, headers)
    return answer == "UPDATE 1"


AUDIT: Final = """
INSERT INTO marty.outbox_verb (verb, who, why, what, affected) VALUES ($1, $2, $3, $4::jsonb, $5)
"""


async def audit(conn: Connection, verb: str, who: str, why: str, what: Mapping[str, Any], affected: int) -> None:
    """Write down what a person did, in the transaction that does it."""
    await conn.execute(AUDIT, verb, who, why, orjson.dumps(what).decode(), affected)
