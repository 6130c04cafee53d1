"""What the database knows of itself, for relays whose Kafka transactions carry notes (see core.outbox.transaction)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

from marty_msf.core.outbox.transaction import History

SYSTEM_IDENTIFIER: Final = """
SELECT system_identifier FROM pg_control_system()
"""


async def system_identifier(conn: Connection) -> int:
    """The Postgres cluster's own."""
    return int(await conn.fetchval(SYSTEM_IDENTIFIER))


#: The timeline of what is written now, which pg_control_checkpoint tells only after the next checkpoint.
NOW: Final = """
SELECT system_identifier, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) AS timeline,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid
  FROM pg_control_system()
"""


@dataclass(frozen=True, slots=True)
class Now:
    """Where the database stands."""

    history: History
    #: No transaction has this id or a higher one.
    next_xid: int


async def now(conn: Connection) -> Now:
    """On a primary only."""
    row = await conn.fetchrow(NOW)
    return Now(History(row["system_identifier"], row["timeline"]), row["next_xid"])


PRESENT: Final = """
SELECT o.id FROM marty.outbox AS o JOIN unnest($1::bigint[], $2::text[]) AS n (id, event_id)
    ON o.id = n.id AND o.event_id::text = n.event_id
"""


async def present(conn: Connection, events: Mapping[int, str]) -> Collection[int]:
    """Which of these events (id -> event id) the outbox has."""
    rows = await conn.fetch(PRESENT, list(events), list(events.values())) if events else []
    return {row["id"] for row in rows}
