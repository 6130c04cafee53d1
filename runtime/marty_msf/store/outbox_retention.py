"""The slots of `marty.outbox`: which takes new events, and the way of a closed one into the archive and to nothing.

Callers own the transaction, which must be READ COMMITTED. See schema/0023_outbox_retention.sql.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import asyncpg
from asyncpg import Connection

from marty_msf.core.errors import InvalidDefinition
from marty_msf.core.outbox.rotation import Ring

RING: Final = """
SELECT clock_timestamp() AS now, s.slot, s.since, EXISTS (SELECT FROM marty.outbox AS o WHERE o.slot = s.slot) AS used,
       ARRAY(SELECT r.slot FROM marty.outbox_ring AS r WHERE r.closed_at IS NOT NULL ORDER BY r.slot) AS slots,
       ARRAY(SELECT r.closed_at FROM marty.outbox_ring AS r WHERE r.closed_at IS NOT NULL ORDER BY r.slot) AS closed
  FROM marty.outbox_slot AS s
"""


async def ring(conn: Connection) -> Ring:
    """How the slots stand."""
    row = await conn.fetchrow(RING)
    closed = dict(zip(row["slots"], row["closed"], strict=True))
    return Ring(row["now"], row["slot"], row["since"], row["used"], closed)


TURN: Final = """
SELECT marty.turn_outbox_slot($1)
"""


async def turn(conn: Connection, current: int) -> bool:
    """New events go to the slot behind `current` from now on; False when that is not empty or another one is current."""
    turned: bool = await conn.fetchval(TURN, current)
    return turned


class State(StrEnum):
    """What came of a look into a slot, or of emptying it."""

    #: Looked at; there is more.
    MORE = "More"
    #: Looked through: it may be emptied.
    DONE = "Done"
    #: It takes new events, or is empty.
    OPEN = "Open"
    EMPTIED = "Emptied"
    #: An event in it is not published: nothing done.
    UNPUBLISHED = "Unpublished"
    #: It must be looked through first: nothing done.
    AGAIN = "Again"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done to a slot."""

    state: State
    #: One with an unpublished event.
    lane: int | None
    #: Events copied.
    archived: int


LOOK: Final = """
SELECT state, lane, archived FROM marty.look_into_outbox_slot($1, $2, $3)
"""


async def look(conn: Connection, slot: int, archive: str | None, events: int) -> Outcome:
    """Look at the next `events` rows of a closed slot, and copy them into the archive if there is one.

    Raises InvalidDefinition when the archive's name belongs to another table.
    """
    try:
        row = await conn.fetchrow(LOOK, slot, archive, events)
    except asyncpg.PostgresError as error:
        if error.sqlstate != "MA020":
            raise
        hint = getattr(error, "hint", None) or "choose another name"
        raise InvalidDefinition("spec.retention.archiveTable", str(error), hint) from error
    return Outcome(State(row["state"]), row["lane"], row["archived"])


EMPTY: Final = """
SELECT state, lane, archived FROM marty.empty_outbox_slot($1, $2)
"""


async def empty(conn: Connection, slot: int, archive: str | None) -> Outcome:
    """Empty a slot that was looked through, unless an event came there since that is not published.

    Raises asyncpg.LockNotAvailableError, nothing done, when somebody uses it just now. To be committed at once.
    """
    row = await conn.fetchrow(EMPTY, slot, archive)
    return Outcome(State(row["state"]), row["lane"], row["archived"])


#: Sessions of other users are only seen with pg_read_all_stats; prepared transactions have no session.
USERS: Final = """
SELECT coalesce(format('pid %s %s, for %s s', a.pid, a.application_name,
                       extract(epoch FROM clock_timestamp() - a.xact_start)::bigint),
                'pid ' || l.pid, 'a prepared transaction (pg_prepared_xacts)') AS name
  FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
 WHERE l.granted AND l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.relation = (SELECT h.inhrelid FROM pg_inherits AS h JOIN pg_class AS c ON c.oid = h.inhrelid
                      WHERE h.inhparent = 'marty.outbox'::regclass AND c.relname = 'outbox_' || $1::integer)
 GROUP BY 1, a.xact_start
 ORDER BY a.xact_start NULLS FIRST
 LIMIT 3
"""


async def users(conn: Connection, slot: int) -> Sequence[str]:
    """Who has used a slot for longest in transactions that are still open, as people look for them."""
    return [row["name"] for row in await conn.fetch(USERS, slot)]


RETAINED: Final = """
SELECT count(*) AS slots,
       coalesce(extract(epoch FROM clock_timestamp() - min(r.opened_at)), 0)::float8 AS oldest_seconds,
       coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes
  FROM marty.outbox_ring AS r
  JOIN pg_class AS c ON c.relname = 'outbox_' || r.slot
  JOIN pg_inherits AS h ON h.inhrelid = c.oid AND h.inhparent = 'marty.outbox'::regclass
 WHERE r.opened_at IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Retained:
    """What the outbox keeps."""

    slots: int
    #: Since the oldest of them began to take events.
    oldest_seconds: float
    #: With indexes.
    bytes: int


async def retained(conn: Connection) -> Retained:
    """The slots that are not empty."""
    return Retained(**await conn.fetchrow(RETAINED))
