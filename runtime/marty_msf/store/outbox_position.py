"""How far the outbox was published, and which relay may publish it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from asyncpg import Connection

from marty_msf.core.errors import LeaseLost, OutboxOwned, OutboxRestored
from marty_msf.core.names import LIBRARY_NAMESPACE
from marty_msf.core.windows import BEGINNING, Position, Positions, Snapshot
from marty_msf.store import outbox_held
from marty_msf.store.leases import fence
from marty_msf.store.outbox_held import Refusal

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
            f"the outbox of this database is published by {_publisher(owner)}, so {_publisher(resource)} stays idle: "
            "let one of the two go (delete an OutboxRelay, stop a processor), or give it another database; the other one takes "
            f"over at most {OWNER_TTL_SECONDS} s after its last worker ended"
        )


def _publisher(resource: str) -> str:
    """In words."""
    namespace, _, _ = resource.partition("/")
    return "an application's EnhancedOutboxProcessor" if namespace == LIBRARY_NAMESPACE else f"OutboxRelay {resource}"


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


GO_AHEAD: Final = """
INSERT INTO marty.outbox_ahead (id, lane) SELECT * FROM unnest($1::bigint[], $2::smallint[]) ON CONFLICT (id) DO NOTHING
"""

PASSED: Final = """
DELETE FROM marty.outbox_ahead WHERE id = ANY($1::bigint[])
"""

#: Without a change of position: what was published before the cursor came by.
COUNT_AHEAD: Final = """
UPDATE marty.outbox_position AS p SET published_total = p.published_total + n.published
  FROM unnest($1::smallint[], $2::bigint[]) AS n (lane, published) WHERE p.lane = n.lane
"""

OWNED: Final = """
SELECT 1 FROM marty.outbox_owner WHERE resource = $1 FOR SHARE
"""


async def check_owner(conn: Connection, resource: str) -> None:
    """Inside the caller's transaction: nobody else can become the outbox's relay until it ends. Raises LeaseLost."""
    if not await conn.fetchval(OWNED, resource):
        raise LeaseLost(f"{resource} no longer owns the outbox: the write was refused")


@dataclass(frozen=True, slots=True)
class Exceptions:
    """Events that do not go the way of their lane."""

    #: Outbox ids that the positions pass and that are not published: why, or None for those that only wait.
    held: Mapping[int, Refusal | None] = field(default_factory=dict)
    #: id -> lane of what was published before the position comes by.
    ahead: Mapping[int, int] = field(default_factory=dict)
    #: Ids of such events that the positions pass now.
    passed: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.held or self.ahead or self.passed)


NONE: Final = Exceptions()


async def store(
    conn: Connection,
    scope: str,
    holder: str,
    resource: str,
    epochs: Mapping[int, int],
    positions: Positions,
    published: Mapping[int, int],
    exceptions: Exceptions = NONE,
    *,
    dead_block: bool = True,
) -> Mapping[int, int]:
    """Write the lanes' positions, add to their counts and take over what is held, all or nothing. Raises LeaseLost.

    Answers with lane -> events newly held. `epochs` names the lanes of `positions` and those of events that went ahead;
    `published` may leave out lanes without events. Lanes are nearly always at one position, which makes this one
    statement; with several, or with exceptions, it opens a transaction.
    """
    groups: dict[Position, list[int]] = {}
    last: Position | None = None
    for lane in sorted(positions):
        if positions[lane] is not last:
            last = positions[lane]
            group = groups.setdefault(last, [])
        group.append(lane)
    whole = (scope, holder, resource)
    if len(groups) == 1 and not exceptions:
        await _store_group(conn, *whole, epochs, *groups.popitem(), published)
        return {}
    async with conn.transaction():
        await fence(conn, scope, holder, epochs)
        await check_owner(conn, resource)
        await outbox_held.lock(conn, epochs)
        for position, lanes in groups.items():
            await _store_group(conn, *whole, epochs, position, lanes, published)
        held: Mapping[int, int] = {}
        if exceptions.held:
            held = await outbox_held.hold(conn, exceptions.held, dead_block=dead_block)
        if exceptions.ahead:
            await conn.execute(GO_AHEAD, list(exceptions.ahead), list(exceptions.ahead.values()))
        if exceptions.passed:
            await conn.execute(PASSED, exceptions.passed)
        if counted := {lane: number for lane, number in published.items() if lane not in positions}:
            await conn.execute(COUNT_AHEAD, list(counted), list(counted.values()))
        return held


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


AHEAD: Final = """
SELECT id, lane FROM marty.outbox_ahead WHERE lane = ANY($1::smallint[])
"""


async def ahead(conn: Connection, lanes: Sequence[int]) -> Mapping[int, int]:
    """id -> lane of what was published before the lanes' positions come by."""
    return {row["id"]: row["lane"] for row in await conn.fetch(AHEAD, lanes)}
