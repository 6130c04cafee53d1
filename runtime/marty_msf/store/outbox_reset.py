"""A new position for an outbox that was restored from a dump: the stored one names transactions of another cluster.

So do the events' own transaction ids, and this cluster's may be lower: the events get one that means something here.
"""

from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

LOCK: Final = """
SELECT lane, system_identifier <> (SELECT system_identifier FROM pg_control_system()) AS foreign_cluster
  FROM marty.outbox_position ORDER BY lane FOR UPDATE
"""

# See outbox_dead_verb.
LOCK_OUTBOX: Final = """
SELECT 1 FROM marty.outbox_owner FOR UPDATE
"""


async def restored(conn: Connection) -> bool:
    """Whether a lane's position is another cluster's; all of them are locked until the transaction ends."""
    await conn.execute(LOCK_OUTBOX)
    return any(row["foreign_cluster"] for row in await conn.fetch(LOCK))


@dataclass(frozen=True, slots=True)
class Retained:
    """Events in the outbox: those that a reset is about, and those that are held and stay so."""

    events: int
    held: int


COUNT: Final = """
SELECT (SELECT count(*) FROM marty.outbox AS o
         WHERE NOT EXISTS (SELECT FROM marty.outbox_held AS h WHERE h.id = o.id)),
       (SELECT count(*) FROM marty.outbox_held)
"""


async def retained(conn: Connection) -> Retained:
    """Looks at every row of the outbox."""
    row = await conn.fetchrow(COUNT)
    return Retained(row[0], row[1])


# What this transaction marks unread must not be visible in it, nor what others have in work: they and everything from this
# transaction on are unread. A snapshot leaves its own transaction out of those in work, hence the bound.
POSITION: Final = """
UPDATE marty.outbox_position
   SET prev = seen.until, next = NULL, last_id = 0, updated_at = clock_timestamp(),
       system_identifier = (SELECT system_identifier FROM pg_control_system())
  FROM (SELECT format('%s:%s:%s', least(pg_snapshot_xmin(now), bound), bound,
                      (SELECT string_agg(x::text, ',' ORDER BY x) FROM pg_snapshot_xip(now) AS x WHERE x < bound)
                     )::pg_snapshot AS until
          FROM (SELECT s AS now, least(pg_snapshot_xmax(s), pg_current_xact_id()) AS bound
                  FROM pg_current_snapshot() AS s) AS bounded) AS seen
"""

# 3 is the first transaction id there is: visible in every snapshot. What is held is sent from there.
SEEN: Final = """
UPDATE marty.outbox AS o SET xid = '3'::xid8
 WHERE xid <> '3'::xid8 AND ($1 OR EXISTS (SELECT FROM marty.outbox_held AS h WHERE h.id = o.id))
"""

UNREAD: Final = """
UPDATE marty.outbox AS o SET xid = pg_current_xact_id()
 WHERE NOT EXISTS (SELECT FROM marty.outbox_held AS h WHERE h.id = o.id)
"""

FORGET_AHEAD: Final = """
DELETE FROM marty.outbox_ahead
"""


async def reset(conn: Connection, *, republish: bool) -> None:
    """Take every retained event for unread, or every one for read; held ones stay. Needs the transaction of `restored`.

    Writers may go on: what they commit meanwhile is unread, or, if a statement here sees it, one of the retained.
    """
    await conn.execute(POSITION)
    await conn.execute(SEEN, not republish)
    if republish:
        await conn.execute(UNREAD)
    await conn.execute(FORGET_AHEAD)
