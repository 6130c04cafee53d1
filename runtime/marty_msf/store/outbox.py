"""Every statement that reads `marty.outbox`. Rows are read in the order of core.windows; nothing is ever updated there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from asyncpg import Connection, Record

from marty_msf.core.windows import BEGINNING, Positions, Snapshot, by_lane, unseen_range

#: Bound of the payloads of one read, so that large events cannot fill a worker's memory.
READ_BYTES: Final = 16 * 1024 * 1024

#: Of a session that reads all the time: every statement is planned once, and only indexes are looked up, because that plan is
#: kept, whatever the tables looked like when it was made.
PLAN_ONCE: Final = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off"

#: The columns of an event as it is read, before and behind its payload. `extras` is NULL for the usual event: one column to
#: decode instead of four. For one that has a priority only it is a character, for others a JSON object. A time that is too far
#: away for a number ('infinity') is the farthest one: a read that fails would fail for all events.
WHO: Final = "id, lane, event_id::text AS event_id, topic, event_type, aggregate_type, aggregate_id"
REST: Final = """headers, (date_part('epoch', created_at) * 1000000)::bigint AS time,
       CASE WHEN message_key IS NULL AND deliver_after IS NULL AND max_attempts IS NULL AND priority IN (0, 1, 2) THEN
                 CASE priority WHEN 0 THEN '0' WHEN 2 THEN '2' END
            ELSE jsonb_build_object('key', message_key, 'max_attempts', max_attempts, 'priority', priority,
                 'after', CASE WHEN deliver_after IS NOT NULL THEN
                      greatest(least(date_part('epoch', deliver_after) * 1000000, 9e18), 0)::bigint END)::text END AS extras"""

#: The first row is no event: it carries the
#: statement's snapshot and whether the rows fit, in columns of their type.
#: The array subscript gives NULL for lanes that are not asked for (`by_lane`), and NOT NULL keeps no row. ORDER BY xid LIMIT makes
#: the index on xid the only sensible plan, whatever the statistics say.
OPEN: Final = f"""
WITH found AS MATERIALIZED (
    (SELECT {WHO}, payload, {REST}
       FROM marty.outbox
      WHERE xid >= $1::xid8 AND NOT pg_visible_in_snapshot(xid, ($3::pg_snapshot[])[get_byte($6, lane)])
      ORDER BY xid LIMIT $4)
    UNION ALL
    (SELECT {WHO}, payload, {REST}
       FROM marty.outbox
      WHERE xid = ANY($2::xid8[]) AND NOT pg_visible_in_snapshot(xid, ($3::pg_snapshot[])[get_byte($6, lane)])
      ORDER BY xid LIMIT $4)
), measured AS MATERIALIZED (
    SELECT count(*) < $4 AND coalesce(sum(octet_length(payload)), 0) < $5::bigint AS fits FROM found
)
SELECT NULL::bigint AS id, NULL::smallint AS lane, NULL::text AS event_id, pg_current_snapshot()::text AS topic,
       fits::text AS event_type, NULL::text AS aggregate_type, NULL::text AS aggregate_id,
       NULL::bytea AS payload, NULL::jsonb AS headers, NULL::bigint AS time, NULL::text AS extras
  FROM measured
UNION ALL
SELECT found.* FROM found WHERE (SELECT fits FROM measured)
ORDER BY id NULLS FIRST
"""  # noqa: S608  # constants only


@dataclass(frozen=True, slots=True)
class Opened:
    """A window that begins where the lanes stood: all its rows by id, or None when they are more than fits one read."""

    end: Snapshot
    rows: Sequence[Record] | None


async def open_window(conn: Connection, positions: Positions, limit: int) -> Opened:
    """Read what became visible since the lanes' `prev`; the statement's own snapshot is the window's end."""
    span = unseen_range(position.prev for position in positions.values())
    prevs, lanes = _prevs(positions)
    rows = await conn.fetch(OPEN, span.low, span.late, prevs, limit + 1, READ_BYTES, lanes)
    return Opened(Snapshot.parse(rows[0]["topic"]), rows[1:] if rows[0]["event_type"] == "true" else None)


FIRST_ID: Final = """
SELECT coalesce(least(
    (SELECT min(id) FROM (
        SELECT id FROM marty.outbox
         WHERE xid >= $1::xid8 AND NOT pg_visible_in_snapshot(xid, ($3::pg_snapshot[])[get_byte($4, lane)])
         ORDER BY xid) AS fresh),
    (SELECT min(id) FROM (
        SELECT id FROM marty.outbox
         WHERE xid = ANY($2::xid8[]) AND NOT pg_visible_in_snapshot(xid, ($3::pg_snapshot[])[get_byte($4, lane)])
         ORDER BY xid) AS late)), 1)
"""


async def id_before_window(conn: Connection, positions: Positions) -> int:
    """An id below every row of the window that begins at the lanes' `prev`, so that reading by id skips what is older.

    Looks at each row of the window once, through the index; a window that begins at the beginning is not looked at.
    """
    span = unseen_range(position.prev for position in positions.values())
    if span.low <= BEGINNING.xmax:
        return 0
    return int(await conn.fetchval(FIRST_ID, span.low, span.late, *_prevs(positions))) - 1


#: Payloads up to here are read without adding up their sizes, which costs a third of a read.
SMALL_BYTES: Final = 4096

