"""Lanes with fenced leases, shared by all three workers.

A lane has one owner at a time. Each change of owner raises the lane's epoch; a fenced write locks the lease rows FOR
SHARE and compares the epochs, so a former owner's writes are refused by the database, however late they come
(M. Kleppmann's fencing tokens). Only database time is used. Locks are always taken in lane order, so that renewals
(FOR UPDATE) and fenced writes (FOR SHARE) cannot deadlock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection

from marty_msf.core.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class Claims:
    """What one claim round left us with."""

    #: lane -> epoch of every lane now ours, renewed until now + ttl.
    held: Mapping[int, int]
    #: Live workers of the scope, ourselves included.
    workers: int


CLAIM: Final = """
SELECT lane, epoch, workers
  FROM marty.claim_lanes($1::text, $2::text, $3::integer[], $4::double precision)
"""


async def claim(conn: Connection, scope: str, holder: str, lanes: Sequence[int], ttl_seconds: float) -> Claims:
    """Renew what we hold and take free or expired lanes up to a fair share of `lanes`. One transaction of its own.

    A holder above its fair share keeps the surplus until it releases it (see `surplus` in core.lanes): a lane is
    never pulled away from a live owner in the middle of its work.
    """
    rows = await conn.fetch(CLAIM, scope, holder, list(lanes), ttl_seconds)
    return Claims(
        held={row["lane"]: row["epoch"] for row in rows if row["lane"] is not None},
        workers=rows[0]["workers"] if rows else 1,
    )


RELEASE: Final = """
UPDATE marty.lease
   SET holder = NULL, expires_at = now()
 WHERE scope = $1 AND holder = $2 AND lane = ANY($3::integer[])
"""


async def release(conn: Connection, scope: str, holder: str, lanes: Sequence[int]) -> None:
    """Give lanes back at once, after the caller has stopped writing to them."""
    await conn.execute(RELEASE, scope, holder, list(lanes))


LEAVE: Final = """
WITH gone AS (DELETE FROM marty.worker WHERE scope = $1 AND holder = $2)
UPDATE marty.lease SET holder = NULL, expires_at = now() WHERE scope = $1 AND holder = $2
"""


async def leave(conn: Connection, scope: str, holder: str) -> None:
    """Give everything back: the last thing a stopping worker does."""
    await conn.execute(LEAVE, scope, holder)


FENCE: Final = """
SELECT marty.fence($1::text, $2::text, $3::integer[], $4::bigint[])
"""


async def fence(conn: Connection, scope: str, holder: str, epochs: Mapping[int, int]) -> None:
    """Inside the caller's transaction: lock the lanes' leases FOR SHARE and raise LeaseLost unless all are still ours."""
    lanes = sorted(epochs)
    if not await conn.fetchval(FENCE, scope, holder, lanes, [epochs[lane] for lane in lanes]):
        raise LeaseLost(f"{scope}: {holder} no longer owns all of the lanes {lanes}: the write was refused")
