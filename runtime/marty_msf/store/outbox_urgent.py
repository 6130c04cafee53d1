"""What of the outbox goes out before older events: where urgent ones are, and what is before them in their aggregates."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection, Record

from marty_msf.core.windows import BEGINNING, Positions, Snapshot, by_lane, unseen_range
from marty_msf.store.outbox import READ_BYTES, REST, WHO

#: Events looked at once; further ones are looked at next time.
LOOK_ROWS: Final = 20_000


def _sent(ends: str, ids: str, lanes: str) -> str:
    """Whether a row was sent in its turn, by the parameters that have its windows' ends and ids, and whose they are (`by_lane`)."""
    return f"""coalesce(pg_visible_in_snapshot(xid, ({ends}::pg_snapshot[])[get_byte({lanes}, lane)])
                            AND id <= ({ids}::bigint[])[get_byte({lanes}, lane)], false)"""


def _look(level: int, among: str = "") -> str:
    """Every row that is looked at costs little this way: an array for what is urgent, and nothing kept of the others.

    Late transactions come first, so that the last row is of the highest one.
    """
    return f"""
SELECT count(*) AS looked, (array_agg(xid))[count(*)]::text::bigint AS xid, pg_current_snapshot()::text AS snapshot,
       array_agg(id) FILTER (WHERE urgent) AS ids, array_agg(lane) FILTER (WHERE urgent) AS lanes,
       array_agg(aggregate_id) FILTER (WHERE urgent) AS aggregates
  FROM (SELECT xid, id, lane, aggregate_id, priority = {level} AND NOT {_sent("$5", "$6", "$7")} AS urgent FROM (
    (SELECT xid, id, lane, aggregate_id, priority FROM marty.outbox
      WHERE {among} xid = ANY($2::xid8[]) AND NOT pg_visible_in_snapshot(xid, $3) ORDER BY xid LIMIT $4)
    UNION ALL
    (SELECT xid, id, lane, aggregate_id, priority FROM marty.outbox
      WHERE {among} xid >= $1::xid8 AND NOT pg_visible_in_snapshot(xid, $3) ORDER BY xid LIMIT $4)
  ) AS found) AS looked
"""  # noqa: S608  # constants only


HIGH: Final = _look(2, "priority = 2 AND")

#: Without an index of their own: where most events are normal, all that is new is looked at once.
NORMAL: Final = _look(1)


@dataclass(frozen=True, slots=True)
class Seen:
    """How far was looked for urgent events: all that `snapshot` shows, and of the rest the transactions below `xid`."""

    snapshot: Snapshot = BEGINNING
    xid: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """(lane, aggregate id, or the id of an event without one) of urgent events, oldest transactions first; how far was looked."""

    keys: Sequence[tuple[int, str | int]]
    seen: Seen


async def urgent(conn: Connection, statement: str, seen: Seen, positions: Positions) -> Found:
    """HIGH or NORMAL events that were not there at the last look, nor sent; without one, from where the lanes stand."""
    if seen.snapshot == BEGINNING:
        span = unseen_range(position.prev for position in positions.values())
    else:
        span = unseen_range([seen.snapshot])
    distinct, lanes = by_lane(positions)
    ends, ids = zip(*((position.next, position.last_id) for position in distinct), strict=True)
    given = (max(span.low, seen.xid), span.late, seen.snapshot, LOOK_ROWS, ends, ids, lanes)
    (row,) = await conn.fetch(statement, *given)
    events = zip(row["lanes"] or (), row["aggregates"] or (), row["ids"] or (), strict=True)
    # The last transaction may have more rows than fitted: it is looked at again.
    complete = row["looked"] < LOOK_ROWS
    so_far = Seen(Snapshot.parse(row["snapshot"])) if complete else Seen(seen.snapshot, row["xid"])
    return Found([(lane, aggregate or id_) for lane, aggregate, id_ in events], so_far)


#: $1 aggregates, $2 single events without one; $3 and $4 as for outbox.OPEN; $5, $6 and $7 are what was
#: sent, $11 whose that is (`by_lane`), $10 what went ahead: as a query it is hashed, where an array of a plan that is kept for
#: all calls would be gone through for each row.
WAITING: Final = f"""
SELECT {WHO}, payload, {REST}
  FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) AS bytes
          FROM (SELECT * FROM (
                    SELECT * FROM marty.outbox WHERE aggregate_id = ANY($1::text[]) AND xid >= $3::xid8
                    UNION ALL
                    SELECT * FROM marty.outbox WHERE aggregate_id = ANY($1::text[]) AND xid = ANY($4::xid8[])
                    UNION ALL
                    SELECT * FROM marty.outbox WHERE id = ANY($2::bigint[])
                ) AS candidate
                 WHERE NOT pg_visible_in_snapshot(xid, ($5::pg_snapshot[])[get_byte($11, lane)])
                   AND NOT {_sent("$6", "$7", "$11")}
                   AND id NOT IN (SELECT unnest($10::bigint[]))
                 ORDER BY id LIMIT $8) AS next) AS measured
 WHERE bytes - octet_length(payload) < $9::bigint
 ORDER BY id
"""  # noqa: S608  # constants only


async def waiting(
    conn: Connection,
    aggregates: Collection[str],
    singles: Collection[int],
    sent: Positions,
    ahead: Collection[int],
    limit: int,
) -> tuple[Sequence[Record], bool]:
    """Everything of these aggregates that was not sent, nor went ahead, oldest first, and whether that is all.

    Rows are outbox.OPEN's.
    """
    span = unseen_range(position.prev for position in sent.values())
    distinct, lanes = by_lane(sent)
    prevs, ends, ids = zip(*((position.prev, position.next, position.last_id) for position in distinct), strict=True)
    rows = await conn.fetch(
        *(WAITING, list(aggregates), list(singles), span.low, span.late),
        *(prevs, ends, ids, limit, READ_BYTES, list(ahead), lanes),
    )
    cut = len(rows) == limit or sum(len(row["payload"]) for row in rows) >= READ_BYTES
    return rows, not cut