#: A payload that is not small is NULL: then MEASURED reads the same rows.
SMALL: Final = f"""
SELECT {WHO}, CASE WHEN octet_length(payload) <= 4096 THEN payload END AS payload, {REST}
  FROM marty.outbox
 WHERE id > $1 AND pg_visible_in_snapshot(xid, $2)
   AND NOT pg_visible_in_snapshot(xid, ($3::pg_snapshot[])[get_byte($5, lane)])
 ORDER BY id
 LIMIT $4
"""  # noqa: S608  # constants only

#: octet_length of a large payload looks at its header only, so nothing is fetched to be measured.
MEASURED: Final = f"""
SELECT {WHO}, payload, {REST}
  FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) AS bytes
          FROM (SELECT * FROM marty.outbox
                 WHERE id > $1 AND pg_visible_in_snapshot(xid, $2)
                   AND NOT pg_visible_in_snapshot(xid, ($3::pg_snapshot[])[get_byte($5, lane)])
                 ORDER BY id
                 LIMIT $4) AS next) AS measured
 WHERE bytes - octet_length(payload) < $6::bigint
 ORDER BY id
"""  # noqa: S608  # constants only


@dataclass(frozen=True, slots=True)
class Continued:
    """The next rows of an open window, and whether they are its last."""

    rows: Sequence[Record]
    complete: bool


async def continue_window(conn: Connection, positions: Positions, end: Snapshot, last_id: int, limit: int) -> Continued:
    """At most `limit` rows behind `last_id`, and not much more than READ_BYTES of payload."""
    prevs, lanes = _prevs(positions)
    given = (last_id, end, prevs, limit, lanes)
    if limit * SMALL_BYTES <= 2 * READ_BYTES:
        rows = await conn.fetch(SMALL, *given)
        if all(row["payload"] is not None for row in rows):
            return Continued(rows, len(rows) < limit)
    rows = await conn.fetch(MEASURED, *given, READ_BYTES)
    cut = len(rows) == limit or sum(len(row["payload"]) for row in rows) >= READ_BYTES
    return Continued(rows, not cut)


def _prevs(positions: Positions) -> tuple[list[Snapshot], bytes]:
    distinct, lanes = by_lane(positions)
    return [position.prev for position in distinct], lanes


#: Unread is what the last complete snapshot does not show, and what an open window has behind its last_id.
BACKLOG: Final = """
WITH position AS MATERIALIZED (
    SELECT l.lane, coalesce(p.prev, '1:1:') AS prev, p.next, coalesce(p.last_id, 0) AS last_id,
           coalesce(p.next, p.prev, '1:1:') AS seen
      FROM generate_series(0, 63) AS l (lane) LEFT JOIN marty.outbox_position p ON p.lane = l.lane
), held AS MATERIALIZED (
    SELECT array_agg(prev ORDER BY lane) AS prev, array_agg(next ORDER BY lane) AS next,
           array_agg(seen ORDER BY lane) AS seen, array_agg(last_id ORDER BY lane) AS last_id,
           min(pg_snapshot_xmax(seen)) AS low, min(last_id) FILTER (WHERE next IS NOT NULL) AS first_id
      FROM position
)
SELECT count(*) AS events, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_seconds
  FROM (
    (SELECT created_at FROM marty.outbox
      WHERE xid >= (SELECT low FROM held)
        AND NOT pg_visible_in_snapshot(xid, (SELECT seen FROM held)[lane + 1])
      ORDER BY xid LIMIT $1)
    UNION ALL
    (SELECT created_at FROM marty.outbox
      WHERE xid = ANY(ARRAY(SELECT x FROM position, pg_snapshot_xip(seen) AS x WHERE x < (SELECT low FROM held)))
        AND NOT pg_visible_in_snapshot(xid, (SELECT seen FROM held)[lane + 1])
      ORDER BY xid LIMIT $1)
    UNION ALL
    (SELECT created_at FROM marty.outbox
      WHERE id > (SELECT first_id FROM held) AND id > (SELECT last_id FROM held)[lane + 1]
        AND pg_visible_in_snapshot(xid, (SELECT next FROM held)[lane + 1])
        AND NOT pg_visible_in_snapshot(xid, (SELECT prev FROM held)[lane + 1])
      ORDER BY id LIMIT $1)
  ) AS unread
"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is enqueued, committed and not yet published."""

    events: int
    #: Age of the oldest of them, in seconds; 0 without any.
    oldest_seconds: float


async def backlog(conn: Connection, limit: int) -> Backlog:
    """The unread events of all lanes, counted up to about `limit`."""
    row = await conn.fetchrow(BACKLOG, limit)
    return Backlog(row["events"], row["oldest_seconds"])


OLDEST_WRITER: Final = """
SELECT name, seconds FROM (
    SELECT format('pid %s %s', a.pid, a.application_name) AS name,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
      FROM pg_stat_activity a
     WHERE a.datname = current_database() AND a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
    UNION ALL
    SELECT format('prepared %s', p.gid), extract(epoch FROM clock_timestamp() - p.prepared)::float8
      FROM pg_prepared_xacts p WHERE p.database = current_database()
  ) AS writer
 WHERE seconds IS NOT NULL
 ORDER BY seconds DESC
 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Writer:
    """A transaction that has written and not yet ended; its events wait for its commit, nobody else's do."""

    name: str
    seconds: float


async def oldest_writer(conn: Connection) -> Writer | None:
    """The longest open writer; sessions of other users are only seen with pg_read_all_stats."""
    row = await conn.fetchrow(OLDEST_WRITER)
    return Writer(row["name"], row["seconds"]) if row else None


DATABASE: Final = "SELECT current_database()"


async def database_name(conn: Connection) -> str:
    """Part of every event's `ce_source`."""
    return str(await conn.fetchval(DATABASE))
