"""How far the outbox was published, and which relay may publish it."""

from collections.abc import Mapping, Sequence
from typing import Final

from asyncpg import Connection

from marty_msf.core.errors import LeaseLost, OutboxOwned, OutboxRestored
from marty_msf.core.windows import BEGINNING, Position, Positions, Snapshot
from marty_msf.store.leases import fence

#: A relay of another name takes the outbox over when no worker of the owner was seen for so long. An owner that stops
#: gives nothing up: its pods come and go with every change, and whoever was second must not slip in between.
OWNER_TTL_SECONDS: Final = 60

OWN: Final = """
INSERT INTO marty.outbox_owner AS o (resource, expires_at)
VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (singleton) DO UPDATE SET resource = excluded.resource, expires_at = excluded.expires_at
 WHERE o.resource = excluded.resource OR o.expires_at < clock_timestamp()
RETURNING true
"""

OWNER: Final = """
SELECT resource FROM marty.outbox_owner
"""


async def own(conn: Connection, resource: str) -> None:
    """Become or stay the relay of this outbox for OWNER_TTL_SECONDS. Raises OutboxOwned."""
    if not await conn.fetchval(OWN, resource, OWNER_TTL_SECONDS):
        owner = await conn.fetchval(OWNER)
        raise OutboxOwned(
            f"the outbox of this database is published by OutboxRelay {owner}, so {resource} stays idle: "
            f"delete one of the two, or give it another database; when {owner} is deleted, {resource} takes over at most "
            f"{OWNER_TTL_SECONDS} s after its last worker ended"
        )


START: Final = """
INSERT INTO marty.outbox_position (lane, prev, last_id, system_identifier)
SELECT lane, $2, 0, (SELECT system_identifier FROM pg_control_system()) FROM unnest($1::smallint[]) AS l (lane)
ON CONFLICT (lane) DO NOTHING
"""

LOAD: Final = """
SELECT lane, prev, next, last_id, system_identifier, (SELECT system_identifier FROM pg_control_system()) AS ours
  FROM marty.outbox_position
 WHERE lane = ANY($1::smallint[])
"""


RESTORED: Final = (
    "the outbox position was stored by the Postgres cluster {}, this one is {} (restored from a dump?), so its "
    "transaction ids mean nothing here: either publish every retained event again with "
    "`marty outbox reset-cursor --republish`, or skip what is there with `marty outbox reset-cursor --skip`; "
    "--dry-run tells how many these are"
)


async def load(conn: Connection, lanes: Sequence[int]) -> Positions:
    """Where these lanes stand; lanes never read before start at the beginning. Raises OutboxRestored."""
    await conn.execute(START, lanes, BEGINNING)
    rows = await conn.fetch(LOAD, lanes)
    for row in rows:
        if row["system_identifier"] != row["ours"]:
            raise OutboxRestored(RESTORED.format(row["system_identifier"], row["ours"]))
    return {
        row["lane"]: Position(
            Snapshot(*row["prev"]), Snapshot(*row["next"]) if row["next"] is not None else None, row["last_id"]
        )
        for row in rows
    }


#: The fence and the positions in one round trip: nothing is written unless every lane and the outbox are still ours.
STORE: Final = """
WITH fenced AS MATERIALIZED (
    SELECT marty.fence($1, $2, $3::integer[], $4::bigint[]) AS ok
), owned AS MATERIALIZED (
    SELECT 1 FROM marty.outbox_owner WHERE resource = $5 FOR SHARE
)
UPDATE marty.outbox_position AS p
   SET prev = $6::pg_snapshot, next = $7::pg_snapshot, last_id = $8,
       published_total = p.published_total + w.published, updated_at = clock_timestamp()
  FROM unnest($3::integer[], $9::bigint[]) AS w (lane, published), fenced, owned
 WHERE fenced.ok AND p.lane = w.lane
"""


async def store(
    conn: Connection,
    scope: str,
    holder: str,
    resource: str,
    epochs: Mapping[int, int],
    positions: Positions,
    published: Mapping[int, int],
) -> None:
    """Write the lanes' positions and add to their counts, all or nothing. Raises LeaseLost.

    `epochs` and `positions` name the same lanes; `published` may leave out lanes without events. Lanes are nearly always
    at one position, which makes this one statement; with several it opens a transaction.
    """
    groups: dict[Position, list[int]] = {}
    for lane in sorted(positions):
        groups.setdefault(positions[lane], []).append(lane)
    whole = (scope, holder, resource)
    if len(groups) == 1:
        await _store_group(conn, *whole, epochs, *groups.popitem(), published)
        return
    async with conn.transaction():
        await fence(conn, scope, holder, epochs)
        for position, lanes in groups.items():
            await _store_group(conn, *whole, epochs, position, lanes, published)


async def _store_group(
    conn: Connection,
    scope: str,
    holder: str,
    resource: str,
    epochs: Mapping[int, int],
    position: Position,
    lanes: Sequence[int],
    published: Mapping[int, int],
) -> None:
    answer = await conn.execute(
        STORE,
        scope,
        holder,
        lanes,
        [epochs[lane] for lane in lanes],
        resource,
        position.prev,
        position.next,
        position.last_id,
        [published.get(lane, 0) for lane in lanes],
    )
    if answer != f"UPDATE {len(lanes)}":
        raise LeaseLost(f"{scope}: {holder} no longer owns all of the lanes {lanes}: the position was refused")


PUBLISHED: Final = """
SELECT coalesce(sum(published_total), 0)::bigint FROM marty.outbox_position
"""


async def published_total(conn: Connection) -> int:
    """Events published since the outbox was installed."""
    return int(await conn.fetchval(PUBLISHED))
